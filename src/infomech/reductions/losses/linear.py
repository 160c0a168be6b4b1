"""Sums of scores over what is not excluded: what label smoothing adds to a softmax, in memory O(n d).

A sum of scores is a score with a sum of rows, so that groups and own rows cost no product. What depends on the scores
themselves, or is listed, is summed tile by tile by the operator ``infomech::score_sums``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..._typing import OtherRows, Rows
from ..exclusion import Exclusion, decoded
from ..tiling import blocks, compute_dtype, tile_shape
from .backends import say_tiles
from .infonce import row_scores
from .operators import doubled, empty_like_wanted, nothing, once_only, only_wanted, operator, or_zeros
from .passes import inner_product

_SUMS_OF_ROWS: tuple[set[str], ...] = ({"own_row"}, {"same_group"}, {"own_row", "same_group"}, set())


def score_sums(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    terms: Float[Tensor, " m"] | None,
    exclusion: Exclusion,
    backend: str = "auto",
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The sums over j of scale x_i.y_j + t_j over what is not excluded or removed by a term of -inf, and how many.

    Differentiable once. In tiles it takes four products, with the gradients and one to compute a tile again.
    """
    code, tensors = exclusion.coded()
    parts = [part for part in code.split(",") if part]
    if len(set(parts)) == len(parts) and set(parts) in _SUMS_OF_ROWS and x.shape[0] <= y.shape[0]:
        groups = (tensors[0], tensors[1]) if tensors else None
        return _with_sums_of_rows(x, y, scale.double(), doubled(terms), "own_row" in parts, groups)
    sums, counts = forward(x, y, scale.double(), doubled(terms), code, tensors, backend)
    return sums, counts


def _with_sums_of_rows(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Tensor | None,
    without_own: bool,
    groups: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """The sums as scores of x_i with the sum of all rows of y but those that are excluded."""
    n, m = x.shape[0], y.shape[0]
    rows, there = y.to(compute_dtype(x, y)), torch.ones(m, dtype=torch.float64, device=y.device)
    of_terms = torch.zeros_like(there)
    if terms is not None:
        finite = terms > -torch.inf
        rows, there = torch.where(finite.unsqueeze(1), rows, 0.0), there * finite
        of_terms = torch.where(finite, terms, 0.0)
    found = []
    own = None if groups is None else groups[0] != groups[1].narrow(0, 0, n)  # not excluded by its group
    codes = None if groups is None else group_codes(*groups)
    for part in (rows, of_terms, there):
        left = part.sum(0, keepdim=True)
        if codes is not None:
            of_groups = part.new_zeros(n + m, *part.shape[1:]).index_add(0, codes[1], part)
            left = left - of_groups.index_select(0, codes[0])
        if without_own:
            first = part.narrow(0, 0, n)
            left = left - (first if own is None else first * own.view(-1, *[1] * (part.ndim - 1)))
        found.append(left.expand(n, *part.shape[1:]))
    return row_scores(x, found[0], scale, "tiles") + found[1], found[2]


def group_codes(rows: Shaped[Tensor, " n"], cols: Shaped[Tensor, " m"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """The groups as numbers from 0, fewer than n + m, without a look at them.

    >>> [codes.tolist() for codes in group_codes(torch.tensor([7, 3]), torch.tensor([3, 9, 7]))]
    [[1, 0], [0, 2, 1]]
    """
    both = torch.cat([rows, cols])
    ordered, order = both.sort()
    ranks = torch.nn.functional.pad((ordered.diff() != 0).long().cumsum(0), (1, 0)).narrow(0, 0, both.shape[0])
    codes = torch.empty_like(ranks).scatter(0, order, ranks)
    return codes.narrow(0, 0, rows.shape[0]), codes.narrow(0, rows.shape[0], cols.shape[0])


@operator(
    "score_sums",
    "(Tensor x, Tensor y, Tensor scale, Tensor? terms, str exclusion, Tensor[] excluded, str backend) -> "
    "(Tensor sums, Tensor counts)",
)
def forward(
    x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, exclusion: str, excluded: list[Tensor], backend: str
) -> tuple[Tensor, Tensor]:
    """The sums of scores of every row of x, and how many they are of; float64."""
    say_tiles(backend, x.device, "sums of scores by such entries, which smoothed labels take")
    sums, counts = (torch.zeros(len(x), dtype=torch.float64, device=x.device) for _ in range(2))
    for i, _, tile, there in _tiles(x, y, scale, terms, decoded(exclusion, excluded)):
        sums[i] += torch.where(there, tile, 0.0).sum(1, dtype=torch.float64)
        counts[i] += there.sum(1)
    return sums, counts


@operator(
    "score_sums_backward",
    "(Tensor sums, Tensor x, Tensor y, Tensor scale, Tensor? terms, str exclusion, Tensor[] excluded, bool[] wanted, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor)",
)
def backward(
    sums: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and the terms for the cotangent of the sums; those not wanted empty."""
    dtype = compute_dtype(x, y)
    grad_x = torch.zeros_like(x, dtype=dtype) if wanted[0] or wanted[2] else None
    grad_y = torch.zeros_like(y, dtype=dtype) if wanted[1] else None
    grad_terms = scale.new_zeros(len(y)) if wanted[3] else None
    of_rows = sums.to(dtype)
    for i, j, _, there in _tiles(x, y, scale, terms, decoded(exclusion, excluded)):
        weights = there.to(dtype).mul_(of_rows[i, None])
        if grad_x is not None:
            grad_x[i].addmm_(weights, y[j].to(dtype))
        if grad_y is not None:
            grad_y[j].addmm_(weights.mT, x[i].to(dtype))
        if grad_terms is not None:
            grad_terms[j] += weights.sum(0, dtype=torch.float64)
    grad_scale = inner_product(x, grad_x) if wanted[2] and grad_x is not None else nothing(scale)
    factor = scale.to(dtype)
    return (
        grad_x.mul_(factor).to(x.dtype) if grad_x is not None and wanted[0] else nothing(x),
        nothing(y) if grad_y is None else grad_y.mul_(factor).to(y.dtype),
        grad_scale,
        nothing(scale) if grad_terms is None else grad_terms,
    )


def _tiles(
    x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, exclusion: Exclusion
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
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


@forward.register_fake
def _(
    x: Tensor, y: Tensor, scale: Tensor, terms: Tensor | None, exclusion: str, excluded: list[Tensor], backend: str
) -> tuple[Tensor, Tensor]:
    return scale.new_empty(x.shape[0]), scale.new_empty(x.shape[0])


@backward.register_fake
def _(
    sums: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    found = (empty_like_wanted(t, want) for t, want in zip((x, y, scale), wanted, strict=False))
    return *found, scale.new_empty(y.shape[0] if wanted[3] else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, terms, ctx.exclusion, excluded, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, y, scale, terms, *excluded)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    x, y, scale, terms, *excluded = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:4])
    cotangent = or_zeros(cotangents[0], (x.shape[0],), scale)
    gradients = backward(cotangent, x, y, scale, terms, ctx.exclusion, excluded, wanted, ctx.backend)
    return *only_wanted(gradients, wanted), None, None, None


forward.register_autograd(_differentiate, setup_context=_save)
once_only(backward)

__all__ = ["backward", "forward", "group_codes", "score_sums"]
