"""A worker script run as so many processes, and what each of them found.

The processes are started once for all scripts of a test run: to import torch takes longer than what most of them do.
Run as a script, this is one of them: it reads from its standard input what to run next.
"""

import atexit
import importlib.util
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def load_worker(script: Path) -> ModuleType:
    """The script as a module, for what it would find in one process."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_POOL: list[subprocess.Popen[str]] = []


def run_ranks(script: Path, world: int, folder: Path, *, timeout: float) -> list[Any]:
    """What rank 0, 1, ... wrote; a process that fails fails the test with its words."""
    while len(_POOL) < world:
        _POOL.append(
            subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    for rank, process in enumerate(_POOL[:world]):
        job = [str(script), rank, world, str(folder / f"init{world}"), str(folder / "out")]
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    said = [folder / f"out.{rank}.said" for rank in range(world)]
    end = time.monotonic() + timeout
    while not all(file.exists() for file in said):
        words = [file.read_text() for file in said if file.exists()]
        if any(words) or time.monotonic() > end or any(process.poll() is not None for process in _POOL):
            stop()
            raise AssertionError("\n".join(words) or f"no answer of all of {world} ranks within {timeout:g} s")
        time.sleep(0.02)
    words = [file.read_text() for file in said]
    if any(words):
        stop()
        raise AssertionError("\n".join(words))
    return [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(world)]


@atexit.register
def stop() -> None:
    """End the processes; the next call starts others."""
    while _POOL:
        process = _POOL.pop()
        process.kill()
        process.stdin.close()
        process.wait()


def serve() -> None:
    """Run one script after another, each with its ``main(rank, world, init, output)``."""
    loaded: dict[str, ModuleType] = {}
    for line in sys.stdin:
        script, rank, world, init, output = json.loads(line)
        words = ""
        try:
            if script not in loaded:
                loaded[script] = load_worker(Path(script))
            loaded[script].main(rank, world, init, output)
        except BaseException:
            words = f"rank {rank} of {world}: {traceback.format_exc()[-3000:]}"
        part = Path(f"{output}.{rank}.part")
        part.write_text(words)
        part.replace(f"{output}.{rank}.said")


if __name__ == "__main__":
    serve()
