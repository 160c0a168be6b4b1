"""The experiments that ``infomech reproduce`` knows: a list."""

from collections.abc import Mapping
from typing import Any

from .angles import batch_temperature, misalignment
from .barrier import barrier
from .digits import control
from .experiment import Experiment, Option, options_of
from .gibbs import wells
from .gradient import consistency
from .ranking import ranking
from .real import clip_corruption, coco_pretrained, sentence_encoder

_MODULES = (
    consistency,
    wells,
    misalignment,
    batch_temperature,
    barrier,
    control,
    ranking,
    clip_corruption,
    coco_pretrained,
    sentence_encoder,
)

EXPERIMENTS: dict[str, Experiment] = {module.EXPERIMENT.name: module.EXPERIMENT for module in _MODULES}


def choose_all(given: Mapping[str, Any]) -> tuple[list[tuple[Experiment, dict[str, Any]]], dict[str, str]]:
    """What ``reproduce all`` runs, and why it leaves the others out, by name.

    That is every experiment that can run here, in the first of its forms that can, told those options that it has.
    """
    chosen: list[tuple[Experiment, dict[str, Any]]] = []
    left_out: dict[str, str] = {}
    for experiment in EXPERIMENTS.values():
        reasons = []
        for form in experiment.forms:
            known = {o.name: given[o.name] for o in options_of(form.full) if o.name in given}
            reason = form.lacks(form.plan(known, fast=False, name=experiment.name))
            if reason is None:
                chosen.append((experiment, known | ({"data": form.data} if form.data else {})))
                break
            reasons.append(reason)
        else:
            left_out[experiment.name] = reasons[0]
    return chosen, left_out


def shared_options() -> list[Option]:
    """The options of ``reproduce all``: those of files that several experiments need."""
    every = (o for e in EXPERIMENTS.values() for form in e.forms for o in options_of(form.full) if o.shared)
    return list({o.name: o for o in every}.values())


__all__ = ["EXPERIMENTS", "choose_all", "shared_options"]
