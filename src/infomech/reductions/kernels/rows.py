"""What is done row by row beside the score matrix: pairs' scores, and gradients in their final form."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launched

_ROWS, _STEP = 16, 128


@triton.jit(do_not_specialize=["n"])
@no_type_check
def _pair_products(X, Y, OUT, n, d, x_stride, y_stride, ROWS: tl.constexpr, STEP: tl.constexpr):
    """x_i.y_i in float64."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.float64)
    for start in range(0, d, STEP):
        k = start + tl.arange(0, STEP)
        mask = (r < n)[:, None] & (k < d)[None, :]
        x = tl.load(X + r.to(tl.int64)[:, None] * x_stride + k[None, :], mask=mask, other=0.0)
        y = tl.load(Y + r.to(tl.int64)[:, None] * y_stride + k[None, :], mask=mask, other=0.0)
        total += tl.sum(x.to(tl.float64) * y.to(tl.float64), 1)
    tl.store(OUT + r, total, mask=r < n)


@triton.jit(do_not_specialize=["n"])
@no_type_check
def _finish(
    SUM, X, Y, P, OUT, DOTS, factor, n, d, x_stride, y_stride,
    PAIRED: tl.constexpr, WITH_DOTS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """out_i = factor (sum_i + p_i y_i), in the dtype of out; and x_i.(sum_i + p_i y_i)."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dots = tl.zeros((ROWS,), tl.float64)
    f = tl.load(factor).to(tl.float32)
    at = r.to(tl.int64)[:, None]
    if PAIRED:
        p = tl.load(P + r, mask=r < n, other=0.0).to(tl.float32)
    for start in range(0, d, STEP):
        k = start + tl.arange(0, STEP)
        mask = (r < n)[:, None] & (k < d)[None, :]
        g = tl.load(SUM + at * d + k[None, :], mask=mask, other=0.0)
        if PAIRED:
            y = tl.load(Y + at * y_stride + k[None, :], mask=mask, other=0.0)
            g += p[:, None] * y.to(tl.float32)
        if WITH_DOTS:
            x = tl.load(X + at * x_stride + k[None, :], mask=mask, other=0.0)
            dots += tl.sum(x.to(tl.float64) * g.to(tl.float64), 1)
        tl.store(OUT + at * d + k[None, :], (g * f).to(OUT.dtype.element_ty), mask=mask)
    if WITH_DOTS:
        tl.store(DOTS + r, dots, mask=r < n)


def pair_products(x: Tensor, y: Tensor) -> Tensor:
    """x_i.y_i of matching rows, (n,) float64, from one reading of both."""
    x, y = (z.detach() if z.stride(-1) == 1 else z.detach().contiguous() for z in (x, y))
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    grid = (triton.cdiv(len(x), _ROWS),)

    def work() -> None:
        _pair_products[grid](x, y, out, *x.shape, x.stride(0), y.stride(0), ROWS=_ROWS, STEP=_STEP)

    launched(x.device, work)
    return out


def finished(
    sums: Tensor, rows: Tensor, factor: Tensor, *, others: Tensor | None = None, cotangent: Tensor | None = None,
    dots: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Gradients factor (sums_i + p_i others_i) in the rows' dtype, and rows_i.(sums_i + p_i others_i), (n,) float64.

    Args:
        sums: (n, d) float32, contiguous.
        rows: (n, d), whose gradients they are.
        factor: 0-d tensor on the device.
        others: (n, d) partners of the rows; None: no second part.
        cotangent: (n,) the p of the pairs' scores.
        dots: also return the inner products, whose sum is the gradient of the scale.
    """
    rows = rows.detach() if rows.stride(-1) == 1 else rows.detach().contiguous()
    others = rows if others is None else others.detach() if others.stride(-1) == 1 else others.detach().contiguous()
    out = torch.empty(sums.shape, dtype=rows.dtype, device=rows.device)
    n, d = sums.shape
    inner = torch.empty(n, dtype=torch.float64, device=rows.device) if dots else None
    grid = (triton.cdiv(n, _ROWS),)

    def work() -> None:
        _finish[grid](
            sums, rows, others, cotangent, out, inner, factor, n, d, rows.stride(0), others.stride(0),
            PAIRED=cotangent is not None, WITH_DOTS=dots, ROWS=_ROWS, STEP=_STEP,
        )  # fmt: skip

    launched(rows.device, work)
    return out, inner


__all__ = ["finished", "pair_products"]
