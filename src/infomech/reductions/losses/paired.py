"""The operators ``infomech::paired_log_sums`` and its backward: all the sums of paired rows, and their gradients."""

from typing import Any

import torch
from torch import Tensor

from ..exclusion import decoded
from ..log_sums import LogSums
from ..tiling import compute_dtype
from .backends import attempted, decoded_backend, takes_kernels
from .kept import KeptTiles, Size, room, room_within, tiles, tiles_within
from .levels import (
    above_all_scores,
    as_number,
    as_tensor,
    boundless,
    per_total,
    positive_scores,
    shift_for,
    with_safe_shift,
    without_terms,
)
from .operators import empty_like_wanted, nothing, once_only, only_wanted, operator, or_zeros
from .passes import Side, add_scaled_rows, gather, gather_within, inner_product, paired_scores, scatter, scatter_within
from .terms import NegativeTerms, top_of

Terms = tuple[NegativeTerms | None, NegativeTerms | None]


@operator(
    "paired_log_sums",
    "(Tensor x, Tensor y, Tensor scale, Tensor? x_terms, Tensor? y_terms, str exclusion, Tensor[] excluded, "
    "float? bound, bool within, bool keep, str backend) -> (Tensor positive, Tensor across, Tensor inner, "
    "Tensor peaks, Tensor totals, Tensor extents, Tensor kept, Tensor shift)",
)
def forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    bound: float | None,
    within: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    """The scores of the pairs, the log-sums both ways, (2, n), and with `within` those within each modality; float64.

    After them, for the backward: the level and the total of each log-sum, (2 or 4, n) of each in the order x to y, y to
    x, x to x, y to y, a log-sum being log total + level; the extents of the rows as kernels find them, infinite from
    tiles, whose levels are not what kernels would take; the tiles of exponentials that are kept, if any are to be; and
    the shift under which they are, infinity for running maxima.
    """
    if takes_kernels(backend, exclusion, x, y):
        from . import fused  # here: it imports Triton, which need not be there

        given, (_, precision) = decoded(exclusion, excluded), decoded_backend(backend)
        terms = x_terms, y_terms
        found = attempted(
            x.device, lambda: fused.paired_sums(x, y, scale, terms, given, within=within, precision=precision)
        )
        if found is not None:
            return *found, scale.new_empty(0, dtype=compute_dtype(x, y)), as_tensor(None)
    return _forward_on_tiles(x, y, scale, (x_terms, y_terms), (exclusion, excluded), bound, within, keep)


@operator(
    "paired_log_sums_backward",
    "(Tensor positive, Tensor across, Tensor inner, Tensor x, Tensor y, Tensor scale, "
    "Tensor? x_terms, Tensor? y_terms, str exclusion, Tensor[] excluded, bool within, Tensor peaks, Tensor totals, "
    "Tensor extents, Tensor kept, Tensor shift, bool[] wanted, str backend) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def backward(
    positive: Tensor,
    across: Tensor,
    inner: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    within: bool,
    peaks: Tensor,
    totals: Tensor,
    extents: Tensor,
    kept: Tensor,
    shift: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    """The gradients of x, y, the scale and both terms for the cotangents of the values; those not wanted empty."""
    log_sums = torch.cat([across, inner]) if within else across
    if takes_kernels(backend, exclusion, x, y):
        from . import fused

        terms, given = (x_terms, y_terms), decoded(exclusion, excluded)
        options: dict[str, Any] = {"wanted": wanted, "precision": decoded_backend(backend)[1]}
        options["saved"] = (peaks, totals, extents)
        cotangents = positive, log_sums
        found = attempted(x.device, lambda: fused.paired_gradients(cotangents, x, y, scale, terms, given, **options))
        if found is not None:
            return found
        if as_number(shift) is None:
            peaks, totals = above_all_scores(peaks, totals)
    return _backward_on_tiles(
        *((positive, log_sums), x, y, scale, (x_terms, y_terms), (exclusion, excluded)),
        within=within,
        saved=(peaks, totals, kept, shift),
        wanted=wanted,
    )


def _forward_on_tiles(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    given_terms: tuple[Tensor | None, Tensor | None],
    given_exclusion: tuple[str, list[Tensor]],
    bound: float | None,
    within: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    work = scale.to(compute_dtype(x, y))
    n = len(x)
    exclusion = decoded(*given_exclusion)
    terms = _terms(given_terms, work.dtype)
    buffer = work.new_empty(_room(n, work, within=within) if keep else 0)
    stores = _stores(buffer, n, within=within)
    own = torch.empty(n, dtype=work.dtype, device=x.device)

    def sweep(shift: float | None) -> list[LogSums]:
        tops = [top_of(terms[k]) for k in ((1, 0, 0, 1) if within else (1, 0))]
        sums = [LogSums(n, shift=None if shift is None else shift + top, device=x.device) for top in tops]
        options: dict[str, Any] = {"scale": work, "shift": shift, "exclusion": exclusion}
        kept = [None] * 3 if shift is None else stores  # the backward computes scores again, and keeps exponentials
        gather(x, y, rows=sums[0], cols=sums[1], terms=terms, own=own, kept=kept[0], **options)
        if within:
            for k, z in enumerate((x, y)):
                gather_within(z, rows=sums[2 + k], terms=terms[k], kept=kept[1 + k], **options)
        return sums

    start = shift_for((x, y), scale, bound=bound, exclusion=exclusion, terms=terms)
    shift, sums = with_safe_shift(sweep, start, work.dtype, n)
    values = [part.value() for part in sums]
    x_terms, y_terms = given_terms
    bare = torch.maximum(without_terms(values[0], y_terms), without_terms(values[1], x_terms))
    return (
        positive_scores(own, paired_scores(x, y, scale), bare),
        torch.stack(values[:2]),
        torch.stack(values[2:]) if within else nothing(values[0]),
        torch.stack([part.peak for part in sums]),
        torch.stack([part.total for part in sums]),
        boundless(x.device),
        buffer,
        as_tensor(shift),
    )


def _backward_on_tiles(
    cotangents: tuple[Tensor, Tensor],
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    given_terms: tuple[Tensor | None, Tensor | None],
    given_exclusion: tuple[str, list[Tensor]],
    *,
    within: bool,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    peaks, totals, buffer, shift = saved
    work = scale.to(compute_dtype(x, y))
    terms = _terms(given_terms, work.dtype)
    stores = _stores(buffer, len(x), within=within)
    # Both gradients are needed for the temperature's, and then they are there anyway; the terms' need the sweep.
    grad_x = torch.zeros_like(x, dtype=work.dtype) if wanted[0] or wanted[2] or wanted[3] else None
    grad_y = torch.zeros_like(y, dtype=work.dtype) if wanted[1] or wanted[2] or wanted[4] else None
    grad_terms = [scale.new_zeros(len(x)) if wanted[3 + k] else None for k in range(2)]
    # Cotangents of size 1 at most: those of a scaled loss, divided by exp(-70), would leave float32.
    size = torch.stack([c.abs().max() for c in cotangents]).max()
    unit = torch.where(size > 0, size, 1.0)
    positive, log_sums = cotangents
    rest = per_total(log_sums / unit, totals)
    options: dict[str, Any] = {"scale": work, "shift": as_number(shift), "exclusion": decoded(*given_exclusion)}
    row = Side(peaks[0], rest[0], grad_x, terms[0], grad_terms[0])
    col = Side(peaks[1], rest[1], grad_y, terms[1], grad_terms[1])
    scatter(x, y, row=row, col=col, kept=stores[0], **options)
    if within:
        for k, (z, gradient) in enumerate(((x, grad_x), (y, grad_y))):
            if gradient is not None:
                side = Side(peaks[2 + k], rest[2 + k], gradient, terms[k], grad_terms[k])
                scatter_within(z, row=side, kept=stores[1 + k], **options)
    for gradient, other in ((grad_x, y), (grad_y, x)):
        if gradient is not None:
            add_scaled_rows(gradient, other, positive / unit)
    grad_scale = None
    if wanted[2] and grad_x is not None and grad_y is not None:
        # Every score is scale times a product of two rows: by Euler's theorem the rows' gradients hold it twice.
        grad_scale = (inner_product(x, grad_x) + inner_product(y, grad_y)) * (unit / 2)
    factor = (unit * scale).to(work.dtype)
    return (
        grad_x.mul_(factor).to(x.dtype) if grad_x is not None and wanted[0] else nothing(x),
        grad_y.mul_(factor).to(y.dtype) if grad_y is not None and wanted[1] else nothing(y),
        nothing(scale) if grad_scale is None else grad_scale,
        *(nothing(scale) if gradient is None else gradient * unit for gradient in grad_terms),
    )


def _terms(given: tuple[Tensor | None, Tensor | None], dtype: torch.dtype) -> Terms:
    return NegativeTerms.of(given[0], dtype), NegativeTerms.of(given[1], dtype)


def _room(n: Size, like: Tensor, *, within: bool) -> Size:
    return room(n, n, like) + (2 * room_within(n, like) if within else 0)


def _stores(buffer: Tensor, n: int, *, within: bool) -> list[KeptTiles]:
    """The buffer's tiles of x against y, of x against itself and of y against itself."""
    cross = tiles(n, n, buffer.device)
    if not within or not len(buffer):
        return [KeptTiles(buffer, cross)] * 3
    first, each = room(n, n, buffer), room_within(n, buffer)
    parts = [buffer[:first], buffer[first : first + each], buffer[first + each :]]
    cuts = [cross, *(tiles_within(n, buffer.device) for _ in range(2))]
    return [KeptTiles(part, where) for part, where in zip(parts, cuts, strict=True)]


@forward.register_fake
def _(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    bound: float | None,
    within: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    n = x.shape[0]
    work = scale.new_empty(0, dtype=compute_dtype(x, y))
    inner = scale.new_empty(2, n) if within else scale.new_empty(0)
    levels = [scale.new_empty(4 if within else 2, n) for _ in range(2)]
    kept = work.new_empty(_room(n, work, within=within) if keep else 0)
    shift = torch.empty((), dtype=torch.float64)
    return scale.new_empty(n), scale.new_empty(2, n), inner, *levels, boundless(x.device), kept, shift


@backward.register_fake
def _(
    positive: Tensor,
    across: Tensor,
    inner: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: str,
    excluded: list[Tensor],
    within: bool,
    peaks: Tensor,
    totals: Tensor,
    extents: Tensor,
    kept: Tensor,
    shift: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    terms = [scale.new_empty(x.shape[0] if want else 0) for want in wanted[3:]]
    return *(empty_like_wanted(t, want) for t, want in zip((x, y, scale), wanted, strict=False)), *terms


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, x_terms, y_terms, ctx.exclusion, excluded, _, ctx.within, _, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3 if ctx.within else 2 :])
    ctx.save_for_backward(x, y, scale, x_terms, y_terms, *output[3:], *excluded)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    x, y, scale, x_terms, y_terms, *saved = ctx.saved_tensors
    saved, excluded = saved[:5], saved[5:]
    wanted, n = list(ctx.needs_input_grad[:5]), x.shape[0]
    positive, across, inner, *_ = cotangents
    gradients = backward(
        or_zeros(positive, (n,), scale),
        or_zeros(across, (2, n), scale),
        or_zeros(inner, (2, n), scale) if ctx.within else nothing(scale),
        *(x, y, scale, x_terms, y_terms, ctx.exclusion, excluded, ctx.within),
        *(*saved, wanted, ctx.backend),
    )
    found = only_wanted(gradients, wanted)
    return *found, None, None, None, None, None, None


forward.register_autograd(_differentiate, setup_context=_save)
once_only(backward)

__all__ = ["backward", "forward"]
