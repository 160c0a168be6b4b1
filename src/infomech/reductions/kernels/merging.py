"""Partial sums of tiles, merged in a fixed order: the same bits in every run."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["count", "tiles"])
@no_type_check
def _merge(P, T, PEAK, TOTAL, count, tiles, stride, EARLIER: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr):
    """The largest peak of each sum, then all totals at that level, in float64."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    if EARLIER:
        top = tl.load(PEAK + at, mask=inside, other=float("-inf"))
        before = top
    for start in range(0, tiles, STEP):
        k = start + tl.arange(0, STEP)
        where = k.to(tl.int64)[:, None] * stride + at[None, :]
        peaks = tl.load(P + where, mask=(k < tiles)[:, None] & inside[None, :], other=float("-inf"))
        top = tl.maximum(top, tl.max(peaks, 0))
    level = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros((BLOCK,), tl.float64)
    if EARLIER:
        total = tl.load(TOTAL + at, mask=inside, other=0.0) * tl.exp2(before - level).to(tl.float64)
    for start in range(0, tiles, STEP):
        k = start + tl.arange(0, STEP)
        where = k.to(tl.int64)[:, None] * stride + at[None, :]
        mask = (k < tiles)[:, None] & inside[None, :]
        peaks = tl.load(P + where, mask=mask, other=float("-inf"))
        totals = tl.load(T + where, mask=mask, other=0.0)
        total += tl.sum(totals.to(tl.float64) * tl.exp2(peaks - level[None, :]).to(tl.float64), 0)
    tl.store(PEAK + at, top, mask=inside)
    tl.store(TOTAL + at, total, mask=inside)


def merge(peaks: Tensor, totals: Tensor, into: tuple[Tensor, Tensor], *, earlier: bool) -> None:
    """Merge (tiles, k) partial sums into k, in place; with those that stand there already if `earlier`."""
    tiles, count = peaks.shape
    block = 32
    _merge[(triton.cdiv(count, block),)](
        peaks, totals, *into, count, tiles, peaks.stride(0), EARLIER=earlier, BLOCK=block, STEP=64, num_warps=4
    )  # fmt: skip


def empty_sums(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Room for peaks, in units of log 2, and totals."""
    return (
        torch.empty(count, dtype=torch.float32, device=like.device),
        torch.empty(count, dtype=torch.float64, device=like.device),
    )


__all__ = ["empty_sums", "merge"]
