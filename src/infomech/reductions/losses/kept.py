"""Tiles of exponentials that a forward sweep leaves for the backward, and how autograd meets both."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from ..tiling import tile_shape

P = ParamSpec("P")
T = TypeVar("T")

WHOLE_BYTES = 2**28  # a matrix of scores that fits is kept whole: 8,192 x 8,192 in float32
KEPT_BYTES = 2**26  # of a larger one this much


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


__all__ = ["KeptTiles", "entries_within", "outside_graphs", "without_autocast"]
