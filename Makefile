# make demo   installs the package into .venv, trains two small models on real pairs, and decides between them
# make test   the same .venv, and every check: style, types, architecture, tests, doctests
# make test-slow   what needs minutes: do the intervals hold over many draws? is every false claim refused? the demo again;
#             and the shapes and types of every call, looked at as it is made, over the tests of the mathematics
# make reproduce-fast   every experiment that needs no large files, in its fast form
# make dist   the wheel, in dist/; make test-dist installs and tries it on every Python that is found
# make test-clip   an environment of its own, about 5 GB: the tests of OpenCLIP and COCO, on a second version of torch
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
CLIP_VENV := .venv-clip
CLIP_TESTS := tests/experiments/test_clip_studies.py tests/embedding tests/integrations tests/losses/test_symmetric.py \
	tests/losses/test_operators.py tests/losses/test_equivalence.py tests/diagnosis/test_batch_budget.py
TYPED_TESTS := tests/corrections tests/diagnosis tests/energies tests/geometry tests/measures tests/reductions tests/scores \
	tests/losses/test_symmetric.py tests/losses/test_general.py tests/losses/test_sigmoid.py
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

unexport PYTHONDONTWRITEBYTECODE # hundreds of processes of the tests import the same modules

.PHONY: demo test test-slow reproduce-fast dist test-dist test-clip lint bench clean
demo: $(VENV)/.base
	$(BIN)/infomech demo -o demo --overwrite

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# The record that it is compared with, docs/intervals.md, is written by `python tests/intervals.py`.
test-slow: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --jaxtyping-packages=infomech,beartype.beartype \
		$(TYPED_TESTS)

reproduce-fast: $(VENV)/.test
	$(BIN)/infomech reproduce all --fast -o reproduced --overwrite

dist: $(VENV)/bin/python
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .

test-dist: dist
	$(BIN)/python tests/try_wheel.py dist/*.whl constraints.txt

# OpenCLIP needs torchvision, of which there is no CPU-only build beside the torch of make test.
test-clip: $(CLIP_VENV)/.ready
	OMP_NUM_THREADS=1 $(CLIP_VENV)/bin/python -m pytest -q -n 2 --dist worksteal $(CLIP_TESTS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.base
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "infomech needs Python 3.11, 3.12 or 3.13 with venv; none was found on the path" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.base
	$(PIP) -e '.[test,dev,text,index,gpu]'
	@touch $@

$(CLIP_VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "infomech needs Python 3.11, 3.12 or 3.13 with venv; none was found on the path" >&2; exit 1; }
	test -x $(CLIP_VENV)/bin/python || $(PYTHON) -m venv $(CLIP_VENV)
	{ grep -v '^torch==' constraints.txt; printf 'torch==2.14.1\ntorchvision==0.29.1\n'; } > $(CLIP_VENV)/constraints.txt
	$(CLIP_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CLIP_VENV)/constraints.txt \
		torch torchvision -e '.[test,clip]'
	@touch $@

clean:
	rm -rf $(VENV) $(CLIP_VENV) dist demo reproduced .mypy_cache .ruff_cache .pytest_cache
