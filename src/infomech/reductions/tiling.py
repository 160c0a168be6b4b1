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


_OF_BACKENDS = {"highest": ("ieee", "ieee"), "high": ("tf32", "tf32"), "medium": ("tf32", "bf16")}  # CUDA's, the CPU's


class _Precision:
    """How torch multiplies float32: one setting for all threads, noted by the first in, put back by the last out.

    While some are within the last that came in has its way, as the setting is the process's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[tuple[object, str]] = []
        self._before: str | None = None
        self._by_backend: list[tuple[Any, str]] = []

    def enter(self, wanted: str) -> object:
        """Returns what `leave` takes."""
        token = object()
        with self._lock:
            if not self._asked:
                self._by_backend = [(each, each.fp32_precision) for each in _by_backend()]
                self._before = _overall()
            self._asked.append((token, wanted))
            self._set(wanted)
        return token

    def leave(self, token: object) -> None:
        with self._lock:
            self._asked = [one for one in self._asked if one[0] is not token]
            if self._asked:
                self._set(self._asked[-1][1])
                return
            if self._before is not None:
                torch.set_float32_matmul_precision(self._before)
            for each, precision in self._by_backend:
                each.fp32_precision = precision

    def _set(self, wanted: str) -> None:
        if self._before is not None:
            torch.set_float32_matmul_precision(wanted)
        for (each, _), precision in zip(self._by_backend, _OF_BACKENDS[wanted], strict=False):
            each.fp32_precision = precision


def _by_backend() -> list[Any]:
    found = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    return [each for each in found if hasattr(each, "fp32_precision")]


def _overall() -> str | None:
    """Torch's setting for all devices; None where those of the backends, which newer versions have, contradict it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def float32_precision(device: torch.device) -> str:
    """How torch multiplies float32 on a device, in the words of `torch.set_float32_matmul_precision`.

    Where it was set by backend, as ``torch.backends.cuda.matmul.fp32_precision = "tf32"``, that of the device.

    >>> float32_precision(torch.device("cpu"))
    'highest'
    """
    overall = _overall()
    if overall is not None:
        return overall
    of_device = _by_backend()[0 if device.type == "cuda" else -1].fp32_precision
    return {"tf32": "high", "bf16": "medium"}.get(of_device, "highest")


_PRECISION = _Precision()


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Products of float32 as `torch.set_float32_matmul_precision` would have them, put back afterwards.

    The setting is the process's: other threads multiply so too until the last that is within has left.

    >>> with float32_products("high"):
    ...     float32_precision(torch.device("cpu"))
    'high'
    """
    token = _PRECISION.enter(precision)
    try:
        yield
    finally:
        _PRECISION.leave(token)


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 with float32's digits, whatever `torch.set_float32_matmul_precision` says.

    >>> torch.set_float32_matmul_precision("high")
    >>> with full_precision():
    ...     torch.get_float32_matmul_precision()
    'highest'
    >>> torch.get_float32_matmul_precision()
    'high'
    >>> torch.set_float32_matmul_precision("highest")
    """
    with float32_products("highest"):
        yield


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
    "float32_precision",
    "float32_products",
    "full_precision",
    "rows_at_once",
    "tile_shape",
    "tile_side",
]
