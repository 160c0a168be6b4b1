"""No damaged file ends in a traceback, a crash, a long wait or much memory: 2,000 mutants of valid files a reader."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = {
    "arrays": "npy,npz,safetensors,pt,pairs-npy",
    "arrow": "parquet,arrow,captions-parquet",
    "text": "pairs,labels,csv,jsonl,texts,tar,tar.gz,coco",
    "saved": "manifest,report,pictures,image",
}
MUTANTS = 2000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the bound on memory is Linux's")
@pytest.mark.parametrize("group", GROUPS)
def test_damaged_files(group: str) -> None:
    script = Path(__file__).with_name("fuzz_readers.py")
    command = [sys.executable, "-W", "ignore", str(script), GROUPS[group], str(MUTANTS), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("peak_mib") < 1000
    for reader in GROUPS[group].split(","):
        assert seen[reader]["results"] + seen[reader]["refusals"] == MUTANTS
        assert seen[reader]["refusals"] > 50, "the damage is not noticed: are the mutants read at all?"
        assert seen[reader]["results"] > 50, "no mutant is read: is the valid file refused?"
