"""The operators ``infomech::row_log_sums`` and ``infomech::row_scores`` and their backwards: one direction only."""

from typing import Any

import torch
from torch import Tensor

from ..exclusion import decoded
from ..log_sums import LogSums
from ..tiling import compute_dtype
from .backends import attempted, decoded_backend, takes_kernels
from .kept import KeptTiles, room, tiles
from .levels import above_all_scores, as_number, as_tensor, boundless, per_total, shift_for, with_safe_shift
from .operators import empty_like_wanted, nothing, once_only, only_wanted, operator, or_zeros
from .passes import Side, gather, inner_product, paired_scores, scatter
from .terms import NegativeTerms, top_of


@operator(
    "row_log_sums",
    "(Tensor x, Tensor y, Tensor scale, Tensor? y_terms, str exclusion, Tensor[] excluded, float? bound, bool keep, "
    "str backend) -> "
    "(Tensor log_sums, Tensor peaks, Tensor totals, Tensor extents, Tensor kept, Tensor shift)",
)
def forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    bound: float | None,
    keep: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    """The log-sums of every row of x over y, float64; then, for the backward, what `paired_log_sums` leaves as well."""
    work = scale.to(compute_dtype(x, y))
    given = decoded(exclusion, excluded)
    if takes_kernels(backend, exclusion, x, y):
        from . import fused  # here: it imports Triton, which need not be there

        precision = decoded_backend(backend)[1]
        found = attempted(x.device, lambda: fused.row_sums(x, y, scale, y_terms, given, precision=precision))
        if found is not None:
            return *found, work.new_empty(0), as_tensor(None)
    terms = NegativeTerms.of(y_terms, work.dtype)
    buffer = work.new_empty(room(len(x), len(y), work) if keep else 0)
    kept = KeptTiles(buffer, tiles(len(x), len(y), x.device))

    def sweep(shift: float | None) -> list[LogSums]:
        rows = LogSums(len(x), shift=None if shift is None else shift + top_of(terms), device=x.device)
        options: dict[str, Any] = {"scale": work, "shift": shift, "exclusion": given}
        store = None if shift is None else kept
        gather(x, y, rows=rows, cols=None, terms=(None, terms), kept=store, **options)
        return [rows]

    start = shift_for((x, y), scale, bound=bound, exclusion=given, terms=(terms,))
    shift, (sums,) = with_safe_shift(sweep, start, work.dtype, len(y))
    return sums.value(), sums.peak.contiguous(), sums.total, boundless(x.device), buffer, as_tensor(shift)


@operator(
    "row_log_sums_backward",
    "(Tensor log_sums, Tensor x, Tensor y, Tensor scale, Tensor? y_terms, str exclusion, Tensor[] excluded, "
    "Tensor peaks, Tensor totals, Tensor extents, Tensor kept, Tensor shift, bool[] wanted, str backend) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)
def backward(
    log_sums: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    peaks: Tensor,
    totals: Tensor,
    extents: Tensor,
    kept: Tensor,
    shift: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and y's terms for the cotangent of the log-sums; those not wanted empty."""
    if takes_kernels(backend, exclusion, x, y):
        from . import fused

        given = decoded(exclusion, excluded)
        options: dict[str, Any] = {"wanted": wanted, "precision": decoded_backend(backend)[1]}
        options["saved"] = (peaks, totals, extents)
        found = attempted(x.device, lambda: fused.row_gradients(log_sums, x, y, scale, y_terms, given, **options))
        if found is not None:
            return found
        if as_number(shift) is None:
            peaks, totals = above_all_scores(peaks, totals)
    work = scale.to(compute_dtype(x, y))
    size = log_sums.abs().max()
    unit = torch.where(size > 0, size, 1.0)
    grad_x = torch.zeros_like(x, dtype=work.dtype) if wanted[0] or wanted[2] else None
    grad_y = torch.zeros_like(y, dtype=work.dtype) if wanted[1] else None
    grad_terms = scale.new_zeros(len(y)) if wanted[3] else None
    scatter(
        x,
        y,
        scale=work,
        shift=as_number(shift),
        exclusion=decoded(exclusion, excluded),
        row=Side(peaks, per_total(log_sums / unit, totals), grad_x),
        col=Side(None, None, grad_y, NegativeTerms.of(y_terms, work.dtype), grad_terms),
        kept=KeptTiles(kept, tiles(len(x), len(y), x.device)),
    )
    grad_scale = None
    if wanted[2] and grad_x is not None:
        grad_scale = inner_product(x, grad_x) * unit
    factor = (unit * scale).to(work.dtype)
    return (
        grad_x.mul_(factor).to(x.dtype) if grad_x is not None and wanted[0] else nothing(x),
        grad_y.mul_(factor).to(y.dtype) if grad_y is not None else nothing(y),
        nothing(scale) if grad_scale is None else grad_scale,
        nothing(scale) if grad_terms is None else grad_terms * unit,
    )


@operator("row_scores", "(Tensor x, Tensor y, Tensor scale, str backend) -> (Tensor scores, Tensor products)")
def scores_forward(x: Tensor, y: Tensor, scale: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """The scores scale x_i.y_i in float64, and the products x_i.y_i for the backward."""
    if takes_kernels(backend, "", x, y):
        from . import fused

        products = fused.row_products(x, y)
    else:
        products = paired_scores(x, y, torch.ones_like(scale))
    return products * scale, products


@operator(
    "row_scores_backward",
    "(Tensor scores, Tensor x, Tensor y, Tensor scale, Tensor products, bool[] wanted, str backend) -> "
    "(Tensor, Tensor, Tensor)",
)
def scores_backward(
    scores: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    products: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    """The gradients of x, y and the scale for the cotangent of the scores; those not wanted empty."""
    gradients = []
    factor = (scores * scale).to(compute_dtype(x, y))[:, None]
    for rows, other, want in ((x, y, wanted[0]), (y, x, wanted[1])):
        room = empty_like_wanted(rows, want)
        gradients.append(torch.mul(other, factor, out=room) if want else room)
    return *gradients, (scores * products).sum() if wanted[2] else nothing(scale)


@forward.register_fake
def _(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    bound: float | None,
    keep: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    work = scale.new_empty(0, dtype=compute_dtype(x, y))
    kept = work.new_empty(room(x.shape[0], y.shape[0], work) if keep else 0)
    shift = torch.empty((), dtype=torch.float64)
    return *(scale.new_empty(x.shape[0]) for _ in range(3)), boundless(x.device), kept, shift


@backward.register_fake
def _(
    log_sums: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    peaks: Tensor,
    totals: Tensor,
    extents: Tensor,
    kept: Tensor,
    shift: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    found = (empty_like_wanted(t, want) for t, want in zip((x, y, scale), wanted, strict=False))
    return *found, scale.new_empty(y.shape[0] if wanted[3] else 0)


@scores_forward.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return scale.new_empty(x.shape[0]), scale.new_empty(x.shape[0])


@scores_backward.register_fake
def _(
    scores: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    products: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    return tuple(empty_like_wanted(t, want) for t, want in zip((x, y, scale), wanted, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, y_terms, ctx.exclusion, excluded, _, _, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, y, scale, y_terms, *output[1:], *excluded)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    x, y, scale, y_terms, *saved = ctx.saved_tensors
    saved, excluded = saved[:5], saved[5:]
    wanted = list(ctx.needs_input_grad[:4])
    cotangent = or_zeros(cotangents[0], (x.shape[0],), scale)
    gradients = backward(
        *(cotangent, x, y, scale, y_terms, ctx.exclusion, excluded, *saved, wanted),
        ctx.backend,
    )
    found = only_wanted(gradients, wanted)
    return *found, None, None, None, None, None


def _save_scores(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.backend = inputs[3]
    ctx.save_for_backward(*inputs[:3], output[1])


def _differentiate_scores(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    x, y, scale, products = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    cotangent = or_zeros(cotangents[0], (x.shape[0],), scale)
    gradients = scores_backward(cotangent, x, y, scale, products, wanted, ctx.backend)
    return *only_wanted(gradients, wanted), None


forward.register_autograd(_differentiate, setup_context=_save)
once_only(backward)
scores_forward.register_autograd(_differentiate_scores, setup_context=_save_scores)
once_only(scores_backward)

__all__ = ["backward", "forward", "scores_backward", "scores_forward"]
