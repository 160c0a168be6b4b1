"""Gradients from chunks of weights: a kernel writes those of some thousand rows, library products do the rest."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tiling import float32_products
from .configs import CHUNK_ROWS, LEAST_CHUNK, Tiles, cdiv, chunk_rows, multiprocessors, plan_for, steps_within
from .launch import launched, ready
from .listing import NO_LISTING
from .operands import Operand
from .scores import Scores
from .support import say_once
from .tile import reach
from .weights import _weights, _weights_again

_ALIGNED_BYTES = 16
_LIBRARY = SimpleNamespace(adds=True)  # whether products of halves can be added to float32 in one call: found out once
_FLOAT16_GAIN = 2.0**14  # weights are 2 at most; the smallest are to stay normal numbers


class Side(NamedTuple):
    """What weights are made of, float32: peaks in units of log 2, infinite for empty sums; factors, with the gain."""

    peak: Tensor
    factor: Tensor

    def part(self, where: slice) -> "Side":
        """Some consecutive ones."""
        if where.start == 0 and where.stop >= self.peak.shape[0]:
            return self
        return Side(self.peak[where], self.factor[where])


class Gradients(NamedTuple):
    """Gradients of the rows (float32), still to be multiplied by the scale, and of the terms (float64).

    All of them have the gain in them that the factors had.
    """

    x: Tensor | None
    y: Tensor | None
    x_terms: Tensor | None
    y_terms: Tensor | None


class Weights(NamedTuple):
    """Room for a chunk of weights: they, and what rounding them left over if products have three parts."""

    high: Tensor
    low: Tensor | None

    def part(self, rows: int, cols: slice) -> "Weights":
        """The first rows, and some columns."""
        return Weights(self.high[:rows, cols], None if self.low is None else self.low[:rows, cols])

    @property
    def mT(self) -> "Weights":  # noqa: D102 (torch's name for the transpose)
        return Weights(self.high.mT, None if self.low is None else self.low.mT)


def gradients(
    scores: Scores,
    row: Side | None,
    col: Side | None,
    *,
    x: bool = True,
    y: bool = True,
    x_terms: bool = False,
    y_terms: bool = False,
    chunk: int | None = None,
    tiles: Tiles | None = None,
) -> Gradients:
    """Gradients of the log-sums of rows and columns in the rows of x and y and in their terms.

    Factors should be made from cotangents of size 1 at most: weights are written in the rows' dtype.

    Args:
        scores: the matrix.
        row: the log-sums of the rows; None where there are none.
        col: those of the columns.
        x: whether gradients of x are wanted.
        y: whether those of y are.
        x_terms: whether the gradient of the rows' terms is wanted, which comes from the columns' sums.
        y_terms: whether that of the columns' terms is, from the rows' sums.
        chunk: rows of weights at one time; None: as the table and memory have it.
        tiles: in place of the table's.
    """
    n, m, d = len(scores.x), len(scores.y), scores.x.features
    sides = row, col
    tiles = tiles or tiles_for(scores, both=row is not None and col is not None, sums=x_terms or y_terms)
    grad_x = _empty(scores, n, d) if x else None
    grad_y = _empty(scores, m, d) if y else None
    sums = [_zeros(scores, k) if wanted else None for k, wanted in ((n, x_terms), (m, y_terms))]
    room, chunk = room_for(scores, n, m, chunk, tiles, store=x or y)
    scores = scores.by_tile(tiles.rows, tiles.cols)

    def sweep() -> None:
        for start in range(0, n, chunk):
            here = slice(start, min(start + chunk, n))
            part = scores.part(here)
            both = None if sides[0] is None else sides[0].part(here), sides[1]
            g = _chunk(part, both, room, start, tiles, (None if sums[0] is None else sums[0][here], sums[1]))
            if grad_x is not None:
                multiply(grad_x[here], g, scores.y, fresh=True)
            if grad_y is not None:
                multiply(grad_y, g.mT, part.x, fresh=start == 0)

    with library_precision(scores):
        launched(scores.scale.device, sweep)
    return Gradients(grad_x, grad_y, *sums)


def gradients_within(
    scores: Scores, side: Side, *, add_to: Tensor | None = None, x: bool = True, x_terms: bool = False,
    chunk: int | None = None, tiles: Tiles | None = None,
) -> Gradients:  # fmt: skip
    """Gradients of the log-sums of a symmetric matrix, x against x, from half of its tiles.

    With G the weights of the rows' sums these are (G + G^T) x: weights of both directions at once, for each chunk of
    rows against the columns from its own first row on.

    Args:
        scores: the matrix.
        side: the log-sums of its rows.
        add_to: (n, d) float32 to which the gradient of x is added; None: it is made here.
        x: whether the gradient of x is wanted.
        x_terms: whether that of its terms is.
        chunk: rows of weights at one time.
        tiles: in place of the table's.
    """
    n, d = len(scores.x), scores.x.features
    tiles = tiles or tiles_for(scores, both=True, sums=x_terms)
    grad = add_to if add_to is not None and x else _empty(scores, n, d).zero_() if x else None
    sums = _zeros(scores, n) if x_terms else None
    room, chunk = room_for(scores, n, n, chunk or _chunk_within(n), tiles, store=x)
    scores = scores.by_tile(tiles.rows, tiles.cols)

    def sweep() -> None:
        for start in range(0, n, chunk):
            stop = min(start + chunk, n)
            part = scores.part(slice(start, stop), slice(start, n))
            both = side.part(slice(start, stop)), side.part(slice(start, n))
            terms = (None, None) if sums is None else (sums[start:stop], sums[start:])
            g = _chunk(part, both, room, 0, tiles, terms, skip=stop - start)
            if grad is not None:
                multiply(grad[start:stop], g, part.y, fresh=False)
                if stop < n:
                    beyond = g.part(stop - start, slice(stop - start, None))
                    multiply(grad[stop:], beyond.mT, part.x, fresh=False)

    with library_precision(scores):
        launched(scores.scale.device, sweep)
    return Gradients(grad, None, sums, None)


def _chunk_within(n: int) -> int:
    """Rows of one chunk of half a symmetric matrix: many visit little more than half, few keep products large."""
    return min(CHUNK_ROWS, max(4 * LEAST_CHUNK, -(-n // steps_within(n) // LEAST_CHUNK) * LEAST_CHUNK))


def _chunk(
    scores: Scores,
    sides: tuple[Side | None, Side | None],
    room: Weights,
    first: int,
    tiles: Tiles,
    sums: tuple[Tensor | None, Tensor | None],
    skip: int = 0,
) -> Weights:
    """The weights of a chunk, the first row of which is row `first`; the sums that the terms' gradients are, added."""
    n, m = len(scores.x), len(scores.y)
    tall, wide = cdiv(n, tiles.rows), cdiv(m, tiles.cols)
    device = scores.scale.device
    g = room.part(n, slice(0, m))
    row, col = sides
    by_row = torch.empty(wide, n, dtype=torch.float32, device=device) if sums[0] is not None else None
    by_col = torch.empty(tall, m, dtype=torch.float32, device=device) if sums[1] is not None else None
    arguments: dict[str, Any] = {
        **scores.arguments,
        "A": None if row is None else row.factor, "P": None if row is None else row.peak,
        "B": None if col is None else col.factor, "Q": None if col is None else col.peak,
        "G": room.high, "L": room.high if room.low is None else room.low, "RS": by_row, "CS": by_col,
        "width": room.high.stride(0), "across": n, "down": m, "skip": skip,
        "ROWS": row is not None, "COLS": col is not None, "X_SUMS": sums[0] is not None, "Y_SUMS": sums[1] is not None,
        "STORE": room.high.shape[1] > 0,
        "BM": tiles.rows, "BN": tiles.cols, "BK": tiles.depth,
        "num_warps": tiles.warps, "num_stages": tiles.stages,
    }  # fmt: skip
    sms = multiprocessors(device)
    ready(_weights)[(min(sms, tall * wide),)](**arguments, GROUP=tiles.group, SMS=sms)
    if scores.own and first < m:
        ready(_weights_again)[(tall * reach(tiles.rows, tiles.cols),)](
            **arguments, **NO_LISTING, first=first, OWN=True, LISTED=False
        )
    if scores.listed is not None:
        ready(_weights_again)[(len(scores.listed.rows),)](
            **arguments, **scores.listed.arguments, first=first, OWN=scores.own, LISTED=True
        )
    for total, partial in zip(sums, (by_row, by_col), strict=True):
        if total is not None and partial is not None:
            total += partial.sum(0, dtype=torch.float64)
    return g


def multiply(out: Tensor, g: Weights, rows: Operand, *, fresh: bool) -> None:
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
    if _LIBRARY.adds:
        try:
            torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
            return
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError):
            _LIBRARY.adds = False
    out.add_(torch.mm(a, b, out_dtype=torch.float32))


def room_for(scores: Scores, n: int, m: int, chunk: int | None, tiles: Tiles, *, store: bool) -> tuple[Weights, int]:
    """Room for one chunk of weights: as many rows as the table has, or as memory allows, which is said.

    Where entries are listed by tile a chunk is whole tiles.
    """
    unit = 1 if scores.listed is None else max(tiles.rows, tiles.cols)
    dtype = scores.product.dtype
    width = -(-m // (_ALIGNED_BYTES // dtype.itemsize)) * (_ALIGNED_BYTES // dtype.itemsize) if store else 0
    halves = 2 if scores.product.parts == 3 else 1
    wanted = rows = min(n, -(-(chunk or chunk_rows(n, m, halves * dtype.itemsize)) // unit) * unit)
    while True:
        try:
            high, *low = (scores.scale.new_empty(rows, width, dtype=dtype) for _ in range(halves))
        except torch.OutOfMemoryError:
            if rows <= LEAST_CHUNK:
                raise
            rows = max(LEAST_CHUNK, rows // 2 // unit * unit)
            continue
        if rows < wanted:
            say_once(f"too little memory for the weights of {wanted} rows at once: {rows} rows, slower")
        return Weights(high, low[0] if low else None), rows


def tiles_for(scores: Scores, *, both: bool, sums: bool) -> Tiles:
    """Tiles of weights: of one side or both, with sums that the terms' gradients are or without.

    Weights of both sides are one exponential for an entry, with terms in wild tiles two: these need a smaller tile.
    """
    plan = plan_for(scores.scale.device, scores.product.kind)
    terms = scores.x_terms is not None or scores.y_terms is not None
    return plan.careful if sums or scores.careful or (both and terms) else plan.weights


def gain(scores: Scores) -> float:
    """What factors are to be multiplied by, so that weights are normal numbers of their dtype."""
    return _FLOAT16_GAIN if scores.product.dtype == torch.float16 else 1.0


def _empty(scores: Scores, n: int, d: int) -> Tensor:
    return torch.empty(n, d, dtype=torch.float32, device=scores.scale.device)


def _zeros(scores: Scores, n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64, device=scores.scale.device)


@contextmanager
def library_precision(scores: Scores) -> Iterator[None]:
    """The precision of the library's float32 products, where they are the ones that count."""
    wanted = {"tf32": "high", "ieee": "highest"}.get(scores.product.kind)
    if wanted is None:
        yield
        return
    with float32_products(wanted):
        yield


__all__ = [
    "Gradients",
    "Side",
    "Weights",
    "gain",
    "gradients",
    "gradients_within",
    "library_precision",
    "multiply",
    "room_for",
    "tiles_for",
]
