"""How a score matrix is cut into tiles, by device, and in which precision a tile is computed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def tile_shape(device: torch.device) -> tuple[int, int]:
    """Rows and columns of a differentiable tile: small enough for a CPU's cache, large enough for an accelerator."""
    return (512, 1024) if device.type == "cpu" else (2048, 4096)


def tile_side(device: torch.device) -> int:
    """Longest side of a tile of statistics: a float32 tile of 4 MB on a CPU, as wide as a loss's elsewhere."""
    return 1024 if device.type == "cpu" else 4096


def rows_at_once(device: torch.device) -> int:
    """Rows of one piece of work by row: temporaries that stay in a CPU's cache; few launches on an accelerator."""
    return 1024 if device.type == "cpu" else 65_536


def few_launches(device: torch.device) -> bool:
    """Whether many small operations cost more than some arithmetic to no purpose: on everything but a CPU."""
    return device.type != "cpu"


class _Precision:
    """How torch multiplies float32: one setting for all threads, noted by the first in, put back by the last out."""

    def __init__(self) -> None:
        self._lock, self._within = threading.Lock(), 0
        self._before: str | None = None
        self._by_backend: list[tuple[Any, str]] = []

    def enter(self) -> None:
        with self._lock:
            self._within += 1
            if self._within > 1:
                return
            self._by_backend = [(each, each.fp32_precision) for each in _by_backend()]
            try:
                self._before = torch.get_float32_matmul_precision()
            except RuntimeError:  # the backends' settings, which newer versions of torch have, contradict it
                self._before = None
            if self._before is not None:
                torch.set_float32_matmul_precision("highest")
            for each, _ in self._by_backend:
                each.fp32_precision = "ieee"

    def leave(self) -> None:
        with self._lock:
            self._within -= 1
            if self._within:
                return
            if self._before is not None:
                torch.set_float32_matmul_precision(self._before)
            for each, precision in self._by_backend:
                each.fp32_precision = precision


def _by_backend() -> list[Any]:
    found = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    return [each for each in found if hasattr(each, "fp32_precision")]


_PRECISION = _Precision()


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 with float32's digits, whatever `torch.set_float32_matmul_precision` says.

    The setting is the process's: other threads multiply so too until the last that is within has left.

    >>> torch.set_float32_matmul_precision("high")
    >>> with full_precision():
    ...     torch.get_float32_matmul_precision()
    'highest'
    >>> torch.get_float32_matmul_precision()
    'high'
    >>> torch.set_float32_matmul_precision("highest")
    """
    _PRECISION.enter()
    try:
        yield
    finally:
        _PRECISION.leave()


def blocks(count: int, size: int) -> Iterator[slice]:
    """Cut range(count) into the fewest runs of at most `size`, of nearly equal length, longer ones first.

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


def diagonal_of(tile: Tensor, rows: slice, cols: slice) -> tuple[int, int, Tensor]:
    """The entries (i, i) of the whole matrix that lie in a tile: first i, last i + 1, and a view of them."""
    low, high = max(rows.start, cols.start), min(rows.stop, cols.stop)
    high = max(low, high)
    part = tile[max(low - rows.start, 0) : high - rows.start, max(low - cols.start, 0) : high - cols.start]
    return low, high, part.diagonal()


__all__ = [
    "blocks",
    "compute_dtype",
    "diagonal_of",
    "few_launches",
    "full_precision",
    "rows_at_once",
    "tile_shape",
    "tile_side",
]
