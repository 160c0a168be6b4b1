"""A full disk, a small one, and a folder that may not be written: one line, exit code 2, and nothing left behind."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import infomech as im
from infomech.report.report import FILES, TIED

COMMANDS = ("report", "correct", "embed", "reproduce", "demo")


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that everybody may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        draw = np.random.default_rng(0)
        z = draw.normal(size=(100, 8))
        for key in "xy":
            np.save(data / f"{key}.npy", z + draw.normal(size=z.shape))
        lines = ["".join(draw.choice(list("abcdefgh"), 9)) for _ in range(200)]
        (data / "a.txt").write_text("\n".join(lines))
        (data / "b.txt").write_text("\n".join(reversed(lines)))
        (folder / "place").mkdir()
        yield folder


def attempt(base: Path, mode: str) -> dict[str, tuple[int, str]]:
    script = Path(__file__).with_name("adverse.py")
    command = [sys.executable, "-W", "ignore", str(script), str(base / "data"), str(base / "place"), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(told: dict[str, tuple[int, str]], words: str) -> None:
    assert set(told) == set(COMMANDS)
    for name, (code, error) in told.items():
        assert code == 2, (name, error)
        assert error.count("\n") == 1, (name, error)
        assert error.startswith("infomech: ")
        assert words in error, (name, error)


def test_a_full_disk(base: Path) -> None:
    """Files may not grow beyond 2,000 bytes: what is smaller is there whole, the rest not at all."""
    refused(attempt(base, "full"), "File too large")
    left = [path for path in (base / "place").rglob("*") if path.is_file()]
    assert not [path for path in left if "infomech-" in path.name]
    parts = [path for path in left if path.suffix == ".npz"]  # of the experiment, small enough
    assert all(len(np.load(path).files) for path in parts)
    assert {path.name for path in left if path not in parts} <= {"manifest.json", ".lock", "experiment.json"}
    assert not json.loads((base / "place" / "embed" / "manifest.json").read_text())["complete"]
    assert not (base / "place" / "report").exists()
    assert not (base / "place" / "correct").exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_another_user_may_not_write(base: Path) -> None:
    (base / "place").chmod(0o555)
    refused(attempt(base, "readonly"), "Permission denied")
    assert list((base / "place").iterdir()) == []


@pytest.fixture
def small_disk(base: Path) -> Iterator[Path]:
    """A disk of 160 kB in place of the folder; skipped where it cannot be mounted."""
    if shutil.which("mount") is None:
        pytest.skip("no mount here")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(base / "place")], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield base / "place"
    subprocess.run(["umount", str(base / "place")], check=True)


def test_a_small_disk(base: Path, small_disk: Path) -> None:
    """A report does not fit, into a folder on it or into its root, and leaves what was there as it was."""
    (small_disk / "mine.txt").write_text("years of work")
    x, y = (np.load(base / "data" / f"{name}.npy") for name in "xy")
    report = im.diagnose(x, y, temperature=0.1, normalize=True)
    for folder in (small_disk, small_disk / "out"):
        with pytest.raises(im.InputError, match=r"No space left on device; nothing there was changed"):
            report.save(folder, overwrite=True)
        assert [path.name for path in small_disk.iterdir()] == ["mine.txt"]
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    report.save(small_disk, overwrite=True, figures=False)  # the root of a disk: nothing can stand beside it
    assert sorted(path.name for path in small_disk.iterdir()) == sorted(
        ["mine.txt", *(name for name in FILES if "/" not in name and name != TIED)]  # no near-duplicates
    )
