"""The experiments that ``infomech reproduce`` knows, by name."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._checks import InputError
from .._typing import Progress
from .angles import batch_temperature, misalignment
from .barrier import barrier
from .digits import control
from .gibbs import wells as gibbs_wells
from .gradient import consistency as gradient_consistency
from .options import Options
from .real import clip_corruption, coco_pretrained, sentence_encoder
from .real.options import run_coco, run_corruption, run_sentences

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


def _planned(module: Any, run: Callable[..., dict[str, Any]]) -> Experiment:
    """An experiment that is told no more than its plan, full or fast, and its first seed."""

    def start(folder: Path, fast: bool, seed: int, progress: Progress, options: Options) -> list[str]:
        options.only(module.NAME, ())
        results = run(folder, plan=module.FAST if fast else module.FULL, seed=seed, progress=progress)
        found: list[str] = results["found"]
        return found

    return Experiment(module.NAME, module.TITLE, start, resumes=True)


EXPERIMENTS = {
    e.name: e
    for e in (
        _planned(gradient_consistency, gradient_consistency.run_gradient_consistency),
        _planned(gibbs_wells, gibbs_wells.run_gibbs),
        _planned(misalignment, misalignment.run_misalignment),
        _planned(batch_temperature, batch_temperature.run_batch_temperature),
        _planned(barrier, barrier.run_barrier),
        _planned(control, control.run_control),
        Experiment(clip_corruption.NAME, clip_corruption.TITLE, run_corruption, resumes=True),
        Experiment(coco_pretrained.NAME, coco_pretrained.TITLE, run_coco, resumes=True),
        Experiment(sentence_encoder.NAME, sentence_encoder.TITLE, run_sentences, resumes=True),
    )
}


@dataclass(frozen=True)
class Whole:
    """What ``reproduce all`` runs, each experiment with its options, and why it leaves the others out, by name."""

    chosen: list[tuple[Experiment, Options]]
    left_out: dict[str, str]


def choose_all(options: Options) -> Whole:
    """Every experiment that can run here.

    Raises:
        InputError: for an option other than the folder of COCO.
    """
    options.only("all", ("folder",))
    coco = options.folder is not None
    chosen: list[tuple[Experiment, Options]] = []
    left_out: dict[str, str] = {}
    for name, experiment in EXPERIMENTS.items():
        needs_coco = name == coco_pretrained.NAME
        if needs_coco and not coco:
            left_out[name] = "it needs COCO: --folder says where it is"
        elif (needs_coco or name == clip_corruption.NAME) and coco:
            chosen.append((experiment, options))
        elif name == clip_corruption.NAME:
            chosen.append((experiment, Options(data="digits")))
        elif name == sentence_encoder.NAME and importlib.util.find_spec("sentence_transformers") is None:
            left_out[name] = "it needs sentence-transformers: pip install 'infomech[text]'"
        else:
            chosen.append((experiment, Options()))
    return Whole(chosen, left_out)


__all__ = ["EXPERIMENTS", "Experiment", "Whole", "choose_all"]
