"""Log-sums of paired rows, differentiable, in memory O(n d): what every InfoNCE of the package is made of."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..._typing import OtherRows, Rows
from ..exclusion import Exclusion, Nothing, OwnRow
from ..log_sums import LogSums
from ..shifts import fixed_shift, underflowed
from ..tiling import compute_dtype
from .kept import KeptTiles, entries_within, outside_graphs, without_autocast
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
from .terms import NegativeTerms, spread_of, top_of

Vector = Float[Tensor, " k"]


class PairedLogSums(NamedTuple):
    """Scores of the pairs and log-sum-exps over everything outside an anchor's own pair (or group), in float64."""

    positive: Vector  # s_ii, without any term
    x_to_y: Vector  # over j of s(x_i, y_j) + the term of y_j
    y_to_x: Vector  # over i of s(x_i, y_j) + the term of x_i
    x_to_x: Vector | None  # over j of s(x_i, x_j) + the term of x_j
    y_to_y: Vector | None


def paired_log_sums(
    x: Rows,
    y: Rows,
    *,
    scale: Tensor,
    score_bound: float,
    x_terms: Float[Tensor, " n"] | None = None,
    y_terms: Float[Tensor, " n"] | None = None,
    within: bool = False,
    exclusion: Exclusion | None = None,
) -> PairedLogSums:
    """The log-sums of the scores s_ij = scale x_i.y_j over the negatives of every pair, both ways.

    Two matrix products forward and backward each for the cross-modal sums, together with their gradients' two; within
    modalities, half of that for each. Differentiable once in x, y, the scale and the terms. Every score of the package
    is of this form: the anchor's own row term is one number for its whole sum, and is added outside.

    Args:
        x: (n, d) rows; row i is paired with row i of y.
        y: (n, d) rows.
        scale: what the inner products are multiplied by, 1/tau for the cosine critic; a scalar tensor.
        score_bound: a bound on every |s|, as `score_bound` gives it; infinity is always right, and slower.
        x_terms: (n,) what is added to the score of x_i wherever it is a negative, in nats; -inf removes it. None: 0.
        y_terms: (n,) the same for y_j.
        within: also return the sums of x against x and of y against y.
        exclusion: the entries that are nobody's negative; by default (i, i).
    """
    pairs = exclusion if exclusion is not None else OwnRow()
    out = _apply_paired(x, y, scale.double(), _doubled(x_terms), _doubled(y_terms), pairs, score_bound, within)
    return PairedLogSums(out[0], out[1], out[2], *((out[3], out[4]) if within else (None, None)))


def row_log_sums(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    score_bound: float,
    y_terms: Float[Tensor, " m"] | None = None,
    exclusion: Exclusion | None = None,
) -> Float[Tensor, " n"]:
    """The sums log sum_j exp(scale x_i.y_j + t_j) for every row of x, over what is not excluded; float64."""
    pairs = exclusion if exclusion is not None else Nothing()
    out: Tensor = _apply_rows(x, y, scale.double(), _doubled(y_terms), pairs, score_bound)
    return out


def _doubled(terms: Tensor | None) -> Tensor | None:
    return None if terms is None else terms.double()


def row_scores(x: Rows, y: Rows, scale: Tensor) -> Float[Tensor, " n"]:
    """The scores scale x_i.y_i of matching rows, float64; differentiable once, and no n x d temporary is kept."""
    out: Tensor = _RowScores.apply(x, y, scale.to(torch.float64))  # type: ignore[no-untyped-call]
    return out


def score_bound(x: Rows, y: OtherRows, scale: Tensor) -> float:
    """A bound on |scale x_i.y_j| and on the scores within modalities: the larger squared norm, times the scale.

    NaN or infinite if a row is not finite, or if the bound leaves double precision.
    """
    largest, factor = score_extent(x, y, scale)
    return largest * largest * factor


def score_extent(x: Rows, y: OtherRows, scale: Tensor) -> tuple[float, float]:
    """The largest norm of a row and the size of the scale; NaN or infinite if a row is not finite."""
    norms = [
        torch.linalg.vector_norm(z.detach(), dim=1, dtype=compute_dtype(z)).max().to(torch.float64)
        for z in (x, y)
        if len(z)  # a rank may have no rows
    ]
    numbers = torch.stack([*norms, scale.detach().abs().to(torch.float64)]).tolist()
    largest = [_largest_norm(z) for z in (x, y)] if math.inf in numbers[:-1] else numbers[:-1]
    # max() passes NaN over unless it comes first.
    return math.nan if any(math.isnan(v) for v in largest) else max(largest, default=0.0), numbers[-1]


def _largest_norm(rows: Rows) -> float:
    """The largest norm where squares of the rows' numbers leave their precision; infinite if a number is."""
    size = float(rows.detach().abs().max()) if len(rows) else 0.0
    if not 0.0 < size < math.inf:
        return size
    return size * float(torch.linalg.vector_norm(rows.detach().to(torch.float64) / size, dim=1).max())


class _PairedLogSums(Function):
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
        bound: float,
        within: bool,
        keep: bool,
    ) -> tuple[Tensor, ...]:
        work = scale.to(compute_dtype(x, y))
        n = len(x)
        entries = [n * n, *([entries_within(n, x.device)] * 2 if within else [])]
        kept = [KeptTiles(count if keep else 0, like=work) for count in entries]
        own = torch.empty(len(x), dtype=work.dtype, device=x.device)
        terms = NegativeTerms.of(x_terms, work.dtype), NegativeTerms.of(y_terms, work.dtype)

        def sweep(shift: float | None) -> list[LogSums]:
            tops = [top_of(terms[k]) for k in ((1, 0, 0, 1) if within else (1, 0))]
            sums = [LogSums(n, shift=None if shift is None else shift + top, device=x.device) for top in tops]
            options: dict[str, Any] = {"scale": work, "shift": shift, "exclusion": exclusion}
            stores = [None] * 3 if shift is None else kept  # the backward computes scores again, and keeps exponentials
            gather(x, y, rows=sums[0], cols=sums[1], terms=terms, own=own, kept=stores[0], **options)
            if within:
                for k, z in enumerate((x, y)):
                    gather_within(z, rows=sums[2 + k], terms=terms[k], kept=stores[1 + k], **options)
            return sums

        shift = fixed_shift(bound + exclusion.headroom, work.dtype, spread=spread_of(*terms))
        ctx.shift, sums = _with_safe_shift(sweep, shift, work.dtype, n)
        values = [part.value() for part in sums]
        levels = [vector for part in sums for vector in (part.peak, part.total)]
        ctx.save_for_backward(x, y, scale, *levels, *(store.buffer for store in kept))
        ctx.exclusion, ctx.within, ctx.terms = exclusion, within, terms
        ctx.kept = [store.without_buffer() for store in kept]
        bare = torch.maximum(without_terms(values[0], y_terms), without_terms(values[1], x_terms))
        return positive_scores(own, paired_scores(x, y, scale), bare), *values

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        positive, *rest = cotangents
        x, y, scale, *saved = ctx.saved_tensors
        peaks, totals = saved[: 2 * len(rest) : 2], saved[1 : 2 * len(rest) : 2]
        kept = list(zip(ctx.kept, saved[2 * len(rest) :], strict=True))
        # Both gradients are needed for the temperature's, and then they are there anyway; the terms' need the sweep.
        want_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        want_y = ctx.needs_input_grad[1] or ctx.needs_input_grad[2] or ctx.needs_input_grad[4]
        work = scale.to(compute_dtype(x, y))
        grad_x = torch.zeros_like(x, dtype=work.dtype) if want_x else None
        grad_y = torch.zeros_like(y, dtype=work.dtype) if want_y else None
        grad_terms = [scale.new_zeros(len(x)) if ctx.needs_input_grad[3 + k] else None for k in range(2)]
        # Cotangents of size 1 at most: those of a scaled loss, divided by exp(-70), would leave float32.
        size = torch.stack([c.abs().max() for c in cotangents]).max()
        unit = torch.where(size > 0, size, 1.0)
        rest = [per_total(c / unit, total) for c, total in zip(rest, totals, strict=True)]
        options = {"scale": work, "shift": ctx.shift, "exclusion": ctx.exclusion}
        row = Side(peaks[0], rest[0], grad_x, ctx.terms[0], grad_terms[0])
        col = Side(peaks[1], rest[1], grad_y, ctx.terms[1], grad_terms[1])
        scatter(x, y, row=row, col=col, kept=kept[0], **options)
        if ctx.within:
            for k, (z, gradient) in enumerate(((x, grad_x), (y, grad_y))):
                if gradient is not None:
                    side = Side(peaks[2 + k], rest[2 + k], gradient, ctx.terms[k], grad_terms[k])
                    scatter_within(z, row=side, kept=kept[1 + k], **options)
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
            *(None if gradient is None else gradient * unit for gradient in grad_terms),
            *(None,) * 4,
        )


class _RowLogSums(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        y_terms: Tensor | None,
        exclusion: Exclusion,
        bound: float,
        keep: bool,
    ) -> Tensor:
        work = scale.to(compute_dtype(x, y))
        kept = KeptTiles(len(x) * len(y) if keep else 0, like=work)
        terms = NegativeTerms.of(y_terms, work.dtype)

        def sweep(shift: float | None) -> list[LogSums]:
            rows = LogSums(len(x), shift=None if shift is None else shift + top_of(terms), device=x.device)
            options: dict[str, Any] = {"scale": work, "shift": shift, "exclusion": exclusion}
            store = None if shift is None else kept
            gather(x, y, rows=rows, cols=None, terms=(None, terms), kept=store, **options)
            return [rows]

        shift = fixed_shift(bound + exclusion.headroom, work.dtype, spread=spread_of(terms))
        ctx.shift, sums = _with_safe_shift(sweep, shift, work.dtype, len(y))
        ctx.save_for_backward(x, y, scale, kept.buffer, sums[0].peak, sums[0].total)
        ctx.exclusion, ctx.terms, ctx.kept = exclusion, terms, kept.without_buffer()
        return sums[0].value()

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, buffer, peak, total = ctx.saved_tensors
        (cotangent,) = cotangents
        work = scale.to(compute_dtype(x, y))
        size = cotangent.abs().max()
        unit = torch.where(size > 0, size, 1.0)
        want_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        grad_x = torch.zeros_like(x, dtype=work.dtype) if want_x else None
        grad_y = torch.zeros_like(y, dtype=work.dtype) if ctx.needs_input_grad[1] else None
        grad_terms = scale.new_zeros(len(y)) if ctx.needs_input_grad[3] else None
        scatter(
            x,
            y,
            scale=work,
            shift=ctx.shift,
            exclusion=ctx.exclusion,
            row=Side(peak, per_total(cotangent / unit, total), grad_x),
            col=Side(None, None, grad_y, ctx.terms, grad_terms),
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
            None if grad_terms is None else grad_terms * unit,
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


def per_total(cotangent: Vector, total: Vector) -> Vector:
    """The cotangent of a log-sum over its total: what exp(score - peak) is multiplied by; 0 for an empty sum.

    The level of the exponentials is the peak by itself: a log-sum, peak + log(total), rounds the total away where
    scores are large, and with it the softmax of what ties at the top.
    """
    return torch.where(total > 0, cotangent / total, 0.0)


def without_terms(log_sums: Vector, terms: Vector | None) -> Vector:
    """Log-sums to be compared with bare scores: less the own row's term, where that is finite."""
    return log_sums if terms is None else log_sums - torch.where(terms == -torch.inf, 0.0, terms)


def _with_safe_shift(
    sweep: Callable[[float | None], list[LogSums]], shift: float | None, dtype: torch.dtype, entries: int
) -> tuple[float | None, list[LogSums]]:
    """Sweep with a fixed shift, and again with running maxima in the rare case that the shift lost digits."""
    if shift is not None:
        sums = sweep(shift)
        lost = torch.stack([underflowed(part, entries, dtype) for part in sums]).any()
        if not bool(lost):
            return shift, sums
    return None, sweep(None)


def _any_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


@outside_graphs
def _apply_paired(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    exclusion: Exclusion,
    bound: float,
    within: bool,
) -> tuple[Tensor, ...]:
    keep = _any_gradient(x, y, scale, x_terms, y_terms)
    out: tuple[Tensor, ...] = _PairedLogSums.apply(  # type: ignore[no-untyped-call]
        x, y, scale, x_terms, y_terms, exclusion, bound, within, keep
    )
    return out


@outside_graphs
def _apply_rows(
    x: Tensor, y: Tensor, scale: Tensor, y_terms: Tensor | None, exclusion: Exclusion, bound: float
) -> Tensor:
    keep = _any_gradient(x, y, scale, y_terms)
    out: Tensor = _RowLogSums.apply(x, y, scale, y_terms, exclusion, bound, keep)  # type: ignore[no-untyped-call]
    return out


__all__ = [
    "PairedLogSums",
    "paired_log_sums",
    "per_total",
    "positive_scores",
    "row_log_sums",
    "row_scores",
    "score_bound",
    "score_extent",
    "without_terms",
]
