"""Where a run stops: where shared information on held-out pairs is highest (E12); it is scored on other pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...diagnosis.information.shared import asked_of, batches_for, measure
from ...measures import PairedSample
from ..ranking.measures import retrieval
from .halves import DigitsHalves, TwoTower

STOPS = (100, 200, 400, 800, 1500)


@dataclass(frozen=True)
class Checkpoint:
    """A model on the way: nats by which it is chosen, and the recall at 10 of pairs that have no part in the choice."""

    step: int
    information: float
    recall_at_10: float


def stops(steps: int) -> tuple[int, ...]:
    """Steps at which a run of so many is looked at; the last one always.

    >>> stops(500)
    (100, 200, 400, 500)
    """
    return (*(step for step in STOPS if step < steps), steps)


def checkpoint(step: int, model: TwoTower, data: DigitsHalves, *, seed: int) -> Checkpoint:
    """The first half of the unseen pairs chooses, the second half scores."""
    middle = len(data.test_x) // 2
    with torch.no_grad():
        x, y = model.embed_x(data.test_x), model.embed_y(data.test_y)
    sample = PairedSample.from_embeddings(x[:middle], y[:middle], seed=seed)
    asked = asked_of(sample, None)
    information = measure(batches_for(sample, asked.negatives, seed=seed), asked).information.value
    return Checkpoint(step, information, retrieval(x[middle:] @ y[middle:].T)["recall_at_10"])


def best(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The one that shares most; the earlier of equals."""
    return max(checkpoints, key=lambda each: each.information)


__all__ = ["STOPS", "Checkpoint", "best", "checkpoint", "stops"]
