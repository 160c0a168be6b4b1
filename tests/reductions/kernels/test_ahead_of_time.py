"""Kernels compiled for cards that are not there: they compile, and what they take fits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
SHARED = {"9.0": 232_448, "8.0": 101_376}  # bytes to a block; of 8.0 what the 8.6 and 8.9 have, which take its plans
REGISTERS = 1020  # bytes of a thread's registers: no kernel may spill more than it has
pytestmark = pytest.mark.skipif(not PTXAS.exists(), reason="this Triton has no assembler for CUDA")


def check(capability: str, kind: str, *names: str) -> None:
    script = Path(__file__).with_name("ahead_of_time.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", str(script), capability, kind, *names]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found = [json.loads(line) for line in out.splitlines()]
    assert found
    assert [line for line in found if line.get("shared", SHARED[capability] + 1) > SHARED[capability]] == []
    assert [line for line in found if (line["stack"] or 0) > REGISTERS] == []


def test_the_largest_kernels_fit_an_h100() -> None:
    check("9.0", "half", "weights with terms", "sums by block", "counts")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half", "three", "tf32", "ieee"])
@pytest.mark.parametrize("capability", list(SHARED))
def test_every_kernel_fits(capability: str, kind: str) -> None:
    check(capability, kind)
