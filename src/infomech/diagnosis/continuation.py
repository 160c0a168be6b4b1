"""Batches larger than the data: a bracket between two continuations of the measured growth. An extrapolation (E8)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch_budget import BatchStatistics
from .estimate import Estimate

CONTINUED = (
    "dispersion_x",
    "dispersion_y",
    "divergence_xy",
    "divergence_yx",
    "divergence_sym",
    "energy_sym",
    "infonce_xy",
    "infonce_yx",
    "infonce_sym",
)


@dataclass(frozen=True)
class Continuation:
    """One part of the budget at an N that was not measured: an extrapolation of what its last doublings moved it by.

    ``log_linear``: every further doubling moves it as much as the last one did. ``geometric``: every further doubling
    moves it less than the one before, by the ratio of the last two. The bracket holds both with their intervals. It is
    an extrapolation: nothing in the data bounds what neighbours not yet drawn will do.
    """

    log_linear: Estimate
    geometric: Estimate
    per_doubling: Estimate  # what the last doubling moved it by

    @property
    def low(self) -> float:
        """Lower end of the bracket."""
        return min(self.log_linear.low, self.geometric.low)

    @property
    def high(self) -> float:
        """Upper end of the bracket."""
        return max(self.log_linear.high, self.geometric.high)


def largest_measured(statistics: BatchStatistics) -> int:
    """The largest N whose every doubling below can be measured with replicates, about as many as there are groups."""
    return statistics.layout.last_doubling[1] * statistics.layout.size


def continuations(
    statistics: BatchStatistics, negatives: int, *, start: float | int | None = None
) -> dict[str, Continuation]:
    """Each part at N, continued from the doublings that end at `start` (by default the largest N that is measured).

    InfoNCE grows without bound; what is continued is log(N + 1) - InfoNCE, the information it has gained (E12).

    Source: E8.
    """
    start = largest_measured(statistics) if start is None else start
    steps = math.log2(negatives / start)
    sizes = [max(start / 4, 1.0), max(start / 2, 1.0), float(start)]
    found = {}
    for name in CONTINUED:
        points = [statistics.at(n) for n in sizes]
        values = torch.tensor([p.value(name) for p in points], dtype=torch.float64)
        replicates = torch.stack([p.replicates(name).cpu() for p in points], 1)
        ends = torch.zeros(3, dtype=torch.float64)
        offset = 0.0
        if name.startswith("infonce"):
            ends, offset = torch.tensor([math.log1p(n) for n in sizes], dtype=torch.float64), math.log1p(negatives)
        full, again = _continued(values - ends, steps), _continued(replicates - ends, steps)
        linear, geometric, last = (
            statistics.estimate(float(v) + o, r)
            for v, o, r in zip(full, (offset, offset, 0.0), again.unbind(1), strict=True)
        )
        found[name] = Continuation(linear, geometric, last)
    return found


@dataclass(frozen=True)
class HeldOut:
    """What the bracket says of an N that was measured, and what was measured there."""

    continuation: Continuation
    measured: Estimate

    @property
    def held(self) -> bool:
        """Whether the measured value lies in the bracket."""
        return self.continuation.low <= self.measured.value <= self.continuation.high


def held_out(statistics: BatchStatistics) -> dict[str, HeldOut]:
    """Each part at the largest measured N, continued from a quarter of it as if no more were known.

    Source: E8.
    """
    largest = largest_measured(statistics)
    found = continuations(statistics, largest, start=largest / 4)
    at = statistics.at(largest)
    return {name: HeldOut(continuation, at.estimate(name)) for name, continuation in found.items()}


def _continued(values: Tensor, steps: float) -> Tensor:
    """Log-linear and geometric continuation, and the last movement, (..., 3) -> (..., 3)."""
    before, last = values[..., 1] - values[..., 0], values[..., 2] - values[..., 1]
    same = (before * last > 0).double()
    ratio = (same * last / torch.where(before == 0, torch.ones_like(before), before)).clamp(0.0, 1.0)
    powers = torch.where(
        ratio > 0.999, torch.full_like(ratio, steps), ratio * (1 - ratio**steps) / (1 - ratio).clamp_min(1e-3)
    )
    return torch.stack([values[..., 2] + steps * last, values[..., 2] + last * powers, last], -1)


__all__ = ["CONTINUED", "Continuation", "HeldOut", "continuations", "held_out", "largest_measured"]
