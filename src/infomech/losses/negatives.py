"""How negatives count: harder ones more, those that look like positives not at all."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._checks import InputError
from ..reductions.exclusion import Above, BeyondEach, Exclusion, Guided, Nothing

On = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]


@dataclass(frozen=True)
class Hardness:
    """Negatives count more the more they look like their anchor: their score gains strength times the similarity.

        logit of a negative = s(x_i, y_j) / tau + strength sg(s(x_i, y_j)),   sg: no gradient flows

    Args:
        strength: alpha >= 0; 9 in Lan et al. 2025, 5 for explicit hard negatives in EmbeddingGemma.
        on: ``"in_batch_negatives"``, the other rows of the batch; ``"hard_negatives"``, the explicit ones, of each
            anchor where it has a set of its own; ``"all_negatives"``.
        directions: of a symmetric loss, the directions in which it counts. sentence-transformers has ``("xy",)``.

    Source: Lan et al. 2025 (2503.04812), equation 5; the modes are those of sentence-transformers.
    """

    strength: float
    on: On = "all_negatives"
    directions: tuple[str, ...] = ("xy", "yx")

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise InputError(f"the strength of Hardness is {self.strength}; expected a finite number, 0 or above")
        if self.on not in ("in_batch_negatives", "hard_negatives", "all_negatives"):
            raise InputError(
                f"Hardness is on {self.on!r}; expected 'in_batch_negatives', 'hard_negatives' or 'all_negatives'"
            )

    def strength_of(self, *, explicit: bool) -> float:
        """The strength for explicit negatives, or for those of the batch."""
        on = "hard_negatives" if explicit else "in_batch_negatives"
        return self.strength if self.on in (on, "all_negatives") else 0.0


@dataclass(frozen=True)
class FalseNegatives:
    """Negatives that score almost as their anchor's positive, or more, are left out of its softmax.

    A negative j of anchor i is left out if its similarity is above the positive's less the margin, or above
    positive - |positive| margin where ``relative``. Similarities are those of the loss's own rows, or of a guide's rows
    (``guide=`` of the call; GIST). Of several positives their mean counts.

    Args:
        margin: >= 0 where relative, any number otherwise: 0.05 leaves out what comes within 0.05 of the positive. At 0
            an exact duplicate of the positive may be on either side, by rounding.
        relative: whether the margin is a share of the positive's similarity.

    Source: Solatorio 2024 (2402.16829); margins as in sentence-transformers' GISTEmbedLoss.
    """

    margin: float = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin) or (self.relative and self.margin < 0):
            raise InputError(f"the margin of FalseNegatives is {self.margin}; expected a finite number")

    def thresholds(self, positive: Tensor) -> Tensor:
        """The similarities above which negatives are left out, from those of the positives."""
        return positive - (positive.abs() * self.margin if self.relative else self.margin)


@dataclass(frozen=True)
class Thresholds:
    """What a filter compares: a threshold for each anchor, and the guide's rows of the anchors if there is a guide."""

    values: Tensor  # (n,) similarities
    guide: Tensor | None = None

    def exclusion(self, scale: Tensor, guide: Tensor | None) -> Exclusion:
        """What leaves false negatives out of a sweep whose scores are scale x.y, or whose columns have these guides."""
        if self.guide is None:
            return Above((self.values * scale).detach())
        return Nothing() if guide is None else Guided(self.guide, guide, self.values)

    def of_sets(self, similarities: Tensor, guides: Tensor | None) -> Tensor:
        """The same for k negatives of each anchor's own, (n, k) booleans."""
        if self.guide is None:
            return similarities.detach() > self.values.unsqueeze(1)
        if guides is None:
            return torch.zeros_like(similarities, dtype=torch.bool)
        return torch.einsum("nd,nkd->nk", self.guide, guides) > self.values.unsqueeze(1).to(self.guide.dtype)


def beyond_each(of_pairs: Thresholds, guide_of_cols: Tensor | None, scale: Tensor) -> BeyondEach:
    """What leaves false negatives out of one sweep for both directions, row i being paired with column i."""
    if of_pairs.guide is None or guide_of_cols is None:
        limits = (of_pairs.values * scale).detach()
        return BeyondEach(limits, limits)
    return BeyondEach(of_pairs.values, of_pairs.values, (of_pairs.guide, guide_of_cols))


__all__ = ["FalseNegatives", "Hardness", "On", "Thresholds", "beyond_each"]
