"""The sum of softplus over a score matrix and its gradients, from one visit of each tile: what the sigmoid loss needs.

With z_ij = s_ij + u_i + t_j a tile leaves the sum of its w_i log(1 + exp z_ij) and, for the products with rows, its
w_i sigmoid(z_ij). Both come from one exponential, e = exp(-|z|).
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import Tiles, cdiv, multiprocessors, plan_for
from .gradients import gain, library_precision, multiply, room_for
from .launch import cached, launched
from .listing import NO_LISTING, cleared_again, tile_again
from .scores import Scores
from .tile import LOG2E, cleared, far, place, product, reach, rows_of, terms_of
from .weights import leave, room_of

_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
@no_type_check
def _log_one_plus(e):
    """log(1 + e) for e from 0 to 1, to 2e-7 of its value: a polynomial, since the card's exponentials are scarce."""
    p = 0.005253457796170311 * e - 0.029588507389466286
    p = p * e + 0.0783616680131092
    p = p * e - 0.13674769705046674
    p = p * e + 0.1911143108034768
    p = p * e - 0.24844369892407042
    p = p * e + 0.333192713424934
    p = p * e - 0.49999501516786754
    p = p * e + 0.9999999705406564
    return p * e


@triton.jit
@no_type_check
def _leave_softplus(
    s, gd, ld, rm, rn, pm, pn, U, V, W, RS, CS, VALUES, M, N, wide, across, down, gain,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, WEIGHTED: tl.constexpr, BY_ROW: tl.constexpr,
    X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr, STORE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The sum of one tile, or of each of its rows, and its weights."""
    z = s + terms_of(V, rn, N, Y_TERMS)[None, :] + terms_of(U, rm, M, X_TERMS)[:, None]
    e = tl.exp2(-tl.abs(z))
    of_rows = tl.sum(tl.maximum(z, 0.0) * _LN2 + _log_one_plus(e), 1)
    if WEIGHTED:
        w = tl.load(W + rm, mask=rm < M, other=0.0)
        of_rows = of_rows * w
    if BY_ROW:
        tl.store(VALUES + far(pn, across) + rm, of_rows, mask=rm < M)
    else:
        tl.store(VALUES + far(pm, wide) + pn, tl.sum(of_rows, 0))
    if STORE or X_SUMS or Y_SUMS:
        g = tl.where(z > 0.0, gain, gain * e) / (1.0 + e)
        if WEIGHTED:
            g = g * w[:, None]
        leave(g, g, gd, ld, rm, rn, pm, pn, RS, CS, M, N, across, down, 0,
              False, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


@triton.jit(do_not_specialize=["M", "N", "width", "across", "down", "gain"])
@no_type_check
def _softplus(
    X, Y, U, V, W, GX, GY, G, L, RS, CS, VALUES, scale, EX, EY, M, N, D, width, across, down, gain, limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, WEIGHTED: tl.constexpr, BY_ROW: tl.constexpr,
    X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr, STORE: tl.constexpr, PARTS: tl.constexpr, DOT: tl.constexpr,
    EXTENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, SMS: tl.constexpr,
):  # fmt: skip
    """Sums and weights of all tiles of a chunk."""
    xd = rows_of(X, M, D, BM, BK, PARTS)
    yd = rows_of(Y, N, D, BN, BK, PARTS)
    gd, ld = room_of(G, L, xd, M, N, width, BM, BN, STORE, PARTS)
    tall, wide = tl.cdiv(M, BM), tl.cdiv(N, BN)
    factor = (tl.load(scale) * LOG2E).to(tl.float32)
    for tile in tl.range(tl.program_id(0), tall * wide, SMS, flatten=True):
        pm, pn = place(tile, tall, wide, GROUP)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        s = cleared(s, rm, rn, GX, GY, M, N, GROUPS)
        _leave_softplus(s, gd, ld, rm, rn, pm, pn, U, V, W, RS, CS, VALUES, M, N, wide, across, down, gain,
                        X_TERMS, Y_TERMS, WEIGHTED, BY_ROW, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


@triton.jit(do_not_specialize=["M", "N", "first", "width", "across", "down", "gain", "row", "col"])
@no_type_check
def _softplus_again(
    X, Y, U, V, W, GX, GY, G, L, RS, CS, VALUES, LI, LJ, STOPS, scale, EX, EY, M, N, D, first, width, across, down,
    gain, row, col, limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, WEIGHTED: tl.constexpr, BY_ROW: tl.constexpr,
    X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr, STORE: tl.constexpr, OWN: tl.constexpr, LISTED: tl.constexpr,
    PARTS: tl.constexpr, DOT: tl.constexpr, EXTENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The tiles that hold entries (i, i), or with LISTED listed ones, once more, without these entries."""
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
        _leave_softplus(s, gd, ld, rm, rn, pm, pn, U, V, W, RS, CS, VALUES, M, N, tl.cdiv(N, BN), across, down, gain,
                        X_TERMS, Y_TERMS, WEIGHTED, BY_ROW, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


class Softplus(NamedTuple):
    """The sum, 0-d or (n,), float64, and its gradients: of rows float32, still to be scaled, of terms float64."""

    value: Tensor
    x: Tensor | None
    y: Tensor | None
    x_terms: Tensor | None
    y_terms: Tensor | None


def softplus_sum(
    scores: Scores,
    *,
    row_weights: Tensor | None = None,
    by_row: bool = False,
    gradients: bool = True,
    terms: bool = False,
    tiles: Tiles | None = None,
) -> Softplus:
    """The sum of w_i log(1 + exp(s_ij + u_i + t_j)) over what is not left out, and its gradients.

    Args:
        scores: the matrix, with the terms u and t.
        row_weights: (n,) the w; 1 if there are none. The gradients are written in the rows' dtype with them.
        by_row: leave the sums of each row apart.
        gradients: whether those of the rows are wanted.
        terms: whether those of the terms that are there are.
        tiles: in place of the table's.
    """
    n, m, d, device = len(scores.x), len(scores.y), scores.x.features, scores.scale.device
    plan = plan_for(device, scores.product.kind)
    sums = tuple(
        torch.zeros(k, dtype=torch.float64, device=device) if terms and given is not None else None
        for k, given in ((n, scores.x_terms), (m, scores.y_terms))
    )
    wide_room = gradients or any(t is not None for t in sums)
    tiles = tiles or (plan.careful if scores.careful else plan.weights if wide_room else plan.sums)
    grad_x, grad_y = (
        torch.empty(k, d, dtype=torch.float32, device=device) if gradients else None for k in (n, m)
    )  # fmt: skip
    room, chunk = room_for(scores, n, m, None, tiles, store=gradients)
    scores = scores.by_tile(tiles.rows, tiles.cols)
    size, weights = None, None
    if row_weights is not None:  # of size 1 at most, as the dtype of the weights needs it
        largest = row_weights.abs().amax()
        size = torch.where(largest > 0, largest, 1.0)
        weights = (row_weights / size).to(torch.float32).contiguous()
    values = []

    def sweep() -> None:
        for start in range(0, n, chunk):
            here = slice(start, min(start + chunk, n))
            part = scores.part(here)
            shares = None if weights is None else weights[here]
            of_terms = None if sums[0] is None else sums[0][here], sums[1]
            g, value = _chunk(part, shares, room, start, tiles, of_terms, by_row=by_row)
            values.append(value.sum(0 if by_row else None, dtype=torch.float64))
            if grad_x is not None and grad_y is not None:
                multiply(grad_x[here], g, scores.y, fresh=True)
                multiply(grad_y, g.mT, part.x, fresh=start == 0)

    with library_precision(scores):
        launched(device, sweep)
    value = torch.cat(values) if by_row else torch.stack(values).sum()
    for found in (grad_x, grad_y, *sums):
        if found is not None and gain(scores) != 1.0:
            found.div_(gain(scores))
        if found is not None and size is not None:
            found.mul_(size)
    value = value if size is None else value * size
    return Softplus(value, grad_x, grad_y, *sums)


def _chunk(
    scores: Scores,
    row_weights: Tensor | None,
    room: Any,
    first: int,
    tiles: Tiles,
    sums: tuple[Tensor | None, Tensor | None],
    *,
    by_row: bool,
) -> tuple[Any, Tensor]:
    """The weights of a chunk, the first row of which is row `first`, and sums by tile; those of the terms added.

    The sums of each row apart are (tiles, n).
    """
    n, m, device = len(scores.x), len(scores.y), scores.scale.device
    tall, wide = cdiv(n, tiles.rows), cdiv(m, tiles.cols)
    values = torch.empty(wide, n if by_row else tall, dtype=torch.float32, device=device)
    of_rows = torch.empty(wide, n, dtype=torch.float32, device=device) if sums[0] is not None else None
    of_cols = torch.empty(tall, m, dtype=torch.float32, device=device) if sums[1] is not None else None
    arguments: dict[str, Any] = {
        **scores.arguments, "W": row_weights, "WEIGHTED": row_weights is not None,
        "G": room.high, "L": room.high if room.low is None else room.low, "RS": of_rows, "CS": of_cols,
        "VALUES": values, "width": room.high.stride(0), "across": n, "down": m, "gain": gain(scores),
        "BY_ROW": by_row, "X_SUMS": of_rows is not None, "Y_SUMS": of_cols is not None, "STORE": room.high.shape[1] > 0,
        "BM": tiles.rows, "BN": tiles.cols, "BK": tiles.depth, "num_warps": tiles.warps, "num_stages": tiles.stages,
    }  # fmt: skip
    sms = multiprocessors(device)
    cached(_softplus)[(min(sms, tall * wide),)](**arguments, GROUP=tiles.group, SMS=sms)
    if scores.own and first < m:
        cached(_softplus_again)[(tall * reach(tiles.rows, tiles.cols),)](
            **arguments, **NO_LISTING, first=first, OWN=True, LISTED=False
        )
    if scores.listed is not None:
        cached(_softplus_again)[(len(scores.listed.rows),)](
            **arguments, **scores.listed.arguments, first=first, OWN=scores.own, LISTED=True
        )
    for total, partial in zip(sums, (of_rows, of_cols), strict=True):
        if total is not None and partial is not None:
            total += partial.sum(0, dtype=torch.float64)
    return room.part(n, slice(0, m)), values


__all__ = ["Softplus", "softplus_sum"]
