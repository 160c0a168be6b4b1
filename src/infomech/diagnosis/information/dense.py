"""Shared information of any score that is given as a matrix: for scores that are no inner product (E12)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..batch_budget import column_weights
from ..batch_windows import AnchorSums, BlockLayout, BlockShares, window_averages
from ..budget import default_batch
from ..estimate import Estimate
from .anchors import LossTable
from .search import Grid, lowest_temperature
from .shared import Losses

_ANCHORS = 1024
_PILOT = 256


@dataclass(frozen=True)
class DenseInformation:
    """Shared information of a matrix of scores, and the replicates that a paired difference takes."""

    information: Estimate
    temperature: float
    negatives: int
    replicates: NDArray[np.float64]
    interactions: NDArray[np.float64]
    losses: Losses

    def less(self, first: "DenseInformation") -> Estimate:
        """Difference to another of the same groups, paired."""
        value = self.information.value - first.information.value
        without = torch.from_numpy(self.replicates - first.replicates)
        return self.losses.estimate(value, without, torch.from_numpy(self.interactions - first.interactions))


def dense_information(
    scores: Float[Tensor, "g g"], *, negatives: int | None = None, anchors: int = _ANCHORS
) -> DenseInformation:
    """Shared information at N of scores of one pair a group, queries in rows; one direction.

    Args:
        scores: (g, g), row i's partner is column i; groups in random order.
        negatives: N; by default that of a report, see `default_batch`.
        anchors: at most so many rows are averaged over, evenly spread.

    Source: E12, E8.
    """
    groups = len(scores)
    layout = BlockLayout.of(groups, parts=1, doubling=False)
    negatives = default_batch(groups) - 1 if negatives is None else negatives
    at = column_weights(layout, negatives)
    every = torch.arange(groups)
    chosen = every if groups <= anchors else every[every * anchors // groups != (every + 1) * anchors // groups]
    own = scores.diagonal()[chosen].double()
    others = scores[chosen].double()
    others[torch.arange(len(chosen)), chosen] = -math.inf
    count = min(len(chosen), _PILOT)
    temperature, _ = lowest_temperature([(own[:count], others[:count, None, :negatives])])
    grid = Grid.around(temperature)
    blocks = layout.block_of(chosen)
    shares = [_shares(own, others, blocks, layout, tau) for tau in grid.temperatures]
    table = LossTable(
        layout,
        grid.temperatures,
        torch.stack([share.sums for share in shares]),
        torch.stack([share.falls for share in shares]),
        shares[0].weights,
        own.new_zeros(len(shares), 0),
    )
    losses = Losses(table, grid)
    crossed = table.combined(losses.crossed(at))
    ceiling = math.log1p(negatives)
    replicates, interactions = ceiling - losses.replicates(crossed) @ at, -crossed.interactions() @ at
    value = ceiling - float(crossed.values() @ at)
    return DenseInformation(
        losses.estimate(value, replicates, interactions),
        math.exp(losses.lowest(at)),
        negatives,
        replicates.numpy(),
        interactions.numpy(),
        losses,
    )


def _shares(own: Tensor, others: Tensor, blocks: Tensor, layout: BlockLayout, temperature: float) -> BlockShares:
    """InfoNCE of the anchors at one temperature, by block."""
    top = others.amax(1, keepdim=True)
    kernel = ((others - top) / temperature).exp()
    whole = kernel[:, : layout.blocks * layout.size].unflatten(1, (layout.blocks, layout.size)).sum(2)
    if layout.left_over:
        whole = torch.cat([whole, kernel[:, layout.blocks * layout.size :].sum(1, keepdim=True)], 1)
    weights = torch.full_like(own, 1 / len(own))
    positive = own / temperature
    found = window_averages(AnchorSums(whole.log() + top / temperature, None, blocks, weights, positive), layout, "log")
    part = found.blocks
    mine = part.sums.new_zeros(len(part.sums)).index_add_(0, blocks, weights * positive)
    return BlockShares(part.sums - mine[:, None], part.falls, part.weights)


__all__ = ["DenseInformation", "dense_information"]
