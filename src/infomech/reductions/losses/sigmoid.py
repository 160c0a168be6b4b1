"""The sum of softplus over a score matrix, tile by tile: the core of the sigmoid loss, in memory O(n d)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from ..._typing import OtherRows, Rows, Scalar
from ..exclusion import Exclusion
from ..tiling import blocks, compute_dtype, tile_shape
from ..workspace import Workspace
from .kept import outside_graphs, without_autocast
from .passes import inner_product

XTerms = Float[Tensor, " n"]
YTerms = Float[Tensor, " m"]


def softplus_sum(
    x: Rows, y: OtherRows, *, scale: Tensor, x_terms: XTerms | None, y_terms: YTerms | None, exclusion: Exclusion
) -> Scalar:
    """The sum of log(1 + exp(scale x_i.y_j + u_i + t_j)) over the entries that are not excluded, in float64.

    The terms u of x and t of y, which may be -inf or None, hold a bias, a critic's row terms and log-weights. The
    gradient of an entry, sigmoid(score), needs no normaliser, so that one visit of a tile gives the value and all
    gradients: three products in all, and n x d numbers kept for the backward. Differentiable once.
    """
    u, t = (None if part is None else part.double() for part in (x_terms, y_terms))
    wanted = torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in (x, y, scale, u, t))
    out: Tensor = _apply(x, y, scale.double(), u, t, exclusion, wanted)
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
) -> Tensor:
    """Sum of softplus over x against y; adds G y and G^T x to the rows' gradients, and sums of G to the terms'."""
    height, width = tile_shape(x.device)
    dtype = compute_dtype(x, y)
    space = Workspace(x.new_empty(0, dtype=dtype))
    value = torch.zeros((), dtype=torch.float64, device=x.device)
    factor = scale.to(dtype)
    terms = [None if t is None else t.to(dtype) for t in (x_terms, y_terms)]
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
            value += softplus(tile, threshold=40.0).sum(1).sum(dtype=torch.float64)
            if gradients is not None:
                tile.sigmoid_()
                for dim, (there, part) in enumerate(((gradients.x_terms, i), (gradients.y_terms, j))):
                    if there is not None:
                        there[part] += tile.sum(1 - dim)
                gradients.x[i].addmm_(tile, right)
                gradients.y[j].addmm_(tile.mT, left)
    return value


class _SoftplusSum(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        x_terms: Tensor | None,
        y_terms: Tensor | None,
        exclusion: Exclusion,
        wanted: bool,
    ) -> Tensor:
        gradients = SoftplusGradients.zeros(x, y, x_terms, y_terms) if wanted else None
        value = accumulate(
            x, y, scale=scale, x_terms=x_terms, y_terms=y_terms, exclusion=exclusion, gradients=gradients
        )
        if gradients is not None:
            # Scores are scale times products of rows: by Euler's theorem the gradient of x alone gives the scale's.
            save_gradients(ctx, gradients, inner_product(x, gradients.x), scale)
            ctx.dtypes = x.dtype, y.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return *saved_gradients(ctx, cotangents[0]), None, None


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


@outside_graphs
def _apply(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: Exclusion,
    wanted: bool,
) -> Tensor:
    out: Tensor = _SoftplusSum.apply(x, y, scale, x_terms, y_terms, exclusion, wanted)  # type: ignore[no-untyped-call]
    return out


__all__ = ["SoftplusGradients", "accumulate", "save_gradients", "saved_gradients", "softplus_sum"]
