"""Partial sums of tiles, merged in a fixed order: the same bits in every run."""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import cdiv
from .launch import cached
from .tile import LOG2E, far

_BLOCK, _STEP = 32, 64
LOG2 = tl.constexpr(0.6931471805599453)


@triton.jit
@no_type_check
def _largest(P, top, at, inside, begin, end, stride, STEP: tl.constexpr):
    """The largest peak of some tiles."""
    for start in range(begin, end, STEP):
        k = start + tl.arange(0, STEP)
        where = far(k, stride)[:, None] + at[None, :]
        peaks = tl.load(P + where, mask=(k < end)[:, None] & inside[None, :], other=float("-inf"))
        top = tl.maximum(top, tl.max(peaks, 0))
    return top


@triton.jit
@no_type_check
def _gathered(P, T, total, level, at, inside, begin, end, stride, STEP: tl.constexpr):
    """The totals of some tiles at one level."""
    for start in range(begin, end, STEP):
        k = start + tl.arange(0, STEP)
        where = far(k, stride)[:, None] + at[None, :]
        mask = (k < end)[:, None] & inside[None, :]
        peaks = tl.load(P + where, mask=mask, other=float("-inf"))
        totals = tl.load(T + where, mask=mask, other=0.0)
        total += tl.sum(totals.to(tl.float64) * tl.exp2(peaks - level[None, :]).to(tl.float64), 0)
    return total


@triton.jit
@no_type_check
def _merge_one(
    P, T, PEAK, TOTAL, VALUE, at, count, tiles, stride,
    EARLIER: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The largest peak of each sum, then all totals at that level, in float64, and the log-sum."""
    inside = at < count
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    if EARLIER:
        top = (tl.load(PEAK + at, mask=inside, other=float("-inf")) * LOG2E).to(tl.float32)
        before = top
    top = _largest(P, top, at, inside, 0, tiles, stride, STEP)
    level = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros((BLOCK,), tl.float64)
    if EARLIER:
        total = tl.load(TOTAL + at, mask=inside, other=0.0) * tl.exp2(before - level).to(tl.float64)
    total = _gathered(P, T, total, level, at, inside, 0, tiles, stride, STEP)
    nats = top.to(tl.float64) * LOG2
    tl.store(PEAK + at, nats, mask=inside)
    tl.store(TOTAL + at, total, mask=inside)
    tl.store(VALUE + at, tl.log(total) + nats, mask=inside)


@triton.jit(do_not_specialize=["n", "m", "tall", "wide", "across", "down"])
@no_type_check
def _merge_within(
    RP, RT, CP, CT, PEAK, TOTAL, VALUE, n, m, tall, wide, across, down,
    EARLIER: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Of a symmetric matrix: a row's own tiles from its diagonal on, and the tiles above it, whose columns it is."""
    first = tl.program_id(0) * BLOCK
    at = first + tl.arange(0, BLOCK)
    inside = at < m
    mine = inside & (at < n)
    begin = tl.where(first < n, first // BM * (BM // BN), wide)
    end = tl.where(first < n, first // BM, tall)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    if EARLIER:
        top = (tl.load(PEAK + at, mask=inside, other=float("-inf")) * LOG2E).to(tl.float32)
        before = top
    top = _largest(RP, top, at, mine, begin, wide, across, STEP)
    top = _largest(CP, top, at, inside, 0, end, down, STEP)
    level = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros((BLOCK,), tl.float64)
    if EARLIER:
        total = tl.load(TOTAL + at, mask=inside, other=0.0) * tl.exp2(before - level).to(tl.float64)
    total = _gathered(RP, RT, total, level, at, mine, begin, wide, across, STEP)
    total = _gathered(CP, CT, total, level, at, inside, 0, end, down, STEP)
    nats = top.to(tl.float64) * LOG2
    tl.store(PEAK + at, nats, mask=inside)
    tl.store(TOTAL + at, total, mask=inside)
    tl.store(VALUE + at, tl.log(total) + nats, mask=inside)


@triton.jit(do_not_specialize=["n", "m", "tall", "wide", "across", "down"])
@no_type_check
def _merge(
    RP, RT, R_PEAK, R_TOTAL, R_VALUE, CP, CT, C_PEAK, C_TOTAL, C_VALUE, n, m, tall, wide, across, down,
    COLS: tl.constexpr, R_EARLIER: tl.constexpr, C_EARLIER: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The partial sums of rows and columns."""
    block = tl.program_id(0)
    of_rows = tl.cdiv(n, BLOCK)
    if block < of_rows:
        at = block * BLOCK + tl.arange(0, BLOCK)
        _merge_one(RP, RT, R_PEAK, R_TOTAL, R_VALUE, at, n, wide, across, R_EARLIER, BLOCK, STEP)
    elif COLS:
        at = (block - of_rows) * BLOCK + tl.arange(0, BLOCK)
        _merge_one(CP, CT, C_PEAK, C_TOTAL, C_VALUE, at, m, tall, down, C_EARLIER, BLOCK, STEP)


class Sums(NamedTuple):
    """Log-sums of one side, float64: a sum is total * exp(peak); of an empty one the peak is -inf or 0, the total 0."""

    peak: Tensor
    total: Tensor
    value: Tensor

    def part(self, where: slice) -> "Sums":
        """Some consecutive ones."""
        if where.start == 0 and where.stop >= self.peak.shape[0]:
            return self
        return Sums(self.peak[where], self.total[where], self.value[where])


class Partial(NamedTuple):
    """Peaks, in units of log 2, and totals by tile, float32; to be merged with what stands there if `earlier`."""

    peak: Tensor
    total: Tensor
    into: Sums
    earlier: bool


def partial(tiles: int, count: int, into: Sums, earlier: bool) -> Partial:
    """Room for the partial sums of some tiles."""
    peak, total = torch.empty(2, tiles, count, dtype=torch.float32, device=into.peak.device).unbind()
    return Partial(peak, total, into, earlier)


def merge(row: Partial, col: Partial | None) -> None:
    """Merge (tiles, k) partial sums of rows and columns into k, in place."""
    n, m, c = len(row.into.peak), len(col.into.peak) if col else 0, col or row
    cached(_merge)[(cdiv(n, _BLOCK) + cdiv(m, _BLOCK),)](
        row.peak, row.total, *row.into, c.peak, c.total, *c.into, n, m, len(c.peak), len(row.peak),
        row.peak.stride(0), c.peak.stride(0),
        COLS=col is not None, R_EARLIER=row.earlier, C_EARLIER=c.earlier,
        BLOCK=_BLOCK, STEP=_STEP, num_warps=4,
    )  # fmt: skip


def merge_within(row: Partial, col: Partial, n: int, rows: int, cols: int) -> None:
    """Merge the partial sums of the upper half of a symmetric matrix, both of which have one place.

    Args:
        row: of the n rows, from the tiles that hold or lie above the diagonal.
        col: of the columns; those of tiles that hold some of the diagonal stand in the rows' already.
        n: rows; columns go on beyond them.
        rows: of a tile, a multiple of its columns and of those that are merged at a time.
        cols: of a tile.
    """
    m, block = len(col.into.peak), min(_BLOCK, rows)
    cached(_merge_within)[(cdiv(m, block),)](
        row.peak, row.total, col.peak, col.total, *col.into, n, m, len(col.peak), len(row.peak),
        row.peak.stride(0), col.peak.stride(0),
        EARLIER=col.earlier, BM=rows, BN=cols, BLOCK=block, STEP=_STEP, num_warps=4,
    )  # fmt: skip


def empty_sums(count: int, device: torch.device) -> Sums:
    """Room for some log-sums."""
    return Sums(*(torch.empty(count, dtype=torch.float64, device=device) for _ in range(3)))


__all__ = ["Partial", "Sums", "empty_sums", "merge", "merge_within", "partial"]
