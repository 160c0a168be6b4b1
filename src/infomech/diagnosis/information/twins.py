"""Twins: rows of different groups that are equal, or nearly, lower the ceiling of shared information (E12)."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.spatial
import scipy.stats
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..near_duplicates import NEAR_DUPLICATE
from .anchors import BOTH, Anchors, Side

NEAR = math.sqrt(2 - 2 * NEAR_DUPLICATE)  # distance of unit rows of that cosine: 0.0141
_CHUNK = 4096  # rows at a time
_DIRECTIONS = 12  # in which near rows are looked for
_MOST_NEAR = 2_000_000  # pairs of rows that are looked at; of so many, copies alone are counted


def ceiling_with_twins(
    anchors: Anchors, negatives: int, temperature: float, *, sides: Sequence[Side] = BOTH
) -> tuple[float, int]:
    """The highest shared information that twins of different groups leave, and how many groups have one.

    Twins are unit rows whose cosine is above 0.9999, what a report calls near-duplicates; of critics other than the
    cosine, and with row terms, equal rows alone. A twin at the distance delta of an anchor's partner scores at most
    delta less. A batch that holds t twins, delta at most, thus leaves the anchor a loss of log(1 + t exp(-delta / tau))
    at least, whatever the anchor; t is hypergeometric. Averaged over anchors and directions, and taken from log(N + 1).

    Args:
        anchors: whose partners' twins.
        negatives: N.
        temperature: tau at which the information is measured; equal rows lower the ceiling at every tau alike.
        sides: directions.

    Source: E12.
    """
    sample, groups = anchors.batches.sample, anchors.batches.sample.groups
    lost, twins = 0.0, torch.zeros(groups, dtype=torch.bool)
    plain = sample.unit and anchors.offsets == (None, None)
    for side in sides:
        column = "xy".index(side[1])
        rows = (sample.x, sample.y)[column].values[sample.pairs[anchors.pairs, column]]
        of_anchors, near = sample.pair_groups[anchors.pairs], NEAR if plain else 0.0
        counts, distances = _twins(rows, of_anchors, anchors.lent_rows(side), near=near)
        if counts.any():
            twins[of_anchors.cpu()[torch.from_numpy(counts > 0)]] = True
            weights = anchors.weights.cpu().numpy()
            share = np.exp(-distances / temperature)
            lost += float(weights @ expected_log(counts, groups - 1, negatives, share=share)) / len(sides)
    return math.log1p(negatives) - lost, int(twins.sum())


def _twins(
    rows: Float[Tensor, "p d"], groups: Tensor, lent: Float[Tensor, "g d"], *, near: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many of the lent rows of other groups are each row's twins, and the largest distance to one of them."""
    own = groups.cpu().numpy()
    asked, given, slack = _projected(rows, lent)
    tree = scipy.spatial.cKDTree(given)
    reach = near + slack
    others = tree.query_ball_point(asked, reach, return_length=True)
    others -= np.linalg.norm(asked - given[own], axis=1) <= reach
    counts, distances = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows))
    if int(others.sum()) > _MOST_NEAR:
        return _equal(rows, own, lent), distances
    for i in np.flatnonzero(others):
        close = torch.tensor([j for j in tree.query_ball_point(asked[i], reach) if j != own[i]], device=lent.device)
        apart = (rows[i].double() - lent[close].double()).norm(dim=1)
        apart = apart[apart <= near].cpu()
        counts[i], distances[i] = len(apart), max(apart.tolist(), default=0.0)
    return counts, distances


def _projected(rows: Tensor, lent: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Both in a few orthonormal directions, where no two rows are farther apart than they are; and the rounding."""
    dim = rows.shape[1]
    random = torch.randn(dim, min(dim, _DIRECTIONS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = torch.linalg.qr(random).Q.to(rows)
    asked, given = ((part @ directions).double().cpu().numpy() for part in (rows, lent))
    return asked, given, 1e-5 * float(torch.linalg.vector_norm(lent, dim=1).max())


def _equal(rows: Float[Tensor, "p d"], groups: NDArray[np.int64], lent: Float[Tensor, "g d"]) -> NDArray[np.int64]:
    keys, asked = _keys(lent), _keys(rows)
    names, counts = np.unique(keys, return_counts=True)
    at = np.minimum(np.searchsorted(names, asked), len(names) - 1)
    found = np.where(names[at] == asked, counts[at], 0)
    return np.asarray(found - (keys[groups] == asked), dtype=np.int64)  # its own group's is none


def _keys(rows: Tensor) -> NDArray[np.int64]:
    """A number of 64 bits for each row, which equal rows share and others do not, but by one chance in 10^19."""
    factors = np.random.default_rng(0).integers(0, 2**63, rows.shape[1], dtype=np.uint64) * 2 + 1
    found = []
    for part in rows.split(_CHUNK):
        bits = np.ascontiguousarray(part.cpu().numpy() + 0.0)  # minus zero is zero
        bits = bits.view(np.uint32 if bits.itemsize == 4 else np.uint64).astype(np.uint64)
        mixed = bits * factors
        found.append((mixed ^ (mixed >> np.uint64(29))).sum(1, dtype=np.uint64).view(np.int64))
    return np.concatenate(found)


def expected_log(
    twins: NDArray[np.int64], others: int, negatives: int, *, share: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """E log(1 + share t), t of the twins being among so many negatives, drawn without replacement from the others.

    >>> expected_log(np.array([0, 1]), 10, 5).round(4).tolist()
    [0.0, 0.3466]
    """
    found, share = np.zeros(len(twins)), np.ones(len(twins)) if share is None else share
    for count in np.unique(twins[twins > 0]):
        t = np.arange(max(0, negatives - others + count), min(count, negatives) + 1)
        chance = scipy.stats.hypergeom(others, count, negatives).pmf(t)
        at = twins == count
        found[at] = np.log1p(share[at, None] * t) @ chance
    return found


__all__ = ["NEAR", "ceiling_with_twins", "expected_log"]
