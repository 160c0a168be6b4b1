"""Ranks of the true pairs: how many wrong candidates score above the best right one, exactly, ties included."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..exclusion import Entries
from ..losses.backends import Backend, takes_kernels
from .gram import Reduction, Tile

TIE = 1e-9  # similarities of unit rows that differ by less, in float64, are tied
_CHUNK = 8192  # doubtful entries that are recomputed at once

ExactSimilarity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Queries:
    """What each query of one side looks for.

    Args:
        best: (n,) float64 similarity of each query's best positive.
        positives: (p, 2) pairs (query, candidate) that are not counted as wrong candidates, by query ascending.
    """

    best: Float[Tensor, " n"]
    positives: Int[Tensor, "p 2"]


class RankCounts(Reduction):
    """For every row and column of x against y: wrong candidates above the best positive, and tied with it.

    A tile of float32 similarities decides all but the few entries within `doubt` of the threshold; those are computed
    again in float64 from the rows as they were given, so that the counts are those of a float64 evaluation. Two
    similarities are tied if they differ by less than 1e-9.

    Args:
        rows: the row queries.
        columns: the column queries.
        exact: float64 similarities of the row indices and column indices given; None to let `doubt` decide ties.
        doubt: bound on the rounding error of a tile's entries.
        backend: ``"auto"`` takes Triton kernels for tiles on CUDA, where they can be used; see the losses.

    Source: E5.
    """

    def __init__(
        self,
        rows: Queries,
        columns: Queries,
        *,
        exact: ExactSimilarity | None,
        doubt: float,
        backend: Backend = "auto",
    ) -> None:
        self._rows, self._columns = rows, columns
        self._row_positives, self._column_positives = Entries(rows.positives), Entries(columns.positives)
        self._exact, self._doubt, self._backend = exact, doubt, backend
        self.rows_above = torch.zeros_like(rows.best)
        self.rows_tied = torch.zeros_like(rows.best)
        self.columns_above = torch.zeros_like(columns.best)
        self.columns_tied = torch.zeros_like(columns.best)

    def fork(self) -> "RankCounts":  # noqa: D102
        return RankCounts(self._rows, self._columns, exact=self._exact, doubt=self._doubt, backend=self._backend)

    def merge(self, other: "RankCounts") -> None:  # noqa: D102
        self.rows_above += other.rows_above
        self.rows_tied += other.rows_tied
        self.columns_above += other.columns_above
        self.columns_tied += other.columns_tied

    def update(self, tile: Tile) -> None:  # noqa: D102
        hidden, _ = self._row_positives.within(tile.rows.slice, tile.cols.slice)
        best = self._rows.best[tile.rows.slice]
        above, tied = self._count(tile, hidden, best[:, None], dim=1)
        self.rows_above[tile.rows.slice] += above
        self.rows_tied[tile.rows.slice] += tied
        hidden, _ = self._column_positives.within(tile.cols.slice, tile.rows.slice)
        best = self._columns.best[tile.cols.slice]
        above, tied = self._count(tile, hidden.flip(1), best[None, :], dim=0)
        self.columns_above[tile.cols.slice] += above
        self.columns_tied[tile.cols.slice] += tied

    def _count(self, tile: Tile, hidden: Tensor, best: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
        values = tile.similarity
        if len(hidden):
            values = tile.buffer("square").copy_(values)
            values[hidden[:, 0], hidden[:, 1]] = -torch.inf
        dtype = values.dtype
        high, low = (best + self._doubt).to(dtype), (best - self._doubt).to(dtype)
        if takes_kernels(self._backend, "", values):
            from ..kernels.counts import counts_above  # here: it imports Triton, which need not be there

            above, near = counts_above(values, high.flatten(), low.flatten(), transposed=dim == 0)
        else:
            passed = tile.buffer("kernel")
            above = torch.gt(values, high, out=passed).sum(dim).double()
            near = torch.gt(values, low, out=passed).sum(dim).double() - above
        if self._exact is None or not bool((near > 0).any()):
            return above, near
        return self._settle(tile, values, (low, high), best, above, dim=dim)

    def _settle(
        self, tile: Tile, values: Tensor, bounds: tuple[Tensor, Tensor], best: Tensor, above: Tensor, *, dim: int
    ) -> tuple[Tensor, Tensor]:
        low, high = bounds
        tied = torch.zeros_like(above)
        doubtful = torch.nonzero((values > low) & (values <= high))
        assert self._exact is not None
        for chunk in doubtful.split(_CHUNK):
            query = chunk[:, 1 - dim]
            margin = self._exact(chunk[:, 0] + tile.rows.start, chunk[:, 1] + tile.cols.start)
            margin = margin - best.flatten()[query]
            above.index_add_(0, query, (margin > TIE).double())
            tied.index_add_(0, query, (margin.abs() <= TIE).double())
        return above, tied


def expected_hits(
    above: Float[Tensor, " n"], tied: Float[Tensor, " n"], tied_positives: Float[Tensor, " n"], k: int
) -> Float[Tensor, " n"]:
    """Probability that a positive stands among the first k when ties are broken at random.

    With a wrong candidates above, e tied and t positives tied at the top, the first k hold k - a of the e + t tied
    ones: 1 - prod_{s < k - a} (e - s) / (e + t - s). Without ties this is 1 if a < k, else 0. Embeddings that are
    all equal score at chance.
    """
    s = torch.arange(k, dtype=above.dtype, device=above.device)[:, None]
    factor = ((tied - s) / (tied + tied_positives - s).clamp_min(1)).clamp_min(0)
    miss = torch.where(k - above > s, factor, 1.0).prod(0)
    return 1 - miss


__all__ = ["TIE", "Queries", "RankCounts", "expected_hits"]
