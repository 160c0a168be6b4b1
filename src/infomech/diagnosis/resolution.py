"""Do the data determine the large-batch limit? Growth over the last doubling, and from which temperature it is small.

The limit is given only where the last doubling of N moved each of the four log kernel means g by at most 0.05 nats
(E8). Neighbours rarer than about 1/n stay invisible to any estimate: the limit is that of a law without them.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .._shown import Brief, Fields, data_frame
from .batch_budget import PARTS, BatchStatistics
from .batch_tables import SIDES, Batches
from .estimate import Estimate
from .measures import measured, records

LARGEST_GROWTH = 0.05  # nats, of each log kernel mean over the last doubling
_ANCHORS, _TIMES = 256, 8  # groups that give an anchor each to the search; times that the others are halved at random
_FACTOR, _CLOSE = 64.0, 1.01  # the search ends at this multiple of tau; its answer is good to 1%, less than its error
_COLUMN: dict[str, Literal[0, 1]] = {"x": 0, "y": 1}
_LIMITS = tuple(n for n in PARTS if not n.startswith(("effective", "infonce", "remainder", "log_")))


@dataclass(frozen=True, repr=False)
class Growth(Fields):
    """How much the last doubling of N that the data hold moved each log kernel mean g, in nats."""

    xx: Estimate
    xy: Estimate
    yy: Estimate
    yx: Estimate
    negatives: tuple[int, int]  # N before and after the doubling

    @property
    def largest(self) -> float:
        """The largest movement of the four."""
        return max(abs(e.value) for e in (self.xx, self.xy, self.yy, self.yx))

    @property
    def resolved(self) -> bool:
        """Whether none moved by more than 0.05 nats."""
        return self.largest <= LARGEST_GROWTH

    def _brief(self) -> Brief:
        before, after = self.negatives
        title = (
            f"From {before:,} to {after:,} negatives, the last doubling: what it moved each log kernel mean by, nats"
            f" ({'' if self.resolved else 'not '}resolved)"
        )
        return measured(title, {side: getattr(self, side) for side in SIDES}, more="to_dict()")


def growth(statistics: BatchStatistics) -> Growth:
    """Growth of the four log kernel means over the last doubling.

    A jackknife replicate loses the anchor's block and one more, so the doubling goes from floor((b - 2) / 2) blocks
    to twice that.

    Source: E8.
    """
    layout = statistics.layout
    first, second = (w * layout.size for w in layout.last_doubling)
    at = [layout.negatives.index(n) for n in (first, second)]
    found = {}
    for side in SIDES:
        row = statistics.row(f"log_kernel_mean_{side}")
        value = statistics.values[row, at[1]] - statistics.values[row, at[0]]
        replicates = statistics.replicates[:, row, at[1]] - statistics.replicates[:, row, at[0]]
        between = statistics.interactions[:, row, at[1]] - statistics.interactions[:, row, at[0]]
        found[side] = statistics.estimate(float(value), replicates, between)
    return Growth(**found, negatives=(first, second))


@dataclass(frozen=True, repr=False)
class LimitBudget(Fields):
    """The budget in the limit of large batches (E1), where the data determine it; nats.

    Corrected for the bias of the logarithm by the block jackknife. The limit is that of a law without neighbours rarer
    than about 1/n, which no estimate can see.
    """

    alignment: Estimate
    dispersion_x: Estimate
    dispersion_y: Estimate
    dispersion_x_relative: Estimate
    dispersion_y_relative: Estimate
    divergence_xy: Estimate
    divergence_yx: Estimate
    divergence_sym: Estimate
    energy_sym: Estimate

    def _brief(self) -> Brief:
        parts = {name: estimate for name, estimate in vars(self).items() if not name.startswith("divergence_")}
        parts["divergence_sym"] = self.divergence_sym
        return measured("The limit of large batches, nats; neighbours rarer than 1/n are not in it", parts)

    def to_pandas(self) -> Any:
        """A data frame with a row for each part.

        Raises:
            InputError: if pandas is not installed.
        """
        return data_frame(records(vars(self)), index="name")


def limit(statistics: BatchStatistics) -> LimitBudget | None:
    """The corrected limit with its interval, or None where the last doubling still moved a log kernel mean.

    With G groups, m of them in a block, a replicate has a bias larger by G / (G - m): theta - (G - m)/m (mean of the
    replicates - theta) is free of it to first order in 1/G.

    Source: E1, E8.
    """
    if not growth(statistics).resolved:
        return None
    layout = statistics.layout
    factor = (layout.groups - layout.size) / layout.size
    values: dict[str, float] = {}
    found: dict[str, Estimate] = {}
    for name in _LIMITS:
        row = statistics.row(name)
        replicates = statistics.replicates[:, row, -1]
        value = statistics.values[row, -1]
        corrected = value if name == "alignment" else value - factor * (replicates.mean() - value)
        values[name] = float(corrected)
        # the correction adds what two blocks do together a second time, and the jackknife counts it so
        found[name] = statistics.estimate(values[name], replicates)
    # groups in no block are never left out, so that a correction of the energy itself would not be that of its parts
    dispersion = (values["dispersion_x"] + values["dispersion_y"]) / 2
    shift = values["alignment"] - dispersion - values["divergence_sym"] - values["energy_sym"]
    e = found["energy_sym"]
    found["energy_sym"] = Estimate(e.value + shift, e.stderr, e.low + shift, e.high + shift)
    return LimitBudget(**found)


def resolving_temperature(batches: Batches, *, temperature: float, seed: int = 0) -> float | None:
    """The lowest temperature, at or above the given one, at which the last doubling moves no g by over 0.05 nats.

    A search over tau with some hundred anchors: their kernels with one pair of every other group, against those with
    random halves of these. Good to a few percent.

    Returns:
        The temperature, or None if it lies above 64 times the given one.

    Source: E8.
    """
    scores = _anchor_scores(batches)
    halves = _random_halves(batches.sample.groups, seed, scores[0])

    def moves(tau: float) -> bool:
        return not _largest_growth(scores, halves, tau) <= LARGEST_GROWTH  # not a number: nothing is left of a half

    low = high = temperature
    while moves(high):
        low, high = high, 2 * high
        if high > _FACTOR * temperature:
            return None
    while high / low > _CLOSE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if moves(middle) else (low, middle)
    return high


def _anchor_scores(batches: Batches) -> list[Tensor]:
    """Similarities of some groups' lent rows with those of all groups, for each side; -inf for their own."""
    sample = batches.sample
    pairs = sample.pairs[batches.lent]
    rows = {"x": sample.x.values[pairs[:, 0]], "y": sample.y.values[pairs[:, 1]]}
    chosen = torch.arange(min(_ANCHORS, sample.groups), device=pairs.device)
    found = []
    for side in SIDES:
        terms = sample.row_terms(*(_COLUMN[letter] for letter in side))
        scores = terms.slope * (rows[side[0]][chosen] @ rows[side[1]].T).double()
        if terms.y is not None:  # what the critic adds to an anchor moves none of its growth
            scores += terms.y[pairs[:, _COLUMN[side[1]]]].double()
        scores[chosen, chosen] = -math.inf
        found.append(scores)
    return found


def _random_halves(count: int, seed: int, like: Tensor) -> Tensor:
    """Indicators of random halves and of the rest, (count, 2 T)."""
    generator = torch.Generator().manual_seed(seed)
    halves = torch.zeros(count, 2 * _TIMES, dtype=torch.float64)
    for k in range(_TIMES):
        order = torch.randperm(count, generator=generator)
        halves[order[: count // 2], 2 * k] = 1.0
        halves[order[count // 2 :], 2 * k + 1] = 1.0
    return halves.to(like.device)


def _largest_growth(scores: list[Tensor], halves: Tensor, temperature: float) -> float:
    """Largest difference, of the four, of the mean log of the mean over all other groups and over random halves."""
    found = []
    for s in scores:
        kernel = ((s - s.amax(1, keepdim=True)) / temperature).exp()
        parts = (kernel @ halves).log() - ((s > -math.inf).double() @ halves).log()
        whole = kernel.sum(1).log() - math.log(s.shape[1] - 1)
        found.append((whole[:, None] - parts).mean().abs())
    return float(torch.stack(found).max())


__all__ = ["LARGEST_GROWTH", "Growth", "LimitBudget", "growth", "limit", "resolving_temperature"]
