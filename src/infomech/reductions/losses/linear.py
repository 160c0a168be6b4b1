"""Sums of scores over what is not excluded, tile by tile: what label smoothing adds to a softmax, in memory O(n d)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..._typing import OtherRows, Rows
from ..exclusion import Exclusion
from ..tiling import blocks, compute_dtype, tile_shape
from .kept import outside_graphs, without_autocast
from .passes import inner_product


class _ScoreSums(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, exclusion: Exclusion
    ) -> tuple[Tensor, Tensor]:
        sums, counts = (torch.zeros(len(x), dtype=torch.float64, device=x.device) for _ in range(2))
        for i, _, tile, there in _tiles(x, y, scale, terms, exclusion):
            sums[i] += torch.where(there, tile, 0.0).sum(1, dtype=torch.float64)
            counts[i] += there.sum(1)
        ctx.save_for_backward(x, y, scale, terms)
        ctx.exclusion = exclusion
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, terms = ctx.saved_tensors
        dtype = compute_dtype(x, y)
        grad_x, grad_y = (torch.zeros_like(z, dtype=dtype) for z in (x, y))
        grad_terms = None if terms is None else torch.zeros_like(terms)
        of_rows = cotangents[0].to(dtype)
        for i, j, _, there in _tiles(x, y, scale, terms, ctx.exclusion):
            weights = there.to(dtype) * of_rows[i, None]
            grad_x[i].addmm_(weights, y[j].to(dtype))
            grad_y[j].addmm_(weights.mT, x[i].to(dtype))
            if grad_terms is not None:
                grad_terms[j] += weights.sum(0, dtype=torch.float64)
        grad_scale = inner_product(x, grad_x)
        factor = scale.to(dtype)
        return (grad_x * factor).to(x.dtype), (grad_y * factor).to(y.dtype), grad_scale.to(scale), grad_terms, None


def _tiles(x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, exclusion: Exclusion) -> Any:
    """Rows, columns, scores with their terms, and which of them are there, of every tile."""
    dtype = compute_dtype(x, y)
    height, width = tile_shape(x.device)
    for i in blocks(len(x), height):
        left = x[i].to(dtype) * scale.to(dtype)
        for j in blocks(len(y), width):
            tile = left @ y[j].to(dtype).mT
            exclusion.weigh(tile, i, j)
            exclusion.clear(tile, i, j, -torch.inf)
            if terms is not None:
                tile += terms[None, j].to(dtype)
            yield i, j, tile, tile > -torch.inf


@outside_graphs
def score_sums(
    x: Rows, y: OtherRows, *, scale: Tensor, terms: Float[Tensor, " m"] | None, exclusion: Exclusion
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The sums over j of scale x_i.y_j + t_j over what is not excluded or removed by a term of -inf, and how many.

    Three products with the gradients, and one more to compute a tile again. Differentiable once.
    """
    doubled = None if terms is None else terms.double()
    sums, counts = _ScoreSums.apply(x, y, scale.double(), doubled, exclusion)  # type: ignore[no-untyped-call]
    return sums, counts


__all__ = ["score_sums"]
