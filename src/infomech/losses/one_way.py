"""InfoNCE in one direction with all that may be asked of its positives and negatives, over ranks too."""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .._checks import InputError
from ..geometry import Cosine, Critic
from ..reductions.exclusion import Exclusion, Listed, Nothing, OwnRow, SameGroup
from ..reductions.losses.backends import Backend
from ._inputs import (
    NO_MEAN,
    Check,
    Extent,
    NoNegativesError,
    check_gradients_fit,
    check_negative_rows,
    check_shapes,
    check_tensor,
    checked_extent,
    checked_inverse_temperature,
    checked_weights,
    finished,
    looks,
    result_dtype,
    unit_rows,
    widened,
)
from .contrast import Block, Critical, Direction, Sets, losses_of
from .distributed import Local, Ranks, Shards, agree, check_ranks_alike, replicated, sum_over_ranks
from .gathering import gathered, in_rank_order
from .negatives import FalseNegatives, Hardness
from .positives import GroupPositives, ListedPositives, OwnPositive, Positives, Several, joined, named_pairs
from .scores import pair_scores

Reduction = Literal["mean", "sum", "none"]
SameGroupIs = Literal["exclude", "positive"]


class Guide(NamedTuple):
    """A guide model's rows of a batch, for `FalseNegatives`; unit rows for cosines. No gradient flows to them.

    Args:
        x: (n, k) for the rows of x, or the anchors.
        y: (m, k) for the rows of y, or the candidates.
        negatives_x: for the explicit negatives of x's kind, in their shape; None: none of them is left out.
        negatives_y: the same for those of y's kind, or the explicit negatives of `infonce`.
    """

    x: Tensor
    y: Tensor
    negatives_x: Tensor | None = None
    negatives_y: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """How a softmax is to be formed, besides its rows."""

    several: Several = "mean_log"
    hardness: Hardness | None = None
    false_negatives: FalseNegatives | None = None
    label_smoothing: float = 0.0
    reduction: Reduction = "mean"

    def check(self) -> None:
        """Raise InputError unless everything can be used."""
        if self.several not in ("mean_log", "log_mean"):
            raise InputError(f"several is {self.several!r}; expected 'mean_log' or 'log_mean'")
        if self.reduction not in ("mean", "sum", "none"):
            raise InputError(f"reduction is {self.reduction!r}; expected 'mean', 'sum' or 'none'")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing is {self.label_smoothing}; expected a share in [0, 1)")


PLAIN = Terms()


@dataclass(frozen=True)
class OneWay:
    """What is asked of a batch in one direction, besides its rows."""

    temperature: float | Tensor | None = None
    logit_scale: float | Tensor | None = None
    critic: Critic | None = None
    positives: Tensor | None = None
    groups: Tensor | None = None
    candidate_groups: Tensor | None = None
    same_group: SameGroupIs = "exclude"
    negatives: Tensor | None = None
    negatives_are_everyones: bool = False  # a memory, which all ranks have alike
    share_negatives: bool = False
    negative_groups: Tensor | None = None
    in_batch: bool = True
    exclude_own: bool = False
    weights: Tensor | None = None
    log_weights: Tensor | None = None
    negative_log_weights: Tensor | None = None
    weigh_positive: bool = False
    normalize: bool = False
    guide: Guide | None = None
    terms: Terms = PLAIN
    check: Check = "always"
    backend: Backend = "auto"


@dataclass(frozen=True)
class Ready:
    """The same, checked and converted."""

    anchors: Tensor
    candidates: Tensor
    inverse_temperature: Tensor
    extent: Extent
    positives: Positives | None  # None: by group
    groups: tuple[Tensor, Tensor] | None
    negatives: Tensor | None
    negative_groups: Tensor | None
    weights: Tensor | None


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
        ready = _checked(anchors, candidates, request, look=look)
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


def _checked(
    anchors: Tensor, candidates: Tensor, request: OneWay, *, of_a_part: bool = False, look: bool = True
) -> Ready:
    request.terms.check()
    check_shapes(anchors, candidates, ("anchors", "candidates"), empty=of_a_part)
    n, m, device = anchors.shape[0], candidates.shape[0], anchors.device
    inverse = checked_inverse_temperature(request.temperature, device, request.logit_scale, look=look)
    negatives = request.negatives
    if negatives is not None:
        check_negative_rows(anchors, negatives, request.negative_log_weights, look=look)
        if request.share_negatives and negatives.ndim != 3:
            raise InputError("share_negatives needs a set of negatives for each anchor, (n, k, d); (k, d) are shared")
    elif request.negative_log_weights is not None or request.share_negatives or request.negative_groups is not None:
        raise InputError("negative_log_weights, negative_groups and share_negatives need negatives")
    elif not request.in_batch:
        raise NoNegativesError("in_batch=False needs negatives")
    if request.normalize:
        anchors, candidates = unit_rows(anchors), unit_rows(candidates)
        negatives = None if negatives is None else unit_rows(negatives.flatten(0, -2)).view(negatives.shape)
    extent = _extent(anchors, candidates, negatives, request, inverse, look=look)
    groups = _groups(request, n, m, device)
    positives = _positives(request, n, m, device, groups, look=look)
    if request.exclude_own and n != m:
        raise InputError(f"exclude_own needs one set against itself; got {n} anchors, {m} candidates")
    weights = checked_weights(request.weights, n, device, of_a_part=of_a_part, look=look)
    check_guide(request.guide, (n, m), negatives, request.terms.false_negatives, request.critic)
    of_negatives = request.negative_groups
    if of_negatives is not None:
        if groups is None or negatives is None or tuple(of_negatives.shape) != tuple(negatives.shape[:1]):
            raise InputError("negative_groups needs groups, and one number for each of the shared negatives, (k,)")
        of_negatives = of_negatives.to(device)
    return Ready(anchors, candidates, inverse, extent, positives, groups, negatives, of_negatives, weights)


def _extent(
    anchors: Tensor, candidates: Tensor, negatives: Tensor | None, request: OneWay, inverse: Tensor, *, look: bool
) -> Extent:
    """The larger of the extents; raises InputError where scores or gradients leave their precision."""
    scale = inverse if request.critic is None else request.critic.slope * inverse
    extents = [checked_extent(anchors, candidates, scale, ("anchors", "candidates"), look=look)]
    if negatives is not None:
        names = ("anchors", "negatives")
        extents.append(checked_extent(anchors, negatives.flatten(0, -2), scale, names, look=look))
    given = request.temperature if request.logit_scale is None else request.logit_scale
    for extent in extents:
        check_gradients_fit(extent, (anchors, candidates), given)
    return max(extents, key=lambda extent: extent.largest) if look else extents[0]


def _groups(request: OneWay, n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """The groups of anchors and of candidates; raises InputError unless both have theirs."""
    if request.same_group not in ("exclude", "positive"):
        raise InputError(f"same_group is {request.same_group!r}; expected 'exclude' or 'positive'")
    if request.groups is None:
        if request.candidate_groups is not None or request.same_group == "positive":
            raise InputError("candidate_groups and same_group='positive' need groups, one number for each anchor")
        return None
    of_candidates = request.groups if request.candidate_groups is None else request.candidate_groups
    for values, count, name in ((request.groups, n, "groups"), (of_candidates, m, "candidate_groups")):
        check_tensor(values, name)
        if tuple(values.shape) != (count,):
            name = name if request.candidate_groups is not None or count == n else "candidate_groups (or groups alone)"
            raise InputError(f"{name} has shape {tuple(values.shape)}; expected one number a row: ({count},)")
    return request.groups.to(device), of_candidates.to(device)


def _positives(
    request: OneWay, n: int, m: int, device: torch.device, groups: tuple[Tensor, Tensor] | None, *, look: bool
) -> Positives | None:
    if request.same_group == "positive":
        if request.positives is not None:
            raise InputError("same_group='positive' names the positives by group; positives= would name them again")
        return None
    if request.positives is None:
        if n != m:
            raise InputError(f"there are {n} anchors and {m} candidates; name each anchor's positive with positives=")
        if request.exclude_own:
            raise InputError(
                "exclude_own leaves row i out of anchor i's candidates, but positives names it; mend positives"
            )
        return OwnPositive(n, device)
    found = named_pairs(request.positives, n, m, device, look=look)
    if request.exclude_own and look and bool((found.pairs[:, 0] == found.pairs[:, 1]).any()):
        raise InputError(
            "exclude_own leaves row i out of anchor i's candidates, but positives names it; mend positives"
        )
    if not found.single and not request.in_batch:
        raise InputError("several positives for an anchor need in_batch=True: they are part of the sum")
    return ListedPositives(found.pairs if found.distinct is None else torch.unique(found.pairs, dim=0), n)


def check_guide(
    guide: Guide | None,
    sizes: tuple[int, int],
    negatives: Tensor | None,
    wanted: FalseNegatives | None,
    critic: Critic | None,
) -> None:
    """Raise InputError unless a guide has a row for every row."""
    if guide is None:
        if wanted is not None and critic is not None and not isinstance(critic, Cosine):
            raise InputError("false_negatives compares cosines; with another critic pass a guide's rows, guide=")
        return
    if wanted is None:
        raise InputError("a guide is for false_negatives=FalseNegatives(...), which is not given")
    for rows, count, name in ((guide.x, sizes[0], "guide.x"), (guide.y, sizes[1], "guide.y")):
        check_tensor(rows, name)
        if rows.ndim != 2 or rows.shape[0] != count or rows.shape[1] != guide.x.shape[1]:
            raise InputError(f"{name} has shape {tuple(rows.shape)}; expected ({count}, k), a row for each row")
    of_negatives = guide.negatives_y
    if of_negatives is not None and (negatives is None or of_negatives.shape[:-1] != negatives.shape[:-1]):
        raise InputError("guide.negatives_y needs negatives, and a row for each of them, in their shape")


def _agreed(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks) -> tuple[Ready, Shards, float]:
    """Check on all ranks, or fail on all of them."""

    def check() -> Local[Ready]:
        ready = _checked(anchors, candidates, request, of_a_part=True)
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
        backend=request.backend,
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


__all__ = [
    "PLAIN",
    "Guide",
    "OneWay",
    "Prepared",
    "Ready",
    "Reduction",
    "SameGroupIs",
    "Terms",
    "check_guide",
    "check_left",
    "explicit_negatives",
    "one_way",
    "prepared",
    "reduced",
]
