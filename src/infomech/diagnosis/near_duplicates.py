"""Groups that hold a near-duplicate of another group's row: negatives that are no negatives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..measures import PairedSample
from ..reductions import GroupedRows, Reduction
from ..reductions.statistics.gram import Tile

NEAR_DUPLICATE = 0.9999  # cosine above which rows of different groups count as one


class NearDuplicates(Reduction):
    """Rows of different groups, of one modality, with a cosine above 0.9999.

    Args:
        rows: unit rows, of a symmetric sweep.
    """

    def __init__(self, rows: GroupedRows) -> None:
        self._rows = rows
        self.found: list[Tensor] = []  # (k, 2) rows

    def fork(self) -> "NearDuplicates":  # noqa: D102
        return NearDuplicates(self._rows)

    def merge(self, other: Any) -> None:  # noqa: D102
        self.found += other.found

    def pairs(self) -> tuple[Int[Tensor, "k 2"], Int[Tensor, "k 2"]]:
        """The rows that were found, and their groups, on the CPU."""
        rows = torch.cat(self.found).cpu() if self.found else torch.zeros(0, 2, dtype=torch.int64)
        return rows, self._rows.groups.cpu()[rows]

    def update(self, tile: Tile) -> None:  # noqa: D102
        if tile.own is None and float(tile.similarity.amax()) <= NEAR_DUPLICATE:
            return
        close = tile.similarity > NEAR_DUPLICATE
        if tile.own is not None:
            close &= ~tile.own
        at = torch.nonzero(close)
        if len(at):
            self.found.append(torch.stack([at[:, 0] + tile.rows.start, at[:, 1] + tile.cols.start], 1))


def one_of_each(groups: int, reductions: Sequence[NearDuplicates]) -> Bool[Tensor, " g"]:
    """Which groups stay if of all that near-duplicates tie together only the first does."""
    if not any(each.found for each in reductions):
        return torch.ones(groups, dtype=torch.bool)
    ends = torch.cat([each.pairs()[1] for each in reductions]).numpy()
    graph = scipy.sparse.coo_matrix((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(groups,) * 2)
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    kept = torch.zeros(groups, dtype=torch.bool)
    kept[torch.from_numpy(np.unique(labels, return_index=True)[1]).long()] = True
    return kept


def tying_pairs(sample: PairedSample, reductions: Sequence[NearDuplicates]) -> list[list[int]]:
    """Further pairs that make one group of all groups that near-duplicates tie together, as few as that takes.

    A row is paired with the partner of its twin: where x_i and x_j are equal, y_j is as good a partner of x_i as y_i.

    Args:
        sample: whose rows were looked at.
        reductions: what was found within x and within y.

    Returns:
        Rows of the given x and y, in order.
    """
    pairs = sample.pairs.cpu().numpy()
    partner = np.zeros(len(sample.x), dtype=np.int64), np.zeros(len(sample.y), dtype=np.int64)
    for side in (0, 1):
        partner[side][pairs[::-1, side]] = pairs[::-1, 1 - side]  # the first one
    edges, ties = [], []
    for side, found in enumerate(reductions):
        rows, groups = (each.numpy() for each in found.pairs())
        one, two = rows.T
        edges.append(np.sort(groups, axis=1))
        ties.append(np.stack([one, partner[0][two]] if side == 0 else [partner[1][one], two], 1))
    edge, tie = np.concatenate(edges), np.concatenate(ties)
    order = np.lexsort((tie[:, 1], tie[:, 0], edge[:, 1], edge[:, 0]))  # threads find them in any order
    edge, tie = edge[order], tie[order]
    first = np.ones(len(edge), dtype=bool)
    first[1:] = (edge[1:] != edge[:-1]).any(1)
    edge, tie = edge[first], tie[first]
    graph = scipy.sparse.coo_matrix((np.arange(1, len(edge) + 1), tuple(edge.T)), shape=(sample.groups,) * 2)
    chosen = scipy.sparse.csgraph.minimum_spanning_tree(graph.tocsr()).data.astype(np.int64) - 1
    kept = torch.from_numpy(tie[chosen])
    given = torch.stack([sample.order_x.cpu()[kept[:, 0]], sample.order_y.cpu()[kept[:, 1]]], 1)
    return sorted(given.tolist())


def restricted(sample: PairedSample, kept: Bool[Tensor, " g"], *, seed: int = 0) -> PairedSample:
    """The sample with the pairs of some groups only."""
    pairs = sample.pairs[kept.to(sample.pairs.device)[sample.pair_groups]]
    given = torch.stack([sample.order_x[pairs[:, 0]], sample.order_y[pairs[:, 1]]], 1)
    return PairedSample.from_embeddings(
        sample.given_x, sample.given_y, pairs=given, seed=seed, critic=sample.critic, any_norm=not sample.unit
    )


__all__ = ["NEAR_DUPLICATE", "NearDuplicates", "one_of_each", "restricted", "tying_pairs"]
