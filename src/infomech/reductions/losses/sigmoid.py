"""The sum of softplus over a score matrix, tile by tile: the core of the sigmoid loss, in memory O(n d)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from ..._typing import OtherRows, Rows, Scalar
from ..exclusion import Exclusion, decoded
from ..tiling import blocks, compute_dtype, tile_shape
from ..workspace import Workspace
from .backends import attempted, decoded_backend, takes_kernels
from .operators import (
    any_gradient,
    doubled,
    empty_like_wanted,
    nothing,
    once_only,
    only_wanted,
    operator,
    or_zeros,
)
from .passes import inner_product

XTerms = Float[Tensor, " n"]
YTerms = Float[Tensor, " m"]


def softplus_sum(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    x_terms: XTerms | None,
    y_terms: YTerms | None,
    exclusion: Exclusion,
    row_weights: XTerms | None = None,
    backend: str = "auto",
) -> Scalar:
    """The sum of w_i log(1 + exp(scale x_i.y_j + u_i + t_j)) over the entries that are not excluded, in float64.

    The terms u of x and t of y, which may be -inf or None, hold a bias, a critic's row terms and log-weights; the
    weights w, 1 if there are none, are constants. The
    gradient of an entry, sigmoid(score), needs no normaliser, so that one visit of a tile gives the value and all
    gradients: three products in all, and n x d numbers kept for the backward. Differentiable once.
    """
    u, t, factor = doubled(x_terms), doubled(y_terms), scale.double()
    code, tensors = exclusion.coded()
    weights = None if row_weights is None else row_weights.detach().double()
    keep = [any_gradient(x, y, factor, u, t), any_gradient(factor), any_gradient(u, t)]
    out: Tensor = forward(x, y, factor, u, t, code, tensors, keep, backend, weights)[0]
    return out


@dataclass(frozen=True)
class SoftplusGradients:
    """Where the gradients of the sum go: those of the rows still to be scaled, those of the terms in float64."""

    x: Tensor
    y: Tensor
    x_terms: XTerms | None
    y_terms: YTerms | None

    @classmethod
    def zeros(cls, x: Tensor, y: Tensor, x_terms: XTerms | None, y_terms: YTerms | None) -> "SoftplusGradients":
        """Nothing yet, in the dtype of the tiles."""
        rows = [torch.zeros_like(z, dtype=compute_dtype(x, y)) for z in (x, y)]
        return cls(*rows, *(None if t is None else torch.zeros_like(t) for t in (x_terms, y_terms)))


def accumulate(
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor,
    x_terms: XTerms | None,
    y_terms: YTerms | None,
    exclusion: Exclusion,
    gradients: SoftplusGradients | None,
    row_weights: XTerms | None = None,
    rows: XTerms | None = None,
) -> Tensor:
    """Sum of softplus over x against y; adds G y and G^T x to the rows' gradients, and sums of G to the terms'.

    The sums of every row are added to `rows`, if they are wanted, and are not weighted.
    """
    height, width = tile_shape(x.device)
    dtype = compute_dtype(x, y)
    space = Workspace(x.new_empty(0, dtype=dtype))
    value = torch.zeros((), dtype=torch.float64, device=x.device)
    factor = scale.to(dtype)
    terms = [None if t is None else t.to(dtype) for t in (x_terms, y_terms)]
    shares = None if row_weights is None else row_weights.to(dtype)
    for i in blocks(len(x), height):
        left = x[i].to(dtype)
        scaled = left * factor
        for j in blocks(len(y), width):
            right = y[j].to(dtype)
            tile = torch.mm(scaled, right.mT, out=space.buffer("tile", len(left), len(right)))
            if terms[0] is not None:
                tile.add_(terms[0][i, None])
            if terms[1] is not None:
                tile.add_(terms[1][None, j])
            exclusion.weigh(tile, i, j)
            exclusion.clear(tile, i, j, -torch.inf)
            of_rows = softplus(tile, threshold=40.0).sum(1)
            if rows is not None:
                rows[i] += of_rows
            value += (of_rows if row_weights is None else of_rows * row_weights[i]).sum(dtype=torch.float64)
            if gradients is not None:
                tile.sigmoid_()
                if shares is not None:
                    tile.mul_(shares[i, None])
                for dim, (there, part) in enumerate(((gradients.x_terms, i), (gradients.y_terms, j))):
                    if there is not None:
                        there[part] += tile.sum(1 - dim)
                gradients.x[i].addmm_(tile, right)
                gradients.y[j].addmm_(tile.mT, left)
    return value


@operator(
    "softplus_sum",
    "(Tensor x, Tensor y, Tensor scale, Tensor? x_terms, Tensor? y_terms, str exclusion, Tensor[] excluded, "
    "bool[] keep, str backend, Tensor? row_weights=None) "
    "-> (Tensor value, Tensor grad_x, Tensor grad_y, Tensor grad_scale, Tensor grad_x_terms, Tensor grad_y_terms)",
)
def forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    keep: list[bool],
    backend: str,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The sum and its gradients: those of the rows still to be scaled, those of the terms in float64.

    `keep` says whether any gradients are wanted and, if so, whether those of the scale and of the terms are.
    """
    if takes_kernels(backend, exclusion, x, y):
        from . import fused  # here: it imports Triton, which need not be there

        given, (_, precision) = decoded(exclusion, excluded), decoded_backend(backend)
        found = attempted(
            x.device,
            lambda: fused.softplus(
                x, y, scale, (x_terms, y_terms), given, keep=keep, row_weights=row_weights, precision=precision
            ),
        )
        if found is not None:
            return found
    some, of_scale, of_terms = keep
    gradients = SoftplusGradients.zeros(x, y, *((x_terms, y_terms) if of_terms else (None, None))) if some else None
    value = accumulate(
        x,
        y,
        scale=scale,
        x_terms=x_terms,
        y_terms=y_terms,
        exclusion=decoded(exclusion, excluded),
        gradients=gradients,
        row_weights=row_weights,
    )
    if gradients is None:
        return value, *(nothing(x) for _ in range(5))
    found_terms = (nothing(scale) if t is None else t for t in (gradients.x_terms, gradients.y_terms))
    # Scores are scale times products of rows: by Euler's theorem the gradient of x alone gives the scale's.
    grad_scale = inner_product(x, gradients.x) if of_scale else nothing(scale)
    return value, gradients.x, gradients.y, grad_scale, *found_terms


@operator(
    "softplus_sum_backward",
    "(Tensor value, ScalarType x_dtype, ScalarType y_dtype, Tensor scale, Tensor grad_x, Tensor grad_y, "
    "Tensor grad_scale, Tensor grad_x_terms, Tensor grad_y_terms, bool[] wanted) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def backward(
    value: Tensor,
    x_dtype: torch.dtype,
    y_dtype: torch.dtype,
    scale: Tensor,
    grad_x: Tensor,
    grad_y: Tensor,
    grad_scale: Tensor,
    grad_x_terms: Tensor,
    grad_y_terms: Tensor,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and both terms for the cotangent of the sum; those not wanted empty."""
    factor = (value * scale).to(grad_x.dtype)
    rows = ((grad_x, x_dtype), (grad_y, y_dtype))
    rest = (grad_scale, grad_x_terms, grad_y_terms)
    return (
        *(
            torch.mul(g, factor, out=torch.empty_like(g, dtype=dtype)) if want else nothing(g)
            for (g, dtype), want in zip(rows, wanted, strict=False)
        ),
        *(g * value if want else nothing(g) for g, want in zip(rest, wanted[2:], strict=True)),
    )


@forward.register_fake
def _(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    keep: list[bool],
    backend: str,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, ...]:
    value = scale.new_empty(())
    some, of_scale, of_terms = keep
    if not some:
        return value, *(nothing(x) for _ in range(5))
    rows = (empty_like_wanted(z, True, compute_dtype(x, y)) for z in (x, y))
    terms = (nothing(scale) if t is None or not of_terms else torch.empty_like(t) for t in (x_terms, y_terms))
    return value, *rows, empty_like_wanted(scale, of_scale), *terms


@backward.register_fake
def _(
    value: Tensor,
    x_dtype: torch.dtype,
    y_dtype: torch.dtype,
    scale: Tensor,
    grad_x: Tensor,
    grad_y: Tensor,
    grad_scale: Tensor,
    grad_x_terms: Tensor,
    grad_y_terms: Tensor,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    rows = ((grad_x, x_dtype), (grad_y, y_dtype))
    rest = (grad_scale, grad_x_terms, grad_y_terms)
    return (
        *(empty_like_wanted(g, want, dtype) for (g, dtype), want in zip(rows, wanted, strict=False)),
        *(empty_like_wanted(g, want) for g, want in zip(rest, wanted[2:], strict=True)),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, *_ = inputs
    ctx.dtypes = x.dtype, y.dtype
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(scale, *output[1:])


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    scale, *gradients = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    gradients = backward(or_zeros(cotangents[0], (), scale), *ctx.dtypes, scale, *gradients, wanted)
    found = only_wanted(gradients, wanted)
    return *found, None, None, None, None, None


forward.register_autograd(_differentiate, setup_context=_save)
once_only(backward)


def softplus_row_sums(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    x_terms: XTerms | None,
    y_terms: YTerms | None,
    exclusion: Exclusion,
    backend: str = "auto",
) -> XTerms:
    """The sums of log(1 + exp(scale x_i.y_j + u_i + t_j)) of every row, in float64.

    Their gradients need the cotangents of the rows, so that a backward computes the scores again: four products in all.
    Differentiable once.
    """
    if not x.shape[0]:  # a rank without rows still takes part in the gradients of the others'
        return 0.0 * (y.double().sum() + scale.double()) + x.double().sum(1)
    code, tensors = exclusion.coded()
    out: Tensor = rows_forward(x, y, scale.double(), doubled(x_terms), doubled(y_terms), code, tensors, backend)
    return out


@operator(
    "softplus_row_sums",
    "(Tensor x, Tensor y, Tensor scale, Tensor? x_terms, Tensor? y_terms, str exclusion, Tensor[] excluded, "
    "str backend) -> Tensor",
)
def rows_forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    backend: str,
) -> Tensor:
    """The sums of softplus of every row."""
    if takes_kernels(backend, exclusion, x, y):
        from . import fused

        given, (_, precision) = decoded(exclusion, excluded), decoded_backend(backend)
        both = x_terms, y_terms
        found = attempted(x.device, lambda: fused.softplus_rows(x, y, scale, both, given, precision=precision))
        if found is not None:
            return found
    rows = scale.new_zeros(len(x))
    terms: dict[str, Any] = {"x_terms": x_terms, "y_terms": y_terms, "exclusion": decoded(exclusion, excluded)}
    accumulate(x, y, scale=scale, gradients=None, rows=rows, **terms)
    return rows


@operator(
    "softplus_row_sums_backward",
    "(Tensor rows, Tensor x, Tensor y, Tensor scale, Tensor? x_terms, Tensor? y_terms, str exclusion, "
    "Tensor[] excluded, bool[] wanted, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def rows_backward(
    rows: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and both terms for the cotangents of the rows' sums; those not wanted empty."""
    made = None
    if takes_kernels(backend, exclusion, x, y):
        from . import fused

        given, (_, precision) = decoded(exclusion, excluded), decoded_backend(backend)
        both = x_terms, y_terms
        made = attempted(
            x.device,
            lambda: fused.softplus_rows_gradients(rows, x, y, scale, both, given, precision=precision),
        )
    if made is not None:
        return tuple(t if want else nothing(scale) for t, want in zip(made, wanted, strict=True))
    gradients = SoftplusGradients.zeros(x, y, x_terms, y_terms)
    terms: dict[str, Any] = {"x_terms": x_terms, "y_terms": y_terms, "exclusion": decoded(exclusion, excluded)}
    accumulate(x, y, scale=scale, gradients=gradients, row_weights=rows, **terms)
    of_scale = inner_product(x, gradients.x)
    of_rows = (gradients.x.mul_(scale.to(gradients.x.dtype)), gradients.y.mul_(scale.to(gradients.y.dtype)))
    found = (of_rows[0].to(x.dtype), of_rows[1].to(y.dtype), of_scale, gradients.x_terms, gradients.y_terms)
    return tuple(nothing(scale) if t is None or not want else t for t, want in zip(found, wanted, strict=True))


@rows_forward.register_fake
def _(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    backend: str,
) -> Tensor:
    return scale.new_empty(x.shape[0])


@rows_backward.register_fake
def _(
    rows: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    given = (x, y, scale, x_terms, y_terms)
    return tuple(
        empty_like_wanted(t, True) if t is not None and want else nothing(scale)
        for t, want in zip(given, wanted, strict=True)
    )


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *given, ctx.exclusion, excluded, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given, *excluded)


def _differentiate_rows(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    x, y, scale, x_terms, y_terms, *excluded = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    cotangent = or_zeros(cotangents[0], (x.shape[0],), scale)
    gradients = rows_backward(cotangent, x, y, scale, x_terms, y_terms, ctx.exclusion, excluded, wanted, ctx.backend)
    return *only_wanted(gradients, wanted), None, None, None


rows_forward.register_autograd(_differentiate_rows, setup_context=_save_rows)
once_only(rows_backward)


def save_gradients(ctx: Any, gradients: SoftplusGradients, grad_scale: Tensor, scale: Tensor) -> None:
    """Keep for the backward what the forward found."""
    ctx.save_for_backward(gradients.x, gradients.y, grad_scale, scale, gradients.x_terms, gradients.y_terms)


def saved_gradients(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of x, y, the scale and both terms, for a cotangent of the sum."""
    grad_x, grad_y, grad_scale, scale, *terms = ctx.saved_tensors
    factor = (cotangent * scale).to(grad_x.dtype)
    return (
        (grad_x * factor).to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None,
        (grad_y * factor).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None,
        grad_scale * cotangent,
        *(None if t is None else t * cotangent for t in terms),
    )


__all__ = [
    "SoftplusGradients",
    "accumulate",
    "backward",
    "forward",
    "rows_backward",
    "rows_forward",
    "save_gradients",
    "saved_gradients",
    "softplus_row_sums",
    "softplus_sum",
]
