"""Cross-modal retrieval (E5): recall and median rank both ways, with ties broken fairly, and a shuffled control."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures import PairedSample
from ..reductions import GroupedRows, expected_hits
from .estimate import Estimate
from .gram_statistics import RankSweeps
from .uncertainty import effective_number, group_totals, proportion_estimate, quantile_estimate, unless_few

RECALL_AT = (1, 5, 10)


def retrieval_scores(
    sample: PairedSample, ranks: RankSweeps, *, group_hits: dict[str, Tensor] | None = None
) -> dict[str, Estimate]:
    """Recall at 1, 5, 10 and the median rank, x to y and y to x, and the recalls of shuffled pairs.

    Each row is one query against all rows of the other side. It finds a pair if any of its partners stands among the
    first k; the other partners do not count as wrong candidates. Two candidates are tied if their cosines differ by
    less than 1e-9 in float64; ties are broken at random, in expectation, so that embeddings that are all equal score
    at chance. The rank of a query is the expected rank of its best partner.

    Intervals: Wilson's at the effective number of independent queries, by group, for the recalls (the gallery is held
    as it is, and has at least 15 effective groups, or the interval is withheld); Woodruff's by group for the median
    rank, where queries, too, have 15 effective groups. The control gives each query the partners of another query.

    `group_hits` is filled with the hits of each group, by the names of the recalls.

    Source: E5.
    """
    out: dict[str, Estimate] = {}
    galleries = {
        "x_to_y": _effective_groups(sample, sample.y),
        "y_to_x": _effective_groups(sample, sample.x),
    }
    sides = (
        ("x_to_y", sample.x, ranks.true.rows_above, ranks.true.rows_tied, ranks.tied_positives[0]),
        ("y_to_x", sample.y, ranks.true.columns_above, ranks.true.columns_tied, ranks.tied_positives[1]),
    )
    for name, rows, above, tied, positives in sides:
        for k in RECALL_AT:
            hits = expected_hits(above, tied, positives, k)
            recall = proportion_estimate(hits, rows.groups, sample.groups)
            out[f"{name}_recall_at_{k}"] = unless_few(recall, galleries[name])
            if group_hits is not None:
                group_hits[f"{name}_recall_at_{k}"] = group_totals(hits, rows.groups, sample.groups)
        rank = expected_rank(above, tied, positives)
        median = quantile_estimate(rank, 0.5, rows.groups, sample.groups)
        out[f"{name}_median_rank"] = unless_few(median, min(galleries[name], _effective_groups(sample, rows)))
    control = ranks.shuffled
    shuffled = (
        ("x_to_y", sample.x, control.rows_above, control.rows_tied, ranks.shuffled_tied_positives[0]),
        ("y_to_x", sample.y, control.columns_above, control.columns_tied, ranks.shuffled_tied_positives[1]),
    )
    for name, rows, above, tied, positives in shuffled:
        for k in RECALL_AT:
            hits = expected_hits(above, tied, positives, k)
            recall = proportion_estimate(hits, rows.groups, sample.groups)
            out[f"shuffled_{name}_recall_at_{k}"] = unless_few(recall, galleries[name])
    return out


def _effective_groups(sample: PairedSample, rows: GroupedRows) -> float:
    return effective_number(torch.bincount(rows.groups, minlength=sample.groups).double())


def expected_rank(
    above: Float[Tensor, " n"], tied: Float[Tensor, " n"], tied_positives: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Expected rank of the best positive, 1 for the first: 1 + a + e / (t + 1), ties broken at random.

    >>> import torch
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> expected_rank(2 * one, 4 * one, one)
    tensor([5.], dtype=torch.float64)
    """
    return 1 + above + tied / (tied_positives + 1)


__all__ = ["RECALL_AT", "expected_rank", "retrieval_scores"]
