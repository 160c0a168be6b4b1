"""Other scores for the same embeddings, for comparison only: each fitted on one set of pairs and applied to others.

All but QB-Norm are affine: score = slope x.y - b(x) - c(y). Formulas are the papers'; no code is theirs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ..corrections import MeanRemoval
from .density_ratio import DensityRatio
from .fields import NO_GROUP
from .weights import mean_reciprocal_rank

QB_TEMPERATURE = 0.05  # beta = 20, the default of QB-Norm
CSLS_NEIGHBOURS = 10
_NNN_NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64, 128)
_NNN_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
_TUNED_ON = 1000  # pairs of the reference that NNN's two numbers are chosen on

Side = Literal["x", "y"]


@dataclass(frozen=True)
class Fold:
    """What a score may learn from, and the rows that it is then asked about; unit rows, row i of x with row i of y."""

    bank_x: Float[Tensor, "k d"]
    bank_y: Float[Tensor, "k d"]
    x: Float[Tensor, "n d"]
    y: Float[Tensor, "m d"]
    temperature: float

    def turned(self) -> "Fold":
        """With the sides exchanged: the search from y to x."""
        return Fold(self.bank_y, self.bank_x, self.y, self.x, self.temperature)


class Baseline(ABC):
    """A score of queries (rows of x) against candidates (rows of y)."""

    pooled = True  # whether scores of different queries are on one scale

    @abstractmethod
    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        """Scores of the fold's rows, from its bank."""


class CosineScore(Baseline):
    """x.y."""

    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        return fold.x @ fold.y.T


class MeanRemoved(Baseline):
    """The cosine after each side's mean is taken away."""

    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        x, y = MeanRemoval().fit(fold.bank_x, fold.bank_y).transform(fold.x, fold.y)
        return x @ y.T


class InvertedSoftmax(Baseline):
    """s / tau - log sum over bank queries of exp(s(q, y) / tau) (Smith et al. 2017): the candidates' field at weight 1.

    Source: arXiv:1702.03859.
    """

    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        return fold.x @ fold.y.T / QB_TEMPERATURE - _log_sums(fold.bank_x, fold.y, QB_TEMPERATURE)


class QueryBankNorm(Baseline):
    """The inverted softmax for queries whose first candidate is first for some bank query, the cosine for the others.

    Scores of the two kinds of queries are on two scales: there is no rate over all pairs.

    Source: arXiv:2112.12777, dynamic inverted softmax.
    """

    pooled = False

    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        cosine = fold.x @ fold.y.T
        hubs = torch.zeros(len(fold.y), dtype=torch.bool)
        for part in fold.bank_x.split(4096):
            hubs[(part @ fold.y.T).argmax(1)] = True
        return torch.where(hubs[cosine.argmax(1)][:, None], InvertedSoftmax().scores(fold), cosine / QB_TEMPERATURE)


class NearestNeighbourNorm(Baseline):
    """x.y - a times the mean of the k largest bank similarities of y (NNN); a and k are chosen on the bank.

    Source: arXiv:2410.24114.
    """

    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        weight, k = self.tuned(fold)
        return fold.x @ fold.y.T - weight * _top_mean(fold.y, fold.bank_x, k)

    def tuned(self, fold: Fold) -> tuple[float, int]:
        """The weight and the number of neighbours of best mean reciprocal rank on a part of the bank, from the rest."""
        held = min(_TUNED_ON, len(fold.bank_x) // 2)
        queries, candidates, bank = fold.bank_x[:held], fold.bank_y[:held], fold.bank_x[held:]
        cosine = queries @ candidates.T
        best, chosen = -1.0, (0.0, 1)
        for k in _NNN_NEIGHBOURS:
            if k > len(bank):
                break
            bias = _top_mean(candidates, bank, k)
            for weight in _NNN_WEIGHTS:
                found = mean_reciprocal_rank(cosine - weight * bias)
                if found > best:
                    best, chosen = found, (weight, k)
        return chosen


class LocalScaling(Baseline):
    """2 x.y - r(x) - r(y), r the mean similarity to the 10 nearest bank rows of the other side (CSLS).

    Source: arXiv:1710.04087.
    """

    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        k = min(CSLS_NEIGHBOURS, len(fold.bank_x))
        return 2 * fold.x @ fold.y.T - _top_mean(fold.x, fold.bank_y, k)[:, None] - _top_mean(fold.y, fold.bank_x, k)


class Ratio(Baseline):
    """The density ratio: candidates' field alone at the measured weight to rank, both fields to tell pairs.

    Args:
        ranking: which of the two.
        corrected: whether means are removed first.
    """

    def __init__(self, *, ranking: bool, corrected: bool = False) -> None:
        self._ranking, self._corrected = ranking, corrected

    def scores(self, fold: Fold) -> Float[Tensor, "n m"]:
        ratio = DensityRatio(fold.temperature, correction=MeanRemoval() if self._corrected else None)
        ratio.fit(fold.bank_x, fold.bank_y)
        new = [torch.full((len(rows),), NO_GROUP) for rows in (fold.x, fold.y)]  # a row may well stand in both halves
        return ratio.log_ratios(fold.x, fold.y, ranking=self._ranking, groups_x=new[0], groups_y=new[1])


BASELINES: dict[str, Callable[[], Baseline]] = {
    "cosine": CosineScore,
    "density ratio": lambda: Ratio(ranking=True),
    "density ratio, both fields": lambda: Ratio(ranking=False),
    "density ratio, means removed": lambda: Ratio(ranking=True, corrected=True),
    "inverted softmax": InvertedSoftmax,
    "QB-Norm": QueryBankNorm,
    "NNN": NearestNeighbourNorm,
    "CSLS": LocalScaling,
    "mean removal": MeanRemoved,
}


def _log_sums(bank: Tensor, candidates: Tensor, temperature: float) -> Float[Tensor, " m"]:
    parts = [(part @ bank.T / temperature).logsumexp(1) for part in candidates.split(4096)]
    return torch.cat(parts)


def _top_mean(rows: Tensor, bank: Tensor, k: int) -> Float[Tensor, " n"]:
    parts = [(part @ bank.T).topk(k, dim=1).values.mean(1) for part in rows.split(4096)]
    return torch.cat(parts)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of unit length, float32 at least."""
    return normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)


__all__ = ["BASELINES", "Baseline", "Fold", "unit_rows"]
