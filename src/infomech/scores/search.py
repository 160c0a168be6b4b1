"""The best candidates of many queries, without ever holding all scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError
from .._typing import Progress, RowsLike
from ..io import as_rows

if TYPE_CHECKING:
    from .density_ratio import DensityRatio

_QUERIES = 2048  # at once against one block of candidates


@dataclass(frozen=True)
class Matches:
    """The k best candidates of each query, best first.

    Args:
        rows: (n, k) row of each candidate.
        ranking: (n, k) what they are ranked by: the query vector times the index vector.
    """

    rows: Int[Tensor, "n k"]
    ranking: Float[Tensor, "n k"]


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
    if k < 1:
        raise InputError(f"k is {k}; ask for one candidate at least")
    total = len(as_rows(candidates, side))
    k = min(k, total)
    asked = ratio.query_vectors(queries, side="x" if side == "y" else "y")
    best = asked.new_full((len(asked), k), -torch.inf)
    rows = torch.zeros(len(asked), k, dtype=torch.int64, device=asked.device)
    start = 0
    for block in ratio.index_blocks(candidates, side=side, progress=progress):
        for at in range(0, len(asked), _QUERIES):
            here = slice(at, at + _QUERIES)
            scores = asked[here] @ block.T
            top, place = scores.topk(min(k, len(block)), dim=1)
            pool = torch.cat([best[here], top], 1)
            found = torch.cat([rows[here], place + start], 1)
            best[here], order = pool.topk(k, dim=1)
            rows[here] = found.gather(1, order)
        start += len(block)
    return Matches(rows, best)


__all__ = ["Matches", "best_matches"]
