"""How a score matrix is cut into tiles, by device, and in which precision a tile is computed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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


_BY_BACKEND = {"highest": ("ieee", "ieee"), "high": ("tf32", "tf32"), "medium": ("tf32", "bf16")}  # CUDA's, oneDNN's


def _by_backend() -> list[Any]:
    """Where newer versions of torch set CUDA's precision and oneDNN's."""
    found = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    return [each for each in found if hasattr(each, "fp32_precision")]


def _overall() -> str | None:
    """What `torch.set_float32_matmul_precision` set; None where backends are set otherwise and torch refuses to say."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def float32_precision(device: torch.device) -> str:
    """How torch multiplies float32 there: "highest", "high" or "medium"."""
    overall = _overall()
    if overall is not None:
        return overall
    own = _by_backend()[0 if device.type == "cuda" else -1].fp32_precision
    return {"tf32": "high", "bf16": "medium"}.get(own, "highest")


class _Setting(NamedTuple):
    """How torch multiplies float32."""

    overall: str | None
    by_backend: list[str]

    @classmethod
    def now(cls) -> "_Setting":
        return cls(_overall(), [each.fp32_precision for each in _by_backend()])

    def change(self, precision: str) -> None:
        """Set it, where this is what was set before."""
        if self.overall is None:
            _Setting(None, list(_BY_BACKEND[precision])).put_back()
        elif precision != _overall():
            torch.set_float32_matmul_precision(precision)

    def put_back(self) -> None:
        if self.overall is not None:
            torch.set_float32_matmul_precision(self.overall)
        for each, precision in zip(_by_backend(), self.by_backend, strict=False):
            each.fp32_precision = precision


class _Asked:
    """What is asked of the one setting that all threads have: the most precise is set; the last out puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within: list[str] = []
        self._before: _Setting | None = None

    def enter(self, precision: str) -> None:
        with self._lock:
            before = self._before or _Setting.now()
            within = [*self._within, precision]
            before.change(min(within, key=list(_BY_BACKEND).index))
            self._before, self._within = before, within

    def leave(self, precision: str) -> None:
        with self._lock:
            self._within.remove(precision)
            before = self._before
            assert before is not None
            if self._within:
                before.change(min(self._within, key=list(_BY_BACKEND).index))
            else:
                self._before = None
                before.put_back()


_ASKED = _Asked()


@contextmanager
def multiplied_in(precision: str | None) -> Iterator[None]:
    """Within, torch multiplies float32 in a precision, "highest", "high" or "medium"; None: as it does.

    The setting is the process's: where threads ask for several, the most precise serves all of them, and what was set
    before is put back by the last that leaves.
    """
    if precision is None:
        yield
        return
    _ASKED.enter(precision)
    try:
        yield
    finally:
        _ASKED.leave(precision)


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
    with multiplied_in("highest"):
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
    "full_precision",
    "multiplied_in",
    "rows_at_once",
    "tile_shape",
    "tile_side",
]
