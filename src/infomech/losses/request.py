"""What is asked of a batch in one direction, and whether it can be used."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .._checks import InputError
from ..geometry import Cosine, Critic
from ._inputs import (
    Check,
    Extent,
    NoNegativesError,
    check_gradients_fit,
    check_negative_rows,
    check_shapes,
    check_tensor,
    checked_backend,
    checked_extent,
    checked_inverse_temperature,
    checked_weights,
    unit_rows,
)
from .memory import Memory
from .negatives import FalseNegatives, Hardness
from .positives import ONE_WAY, ListedPositives, Names, OwnPositive, Positives, Several, named_pairs

Reduction = Literal["mean", "sum", "none"]
SameGroupIs = Literal["exclude", "positive"]
Groups = Tensor | tuple[Tensor, Tensor]  # of both sides, or of each


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
    memory: Memory | None = None
    terms: Terms = PLAIN
    check: Check = "always"
    backend: str = "auto"
    sides: tuple[str, str] | None = None  # what a symmetric loss calls anchors and candidates
    part_of: str = "one direction"  # what it is computed for, which all ranks must have alike

    @property
    def names(self) -> Names:
        """What messages call the rows."""
        if self.sides is None:
            return ONE_WAY
        of_anchors, of_candidates = self.sides
        return Names(f"row {{}} of {of_anchors}", (f"rows of {of_anchors}", f"rows of {of_candidates}"), "pairs")

    @property
    def plain(self) -> bool:
        """Whether nothing is asked beyond positives, negatives and log-weights."""
        further = (self.groups, self.candidate_groups, self.negative_groups, self.guide, self.memory)
        return (
            all(part is None for part in further)
            and not self.share_negatives
            and self.same_group == "exclude"
            and self.terms == PLAIN
        )


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
    memory: Memory | None
    weights: Tensor | None


def checked(
    anchors: Tensor, candidates: Tensor, request: OneWay, *, of_a_part: bool = False, look: bool = True
) -> Ready:
    """Raise InputError unless everything can be used; `of_a_part`: these are the rows of one rank, perhaps none."""
    request.terms.check()
    checked_backend(request.backend, anchors)
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
    elif not request.in_batch and request.memory is None:
        raise NoNegativesError("in_batch=False needs negatives")
    if request.normalize:
        anchors, candidates = unit_rows(anchors), unit_rows(candidates)
        negatives = None if negatives is None else unit_rows(negatives.flatten(0, -2)).view(negatives.shape)
    memory = _checked_memory(request, candidates)
    extent = _extent(anchors, candidates, negatives, memory, request, inverse, look=look)
    groups = _groups(request, n, m, device)
    positives = _positives(request, n, m, device, groups, look=look)
    if request.exclude_own and n != m:
        raise InputError(f"exclude_own needs one set against itself; got {n} anchors, {m} candidates")
    weights = checked_weights(request.weights, n, device, of_a_part=of_a_part, look=look)
    check_guide(request.guide, (n, m), negatives, request.terms.false_negatives, request.critic, device)
    of_negatives = request.negative_groups
    if of_negatives is not None:
        check_tensor(of_negatives, "negative_groups")
        if groups is None or negatives is None or tuple(of_negatives.shape) != tuple(negatives.shape[:1]):
            raise InputError("negative_groups needs groups, and one number for each of the shared negatives, (k,)")
        of_negatives = of_negatives.to(device)
    return Ready(anchors, candidates, inverse, extent, positives, groups, negatives, of_negatives, memory, weights)


def _checked_memory(request: OneWay, candidates: Tensor) -> Memory | None:
    """The rows of past batches in the candidates' dtype; raises InputError if they do not go with what is asked."""
    memory = request.memory
    if memory is None:
        return None
    if request.same_group == "positive" and not request.in_batch:
        raise InputError("with same_group='positive' the rows of a queue are candidates: that needs in_batch=True")
    return memory._replace(rows=memory.rows.to(candidates.dtype))


def _extent(
    anchors: Tensor,
    candidates: Tensor,
    negatives: Tensor | None,
    memory: Memory | None,
    request: OneWay,
    inverse: Tensor,
    *,
    look: bool,
) -> Extent:
    """The larger of the extents; raises InputError where scores or gradients leave their precision."""
    scale = inverse if request.critic is None else request.critic.slope * inverse
    extents = [checked_extent(anchors, candidates, scale, ("anchors", "candidates"), look=look)]
    further = (("negatives", None if negatives is None else negatives.flatten(0, -2)),
               ("the queue", None if memory is None else memory.rows))  # fmt: skip
    for name, rows in further:
        if rows is not None and rows.shape[0]:
            extents.append(checked_extent(anchors, rows, scale, ("anchors", name), look=look))
    given = request.temperature if request.logit_scale is None else request.logit_scale
    for extent in extents:
        check_gradients_fit(extent, (anchors, candidates), given)
    return max(extents, key=lambda extent: extent.largest) if look else extents[0]


def check_same_group(same_group: str) -> None:
    """Raise InputError unless it says what rows of one group are to each other."""
    if same_group not in ("exclude", "positive"):
        raise InputError(f"same_group is {same_group!r}; expected 'exclude' or 'positive'")


def _groups(request: OneWay, n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """The groups of anchors and of candidates; raises InputError unless both have theirs."""
    check_same_group(request.same_group)
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
    found = named_pairs(request.positives, n, m, device, look=look, names=request.names)
    if request.exclude_own and look and bool((found.pairs[:, 0] == found.pairs[:, 1]).any()):
        raise InputError(
            "exclude_own leaves row i out of anchor i's candidates, but positives names it; mend positives"
        )
    if not found.single and not request.in_batch:
        raise InputError("several positives for an anchor need in_batch=True: they are part of the sum")
    return ListedPositives(found.pairs, n, found.distinct)


def check_guide(
    guide: Guide | None,
    sizes: tuple[int, int],
    negatives: Tensor | None,
    wanted: FalseNegatives | None,
    critic: Critic | None,
    device: torch.device,
) -> None:
    """Raise InputError unless a guide has a row for every row, on the device of the rows."""
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
    for part in guide:
        if part is not None and part.device != device:
            raise InputError(f"the guide is on {part.device} and the rows on {device}; move it to them")
    of_negatives = guide.negatives_y
    if of_negatives is not None and (negatives is None or of_negatives.shape[:-1] != negatives.shape[:-1]):
        raise InputError("guide.negatives_y needs negatives, and a row for each of them, in their shape")


__all__ = [
    "PLAIN",
    "Groups",
    "Guide",
    "OneWay",
    "Ready",
    "Reduction",
    "SameGroupIs",
    "Terms",
    "check_same_group",
    "checked",
]
