"""The public surface: every name loads in a fresh interpreter, and no other library is needed for it."""

import subprocess
import sys

import infomech as im
from infomech import integrations

MODULES = {"compression", "corrections", "energies", "equilibria", "geometry", "integrations", "io", "losses"}
MODULES |= {"measures", "scores"}


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_dir_shows_the_public_names_only() -> None:
    import infomech.report  # noqa: F401  # an import leaves its module in the package: still not public

    assert dir(im) == sorted(im.__all__)
    assert not [name for name in dir(im) if name.startswith("_")]
    assert set(dir(im)) >= MODULES
    assert "report" not in dir(im)
    assert {"decompose", "gap", "diagnose", "compare", "Report", "Sphere", "VonMisesFisher"} <= set(dir(im))


def test_each_module_loads_by_itself_when_it_is_named() -> None:
    """Each in a child that has nothing of infomech yet, but what is slow to load and none of infomech's."""
    code = f"""
import os, sys
import scipy.stats, sklearn.base, torch  # noqa
for name in {sorted(MODULES)!r}:
    assert not [module for module in sys.modules if module.startswith("infomech")]
    if not (child := os.fork()):
        import infomech as im
        print(getattr(im, name).__name__, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""
    assert fresh(code).split() == [f"infomech.{name}" for name in sorted(MODULES)]


def test_importing_loads_nothing_and_every_name_resolves() -> None:
    fresh("import sys, infomech; assert not {'torch', 'numpy'} & set(sys.modules)")
    fresh("from infomech import *; Sphere(3), diagnose, geometry.Cosine()")
    code = "import infomech as im; [getattr(im, name) for name in im.__all__]; print(hasattr(im, 'nothing'))"
    assert fresh(code) == "False"


def test_adapters_need_no_other_library() -> None:
    blocked = ("open_clip", "sentence_transformers", "pytorch_metric_learning", "lightning", "transformers")
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    names = ", ".join(integrations.__all__)
    fresh(f"{code}from infomech.integrations import {names}\nprint([c() for c in (OpenClipLoss, LabelledInfoNCE)])")
    assert set(integrations.__all__) >= {"LabelledInfoNCE", "OpenClipLoss", "OpenClipSigmoidLoss"}
