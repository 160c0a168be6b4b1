"""Makes tests/naive.py and tests/cases.py importable from every test folder; fixtures that the folders share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before anything imports Triton: its kernels then run on a CPU, in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")

import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def font_type_of_users() -> int:
    """Half of a report's time are subsets of its fonts: tests embed a quicker type, but for those of the figures."""
    from infomech.report.drawing import FONTS

    given, FONTS["pdf.fonttype"] = FONTS["pdf.fonttype"], 3
    return given


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Bad shapes must meet the library's own checks, not those of the test run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
