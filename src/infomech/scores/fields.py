"""Partition fields of a reference (D3) at any rows, tile by tile, some of the reference's groups left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._shown import Fields
from .._typing import Progress, Rows
from ..measures import PairedSample
from ..reductions.exclusion import SameGroup
from ..reductions.log_sums import NEGLIGIBLE, LogSums
from ..reductions.shifts import unshifted
from ..reductions.tiling import blocks, full_precision

NO_GROUP = -1  # stands for a row of no group of the reference
_ROWS, _COLUMNS = 1024, 2048  # of a tile: 8 MB of float32
_DOMINANT = 0.999  # share of a field above which taking a group away loses digits: it is summed again


@dataclass(frozen=True, repr=False)
class Side(Fields):
    """The reference's rows of one modality, sorted by group, weighed as the law of pairs weighs them.

    Args:
        values: (n, d) rows.
        groups: (n,) group of each row, ascending.
        log_weights: (n,) float64; the weights of a group sum to 1 (a uniform group, then a uniform pair in it).
        terms: (n,) float64, what the critic adds to inner products with each row; None for 0.
    """

    values: Float[Tensor, "n d"]
    groups: Int[Tensor, " n"]
    log_weights: Float[Tensor, " n"]
    terms: Float[Tensor, " n"] | None = None

    @classmethod
    def of(cls, sample: PairedSample, side: int) -> "Side":
        """Side 0 (x) or 1 (y) of a paired sample."""
        rows = (sample.x, sample.y)[side]
        share = 1 / sample.group_pairs[sample.pair_groups]
        weights = torch.zeros(len(rows), dtype=torch.float64, device=share.device)
        weights.index_add_(0, sample.pairs[:, side], share)
        return cls(rows.values, rows.groups, weights.log(), sample.critic.affine(rows.values).terms)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(self.groups[-1]) + 1

    def added(self, temperature: float) -> Float[Tensor, " n"] | None:
        """What is added to scores over tau along the columns; None for nothing."""
        if self.terms is None:
            return self.log_weights if bool(self.log_weights.any()) else None
        return self.log_weights + self.terms / temperature

    def of_groups(self, groups: Int[Tensor, " k"]) -> tuple["Side", Int[Tensor, " c"]]:
        """The rows of some distinct groups, and which of `groups` each of them belongs to."""
        place = torch.full((self.count + 1,), -1, dtype=torch.int64, device=self.groups.device)
        place[groups] = torch.arange(len(groups), device=groups.device)
        at = torch.nonzero(place[self.groups] >= 0).flatten()
        terms = None if self.terms is None else self.terms[at]
        return Side(self.values[at], self.groups[at], self.log_weights[at], terms), place[self.groups[at]]


@dataclass(frozen=True)
class Kernel:
    """exp(s(x, y) / tau) with s(x, y) = slope x.y + b(x) + c(y); the terms stand with the rows."""

    slope: float
    temperature: float

    @property
    def scale(self) -> float:
        """The factor of inner products."""
        return self.slope / self.temperature


@dataclass(frozen=True, repr=False)
class Field(Fields):
    """log Gamma of rows, and how well the reference knows it."""

    log_mean: Float[Tensor, " n"]  # float64
    effective: Float[Tensor, " n"] | None = None  # (sum kappa)^2 / sum kappa^2; None if it was not asked for
    drawn: Float[Tensor, " n"] | None = None  # of how many groups each is a mean

    def stderr(self) -> Float[Tensor, " n"]:
        """Standard error of log Gamma to first order: cv / sqrt(n), cv the coefficient of variation of the kernel.

        With n groups and n_eff of them effective, cv^2 = n / n_eff - 1.
        """
        assert self.effective is not None
        assert self.drawn is not None
        return (1 / self.effective - 1 / self.drawn).clamp_min(0).sqrt()

    def at_least(self) -> Float[Tensor, " n"]:
        """Effective groups of each mean."""
        assert self.effective is not None
        return self.effective

    def rows(self, at: Int[Tensor, " p"]) -> "Field":
        """A copy of the field of some rows, with its errors."""
        assert self.effective is not None
        assert self.drawn is not None
        return Field(self.log_mean[at], self.effective[at], self.drawn[at])

    def put(self, at: Int[Tensor, " p"], other: "Field") -> None:
        """Other values in some places, with their errors."""
        for mine, new in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[at] = new


@full_precision()
def log_field(
    rows: Rows,
    side: Side,
    kernel: Kernel,
    *,
    terms: Float[Tensor, " n"] | None = None,
    left_out: Sequence[Int[Tensor, " n"]] = (),
    errors: bool = False,
    progress: Progress | None = None,
) -> Field:
    """Log Gamma(z) = log of the mean over groups of exp(s(z, w) / tau), w in the reference, for each row z.

    Args:
        rows: (n, d), in the dtype of the reference's rows.
        side: the reference's rows w.
        kernel: slope and temperature.
        terms: (n,) what the critic adds for each row.
        left_out: groups, one for each row and entry of the sequence, that its mean leaves out; -1 for none.
        errors: also count what each mean really rests on.
        progress: told the share of the work done since the last call.

    Source: D3, E9.
    """
    count, device = len(rows), rows.device
    added = side.added(kernel.temperature)
    free = unshifted(_largest_score(rows, side, kernel, added), rows.dtype)
    sums = LogSums(count, shift=0.0 if free else None, device=device, with_squares=errors)
    columns = None if added is None else added.to(rows.dtype)
    own = [SameGroup(groups, side.groups) for groups in left_out if bool((groups != NO_GROUP).any())]
    tile = torch.empty(min(_ROWS, count), min(_COLUMNS, len(side)), dtype=rows.dtype, device=device)
    for stripe in blocks(count, _ROWS):
        scaled = rows[stripe] * kernel.scale
        for part in blocks(len(side), _COLUMNS):
            here = tile.flatten()[: len(scaled) * (part.stop - part.start)].view(len(scaled), -1)
            torch.mm(scaled, side.values[part].T, out=here)
            if columns is not None:
                here += columns[part]
            for exclusion in own:
                exclusion.clear(here, stripe, part, -math.inf)
            _absorb(sums, here, stripe, errors=errors)
        if progress is not None:
            progress(len(scaled) / count)
    drawn = _groups_left(left_out, side.count, count, device)
    value = sums.value() - drawn.log()
    if terms is not None:
        value = value + terms / kernel.temperature
    if not errors:
        return Field(value)
    return Field(value, torch.exp(2 * sums.value() - sums.value_of_squares()), drawn)


def _largest_score(rows: Tensor, side: Side, kernel: Kernel, added: Tensor | None) -> float:
    """A bound on the absolute value of scores over tau, from the rows' lengths."""
    lengths = [float(torch.linalg.vector_norm(each, dim=1).max()) for each in (rows, side.values)]
    return abs(kernel.scale) * lengths[0] * lengths[1] + (0.0 if added is None else float(added.abs().max()))


def _absorb(sums: LogSums, tile: Tensor, stripe: slice, *, errors: bool) -> None:
    """Add a tile of scores over tau, which is overwritten."""
    level: Tensor | float = 0.0
    if sums.shift is None:
        top = tile.amax(1)
        level = torch.where(top == -math.inf, 0.0, top)
        tile.sub_(level[:, None]).clamp_(min=NEGLIGIBLE)
        tile.exp_()
        tile[top == -math.inf] = 0.0
    else:
        tile.exp_()
    totals = tile.sum(1).double()
    squares = tile.square_().sum(1).double() if errors else None
    sums.add(stripe, totals, level, squares)


def _groups_left(left_out: Sequence[Tensor], groups: int, count: int, device: torch.device) -> Tensor:
    """How many groups the mean of each row is over."""
    left = torch.full((count,), float(groups), dtype=torch.float64, device=device)
    for k, each in enumerate(left_out):
        repeated = torch.zeros_like(each, dtype=torch.bool)
        for earlier in left_out[:k]:
            repeated |= earlier == each
        left -= ((each != NO_GROUP) & ~repeated).double()
    return left


@full_precision()
def log_field_without(
    rows: Rows,
    side: Side,
    kernel: Kernel,
    *,
    own: Int[Tensor, " n"],
    others: Int[Tensor, " m"],
    terms: Float[Tensor, " n"] | None = None,
    whole: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, "n m"]:
    """Log Gamma of each row without its own group, and for column j without the group ``others[j]`` as well.

    What a pair (x_i, y_j) of the reference itself is scored by: neither of its groups is in the field.

    Args:
        rows: (n, d).
        side: the reference's rows.
        kernel: slope and temperature.
        own: group of each row, -1 for none.
        others: groups, -1 for none, of the columns.
        terms: (n,) what the critic adds for each row.
        whole: (n,) log Gamma without the row's own group, where it is known already.

    Returns:
        (n, m), in the dtype of the rows; exact to the rounding of float32 sums also where one group is nearly all of a
        row's field.

    Source: E9, DECISIONS "Score".
    """
    if whole is None:
        whole = log_field(rows, side, kernel, terms=terms, left_out=(own,)).log_mean
    distinct, column_of = torch.unique(others[others != NO_GROUP], return_inverse=True)
    out = whole[:, None].expand(-1, len(others)).to(rows.dtype).contiguous()
    if not len(distinct):
        return out
    some, place = side.of_groups(distinct)
    added = some.added(kernel.temperature)
    named = torch.nonzero(others != NO_GROUP).flatten()
    left = _groups_left((own,), side.count, len(rows), rows.device)
    again: list[Tensor] = []
    for stripe in blocks(len(rows), _ROWS):
        part = rows[stripe].double() if rows.dtype is torch.float64 else rows[stripe]
        scores = (part * kernel.scale) @ some.values.T
        if added is not None:
            scores += added.to(scores.dtype)
        offset = whole[stripe] + left[stripe].log()
        if terms is not None:
            offset = offset - terms[stripe] / kernel.temperature
        shares = torch.exp(scores - offset[:, None].to(scores.dtype))
        by_group = shares.new_zeros(len(shares), len(distinct)).index_add_(1, place, shares)
        by_group.masked_fill_(own[stripe, None] == distinct, 0.0)
        change = torch.log1p(-by_group.clamp(max=_DOMINANT)).double()
        change += (left[stripe, None] / (left[stripe, None] - (own[stripe, None] != distinct).double())).log()
        out[stripe.start : stripe.stop, named] += change[:, column_of].to(out.dtype)
        at = torch.nonzero(by_group > _DOMINANT)
        again.append(at + torch.tensor([stripe.start, 0], device=at.device))
    _sum_again(out, torch.cat(again), rows, side, kernel, own=own, others=others, distinct=distinct, terms=terms)
    return out


def _sum_again(
    out: Tensor,
    at: Tensor,
    rows: Tensor,
    side: Side,
    kernel: Kernel,
    *,
    own: Tensor,
    others: Tensor,
    distinct: Tensor,
    terms: Tensor | None,
) -> None:
    """Fields of which one other group is nearly everything, summed without it."""
    if not len(at):
        return
    i, group = at[:, 0], distinct[at[:, 1]]
    found = log_field(
        rows[i], side, kernel, terms=None if terms is None else terms[i], left_out=(own[i], group)
    ).log_mean.to(out.dtype)
    for k in range(len(i)):
        out[i[k], others == group[k]] = found[k]


__all__ = ["NO_GROUP", "Field", "Kernel", "Side", "log_field", "log_field_without"]
