"""Softmax weights of a chunk of rows against all columns, in the rows' dtype: what gradients are products of.

    G_ij = a_i exp2(s_ij + t_j - p_i) + b_j exp2(s_ij + u_i - q_j),

p and q being the peaks of the log-sums of rows and columns, a and b what their exponentials are multiplied by.
"""

from typing import no_type_check

import triton
import triton.language as tl

from .listing import cleared_again, tile_again
from .tile import LOG2E, cleared, far, is_tame, place, product, rows_of, terms_of


@triton.jit
@no_type_check
def _parts_tame(
    s, rm, rn, U, V, A, B, M, N,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Both parts of the weights where all peaks are 0, or their sum twice unless they are wanted apart.

    One exponential, times what each row and column has.
    """
    left = tl.broadcast_to(tl.load(A + rm, mask=rm < M, other=0.0)[:, None], s.shape)
    if Y_TERMS:
        left = left * tl.exp2(terms_of(V, rn, N, Y_TERMS))[None, :]
    right = left
    if COLS:
        right = tl.broadcast_to(tl.load(B + rn, mask=rn < N, other=0.0)[None, :], s.shape)
        if X_TERMS:
            right = right * tl.exp2(terms_of(U, rm, M, X_TERMS))[:, None]
    if APART and COLS:
        e = tl.exp2(s)
        return e * left, e * right
    else:
        if COLS:
            left = left + right
        g = tl.exp2(s) * left
        return g, g


@triton.jit
@no_type_check
def _parts_wild(
    s, rm, rn, U, V, A, B, P, Q, M, N,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """The same with the peaks of rows and columns, that of an empty sum being plus infinity.

    Without a branch: a loop that is flattened has to be free of conditions on values.
    """
    a = tl.load(A + rm, mask=rm < M, other=0.0)
    p = tl.load(P + rm, mask=rm < M, other=float("inf"))
    left = s - p[:, None]
    if Y_TERMS:
        left = left + terms_of(V, rn, N, Y_TERMS)[None, :]
    left = a[:, None] * tl.exp2(left)
    right = left
    if COLS:
        b = tl.load(B + rn, mask=rn < N, other=0.0)
        q = tl.load(Q + rn, mask=rn < N, other=float("inf"))
        right = s - q[None, :]
        if X_TERMS:
            right = right + terms_of(U, rm, M, X_TERMS)[:, None]
        right = b[None, :] * tl.exp2(right)
    if APART and COLS:
        return left, right
    else:
        if COLS:
            left = left + right
        return left, left


@triton.jit
@no_type_check
def leave(
    left, right, gd, ld, rm, rn, pm, pn, RS, CS, M, N, across, down, skip,
    COLS: tl.constexpr, X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr, STORE: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Write the weights in two halves, which take half the shared memory; and the sums that the terms' gradients are.

    A term of a column gathers the first part of the weights, that of a row the second, from column `skip` on.
    """
    if Y_SUMS:
        tl.store(CS + far(pm, down) + rn, tl.sum(tl.where((rm < M)[:, None], left, 0.0), 0), mask=rn < N)
    if X_SUMS:
        counted = (rn >= skip) & (rn < N)
        tl.store(RS + far(pn, across) + rm, tl.sum(tl.where(counted[None, :], right, 0.0), 1), mask=rm < M)
    if STORE:
        g = left
        if COLS and (X_SUMS or Y_SUMS):
            g = left + right
        BM: tl.constexpr = g.shape[0]
        BN: tl.constexpr = g.shape[1]
        one, two = tl.split(tl.permute(tl.reshape(g, (BM, 2, BN // 2)), (0, 2, 1)))
        one_high, two_high = one.to(gd.dtype), two.to(gd.dtype)
        gd.store([pm * BM, pn * BN], one_high)
        gd.store([pm * BM, pn * BN + BN // 2], two_high)
        if PARTS == 3:
            ld.store([pm * BM, pn * BN], (one - one_high.to(tl.float32)).to(gd.dtype))
            ld.store([pm * BM, pn * BN + BN // 2], (two - two_high.to(tl.float32)).to(gd.dtype))


@triton.jit
@no_type_check
def room_of(G, L, xd, M, N, width, BM: tl.constexpr, BN: tl.constexpr, STORE: tl.constexpr, PARTS: tl.constexpr):
    """Descriptors of the weights and of what rounding left over; any other one where there are none."""
    if STORE:
        gd = tl.make_tensor_descriptor(G, shape=[M, N], strides=[width, 1], block_shape=[BM, BN // 2])
        if PARTS == 3:
            ld = tl.make_tensor_descriptor(L, shape=[M, N], strides=[width, 1], block_shape=[BM, BN // 2])
        else:
            ld = gd
    else:
        gd, ld = xd, xd
    return gd, ld


@triton.jit(do_not_specialize=["M", "N", "width", "across", "down", "skip"])
@no_type_check
def _weights(
    X, Y, U, V, GX, GY, A, B, P, Q, G, L, RS, CS, scale, EX, EY, M, N, D, width, across, down, skip, limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr,
    X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr, STORE: tl.constexpr, PARTS: tl.constexpr, DOT: tl.constexpr,
    EXTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, SMS: tl.constexpr,
):  # fmt: skip
    """The weights of all tiles; of the two loops one is empty, as in the log-sums."""
    xd = rows_of(X, M, D, BM, BK, PARTS)
    yd = rows_of(Y, N, D, BN, BK, PARTS)
    gd, ld = room_of(G, L, xd, M, N, width, BM, BN, STORE, PARTS)
    tall, wide = tl.cdiv(M, BM), tl.cdiv(N, BN)
    factor = (tl.load(scale) * LOG2E).to(tl.float32)
    tame = is_tame(scale, EX, EY, limit, EXTENT)
    for tile in tl.range(tl.program_id(0), tl.where(tame, tall * wide, 0), SMS, flatten=True):
        pm, pn = place(tile, tall, wide, GROUP)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        s = cleared(s, rm, rn, GX, GY, M, N, GROUPS)
        left, right = _parts_tame(s, rm, rn, U, V, A, B, M, N, X_TERMS, Y_TERMS, COLS, X_SUMS or Y_SUMS)
        leave(left, right, gd, ld, rm, rn, pm, pn, RS, CS, M, N, across, down, skip,
              COLS, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip
    for tile in tl.range(tl.program_id(0), tl.where(tame, 0, tall * wide), SMS, flatten=True):
        pm, pn = place(tile, tall, wide, GROUP)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        s = cleared(s, rm, rn, GX, GY, M, N, GROUPS)
        left, right = _parts_wild(s, rm, rn, U, V, A, B, P, Q, M, N, X_TERMS, Y_TERMS, COLS, X_SUMS or Y_SUMS)
        leave(left, right, gd, ld, rm, rn, pm, pn, RS, CS, M, N, across, down, skip,
              COLS, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


@triton.jit(do_not_specialize=["M", "N", "first", "width", "across", "down", "skip", "row", "col"])
@no_type_check
def _weights_again(
    X, Y, U, V, GX, GY, A, B, P, Q, G, L, RS, CS, LI, LJ, STOPS, scale, EX, EY, M, N, D, first, width, across, down,
    skip, row, col, limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, COLS: tl.constexpr,
    X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr, STORE: tl.constexpr, OWN: tl.constexpr, LISTED: tl.constexpr,
    PARTS: tl.constexpr, DOT: tl.constexpr, EXTENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The tiles that hold entries (i, i), or with LISTED listed ones, once more, with 0 there."""
    entry = tl.program_id(0)
    pm, pn, stop, here = tile_again(entry, first, LI, LJ, STOPS, row, col, M, N, LISTED, BM, BN)
    if here:
        xd = rows_of(X, M, D, BM, BK, PARTS)
        yd = rows_of(Y, N, D, BN, BK, PARTS)
        gd, ld = room_of(G, L, xd, M, N, width, BM, BN, STORE, PARTS)
        factor = (tl.load(scale) * LOG2E).to(tl.float32)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        s = cleared_again(s, rm, rn, entry, stop, first, LI, LJ, GX, GY, row, col, M, N, OWN, LISTED, GROUPS)
        if is_tame(scale, EX, EY, limit, EXTENT):
            left, right = _parts_tame(s, rm, rn, U, V, A, B, M, N, X_TERMS, Y_TERMS, COLS, X_SUMS or Y_SUMS)
            leave(left, right, gd, ld, rm, rn, pm, pn, RS, CS, M, N, across, down, skip,
                  COLS, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip
        else:
            left, right = _parts_wild(s, rm, rn, U, V, A, B, P, Q, M, N, X_TERMS, Y_TERMS, COLS, X_SUMS or Y_SUMS)
            leave(left, right, gd, ld, rm, rn, pm, pn, RS, CS, M, N, across, down, skip,
                  COLS, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


__all__ = ["leave", "room_of"]
