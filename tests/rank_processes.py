"""A worker script run as so many processes, and what each of them found."""

import importlib.util
import subprocess
import sys
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


def run_ranks(script: Path, world: int, folder: Path, *, timeout: float) -> list[Any]:
    """What rank 0, 1, ... wrote; a process that fails fails the test with its words."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(world), str(folder / "init"), str(folder / "out")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-3000:]
    return [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(world)]
