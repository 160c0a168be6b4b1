"""What is done row by row beside the score matrix: its extent, the pairs' scores, gradients in their final form."""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import cdiv, extent_programs
from .launch import cached, launched
from .operands import without_gradient
from .tile import far

_ROWS, _STEP, _BLOCK = 8, 128, 256
LOG2 = math.log(2.0)


@triton.jit
@no_type_check
def _top(T, r, count, top, GIVEN: tl.constexpr):
    """The largest finite term so far, as a size."""
    if GIVEN:
        t = tl.abs(tl.load(T + r, mask=r < count, other=0.0))
        top = tl.maximum(top, tl.where(t < float("inf"), t, 0.0))
    return top


@triton.jit(do_not_specialize=["n", "m"])
@no_type_check
def _extents(
    X, Y, U, V, OUT, PAIRS, n, m, d, x_stride, y_stride,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, PAIRED: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """The largest squared norm and term that each program meets, of x and of y; and x_i.y_i in float64."""
    x_top, y_top = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    u_top, v_top = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(max(n, m), ROWS), PROGRAMS):
        r = block * ROWS + tl.arange(0, ROWS)
        xx, yy = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
        dot = tl.zeros((ROWS,), tl.float64)
        for start in range(0, d, STEP):
            k = start + tl.arange(0, STEP)
            x = tl.load(X + far(r, x_stride)[:, None] + k[None, :], mask=(r < n)[:, None] & (k < d)[None, :], other=0.0)
            xx += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
            y = tl.load(Y + far(r, y_stride)[:, None] + k[None, :], mask=(r < m)[:, None] & (k < d)[None, :], other=0.0)
            yy += tl.sum(y.to(tl.float32) * y.to(tl.float32), 1)
            if PAIRED:
                dot += tl.sum(x.to(tl.float64) * y.to(tl.float64), 1)
        x_top, y_top = tl.maximum(x_top, xx), tl.maximum(y_top, yy)
        u_top, v_top = _top(U, r, n, u_top, X_TERMS), _top(V, r, m, v_top, Y_TERMS)
        if PAIRED:
            tl.store(PAIRS + r, dot, mask=r < n)
    to = OUT + tl.program_id(0)
    tl.store(to, tl.max(x_top, 0))
    tl.store(to + PROGRAMS, tl.max(u_top, 0))
    tl.store(to + 2 * PROGRAMS, tl.max(y_top, 0))
    tl.store(to + 3 * PROGRAMS, tl.max(v_top, 0))


@triton.jit(do_not_specialize=["n"])
@no_type_check
def _pair_products(X, Y, OUT, n, d, x_stride, y_stride, ROWS: tl.constexpr, STEP: tl.constexpr):
    """x_i.y_i in float64."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.float64)
    for start in range(0, d, STEP):
        k = start + tl.arange(0, STEP)
        mask = (r < n)[:, None] & (k < d)[None, :]
        x = tl.load(X + far(r, x_stride)[:, None] + k[None, :], mask=mask, other=0.0)
        y = tl.load(Y + far(r, y_stride)[:, None] + k[None, :], mask=mask, other=0.0)
        total += tl.sum(x.to(tl.float64) * y.to(tl.float64), 1)
    tl.store(OUT + r, total, mask=r < n)


@triton.jit(do_not_specialize=["n"])
@no_type_check
def _positives(
    PRODUCTS, ROUNDED, R, C, U, V, OUT, scale, n,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The pairs' scores: exact, or rounded as their tiles round where negatives are as near."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    rounded = tl.load(ROUNDED + at, mask=inside).to(tl.float64)
    row, col = tl.load(R + at, mask=inside), tl.load(C + at, mask=inside)
    if Y_TERMS:
        v = tl.load(V + at, mask=inside)
        row -= tl.where(v == float("-inf"), 0.0, v)
    if X_TERMS:
        u = tl.load(U + at, mask=inside)
        col -= tl.where(u == float("-inf"), 0.0, u)
    exact = tl.load(PRODUCTS + at, mask=inside) * tl.load(scale)
    tl.store(OUT + at, tl.where(tl.maximum(row, col) > rounded - 1.0, rounded, exact), mask=inside)


@triton.jit(do_not_specialize=["n", "gain"])
@no_type_check
def _levels(COTANGENT, PEAK, TOTAL, SIZE, LEVEL, FACTOR, n, gain, BLOCK: tl.constexpr):
    """What weights are made of: peaks in units of log 2, and cotangents of size 1 at most over the totals."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    to = far(tl.program_id(1), n) + at
    total = tl.load(TOTAL + to, mask=inside, other=0.0)
    peak = tl.load(PEAK + to, mask=inside, other=0.0)
    unit = tl.load(SIZE)
    unit = tl.where(unit > 0, unit, 1.0)
    factor = tl.load(COTANGENT + to, mask=inside, other=0.0) / unit / tl.where(total > 0, total, 1.0) * gain
    level = (peak / 0.6931471805599453).to(tl.float32)
    empty = total == 0
    tl.store(LEVEL + to, tl.where(empty, float("inf"), level), mask=inside)
    tl.store(FACTOR + to, tl.where(empty, 0.0, factor).to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["n", "gain"])
@no_type_check
def _finish(
    SUM, X, Y, P, OUT, DOTS, scale, SIZE, n, gain, d, x_stride, y_stride,
    PAIRED: tl.constexpr, WITH_DOTS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """out_i = scale (unit sum_i + p_i y_i), in the dtype of out; and the sum of x_i.(unit sum_i + p_i y_i)."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dots = tl.zeros((ROWS,), tl.float64)
    unit = tl.load(SIZE)
    unit = (tl.where(unit > 0, unit, 1.0) / gain).to(tl.float32)
    factor = tl.load(scale).to(tl.float32)
    if PAIRED:
        p = tl.load(P + r, mask=r < n, other=0.0).to(tl.float32)
    for start in range(0, d, STEP):
        k = start + tl.arange(0, STEP)
        mask = (r < n)[:, None] & (k < d)[None, :]
        g = tl.load(SUM + far(r, d)[:, None] + k[None, :], mask=mask, other=0.0) * unit
        if PAIRED:
            y = tl.load(Y + far(r, y_stride)[:, None] + k[None, :], mask=mask, other=0.0)
            g += p[:, None] * y.to(tl.float32)
        if WITH_DOTS:
            x = tl.load(X + far(r, x_stride)[:, None] + k[None, :], mask=mask, other=0.0)
            dots += tl.sum(x.to(tl.float64) * g.to(tl.float64), 1)
        tl.store(OUT + far(r, d)[:, None] + k[None, :], (g * factor).to(OUT.dtype.element_ty), mask=mask)
    if WITH_DOTS:
        tl.store(DOTS + tl.program_id(0), tl.sum(dots, 0))


def extents(
    x: Tensor, y: Tensor, x_terms: Tensor | None = None, y_terms: Tensor | None = None, *, paired: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The largest squared norms and terms, (2, 2, k) float32 of x and y by k programs; and (n,) products of pairs."""
    programs = extent_programs(x.device)
    x, y = _plain(x), _plain(y)
    out = torch.empty(2, 2, programs, dtype=torch.float32, device=x.device)
    pairs = torch.empty(len(x), dtype=torch.float64, device=x.device) if paired else None

    def work() -> None:
        cached(_extents)[(programs,)](
            x, y, x_terms, y_terms, out, pairs, len(x), len(y), x.shape[1], x.stride(0), y.stride(0),
            X_TERMS=x_terms is not None, Y_TERMS=y_terms is not None, PAIRED=paired,
            ROWS=_ROWS, STEP=_STEP, PROGRAMS=programs,
        )  # fmt: skip

    launched(x.device, work)
    return out, pairs


def pair_products(x: Tensor, y: Tensor) -> Tensor:
    """x_i.y_i of matching rows, (n,) float64, from one reading of both."""
    x, y = _plain(x), _plain(y)
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    grid = (cdiv(len(x), _ROWS),)
    launched(
        x.device,
        lambda: cached(_pair_products)[grid](x, y, out, *x.shape, x.stride(0), y.stride(0), ROWS=_ROWS, STEP=_STEP),
    )
    return out


def positives(
    products: Tensor,
    rounded: Tensor,
    sums: tuple[Tensor, Tensor],
    scale: Tensor,
    x_terms: Tensor | None = None,
    y_terms: Tensor | None = None,
) -> Tensor:
    """The pairs' scores, (n,) float64, with the rounding that serves the loss best.

    Where negatives are as near as the positive their scores carry the rounding of its own tile entry, and it cancels;
    where the positive stands out, only its exact score keeps the digits.

    Args:
        products: (n,) float64 x_i.y_i.
        rounded: (n,) float32 scores of the pairs as tiles have them.
        sums: log-sums of rows and of columns.
        scale: of the scores.
        x_terms: of the rows as negatives.
        y_terms: of the columns.
    """
    out = torch.empty_like(products)
    grid = (cdiv(len(out), _BLOCK),)
    launched(
        out.device,
        lambda: cached(_positives)[grid](
            products, rounded, *sums, x_terms, y_terms, out, scale, len(out),
            X_TERMS=x_terms is not None, Y_TERMS=y_terms is not None, BLOCK=_BLOCK,
        ),
    )  # fmt: skip
    return out


def levels(cotangents: Tensor, peaks: Tensor, totals: Tensor, gain: float) -> tuple[Tensor, Tensor, Tensor]:
    """Levels and factors, (k, n) float32, of the weights of k sums, and the largest cotangent, a divisor of all.

    Args:
        cotangents: (k, n) float64, of the log-sums.
        peaks: (k, n) float64, in nats.
        totals: (k, n) float64; 0 of an empty sum, whose factor is 0 and whose level is infinite.
        gain: what factors are multiplied by.
    """
    size = torch.linalg.vector_norm(cotangents, torch.inf)
    level = torch.empty(cotangents.shape, dtype=torch.float32, device=cotangents.device)
    factor = torch.empty_like(level)
    k, n = cotangents.shape
    grid = (cdiv(n, _BLOCK), k)
    launched(
        level.device,
        lambda: cached(_levels)[grid](cotangents, peaks, totals, size, level, factor, n, gain, BLOCK=_BLOCK),
    )
    return level, factor, size


def finished(
    sums: Tensor,
    rows: Tensor,
    scale: Tensor,
    size: Tensor,
    *,
    gain: float = 1.0,
    others: Tensor | None = None,
    cotangent: Tensor | None = None,
    dots: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Gradients scale (unit sums_i / gain + p_i others_i) in the rows' dtype; and sums of their products with rows_i.

    Args:
        sums: (n, d) float32, contiguous.
        rows: (n, d), whose gradients they are.
        scale: 0-d float64 tensor on the device.
        size: 0-d, the unit, or 0 for a unit of 1.
        gain: by which the sums are too large.
        others: (n, d) partners of the rows; None: no second part.
        cotangent: (n,) the p of the pairs' scores.
        dots: also return the parts of the sum of rows_i.(unit sums_i / gain + p_i others_i), float64.
    """
    rows = _plain(rows)
    others = rows if others is None else _plain(others)
    out = torch.empty(sums.shape, dtype=rows.dtype, device=rows.device)
    n, d = sums.shape
    grid = (cdiv(n, _ROWS),)
    inner = torch.empty(grid, dtype=torch.float64, device=rows.device) if dots else None
    launched(
        rows.device,
        lambda: cached(_finish)[grid](
            sums, rows, others, cotangent, out, inner, scale, size, n, gain, d, rows.stride(0), others.stride(0),
            PAIRED=cotangent is not None, WITH_DOTS=dots, ROWS=_ROWS, STEP=_STEP,
        ),
    )  # fmt: skip
    return out, inner


def _plain(rows: Tensor) -> Tensor:
    """Rows whose features stand side by side, without a gradient."""
    rows = without_gradient(rows)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


__all__ = ["LOG2", "extents", "finished", "levels", "pair_products", "positives"]
