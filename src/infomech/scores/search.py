"""The best candidates of many queries, without ever holding all scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import check_progress, check_whole
from .._shown import Brief, Fields, data_frame
from .._typing import Progress, RowsLike
from .._words import number
from ..io import as_rows
from ..reductions import full_precision
from .fields import NO_GROUP, Kernel, Side, log_field_without

if TYPE_CHECKING:
    from .density_ratio import DensityRatio

_FEW, _LINES = 5, 8  # candidates that a line shows, and lines
_QUERIES = 2048  # at once against one block of candidates


@dataclass(frozen=True, repr=False)
class Matches(Fields):
    """The k best candidates of each query, best first.

    Args:
        rows: (n, k) row of each candidate.
        ranking: (n, k) what they are ranked by: the query vector times the index vector.
    """

    rows: Int[Tensor, "n k"]
    ranking: Float[Tensor, "n k"]

    def _brief(self) -> Brief:
        n, k = self.rows.shape
        rows = [
            [f"{query:,}", ", ".join(map(str, self.rows[query, :_FEW].tolist())), number(float(self.ranking[query, 0]))]
            for query in range(n if n <= _LINES else _LINES - 1)
        ]
        if n > _LINES:
            rows.append([f"... and {n - len(rows):,} more", "", ""])
        title = f"The {k:,} best candidates of each of {n:,} queries, best first"
        return Brief(title, ["query", f"rows (the first {min(k, _FEW)})", "ranking of the first"], rows)

    def to_pandas(self) -> Any:
        """A data frame with a row for each query and rank.

        Raises:
            InputError: if pandas is not installed.
        """
        places = [(query, place) for query in range(len(self.rows)) for place in range(self.rows.shape[1])]
        pairs = zip(places, self.rows.flatten().tolist(), self.ranking.flatten().tolist(), strict=True)
        records = [{"query": q, "rank": place + 1, "row": row, "ranking": score} for (q, place), row, score in pairs]
        return data_frame(records, index=["query", "rank"])


@dataclass(frozen=True)
class CandidateBlock:
    """Some candidates with what their ranking rests on.

    Args:
        vectors: (k, d + 1) index vectors.
        own: (k,) group of the reference that each is of, -1 for none.
        field: (k,) log field without it.
        terms: (k,) what the critic adds.
        side: the reference's rows that the field is of.
        kernel: slope and temperature.
        weight: of the field.
    """

    vectors: Float[Tensor, "k w"]
    own: Int[Tensor, " k"]
    field: Float[Tensor, " k"]
    terms: Float[Tensor, " k"] | None
    side: Side
    kernel: Kernel
    weight: float

    def scores(self, asked: Float[Tensor, "n w"], groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """What query vectors rank by; the groups of queries that are the reference's own leave the fields, too."""
        scores = asked @ self.vectors.T
        known = torch.nonzero(groups != NO_GROUP).flatten()
        if self.weight and len(known):
            rows = self.vectors[:, :-1].contiguous()
            without = log_field_without(
                rows, self.side, self.kernel, own=self.own, others=groups[known], terms=self.terms, whole=self.field
            )
            scores[known] -= self.weight * (without - self.field[:, None].to(without.dtype)).T
        return scores


@full_precision()
def best_matches(
    ratio: "DensityRatio",
    queries: RowsLike,
    candidates: RowsLike,
    *,
    k: int,
    side: str = "y",
    progress: Progress | None = None,
) -> Matches:
    """Search candidates for each query by the ranking score, tile by tile.

    Rows of the reference itself are recognised: neither a query's group nor a candidate's is in the field that ranks.

    Args:
        ratio: fitted.
        queries: (n, d) rows of the other side.
        candidates: (m, d) rows, of any number: they are read once.
        k: how many to keep, at most m are.
        side: whose rows the candidates are.
        progress: called with shares of the work that sum to 1.

    Raises:
        InputError: for a k below 1, or rows that cannot be used.
    """
    check_whole(k, "k", least=1)
    check_progress(progress)
    total = len(as_rows(candidates, side))
    k = min(k, total)
    other = "x" if side == "y" else "y"
    asked, groups = ratio.query_vectors(queries, side=other), ratio.groups_of(queries, side=other)
    best = asked.new_full((len(asked), k), -torch.inf)
    rows = torch.zeros(len(asked), k, dtype=torch.int64, device=asked.device)
    start = 0
    for block in ratio.candidate_blocks(candidates, side=side, progress=progress):
        for at in range(0, len(asked), _QUERIES):
            here = slice(at, at + _QUERIES)
            scores = block.scores(asked[here], groups[here])
            top, place = scores.topk(min(k, len(block.own)), dim=1)
            pool = torch.cat([best[here], top], 1)
            found = torch.cat([rows[here], place + start], 1)
            best[here], order = pool.topk(k, dim=1)
            rows[here] = found.gather(1, order)
        start += len(block.own)
    return Matches(rows, best)


__all__ = ["CandidateBlock", "Matches", "best_matches"]
