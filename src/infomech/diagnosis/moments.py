"""Second moments of one modality's rows, in two halves of its groups, for all that is a function of them."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures import PairedSample
from ..reductions import GroupedRows, cpu_threads, rows_at_once, side_by_side


@dataclass(frozen=True)
class Moments:
    """Total weight, mean and covariance (divisor: the weight) of some rows, float64."""

    weight: Float[Tensor, ""]
    mean: Float[Tensor, " d"]
    cov: Float[Tensor, "d d"]

    def pool(self, other: "Moments") -> "Moments":
        """Those of both sets of rows together."""
        weight = self.weight + other.weight
        share = other.weight / weight
        difference = other.mean - self.mean
        mean = self.mean + share * difference
        between = share * (1 - share) * torch.outer(difference, difference)
        return Moments(weight, mean, (1 - share) * self.cov + share * other.cov + between)


@dataclass(frozen=True)
class HalvedMoments:
    """Of two random halves of the groups (whole blocks), and of all rows."""

    halves: tuple[Moments, Moments]
    whole: Moments


def row_chunks(rows: GroupedRows) -> list[slice]:
    """Slices of some thousand rows, for work whose temporaries should stay small."""
    step = rows_at_once(rows.values.device)
    return [slice(at, min(at + step, len(rows))) for at in range(0, len(rows), step)]


def row_moments(rows: GroupedRows, part: slice) -> Moments:
    """Moments of consecutive rows; products in the rows' dtype about a point near the mean, sums in float64."""
    d = rows.values.shape[1]
    first = torch.zeros(d, dtype=torch.float64, device=rows.values.device)
    weight, second = first.new_zeros(()), first.new_zeros(d, d)
    origin = rows.values[part][: 4 * d].mean(0)  # near the mean: the subtraction below then loses no digits
    step = rows_at_once(rows.values.device)
    for at in range(part.start, part.stop, step):
        chunk = slice(at, min(at + step, part.stop))
        w = rows.tile_weights[chunk]
        z = rows.values[chunk] - origin
        weighted = z if rows.uniform else z * w[:, None]
        weight += w.double().sum()
        first += weighted.sum(0, dtype=torch.float64)
        second += (weighted.T @ z).double()
    mean = first / weight
    return Moments(weight, mean + origin.double(), second / weight - torch.outer(mean, mean))


def halved_moments(sample: PairedSample) -> tuple[HalvedMoments, HalvedMoments]:
    """Of x and of y; blocks hold groups at random, so that the first half of them is a random half."""
    jobs = [partial(row_moments, rows, part) for rows in (sample.x, sample.y) for part in _halves(rows)]
    a, b, c, d = side_by_side(jobs, threads=cpu_threads(sample.x.values.device))
    return HalvedMoments((a, b), a.pool(b)), HalvedMoments((c, d), c.pool(d))


def _halves(rows: GroupedRows) -> tuple[slice, slice]:
    middle = rows.edges[rows.blocks // 2]
    return slice(0, middle), slice(middle, len(rows))


__all__ = ["HalvedMoments", "Moments", "halved_moments", "row_chunks", "row_moments"]
