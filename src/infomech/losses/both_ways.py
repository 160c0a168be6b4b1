"""The symmetric loss with all that may be asked of its positives, its negatives and its directions, over ranks too."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .._checks import InputError
from ..geometry import Critic
from ..reductions.exclusion import Exclusion, OwnRow, SameGroup
from ..reductions.losses.infonce import paired_log_sums
from ._inputs import Check, check_paired, check_shapes, check_tensor, finished, result_dtype
from .agreement import told
from .contrast import Direction, InBatch, Softmax, losses_of
from .distributed import Ranks, Shards
from .memory import Labelled, Memory
from .negatives import beyond_each
from .one_way import Prepared, check_left, prepared, reduced
from .positives import OwnPositive, joined
from .request import PLAIN, Groups, Guide, OneWay, Ready, SameGroupIs, Terms, check_same_group
from .scores import log_sum

Partition = Literal["per_direction", "joint"]
DIRECTIONS = ("xy", "yx", "xx", "yy")
Weights = Tensor | tuple[Tensor, Tensor]
Found = dict[str, Prepared]
Seen = tuple[Labelled, Labelled] | None


@dataclass(frozen=True)
class BothWays:
    """What is asked of a batch of two modalities, besides its rows."""

    temperature: float | Tensor | None = None
    logit_scale: float | Tensor | None = None
    critic: Critic | None = None
    weights: Weights | None = None
    log_weights_x: Tensor | None = None
    log_weights_y: Tensor | None = None
    weigh_positive: bool = False
    pairs: Tensor | None = None
    groups: Groups | None = None
    same_group: SameGroupIs = "exclude"
    directions: tuple[str, ...] = ("xy", "yx")
    partition: Partition = "per_direction"
    negatives_x: Tensor | None = None
    negatives_y: Tensor | None = None
    share_negatives: bool = False
    guide: Guide | None = None
    memory: tuple[Memory | None, Memory | None] | None = None  # of x and of y; a pair of None where it is empty yet
    terms: Terms = PLAIN
    normalize: bool = False
    check: Check = "always"
    backend: str = "auto"

    @property
    def one_to_one(self) -> bool:
        """Whether row i of x has row i of y as its only positive."""
        return self.pairs is None and self.same_group == "exclude"

    @property
    def plain(self) -> bool:
        """Whether it is row i with row i, and all others negatives: one sweep that both directions share."""
        further = (self.negatives_x, self.negatives_y, self.guide, self.memory)
        return (
            self.one_to_one
            and not isinstance(self.groups, tuple)
            and all(part is None for part in further)
            and not self.share_negatives
            and self.terms == PLAIN
            and self.directions == ("xy", "yx")
            and self.partition == "per_direction"
        )

    def direction(self, way: str) -> OneWay:
        """The request of one of the cross-modal directions."""
        forward = way == "xy"
        groups = self.groups if isinstance(self.groups, tuple) else (self.groups, self.groups)
        log_weights, negatives = (
            (self.log_weights_y, self.negatives_y) if forward else (self.log_weights_x, self.negatives_x)
        )
        guide, hardness = self.guide, self.terms.hardness
        if guide is not None and not forward:
            guide = Guide(guide.y, guide.x, guide.negatives_y, guide.negatives_x)
        if hardness is not None and way not in hardness.directions:
            hardness = None
        pairs = None if self.pairs is None else self.pairs if forward else self.pairs.flip(1)
        weights = self.weights[0 if forward else 1] if isinstance(self.weights, tuple) else self.weights
        return OneWay(
            self.temperature,
            self.logit_scale,
            self.critic,
            positives=pairs,
            groups=groups[0 if forward else 1],
            candidate_groups=groups[1 if forward else 0],
            same_group=self.same_group,
            negatives=negatives,
            share_negatives=self.share_negatives and negatives is not None,
            weights=weights,
            log_weights=log_weights,
            weigh_positive=self.weigh_positive,
            normalize=self.normalize,
            guide=guide,
            memory=None if self.memory is None else self.memory[1 if forward else 0],
            terms=replace(self.terms, hardness=hardness),
            check=self.check,
            backend=self.backend,
            sides=("x", "y") if forward else ("y", "x"),
            part_of=f"{way} of {self.directions}, {self.partition}",
        )

    def check_settings(self) -> None:
        """Raise InputError unless directions and positives go together."""
        check_same_group(self.same_group)
        unknown = [way for way in self.directions if way not in DIRECTIONS]
        if unknown or len(set(self.directions)) < len(self.directions) or not self.directions:
            raise InputError(f"directions is {self.directions!r}; expected some of 'xy', 'yx', 'xx', 'yy', each once")
        if self.partition not in ("per_direction", "joint"):
            raise InputError(f"partition is {self.partition!r}; expected 'per_direction' or 'joint'")
        within = any(way in ("xx", "yy") for way in self.directions)
        if within and self.partition == "per_direction":
            raise InputError(
                "directions within a modality hold no positive, so they need the cross-modal ones in one softmax: "
                "partition='joint'"
            )
        if not any(way in ("xy", "yx") for way in self.directions):
            raise InputError("directions needs 'xy' or 'yx': they hold the positives")
        if self.partition == "joint" and not self.one_to_one:
            raise InputError("partition='joint' is one softmax for a pair: it takes row i with row i, no pairs=, and "
                             "same_group='exclude'")  # fmt: skip


def check_together(request: BothWays, *, divergence: bool) -> None:
    """Raise InputError unless what is asked can be had together, and with the batch's Dsym."""
    if request.plain:
        if isinstance(request.weights, tuple):
            raise InputError("weights of x and of y, two of them, go with pairs=; row i with row i has one")
        return
    if divergence and (
        not request.one_to_one or isinstance(request.groups, tuple) or request.terms.reduction != "mean"
    ):
        raise InputError(
            "divergence_weight goes with row i paired with row i, same_group='exclude' and reduction='mean': Dsym "
            "compares two modalities' laws over one set of pairs"
        )
    if divergence and isinstance(request.weights, tuple):
        raise InputError("divergence_weight goes with one set of weights: Dsym is a mean over pairs")


def both_ways(x: Tensor, y: Tensor, request: BothWays, ranks: Ranks | None) -> tuple[Tensor, Seen]:
    """The loss of a batch, and where there is a memory the rows of all ranks."""
    told(ranks, lambda: _check(x, y, request, of_a_part=ranks is not None))
    ways: list[str] = [way for way in ("xy", "yx") if way in request.directions]
    rows: dict[str, tuple[Tensor, Tensor]] = {"xy": (x, y), "yx": (y, x)}
    found = {way: prepared(*rows[way], request.direction(way), ranks) for way in ways}
    seen = None if request.memory is None else _seen(found)
    first = found[ways[0]].ready
    dtype = result_dtype(first.anchors, first.candidates)
    if request.partition == "joint":
        losses = _joint(request, found, x, y, ranks)
        value = _reduced(losses, first, request.terms, found[ways[0]].shards, found[ways[0]].heaviest)
    else:
        fused = _fused_rests(request, found)
        values = []
        for way, one in found.items():
            softmax = one.direction.softmax(fused.get(way))
            check_left(softmax, one, request.direction(way).names, ranks)
            losses = losses_of(softmax, request.terms.label_smoothing)
            values.append(_reduced(losses, one.ready, request.terms, one.shards, one.heaviest))
        value = sum(values[1:], values[0]) / len(values)
    if request.terms.reduction == "none":
        return value.to(dtype), seen
    return finished(value, dtype, look=first.extent.wide), seen


def _check(x: Tensor, y: Tensor, request: BothWays, *, of_a_part: bool) -> None:
    """Raise InputError unless settings and shapes go together, before any direction is looked at."""
    request.check_settings()
    check_shapes(x, y, empty=of_a_part)
    if request.pairs is None and not isinstance(request.groups, tuple):
        check_paired(x, y)
    elif isinstance(request.groups, Tensor) and x.shape[0] != y.shape[0]:
        raise InputError("groups of x and of y are two, groups=(of_x, of_y), where their numbers of rows differ")
    if request.pairs is not None:
        check_tensor(request.pairs, "pairs")
        if request.pairs.ndim != 2 or request.pairs.shape[1] != 2:
            raise InputError(f"pairs has shape {tuple(request.pairs.shape)}; expected (p, 2), (row of x, row of y)")
    both = "xy" in request.directions and "yx" in request.directions
    if request.terms.reduction == "none" and both and (request.pairs is not None or x.shape[0] != y.shape[0]):
        raise InputError(
            "reduction='none' needs row i paired with row i, or one direction: x and y have losses of their own"
        )
    if request.guide is not None:
        _check_guide_of_negatives(request)


def _check_guide_of_negatives(request: BothWays) -> None:
    guide = request.guide
    assert guide is not None
    for rows, negatives, name in (
        (guide.negatives_x, request.negatives_x, "negatives_x"),
        (guide.negatives_y, request.negatives_y, "negatives_y"),
    ):
        if rows is not None and (negatives is None or rows.shape[:-1] != negatives.shape[:-1]):
            raise InputError(f"guide.{name} needs {name}, and a row for each of them, in their shape")


def _reduced(losses: Tensor, ready: Ready, terms: Terms, shards: Shards | None, heaviest: float | None) -> Tensor:
    return reduced(losses, ready.weights, terms.reduction, shards, heaviest)


def _seen(found: Found) -> Seen:
    """The rows of all ranks, of x and of y, and their groups."""
    one = next(iter(found.values()))
    of_x = found["yx"].seen if "yx" in found else one.seen_anchors
    return of_x, found["xy"].seen if "xy" in found else one.seen_anchors


def _fused_rests(request: BothWays, found: Found, *, within: bool = False) -> dict[str, InBatch]:
    """The in-batch sums of all directions from one sweep, where both have the same scores.

    Of x against y in both directions it costs four products, where two sweeps cost six or more.
    """
    if not (request.one_to_one and len(found) == 2) or any(one.shards is not None for one in found.values()):
        return {}
    xy, yx = found["xy"].direction, found["yx"].direction
    if (xy.hardness is None) != (yx.hardness is None):  # in one direction only
        return {}
    groups = found["xy"].ready.groups
    x, y, scale, y_terms, _, bound = xy.swept(xy.candidates)
    _, _, _, x_terms, _, _ = yx.swept(yx.candidates)
    exclusion: Exclusion = OwnRow() if groups is None else joined(OwnRow(), SameGroup(*groups))
    thresholds = xy.thresholds()
    if thresholds is not None:
        exclusion = joined(beyond_each(thresholds, yx.guide, scale), exclusion)
    within = within and xy.hardness is None and thresholds is None
    sums = paired_log_sums(
        x,
        y,
        scale=scale,
        score_bound=bound,
        x_terms=x_terms,
        y_terms=y_terms,
        within=within,
        exclusion=exclusion,
        backend=request.backend,
    )
    positive = sums.positive if xy.hardness is None else None
    known = {way: InBatch(rest, positive) for way, rest in zip(("xy", "yx"), sums.across.unbind(), strict=True)}
    if sums.within is not None:
        known |= {way: InBatch(rest) for way, rest in zip(("xx", "yy"), sums.within.unbind(), strict=True)}
    return known


def _joint(request: BothWays, found: Found, x: Tensor, y: Tensor, ranks: Ranks | None) -> Tensor:
    """One softmax for a pair over all its directions; its own score stands in each cross-modal one, as in GTE."""
    within = [way for way in ("xx", "yy") if way in request.directions]
    fused = _fused_rests(request, found, within=len(within) == 2)
    softmaxes = {}
    for way, one in found.items():
        softmaxes[way] = one.direction.softmax(fused.get(way))
    for way in within:
        one_modality = _within(request, found, way, x, y, ranks)
        softmaxes[way] = one_modality.softmax(fused.get(way))
    # An anchor's own term, which cancels in a direction by itself, tells directions apart.
    anchor_terms = {way: _own_terms(request, found, way) for way in softmaxes}
    rests = [_raised(softmax.rest, anchor_terms[way]) for way, softmax in softmaxes.items()]
    rest = log_sum(torch.stack(rests), 0)
    way, one = next(iter(found.items()))
    check_left(replace(softmaxes[way], rest=rest), one, request.direction(way).names, ranks)
    positives = [_raised(softmaxes[way].positive, anchor_terms[way]) for way in found]
    again = log_sum(torch.stack([rest, *positives[1:]]), 0)  # all but one of the positive's own terms
    joint = Softmax(positives[0], again, positives[0], single=True)
    if request.terms.label_smoothing > 0:
        logits, classes = [], []
        for way, softmax in softmaxes.items():
            assert softmax.logits is not None
            assert softmax.classes is not None
            inside = way in within
            count = softmax.classes - float(inside)
            sums = softmax.logits - (softmax.positive if inside else 0.0)
            term = anchor_terms[way]
            logits.append(sums if term is None else sums + term * count)
            classes.append(count)
        joint = replace(joint, logits=sum(logits[1:], logits[0]), classes=sum(classes[1:], classes[0]))
    return losses_of(joint, request.terms.label_smoothing)


def _raised(sums: Tensor, terms: Tensor | None) -> Tensor:
    return sums if terms is None else sums + terms


def _own_terms(request: BothWays, found: Found, way: str) -> Tensor | None:
    """The critic's terms of a direction's anchors."""
    if request.critic is None:
        return None
    one = next(iter(found.values()))
    partners = one.direction.candidates.rows.narrow(0, 0, len(one.direction.anchors))
    x = found["xy"].direction.anchors if "xy" in found else partners
    y = found["yx"].direction.anchors if "yx" in found else partners
    terms = request.critic.affine(x if way[0] == "x" else y).terms
    return None if terms is None else terms * one.direction.critical.inverse_temperature


def _within(request: BothWays, found: Found, way: str, x: Tensor, y: Tensor, ranks: Ranks | None) -> Direction:
    """The direction of one modality against itself, with the explicit negatives of its kind but an anchor's own."""
    other = "yx" if way == "xx" else "xy"  # the direction whose candidates are of this kind
    if other in found:
        one = found[other]
    else:
        rows = (y, x) if other == "yx" else (x, y)
        one = prepared(*rows, request.direction(other), ranks)
    base: Direction = one.direction
    n = len(base.anchors)
    own = base.candidates.rows.narrow(0, 0, n)
    groups = one.ready.groups
    same = one.candidate_groups
    left = OwnRow() if groups is None or same is None else SameGroup(groups[1], same)
    thresholds = base.thresholds()
    if thresholds is not None and thresholds.guide is not None:
        assert base.candidates.guide is not None
        thresholds = replace(thresholds, guide=base.candidates.guide.narrow(0, 0, n))
    further = tuple(
        block
        if block.groups is None or groups is None
        else replace(block, exclusion=SameGroup(groups[1], block.groups))
        for block in base.further
    )
    return replace(
        base,
        further=further,
        anchors=own,
        positives=OwnPositive(n, own.device),
        candidates=replace(base.candidates, exclusion=left),
        sets=None,
        hardness=None,
        given=thresholds,
    )


__all__ = ["DIRECTIONS", "BothWays", "Partition", "Weights", "both_ways", "check_together"]
