"""Sums of exponentials over blocks of one tile of similarities, at several temperatures, added to tables in float64.

The tile is there already, since all statistics of a sweep share its product: what is saved are the passes over it and
the launches. One program owns the sums of some rows over one block at one temperature, so that nothing is atomic and
two runs give the same bits; each sum is taken relative to the largest score in its block, right for scores of any size.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import cdiv
from .launch import cached, launched
from .tile import LOG2E, far

_KEPT, _SUMMED = 32, 64  # entries of a tile that a program holds: rows whose sums it owns, and what it adds at a time


@triton.jit
@no_type_check
def _entries(
    S, A, C, W, GA, GC, r, c, count, stop, kept_stride, summed_stride,
    A_TERMS: tl.constexpr, C_TERMS: tl.constexpr, WEIGHTS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Scores over the slope, -inf where an entry is left out, and the weights of what is summed over."""
    there = (r < count)[:, None] & (c < stop)[None, :]
    at = far(r, kept_stride)[:, None] + far(c, summed_stride)[None, :]
    s = tl.load(S + at, mask=there, other=float("-inf")).to(tl.float32)
    if A_TERMS:
        s = s + tl.load(A + r, mask=r < count, other=0.0)[:, None]
    if C_TERMS:
        s = s + tl.load(C + c, mask=c < stop, other=0.0)[None, :]
    if GROUPS:
        own = tl.load(GA + r, mask=r < count, other=-1)[:, None] == tl.load(GC + c, mask=c < stop, other=-2)[None, :]
        s = tl.where(own, float("-inf"), s)
    w = tl.full(c.shape, 1.0, tl.float32)
    if WEIGHTS:
        w = tl.load(W + c, mask=c < stop, other=0.0).to(tl.float32)
        s = tl.where((w > 0.0)[None, :], s, float("-inf"))
    return s, w


@triton.jit(do_not_specialize=["count", "first", "tables", "row", "table"])
@no_type_check
def _block_sums(
    S, A, C, W, GA, GC, EDGES, SCALES, PEAK, TOTAL, SQUARES,
    count, first, kept_stride, summed_stride, tables, row, table,
    A_TERMS: tl.constexpr, C_TERMS: tl.constexpr, WEIGHTS: tl.constexpr, GROUPS: tl.constexpr, SQUARED: tl.constexpr,
    KEPT: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """The sums of one block, merged with what stands in the tables at [temperature, block, row]."""
    block, t = tl.program_id(1), tl.program_id(2)
    r = tl.program_id(0) * KEPT + tl.arange(0, KEPT)
    begin, stop = tl.load(EDGES + block), tl.load(EDGES + block + 1)
    scale = tl.load(SCALES + t)
    top = tl.full((KEPT,), float("-inf"), tl.float32)
    for start in range(begin, stop, SUMMED):
        c = start + tl.arange(0, SUMMED)
        s, w = _entries(S, A, C, W, GA, GC, r, c, count, stop, kept_stride, summed_stride,
                        A_TERMS, C_TERMS, WEIGHTS, GROUPS)  # fmt: skip
        top = tl.maximum(top, tl.max(s, 1))
    level = tl.where(top == float("-inf"), 0.0, top)
    factor = (scale * LOG2E).to(tl.float32)
    total, squares = tl.zeros((KEPT,), tl.float64), tl.zeros((KEPT,), tl.float64)
    for start in range(begin, stop, SUMMED):
        c = start + tl.arange(0, SUMMED)
        s, w = _entries(S, A, C, W, GA, GC, r, c, count, stop, kept_stride, summed_stride,
                        A_TERMS, C_TERMS, WEIGHTS, GROUPS)  # fmt: skip
        e = tl.exp2((s - level[:, None]) * factor) * w[None, :]
        total += tl.sum(e, 1).to(tl.float64)
        if SQUARED:
            squares += tl.sum(e * e, 1).to(tl.float64)
    at = far(t, tables) + far(first + block, table) + row + r
    inside = r < count
    here = tl.load(PEAK + at, mask=inside, other=float("-inf"))
    there = tl.where(top == float("-inf"), float("-inf"), top.to(tl.float64) * scale)
    peak = tl.maximum(here, there)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    old, new = tl.exp(here - base), tl.exp(there - base)
    tl.store(PEAK + at, peak, mask=inside)
    tl.store(TOTAL + at, tl.load(TOTAL + at, mask=inside, other=0.0) * old + total * new, mask=inside)
    if SQUARED:
        before = tl.load(SQUARES + at, mask=inside, other=0.0)
        tl.store(SQUARES + at, before * old * old + squares * new * new, mask=inside)


class Tables(NamedTuple):
    """Log-sums at [temperature, block, row], float64: a sum is total * exp(peak), one of squares squares * exp(2 peak).

    Args:
        scales: (t,) float64 on the device, what scores over the slope are multiplied by.
        peak: (t, b, n); -inf of an empty sum.
        total: (t, b, n).
        squares: (t, b, n), or None.
    """

    scales: Tensor
    peak: Tensor
    total: Tensor
    squares: Tensor | None

    @classmethod
    def empty(cls, scales: Tensor, blocks: int, rows: int, *, squares: bool) -> "Tables":
        """With nothing in any sum."""
        shape = len(scales), blocks, rows
        zeros = torch.zeros(shape, dtype=torch.float64, device=scales.device)
        return cls(scales, torch.full_like(zeros, -torch.inf), zeros, torch.zeros_like(zeros) if squares else None)


class Kept(NamedTuple):
    """One side of a tile, or a part of it: where it stands in the tables, what is added to its scores, its groups."""

    row: int
    size: int
    terms: Tensor | None = None
    groups: Tensor | None = None
    weights: Tensor | None = None


def add_block_sums(
    tables: Tables, similarity: Tensor, kept: Kept, summed: Kept, edges: Tensor, *, first: int, transposed: bool
) -> None:
    """Add the sums of a tile's rows over each block of its columns; or of its columns over blocks of its rows.

    Args:
        tables: the sums, changed in place.
        similarity: (a, b) the tile, float32.
        kept: the rows, whose sums stand from `kept.row` on.
        summed: the columns, with their weights as negatives; 0 leaves one out.
        edges: (k + 1,) int32 on the device: block i holds columns edges[i] to edges[i + 1].
        first: the number of the first block.
        transposed: whether sums run along the columns: `kept` is then the columns.
    """
    strides = similarity.stride()
    kept_stride, summed_stride = strides[::-1] if transposed else strides
    grid = (cdiv(kept.size, _KEPT), len(edges) - 1, len(tables.scales))
    launched(
        similarity.device,
        lambda: cached(_block_sums)[grid](
            similarity, kept.terms, summed.terms, summed.weights, kept.groups, summed.groups, edges, tables.scales,
            tables.peak, tables.total, tables.squares, kept.size, first, kept_stride, summed_stride,
            tables.peak.stride(0), kept.row, tables.peak.stride(1),
            A_TERMS=kept.terms is not None, C_TERMS=summed.terms is not None, WEIGHTS=summed.weights is not None,
            GROUPS=kept.groups is not None and summed.groups is not None, SQUARED=tables.squares is not None,
            KEPT=_KEPT, SUMMED=_SUMMED, num_warps=4,
        ),
    )  # fmt: skip


__all__ = ["Kept", "Tables", "add_block_sums"]
