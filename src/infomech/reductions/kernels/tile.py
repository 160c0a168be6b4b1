"""What every kernel shares: the order of the tiles, the product of two row tiles, and what leaves entries out.

Scores are in units of log 2 inside the kernels: exp2 is the hardware's own exponential.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
@no_type_check
def place(tile, tall, wide, GROUP: tl.constexpr):
    """Row and column of a tile, in groups of rows: neighbours in time share operands in the L2 cache."""
    width = GROUP * wide
    first = (tile // width) * GROUP
    size = min(tall - first, GROUP)
    return first + (tile % width) % size, (tile % width) // size


@triton.jit
@no_type_check
def tiles_above(tall, wide, STEP: tl.constexpr):
    """How many tiles of a symmetric matrix hold or lie above the diagonal; a row of tiles is `STEP` of them high."""
    return (tall // 2) * (2 * wide - (tall - 1) * STEP) + (tall % 2) * (wide - (tall // 2) * STEP)


@triton.jit
@no_type_check
def place_above(tile, tall, wide, STEP: tl.constexpr):
    """Row and column of one of them: the first row of tiles and the last have as many as any two that are opposite."""
    both = 2 * wide - (tall - 1) * STEP
    pair, at = tile // both, tile % both
    head = wide - pair * STEP
    pm = tl.where(at < head, pair, tall - 1 - pair)
    return pm, pm * STEP + tl.where(at < head, at, at - head)


@triton.jit
@no_type_check
def far(index, stride):
    """Index times stride in 64 bits: rows can stand further apart than 31 bits count."""
    return index.to(tl.int64) * stride


@triton.jit
@no_type_check
def rows_of(pointer, count, D, BLOCK: tl.constexpr, BK: tl.constexpr, PARTS: tl.constexpr):
    """A descriptor of rows; of two halves, high and low, that stand side by side, if the product has three parts."""
    width = D if PARTS == 1 else 2 * D
    return tl.make_tensor_descriptor(pointer, shape=[count, width], strides=[width, 1], block_shape=[BLOCK, BK])


@triton.jit
@no_type_check
def product(
    xd,
    yd,
    row,
    col,
    D,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PARTS: tl.constexpr,
    DOT: tl.constexpr,
):
    """X y^T for one tile, summed in float32; of halves low.high, high.low and high.high, the small ones first.

    Triton's interpreter holds bfloat16 as whole numbers, which its product does not know.
    """
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, PARTS * D, BK):
        left, right = k, k
        if PARTS == 3:
            left = tl.where(k < D, k + D, tl.where(k < 2 * D, k - D, k - 2 * D))
            right = tl.where(k < 2 * D, k, k - 2 * D)
        if DOT == "interpreted":
            acc += tl.dot(xd.load([row, left]).to(tl.float32), yd.load([col, right]).to(tl.float32).T)
        else:
            acc = tl.dot(xd.load([row, left]), yd.load([col, right]).T, acc, input_precision=DOT)
    return acc


@triton.jit
@no_type_check
def on_diagonal(step, first, BM: tl.constexpr, BN: tl.constexpr):
    """Row and column of a tile that may hold an entry (i, i), and whether it does: `reach` to a row of tiles."""
    reach = (BM - 1) // BN + 2
    pm = step // reach
    start = pm * BM + first
    pn = start // BN + step % reach
    return pm, pn, pn * BN < start + BM


def reach(rows: int, cols: int) -> int:
    """How many tiles of a row of tiles the diagonal can cross."""
    return (rows - 1) // cols + 2


@triton.jit
@no_type_check
def is_own(rm, rn, first):
    """Which entries of a tile are a row with itself, rows being counted from `first` on."""
    return (rm + first)[:, None] == rn[None, :]


@triton.jit
@no_type_check
def cleared(s, rm, rn, GX, GY, M, N, GROUPS: tl.constexpr):
    """Scores with -inf where row and column are of one group, or of two: GROUPS is "", "same" or "other"."""
    if GROUPS != "":
        gx = tl.load(GX + rm, mask=rm < M, other=-1)
        gy = tl.load(GY + rn, mask=rn < N, other=-2)
        left_out = gx[:, None] == gy[None, :]
        if GROUPS == "other":
            left_out = gx[:, None] != gy[None, :]
        s = tl.where(left_out, float("-inf"), s)
    return s


@triton.jit
@no_type_check
def is_tame(scale, EX, EY, limit, EXTENT: tl.constexpr):
    """Whether all peaks may be 0: no score, nor a finite term with it, is beyond the limit.

    EX and EY hold, for rows and columns, the largest squared norms that each of some programs found, then the largest
    terms. What is not a number is not tame.
    """
    k = tl.arange(0, EXTENT)
    norms = tl.sqrt(tl.max(tl.load(EX + k), 0)) * tl.sqrt(tl.max(tl.load(EY + k), 0))
    terms = tl.max(tl.load(EX + EXTENT + k), 0) + tl.max(tl.load(EY + EXTENT + k), 0)
    return norms * tl.abs(tl.load(scale)).to(tl.float32) + terms <= limit


@triton.jit
@no_type_check
def terms_of(T, r, count, GIVEN: tl.constexpr):
    """Terms of rows as negatives, in units of log 2; -inf beyond the last row."""
    if GIVEN:
        return tl.load(T + r, mask=r < count, other=float("-inf")) * LOG2E
    return tl.where(r < count, 0.0, float("-inf"))


__all__ = [
    "LOG2E",
    "cleared",
    "far",
    "is_own",
    "is_tame",
    "on_diagonal",
    "place",
    "place_above",
    "product",
    "reach",
    "rows_of",
    "terms_of",
    "tiles_above",
]
