"""Entries that are left out of a score matrix, (i, i) or listed: tiles that hold some are visited once more, without.

They are few, so that the sweep over all tiles need not look; what it left of these tiles is overwritten.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tile import cleared, is_own, on_diagonal

_NEXT_ROW_OF_TILES = 2**32  # between the keys of tiles below each other: more than a row of tiles has


@triton.jit
@no_type_check
def tile_again(
    entry, first, LI, LJ, STOPS, row, col, M, N, LISTED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """The tile of a program, where its listed entries end, and whether it has one: on the diagonal, or with LISTED."""
    if LISTED:
        pm, pn, stop, here = _listed_tile(entry, LI, LJ, STOPS, row, col, M, N, BM, BN)
    else:
        pm, pn, crossed = on_diagonal(entry, first, BM, BN)
        stop, here = entry, crossed & (pn * BN < N)
    return pm, pn, stop, here


@triton.jit
@no_type_check
def cleared_again(
    s, rm, rn, entry, stop, first, LI, LJ, GX, GY, row, col, M, N,
    OWN: tl.constexpr, LISTED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Scores with -inf at all that is left out. What is listed comes last, and leaves out entries (i, i) as well."""
    if OWN:
        s = tl.where(is_own(rm, rn, first), float("-inf"), s)
    if LISTED:
        s = _without_listed(s, rm, rn, entry, stop, LI, LJ, row, col)
    return cleared(s, rm, rn, GX, GY, M, N, GROUPS)


@triton.jit
@no_type_check
def _listed_tile(entry, LI, LJ, STOPS, row, col, M, N, BM: tl.constexpr, BN: tl.constexpr):
    """Row and column of the tile that holds an entry, where its entries end, and whether this is the first of them.

    LI and LJ count from a corner that lies `row` rows and `col` columns before this matrix: both whole tiles. Entries
    of one tile stand together; all but the first, and those of no tile of this matrix, have nothing to do.
    """
    i, j = tl.load(LI + entry), tl.load(LJ + entry)
    stop = tl.load(STOPS + entry)
    here = (stop > entry) & (i >= row) & (j >= col) & (i - row < M) & (j - col < N)
    pm = ((i - row) // BM).to(tl.int32)
    pn = ((j - col) // BN).to(tl.int32)
    return pm, pn, stop, here


@triton.jit
@no_type_check
def _without_listed(s, rm, rn, entry, stop, LI, LJ, row, col):
    """Scores with -inf at the entries of this tile."""
    for k in range(entry, stop):
        i = (tl.load(LI + k) - row).to(tl.int32)
        j = (tl.load(LJ + k) - col).to(tl.int32)
        s = tl.where((rm == i)[:, None] & (rn == j)[None, :], float("-inf"), s)
    return s


class Listing(NamedTuple):
    """Entries of a matrix; or of one of which it is a part.

    Args:
        rows: (p,) of the entries, int64.
        cols: (p,) the same.
        stops: (p,) int64, of the first entry of each tile the place behind its last one, of all others 0; None: the
            entries are not yet in the order of the tiles.
        row: rows before the part.
        col: columns before the part.
    """

    rows: Tensor
    cols: Tensor
    stops: Tensor | None = None
    row: int = 0
    col: int = 0

    @classmethod
    def of(cls, pairs: Tensor) -> "Listing":
        """Of (p, 2) entries, p at least 1."""
        return cls(*pairs.to(torch.int64).t().contiguous())

    def part(self, rows: slice, cols: slice) -> "Listing":
        """The same entries, for some consecutive rows and columns."""
        return self._replace(row=self.row + (rows.start or 0), col=self.col + (cols.start or 0))

    def by_tile(self, rows: int, cols: int) -> "Listing":
        """In the order of tiles of this many rows and columns. Nothing is read on the host."""
        tall, wide = (t.div(size, rounding_mode="floor") for t, size in ((self.rows, rows), (self.cols, cols)))
        keys, order = torch.sort(tall * _NEXT_ROW_OF_TILES + wide, stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        torch.ne(keys[1:], keys[:-1], out=first[1:])
        stops = torch.where(first, torch.searchsorted(keys, keys, right=True), 0)
        return Listing(self.rows[order], self.cols[order], stops, self.row, self.col)

    @property
    def arguments(self) -> dict[str, object]:
        """What a kernel is told of them."""
        return {"LI": self.rows, "LJ": self.cols, "STOPS": self.stops, "row": self.row, "col": self.col}


NO_LISTING: dict[str, object] = {"LI": None, "LJ": None, "STOPS": None, "row": 0, "col": 0}

__all__ = ["NO_LISTING", "Listing", "cleared_again", "tile_again"]
