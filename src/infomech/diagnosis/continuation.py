"""Batches larger than the data: a bracket between two continuations of the measured growth. An extrapolation (E8)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._shown import Fields
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


@dataclass(frozen=True, repr=False)
class Continuation(Fields):
    """One part of the budget at an N that was not measured: an extrapolation of what its last doublings moved it by.

    ``log_linear``: every further doubling moves it as much as the last one did. ``geometric``: every further doubling
    moves it by the one before times the ratio of the last two, 2 at most (what is proportional to N doubles) and
    0 where they differ in sign; InfoNCE by log 2 at most. The bracket holds both with their intervals. It is an
    extrapolation: nothing in the data bounds what neighbours not yet drawn will do.
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
    statistics: BatchStatistics, negatives: float | int, *, start: float | int | None = None
) -> dict[str, Continuation]:
    """Each part at N, continued from the doublings that end at `start` (by default the largest N that is measured).

    Source: E8.
    """
    start = largest_measured(statistics) if start is None else start
    steps = math.log2(negatives / start)
    points = [statistics.at(n) for n in (max(start / 4, 1.0), max(start / 2, 1.0), float(start))]
    found = {}
    for name in CONTINUED:
        values = torch.tensor([p.value(name) for p in points], dtype=torch.float64)
        replicates = torch.stack([p.replicates(name).cpu() for p in points], 1)
        most = math.log(2) if name.startswith("infonce") else math.inf
        full, again = continued(values, steps, most=most), continued(replicates, steps, most=most)
        estimates = (statistics.estimate(float(v), r) for v, r in zip(full, again.unbind(1), strict=True))
        found[name] = Continuation(*estimates)
    return found


def continued(values: Float[Tensor, "... 3"], steps: float, *, most: float = math.inf) -> Float[Tensor, "... 3"]:
    """Log-linear and geometric continuation by some doublings, no one above `most`; and the last movement."""
    before, last = values[..., 1] - values[..., 0], values[..., 2] - values[..., 1]
    ratio = torch.where(before * last > 0, last / before, torch.zeros_like(last)).clamp_max(2.0)
    end, step, left = values[..., 2].clone(), last.clone(), steps
    while left > 0:
        step = (step * ratio).clamp_max(most)
        end += min(left, 1.0) * step
        left -= 1
    return torch.stack([values[..., 2] + steps * last, end, last], -1)


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


__all__ = ["CONTINUED", "Continuation", "HeldOut", "continuations", "continued", "held_out", "largest_measured"]
