"""Writing: whole or not at all, one process at a time, and nothing of a killed one stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from infomech import InputError
from infomech._files import environment, plain, replacing, write_file, write_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_file(target, b"one")
    half = replacing(target)
    half.__enter__().write(b"tw")
    assert half.__exit__(RuntimeError, RuntimeError("half way"), None) is not True
    assert target.read_bytes() == b"one"
    assert names(tmp_path) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask  # readable as any file that a person makes
    with pytest.raises(InputError, match=r"cannot write .*none/a\.txt: No such file or directory"):
        write_file(tmp_path / "none" / "a.txt", b"")


_KILLED = """
import sys, time
from pathlib import Path
from infomech._files import replacing, write_folder
def slowly():
    yield "a.txt", b"new"
    print("begun", flush=True)
    time.sleep(60)
if sys.argv[1] == "folder":
    write_folder(Path(sys.argv[2]), slowly(), owned=["a.txt"], what="report", overwrite=True)
else:
    with replacing(sys.argv[2]) as file:
        list(zip(slowly(), range(1)))
        print("begun", flush=True)
        time.sleep(60)
"""


def begun(kind: str, target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _KILLED, kind, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_two_writers_of_one_folder_and_what_a_killed_one_leaves(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_folder(target, [("a.txt", b"old")], owned=["a.txt"], what="report")
    other = begun("folder", target)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"another process is writing a report to .*out"):
        write_folder(target, [("a.txt", b"mine")], owned=["a.txt"], what="report", overwrite=True)
    assert time.monotonic() - started < 5
    killed(other)
    assert (target / "a.txt").read_bytes() == b"old"
    assert len(names(tmp_path)) == 3  # the folder, the stage and the lock of the killed one
    write_folder(target, [("a.txt", b"mine")], owned=["a.txt"], what="report", overwrite=True)
    assert names(tmp_path) == ["out"]
    assert (target / "a.txt").read_bytes() == b"mine"


def test_a_killed_writer_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    other = begun("file", target)
    write_file(target, b"mine")  # beside a living writer: its file is left alone
    assert len(names(tmp_path)) == 2
    killed(other)
    write_file(target, b"again")
    assert names(tmp_path) == ["a.txt"]
    assert target.read_bytes() == b"again"


def test_a_failure_in_the_folder_leaves_no_lock(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[str, bytes]]:
        yield "a.txt", b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "x" / "out", failing(), owned=[], what="report")
    assert names(tmp_path) == []


def test_plain_values_and_what_a_run_was_made_with() -> None:
    given = {"a": torch.tensor([1.0, float("inf")]), "b": np.float32(0.5), "c": (Path("x"), None, True)}
    assert plain(given) == {"a": [1.0, None], "b": 0.5, "c": ["x", None, True]}
    found = environment()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["threads"] == torch.get_num_threads()
    assert plain(found) == found
