"""Log-sums of paired rows, differentiable, in memory O(n d): what every InfoNCE of the package is made of."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..._typing import OtherRows, Rows
from .passes import (
    Side,
    add_scaled_rows,
    gather,
    gather_within,
    inner_product,
    paired_scores,
    scatter,
    scatter_within,
)
from .tiles import (
    Exclusion,
    KeptTiles,
    LogSums,
    Nothing,
    OwnRow,
    compute_dtype,
    entries_within,
    fixed_shift,
    outside_graphs,
    underflowed,
    without_autocast,
)

Vector = Float[Tensor, " k"]


class PairedLogSums(NamedTuple):
    """Scores of the pairs and log-sum-exps over everything outside an anchor's own pair (or group), in float64."""

    positive: Vector  # s(x_i, y_i)
    x_to_y: Vector  # over j of s(x_i, y_j)
    y_to_x: Vector  # over i of s(x_i, y_j)
    x_to_x: Vector | None  # over j of s(x_i, x_j)
    y_to_y: Vector | None


def paired_log_sums(
    x: Rows,
    y: Rows,
    *,
    inverse_temperature: Tensor,
    score_bound: float,
    within: bool = False,
    exclusion: Exclusion | None = None,
) -> PairedLogSums:
    """The log-sums of the scores s = x.y / tau over the negatives of every pair, both ways.

    Two matrix products forward and backward each for the cross-modal sums, together with their gradients' two; within
    modalities, half of that for each. Differentiable once in x, y and the inverse temperature.

    Args:
        x: (n, d) rows; row i is paired with row i of y.
        y: (n, d) rows.
        inverse_temperature: 1/tau, a scalar tensor.
        score_bound: a bound on every |s|, as `score_bound` gives it; infinity is always right, and slower.
        within: also return the sums of x against x and of y against y.
        exclusion: the entries that are nobody's negative; by default (i, i).
    """
    pairs = exclusion if exclusion is not None else OwnRow()
    out = _apply_paired(x, y, inverse_temperature.to(torch.float64), pairs, score_bound, within)
    return PairedLogSums(out[0], out[1], out[2], *((out[3], out[4]) if within else (None, None)))


def row_log_sums(
    x: Rows,
    y: OtherRows,
    *,
    inverse_temperature: Tensor,
    score_bound: float,
    exclusion: Exclusion | None = None,
) -> Float[Tensor, " n"]:
    """The sums log sum_j exp(x_i.y_j / tau) for every row of x, over the entries that are not excluded; float64."""
    out: Tensor = _apply_rows(
        x, y, inverse_temperature.to(torch.float64), exclusion if exclusion is not None else Nothing(), score_bound
    )
    return out


def row_scores(x: Rows, y: Rows, inverse_temperature: Tensor) -> Float[Tensor, " n"]:
    """The scores x_i.y_i / tau of matching rows, float64; differentiable once, and no n x d temporary is kept."""
    out: Tensor = _RowScores.apply(x, y, inverse_temperature.to(torch.float64))  # type: ignore[no-untyped-call]
    return out


def score_bound(x: Rows, y: OtherRows, inverse_temperature: Tensor) -> float:
    """A bound on |x_i.y_j| / tau and on the scores within modalities: the larger squared norm, over tau.

    NaN or infinite if a row is not finite.
    """
    norms = [torch.linalg.vector_norm(z.detach(), dim=1, dtype=compute_dtype(z)).max() for z in (x, y)]
    largest = torch.maximum(norms[0], norms[1]).to(torch.float64)
    return float(largest.square() * inverse_temperature.detach())


class _PairedLogSums(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, exclusion: Exclusion, bound: float, within: bool, keep: bool
    ) -> tuple[Tensor, ...]:
        work = scale.to(compute_dtype(x, y))
        n = len(x)
        entries = [n * n, *([entries_within(n, x.device)] * 2 if within else [])]
        kept = [KeptTiles(count if keep else 0, like=work) for count in entries]
        own = torch.empty(len(x), dtype=work.dtype, device=x.device)

        def sweep(shift: float | None) -> list[LogSums]:
            sums = [LogSums(len(x), shift=shift, device=x.device) for _ in range(4 if within else 2)]
            gather(x, y, scale=work, exclusion=exclusion, rows=sums[0], cols=sums[1], own=own, kept=kept[0])
            if within:
                for z, part, store in zip((x, y), sums[2:], kept[1:], strict=True):
                    gather_within(z, scale=work, exclusion=exclusion, rows=part, kept=store)
            return sums

        shift, sums = _with_safe_shift(sweep, bound, work.dtype, len(x))
        values = [part.value() for part in sums]
        ctx.save_for_backward(x, y, scale, *values, *(store.buffer for store in kept))
        ctx.exclusion, ctx.shift, ctx.within = exclusion, shift, within
        ctx.kept = [store.without_buffer() for store in kept]
        return positive_scores(own, paired_scores(x, y, scale), torch.maximum(values[0], values[1])), *values

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        positive, *rest = cotangents
        x, y, scale, *saved = ctx.saved_tensors
        values, kept = saved[: len(rest)], list(zip(ctx.kept, saved[len(rest) :], strict=True))
        # Both gradients are needed for the temperature's, and then they are there anyway.
        want_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        want_y = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        work = scale.to(compute_dtype(x, y))
        grad_x = torch.zeros_like(x, dtype=work.dtype) if want_x else None
        grad_y = torch.zeros_like(y, dtype=work.dtype) if want_y else None
        # Cotangents of size 1 at most: those of a scaled loss, divided by exp(-70), would leave float32.
        size = torch.stack([c.abs().max() for c in cotangents]).max()
        unit = torch.where(size > 0, size, 1.0)
        rest = [c / unit for c in rest]
        options = {"scale": work, "shift": ctx.shift, "exclusion": ctx.exclusion}
        row, col = Side(values[0], rest[0], grad_x), Side(values[1], rest[1], grad_y)
        scatter(x, y, row=row, col=col, kept=kept[0], **options)
        if ctx.within:
            for k, (z, gradient) in enumerate(((x, grad_x), (y, grad_y)), start=2):
                if gradient is not None:
                    scatter_within(z, row=Side(values[k], rest[k], gradient), kept=kept[k - 1], **options)
        for gradient, other in ((grad_x, y), (grad_y, x)):
            if gradient is not None:
                add_scaled_rows(gradient, other, positive / unit)
        grad_scale = None
        if ctx.needs_input_grad[2] and grad_x is not None and grad_y is not None:
            # Every score is scale times a product of two rows: by Euler's theorem the rows' gradients hold it twice.
            grad_scale = (inner_product(x, grad_x) + inner_product(y, grad_y)) * (unit / 2)
        factor = (unit * scale).to(work.dtype)
        return (
            grad_x.mul_(factor).to(x.dtype) if grad_x is not None and ctx.needs_input_grad[0] else None,
            grad_y.mul_(factor).to(y.dtype) if grad_y is not None and ctx.needs_input_grad[1] else None,
            grad_scale,
            *(None,) * 4,
        )


class _RowLogSums(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, exclusion: Exclusion, bound: float, keep: bool
    ) -> Tensor:
        work = scale.to(compute_dtype(x, y))
        kept = KeptTiles(len(x) * len(y) if keep else 0, like=work)

        def sweep(shift: float | None) -> list[LogSums]:
            rows = LogSums(len(x), shift=shift, device=x.device)
            gather(x, y, scale=work, exclusion=exclusion, rows=rows, cols=None, kept=kept)
            return [rows]

        ctx.shift, sums = _with_safe_shift(sweep, bound, work.dtype, len(y))
        value = sums[0].value()
        ctx.save_for_backward(x, y, scale, kept.buffer, value)
        ctx.exclusion, ctx.kept = exclusion, kept.without_buffer()
        return value

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, buffer, value = ctx.saved_tensors
        (cotangent,) = cotangents
        work = scale.to(compute_dtype(x, y))
        size = cotangent.abs().max()
        unit = torch.where(size > 0, size, 1.0)
        want_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        grad_x = torch.zeros_like(x, dtype=work.dtype) if want_x else None
        grad_y = torch.zeros_like(y, dtype=work.dtype) if ctx.needs_input_grad[1] else None
        scatter(
            x,
            y,
            scale=work,
            shift=ctx.shift,
            exclusion=ctx.exclusion,
            row=Side(value, cotangent / unit, grad_x),
            col=Side(None, None, grad_y),
            kept=(ctx.kept, buffer),
        )
        grad_scale = None
        if ctx.needs_input_grad[2] and grad_x is not None:
            grad_scale = inner_product(x, grad_x) * unit
        factor = (unit * scale).to(work.dtype)
        return (
            grad_x.mul_(factor).to(x.dtype) if grad_x is not None and ctx.needs_input_grad[0] else None,
            grad_y.mul_(factor).to(y.dtype) if grad_y is not None else None,
            grad_scale,
            *(None,) * 3,
        )


class _RowScores(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        products = paired_scores(x, y, torch.ones_like(scale))
        ctx.save_for_backward(x, y, scale, products)
        return products * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, products = ctx.saved_tensors
        grads = []
        for rows, other, wanted in ((x, y, ctx.needs_input_grad[0]), (y, x, ctx.needs_input_grad[1])):
            if wanted:
                gradient = torch.zeros_like(rows, dtype=compute_dtype(x, y))
                add_scaled_rows(gradient, other, cotangents[0] * scale)
            grads.append(gradient.to(rows.dtype) if wanted else None)
        return *grads, (cotangents[0] * products).sum()


def positive_scores(rounded: Vector, exact: Vector, negatives: Vector) -> Vector:
    """The pairs' scores with the rounding that serves the loss best.

    Where negatives are as near as the positive (duplicates, collapse) their scores carry the same rounding as the
    positive's own tile entry, and it cancels; where the positive stands out, only its exact score keeps the digits.
    """
    rounded = rounded.to(exact.dtype)
    return torch.where(negatives > rounded - 1.0, rounded, exact)


def _with_safe_shift(sweep: Any, bound: float, dtype: torch.dtype, entries: int) -> tuple[float | None, list[LogSums]]:
    """Sweep with a fixed shift, and again with running maxima in the rare case that the shift lost digits."""
    shift = fixed_shift(bound, dtype)
    if shift is not None:
        sums: list[LogSums] = sweep(shift)
        lost = torch.stack([underflowed(part, entries, dtype) for part in sums]).any()
        if not bool(lost):
            return shift, sums
    return None, sweep(None)


@outside_graphs
def _apply_paired(
    x: Tensor, y: Tensor, scale: Tensor, exclusion: Exclusion, bound: float, within: bool
) -> tuple[Tensor, ...]:
    keep = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad or scale.requires_grad)
    out: tuple[Tensor, ...] = _PairedLogSums.apply(x, y, scale, exclusion, bound, within, keep)  # type: ignore[no-untyped-call]
    return out


@outside_graphs
def _apply_rows(x: Tensor, y: Tensor, scale: Tensor, exclusion: Exclusion, bound: float) -> Tensor:
    keep = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad or scale.requires_grad)
    out: Tensor = _RowLogSums.apply(x, y, scale, exclusion, bound, keep)  # type: ignore[no-untyped-call]
    return out


__all__ = ["PairedLogSums", "paired_log_sums", "row_log_sums", "row_scores", "score_bound"]
