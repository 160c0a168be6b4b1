"""The two parts of the controlled loss where row i is paired with row i, in one process or over ranks."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .._checks import InputError
from .._typing import Scalar, Scalars
from ..geometry import Critic
from ..reductions.exclusion import SameGroup
from ..reductions.losses.infonce import PairedLogSums, paired_log_sums
from ._inputs import (
    NO_MEAN,
    Check,
    Extent,
    check_gradients_fit,
    check_has_negatives,
    check_paired,
    check_shapes,
    check_tensor,
    checked_backend,
    checked_extent,
    checked_inverse_temperature,
    checked_pair_groups,
    checked_weights,
    finished,
    kind_of,
    looks,
    result_dtype,
    unit_rows,
    weighted_mean,
    widened,
)
from .agreement import Local, agree, check_ranks_alike
from .distributed import Ranks, Shards, replicated, sum_over_ranks
from .scores import PairScores, pair_scores
from .sharded import sharded_log_sums


class SymmetricTerms(NamedTuple):
    """The two parts of the controlled loss, in nats: loss = infonce + lambda divergence."""

    infonce: Scalars
    divergence: Scalar | None  # Dsym of the batch; None if it was not asked for


@dataclass(frozen=True)
class PairedNegatives:
    """How a row counts as a negative."""

    critic: Critic | None
    log_weights_x: Tensor | None
    log_weights_y: Tensor | None
    weigh_positive: bool
    groups: Tensor | None


@dataclass(frozen=True)
class PairedRequest:
    """What is wanted of a batch besides its rows."""

    temperature: float | Tensor | None
    logit_scale: float | Tensor | None
    divergence: bool
    divergence_weight: float | Tensor
    weights: Tensor | None
    negatives: PairedNegatives
    normalize: bool
    check: Check
    backend: str = "auto"


@dataclass(frozen=True)
class _Checked:
    """The same and the rows, checked and converted, and how large they are."""

    x: Tensor
    y: Tensor
    inverse_temperature: Tensor
    divergence_weight: float
    extent: Extent
    weights: Tensor | None
    groups: Tensor | None


def combined(terms: SymmetricTerms, divergence_weight: float | Tensor) -> Scalars:
    """The sum infonce + lambda divergence."""
    if terms.divergence is None:
        return terms.infonce
    if isinstance(divergence_weight, Tensor):
        divergence_weight = divergence_weight.to(terms.divergence).reshape(())
    return terms.infonce + divergence_weight * terms.divergence


def paired_terms(x: Tensor, y: Tensor, request: PairedRequest, ranks: Ranks | None) -> SymmetricTerms:
    """Both parts, as they are asked for."""
    if ranks is not None:
        return _sharded_terms(x, y, request, ranks)
    look = looks(request.check, x, y)
    ready = _check(x, y, request, look=look)
    check_has_negatives(x.shape[0])
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(ready.extent.wide, ready.x, ready.y)
    scores = _scores(x, y, request.negatives, ready.inverse_temperature, look=look)
    sums = paired_log_sums(
        x,
        y,
        scale=scores.scale,
        score_bound=ready.extent.score_bound,
        x_terms=scores.negative_x,
        y_terms=scores.negative_y,
        within=request.divergence,
        backend=request.backend,
        exclusion=None if ready.groups is None else SameGroup(ready.groups, ready.groups),
    )
    if look and (ready.groups is not None or scores.may_remove):
        check_negatives(sums)
    parts = pair_terms(sums, scores.positives(weigh=request.negatives.weigh_positive))
    means = [None if part is None else _mean(part, ready.weights) for part in parts]
    return _finished(means, dtype, wide=ready.extent.wide)


def _mean(parts: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over both directions and, with weights, all pairs."""
    return parts.mean() if weights is None else weighted_mean(parts.mean(0), weights)


def _finished(means: list[Tensor | None], dtype: torch.dtype, *, wide: bool) -> SymmetricTerms:
    """The terms in the dtype of the result, which is looked at where large rows may leave it."""
    first, second = (None if mean is None else finished(mean, dtype, look=wide) for mean in means)
    assert first is not None
    return SymmetricTerms(first, second)


def _scores(
    x: Tensor, y: Tensor, negatives: PairedNegatives, inverse_temperature: Tensor, *, look: bool = True
) -> PairScores:
    return pair_scores(
        x,
        y,
        critic=negatives.critic,
        inverse_temperature=inverse_temperature,
        log_weights=(negatives.log_weights_x, negatives.log_weights_y),
        finite=negatives.weigh_positive,
        look=look,
    )


def _check(x: Tensor, y: Tensor, request: PairedRequest, *, of_a_part: bool = False, look: bool = True) -> _Checked:
    """Raise InputError unless everything can be used; `of_a_part`: these are the rows of one rank, perhaps none.

    Without a `look` at values only shapes and kinds are checked.
    """
    check_shapes(x, y, empty=of_a_part)
    checked_backend(request.backend, x)
    check_paired(x, y)
    if request.normalize:
        x, y = unit_rows(x), unit_rows(y)
    inverse_temperature = checked_inverse_temperature(request.temperature, x.device, request.logit_scale, look=look)
    weight = _checked_weight(request.divergence_weight, look=look)
    groups = checked_pair_groups(request.negatives.groups, x)
    weights = checked_weights(request.weights, x.shape[0], x.device, of_a_part=of_a_part, look=look)
    critic = request.negatives.critic
    scale = inverse_temperature if critic is None else critic.slope * inverse_temperature
    extent = checked_extent(x, y, scale, look=look)
    given = request.temperature if request.logit_scale is None else request.logit_scale
    check_gradients_fit(extent, (x, y), given)
    return _Checked(x, y, inverse_temperature, weight, extent, weights, groups)


def _checked_weight(weight: float | Tensor, *, look: bool) -> float:
    """Lambda as a number, where one may look; raises InputError unless it is a finite one."""
    one = isinstance(weight, Tensor) and weight.numel() == 1
    if one:
        check_tensor(weight, "divergence_weight")
    if not look and (one or not isinstance(weight, Tensor)):
        return math.nan  # looked at by nobody
    number = weight.item() if isinstance(weight, Tensor) and one else weight
    if not (isinstance(number, Real) and math.isfinite(number)):
        shown = number if isinstance(number, Real) else kind_of(number)
        raise InputError(f"divergence_weight is {shown}; it must be a finite number (0 is CLIP, 0.75 is critical)")
    return float(number)


def _sharded_terms(x: Tensor, y: Tensor, request: PairedRequest, ranks: Ranks) -> SymmetricTerms:
    """The terms of the whole batch, of which this rank holds a shard: the same value on every rank."""
    negatives = request.negatives

    def check() -> Local[_Checked]:
        ready = _check(x, y, request, of_a_part=True)
        scores = _scores(ready.x, ready.y, negatives, ready.inverse_temperature)
        tensors = (ready.x, ready.y, ready.inverse_temperature, scores.negative_x, scores.negative_y)
        needs = (torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors))
        shared = check_ranks_alike(
            x,
            y,
            temperature=1 / ready.inverse_temperature.item(),
            divergence_weight=ready.divergence_weight,
            divergence=request.divergence,
            critic=str(negatives.critic),
            weights=ready.weights is not None,
            log_weights=(negatives.log_weights_x is not None, negatives.log_weights_y is not None),
            weigh_positive=negatives.weigh_positive,
            groups=None if ready.groups is None else str(ready.groups.dtype),
            exchange=ranks.exchange,
            **{"backend/precision": request.backend},
            gradients=needs,
        )
        heaviest = 1.0 if ready.weights is None else float(ready.weights.detach().max()) if len(x) else 0.0
        return Local(ready, len(x), shared, {"norm": ready.extent.largest, "weight": heaviest})

    agreed = agree(ranks, check)
    ready, heaviest = agreed.value, agreed.largest["weight"]
    extent = Extent(agreed.largest["norm"], ready.extent.scale)
    check_has_negatives(sum(agreed.sizes))
    if heaviest <= 0:
        raise InputError(NO_MEAN)
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(extent.wide, ready.x, ready.y)
    scores = _scores(x, y, negatives, replicated(ready.inverse_temperature, ranks))
    sums = sharded_log_sums(
        x,
        y,
        scale=scores.scale,
        x_terms=scores.negative_x,
        y_terms=scores.negative_y,
        shards=Shards(ranks, agreed.sizes, extent.bound),
        within=request.divergence,
        groups=ready.groups,
        backend=request.backend,
    )
    if ready.groups is not None or scores.may_remove:

        def check_all_have_negatives() -> Local[None]:
            check_negatives(sums)
            return Local(None, len(x), [])

        agree(ranks, check_all_have_negatives)
    parts = pair_terms(sums, scores.positives(weigh=negatives.weigh_positive))
    anchors = torch.ones_like(sums.positive) if ready.weights is None else ready.weights / heaviest
    totals = [(anchors * part.mean(0)).sum() for part in parts if part is not None]
    *numerators, weight = sum_over_ranks(torch.stack([*totals, anchors.sum()]), ranks)
    means: list[Tensor | None] = [part / weight for part in numerators]
    return _finished([means[0], means[1] if request.divergence else None], dtype, wide=extent.wide)


def pair_terms(
    sums: PairedLogSums, positive_terms: tuple[Tensor | None, Tensor | None] = (None, None)
) -> tuple[Tensor, Tensor | None]:
    """Each pair's InfoNCE and its share of the divergence in both directions, (2, n) each.

    The same points stand in every sum of a divergence, so counts and weights cancel. `positive_terms` are added to the
    positives' scores, x to y and y to x. An anchor's own term stands on both sides of every difference here, and
    cancels as well.
    """
    positive = sums.positive
    if positive_terms != (None, None):
        positive = torch.stack([positive if term is None else positive + term for term in positive_terms])
    # log(1 + negatives / positive) keeps its digits when the loss is small; log(all) - positive does not.
    infonce = softplus(sums.across - positive, threshold=40.0)
    return infonce, None if sums.within is None else sums.within - sums.across


def check_negatives(sums: PairedLogSums) -> None:
    """Raise InputError if a row has no negative at all."""
    lonely = torch.nonzero(sums.across.detach().amin(0) == -math.inf).flatten()
    if len(lonely):
        raise InputError(
            f"pair {int(lonely[0])} has no negative: its group is the whole batch, or log-weights of -inf remove the "
            "others; every batch needs two groups or more"
        )


__all__ = ["PairedNegatives", "PairedRequest", "SymmetricTerms", "combined", "pair_terms", "paired_terms"]
