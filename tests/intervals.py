"""How far the reported errors and intervals hold: every estimate of a diagnosis over independent draws.

`measure` draws a problem many times and compares every reported standard error with the spread of the values over the
draws, and every 95% interval with the truth. The truth is the population's value where the estimate aims at one, and
otherwise (what belongs to a sample of this size: a recall, a loss with all others as negatives) the mean over the draws.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from generators import Blob, Draw, SphereLaw, evenly, one_large, unevenly
from infomech.diagnosis import Diagnosis, Estimate, examine

TEMPERATURE = 0.3
_BLOBS = (Blob(0.7, (0, 0, 1), 2.0), Blob(0.3, (1, 0.2, 0), 4.0))
GAP = SphereLaw(_BLOBS, 100.0, 20.0, 0.9)
NO_GAP = SphereLaw(_BLOBS, 20.0, 20.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A law, the sizes of the groups that are drawn from it, and what a reader calls the two."""

    law: SphereLaw
    sizes: tuple[int, ...]
    title: str

    def draw(self, seed: int) -> Draw:
        return self.law.draw(self.sizes, torch.Generator().manual_seed(seed))


PROBLEMS = {
    "one": Problem(GAP, evenly(200), "200 groups of one caption"),
    "five": Problem(GAP, evenly(200, 5), "200 groups of five"),
    "uneven": Problem(GAP, unevenly(100, 40), "100 groups of 1 to 40"),
    "large": Problem(GAP, one_large(60, 200), "60 groups, one of 200"),
    "no gap": Problem(NO_GAP, evenly(200), "no gap, 200 groups of one"),
}


@dataclasses.dataclass(frozen=True)
class Held:
    """What the draws say of one estimate."""

    truth: float
    coverage: float  # share of the draws whose interval holds the truth, of those that have an interval
    error_ratio: float  # root mean square of the reported errors over the spread of the values
    withheld: float  # share of the draws without an interval
    bias: float  # mean value less truth, in units of the spread


def flatten(diagnosis: Diagnosis) -> dict[str, Estimate]:
    """Every estimate of a diagnosis under one flat name: ``gap.frechet``, ``geometry.x.hubness`` and so on."""
    return dict(_walk("", {"gap": diagnosis.gap, "geometry": diagnosis.geometry, "retrieval": diagnosis.retrieval})) | (
        dict(
            _walk("budget.", {f.name: getattr(diagnosis.budget, f.name) for f in dataclasses.fields(diagnosis.budget)})
        )
    )


def _walk(prefix: str, found: Mapping[str, object]) -> Iterator[tuple[str, Estimate]]:
    for key, value in found.items():
        if isinstance(value, Estimate):
            yield prefix + key, value
        elif isinstance(value, Mapping):
            yield from _walk(f"{prefix}{key}.", value)


def estimates(draw: Draw, seed: int) -> dict[str, Estimate]:
    return flatten(examine(draw.x, draw.y, pairs=draw.pairs, temperature=TEMPERATURE, seed=seed))


def measure(problem: Problem, draws: int, *, first: int = 0) -> dict[str, Held]:
    """Every estimate of `draws` draws of a problem against its truth."""
    found: dict[str, list[Estimate]] = {}
    for seed in range(first, first + draws):
        for name, estimate in estimates(problem.draw(seed), seed).items():
            found.setdefault(name, []).append(estimate)
    known = problem.law.population(TEMPERATURE)
    return {name: _held(values, known.get(name)) for name, values in found.items()}


def _held(found: list[Estimate], known: float | None) -> Held:
    values, errors, low, high = (np.array(v) for v in zip(*(dataclasses.astuple(e)[:4] for e in found), strict=True))
    spread = float(np.std(values, ddof=1))
    truth = float(np.mean(values)) if known is None else known
    given = np.isfinite(low) & np.isfinite(high)
    # where the values of a sample are all alike, to rounding, so must be the ends
    slack = 1e-9 * max(1.0, abs(truth))
    hits = (low <= truth + slack) & (truth - slack <= high)
    ratio = float(np.sqrt(np.mean(np.square(errors)))) / spread if spread > 1e-12 else math.nan
    return Held(
        truth=truth,
        coverage=float(hits[given].mean()) if given.any() else math.nan,
        error_ratio=ratio,
        withheld=1 - float(given.mean()),
        bias=float(np.mean(values) - truth) / spread if spread > 1e-12 else 0.0,
    )
