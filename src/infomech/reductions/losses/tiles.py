"""What the tiled losses share: block boundaries, buffers, entries to leave out, and log-sums gathered tile by tile."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

FIXED_SHIFT_LIMIT = 70.0  # exponentials up to exp(70) = 2.5e30 leave room in float32 for sums of 1e8 of them
FIXED_SHIFT_LIMIT_DOUBLE = 600.0
FIXED_SHIFT_BOUND = 150.0  # scores that can differ by more will hardly do with one shift: do not try
WHOLE_BYTES = 2**28  # a matrix of scores that fits is kept whole: 8,192 x 8,192 in float32
KEPT_BYTES = 2**26  # of a larger one this much
NEGLIGIBLE = -80.0  # exponents below are raised to it: 2e-35 of the largest term, and no slow subnormal numbers
SMALLEST_SAFE_MEAN = 1e-30  # below this mean, what underflowed (< 1.2e-38 each) could matter at 1e-8
SMALLEST_SAFE_MEAN_DOUBLE = 1e-290


def tile_shape(device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile: small enough for a CPU's cache, large enough to fill an accelerator."""
    return (512, 1024) if device.type == "cpu" else (2048, 4096)


def blocks(count: int, size: int) -> Iterator[slice]:
    """Cut range(count) into the fewest runs of at most `size`, of nearly equal length.

    >>> list(blocks(10, 4))
    [slice(0, 4, None), slice(4, 7, None), slice(7, 10, None)]
    """
    parts = -(-count // size)
    base, extra = divmod(count, parts) if parts else (0, 0)
    start = 0
    for k in range(parts):
        stop = start + base + (k < extra)
        yield slice(start, stop)
        start = stop


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is; float32 otherwise: half-precision rows get float32 logits, sums and accumulators."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def without_autocast(method: Callable[P, T]) -> Callable[P, T]:
    """Run a forward(ctx, x, ...) or backward(ctx, g, ...) with autocast off: the rows' own dtype decides."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        first = args[1]
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return method(*args, **kwargs)

    return run


def outside_graphs(function: Callable[P, T]) -> Callable[P, T]:
    """A graph break for `torch.compile`: it would unroll the Python loop over tiles. Compiled code stays correct."""
    disable: Callable[[Callable[P, T]], Callable[P, T]] = torch.compiler.disable
    return disable(function)


class Workspace:
    """Two tile buffers that every tile of a sweep reuses: fresh memory costs page faults."""

    def __init__(self, rows: int, cols: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._buffers = torch.empty(2, rows * cols, dtype=dtype, device=device)

    def tile(self, rows: int, cols: int) -> Float[Tensor, "rows cols"]:
        """The buffer that holds the scores."""
        return self._buffers[0, : rows * cols].view(rows, cols)

    def scratch(self, rows: int, cols: int) -> Float[Tensor, "rows cols"]:
        """A second buffer of the same shape."""
        return self._buffers[1, : rows * cols].view(rows, cols)


def diagonal_of(tile: Tensor, rows: slice, cols: slice) -> tuple[int, int, Tensor]:
    """The entries (i, i) of the whole matrix that lie in a tile: first i, last i + 1, and a view of them."""
    low, high = max(rows.start, cols.start), min(rows.stop, cols.stop)
    high = max(low, high)
    part = tile[max(low - rows.start, 0) : high - rows.start, max(low - cols.start, 0) : high - cols.start]
    return low, high, part.diagonal()


class KeptTiles:
    """Tiles of exponentials of a forward sweep, all or the first of them, to spare their recomputation.

    The budget is bounded by a constant, so that memory stays O(n d): every tile is kept where all fit into WHOLE_BYTES,
    which pays with a quarter of the time; the first KEPT_BYTES of larger matrices, where more would gain little.

    Args:
        entries: of all the tiles of the sweep.
        like: a tensor of the dtype and device of the scores.
    """

    def __init__(self, entries: int, *, like: Tensor) -> None:
        itemsize = like.dtype.itemsize
        whole = entries * itemsize <= WHOLE_BYTES
        self.buffer = like.new_empty(entries if whole else min(entries, KEPT_BYTES // itemsize))
        self._where: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._used = 0

    def place(self, i: slice, j: slice) -> Tensor | None:
        """Room for the tile of these rows and columns, or None when the budget is spent."""
        key, shape = (i.start, j.start), (i.stop - i.start, j.stop - j.start)
        if key not in self._where:
            if self._used + shape[0] * shape[1] > len(self.buffer):
                return None
            self._where[key] = (self._used, *shape)
            self._used += shape[0] * shape[1]
        return self.find(i, j, self.buffer)

    def without_buffer(self) -> "KeptTiles":
        """The directory alone: autograd keeps the buffer, and frees it after the backward sweep."""
        directory = KeptTiles(0, like=self.buffer)
        directory._where = self._where
        return directory

    def find(self, i: slice, j: slice, buffer: Tensor) -> Tensor | None:
        """The kept tile of these rows and columns, in a buffer that autograd may have handed back."""
        if (i.start, j.start) not in self._where:
            return None
        start, rows, cols = self._where[i.start, j.start]
        return buffer[start : start + rows * cols].view(rows, cols)


def entries_within(rows: int, device: torch.device) -> int:
    """At most so many entries have the tiles on and above the diagonal of a Gram matrix."""
    return rows * (rows + min(rows, tile_shape(device)[0])) // 2


class Exclusion(ABC):
    """Which entries of the score matrix take no part in the sums."""

    @abstractmethod
    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:
        """Overwrite the excluded entries of a tile that covers these rows and columns."""


class Nothing(Exclusion):
    """Every entry takes part."""

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        return


class OwnRow(Exclusion):
    """Entry (i, i) is left out: a row is not its own negative."""

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        diagonal_of(tile, rows, cols)[2].fill_(value)


@dataclass(frozen=True)
class SameGroup(Exclusion):
    """Entries whose row and column carry the same group number are left out (E1)."""

    rows: Int[Tensor, " n"]
    cols: Int[Tensor, " m"]

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        tile.masked_fill_(self.rows[rows, None] == self.cols[None, cols], value)


@dataclass(frozen=True)
class Both(Exclusion):
    """What either of two exclusions leaves out."""

    first: Exclusion
    second: Exclusion

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        self.first.clear(tile, rows, cols, value)
        self.second.clear(tile, rows, cols, value)


class Listed(Exclusion):
    """The listed (row, column) entries are left out."""

    def __init__(self, pairs: Int[Tensor, "p 2"]) -> None:
        order = torch.argsort(pairs[:, 0], stable=True)
        self._pairs = pairs[order]
        self._rows = self._pairs[:, 0].contiguous()

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        bounds = torch.tensor([rows.start, rows.stop], device=self._rows.device)
        first, last = torch.searchsorted(self._rows, bounds).tolist()
        near = self._pairs[first:last]
        near = near[(near[:, 1] >= cols.start) & (near[:, 1] < cols.stop)]
        tile[near[:, 0] - rows.start, near[:, 1] - cols.start] = value


class Only(Exclusion):
    """All entries but the listed (row, column) ones are left out."""

    def __init__(self, pairs: Int[Tensor, "p 2"]) -> None:
        self._listed = Listed(pairs)

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        left_out = torch.zeros_like(tile, dtype=torch.bool)
        self._listed.clear(left_out, rows, cols, 1.0)
        tile.masked_fill_(left_out.logical_not_(), value)


class LogSums:
    """log sum exp of many rows at once, gathered tile by tile; the n totals are kept in double precision.

    With a fixed `shift` every tile holds exp(score - shift) already, one exponential for rows and columns alike.
    With ``shift=None`` each row keeps the largest score that it has met, and any scores are safe.
    """

    def __init__(self, count: int, *, shift: float | None, device: torch.device) -> None:
        self.shift = shift
        start = -math.inf if shift is None else shift
        self.peak = torch.full((count,), start, dtype=torch.float64, device=device)
        self.total = torch.zeros(count, dtype=torch.float64, device=device)

    def absorb_exponentials(self, tile: Tensor, where: slice, dim: int) -> None:
        """Add the sums over `dim` of a tile that holds exp(score - shift)."""
        self.total[where] += tile.sum(dim)

    def absorb_scores(self, tile: Tensor, scratch: Tensor, where: slice, dim: int) -> None:
        """Add the sums over `dim` of the exponentials of a tile that holds scores, which is left as it is."""
        peak = self.peak[where]
        top = torch.maximum(peak, tile.amax(dim).to(torch.float64))
        level = torch.where(top == -math.inf, 0.0, top)  # nothing but excluded entries so far
        torch.sub(tile, level.to(tile.dtype).unsqueeze(dim), out=scratch).clamp_(min=NEGLIGIBLE).exp_()
        self.total[where] = self.total[where] * torch.exp(peak - level) + scratch.sum(dim)
        self.peak[where] = top

    def merge(self, other: "LogSums") -> None:
        """Add sums over further columns of the same rows."""
        if self.shift is not None:
            self.total += other.total
            return
        top = torch.maximum(self.peak, other.peak)
        level = torch.where(top == -math.inf, 0.0, top)
        self.total = self.total * torch.exp(self.peak - level) + other.total * torch.exp(other.peak - level)
        self.peak = top

    def value(self) -> Float[Tensor, " n"]:
        """The log-sums, in double precision; -inf for a row without entries."""
        return self.total.log() + self.peak


def fixed_shift(bound: float, dtype: torch.dtype) -> float | None:
    """The shift under which exp(score - shift) cannot overflow for scores up to `bound`; None where none is known.

    Scores within ±70 need no shift at all. Beyond that the largest possible score goes to +70, and scores more than
    157 below the bound underflow: a sweep that ends with a mean below `SMALLEST_SAFE_MEAN` has to be done again with
    running maxima.
    """
    limit = FIXED_SHIFT_LIMIT if dtype == torch.float32 else FIXED_SHIFT_LIMIT_DOUBLE
    if not bound <= limit + FIXED_SHIFT_BOUND - FIXED_SHIFT_LIMIT:
        return None
    return max(0.0, bound - limit)


def underflowed(sums: LogSums, entries: int, dtype: torch.dtype) -> Tensor:
    """Whether a fixed shift may have lost more than the eighth digit somewhere (a boolean scalar)."""
    return sums.total.min() < entries * (SMALLEST_SAFE_MEAN if dtype == torch.float32 else SMALLEST_SAFE_MEAN_DOUBLE)


__all__ = [
    "NEGLIGIBLE",
    "Both",
    "Exclusion",
    "KeptTiles",
    "Listed",
    "LogSums",
    "Nothing",
    "Only",
    "OwnRow",
    "SameGroup",
    "Workspace",
    "blocks",
    "compute_dtype",
    "diagonal_of",
    "entries_within",
    "fixed_shift",
    "outside_graphs",
    "tile_shape",
    "underflowed",
    "without_autocast",
]
