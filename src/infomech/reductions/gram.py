"""One sweep over the tiles of a Gram matrix feeds every statistic that needs it.

`sweep` walks s_ij = x_i.y_j tile by tile and hands each tile to all reductions; nothing of size n x m is held, and no
reduction asks for a tile twice. Within one modality the matrix is symmetric and only the tiles on and above the
diagonal are computed; a reduction then sees ``tile.mirrored`` and counts the tile for its transpose too.

Precision. Tiles have the rows' dtype (float32 for float32 embeddings, float64 for float64). A reduction adds up at
most some thousand numbers in that dtype, by pairwise summation or a matrix-vector product, and then goes on in
float64. The rounding of a tile's entries is independent from entry to entry, so that a sum of 10^9 float32 terms is
good to about 1e-8 of its value (tests/reductions/test_precision.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .rows import GroupedRows, Span

TILE_ROWS = 1024  # a float32 tile of 4 MB: large enough for full matrix-product speed, small enough for the cache

Progress = Callable[[float], None]


@dataclass
class Workspace:
    """Buffers that are allocated once and lent to the reductions of each tile in turn."""

    like: Tensor
    _floats: dict[str, Tensor] = field(default_factory=dict)

    def buffer(self, name: str, rows: int, cols: int, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous (rows, cols) view of the buffer `name`; its content is whatever was there."""
        dtype = dtype or self.like.dtype
        flat = self._floats.get(name)
        if flat is None or flat.numel() < rows * cols:
            flat = torch.empty(rows * cols, dtype=dtype, device=self.like.device)
            self._floats[name] = flat
        return flat[: rows * cols].view(rows, cols)


@dataclass(frozen=True)
class Tile:
    """A tile of similarities, and where it stands."""

    similarity: Tensor  # (a, b); reductions read it and do not write to it
    rows: Span
    cols: Span
    own: Tensor | None  # (a, b) bool, True where row and column belong to one group; None where no entry does
    mirrored: bool  # off the diagonal of a symmetric matrix: stands for its transpose as well
    workspace: Workspace

    def buffer(self, name: str) -> Tensor:
        """A scratch tile of this tile's shape and dtype."""
        return self.workspace.buffer(name, len(self.rows), len(self.cols))

    def mask(self) -> Tensor:
        """A scratch tile of booleans."""
        return self.workspace.buffer("mask", len(self.rows), len(self.cols), torch.bool)


class Reduction(ABC):
    """Something that is computed from all tiles, each seen once."""

    @abstractmethod
    def update(self, tile: Tile) -> None:
        """Take one tile into account."""


def sweep(
    x: GroupedRows,
    y: GroupedRows | None,
    reductions: Sequence[Reduction],
    *,
    progress: Progress | None = None,
    tile_rows: int = TILE_ROWS,
) -> None:
    """Walk the Gram matrix of x with y, or of x with itself where y is None, once.

    Args:
        x: the rows.
        y: the columns; None for the symmetric matrix of x with itself.
        reductions: each sees every tile once.
        progress: called after each stripe with the share of the work done since the last call (sums to 1).
        tile_rows: longest side of a tile.

    Source: DESIGN section 4, reductions.
    """
    symmetric = y is None
    columns = x if y is None else y
    workspace = Workspace(x.values)
    row_spans, col_spans = list(x.spans(tile_rows)), list(columns.spans(tile_rows))
    total = len(x) * len(columns) / (2 if symmetric else 1)
    for i, rows in enumerate(row_spans):
        stripe = col_spans[i:] if symmetric else col_spans
        for cols in stripe:
            similarity = workspace.buffer("similarity", len(rows), len(cols))
            torch.mm(x.values[rows.slice], columns.values[cols.slice].T, out=similarity)
            own = _own_groups(x, rows, columns, cols)
            mirrored = symmetric and cols.start != rows.start
            tile = Tile(similarity, rows, cols, own, mirrored, workspace)
            for reduction in reductions:
                reduction.update(tile)
        if progress is not None:
            done = sum(len(c) for c in stripe) * len(rows)
            progress((done - len(rows) ** 2 / 2 if symmetric else done) / total)


def _own_groups(x: GroupedRows, rows: Span, y: GroupedRows, cols: Span) -> Tensor | None:
    a, b = x.groups[rows.slice], y.groups[cols.slice]
    if a[0] > b[-1] or b[0] > a[-1]:  # groups ascend: most tiles hold no own entry at all
        return None
    return a[:, None] == b[None, :]


__all__ = ["TILE_ROWS", "Progress", "Reduction", "Tile", "Workspace", "sweep"]
