"""Weights of the two fields that a reference measures on its own pairs, each pair left out of its fields."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from .reference import PairScores

MOST_MEASURED = 2048  # groups that the weights are measured on
_STEP = 0.05


def held_out_weights(scores: PairScores) -> tuple[float, float]:
    """(w, 1 - w) of least log loss in telling true pairs from random ones, both equally likely; w in steps of 0.05.

    Source: E9.
    """
    some = scores.first(MOST_MEASURED)
    shares = [round(k * _STEP, 2) for k in range(round(1 / _STEP) + 1)]
    losses = [log_loss(some.ratios((w, 1 - w))) for w in shares]
    best = shares[losses.index(min(losses))]
    return best, round(1 - best, 2)


def log_loss(ratios: Float[Tensor, "g g"]) -> float:
    """Mean of -log sigmoid(r) over true pairs and of -log sigmoid(-r) over random ones, halved."""
    count = len(ratios)
    true = ratios.diagonal()
    wrong = softplus(ratios).sum(dtype=torch.float64) - softplus(true).sum(dtype=torch.float64)
    return float(softplus(-true).double().mean() + wrong / (count * (count - 1))) / 2


def ranking_weight(scores: PairScores, side: str) -> float:
    """The weight of the candidates' field that gives the best mean reciprocal rank; of equals the smallest.

    Args:
        scores: of the reference's own pairs.
        side: whose rows are the candidates.

    Source: E9.
    """
    some = scores.first(MOST_MEASURED)
    table, field = some.scores, some.field_y
    if side == "x":
        table, field = table.T, some.field_x.T
    tried = [round(2 * _STEP * k, 2) for k in range(13)]
    found = [mean_reciprocal_rank(table - weight * field) for weight in tried]
    return tried[found.index(max(found))]


def mean_reciprocal_rank(ratios: Float[Tensor, "g g"]) -> float:
    """Of the diagonal among each row; ties count half."""
    true = ratios.diagonal()[:, None]
    above = (ratios > true).sum(1).double()
    tied = (ratios == true).sum(1).double() - 1
    return float((1 / (1 + above + tied / 2)).mean())


__all__ = ["MOST_MEASURED", "held_out_weights", "log_loss", "mean_reciprocal_rank", "ranking_weight"]
