"""When one shift serves all the exponentials of a sweep or a tile, and which: the policy of losses and statistics.

exp(score - shift) costs one exponential for rows and columns alike. A loss knows a bound on its scores beforehand, and
looks afterwards whether digits were lost; a statistic, which needs the squares of its kernels as well, looks at the
largest score of each row and column of a tile. Where one shift does not serve, each row is shifted by its own maximum.
"""

import torch
from torch import Tensor

from .log_sums import LogSums

FIXED_SHIFT_LIMIT = 70.0  # exponentials up to exp(70) = 2.5e30 leave room in float32 for sums of 1e8 of them
FIXED_SHIFT_LIMIT_DOUBLE = 600.0
FIXED_SHIFT_BOUND = 150.0  # scores that can differ by more will hardly do with one shift: do not try
SMALLEST_SAFE_MEAN = 1e-30  # below this mean, what underflowed (< 1.2e-38 each) could matter at 1e-8
SMALLEST_SAFE_MEAN_DOUBLE = 1e-290

# Kernel and square stay normal numbers without a shift while twice the largest score is below the first bound; with a
# tile's largest score at exp(second / 2) if every row's and column's largest lies within the second of it. Squares that
# are lost are then below e^-47 of a row's largest. Where no square is wanted the kernel has its place, at twice that.
_UNSHIFTED_TO = {torch.float32: 50.0, torch.float64: 600.0}
_COMMON_SHIFT_TO = {torch.float32: 40.0, torch.float64: 300.0}


def fixed_shift(bound: float, dtype: torch.dtype, *, spread: float = 0.0) -> float | None:
    """The shift under which exp(score - shift) cannot overflow for scores up to `bound`; None where none is known.

    Scores within ±70 need no shift at all. Beyond that the largest possible score goes to +70, and scores more than
    157 below the bound underflow: a sweep that ends with a mean below `SMALLEST_SAFE_MEAN` has to be done again with
    running maxima.

    Args:
        bound: on every |score|.
        dtype: of the tiles.
        spread: of the finite log-weights of the negatives, whose exponentials must stay normal numbers as well.
    """
    limit = FIXED_SHIFT_LIMIT if dtype == torch.float32 else FIXED_SHIFT_LIMIT_DOUBLE
    if not (bound <= limit + FIXED_SHIFT_BOUND - FIXED_SHIFT_LIMIT and spread <= limit):
        return None
    return max(0.0, bound - limit)


def underflowed(sums: LogSums, entries: int, dtype: torch.dtype) -> Tensor:
    """Whether a fixed shift may have lost more than the eighth digit somewhere (a boolean scalar)."""
    return sums.total.min() < entries * (SMALLEST_SAFE_MEAN if dtype == torch.float32 else SMALLEST_SAFE_MEAN_DOUBLE)


def unshifted(bound: float, dtype: torch.dtype, *, squares: bool = True) -> bool:
    """Whether scores up to ±bound need no shift, for the kernel and, where they are wanted, its squares."""
    return (2 if squares else 1) * bound <= _UNSHIFTED_TO[dtype]


def common_shift(lowest: float, highest: float, dtype: torch.dtype, *, squares: bool = True) -> float | None:
    """The shift that serves a whole tile and, where they are wanted, its squares; or None.

    Args:
        lowest: the smallest of the largest scores of the tile's rows and columns.
        highest: the largest score.
        dtype: of the tile.
        squares: whether the squares of the kernel are wanted.
    """
    reach = (1 if squares else 2) * _COMMON_SHIFT_TO[dtype]
    return highest - reach / 2 if highest - lowest <= reach else None


__all__ = ["common_shift", "fixed_shift", "underflowed", "unshifted"]
