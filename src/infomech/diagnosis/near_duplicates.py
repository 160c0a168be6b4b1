"""Groups that hold a near-duplicate of another group's row: negatives that are no negatives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from jaxtyping import Bool
from torch import Tensor

from ..measures import PairedSample
from ..reductions import GroupedRows, Reduction
from ..reductions.statistics.gram import Tile

NEAR_DUPLICATE = 0.9999  # cosine above which rows of different groups count as one


class NearDuplicates(Reduction):
    """Pairs of different groups with a cosine above 0.9999 between rows of one modality.

    Args:
        rows: unit rows, of a symmetric sweep.
    """

    def __init__(self, rows: GroupedRows) -> None:
        self._rows = rows
        self.found: list[Tensor] = []  # (k, 2) groups
        self.rows: list[Tensor] = []  # (k, 2) the rows themselves

    def fork(self) -> "NearDuplicates":  # noqa: D102
        return NearDuplicates(self._rows)

    def merge(self, other: Any) -> None:  # noqa: D102
        self.found += other.found
        self.rows += other.rows

    def update(self, tile: Tile) -> None:  # noqa: D102
        if tile.own is None and float(tile.similarity.amax()) <= NEAR_DUPLICATE:
            return
        close = tile.similarity > NEAR_DUPLICATE
        if tile.own is not None:
            close &= ~tile.own
        at = torch.nonzero(close)
        if len(at):
            rows = torch.stack([at[:, 0] + tile.rows.slice.start, at[:, 1] + tile.cols.slice.start], 1)
            self.rows.append(rows)
            self.found.append(self._rows.groups[rows])


def one_of_each(groups: int, reductions: Sequence[NearDuplicates]) -> Bool[Tensor, " g"]:
    """Which groups stay if of all that near-duplicates tie together only the first does."""
    pairs = [p.cpu() for r in reductions for p in r.found]
    if not pairs:
        return torch.ones(groups, dtype=torch.bool)
    ends = torch.cat(pairs).numpy()
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
    groups, ties = [], []
    for side, found in enumerate(reductions):
        for ends, rows in zip(found.found, found.rows, strict=True):
            one, two = rows.cpu().numpy().T
            groups.append(ends.cpu().numpy())
            ties.append(np.stack([one, partner[0][two]] if side == 0 else [partner[1][one], two], 1))
    if not groups:
        return []
    edges, tie = np.sort(np.concatenate(groups), axis=1), np.concatenate(ties)
    order = np.lexsort((tie[:, 1], tie[:, 0], edges[:, 1], edges[:, 0]))  # threads find them in any order
    edges, tie = edges[order], tie[order]
    edges, first = np.unique(edges, axis=0, return_index=True)
    numbered = (np.arange(1, len(edges) + 1), (edges[:, 0], edges[:, 1]))
    graph = scipy.sparse.coo_matrix(numbered, shape=(sample.groups,) * 2)
    chosen = scipy.sparse.csgraph.minimum_spanning_tree(graph.tocsr()).data.astype(np.int64) - 1
    kept = torch.from_numpy(tie[first[chosen]])
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
