"""The sum of softplus over a score matrix and its gradients, from one visit of each tile: what the sigmoid loss needs.

With z_ij = s_ij + u_i + t_j a tile leaves the sum of its log(1 + exp z_ij) and, for the products with rows, its
sigmoid(z_ij). Both come from one exponential, e = exp(-|z|).
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import Tiles, cdiv, multiprocessors, plan_for
from .gradients import gain, library_precision, multiply, room_for
from .launch import launched, ready
from .scores import Scores
from .tile import LOG2E, cleared, is_own, on_diagonal, place, product, reach, rows_of, terms_of
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
    s, gd, ld, rm, rn, pm, pn, U, V, RS, CS, VALUES, M, N, wide, across, down, gain,
    X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr, STORE: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """The sum of one tile, and its weights."""
    z = s + terms_of(V, rn, N, Y_TERMS)[None, :] + terms_of(U, rm, M, X_TERMS)[:, None]
    e = tl.exp2(-tl.abs(z))
    value = tl.sum(tl.sum(tl.maximum(z, 0.0) * _LN2 + _log_one_plus(e), 1), 0)
    tl.store(VALUES + pm * wide + pn, value)
    if STORE or X_SUMS or Y_SUMS:
        g = tl.where(z > 0.0, gain, gain * e) / (1.0 + e)
        leave(g, g, gd, ld, rm, rn, pm, pn, RS, CS, M, N, across, down, 0,
              True, False, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


@triton.jit(do_not_specialize=["M", "N", "width", "across", "down", "gain"])
@no_type_check
def _softplus(
    X, Y, U, V, GX, GY, G, L, RS, CS, VALUES, scale, EX, EY, M, N, D, width, across, down, gain, limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr,
    STORE: tl.constexpr, PARTS: tl.constexpr, DOT: tl.constexpr, EXTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, SMS: tl.constexpr,
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
        _leave_softplus(s, gd, ld, rm, rn, pm, pn, U, V, RS, CS, VALUES, M, N, wide, across, down, gain,
                        X_TERMS, Y_TERMS, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


@triton.jit(do_not_specialize=["M", "N", "first", "width", "across", "down", "gain"])
@no_type_check
def _softplus_on_diagonal(
    X, Y, U, V, GX, GY, G, L, RS, CS, VALUES, scale, EX, EY, M, N, D, first, width, across, down, gain, limit,
    GROUPS: tl.constexpr, X_TERMS: tl.constexpr, Y_TERMS: tl.constexpr, X_SUMS: tl.constexpr, Y_SUMS: tl.constexpr,
    STORE: tl.constexpr, PARTS: tl.constexpr, DOT: tl.constexpr, EXTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The tiles that hold entries (i, i) once more, without these entries."""
    pm, pn, crossed = on_diagonal(tl.program_id(0), first, BM, BN)
    if crossed & (pn * BN < N):
        xd = rows_of(X, M, D, BM, BK, PARTS)
        yd = rows_of(Y, N, D, BN, BK, PARTS)
        gd, ld = room_of(G, L, xd, M, N, width, BM, BN, STORE, PARTS)
        factor = (tl.load(scale) * LOG2E).to(tl.float32)
        s = product(xd, yd, pm * BM, pn * BN, D, BM, BN, BK, PARTS, DOT) * factor
        rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
        s = cleared(tl.where(is_own(rm, rn, first), float("-inf"), s), rm, rn, GX, GY, M, N, GROUPS)
        _leave_softplus(s, gd, ld, rm, rn, pm, pn, U, V, RS, CS, VALUES, M, N, tl.cdiv(N, BN), across, down, gain,
                        X_TERMS, Y_TERMS, X_SUMS, Y_SUMS, STORE, PARTS)  # fmt: skip


class Softplus(NamedTuple):
    """The sum, 0-d float64, and its gradients: of rows float32, to be multiplied by the scale, of terms float64."""

    value: Tensor
    x: Tensor | None
    y: Tensor | None
    x_terms: Tensor | None
    y_terms: Tensor | None


def softplus_sum(
    scores: Scores, *, gradients: bool = True, terms: bool = False, chunk: int | None = None, tiles: Tiles | None = None
) -> Softplus:
    """The sum of log(1 + exp(s_ij + u_i + t_j)) over what is not left out, and its gradients.

    Args:
        scores: the matrix, with the terms u and t.
        gradients: whether those of the rows are wanted.
        terms: whether those of the terms that are there are.
        chunk: rows of weights at one time; None: as the table and memory have it.
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
    room, chunk = room_for(scores, n, m, chunk, store=gradients)
    values = []

    def sweep() -> None:
        for start in range(0, n, chunk):
            here = slice(start, min(start + chunk, n))
            part = scores.part(here)
            g, value = _chunk(part, room, start, tiles, (None if sums[0] is None else sums[0][here], sums[1]))
            values.append(value)
            if grad_x is not None and grad_y is not None:
                multiply(grad_x[here], g, scores.y, fresh=True)
                multiply(grad_y, g.mT, part.x, fresh=start == 0)

    with library_precision(scores):
        launched(device, sweep)
    value = (values[0] if len(values) == 1 else torch.cat(values)).sum(dtype=torch.float64)
    if gain(scores) != 1.0:
        for found in (grad_x, grad_y, *sums):
            if found is not None:
                found.div_(gain(scores))
    return Softplus(value, grad_x, grad_y, *sums)


def _chunk(
    scores: Scores, room: Any, first: int, tiles: Tiles, sums: tuple[Tensor | None, Tensor | None]
) -> tuple[Any, Tensor]:
    """The weights of a chunk, the first row of which is row `first`, and sums by tile; those of the terms added."""
    n, m, device = len(scores.x), len(scores.y), scores.scale.device
    tall, wide = cdiv(n, tiles.rows), cdiv(m, tiles.cols)
    values = torch.empty(tall * wide, dtype=torch.float32, device=device)
    by_row = torch.empty(wide, n, dtype=torch.float32, device=device) if sums[0] is not None else None
    by_col = torch.empty(tall, m, dtype=torch.float32, device=device) if sums[1] is not None else None
    arguments: dict[str, Any] = {
        **scores.arguments,
        "G": room.high, "L": room.high if room.low is None else room.low, "RS": by_row, "CS": by_col, "VALUES": values,
        "width": room.high.stride(0), "across": n, "down": m, "gain": gain(scores),
        "X_SUMS": by_row is not None, "Y_SUMS": by_col is not None, "STORE": room.high.shape[1] > 0,
        "BM": tiles.rows, "BN": tiles.cols, "BK": tiles.depth, "num_warps": tiles.warps, "num_stages": tiles.stages,
    }  # fmt: skip
    sms = multiprocessors(device)
    ready(_softplus)[(min(sms, tall * wide),)](**arguments, GROUP=tiles.group, SMS=sms)
    if scores.own and first < m:
        ready(_softplus_on_diagonal)[(tall * reach(tiles.rows, tiles.cols),)](**arguments, first=first)
    for total, partial in zip(sums, (by_row, by_col), strict=True):
        if total is not None and partial is not None:
            total += partial.sum(0, dtype=torch.float64)
    return room.part(n, slice(0, m)), values


__all__ = ["Softplus", "softplus_sum"]
