"""InfoNCE in one direction with all that may be asked of its positives and negatives, over ranks too."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._checks import InputError
from ..geometry import Critic
from ..reductions.exclusion import Exclusion, Listed, Nothing, OwnRow, SameGroup
from ._inputs import NO_MEAN, Extent, NoNegativesError, finished, looks, result_dtype, widened
from .contrast import Block, Critical, Direction, Sets, losses_of
from .distributed import Local, Ranks, Shards, agree, check_ranks_alike, replicated, sum_over_ranks
from .gathering import gathered, in_rank_order
from .positives import GroupPositives, joined
from .request import OneWay, Ready, Reduction, checked
from .scores import pair_scores


@dataclass(frozen=True)
class Prepared:
    """A direction, ready to be swept."""

    ready: Ready
    direction: Direction
    shards: Shards | None
    heaviest: float | None
    candidate_groups: Tensor | None  # of all ranks
    look: bool

    @property
    def seen(self) -> Tensor:
        """The candidates of all ranks, in the ranks' order, without a gradient."""
        return in_rank_order(self.direction.candidates.rows.detach(), self.shards)


def prepared(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks | None) -> Prepared:
    """Check everything, on all ranks alike, and bring together what they hold."""
    shards: Shards | None = None
    heaviest: float | None = None
    look = ranks is not None or looks(request.check, anchors, candidates)
    if ranks is None:
        ready = checked(anchors, candidates, request, look=look)
    else:
        ready, shards, heaviest = _agreed(anchors, candidates, request, ranks)
    direction, groups = _direction(ready, request, shards, look=look)
    return Prepared(ready, direction, shards, heaviest, groups, look)


def one_way(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks | None) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and the candidates of all ranks in the ranks' order."""
    one = prepared(anchors, candidates, request, ranks)
    softmax = one.direction.softmax()
    check_left(softmax.rest, ranks, one.look)
    losses = losses_of(softmax, request.terms.label_smoothing)
    value = reduced(losses, one.ready.weights, request.terms.reduction, one.shards, one.heaviest)
    dtype = result_dtype(one.ready.anchors, one.ready.candidates)
    if request.terms.reduction == "none":
        return value.to(dtype), one.seen
    return finished(value, dtype, look=one.ready.extent.wide), one.seen


def reduced(
    losses: Tensor, weights: Tensor | None, reduction: Reduction, shards: Shards | None, heaviest: float | None
) -> Tensor:
    """The weighted mean, sum or the anchors' losses; mean and sum over all ranks."""
    if reduction == "none":
        return losses if weights is None else weights * losses
    if reduction == "sum":
        total = (losses if weights is None else weights * losses).sum()
        return total if shards is None else sum_over_ranks(total, shards.ranks)
    if shards is None and weights is None:
        return losses.mean()
    shares = torch.ones_like(losses)
    if weights is not None:  # sums of weights near 1e308 would overflow
        shares = weights / (weights.detach().max() if heaviest is None else heaviest)
    both = torch.stack([(shares * losses).sum(), shares.sum()])
    both = both if shards is None else sum_over_ranks(both, shards.ranks)
    return both[0] / both[1]


def check_left(rest: Tensor, ranks: Ranks | None, look: bool) -> None:
    """Raise InputError, on all ranks, if an anchor has no negative left."""
    if not look:
        return

    def check() -> Local[None]:
        lonely = torch.nonzero(rest.detach() == -math.inf).flatten()
        if len(lonely):
            raise NoNegativesError(
                f"anchor {int(lonely[0])} has no negative left: pass more candidates or negatives, a smaller margin, "
                "or fewer groups, positives and log-weights of -inf that leave candidates out"
            )
        return Local(None, len(rest), [])

    if ranks is None:
        check()
    else:
        agree(ranks, check)


def _agreed(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks) -> tuple[Ready, Shards, float]:
    """Check on all ranks, or fail on all of them."""

    def check() -> Local[Ready]:
        ready = checked(anchors, candidates, request, of_a_part=True)
        if ready.positives is not None:
            ready.positives.check()
        if len(candidates) != len(anchors):
            raise InputError(
                "over ranks every rank needs as many candidates as anchors; pass further rows as negatives"
            )
        tensors = (ready.anchors, ready.candidates, ready.inverse_temperature, ready.negatives)
        sets = None if ready.negatives is None else tuple(ready.negatives.shape[(ready.negatives.ndim == 3) :])
        shared = check_ranks_alike(
            anchors,
            candidates,
            temperature=1 / ready.inverse_temperature.item(),
            critic=str(request.critic),
            weights=ready.weights is not None,
            log_weights=request.log_weights is not None,
            negative_log_weights=request.negative_log_weights is not None,
            negatives=sets,
            groups=None if ready.groups is None else str(ready.groups[0].dtype),
            same_group=request.same_group,
            share_negatives=request.share_negatives,
            in_batch=request.in_batch,
            exclude_own=request.exclude_own,
            weigh_positive=request.weigh_positive,
            guide=request.guide is not None,
            terms=str(request.terms),
            gradients=(torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors)),
        )
        heaviest = 1.0 if ready.weights is None else float(ready.weights.detach().max()) if len(anchors) else 0.0
        return Local(ready, len(anchors), shared, {"norm": ready.extent.largest, "weight": heaviest})

    agreed = agree(ranks, check)
    if agreed.largest["weight"] <= 0:
        raise InputError(NO_MEAN)
    extent = Extent(agreed.largest["norm"], agreed.value.extent.scale)
    return replace(agreed.value, extent=extent), Shards(ranks, agreed.sizes, extent.bound), agreed.largest["weight"]


def _direction(ready: Ready, request: OneWay, shards: Shards | None, *, look: bool) -> tuple[Direction, Tensor | None]:
    """The direction, with the candidates and negatives of all ranks; the groups of those candidates."""
    anchors, candidates = widened(ready.extent.wide, ready.anchors, ready.candidates)
    negatives = None if ready.negatives is None else widened(ready.extent.wide, ready.negatives)[0]
    inverse = ready.inverse_temperature if shards is None else replicated(ready.inverse_temperature, shards.ranks)
    n = anchors.shape[0]
    local = pair_scores(
        anchors,
        candidates,
        critic=request.critic,
        inverse_temperature=inverse,
        log_weights=(None, request.log_weights),
        names=("log_weights", "log_weights"),
        finite=request.weigh_positive,
        look=look,
    )
    candidates = gathered(candidates, shards)
    groups = None if ready.groups is None else (ready.groups[0], gathered(ready.groups[1], shards))
    positives = ready.positives
    if positives is None:
        assert groups is not None
        positives = GroupPositives(*groups, without_own=request.exclude_own)
    if look:
        positives.check()
    left_out: Exclusion = OwnRow() if request.exclude_own else Nothing()
    if groups is not None and request.same_group == "exclude":
        left_out = joined(left_out, SameGroup(*groups))
    own = None if request.critic is None else request.critic.affine(candidates).terms
    guide = request.guide
    block = Block(
        candidates,
        own=None if own is None else own * inverse,
        log_weights=gathered(local.log_weights_y, shards),
        exclusion=left_out,
        guide=None if guide is None else gathered(guide.y.detach(), shards),
    )
    further, sets = explicit_negatives(
        negatives,
        request.negative_log_weights,
        critic=request.critic,
        inverse_temperature=inverse,
        guide=None if guide is None else guide.negatives_y,
        groups=None if groups is None or ready.negative_groups is None else (groups[0], ready.negative_groups),
        shared=request.share_negatives,
        shards=None if request.negatives_are_everyones else shards,
        anchors=n,
        look=look,
    )
    direction = Direction(
        anchors,
        positives,
        block,
        Critical(local.scale, 1.0 if request.critic is None else request.critic.slope, inverse),
        further=further,
        sets=sets,
        in_batch=request.in_batch,
        weigh_positive=request.weigh_positive,
        several=request.terms.several,
        hardness=request.terms.hardness,
        filter=request.terms.false_negatives,
        guide=None if guide is None else guide.x.detach(),
        smoothing=request.terms.label_smoothing > 0,
        bound=ready.extent.score_bound,
    )
    return direction, None if groups is None else groups[1]


def explicit_negatives(
    negatives: Tensor | None,
    log_weights: Tensor | None,
    *,
    critic: Critic | None,
    inverse_temperature: Tensor,
    guide: Tensor | None,
    groups: tuple[Tensor, Tensor] | None,
    shared: bool,
    shards: Shards | None,
    anchors: int,
    look: bool,
) -> tuple[tuple[Block, ...], Sets | None]:
    """Explicit negatives as blocks that all anchors meet, and as sets of each anchor's own."""
    if negatives is None:
        return (), None
    flat = negatives.flatten(0, -2)
    scores = pair_scores(
        flat[:0],
        flat,
        critic=critic,
        inverse_temperature=inverse_temperature,
        log_weights=(None, None if log_weights is None else log_weights.flatten()),
        names=("negative_log_weights", "negative_log_weights"),
        look=look,
    )
    own, weights = scores.own_y, scores.log_weights_y
    guide = None if guide is None else guide.detach()
    if negatives.ndim == 2:
        sized = _sized(shards, len(flat))
        rows = gathered(flat, sized)
        exclusion: Exclusion = Nothing()
        if groups is not None:
            exclusion = SameGroup(groups[0], gathered(groups[1], sized))
        block = Block(
            rows, gathered(own, sized), gathered(weights, sized), exclusion, explicit=True, guide=gathered(guide, sized)
        )
        return (block,), None
    k = negatives.shape[1]
    as_sets = [None if t is None else t.view(anchors, k) for t in (own, weights)]
    sets = Sets(negatives, as_sets[0], as_sets[1], guide)
    if not shared:
        return (), sets
    sized = None if shards is None else replace(shards, sizes=[size * k for size in shards.sizes])
    at = torch.arange(anchors * k, device=flat.device)
    others = Block(
        gathered(flat, sized),
        gathered(own, sized),
        gathered(weights, sized),
        Listed(torch.stack([at // k, at], 1)),
        guide=None if guide is None else gathered(guide.flatten(0, -2), sized),
    )
    return (others,), sets


def _sized(shards: Shards | None, rows: int) -> Shards | None:
    """The agreement with as many rows on every rank as here."""
    return None if shards is None else replace(shards, sizes=[rows] * shards.ranks.world)


__all__ = ["Prepared", "check_left", "explicit_negatives", "one_way", "prepared", "reduced"]
