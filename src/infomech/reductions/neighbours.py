"""The k nearest neighbours of every row, outside its own group, from one sweep."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .gram import Reduction, Tile
from .rows import GroupedRows, Span

_DENSE_SHARE = 0.05  # above this share of candidates a tile is cheaper to sort whole


class NeighbourTable:
    """The k largest similarities seen so far for each of n rows, and the columns where they stand."""

    def __init__(self, rows: int, k: int, like: Tensor) -> None:
        self.values = like.new_full((rows, k), -torch.inf)
        self.indices = torch.full((rows, k), -1, dtype=torch.int64, device=like.device)

    @property
    def k(self) -> int:
        """How many neighbours are kept."""
        return self.values.shape[1]

    def threshold(self, span: Span) -> Float[Tensor, " a"]:
        """What a new neighbour must exceed, for each row of a span."""
        return self.values[span.slice, -1]

    def merge_dense(self, span: Span, values: Float[Tensor, "a b"], first_column: int) -> None:
        """Take in a whole tile of similarities whose first column is number `first_column`."""
        top, at = values.topk(min(self.k, values.shape[1]), dim=1)
        self._merge(torch.arange(span.start, span.stop, device=values.device), top, at + first_column)

    def merge_sparse(self, rows: Int[Tensor, " c"], values: Float[Tensor, " c"], columns: Int[Tensor, " c"]) -> None:
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

    def _merge(self, rows: Tensor, values: Tensor, columns: Tensor) -> None:
        pool = torch.cat([self.values[rows], values], 1)
        where = torch.cat([self.indices[rows], columns], 1)
        top, at = pool.topk(self.k, dim=1)
        self.values[rows] = top
        self.indices[rows] = where.gather(1, at)


class NearestNeighbours(Reduction):
    """The k most similar columns of every row, and the k most similar rows of every column, outside the own group.

    After the first tiles a row's k-th best value rules out nearly every new entry, so that a tile costs two
    comparisons and a search for the few entries that pass.

    Args:
        x: the rows of the sweep.
        y: its columns, or None for a symmetric sweep; then ``of_columns`` is ``of_rows``.
        k: how many neighbours.

    Source: E3 (mixing), E4 (hubness).
    """

    def __init__(self, x: GroupedRows, y: GroupedRows | None, *, k: int) -> None:
        self._symmetric = y is None
        other = x if y is None else y
        self.of_rows = NeighbourTable(len(x), min(k, len(other)), x.values)
        self.of_columns = self.of_rows if y is None else NeighbourTable(len(other), min(k, len(x)), x.values)

    def update(self, tile: Tile) -> None:  # noqa: D102
        values = tile.similarity
        if tile.own is not None:
            values = torch.masked_fill(values, tile.own, -torch.inf)
        self._offer(tile, values, self.of_rows, tile.rows, tile.cols)
        if tile.mirrored or not self._symmetric:
            self._offer_columns(tile, values)

    def _offer(self, tile: Tile, values: Tensor, table: NeighbourTable, rows: Span, cols: Span) -> None:
        candidates = torch.gt(values, table.threshold(rows)[:, None], out=tile.mask())
        at = _flat_nonzero(candidates)
        if len(at) > _DENSE_SHARE * values.numel():
            table.merge_dense(rows, values, cols.start)
        elif len(at):
            line, column = at // values.shape[1], at % values.shape[1]
            table.merge_sparse(line + rows.start, values[line, column], column + cols.start)

    def _offer_columns(self, tile: Tile, values: Tensor) -> None:
        table, rows, cols = self.of_columns, tile.rows, tile.cols
        candidates = torch.gt(values, table.threshold(cols)[None, :], out=tile.mask())
        at = _flat_nonzero(candidates)
        if len(at) > _DENSE_SHARE * values.numel():
            table.merge_dense(cols, values.T.contiguous(), rows.start)
        elif len(at):
            line, column = at // values.shape[1], at % values.shape[1]
            order = torch.argsort(column, stable=True)
            line, column = line[order], column[order]
            table.merge_sparse(column + cols.start, values[line, column], line + rows.start)


def _flat_nonzero(mask: Tensor) -> Tensor:
    if mask.device.type == "cpu":  # numpy skips runs of False eight at a time; torch does not
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return torch.nonzero(mask.flatten()).flatten()


__all__ = ["NearestNeighbours", "NeighbourTable"]
