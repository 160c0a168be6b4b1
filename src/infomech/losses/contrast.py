"""The general softmax of a contrastive loss: several positives, blocks of negatives, hardness, a filter, smoothing."""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ..reductions.exclusion import Exclusion, Nothing
from ..reductions.losses.linear import score_sums
from ..reductions.losses.sets import set_products
from .negatives import FalseNegatives, Hardness, Thresholds
from .positives import Positives, Several, joined
from .scores import log_sum, log_sums_of_rows

Vector = Float[Tensor, " n"]


@dataclass(frozen=True)
class Critical:
    """A critic over a temperature: scores scale x.y + b(x) + c(y)."""

    scale: Tensor  # slope / tau
    slope: float
    inverse_temperature: Tensor


@dataclass(frozen=True)
class Block:
    """Rows that all anchors meet as negatives."""

    rows: Float[Tensor, "m d"]
    own: Float[Tensor, " m"] | None = None  # the critic's terms over tau
    log_weights: Float[Tensor, " m"] | None = None
    exclusion: Exclusion = field(default_factory=Nothing)
    explicit: bool = False  # hard negatives, not rows of the batch
    guide: Float[Tensor, "m k"] | None = None
    groups: Shaped[Tensor, " m"] | None = None  # of rows of past batches

    def followed_by(self, other: "Block") -> "Block":
        """Both blocks in one, with the exclusion of the first."""
        m, k = len(self.rows), len(other.rows)
        parts = [
            None if a is None and b is None else torch.cat([_or_zeros(a, m, self.rows), _or_zeros(b, k, self.rows)])
            for a, b in ((self.own, other.own), (self.log_weights, other.log_weights))
        ]
        guide = None if self.guide is None or other.guide is None else torch.cat([self.guide, other.guide])
        return replace(self, rows=torch.cat([self.rows, other.rows]), own=parts[0], log_weights=parts[1], guide=guide)


def _or_zeros(terms: Tensor | None, count: int, like: Tensor) -> Tensor:
    return torch.zeros(count, dtype=torch.float64, device=like.device) if terms is None else terms


@dataclass(frozen=True)
class Sets:
    """Negatives of each anchor's own."""

    rows: Float[Tensor, "n k d"]
    own: Float[Tensor, "n k"] | None = None
    log_weights: Float[Tensor, "n k"] | None = None
    guide: Float[Tensor, "n k g"] | None = None


@dataclass(frozen=True)
class Softmax:
    """What one direction's softmax is made of, for every anchor; float64."""

    positive: Vector  # the score of the positive, or what stands for several
    rest: Vector  # log-sum over negatives
    of_positives: Vector  # log-sum over positives, as they stand in the sum
    single: bool
    logits: Vector | None = None  # the sum of all logits, and how many
    classes: Vector | None = None

    @property
    def total(self) -> Vector:
        """The log-sum over everything."""
        return torch.logaddexp(self.rest, self.of_positives)


class InBatch(NamedTuple):
    """What is known of a direction's softmax from a sweep that it shares with another."""

    rest: Vector  # the log-sum over the batch's negatives
    positive: Vector | None = None  # the bare scores of single positives


@dataclass(frozen=True)
class Direction:
    """One set of anchors, its candidates and all its negatives."""

    anchors: Float[Tensor, "n d"]
    positives: Positives
    candidates: Block  # its exclusion is that of entries which are neither positives nor negatives
    critical: Critical
    further: tuple[Block, ...] = ()
    sets: Sets | None = None
    in_batch: bool = True
    weigh_positive: bool = False
    several: Several = "mean_log"
    hardness: Hardness | None = None
    filter: FalseNegatives | None = None
    guide: Float[Tensor, "n k"] | None = None  # the guide's rows of the anchors
    smoothing: bool = False
    bound: float | None = None  # on every score without hardness
    given: Thresholds | None = None  # of the filter, where they are those of other rows
    backend: str = "auto"

    def softmax(self, known: "InBatch | None" = None) -> Softmax:
        """Sweep over all blocks but what is known of the batch already."""
        scale, block = self.critical.scale, self.candidates
        own, weighted = block.own, _added(block.own, block.log_weights)
        terms = weighted if self.weigh_positive else own
        single = self.positives.single
        x, y = self.anchors, block.rows
        if known is not None and known.positive is not None:
            positive = known.positive if terms is None else known.positive + terms.narrow(0, 0, x.shape[0])
        elif single or self.several == "mean_log":
            positive = self.positives.means(x, y, scale, terms)
        else:
            positive = self.positives.log_sums(x, y, scale, terms, self.bound) - self.positives.counts().log()
        of_positives = positive if single else self.positives.log_sums(x, y, scale, weighted, self.bound)
        blocks, parts = self.further, [] if known is None else [known.rest]
        if self.in_batch:
            others = joined(self.positives.exclusion(), block.exclusion)
            blocks = (replace(block, exclusion=others), *self.further)
        to_sweep = blocks[len(parts) :]
        thresholds = self.thresholds() if to_sweep or self.sets is not None or self.smoothing else None
        parts += [self._log_sums(part, thresholds) for part in to_sweep]
        logits = None if self.sets is None else self._set_logits(self.sets, thresholds)
        if logits is not None:
            parts.append(log_sum(logits, 1))
        rest = log_sum(torch.stack(parts), 0) if len(parts) > 1 else parts[0]
        if not self.smoothing:
            return Softmax(positive, rest, of_positives, single)
        of_positive = (positive, self.positives.counts()) if single else self._positive_classes(weighted)
        total, count = self._classes(of_positive, blocks, thresholds, logits)
        return Softmax(positive, rest, of_positives, single, total, count)

    def thresholds(self) -> Thresholds | None:
        """Where the filter cuts, if there is one."""
        if self.filter is None or self.given is not None:
            return self.given
        with torch.no_grad():
            one = torch.ones((), dtype=torch.float64, device=self.anchors.device)
            if self.guide is None:
                mean = self.positives.means(self.anchors, self.candidates.rows, one, None)
                return Thresholds(self.filter.thresholds(mean))
            assert self.candidates.guide is not None
            mean = self.positives.means(self.guide, self.candidates.guide, one, None)
            return Thresholds(self.filter.thresholds(mean), self.guide)

    def _log_sums(self, block: Block, thresholds: Thresholds | None) -> Vector:
        x, y, scale, terms, exclusion, bound = self.swept(block, thresholds)
        return log_sums_of_rows(x, y, scale=scale, y_terms=terms, score_bound=bound, exclusion=exclusion,
                                backend=self.backend)  # fmt: skip

    def swept(
        self, block: Block, thresholds: Thresholds | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Exclusion, float | None]:
        """Anchors, rows, scale, terms, exclusion and bound of a sweep over a block."""
        strength = 0.0 if self.hardness is None else self.hardness.strength_of(explicit=block.explicit)
        x, y, scale, own = self.anchors, block.rows, self.critical.scale, block.own
        bound = self.bound if not block.explicit else None
        if strength > 0:
            harder = scale + strength * self.critical.slope
            share = (scale / harder).detach()  # of the scores, through which gradients flow
            x, y = _with_gradient_of(x, share), _with_gradient_of(y, share)
            if own is not None:
                own = own + strength * (own / self.critical.inverse_temperature).detach()
            scale, bound = harder, None
        cut: Exclusion = Nothing() if thresholds is None else thresholds.exclusion(scale, block.guide)
        return x, y, scale, _added(own, block.log_weights), joined(cut, block.exclusion), bound

    def _set_logits(self, sets: Sets, thresholds: Thresholds | None) -> Float[Tensor, "n k"]:
        """The logits of negatives of an anchor's own, -inf where they are left out."""
        inner = set_products(self.anchors, sets.rows, self.backend)
        logits = _added(inner * self.critical.scale, sets.own)
        assert logits is not None
        strength = 0.0 if self.hardness is None else self.hardness.strength_of(explicit=True)
        if strength > 0:
            logits = logits + strength * (logits / self.critical.inverse_temperature).detach()
        logits = logits if sets.log_weights is None else logits + sets.log_weights
        if thresholds is not None:
            logits = logits.masked_fill(thresholds.of_sets(inner, sets.guide), -math.inf)
        return logits

    def _positive_classes(self, terms: Tensor | None) -> tuple[Vector, Vector]:
        """The sum of the logits of several positives, and their number, without those that a term of -inf removes."""
        x, y, scale, count = self.anchors, self.candidates.rows, self.critical.scale, self.positives.counts()
        if terms is None:
            return self.positives.means(x, y, scale, None) * count, count
        there = terms > -math.inf
        left = torch.where(there.unsqueeze(1), y, 0.0), torch.where(there, terms, 0.0)
        nothing = x.detach().narrow(1, 0, 1) * 0.0, y.detach().narrow(1, 0, 1) * 0.0
        share = self.positives.means(*nothing, scale.detach(), there.double())
        return self.positives.means(x, left[0], scale, left[1]) * count, share * count

    def _classes(
        self,
        of_positives: tuple[Vector, Vector],
        blocks: tuple[Block, ...],
        thresholds: Thresholds | None,
        sets: Tensor | None,
    ) -> tuple[Vector, Vector]:
        """The sum of the logits of all that stands in the softmax, and how many there are."""
        total, count = of_positives
        for block in blocks:
            x, y, scale, all_terms, exclusion, _ = self.swept(block, thresholds)
            more, found = score_sums(x, y, scale=scale, terms=all_terms, exclusion=exclusion, backend=self.backend)
            total, count = total + more, count + found
        if sets is not None:
            there = sets > -math.inf
            total, count = total + torch.where(there, sets, 0.0).sum(1), count + there.sum(1)
        return total, count


def losses_of(softmax: Softmax, smoothing: float = 0.0) -> Vector:
    """-log of the positive's share, mixed with the mean of -log of all shares where labels are smoothed."""
    if softmax.single:
        # log(1 + negatives / positive) keeps its digits when the loss is small.
        loss = torch.logaddexp(softmax.rest - softmax.positive, torch.zeros_like(softmax.rest))
    else:
        loss = softmax.total - softmax.positive
    if smoothing == 0:
        return loss
    assert softmax.logits is not None
    assert softmax.classes is not None
    return (1 - smoothing) * loss + smoothing * (softmax.total - softmax.logits / softmax.classes)


def _with_gradient_of(rows: Tensor, share: Tensor) -> Tensor:
    """The rows, with a gradient that is multiplied by a number."""
    if not rows.requires_grad:
        return rows
    fixed = rows.detach()
    return fixed + (rows - fixed) * share.to(rows.dtype)


def _added(*parts: Tensor | None) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0]) if there else None


__all__ = ["Block", "Critical", "Direction", "InBatch", "Sets", "Softmax", "losses_of"]
