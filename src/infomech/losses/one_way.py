"""InfoNCE in one direction with all that may be asked of its positives and negatives, over ranks too."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._checks import InputError
from ..geometry import Critic
from ..reductions.exclusion import Exclusion, Listed, Nothing, OwnRow, SameGroup
from ._inputs import NO_MEAN, Extent, NoNegativesError, finished, looks, result_dtype, widened
from .agreement import Local, agree, check_ranks_alike
from .contrast import Block, Critical, Direction, Sets, Softmax, losses_of
from .distributed import Ranks, Shards, replicated, sum_over_ranks
from .gathering import gathered, in_rank_order
from .memory import Labelled, Memory
from .positives import ONE_WAY, GroupPositives, Names, joined
from .request import OneWay, Ready, Reduction, checked
from .scores import PairScores, pair_scores


@dataclass(frozen=True)
class Prepared:
    """A direction, ready to be swept."""

    ready: Ready
    direction: Direction
    shards: Shards | None  # of the candidates
    anchor_shards: Shards | None
    heaviest: float | None
    candidates: Tensor  # of all ranks, this one's first; those of a memory are not among them
    candidate_groups: Tensor | None
    candidate_guide: Tensor | None  # the guide's rows of the candidates
    look: bool

    @property
    def seen(self) -> Labelled:
        """The candidates of all ranks, in the ranks' order, without a gradient."""
        parts = (self.candidates.detach(), self.candidate_groups, self.candidate_guide)
        rows, groups, guide = (None if part is None else in_rank_order(part, self.shards) for part in parts)
        assert rows is not None
        return Labelled(rows, groups, guide)

    @property
    def seen_anchors(self) -> Labelled:
        """The anchors of all ranks, likewise; a collective call."""
        shards, groups = self.anchor_shards, self.ready.groups
        parts = (self.ready.anchors.detach(), None if groups is None else groups[0], self.direction.guide)
        rows, of_rows, guide = (
            None if part is None else in_rank_order(gathered(part, shards), shards) for part in parts
        )
        assert rows is not None
        return Labelled(rows, of_rows, guide)


def prepared(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks | None) -> Prepared:
    """Check everything, on all ranks alike, and bring together what they hold."""
    look = ranks is not None or looks(request.check, anchors, candidates)
    if ranks is None:
        ready = checked(anchors, candidates, request, look=look)
        return _prepared(ready, request, None, None, None, look=look)
    ready, shards, of_anchors, heaviest = _agreed(anchors, candidates, request, ranks)
    return _prepared(ready, request, shards, of_anchors, heaviest, look=look)


def one_way(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks | None) -> tuple[Tensor, Labelled]:
    """The loss of a batch, and the candidates of all ranks in the ranks' order."""
    one = prepared(anchors, candidates, request, ranks)
    softmax = one.direction.softmax()
    check_left(softmax, one, request.names, ranks)
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
    return both.select(0, 0) / both.select(0, 1)


def check_left(softmax: Softmax, one: Prepared, names: Names, ranks: Ranks | None) -> None:
    """Raise InputError, on all ranks, if an anchor has no positive or no negative left."""
    if not one.look:
        return

    def check() -> Local[None]:
        one.direction.positives.check(names)
        check_negatives_left(softmax.rest, names)
        return Local(None, len(softmax.rest), [])

    if ranks is None:
        check()
    else:
        agree(ranks, check)


def check_negatives_left(rest: Tensor, names: Names = ONE_WAY) -> None:
    """Raise InputError if an anchor's log-sum over negatives is that of none."""
    lonely = torch.nonzero(rest.detach() == -math.inf).flatten()
    if len(lonely):
        anchor = names.anchor.format(int(lonely[0]))
        raise NoNegativesError(
            f"{anchor} has no negative left: pass more candidates or negatives, a smaller margin, or fewer groups, "
            "positives and log-weights of -inf that leave candidates out"
        )


def _agreed(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks) -> tuple[Ready, Shards, Shards, float]:
    """Check on all ranks, or fail on all of them."""

    def check() -> Local[Ready]:
        ready = checked(anchors, candidates, request, of_a_part=True)
        if ready.positives is not None:
            ready.positives.check(request.names)
        weights = _scores(ready, request).log_weights_y
        of_negatives = _negative_scores(ready, request, ready.inverse_temperature)
        negatives = ready.negatives
        tensors = (
            ready.anchors,
            ready.candidates,
            ready.inverse_temperature,
            negatives,
            weights,
            None if of_negatives is None else of_negatives.log_weights_y,
        )
        shared = check_ranks_alike(
            anchors,
            candidates,
            loss=request.part_of,
            temperature=1 / ready.inverse_temperature.item(),
            critic=str(request.critic),
            weights=ready.weights is not None,
            log_weights=request.log_weights is not None,
            negative_log_weights=request.negative_log_weights is not None,
            negatives=None
            if negatives is None
            else (negatives.ndim, tuple(negatives.shape[-2:]), str(negatives.dtype)),
            groups=None if ready.groups is None else str(ready.groups[0].dtype),
            same_group=request.same_group,
            share_negatives=request.share_negatives,
            in_batch=request.in_batch,
            exclude_own=request.exclude_own,
            weigh_positive=request.weigh_positive,
            guide=None if request.guide is None else [None if z is None else z.shape[-1] for z in request.guide],
            queue=None if ready.memory is None else (len(ready.memory.rows), ready.memory.guide is not None),
            terms=str(request.terms),
            **{"backend/precision": request.backend},
            gradients=(torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors)),
        )
        heaviest = 1.0 if ready.weights is None else float(ready.weights.detach().max()) if len(anchors) else 0.0
        largest = {"norm": ready.extent.largest, "weight": heaviest}
        return Local(ready, len(candidates), shared, largest, anchors=len(anchors))

    agreed = agree(ranks, check)
    heaviest = agreed.largest["weight"]
    if heaviest <= 0:
        raise InputError(NO_MEAN)
    extent = Extent(agreed.largest["norm"], agreed.value.extent.scale)
    of_anchors, of_candidates = (Shards(ranks, sizes, extent.bound) for sizes in (agreed.anchors, agreed.sizes))
    return replace(agreed.value, extent=extent), of_candidates, of_anchors, heaviest


def _scores(ready: Ready, request: OneWay, inverse: Tensor | None = None, *, look: bool = True) -> PairScores:
    """The scores of anchors and candidates; raises InputError if log-weights cannot be used."""
    name = "log_weights" if request.sides is None else f"log_weights_{request.sides[1]}"
    return pair_scores(
        *widened(ready.extent.wide, ready.anchors, ready.candidates),
        critic=request.critic,
        inverse_temperature=ready.inverse_temperature if inverse is None else inverse,
        log_weights=(None, request.log_weights),
        names=(name, name),
        finite=request.weigh_positive,
        look=look,
    )


def _prepared(
    ready: Ready,
    request: OneWay,
    shards: Shards | None,
    of_anchors: Shards | None,
    heaviest: float | None,
    *,
    look: bool,
) -> Prepared:
    """The direction, with the candidates and negatives of all ranks."""
    anchors, candidates = widened(ready.extent.wide, ready.anchors, ready.candidates)
    inverse = ready.inverse_temperature if shards is None else replicated(ready.inverse_temperature, shards.ranks)
    scores = _scores(ready, request, inverse, look=look)
    everyone = gathered(candidates, shards)
    groups = None if ready.groups is None else (ready.groups[0], gathered(ready.groups[1], shards))
    guide = request.guide
    guide_of_candidates = None if guide is None else gathered(guide.y.detach(), shards)
    left_out: Exclusion = OwnRow() if request.exclude_own else Nothing()
    if groups is not None and request.same_group == "exclude":
        left_out = joined(left_out, SameGroup(*groups))
    block = Block(
        everyone,
        own=_own_terms(everyone, request.critic, inverse),
        log_weights=gathered(scores.log_weights_y, shards),
        exclusion=left_out,
        guide=guide_of_candidates,
    )
    further, sets = explicit_negatives(ready, request, inverse, groups, shards, of_anchors, look=look)
    named = groups
    if ready.memory is not None:
        memory = ready.memory._replace(rows=widened(ready.extent.wide, ready.memory.rows)[0])
        kept = remembered(memory, request.critic, inverse, None if groups is None else groups[0])
        if request.same_group == "positive" and groups is not None:
            block, named = block.followed_by(kept), (groups[0], torch.cat([groups[1], memory.groups]))
        else:
            further = (*further, kept)
    positives = ready.positives
    if positives is None:
        assert named is not None
        positives = GroupPositives(*named, without_own=request.exclude_own, backend=request.backend)
    direction = Direction(
        anchors,
        positives,
        block,
        Critical(scores.scale, 1.0 if request.critic is None else request.critic.slope, inverse),
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
        backend=request.backend,
    )
    of_candidates = None if groups is None else groups[1]
    return Prepared(ready, direction, shards, of_anchors, heaviest, everyone, of_candidates, guide_of_candidates, look)


def _own_terms(rows: Tensor, critic: Critic | None, inverse: Tensor) -> Tensor | None:
    own = None if critic is None else critic.affine(rows).terms
    return None if own is None else own * inverse


def remembered(memory: Memory, critic: Critic | None, inverse: Tensor, of_anchors: Tensor | None) -> Block:
    """Rows of past batches, of which those of an anchor's group are left out; the same on all ranks."""
    return Block(
        memory.rows,
        own=_own_terms(memory.rows, critic, inverse),
        log_weights=memory.log_weights,
        exclusion=Nothing() if of_anchors is None else SameGroup(of_anchors, memory.groups),
        groups=memory.groups,
        guide=memory.guide,
    )


def _negative_scores(ready: Ready, request: OneWay, inverse: Tensor, *, look: bool = True) -> PairScores | None:
    """The scores of explicit negatives; raises InputError if their log-weights cannot be used."""
    if ready.negatives is None:
        return None
    flat = widened(ready.extent.wide, ready.negatives.flatten(0, -2))[0]
    weights = request.negative_log_weights
    return pair_scores(
        flat[:0],
        flat,
        critic=request.critic,
        inverse_temperature=inverse,
        log_weights=(None, None if weights is None else weights.flatten()),
        names=("negative_log_weights", "negative_log_weights"),
        look=look,
    )


def explicit_negatives(
    ready: Ready,
    request: OneWay,
    inverse: Tensor,
    groups: tuple[Tensor, Tensor] | None,
    shards: Shards | None,
    of_anchors: Shards | None,
    *,
    look: bool,
) -> tuple[tuple[Block, ...], Sets | None]:
    """Explicit negatives as blocks that all anchors meet, and as sets of each anchor's own."""
    scores = _negative_scores(ready, request, inverse, look=look)
    if scores is None or ready.negatives is None:
        return (), None
    negatives = widened(ready.extent.wide, ready.negatives)[0]
    flat, anchors = negatives.flatten(0, -2), negatives.shape[0]
    own, weights = scores.own_y, scores.log_weights_y
    guide = None if request.guide is None or request.guide.negatives_y is None else request.guide.negatives_y.detach()
    if negatives.ndim == 2:
        sized = None if shards is None else replace(shards, sizes=[len(flat)] * shards.ranks.world)
        exclusion: Exclusion = Nothing()
        if groups is not None and ready.negative_groups is not None:
            exclusion = SameGroup(groups[0], gathered(ready.negative_groups, sized))
        rows = gathered(flat, sized)
        block = Block(
            rows, gathered(own, sized), gathered(weights, sized), exclusion, explicit=True, guide=gathered(guide, sized)
        )
        return (block,), None
    k = negatives.shape[1]
    as_sets = [None if t is None else t.view(anchors, k) for t in (own, weights)]
    sets = Sets(negatives, as_sets[0], as_sets[1], guide)
    if not request.share_negatives:
        return (), sets
    sized = None if of_anchors is None else replace(of_anchors, sizes=[size * k for size in of_anchors.sizes])
    at = torch.arange(anchors * k, device=flat.device)
    others = Block(
        gathered(flat, sized),
        gathered(own, sized),
        gathered(weights, sized),
        Listed(torch.stack([at // k, at], 1)),
        guide=None if guide is None else gathered(guide.flatten(0, -2), sized),
    )
    return (others,), sets


__all__ = [
    "Prepared",
    "check_left",
    "check_negatives_left",
    "explicit_negatives",
    "one_way",
    "prepared",
    "reduced",
    "remembered",
]
