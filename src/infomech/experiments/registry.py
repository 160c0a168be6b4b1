"""The experiments that ``infomech reproduce`` knows, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import control

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Experiment:
    """An experiment: its name on the command line, what it shows, and how to run it.

    ``run(folder, fast, seed, progress)`` writes everything to the folder, calls `progress` with shares of the work that
    sum to 1, and returns what was found, in sentences.
    """

    name: str
    title: str
    run: Callable[[Path, bool, int, Progress], list[str]]


def _run_control(folder: Path, fast: bool, seed: int, progress: Progress) -> list[str]:
    plan = control.FAST if fast else control.FULL
    results = control.run_control(folder, plan=plan, seed=seed, progress=lambda done, total: progress(1 / total))
    found: list[str] = results["found"]
    return found


EXPERIMENTS = {e.name: e for e in (Experiment(control.NAME, control.TITLE, _run_control),)}

__all__ = ["EXPERIMENTS", "Experiment"]
