"""The page on scores is true: its code runs as it stands, and its numbers and the README's are those of the record."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "what-score-is-a-match.md"
RECORD: dict[str, Any] = json.loads((ROOT / "docs" / "score.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The script that measured the record and writes the pages."""
    spec = importlib.util.spec_from_file_location("scores_on_real_pairs", ROOT / "benchmarks/scores_on_real_pairs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_the_record(benchmark: ModuleType) -> None:
    for (path, name), text in benchmark.shown(RECORD).items():
        assert f"<!-- {name} -->{text}<!-- end -->" in path.read_text(encoding="utf-8"), name
    gain = RECORD["sets"]["sentence encoder"]["comparison"]["estimates"]["y_to_x"]
    line = benchmark.line(RECORD)
    for method in ("cosine", "density ratio"):
        assert f"{gain[method]['recall_at_1']['value']:.3f}" in line


def test_the_ratio_is_nowhere_below_the_cosine() -> None:
    """R@1, both directions, weights chosen on the other half: in the record's words, and in each random halving."""
    for name, found in RECORD["sets"].items():
        for side in ("x_to_y", "y_to_x"):
            changes = [found["comparison"]["differences"][side]["density ratio"]["recall_at_1"]]
            changes += [halving[side] for halving in found["halvings"]]
            for change in changes:
                assert change["high"] >= 0, (name, side)
                if name == "sentence encoder":
                    assert change["low"] > 0, (name, side)  # as the page says


def test_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    if find_spec("faiss") is None:
        blocks = [block for block in blocks if "faiss" not in block]
    code = "\n".join(blocks) + "\nassert found.double().mean() > 0.5\nassert queries.shape[1] == index.shape[1] == 34\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Threshold for a false positive rate of 0.001" in done.stdout
    errors = [float(e) for e in re.findall(r"calibration error ([\d.]+)", done.stdout)]
    stated = [float(e) for e in re.findall(r"(?:error, here|on the others:) ([\d.]+)$", "\n".join(blocks), flags=re.M)]
    assert len(stated) == 2
    assert [round(error, 3) for error in errors] == stated
