"""The sums of the losses and their gradients from Triton kernels: what the operators do where these can run.

Nothing here reads a value on the host. Importing this module imports Triton.
"""

from typing import Any

import torch
from torch import Tensor

from ..exclusion import Both, Exclusion, Listed, OtherGroups, OwnRow, SameGroup
from ..kernels.configs import extent_programs
from ..kernels.gradients import Side, gain, gradients, gradients_within
from ..kernels.log_sums import log_sums, log_sums_within
from ..kernels.merging import Sums
from ..kernels.operands import without_gradient
from ..kernels.rows import extents, finished, levels, pair_products, positives
from ..kernels.scores import Scores, scores, singles
from ..kernels.softplus import softplus_sum
from .operators import nothing

Terms = tuple[Tensor | None, Tensor | None]


def matrix_of(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Terms,
    exclusion: Exclusion,
    *,
    precision: str | None = None,
    bounds: Tensor | None = None,
) -> Scores:
    """The score matrix as kernels take it."""
    u, v = terms
    found, _ = scores(x, y, scale, x_terms=u, y_terms=v, precision=precision, bounds=bounds, **_known(exclusion))
    return found


def _known(exclusion: Exclusion) -> dict[str, Any]:
    """What is left out, as `scores` takes it."""
    if isinstance(exclusion, Both):
        return _known(exclusion.first) | _known(exclusion.second)
    if isinstance(exclusion, SameGroup | OtherGroups):
        return {"groups": _whole(exclusion.rows, exclusion.cols), "other_groups": isinstance(exclusion, OtherGroups)}
    if isinstance(exclusion, Listed):
        return {"listed": exclusion.pairs}
    return {"own": True} if isinstance(exclusion, OwnRow) else {}


def _whole(rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """Groups as whole numbers, as kernels compare them: equal where the groups are, 0 and -0.0, 1 and 1.0 too."""
    kind = torch.promote_types(rows.dtype, cols.dtype)
    if not kind.is_floating_point:
        return rows, cols
    one, other = ((groups.to(kind).double() + 0.0).view(torch.int64) for groups in (rows, cols))
    return one, other


def paired_sums(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Terms,
    exclusion: Exclusion,
    *,
    within: bool,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """The scores of the pairs, the log-sums across and within and, for the backward, what `paired` says; float64."""
    n, sides = x.shape[0], 4 if within else 2
    x, y = without_gradient(x), without_gradient(y)
    u, v = singles(*terms)
    bounds, products = extents(x, y, u, v, paired=True)
    assert products is not None
    matrix = matrix_of(x, y, scale, (u, v), exclusion, precision=precision, bounds=bounds)
    peaks, totals = (torch.empty(sides, n, dtype=torch.float64, device=x.device) for _ in range(2))
    across = torch.empty(2, n, dtype=torch.float64, device=x.device)
    inner = torch.empty_like(across) if within else nothing(across)
    values = (*across.unbind(), *inner.unbind())
    sums = [Sums(*parts) for parts in zip(peaks.unbind(), totals.unbind(), values, strict=True)]
    _, _, rounded = log_sums(matrix, keep_own=True, into=(sums[0], sums[1]))
    assert rounded is not None
    for side in range(2 if within else 0):
        log_sums_within(matrix.within(side), into=sums[2 + side])
    positive = positives(products, rounded, (values[0], values[1]), scale, *terms)
    return positive, across, inner, peaks, totals, bounds


def paired_gradients(
    cotangents: tuple[Tensor, Tensor],
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Terms,
    exclusion: Exclusion,
    *,
    saved: tuple[Tensor, Tensor, Tensor],
    wanted: list[bool],
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and both terms for the cotangents of the pairs' scores and of all log-sums."""
    peaks, totals, bounds = saved
    x, y = without_gradient(x), without_gradient(y)
    matrix = matrix_of(x, y, scale, terms, exclusion, precision=precision, bounds=bounds)
    positive, log_sums = cotangents
    factor = gain(matrix)
    level, factors, size = levels(log_sums, peaks, totals, factor)
    sides = [Side(*parts) for parts in zip(level.unbind(), factors.unbind(), strict=True)]
    both = [wanted[0] or wanted[2], wanted[1] or wanted[2]]  # the scale's gradient is made of the rows' two
    found = gradients(matrix, *sides[:2], x=both[0], y=both[1], x_terms=wanted[3], y_terms=wanted[4])
    of_terms = [found.x_terms, found.y_terms]
    for k, into in enumerate((found.x, found.y) if len(sides) == 4 else ()):
        if into is not None or wanted[3 + k]:
            inner = gradients_within(
                matrix.within(k), sides[2 + k], add_to=into, x=into is not None, x_terms=wanted[3 + k]
            )
            if inner.x_terms is not None:
                of_cross = of_terms[k]
                of_terms[k] = inner.x_terms if of_cross is None else of_cross.add_(inner.x_terms)
    rows, dots = [], []
    for sums, these, others in ((found.x, x, y), (found.y, y, x)):
        if sums is None:
            rows.append(nothing(these))
            continue
        made, inner_products = finished(
            sums, these, scale, size, gain=factor, others=others, cotangent=positive, dots=wanted[2]
        )
        rows.append(made)
        dots.append(inner_products)
    # Every score is scale times a product of two rows: by Euler's theorem the rows' gradients hold it twice.
    grad_scale = 0.5 * torch.cat([d for d in dots if d is not None]).sum() if wanted[2] else nothing(scale)
    return (
        *(made if want else nothing(these) for made, want, these in zip(rows, wanted, (x, y), strict=False)),
        grad_scale,
        *(nothing(scale) if t is None else t.mul_(_unit(size) / factor) for t in of_terms),
    )


def row_sums(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    y_terms: Tensor | None,
    exclusion: Exclusion,
    *,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """The log-sums of every row of x over y, their peaks and totals, float64, and the extents of the rows."""
    x, y = without_gradient(x), without_gradient(y)
    (terms,) = singles(y_terms)
    bounds, _ = extents(x, y, None, terms)
    matrix = matrix_of(x, y, scale, (None, terms), exclusion, precision=precision, bounds=bounds)
    sums, _, _ = log_sums(matrix, cols=False)
    return sums.value, sums.peak, sums.total, bounds


def row_gradients(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    y_terms: Tensor | None,
    exclusion: Exclusion,
    *,
    saved: tuple[Tensor, Tensor, Tensor],
    wanted: list[bool],
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and y's terms for the cotangent of the log-sums."""
    peaks, totals, bounds = saved
    x, y = without_gradient(x), without_gradient(y)
    matrix = matrix_of(x, y, scale, (None, y_terms), exclusion, precision=precision, bounds=bounds)
    factor = gain(matrix)
    level, factors, size = levels(cotangent[None], peaks[None], totals[None], factor)
    found = gradients(
        matrix, Side(level[0], factors[0]), None, x=wanted[0] or wanted[2], y=wanted[1], y_terms=wanted[3]
    )
    made, dots = nothing(x), None
    if found.x is not None:
        made, dots = finished(found.x, x, scale, size, gain=factor, dots=wanted[2])
    of_y = nothing(y) if found.y is None else finished(found.y, y, scale, size, gain=factor)[0]
    return (
        made if wanted[0] else nothing(x),
        of_y,
        nothing(scale) if dots is None else dots.sum(),
        nothing(scale) if found.y_terms is None else found.y_terms.mul_(_unit(size) / factor),
    )


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """x_i.y_i, (n,) float64."""
    return pair_products(x, y)


def softplus(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Terms,
    exclusion: Exclusion,
    *,
    keep: list[bool],
    row_weights: Tensor | None = None,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """The sum of softplus, and its gradients of rows, still to be scaled, of the scale and of the terms if wanted."""
    x, y = without_gradient(x), without_gradient(y)
    matrix = matrix_of(x, y, scale, terms, exclusion, precision=precision, bounds=_unread(x.device))
    some, of_scale, terms_too = keep
    found = softplus_sum(matrix, row_weights=row_weights, gradients=some, terms=terms_too)
    if found.x is None or found.y is None:
        return found.value, *(nothing(x) for _ in range(5))
    grad_scale = pair_products(x, found.x).sum() if of_scale else nothing(scale)
    of_terms = (nothing(scale) if t is None else t for t in (found.x_terms, found.y_terms))
    return found.value, found.x, found.y, grad_scale, *of_terms


def softplus_rows(
    x: Tensor, y: Tensor, scale: Tensor, terms: Terms, exclusion: Exclusion, *, precision: str | None = None
) -> Tensor:
    """The sums of softplus of every row."""
    matrix = matrix_of(x, y, scale, terms, exclusion, precision=precision, bounds=_unread(x.device))
    return softplus_sum(matrix, by_row=True, gradients=False).value


def softplus_rows_gradients(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Terms,
    exclusion: Exclusion,
    *,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and both terms for the cotangent of the rows' sums."""
    _, of_x, of_y, of_scale, *of_terms = softplus(
        x, y, scale, terms, exclusion, keep=[True] * 3, row_weights=cotangent, precision=precision
    )
    return (of_x * scale).to(x.dtype), (of_y * scale).to(y.dtype), of_scale, *of_terms


def _unread(device: torch.device) -> Tensor:
    """In place of extents: a sum of softplus has no level."""
    return torch.empty(2, 2, extent_programs(device), dtype=torch.float32, device=device)


def _unit(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0)


__all__ = [
    "matrix_of",
    "paired_gradients",
    "paired_sums",
    "row_gradients",
    "row_products",
    "row_sums",
    "softplus",
    "softplus_rows",
    "softplus_rows_gradients",
]
