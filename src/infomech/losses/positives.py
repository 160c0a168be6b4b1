"""Which candidates are an anchor's positives: its own row, listed ones, or all of its group."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .._checks import InputError
from ..reductions.exclusion import Both, Exclusion, Listed, Nothing, OtherGroups, OwnRow, SameGroup
from ..reductions.losses.infonce import row_scores
from ..reductions.losses.linear import group_codes
from ..reductions.tiling import compute_dtype
from ._inputs import check_tensor
from .scores import log_sums_of_rows

Several = Literal["mean_log", "log_mean"]
Vector = Float[Tensor, " n"]


class Names(NamedTuple):
    """What messages call the rows of a batch."""

    anchor: str  # with a place for its number
    rows: tuple[str, str]  # of anchors and of candidates
    positives: str  # the argument that names them


ONE_WAY = Names("anchor {}", ("anchors", "candidates"), "positives")


class Positives(ABC):
    """The positives of n anchors among m candidates.

    A positive's score is scale x.y plus a term of its candidate. All sums are float64 and differentiable.
    """

    single: bool  # one for each anchor

    @abstractmethod
    def counts(self) -> Vector:
        """How many each anchor has."""

    @abstractmethod
    def means(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None) -> Vector:
        """The mean score of every anchor's positives."""

    @abstractmethod
    def log_sums(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, bound: float | None) -> Vector:
        """The log-sum-exp of their scores."""

    @abstractmethod
    def exclusion(self) -> Exclusion:
        """What leaves them out of a sweep over the candidates."""

    def check(self, names: Names = ONE_WAY) -> None:
        """Raise InputError if an anchor has none."""
        none = torch.nonzero(self.counts() == 0).flatten()
        if len(none):
            raise InputError(f"{names.anchor.format(int(none[0]))} has no positive; drop it or name one")


@dataclass(frozen=True)
class OwnPositive(Positives):
    """Candidate i belongs to anchor i; there may be more candidates."""

    anchors: int
    device: torch.device
    single = True

    def counts(self) -> Vector:  # noqa: D102
        return torch.ones(self.anchors, dtype=torch.float64, device=self.device)

    def means(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None) -> Vector:  # noqa: D102
        score = row_scores(x, y.narrow(0, 0, self.anchors), scale, "tiles")
        return score if terms is None else score + terms.narrow(0, 0, self.anchors)

    def log_sums(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, bound: float | None) -> Vector:  # noqa: D102
        return self.means(x, y, scale, terms)

    def exclusion(self) -> Exclusion:  # noqa: D102
        return OwnRow()


class ListedPositives(Positives):
    """Pairs (anchor, candidate).

    Args:
        pairs: (p, 2) integers.
        anchors: how many anchors there are.
        distinct: (p,) False where a pair is named again, and counts for nothing; None: all are distinct.
    """

    def __init__(self, pairs: Int[Tensor, "p 2"], anchors: int, distinct: Bool[Tensor, " p"] | None = None) -> None:
        self.pairs = pairs.long()
        self._anchors = anchors
        self._distinct = distinct
        self.single = len(pairs) == anchors
        of = self.pairs.select(1, 0)
        ones = torch.ones(of.shape[0], dtype=torch.float64, device=of.device)
        ones = ones if distinct is None else ones * distinct
        self._counts = ones.new_zeros(anchors).index_add(0, of, ones)

    def counts(self) -> Vector:  # noqa: D102
        return self._counts

    def scores(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None) -> Float[Tensor, " p"]:
        """The score of every pair; holds a row for each."""
        of, at = self.pairs.select(1, 0), self.pairs.select(1, 1)
        score = row_scores(x.index_select(0, of), y.index_select(0, at), scale, "tiles")
        return score if terms is None else score + terms.index_select(0, at)

    def means(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None) -> Vector:  # noqa: D102
        score = self.scores(x, y, scale, terms)
        score = score if self._distinct is None else torch.where(self._distinct, score, 0.0)
        sums = score.new_zeros(self._anchors).index_add(0, self.pairs.select(1, 0), score)
        return sums / self._counts

    def log_sums(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, bound: float | None) -> Vector:  # noqa: D102
        score, of = self.scores(x, y, scale, terms), self.pairs.select(1, 0)
        score = score if self._distinct is None else torch.where(self._distinct, score, -math.inf)
        top = score.detach().new_full((self._anchors,), -math.inf).scatter_reduce(0, of, score.detach(), "amax")
        top = torch.where(top > -math.inf, top, 0.0)
        total = score.new_zeros(self._anchors).index_add(0, of, torch.exp(score - top.index_select(0, of)))
        none = total == 0  # all of them weigh nothing: no NaN for their gradients
        return torch.where(none, -math.inf, top + torch.where(none, 1.0, total).log())

    def exclusion(self) -> Exclusion:  # noqa: D102
        return Listed(self.pairs)


class GroupPositives(Positives):
    """All candidates of the anchor's group; without the anchor itself where candidate i is anchor i.

    Args:
        rows: (n,) group of each anchor.
        cols: (m,) group of each candidate.
        without_own: leave out (i, i).
        backend: see `symmetric_infonce`.
    """

    def __init__(
        self,
        rows: Shaped[Tensor, " n"],
        cols: Shaped[Tensor, " m"],
        *,
        without_own: bool = False,
        backend: str = "auto",
    ) -> None:
        self._rows, self._cols, self._without_own, self._backend = rows, cols, without_own, backend
        self.single = False
        self._codes = group_codes(rows, cols)
        of_rows, of_cols = self._codes
        ones = torch.ones(of_cols.shape[0], dtype=torch.float64, device=of_cols.device)
        sizes = ones.new_zeros(rows.shape[0] + cols.shape[0]).index_add(0, of_cols, ones)
        own = of_rows == of_cols.narrow(0, 0, rows.shape[0]) if without_own else None  # it may be of another group
        self._own = None if own is None else own.double()
        self._counts = sizes.index_select(0, of_rows)
        if self._own is not None:
            self._counts = self._counts - self._own

    def counts(self) -> Vector:  # noqa: D102
        return self._counts

    def means(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None) -> Vector:  # noqa: D102
        of_rows = self._group_sums(y.to(compute_dtype(x, y)))
        count = self._counts
        mean = row_scores(x, of_rows / count.to(of_rows.dtype).unsqueeze(1), scale, "tiles")
        return mean if terms is None else mean + self._group_sums(terms) / count

    def _group_sums(self, values: Tensor) -> Tensor:
        rows, cols = self._codes
        groups = rows.shape[0] + cols.shape[0]
        sums = values.new_zeros(groups, *values.shape[1:]).index_add(0, cols, values).index_select(0, rows)
        if self._own is None:
            return sums
        own = self._own.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
        return sums - own * values.narrow(0, 0, rows.shape[0])

    def log_sums(self, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, bound: float | None) -> Vector:  # noqa: D102
        of_group: Exclusion = OtherGroups(self._rows, self._cols)
        kept = Both(of_group, OwnRow()) if self._without_own else of_group
        return log_sums_of_rows(x, y, scale=scale, y_terms=terms, score_bound=bound, exclusion=kept,
                                backend=self._backend)  # fmt: skip

    def exclusion(self) -> Exclusion:  # noqa: D102
        return SameGroup(self._rows, self._cols)


@dataclass(frozen=True)
class NamedPairs:
    """Every anchor's positives, in the order of the anchors."""

    pairs: Int[Tensor, "p 2"]  # (anchor, candidate)
    single: bool  # one for each anchor
    distinct: Bool[Tensor, " p"] | None = None  # False where a pair is named again; None: every pair is

    @property
    def shares(self) -> Float[Tensor, " p"]:
        """What a pair weighs in the mean over its anchor's positives."""
        anchors = self.pairs.select(1, 0)
        ones = torch.ones(anchors.shape[0], dtype=torch.float64, device=anchors.device)
        ones = ones if self.distinct is None else ones * self.distinct
        counts = ones.new_zeros(anchors.shape[0]).index_add(0, anchors, ones)  # as many anchors as pairs, or fewer
        return ones / counts.index_select(0, anchors)


def named_pairs(
    positives: Tensor | None,
    anchors: int,
    candidates: int,
    device: torch.device,
    *,
    look: bool,
    names: Names = ONE_WAY,
) -> NamedPairs:
    """The positives as distinct (anchor, candidate) pairs; raises InputError unless every anchor has one.

    Without a `look` no pair can be dropped: one that is named again counts for nothing.
    """
    if positives is None:
        if anchors != candidates:
            raise InputError(
                f"there are {anchors} anchors and {candidates} candidates; name each anchor's positive with positives="
            )
        positives = torch.arange(anchors, device=device)
    check_tensor(positives, names.positives)
    positives = positives.to(device)
    one_each = positives.ndim == 1 and positives.shape[0] == anchors
    if one_each:
        positives = torch.stack([torch.arange(anchors, device=device), positives], 1)
    if positives.ndim != 2 or positives.shape[1] != 2:
        raise InputError(f"{names.positives} has shape {tuple(positives.shape)}; expected ({anchors},) or (pairs, 2)")
    if not look:
        if positives.shape[0] < anchors:
            raise InputError(
                f"{names.positives} holds {positives.shape[0]} pairs for {anchors} {names.rows[0]}; each needs one"
            )
        return NamedPairs(positives, True) if one_each else in_order(positives, anchors, candidates)
    limits = torch.tensor([anchors, candidates], device=device)
    if bool(((positives < 0) | (positives >= limits)).any()):
        raise InputError(
            f"{names.positives} points outside the {anchors} {names.rows[0]} and {candidates} {names.rows[1]}"
        )
    pairs = positives if one_each else torch.unique(positives, dim=0)
    named = torch.zeros(anchors, dtype=torch.bool, device=device).index_fill_(0, pairs[:, 0], True)
    if not bool(named.all()):
        raise InputError(f"{names.anchor.format(int(torch.nonzero(~named)[0]))} has no positive; drop it or name one")
    return NamedPairs(pairs, pairs.shape[0] == anchors)


def in_order(pairs: Int[Tensor, "p 2"], anchors: int, candidates: int) -> NamedPairs:
    """The pairs in order, each as often as it is named."""
    keys = (pairs.select(1, 0).long() * candidates + pairs.select(1, 1)).sort().values
    ordered = torch.stack([keys // candidates, keys % candidates], 1)
    new = torch.nn.functional.pad(keys.diff() != 0, (1, 0), value=True).narrow(0, 0, keys.shape[0])
    return NamedPairs(ordered, pairs.shape[0] == anchors, new)


def joined(*exclusions: Exclusion) -> Exclusion:
    """What any of them leaves out."""
    found = [e for e in exclusions if not isinstance(e, Nothing)]
    whole: Exclusion = found[0] if found else Nothing()
    for part in found[1:]:
        whole = Both(whole, part)
    return whole


__all__ = [
    "ONE_WAY",
    "GroupPositives",
    "ListedPositives",
    "NamedPairs",
    "Names",
    "OwnPositive",
    "Positives",
    "Several",
    "in_order",
    "joined",
    "named_pairs",
]
