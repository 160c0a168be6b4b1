"""Tiles of exponentials that a forward sweep leaves for the backward, in one buffer whose layout the shapes give."""

from collections.abc import Callable, Iterable
from functools import wraps
from itertools import product
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from ..tiling import blocks, tile_shape

P = ParamSpec("P")
T = TypeVar("T")

Size = int | torch.SymInt
WHOLE_BYTES = 2**28  # a matrix of scores that fits is kept whole: 8,192 x 8,192 in float32
KEPT_BYTES = 2**26  # of a larger one this much


def without_autocast(method: Callable[P, T]) -> Callable[P, T]:
    """Run what has a tensor among its arguments with autocast off: the rows' own dtype decides."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        kind = next(arg for arg in args if isinstance(arg, Tensor)).device.type
        if not torch.is_autocast_enabled(kind):
            return method(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return method(*args, **kwargs)

    return run


def outside_graphs(function: Callable[P, T]) -> Callable[P, T]:
    """A graph break for `torch.compile`, for what ranks tell each other and for states that move after a backward."""
    disable: Callable[[Callable[P, T]], Callable[P, T]] = torch.compiler.disable
    return disable(function)


def room(rows: Size, cols: Size, like: Tensor) -> Size:
    """How many entries of a sweep's tiles are kept, `like` being of their dtype and device.

    The budget is bounded by a constant, so that memory stays O(n d): every tile is kept where all fit into WHOLE_BYTES,
    which pays with a quarter of the time; the first KEPT_BYTES of larger matrices, where more would gain little. None
    on an accelerator, whose sweeps keep running maxima and no common level.
    """
    return _within_budget(rows * cols, like)


def room_within(rows: Size, like: Tensor) -> Size:
    """The same for the tiles on and above the diagonal of a Gram matrix."""
    return _within_budget(rows * (rows + torch.sym_min(rows, tile_shape(like.device)[0])) // 2, like)


def _within_budget(entries: Size, like: Tensor) -> Size:
    if like.device.type != "cpu":
        return 0
    itemsize = like.dtype.itemsize
    return entries if entries * itemsize <= WHOLE_BYTES else KEPT_BYTES // itemsize


class KeptTiles:
    """The tiles that a buffer has room for, in the order of a sweep; forward and backward find the same.

    Args:
        buffer: of one axis.
        cuts: rows and columns of all tiles of the sweep, as `tiles` or `tiles_within` gives them.
    """

    def __init__(self, buffer: Tensor, cuts: Iterable[tuple[slice, slice]]) -> None:
        self._buffer = buffer
        self._where: dict[tuple[int, int], tuple[int, int, int]] = {}
        used, size = 0, len(buffer)
        for i, j in cuts if size else ():
            rows, cols = i.stop - i.start, j.stop - j.start
            if used + rows * cols <= size:
                self._where[i.start, j.start] = (used, rows, cols)
                used += rows * cols

    def find(self, i: slice, j: slice) -> Tensor | None:
        """The kept tile of these rows and columns, or None where the budget is spent."""
        if (i.start, j.start) not in self._where:
            return None
        start, rows, cols = self._where[i.start, j.start]
        return self._buffer[start : start + rows * cols].view(rows, cols)


def tiles(rows: int, cols: int, device: torch.device) -> Iterable[tuple[slice, slice]]:
    """Rows and columns of the tiles of a matrix, in the order of a sweep."""
    height, width = tile_shape(device)
    return product(blocks(rows, height), blocks(cols, width))


def tiles_within(rows: int, device: torch.device) -> Iterable[tuple[slice, slice]]:
    """The same on and above the diagonal of a Gram matrix."""
    cuts = list(blocks(rows, tile_shape(device)[0]))
    return ((i, j) for a, i in enumerate(cuts) for j in cuts[a:])


__all__ = ["KeptTiles", "Size", "outside_graphs", "room", "room_within", "tiles", "tiles_within", "without_autocast"]
