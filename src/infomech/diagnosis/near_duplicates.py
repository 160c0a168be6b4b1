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

    def fork(self) -> "NearDuplicates":  # noqa: D102
        return NearDuplicates(self._rows)

    def merge(self, other: Any) -> None:  # noqa: D102
        self.found += other.found

    def update(self, tile: Tile) -> None:  # noqa: D102
        if tile.own is None and float(tile.similarity.amax()) <= NEAR_DUPLICATE:
            return
        close = tile.similarity > NEAR_DUPLICATE
        if tile.own is not None:
            close &= ~tile.own
        at = torch.nonzero(close)
        if len(at):
            groups = self._rows.groups
            self.found.append(torch.stack([groups[tile.rows.slice][at[:, 0]], groups[tile.cols.slice][at[:, 1]]], 1))


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


def restricted(sample: PairedSample, kept: Bool[Tensor, " g"], *, seed: int = 0) -> PairedSample:
    """The sample with the pairs of some groups only."""
    pairs = sample.pairs[kept.to(sample.pairs.device)[sample.pair_groups]]
    given = torch.stack([sample.order_x[pairs[:, 0]], sample.order_y[pairs[:, 1]]], 1)
    return PairedSample.from_embeddings(
        sample.given_x, sample.given_y, pairs=given, seed=seed, critic=sample.critic, any_norm=not sample.unit
    )


__all__ = ["NEAR_DUPLICATE", "NearDuplicates", "one_of_each", "restricted"]
