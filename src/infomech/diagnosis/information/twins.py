"""Twins: rows of different groups that are equal lower the ceiling of shared information (E12)."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .anchors import BOTH, Anchors, Side

_CHUNK = 4096  # rows at a time


def ceiling_with_twins(anchors: Anchors, negatives: int, *, sides: Sequence[Side] = BOTH) -> tuple[float, int]:
    """The highest shared information that equal rows of different groups leave, and how many groups have such a twin.

    A batch that holds t twins of an anchor's partner leaves it a loss of log(1 + t) at least, whatever the critic;
    t is hypergeometric. Averaged over anchors and directions, and taken from log(N + 1).

    Source: E12.
    """
    sample, groups = anchors.batches.sample, anchors.batches.sample.groups
    lost, twins = 0.0, torch.zeros(groups, dtype=torch.bool)
    for side in sides:
        column = "xy".index(side[1])
        rows = (sample.x, sample.y)[column]
        lent = rows.values[sample.pairs[anchors.batches.lent, column]]
        asked = sample.pairs[anchors.pairs, column]
        counts = _twins(rows.values[asked], sample.pair_groups[anchors.pairs], lent)
        if counts.any():
            twins[sample.pair_groups[anchors.pairs].cpu()[torch.from_numpy(counts > 0)]] = True
            weights = anchors.weights.cpu().numpy()
            lost += float(weights @ expected_log(counts, groups - 1, negatives)) / len(sides)
    return math.log1p(negatives) - lost, int(twins.sum())


def _twins(rows: Float[Tensor, "p d"], groups: Tensor, lent: Float[Tensor, "g d"]) -> NDArray[np.int64]:
    """How many of the lent rows of other groups equal each row."""
    keys, asked = _keys(lent), _keys(rows)
    names, counts = np.unique(keys, return_counts=True)
    at = np.minimum(np.searchsorted(names, asked), len(names) - 1)
    found = np.where(names[at] == asked, counts[at], 0)
    return np.asarray(found - (keys[groups.cpu().numpy()] == asked), dtype=np.int64)  # its own group's is none


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


def expected_log(twins: NDArray[np.int64], others: int, negatives: int) -> NDArray[np.float64]:
    """E log(1 + t), t of the twins being among so many negatives, drawn without replacement from the others.

    >>> expected_log(np.array([0, 1]), 10, 5).round(4).tolist()
    [0.0, 0.3466]
    """
    found = np.zeros(len(twins))
    for count in np.unique(twins[twins > 0]):
        t = np.arange(max(0, negatives - others + count), min(count, negatives) + 1)
        chance = scipy.stats.hypergeom(others, count, negatives).pmf(t)
        found[twins == count] = float(chance @ np.log1p(t))
    return found


__all__ = ["ceiling_with_twins", "expected_log"]
