"""Log-sums of the rows and columns of a score matrix: one product, whose epilogue leaves peaks and totals by tile."""

from collections.abc import Callable
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import STRIPE_BYTES, Tiles, cdiv, multiprocessors, plan_for, stripe_rows
from .launch import cached, launched
from .listing import NO_LISTING, cleared_again, tile_again
from .merging import Sums, empty_sums, merge, merge_within, partial
from .scores import Scores
from .support import say_once
from .tile import (
    LOG2E,
    cleared,
    far,
    is_own,
    is_tame,
    place,
    place_above,
    product,
    reach,
    rows_of,
    terms_of,
    tiles_above,
)


@triton.jit
@no_type_check
def _leave_tame(
    s, rm, rn, pm, pn, U, V, RP, RT, CP, CT, M, N, across, down,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Sums of one tile with all peaks at 0: one exponential for rows and columns."""
    e = tl.exp2(s)
    at = far(pn, across) + rm
    weight = tl.exp2(terms_of(V, rn, N, Y_TERMS))
    tl.store(RP + at, tl.zeros(rm.shape, tl.float32), mask=rm < M)
    tl.store(RT + at, tl.sum(e * weight[None, :], 1), mask=rm < M)
    if COLS:
        to = far(pm, down) + rn
        weigh = tl.exp2(terms_of(U, rm, M, X_TERMS))
        tl.store(CP + to, tl.zeros(rn.shape, tl.float32), mask=rn < N)
        tl.store(CT + to, tl.sum(e * weigh[:, None], 0), mask=rn < N)


@triton.jit
@no_type_check
def _leave_wild(
    s, rm, rn, pm, pn, U, V, RP, RT, CP, CT, M, N, across, down,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Sums of one tile, each row and column with its own largest score as its peak: right for scores of any size."""
    at = far(pn, across) + rm
    a = s + terms_of(V, rn, N, Y_TERMS)[None, :]
    peak = tl.max(a, 1)
    level = tl.where(peak == float("-inf"), 0.0, peak)
    tl.store(RP + at, peak, mask=rm < M)
    tl.store(RT + at, tl.sum(tl.exp2(a - level[:, None]), 1), mask=rm < M)
    if COLS:
        to = far(pm, down) + rn
        b = s + terms_of(U, rm, M, X_TERMS)[:, None]
        top = tl.max(b, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(CP + to, top, mask=rn < N)
        tl.store(CT + to, tl.sum(tl.exp2(b - base[None, :]), 0), mask=rn < N)


@triton.jit(do_not_specialize=["M", "N", "across", "down"])
@no_type_check
def _sums_by_tile(
    X, Y, U, V, GX, GY, RP, RT, CP, CT, scale, EX, EY, M, N, D, across, down, limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr,
    PARTS: tl.constexpr, DOT: tl.constexpr, EXTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, SMS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Peaks and totals of every tile's rows, at [tile column, row], and columns, at [tile row, column].

    A total is a sum of exp2(score - peak). Where the bound on all scores allows, all peaks are 0 and one exponential
    serves rows and columns; of the two loops one is empty, which nobody but the card itself has to know. With HALF the
    matrix is symmetric, and only tiles that hold or lie above its diagonal are visited.
    """
    xd = rows_of(X, M, D, BM, BK, PARTS)
    yd = rows_of(Y, N, D, BN, BK, PARTS)
    tall, wide = tl.cdiv(M, BM), tl.cdiv(N, BN)
    factor = (tl.load(scale) * LOG2E).to(tl.float32)
    tame = is_tame(scale, EX, EY, limit, EXTENT)
    count = tiles_above(tall, wide, BM // BN) if HALF else tall * wide
    for tile in tl.range(tl.program_id(0), tl.where(tame, count, 0), SMS, flatten=True):
        if HALF:
            pm, pn = place_above(tile, tall, wide, BM // BN)
        else:
            pm, pn = place(tile, tall, wide, GROUP)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        s = cleared(s, rm, rn, GX, GY, M, N, GROUPS)
        _leave_tame(s, rm, rn, pm, pn, U, V, RP, RT, CP, CT, M, N, across, down, X_TERMS, Y_TERMS, COLS)
    for tile in tl.range(tl.program_id(0), tl.where(tame, 0, count), SMS, flatten=True):
        if HALF:
            pm, pn = place_above(tile, tall, wide, BM // BN)
        else:
            pm, pn = place(tile, tall, wide, GROUP)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        s = cleared(s, rm, rn, GX, GY, M, N, GROUPS)
        _leave_wild(s, rm, rn, pm, pn, U, V, RP, RT, CP, CT, M, N, across, down, X_TERMS, Y_TERMS, COLS)


@triton.jit(do_not_specialize=["M", "N", "first", "across", "down", "row", "col"])
@no_type_check
def _sums_again(
    X, Y, U, V, GX, GY, RP, RT, CP, CT, OWNED, LI, LJ, STOPS, scale, EX, EY, M, N, D, first, across, down, row, col,
    limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr,
    OWN: tl.constexpr, KEEP: tl.constexpr, LISTED: tl.constexpr, HALF: tl.constexpr,
    PARTS: tl.constexpr, DOT: tl.constexpr, EXTENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Tiles that hold entries (i, i), whose scores are kept, or with LISTED listed ones: once more, without these."""
    entry = tl.program_id(0)
    pm, pn, stop, here = tile_again(entry, first, LI, LJ, STOPS, row, col, M, N, LISTED, BM, BN)
    if LISTED and HALF:
        here = here & (pn >= pm * (BM // BN))
    if here:
        xd = rows_of(X, M, D, BM, BK, PARTS)
        yd = rows_of(Y, N, D, BN, BK, PARTS)
        factor = (tl.load(scale) * LOG2E).to(tl.float32)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        if KEEP:
            own = is_own(rm, rn, first)
            mine = (rm < M) & (rm + first >= pn * BN) & (rm + first < min(pn * BN + BN, N))
            tl.store(OWNED + rm, tl.sum(tl.where(own, s, 0.0), 1) / LOG2E, mask=mine)
        s = cleared_again(s, rm, rn, entry, stop, first, LI, LJ, GX, GY, row, col, M, N, OWN, LISTED, GROUPS)
        if is_tame(scale, EX, EY, limit, EXTENT):
            _leave_tame(s, rm, rn, pm, pn, U, V, RP, RT, CP, CT, M, N, across, down, X_TERMS, Y_TERMS, COLS)
        else:
            _leave_wild(s, rm, rn, pm, pn, U, V, RP, RT, CP, CT, M, N, across, down, X_TERMS, Y_TERMS, COLS)


def log_sums(
    scores: Scores, *, cols: bool = True, keep_own: bool = False,
    into: tuple[Sums | None, Sums | None] = (None, None), tiles: Tiles | None = None, stripe_bytes: int = STRIPE_BYTES,
) -> tuple[Sums, Sums | None, Tensor | None]:  # fmt: skip
    """Log-sums of a score matrix, log sum_j exp(s_ij + t_j) of each row, and the scores s_ii as the tiles round them.

    Args:
        scores: the matrix.
        cols: also log sum_i exp(s_ij + u_i) of each column.
        keep_own: also return the scores s_ii, float32.
        into: room for the sums of the rows and of the columns; None: made here.
        tiles: in place of the table's.
        stripe_bytes: of partial sums at one time.

    Returns:
        The sums of the rows, those of the columns, and the own scores, or None for what is not asked for.
    """
    n, m, device = len(scores.x), len(scores.y), scores.scale.device
    tiles = tiles or _tiles(scores)
    by_row = into[0] or empty_sums(n, device)
    by_col = (into[1] or empty_sums(m, device)) if cols else None
    own = torch.empty(min(n, m), dtype=torch.float32, device=device) if keep_own else None
    scores = scores.by_tile(tiles.rows, tiles.cols)

    def sweep(stripe: int) -> None:
        for start in range(0, n, stripe):
            here = slice(start, min(start + stripe, n))
            _stripe(scores.part(here), start, (by_row.part(here), by_col), (False, start > 0), own, tiles)

    launched(device, lambda: _as_memory_allows(sweep, stripe_rows(n, m, tiles, stripe_bytes), tiles))
    return by_row, by_col, own


def log_sums_within(scores: Scores, *, into: Sums | None = None, stripe_bytes: int = STRIPE_BYTES) -> Sums:
    """Log-sums of the rows of a symmetric score matrix, x against x, from half of its tiles.

    Each row of tiles meets the columns from its own first row on; what lies beyond the square on the diagonal serves
    the columns as well, which are rows of later tiles. As many rows at a time as their partial sums have room for.
    """
    n, device, tiles = len(scores.x), scores.scale.device, _tiles(scores)
    assert tiles.rows % tiles.cols == 0
    by_row = into or empty_sums(n, device)
    scores = scores.by_tile(tiles.rows, tiles.cols)

    def sweep(stripe: int) -> None:
        for start in range(0, n, stripe):
            stop = min(start + stripe, n)
            part = scores.part(slice(start, stop), slice(start, n))
            sums = by_row.part(slice(start, n))
            _stripe(part, 0, (sums, sums), (start > 0, start > 0), None, tiles, half=True)

    launched(device, lambda: _as_memory_allows(sweep, stripe_rows(n, n, tiles, stripe_bytes), tiles))
    return by_row


def _as_memory_allows(sweep: Callable[[int], None], rows: int, tiles: Tiles) -> None:
    """A sweep in stripes of so many rows; again in smaller ones, from its start, where memory is short: logged."""
    stripe = rows
    while True:
        try:
            return sweep(stripe)
        except torch.OutOfMemoryError:
            if stripe <= tiles.rows:
                raise
            stripe = max(1, stripe // 2 // tiles.rows) * tiles.rows
            say_once(f"too little memory for the partial sums of {rows} rows at once: {stripe} rows, slower")


def _tiles(scores: Scores) -> Tiles:
    plan = plan_for(scores.scale.device, scores.product.kind)
    return plan.careful if scores.careful else plan.sums


def _stripe(
    scores: Scores,
    first: int,
    into: tuple[Sums, Sums | None],
    earlier: tuple[bool, bool],
    own: Tensor | None,
    tiles: Tiles,
    half: bool = False,
) -> None:
    """All tiles of one stripe of rows, the first of which is row `first`; half of them of a symmetric matrix.

    Its columns then begin with the stripe's own rows, and rows and columns have their sums in one place.
    """
    n, m = len(scores.x), len(scores.y)
    tall, wide = cdiv(n, tiles.rows), cdiv(m, tiles.cols)
    across, down = _padded(n), _padded(m)
    device = scores.scale.device
    row = partial(wide, across, into[0], earlier[0])
    col = None if into[1] is None else partial(tall, down, into[1], earlier[1])
    c = col or row
    arguments: dict[str, Any] = {
        **scores.arguments,
        "RP": row.peak, "RT": row.total, "CP": c.peak, "CT": c.total,
        "across": across, "down": down, "COLS": col is not None,
        "BM": tiles.rows, "BN": tiles.cols, "BK": tiles.depth, "num_warps": tiles.warps, "num_stages": tiles.stages,
    }  # fmt: skip
    sms = multiprocessors(device)
    cached(_sums_by_tile)[(min(sms, tall * wide),)](**arguments, GROUP=tiles.group, SMS=sms, HALF=half)
    if (scores.own or own is not None) and first < m:
        kept = {"OWNED": own if own is None else own[first:], "KEEP": own is not None, "OWN": scores.own}
        cached(_sums_again)[(tall * reach(tiles.rows, tiles.cols),)](
            **arguments, **kept, **NO_LISTING, first=first, LISTED=False, HALF=half
        )
    if scores.listed is not None:
        kept = {"OWNED": None, "KEEP": False, "OWN": scores.own}
        cached(_sums_again)[(len(scores.listed.rows),)](
            **arguments, **kept, **scores.listed.arguments, first=first, LISTED=True, HALF=half
        )
    if half and col is not None:
        merge_within(row, col, n, tiles.rows, tiles.cols)
    else:
        merge(row, col)


def _padded(count: int) -> int:
    return -(-count // 32) * 32


__all__ = ["Sums", "log_sums", "log_sums_within"]
