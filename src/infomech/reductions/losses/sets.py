"""The operator ``infomech::set_products`` and its backward: products of rows with sets of rows of their own."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..._typing import Rows
from ..tiling import compute_dtype
from .operators import empty_like_wanted, nothing, once_only, only_wanted, operator, or_zeros


def set_products(x: Rows, sets: Float[Tensor, "n k d"], backend: str = "auto") -> Float[Tensor, "n k"]:
    """The products x_i.y_ik, float64; differentiable once.

    They are as many as there are rows in all sets, so that torch's own product does: no kernel, and no n x n tile.
    """
    out: Tensor = forward(x, sets, backend)
    return out


@operator("set_products", "(Tensor x, Tensor sets, str backend) -> Tensor")
def forward(x: Tensor, sets: Tensor, backend: str) -> Tensor:
    """The products, in the precision that the backend's code asks for."""
    dtype = compute_dtype(x, sets)
    return torch.einsum("nd,nkd->nk", x.to(dtype), sets.to(dtype)).to(torch.float64)


@operator(
    "set_products_backward",
    "(Tensor products, Tensor x, Tensor sets, bool[] wanted, str backend) -> (Tensor, Tensor)",
)
def backward(products: Tensor, x: Tensor, sets: Tensor, wanted: list[bool], backend: str) -> tuple[Tensor, Tensor]:
    """The gradients of the rows and of their sets for the cotangent of the products; those not wanted empty."""
    dtype = compute_dtype(x, sets)
    weights = products.to(dtype)
    of_x = torch.einsum("nk,nkd->nd", weights, sets.to(dtype)).to(x.dtype) if wanted[0] else nothing(x)
    of_sets = nothing(sets)
    if wanted[1]:
        of_sets = torch.mul(weights.unsqueeze(2), x.to(dtype).unsqueeze(1), out=empty_like_wanted(sets, True))
    return of_x, of_sets


@forward.register_fake
def _(x: Tensor, sets: Tensor, backend: str) -> Tensor:
    return sets.new_empty(sets.shape[:2], dtype=torch.float64)


@backward.register_fake
def _(products: Tensor, x: Tensor, sets: Tensor, wanted: list[bool], backend: str) -> tuple[Tensor, ...]:
    return tuple(empty_like_wanted(t, want) for t, want in zip((x, sets), wanted, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, sets, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, sets)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    x, sets = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:2])
    cotangent = or_zeros(cotangents[0], tuple(sets.shape[:2]), x.new_empty(0, dtype=torch.float64))
    return *only_wanted(backward(cotangent, x, sets, wanted, ctx.backend), wanted), None


forward.register_autograd(_differentiate, setup_context=_save)
once_only(backward)

__all__ = ["backward", "forward", "set_products"]
