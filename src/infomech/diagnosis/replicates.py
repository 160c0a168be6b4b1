"""Means over pairs of different groups, with the same means when each block is left out."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures import PairedSample
from ..reductions import rows_at_once
from .estimate import Estimate
from .uncertainty import block_jackknife, effective_number, jackknife_estimate, t_quantile

Replicated = tuple[Float[Tensor, ""], Float[Tensor, " b"]]


def degrees_of_freedom(sample: PairedSample) -> float:
    """Of a block jackknife: one less than there are effective blocks."""
    by_block = sample.group_pairs.new_zeros(sample.blocks).index_add_(0, sample.group_blocks, sample.group_pairs)
    return effective_number(by_block) - 1


def jackknifed(sample: PairedSample, value: Replicated) -> Estimate:
    """A statistic of pairs with its block jackknife's error and interval."""
    return jackknife_estimate(*value, sample.block_groups, degrees_of_freedom(sample))


def ratio_estimate(sample: PairedSample, numerator: Replicated, denominator: Replicated) -> Estimate:
    """A ratio with Fieller's interval: all r for which numerator - r denominator is not told from 0 (block jackknife).

    The standard error is the delta method's. Withheld where the denominator is not told from 0: any ratio would do.

    Source: Fieller, Journal of the Royal Statistical Society B 16 (1954).
    """
    (a, a_without), (b, b_without) = numerator, denominator
    a, b, a_without, b_without = a.cpu(), b.cpu(), a_without.cpu(), b_without.cpu()
    full, replicates = torch.stack([a, b, a + b]), torch.stack([a_without, b_without, a_without + b_without], 1)
    variances = block_jackknife(full, replicates, sample.block_groups.cpu())[1].square().tolist()
    of_a, of_b, both = variances[0], variances[1], (variances[2] - variances[0] - variances[1]) / 2
    top, bottom, t = float(a), float(b), t_quantile(degrees_of_freedom(sample))
    if bottom == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan).without_interval("what it is a share of is 0")
    ratio = top / bottom
    stderr = math.sqrt(max(of_a - 2 * ratio * both + ratio**2 * of_b, 0.0)) / abs(bottom)
    square = bottom**2 - t * t * of_b
    if square <= 0:
        return Estimate(ratio, stderr, math.nan, math.nan).without_interval("what it is a share of may be 0")
    middle = (top * bottom - t * t * both) / square
    reach = math.sqrt(max(middle**2 - (top**2 - t * t * of_a) / square, 0.0))
    return Estimate(ratio, stderr, middle - reach, middle + reach)


def cross_group_mean(
    sample: PairedSample, a: Float[Tensor, "g d"], b: Float[Tensor, "g d"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " b"]]:
    """Mean of a_g.b_h over pairs of different groups, with its delete-a-block replicates."""
    blocks = sample.blocks

    def by_block(values: Tensor) -> Tensor:
        return values.new_zeros(blocks, *values.shape[1:]).index_add_(0, sample.group_blocks, values)

    own = by_block((a * b).sum(1))
    weights = by_block(sample.group_pairs)
    own_weights = by_block(sample.group_pairs.square())
    block_a, block_b = by_block(a), by_block(b)
    total_a, total_b = block_a.sum(0), block_b.sum(0)
    full = (total_a @ total_b - own.sum()) / (weights.sum().square() - own_weights.sum())
    rest = ((total_a - block_a) * (total_b - block_b)).sum(1) - (own.sum() - own)
    rest_weights = (weights.sum() - weights).square() - (own_weights.sum() - own_weights)
    return full, rest / rest_weights


def leave_blocks_out(sums: Float[Tensor, "b c"], weights: Float[Tensor, "b c"]) -> Replicated:
    """Weighted mean from sums over pairs of blocks, and the same without the rows and columns of each block; CPU."""
    sums, weights = sums.cpu(), weights.cpu()

    def without(matrix: Tensor) -> Tensor:
        return matrix.sum() - matrix.sum(0) - matrix.sum(1) + matrix.diagonal()

    return sums.sum() / weights.sum(), without(sums) / without(weights)


def own_group_sums(
    sample: PairedSample, part: str, function: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, " b"]:
    """Sums of w_i w_j f(u_i, v_j) over pairs of one group, a row with itself included, by block.

    f is taken in the dtype of the rows, the sums in float64.
    """
    u = sample.x if part[0] == "x" else sample.y
    v = sample.x if part[1] == "x" else sample.y
    sizes = torch.bincount(v.groups, minlength=sample.groups)
    firsts = sizes.cumsum(0) - sizes
    partners = sizes[u.groups]
    out = torch.zeros(sample.blocks, dtype=torch.float64, device=u.values.device)
    step = rows_at_once(u.values.device)
    for at in torch.arange(len(u), device=u.values.device).split(step):
        count = partners[at]
        left = torch.repeat_interleave(at, count)
        offset = torch.arange(len(left), device=left.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
        right = torch.repeat_interleave(firsts[u.groups[at]], count) + offset
        for i, j in zip(left.split(step), right.split(step), strict=True):
            values = function(u.values[i], v.values[j]).double()
            out.index_add_(0, u.block_of[i], u.weights[i] * v.weights[j] * values)
    return out


def pair_weights(sample: PairedSample, *, own: bool = False) -> Float[Tensor, "b b"]:
    """Total weight of the pairs of rows between each two blocks; those within one group only if `own`."""
    by_block = torch.zeros(sample.blocks, dtype=torch.float64, device=sample.x.values.device)
    weights = by_block.index_add(0, sample.group_blocks, sample.group_pairs)
    inside = by_block.index_add(0, sample.group_blocks, sample.group_pairs.square())
    every = torch.outer(weights, weights)
    return every if own else every - torch.diag(inside)


__all__ = [
    "Replicated",
    "cross_group_mean",
    "degrees_of_freedom",
    "jackknifed",
    "leave_blocks_out",
    "own_group_sums",
    "pair_weights",
    "ratio_estimate",
]
