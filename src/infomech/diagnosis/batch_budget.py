"""The energy budget as an expectation over random batches of N negatives, at every N that the data hold (E8, E2)."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError
from ..geometry import log_kernel_volume
from .batch_tables import SIDES, KernelTables
from .batch_windows import FEWEST_INTERACTING, BlockLayout, Statistic
from .estimate import Estimate
from .joined_windows import Making, all_averages
from .uncertainty import symmetric_interval

PARTS = (
    "alignment",
    "dispersion_x",
    "dispersion_y",
    "dispersion_x_relative",
    "dispersion_y_relative",
    "divergence_xy",
    "divergence_yx",
    "divergence_sym",
    "energy_sym",
    "infonce_sym",
    "infonce_xy",
    "infonce_yx",
    "log_partition",
    "log_negatives",
    "remainder",
    "effective_negatives_xy",
    "effective_negatives_yx",
    "effective_negatives",
)
_MEANS = tuple(f"log_kernel_mean_{side}" for side in SIDES)  # the four g of E8


@dataclass(frozen=True)
class BatchStatistics:
    """Averages over random batches at each N of a layout, with their delete-a-block replicates.

    Rows of the tables are statistics: `PARTS`, then the four log kernel means g. Linear combinations of columns are
    again averages over random batches, so that E1's identities hold for whatever is interpolated from them.
    """

    layout: BlockLayout
    temperature: float
    log_volume: float
    values: Float[Tensor, "s k"]
    replicates: Float[Tensor, "b s k"]
    interactions: Float[Tensor, "q s k"]  # of each pair of blocks, see `WindowAverages`
    by_pair: dict[str, Float[Tensor, "p k"]]  # "infonce_xy", "infonce_yx": each pair's own contribution
    by_row: dict[str, Float[Tensor, "n k"]]  # effective negatives, log kernel means: "_xx", "_xy" by rows of x

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the intervals."""
        return self.layout.blocks - 1

    def at(self, negatives: float | int) -> "Interpolation":
        """Everything at N negatives, between the columns by interpolation in log N.

        Raises:
            InputError: if N is below 1 or above the groups less one.
        """
        largest = self.layout.groups - 1
        if not 1 <= negatives <= largest:
            raise InputError(
                f"{negatives:g} negatives cannot be measured with {self.layout.groups} groups; "
                f"N runs from 1 to {largest}"
            )
        return Interpolation(self, column_weights(self.layout, negatives), float(negatives))

    def row(self, name: str) -> int:
        """Where a statistic stands in the tables."""
        return _ROWS[name]

    def estimate(
        self, value: float, replicates: Float[Tensor, " b"], interactions: Float[Tensor, " q"] | None = None
    ) -> Estimate:
        """A value with the jackknife's standard error and t interval; see `windowed_error`."""
        groups, size = self.layout.groups, self.layout.size
        stderr, degrees = windowed_error(replicates, interactions, groups=groups, block_groups=size)
        return symmetric_interval(value, stderr, degrees)


def windowed_error(
    replicates: Float[Tensor, " b"], interactions: Float[Tensor, " q"] | None, *, groups: int, block_groups: int
) -> tuple[float, float]:
    """Standard error of an average over windows, the delete-a-block jackknife's less what it counts twice.

    The jackknife counts what two blocks do together, as anchors and negatives of each other, once for each of the two
    (Efron and Stein 1981). With s2 the variance of that for a pair of blocks, G groups and m in each of b blocks, its
    expectation holds s2 (G / m) (b - 1)^2 / (b - 2) in place of s2 b (b - 1) / 2. Groups in no block are never left
    out. Never less than half of the jackknife's variance, which is all that there can be to take away. What is left
    of it varies as much as before: where a share q is left there are q^2 (b - 1) degrees of freedom (Satterthwaite).

    Args:
        replicates: without each block.
        interactions: of each pair of blocks; without them the jackknife's error as it is, up to 1.4 times too large.
        groups: G.
        block_groups: m.

    Returns:
        Standard error and degrees of freedom.

    Source: E6, E8; Efron and Stein, Annals of Statistics 9 (1981).
    """
    g, m, b = groups, block_groups, len(replicates)
    variance = float((replicates - replicates.mean()).square().sum()) * (g - m) ** 2 / (g * m * (b - 1))
    if interactions is None or b < FEWEST_INTERACTING or variance == 0:
        return math.sqrt(variance), float(b - 1)
    of_a_pair = float(interactions.square().sum()) / (b * (b - 3) / 2)  # b main effects were fitted
    twice = of_a_pair * (g / m * (b - 1) ** 2 / (b - 2) - b * (b - 1) / 2)
    left = max(1 - twice / variance, 0.5)
    return math.sqrt(left * variance), left**2 * (b - 1)


_ROWS = {name: k for k, name in enumerate((*PARTS, *_MEANS))}


@dataclass(frozen=True)
class Interpolation:
    """The statistics at one N, a linear combination of the columns."""

    statistics: BatchStatistics
    weights: Float[Tensor, " k"]
    negatives: float

    def value(self, name: str) -> float:
        """The average over random batches."""
        return float(self.statistics.values[_ROWS[name]] @ self.weights)

    def replicates(self, name: str) -> Float[Tensor, " b"]:
        """The same without each block."""
        return self.statistics.replicates[:, _ROWS[name]] @ self.weights

    def interactions(self, name: str) -> Float[Tensor, " q"]:
        """What each pair of blocks adds beyond what its two blocks add."""
        return self.statistics.interactions[:, _ROWS[name]] @ self.weights

    def estimate(self, name: str) -> Estimate:
        """The average with its interval; exact where nothing is random."""
        if name in ("log_partition", "log_negatives"):
            return Estimate.exact(self.value(name))
        return self.statistics.estimate(self.value(name), self.replicates(name), self.interactions(name))

    def by_pair(self, name: str) -> Float[Tensor, " p"]:
        """Contribution of each pair, averaged over batches."""
        return self.statistics.by_pair[name] @ self.weights

    def by_row(self, name: str) -> Float[Tensor, " n"]:
        """Value of each row as an anchor, averaged over batches."""
        return self.statistics.by_row[name] @ self.weights


def batch_statistics(tables: KernelTables) -> BatchStatistics:
    """Average over windows, for all N of the layout at once.

    Source: E8, E2.
    """
    batches, layout, tau = tables.batches, tables.batches.layout, tables.temperature
    sample = batches.sample
    if sample.dim < 2:
        raise InputError("embeddings have one feature; the sphere they should live on needs at least 2")
    rows = [partial(tables.by_row, side) for side in SIDES]
    both = ("xy", "yx")
    wanted: list[tuple[Statistic, list[Making]]] = [
        ("log", [*rows, *(partial(tables.by_pair, side) for side in both)]),
        ("count", [partial(tables.by_row, side) for side in both]),
    ]
    averages = all_averages(wanted, layout, sample.x.values.device)
    logs, pairs, counts = averages[:4], averages[4:6], averages[6:]
    logit = (sample.pair_scores / tau).cpu()
    pair_blocks = layout.block_of(sample.pair_groups).cpu()
    alignment, without = _pair_mean(batches.pair_weights.cpu(), -logit, pair_blocks, layout.blocks)
    log_n = torch.tensor(layout.negatives, dtype=torch.float64).log()
    log_volume = log_kernel_volume(sample.space, sample.critic, tau)
    shape = sample.space.log_volume

    fewer = log_n.clone()
    fewer[-1] = math.log(layout.groups - layout.size - 1)  # with all others as negatives a replicate has fewer of them

    def combine(a: Tensor, n: Tensor, sums: list[Tensor], own: list[Tensor], seen: list[Tensor]) -> Tensor:
        return _combine(a, [s - n for s in sums], own, seen, log_n=n, log_volume=log_volume, log_shape=shape)

    parts = [[w.values for w in group] for group in (logs, pairs, counts)]
    replicates = [[w.replicates for w in group] for group in (logs, pairs, counts)]
    between = [[w.interactions for w in group] for group in (logs, pairs, counts)]
    zero = log_n.new_zeros(())
    return BatchStatistics(
        layout,
        tau,
        log_volume,
        combine(alignment, log_n, *parts),
        combine(without[:, None], fewer, *replicates),
        _combine(zero, *between, log_n=zero, log_volume=0.0, log_shape=0.0),
        {name: w.by_anchor - logit[:, None] for name, w in zip(("infonce_xy", "infonce_yx"), pairs, strict=True)},
        {f"effective_negatives_{side}": w.by_anchor for side, w in zip(("xy", "yx"), counts, strict=True)}
        | {f"log_kernel_mean_{side}": w.by_anchor - log_n for side, w in zip(SIDES, logs, strict=True)},
    )


def _combine(
    alignment: Tensor,
    means: Sequence[Tensor],
    with_positive: Sequence[Tensor],
    counts: Sequence[Tensor],
    *,
    log_n: Tensor,
    log_volume: float,
    log_shape: float,
) -> Tensor:
    """The statistics in their order, (..., s, k), from the averages (..., k)."""
    xx, xy, yy, yx = means
    a = alignment.expand_as(xx)
    h_x, h_y = log_volume - xx, log_volume - yy
    d_xy, d_yx = xx - xy, yy - yx
    d_sym = (d_xy + d_yx) / 2
    energy = a - (h_x + h_y) / 2 - d_sym
    infonce_xy, infonce_yx = (a + total for total in with_positive)
    infonce = (infonce_xy + infonce_yx) / 2
    log_n = log_n.expand_as(xx)
    partition = log_n + log_volume
    remainder = infonce - energy - partition
    relative = [h - log_shape for h in (h_x, h_y)]
    rows = [a, h_x, h_y, *relative, d_xy, d_yx, d_sym, energy, infonce, infonce_xy, infonce_yx, partition, log_n]
    rows += [remainder, *counts, (counts[0] + counts[1]) / 2, *means]
    return torch.stack(rows, -2)


def _pair_mean(weights: Tensor, values: Tensor, blocks: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weighted mean, (), and without each block, (b,)."""
    sums = values.new_zeros(count + 1).index_add_(0, blocks, weights * values)
    totals = values.new_zeros(count + 1).index_add_(0, blocks, weights)
    return sums.sum() / totals.sum(), (sums.sum() - sums[:count]) / (totals.sum() - totals[:count])


def column_weights(layout: BlockLayout, negatives: float | int) -> Float[Tensor, " k"]:
    """Weights of the columns at N: cubic in log N, between powers of two and from the largest of them to all others."""
    every = layout.negatives
    grid = [n for n in every[:-1] if n & (n - 1) == 0]
    weights = torch.zeros(len(every), dtype=torch.float64)
    if negatives >= grid[-1]:
        nodes = sorted({*grid[-3:], every[-1]})
    else:
        at = bisect.bisect_right(grid, negatives)
        start = max(0, min(at - 2, len(grid) - 4))
        nodes = grid[start : start + 4]
    logs = [math.log(n) for n in nodes]
    for i, node in enumerate(nodes):
        others = [k for k in range(len(nodes)) if k != i]
        share = math.prod((math.log(negatives) - logs[k]) / (logs[i] - logs[k]) for k in others)
        weights[len(every) - 1 if node == every[-1] else every.index(node)] = share
    return weights


__all__ = ["PARTS", "BatchStatistics", "Interpolation", "batch_statistics", "column_weights", "windowed_error"]
