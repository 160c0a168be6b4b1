"""What a fitted density ratio does with rows: prepare them, know their groups, sum their fields, score them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError, check_rows
from .._typing import Progress, RowsLike
from ..corrections import Correction
from ..geometry import Cosine, Critic
from ..io import as_rows
from ..reductions import full_precision
from .arguments import checked_groups, checked_side, inner_products, joined_fields, unit_rows
from .fields import NO_GROUP, Field, Kernel, log_field, log_field_without
from .reference import Reference

CHUNK = 8192  # rows that are prepared and scored at once

Weights = tuple[float, float]  # of the fields at rows of x, and at rows of y
GroupsOfRows = tuple[Tensor | None, Tensor | None]  # the same of groups; None has them recognised


@dataclass(frozen=True)
class RowScores:
    """A reference with the critic and the correction that its rows passed."""

    reference: Reference
    correction: Correction | None
    critic: Critic | None
    temperature: float

    @property
    def kernel(self) -> Kernel:
        """The exponential of the critic over tau."""
        critic = Cosine() if self.critic is None else self.critic
        return Kernel(critic.slope, self.temperature)

    def own_groups(self, rows: RowsLike, side: str) -> Int[Tensor, " n"]:
        """Group of each row that is one of the reference's own, -1 for a new one."""
        own = self.reference.own[checked_side(side)]
        parts = as_rows(rows, side).split(CHUNK)
        return torch.cat([own.find(part, start=k * CHUNK) for k, part in enumerate(parts)])

    def terms(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"] | None:
        """The critic's own terms of prepared rows; None where it has none."""
        return None if self.critic is None else self.critic.affine(rows).terms

    def prepared(self, rows: RowsLike, side: str) -> Iterator[Float[Tensor, "k d"]]:
        """Some thousand rows at a time, as the reference's own rows are: corrected, of unit length, of its type."""
        reference = self.reference
        given = as_rows(rows, side)
        check_rows(given, side)
        if given.shape[1] != reference.dim:
            raise InputError(
                f"{side} has {given.shape[1]} features and the reference has {reference.dim}; both must come from "
                "the same model"
            )
        like = reference.x.values
        for part in given.split(CHUNK):
            part = part.to(like.device)
            if self.correction is not None:
                part = self.correction.transform_side(part.double(), side)
            if reference.unit:
                part = unit_rows(part, side)
            yield part.to(like.dtype)

    def groups(self, rows: RowsLike, side: str, groups: Tensor | None) -> Int[Tensor, " n"]:
        """The group of each row: as given, or as it is recognised."""
        if groups is None:
            return self.own_groups(rows, side)
        return checked_groups(groups, len(as_rows(rows, side)), "groups").to(self.reference.x.groups.device)

    def parts(
        self, rows: RowsLike, side: str, groups: Tensor | None
    ) -> Iterator[tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]]:
        """Prepared rows with their groups, in one pass."""
        given = as_rows(rows, side)
        wanted = None if groups is None else self.groups(given, side, groups)
        own, start = self.reference.own[side], 0
        for part in self.prepared(given, side):
            here = slice(start, start + len(part))
            yield part, own.find(given[here], start=start) if wanted is None else wanted[here]
            start = here.stop

    def field(
        self,
        rows: RowsLike,
        side: str,
        groups: Tensor | None,
        *,
        others: Tensor | None = None,
        errors: bool = False,
        progress: Progress | None = None,
    ) -> Field:
        """The field of the other side at rows of this one, without their groups and `others`."""
        reference = self.reference
        other = reference.y if side == "x" else reference.x
        found, start, count = [], 0, len(as_rows(rows, side))
        for part, own in self.parts(rows, side, groups):
            left_out = [own] if others is None else [own, others[start : start + len(part)]]
            start += len(part)
            found.append(log_field(part, other, self.kernel, terms=self.terms(part), left_out=left_out, errors=errors))
            if progress is not None:
                progress(len(part) / count)
        return joined_fields(found)

    def matching(
        self, x: RowsLike, y: RowsLike, weights: Weights, groups: GroupsOfRows, *, errors: bool
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"] | None]:
        """R of matching rows, and its standard error."""
        x, y = as_rows(x, "x"), as_rows(y, "y")
        if len(x) != len(y):
            raise InputError(
                f"x has {len(x)} rows and y has {len(y)}; log_ratio is of matching rows, log_ratios of all with all"
            )
        out = torch.cat(
            [inner_products(a, b) for a, b in zip(self.prepared(x, "x"), self.prepared(y, "y"), strict=True)]
        )
        out = out * self.kernel.scale
        variance = torch.zeros_like(out) if errors else None
        own = self.groups(x, "x", groups[0]), self.groups(y, "y", groups[1])
        for dim, (rows, side, weight) in enumerate(((x, "x", weights[0]), (y, "y", weights[1]))):
            if self.critic is not None:
                terms = [self.terms(part) for part in self.prepared(rows, side)]
                if terms[0] is not None:
                    out = out + torch.cat([t for t in terms if t is not None]) / self.temperature
            if weight:
                field = self.field(rows, side, own[dim], others=own[1 - dim], errors=errors)
                out = out - weight * field.log_mean
                if variance is not None:
                    variance += (weight * field.stderr()).square()
        return out, None if variance is None else variance.sqrt()

    def field_of_pairs(self, rows: Tensor, side: str, at: Tensor, own: Tensor, others: Tensor) -> Field:
        """Field of each pair's row; summed again, pair by pair, where the other row is of another own group."""
        field = self.field(rows, side, None, errors=True).rows(at)
        apart = torch.nonzero((others != NO_GROUP) & (others != own)).flatten()
        for some in apart.split(CHUNK) if len(apart) else ():
            field.put(some, self.field(rows[at[some]], side, own[some], others=others[some], errors=True))
        return field

    def critic_scores(self, x: Tensor, y: Tensor) -> Float[Tensor, " p"]:
        """The critic's scores of matching rows, float64."""
        (left,), (right,) = list(self.prepared(x, "x")), list(self.prepared(y, "y"))
        out = inner_products(left, right) * self.kernel.slope
        for term in (self.terms(left), self.terms(right)):
            out = out if term is None else out + term
        return out

    @full_precision()
    def all_pairs(self, x: RowsLike, y: RowsLike, weights: Weights, groups: GroupsOfRows) -> Float[Tensor, "n m"]:
        """R of all rows of x with all rows of y, in the reference's floating-point type."""
        reference = self.reference
        left, right = (torch.cat(list(self.prepared(rows, name))) for rows, name in ((x, "x"), (y, "y")))
        terms = self.terms(left), self.terms(right)
        out: Tensor = (left * self.kernel.scale) @ right.T
        for dim, term in enumerate(terms):
            if term is not None:
                out += (term / self.temperature).to(out.dtype).unsqueeze(1 - dim)
        own = self.groups(x, "x", groups[0]), self.groups(y, "y", groups[1])
        for dim, (rows, base, weight) in enumerate(((left, reference.y, weights[0]), (right, reference.x, weights[1]))):
            if weight:
                field = log_field_without(rows, base, self.kernel, own=own[dim], others=own[1 - dim], terms=terms[dim])
                out.sub_(field if dim == 0 else field.T, alpha=weight)
        return out
