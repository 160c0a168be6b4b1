"""Gradients from chunks of weights: a kernel writes those of some thousand rows, library products do the rest."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .configs import LEAST_CHUNK, Tiles, chunk_rows, multiprocessors, plan_for
from .launch import launched
from .operands import Operand
from .scores import Scores
from .tile import reach
from .weights import _weights, _weights_on_diagonal

_log = logging.getLogger(__name__)
_ALIGNED_BYTES = 16
_FLOAT16_GAIN = 2.0**14  # weights are 2 at most; the smallest are to stay normal numbers


class Cotangent(NamedTuple):
    """What the gradient of a log-sum needs: its peak, and its cotangent over its total (0 for an empty sum)."""

    peak: Tensor
    per_total: Tensor


class Gradients(NamedTuple):
    """Gradients, still to be multiplied by the scale, of the rows (float32) and of the terms (float64, final)."""

    x: Tensor | None
    y: Tensor | None
    x_terms: Tensor | None
    y_terms: Tensor | None


class _Weights(NamedTuple):
    """Room for a chunk of weights: they, and what rounding them left over if products have three parts."""

    high: Tensor
    low: Tensor | None

    def part(self, rows: int, cols: slice) -> "_Weights":
        return _Weights(self.high[:rows, cols], None if self.low is None else self.low[:rows, cols])

    @property
    def mT(self) -> "_Weights":
        return _Weights(self.high.mT, None if self.low is None else self.low.mT)


class _Side(NamedTuple):
    """Peaks in units of log 2, with plus infinity for those of empty sums, and factors, in float32."""

    peak: Tensor
    factor: Tensor

    def part(self, where: slice) -> "_Side":
        return _Side(self.peak[where], self.factor[where])


def gradients(
    scores: Scores,
    row: Cotangent | None,
    col: Cotangent | None,
    *,
    x: bool = True,
    y: bool = True,
    x_terms: bool = False,
    y_terms: bool = False,
    chunk: int | None = None,
    tiles: Tiles | None = None,
) -> Gradients:
    """Gradients of the log-sums of rows and columns in the rows of x and y and in their terms.

    Cotangents should be of size 1 at most: weights are written in the rows' dtype.

    Args:
        scores: the matrix.
        row: of the log-sums of the rows; None where there are none.
        col: of those of the columns.
        x: whether gradients of x are wanted.
        y: whether those of y are.
        x_terms: whether the gradient of the rows' terms is wanted, which comes from the columns' sums.
        y_terms: whether that of the columns' terms is, from the rows' sums.
        chunk: rows of weights at one time; None: as the table and memory have it.
        tiles: in place of the table's.
    """
    n, m, d = len(scores.x), len(scores.y), scores.x.features
    sides = [_side(row, scores), _side(col, scores)]
    tiles = tiles or _tiles(scores, x_terms or y_terms)
    grad_x = _empty(scores, n, d) if x else None
    grad_y = _empty(scores, m, d) if y else None
    sums = [_zeros(scores, k) if wanted else None for k, wanted in ((n, x_terms), (m, y_terms))]
    room, chunk = _room(scores, n, m, chunk, store=x or y)

    def sweep() -> None:
        for start in range(0, n, chunk):
            here = slice(start, min(start + chunk, n))
            part = scores.part(here)
            both = None if sides[0] is None else sides[0].part(here), sides[1]
            g = _chunk(part, both, room, start, tiles, (None if sums[0] is None else sums[0][here], sums[1]))
            if grad_x is not None:
                _multiply(grad_x[here], g, scores.y, scores, fresh=True)
            if grad_y is not None:
                _multiply(grad_y, g.mT, part.x, scores, fresh=start == 0)

    with _library_precision(scores):
        launched(scores.scale.device, sweep)
    gain = _gain(scores)
    return Gradients(*(None if g is None else g.div_(gain) if gain != 1.0 else g for g in (grad_x, grad_y, *sums)))


def gradients_within(
    scores: Scores, row: Cotangent, *, x: bool = True, x_terms: bool = False, chunk: int | None = None,
    tiles: Tiles | None = None,
) -> Gradients:  # fmt: skip
    """Gradients of the log-sums of a symmetric matrix, x against x, from half of its tiles.

    With G the weights of the rows' sums these are (G + G^T) x: weights of both directions at once, for each chunk of
    rows against the columns from its own first row on.
    """
    n, d = len(scores.x), scores.x.features
    side = _side(row, scores)
    assert side is not None
    tiles = tiles or _tiles(scores, x_terms)
    grad = torch.zeros(n, d, dtype=torch.float32, device=scores.scale.device) if x else None
    sums = _zeros(scores, n) if x_terms else None
    room, chunk = _room(scores, n, n, chunk or max(LEAST_CHUNK, -(-n // 8)), store=x)

    def sweep() -> None:
        for start in range(0, n, chunk):
            stop = min(start + chunk, n)
            part = scores.part(slice(start, stop), slice(start, n))
            both = side.part(slice(start, stop)), side.part(slice(start, n))
            terms = (None, None) if sums is None else (sums[start:stop], sums[start:])
            g = _chunk(part, both, room, 0, tiles, terms, skip=stop - start)
            if grad is not None:
                _multiply(grad[start:stop], g, part.y, scores, fresh=False)
                if stop < n:
                    beyond = g.part(stop - start, slice(stop - start, None))
                    _multiply(grad[stop:], beyond.mT, part.x, scores, fresh=False)

    with _library_precision(scores):
        launched(scores.scale.device, sweep)
    gain = _gain(scores)
    grad, sums = (None if g is None else g.div_(gain) if gain != 1.0 else g for g in (grad, sums))
    return Gradients(grad, None, sums, None)


def _chunk(
    scores: Scores,
    sides: tuple[_Side | None, _Side | None],
    room: _Weights,
    first: int,
    tiles: Tiles,
    sums: tuple[Tensor | None, Tensor | None],
    skip: int = 0,
) -> _Weights:
    """The weights of a chunk, the first row of which is row `first`; the sums that the terms' gradients are, added."""
    n, m = len(scores.x), len(scores.y)
    tall, wide = triton.cdiv(n, tiles.rows), triton.cdiv(m, tiles.cols)
    device = scores.scale.device
    g = room.part(n, slice(0, m))
    row, col = sides
    by_row = torch.empty(wide, n, dtype=torch.float32, device=device) if sums[0] is not None else None
    by_col = torch.empty(tall, m, dtype=torch.float32, device=device) if sums[1] is not None else None
    arguments: dict[str, Any] = {
        "X": scores.x.values, "Y": scores.y.values, "U": scores.x_terms, "V": scores.y_terms,
        "GX": scores.x_groups, "GY": scores.y_groups,
        "A": None if row is None else row.factor, "P": None if row is None else row.peak,
        "B": None if col is None else col.factor, "Q": None if col is None else col.peak,
        "G": room.high, "L": room.high if room.low is None else room.low, "RS": by_row, "CS": by_col,
        "scale": scores.scale, "bound": scores.bound, "M": n, "N": m, "D": scores.x.depth, "width": room.high.stride(0),
        "across": n, "down": m, "skip": skip, "limit": scores.limit,
        "ROWS": row is not None, "COLS": col is not None, "X_SUMS": sums[0] is not None, "Y_SUMS": sums[1] is not None,
        "STORE": room.high.shape[1] > 0, **scores.flags,
        "BM": tiles.rows, "BN": tiles.cols, "BK": tiles.depth,
        "num_warps": tiles.warps, "num_stages": tiles.stages,
    }  # fmt: skip
    sms = multiprocessors(device)
    _weights[(min(sms, tall * wide),)](**arguments, GROUP=tiles.group, SMS=sms)
    if scores.own and first < m:
        _weights_on_diagonal[(tall * reach(tiles.rows, tiles.cols),)](**arguments, first=first)
    for total, partial in zip(sums, (by_row, by_col), strict=True):
        if total is not None and partial is not None:
            total += partial.sum(0, dtype=torch.float64)
    return g


def _multiply(out: Tensor, g: _Weights, rows: Operand, scores: Scores, *, fresh: bool) -> None:
    """Out = g rows, or out += g rows: in float32, of halves the small products first."""
    pairs = [(g.high, rows.high)]
    if g.low is not None:
        pairs = [(g.low, rows.high), (g.high, rows.low), (g.high, rows.high)]
    for a, b in pairs:
        if not out.is_cuda:
            product = a.float() @ b.float()
            out.copy_(product) if fresh else out.add_(product)
        elif a.dtype == torch.float32:
            torch.mm(a, b, out=out) if fresh else torch.addmm(out, a, b, out=out)
        elif fresh:
            torch.mm(a, b, out_dtype=torch.float32, out=out)
        else:
            _add_product(out, a, b)
        fresh = False


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Out += a b, of halves, summed in float32 by the library's own accumulator where that is offered."""
    try:
        torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
    except (RuntimeError, TypeError):
        out.add_(torch.mm(a, b, out_dtype=torch.float32))


def _room(scores: Scores, n: int, m: int, chunk: int | None, *, store: bool) -> tuple[_Weights, int]:
    """Room for one chunk of weights: as many rows as the table has, or as memory allows, which is said."""
    dtype = scores.product.dtype
    width = -(-m // (_ALIGNED_BYTES // dtype.itemsize)) * (_ALIGNED_BYTES // dtype.itemsize) if store else 0
    halves = 2 if scores.product.parts == 3 else 1
    wanted = rows = min(n, chunk) if chunk else chunk_rows(n, m, halves * dtype.itemsize)
    while True:
        try:
            high, *low = (scores.scale.new_empty(rows, width, dtype=dtype) for _ in range(halves))
        except torch.OutOfMemoryError:
            if rows <= LEAST_CHUNK:
                raise
            rows = max(LEAST_CHUNK, rows // 2)
            continue
        if rows < wanted:
            _log.info("too little memory for the weights of %d rows at once: %d rows, slower", wanted, rows)
        return _Weights(high, low[0] if low else None), rows


def _tiles(scores: Scores, sums: bool) -> Tiles:
    plan = plan_for(scores.scale.device, scores.product.kind)
    return plan.careful if sums or scores.careful or scores.product.parts == 3 else plan.weights


def _side(cotangent: Cotangent | None, scores: Scores) -> _Side | None:
    if cotangent is None:
        return None
    peak = (cotangent.peak.double() / math.log(2.0)).to(torch.float32)
    peak = torch.where(peak == -torch.inf, torch.inf, peak)
    return _Side(peak, (cotangent.per_total * _gain(scores)).to(torch.float32))


def _gain(scores: Scores) -> float:
    return _FLOAT16_GAIN if scores.product.dtype == torch.float16 else 1.0


def _empty(scores: Scores, n: int, d: int) -> Tensor:
    return torch.empty(n, d, dtype=torch.float32, device=scores.scale.device)


def _zeros(scores: Scores, n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64, device=scores.scale.device)


@contextmanager
def _library_precision(scores: Scores) -> Iterator[None]:
    """The precision of the library's float32 products, where they are the ones that count."""
    before = torch.get_float32_matmul_precision()
    wanted = {"tf32": "high", "ieee": "highest"}.get(scores.product.kind, before)
    if wanted != before:
        torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_float32_matmul_precision(before)


__all__ = ["Cotangent", "Gradients", "gradients", "gradients_within"]
