"""The sum of softplus over a score matrix, tile by tile: the core of the sigmoid loss, in memory O(n d)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from ..._typing import OtherRows, Rows, Scalar
from .passes import inner_product
from .tiles import Exclusion, Workspace, blocks, compute_dtype, outside_graphs, tile_shape, without_autocast


def softplus_sum(x: Rows, y: OtherRows, *, inverse_temperature: Tensor, bias: Tensor, exclusion: Exclusion) -> Scalar:
    """The sum of log(1 + exp(x_i.y_j / tau + b)) over the entries that are not excluded, in float64.

    The gradient of an entry, sigmoid(score), needs no normaliser, so that one visit of a tile gives the value and both
    gradients: three products in all, and n x d numbers kept for the backward. Differentiable once.
    """
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, inverse_temperature, bias))
    out: Tensor = _apply(x, y, inverse_temperature.to(torch.float64), bias.to(torch.float64), exclusion, wanted)
    return out


def accumulate(
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor,
    bias: Tensor,
    exclusion: Exclusion,
    gradients: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Sum of softplus and of sigmoid over x against y; adds G y and G^T x to the gradients, still to be scaled."""
    height, width = tile_shape(x.device)
    dtype = compute_dtype(x, y)
    space = Workspace(min(height, len(x)), min(width, len(y)), dtype=dtype, device=x.device)
    value, slope = torch.zeros(2, dtype=torch.float64, device=x.device)
    factor, offset = scale.to(dtype), bias.to(dtype)
    for i in blocks(len(x), height):
        left = x[i].to(dtype)
        scaled = left * factor
        for j in blocks(len(y), width):
            right = y[j].to(dtype)
            tile = torch.mm(scaled, right.mT, out=space.tile(len(left), len(right))).add_(offset)
            exclusion.clear(tile, i, j, -torch.inf)
            value += softplus(tile, threshold=40.0).sum(1).sum(dtype=torch.float64)
            if gradients is not None:
                tile.sigmoid_()
                slope += tile.sum(1).sum(dtype=torch.float64)
                gradients[0][i].addmm_(tile, right)
                gradients[1][j].addmm_(tile.mT, left)
    return value, slope


class _SoftplusSum(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, exclusion: Exclusion, wanted: bool
    ) -> Tensor:
        dtype = compute_dtype(x, y)
        gradients = (torch.zeros_like(x, dtype=dtype), torch.zeros_like(y, dtype=dtype)) if wanted else None
        value, slope = accumulate(x, y, scale=scale, bias=bias, exclusion=exclusion, gradients=gradients)
        if gradients is not None:
            # Scores are scale times products of rows: by Euler's theorem the gradient of x alone gives the scale's.
            ctx.save_for_backward(*gradients, inner_product(x, gradients[0]), slope, scale)
            ctx.dtypes = x.dtype, y.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_y, grad_scale, slope, scale = ctx.saved_tensors
        (g,) = cotangents
        factor = (g * scale).to(grad_x.dtype)
        return (
            (grad_x * factor).to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None,
            (grad_y * factor).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None,
            grad_scale * g,
            slope * g,
            None,
            None,
        )


@outside_graphs
def _apply(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, exclusion: Exclusion, wanted: bool) -> Tensor:
    out: Tensor = _SoftplusSum.apply(x, y, scale, bias, exclusion, wanted)  # type: ignore[no-untyped-call]
    return out


__all__ = ["accumulate", "softplus_sum"]
