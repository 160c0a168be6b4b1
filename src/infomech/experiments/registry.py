"""The experiments that ``infomech reproduce`` knows, by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._checks import InputError
from . import clip_corruption, coco_pretrained, control, sentence_encoder
from .options import Options
from .real_models import run_coco, run_corruption, run_sentences

Progress = Callable[[float], None]

_MARK = "experiment.json"
_WORK = ("embeddings", "runs", "parts")  # what a resumable experiment keeps in its folder


@dataclass(frozen=True)
class Experiment:
    """An experiment: its name on the command line, what it shows, and how to run it.

    ``run(folder, fast, seed, progress, options)`` writes everything to the folder, calls `progress` with shares of the
    work that sum to 1, and returns what was found, in sentences. One that ``resumes`` goes on in a folder of its own
    that an interrupt left behind.
    """

    name: str
    title: str
    run: Callable[[Path, bool, int, Progress, Options], list[str]]
    resumes: bool = False

    def prepare(self, folder: Path, *, overwrite: bool) -> None:
        """Make the folder ready.

        Raises:
            InputError: if it holds something else than an earlier sitting of this experiment.
        """
        mark = folder / _MARK
        own = self.resumes and mark.exists() and json.loads(mark.read_text()).get("name") == self.name
        if folder.exists() and any(folder.iterdir()) and not own and not overwrite:
            raise InputError(f"{folder} is not empty; choose another folder with -o, or pass --overwrite")
        if overwrite:
            for name in _WORK:
                shutil.rmtree(folder / name, ignore_errors=True)
        if self.resumes:
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text(json.dumps({"name": self.name}))


def _run_control(folder: Path, fast: bool, seed: int, progress: Progress, options: Options) -> list[str]:
    options.only(control.NAME, ())
    plan = control.FAST if fast else control.FULL
    results = control.run_control(folder, plan=plan, seed=seed, progress=lambda done, total: progress(1 / total))
    found: list[str] = results["found"]
    return found


EXPERIMENTS = {
    e.name: e
    for e in (
        Experiment(control.NAME, control.TITLE, _run_control),
        Experiment(clip_corruption.NAME, clip_corruption.TITLE, run_corruption, resumes=True),
        Experiment(coco_pretrained.NAME, coco_pretrained.TITLE, run_coco, resumes=True),
        Experiment(sentence_encoder.NAME, sentence_encoder.TITLE, run_sentences, resumes=True),
    )
}

__all__ = ["EXPERIMENTS", "Experiment"]
