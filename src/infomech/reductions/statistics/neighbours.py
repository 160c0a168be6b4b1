"""The k nearest neighbours of every row, outside its own group, from one sweep."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..tiling import few_launches
from .gram import Reduction, Tile
from .rows import GroupedRows, Span

_CELL = 64  # consecutive columns whose maximum decides whether they are looked at
_DENSE_SHARE = 0.3  # above this share of cells with a candidate a tile is cheaper to sort whole


class NeighbourTable:
    """The k largest similarities seen so far for each of n rows, and the columns where they stand."""

    def __init__(self, rows: int, k: int, like: Tensor) -> None:
        self.values = like.new_full((rows, k), -torch.inf)
        self.indices = torch.full((rows, k), -1, dtype=torch.int64, device=like.device)

    @property
    def k(self) -> int:
        """How many neighbours are kept."""
        return self.values.shape[1]

    def offer(self, values: Float[Tensor, "a b"], rows: Span, columns: Span) -> None:
        """Take in a tile of similarities."""
        dense = few_launches(values.device)
        found = None if dense else _above(values, self.values[rows.slice, -1], self.k)
        if found is None:
            top, at = values.topk(min(self.k, values.shape[1]), dim=1)
            self._merge(torch.arange(rows.start, rows.stop, device=values.device), top, at + columns.start)
        elif len(found[0]):
            self._merge_sparse(found[0] + rows.start, values[found], found[1] + columns.start)

    def _merge_sparse(self, rows: Int[Tensor, " c"], values: Float[Tensor, " c"], columns: Int[Tensor, " c"]) -> None:
        """Take in single candidates; `rows` ascends."""
        present, counts = torch.unique_consecutive(rows, return_counts=True)
        starts = counts.cumsum(0) - counts
        slot = torch.arange(len(rows), device=rows.device) - torch.repeat_interleave(starts, counts)
        line = torch.repeat_interleave(torch.arange(len(present), device=rows.device), counts)
        width = int(counts.max())
        padded = values.new_full((len(present), width), -torch.inf)
        where = torch.full((len(present), width), -1, dtype=torch.int64, device=rows.device)
        padded[line, slot] = values
        where[line, slot] = columns
        self._merge(present, padded, where)

    def merge(self, other: "NeighbourTable") -> None:
        """Take in what another table of the same rows has found in other columns."""
        everything = torch.arange(len(self.values), device=self.values.device)
        self._merge(everything, other.values, other.indices)

    def _merge(self, rows: Tensor, values: Tensor, columns: Tensor) -> None:
        pool = torch.cat([self.values[rows], values], 1)
        where = torch.cat([self.indices[rows], columns], 1)
        top, at = pool.topk(self.k, dim=1)
        self.values[rows] = top
        self.indices[rows] = where.gather(1, at)


class NearestNeighbours(Reduction):
    """The k most similar columns of every row, and the k most similar rows of every column, outside the own group.

    After the first tiles a row's k-th best value rules out nearly every new entry, so that a tile costs the maxima of
    its cells of 64 entries, along rows and along columns, and a look into the few cells that pass.

    Args:
        x: the rows of the sweep.
        y: its columns, or None for a symmetric sweep; then ``of_columns`` is ``of_rows``.
        k: how many neighbours.

    Source: E3 (mixing), E4 (hubness).
    """

    def __init__(self, x: GroupedRows, y: GroupedRows | None, *, k: int) -> None:
        self._x, self._y, self._symmetric = x, y, y is None
        self._k = k
        other = x if y is None else y
        self.of_rows = NeighbourTable(len(x), min(k, len(other)), x.values)
        self.of_columns = self.of_rows if y is None else NeighbourTable(len(other), min(k, len(x)), x.values)

    def fork(self) -> "NearestNeighbours":  # noqa: D102
        return NearestNeighbours(self._x, self._y, k=self._k)

    def merge(self, other: "NearestNeighbours") -> None:  # noqa: D102
        self.of_rows.merge(other.of_rows)
        if not self._symmetric:
            self.of_columns.merge(other.of_columns)

    def update(self, tile: Tile) -> None:  # noqa: D102
        values = tile.similarity
        if tile.own is not None:
            values = torch.masked_fill(values, tile.own, -torch.inf)
        self.of_rows.offer(values, tile.rows, tile.cols)
        if tile.mirrored or not self._symmetric:
            self.of_columns.offer(values.T, tile.cols, tile.rows)


def _above(
    values: Float[Tensor, "a b"], threshold: Float[Tensor, " a"], k: int
) -> tuple[Int[Tensor, " c"], Int[Tensor, " c"]] | None:
    """Where values may be among a row's k largest, rows ascending; None if too many cells hold such an entry.

    An entry must exceed the row's threshold. A row that has none yet (-inf) takes the k-th largest maximum of its
    cells: k entries are at least as large.
    """
    lines, columns = [], []
    whole = values.shape[1] // _CELL * _CELL
    for start, stop in ((0, whole), (whole, values.shape[1])):
        if start == stop:
            continue
        part = values[:, start:stop]
        size = min(_CELL, stop - start)
        cells = part.unflatten(1, (-1, size))
        # a maximum across contiguous memory in the order in which it lies there: 30 times as fast
        top = cells.amax(2) if part.stride(1) == 1 else part.T.unflatten(0, (-1, size)).amax(1).T
        if top.shape[1] > k and bool((threshold == -torch.inf).any()):
            bound = top.topk(k, dim=1).values[:, -1]
            threshold = torch.maximum(threshold, torch.nextafter(bound, bound.new_tensor(-torch.inf)))
        line, cell = _nonzero(top > threshold[:, None])
        if len(line) > _DENSE_SHARE * top.numel():
            return None
        which, offset = _nonzero(cells[line, cell] > threshold[line, None])
        lines.append(line[which])
        columns.append(start + cell[which] * size + offset)
    line, column = torch.cat(lines), torch.cat(columns)
    order = torch.argsort(line, stable=True)
    return line[order], column[order]


def _nonzero(mask: Bool[Tensor, "a b"]) -> tuple[Int[Tensor, " c"], Int[Tensor, " c"]]:
    if mask.device.type == "cpu":  # numpy skips runs of False eight at a time; torch does not
        at = torch.from_numpy(np.flatnonzero(mask.numpy()))
        return at // mask.shape[1], at % mask.shape[1]
    rows, columns = torch.nonzero(mask).unbind(1)
    return rows, columns


__all__ = ["NearestNeighbours", "NeighbourTable"]
