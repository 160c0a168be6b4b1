"""InfoNCE in one direction where nothing is asked beyond positives, negatives and log-weights: one sweep, or two."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalar
from ..geometry import Critic
from ..reductions.exclusion import Both, Exclusion, Listed, Nothing, OwnRow
from ..reductions.losses.infonce import row_log_sums, row_scores
from ..reductions.losses.sets import set_products
from ._inputs import (
    NoNegativesError,
    check_gradients_fit,
    check_negative_rows,
    check_shapes,
    checked_backend,
    checked_extent,
    checked_inverse_temperature,
    checked_weights,
    finished,
    looks,
    result_dtype,
    unit_rows,
    weighted_mean,
    widened,
)
from .positives import NamedPairs, named_pairs
from .request import OneWay
from .scores import PairScores, added, log_sum, pair_scores


def plain_infonce(anchors: Rows, candidates: OtherRows, request: OneWay) -> Scalar:
    """The loss of a request that is `plain`."""
    negatives, negative_log_weights = request.negatives, request.negative_log_weights
    positives, critic, weigh_positive = request.positives, request.critic, request.weigh_positive
    check_shapes(anchors, candidates, ("anchors", "candidates"))
    checked_backend(request.backend, anchors)
    look = looks(request.check, anchors, candidates)
    temperature, logit_scale = request.temperature, request.logit_scale
    inverse_temperature = checked_inverse_temperature(temperature, anchors.device, logit_scale, look=look)
    if negatives is not None:
        check_negative_rows(anchors, negatives, negative_log_weights, look=look)
    elif negative_log_weights is not None:
        raise InputError("negative_log_weights needs negatives; log_weights are those of the candidates")
    if request.normalize:
        anchors, candidates = unit_rows(anchors), unit_rows(candidates)
        if negatives is not None:
            negatives = unit_rows(negatives.flatten(0, -2)).view(negatives.shape)
    dtype = result_dtype(anchors, candidates)
    scale = inverse_temperature if critic is None else critic.slope * inverse_temperature
    extents = [checked_extent(anchors, candidates, scale, ("anchors", "candidates"), look=look)]
    if negatives is not None:
        names = ("anchors", "negatives")
        extents.append(checked_extent(anchors, negatives.flatten(0, -2), scale, names, look=look))
    wide = any(extent.wide for extent in extents)
    if wide:
        for extent in extents:
            given = temperature if logit_scale is None else logit_scale
            check_gradients_fit(extent, (anchors, candidates), given)
        anchors, candidates = widened(wide, anchors, candidates)
        negatives = None if negatives is None else negatives.double()
    anchor_weights = checked_weights(request.weights, anchors.shape[0], anchors.device, look=look)
    scores = pair_scores(
        anchors,
        candidates,
        critic=critic,
        inverse_temperature=inverse_temperature,
        log_weights=(None, request.log_weights),
        names=("log_weights", "log_weights"),
        finite=weigh_positive,
        look=look,
    )
    of_positive, _ = scores.positives(weigh=weigh_positive)
    n, m = anchors.shape[0], candidates.shape[0]
    if request.exclude_own and n != m:
        raise InputError(f"exclude_own needs one set against itself; got {n} anchors, {m} candidates")
    found = named_pairs(positives, n, m, anchors.device, look=look)
    pairs, single = found.pairs, found.single
    if request.exclude_own and (positives is None or (look and bool((pairs[:, 0] == pairs[:, 1]).any()))):
        raise InputError(
            "exclude_own leaves row i out of anchor i's candidates, but positives names it; mend positives"
        )
    own: Exclusion = OwnRow() if request.exclude_own else Nothing()
    sums = []
    if request.in_batch:
        exclusion = Both(own, OwnRow() if positives is None else Listed(pairs)) if single else own
        sums.append(_log_sums(anchors, candidates, extents[0].score_bound, scores, exclusion, request.backend))
    elif not single:
        raise InputError("several positives for an anchor need in_batch=True: they are part of the sum")
    if negatives is not None:
        further = negative_log_weights
        bound = extents[1].score_bound
        sums.append(
            _against(anchors, negatives, further, critic, inverse_temperature, bound, request.backend, look=look)
        )
    if not sums or (look and bool((torch.stack(sums).detach().amax(0) == -math.inf).any())):
        raise NoNegativesError(
            "an anchor has no negatives: pass more candidates, or negatives, or fewer log-weights of -inf"
        )
    total = sums[0] if len(sums) == 1 else torch.logaddexp(sums[0], sums[1])
    if single:
        at = pairs.select(1, 1)
        partner = candidates if positives is None else candidates.index_select(0, at)
        # log(1 + negatives / positive) keeps its digits when the loss is small.
        score = row_scores(anchors, partner, scores.scale, request.backend)
        if of_positive is not None:
            score = score + of_positive.index_select(0, at)
        losses = torch.logaddexp(total - score, torch.zeros_like(score))
    else:
        mean = _mean_positives(candidates, found, anchors.shape[0])
        score = row_scores(anchors, mean, scores.scale, request.backend)
        if of_positive is not None:
            terms = of_positive.index_select(0, pairs.select(1, 1)) * found.shares
            score = score + score.new_zeros(anchors.shape[0]).index_add(0, pairs.select(1, 0), terms)
        losses = total - score
    return finished(weighted_mean(losses, anchor_weights), dtype, look=wide)


def _log_sums(
    anchors: Tensor, others: Tensor, bound: float | None, scores: PairScores, exclusion: Exclusion, backend: str
) -> Tensor:
    return row_log_sums(
        anchors,
        others,
        scale=scores.scale,
        y_terms=scores.negative_y,
        score_bound=bound,
        exclusion=exclusion,
        backend=backend,
    )


def _against(
    anchors: Rows,
    negatives: Tensor,
    log_weights: Tensor | None,
    critic: Critic | None,
    inverse_temperature: Tensor,
    bound: float | None,
    backend: str,
    *,
    look: bool,
) -> Float[Tensor, " n"]:
    """Log-sums over further negatives: shared rows, or k rows for each anchor."""
    scores = pair_scores(
        anchors,
        negatives.flatten(0, -2),
        critic=critic,
        inverse_temperature=inverse_temperature,
        log_weights=(None, None if log_weights is None else log_weights.flatten()),
        names=("negative_log_weights", "negative_log_weights"),
        look=look,
    )
    if negatives.ndim == 2:
        return _log_sums(anchors, negatives, bound, scores, Nothing(), backend)
    return _own_negatives(anchors, negatives, scores, backend)


def _own_negatives(
    anchors: Rows, negatives: Float[Tensor, "n k d"], scores: PairScores, backend: str
) -> Float[Tensor, " n"]:
    """Log-sums of every anchor over k negatives of its own."""
    inner = set_products(anchors, negatives, backend)
    terms = None if scores.negative_y is None else scores.negative_y.view(inner.shape)
    total = added(inner * scores.scale, terms)
    assert total is not None
    return log_sum(total, 1)


def _mean_positives(candidates: Tensor, positives: NamedPairs, anchors: int) -> Float[Tensor, "n d"]:
    """The mean of every anchor's positives, without holding a row for each pair."""
    dtype = result_dtype(candidates)
    of, at = (part.clone(memory_format=torch.contiguous_format) for part in positives.pairs.long().unbind(1))
    starts = torch.searchsorted(of, torch.arange(anchors, device=of.device))
    with torch.autocast(candidates.device.type, enabled=False):
        return embedding_bag(
            at,
            candidates.to(dtype),
            starts,
            mode="sum",
            per_sample_weights=positives.shares.to(dtype),
        )


__all__ = ["plain_infonce"]
