"""One sweep over the tiles of a Gram matrix feeds every statistic that needs it.

`sweep` visits s_ij = x_i.y_j tile by tile and hands each tile to all reductions; nothing of size n x m is held, and no
reduction asks for a tile twice. Within one modality the matrix is symmetric and only the tiles on and above the
diagonal are computed; a reduction then sees ``tile.mirrored`` and counts the tile for its transpose too.

Precision. Tiles have the rows' dtype (float32 for float32 embeddings, float64 for float64), and all of its digits
whatever torch is set to for the products of a training. A reduction adds up at most some thousand numbers in that
dtype, by pairwise summation or a matrix-vector product, and then goes on in float64. The rounding of a tile's entries
is independent from entry to entry, so that it averages out: a sum of distances is good to 1e-8 of its value. What is
left of a sum of exponentials is the rounding of its exponent's factor, 2^-24 of the exponent
(tests/reductions/test_precision.py).

Threads. A tile's operations are many and small: shared out over cores one by one they would spend their time waiting
for each other. On a CPU each thread therefore visits tiles of its own, with accumulators of its own that are merged at
the end. Which thread takes a tile does not depend on timing: results repeat to the last bit on equal thread counts.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._typing import Progress
from ..exclusion import SameGroup
from ..threads import cpu_threads, side_by_side
from ..tiling import full_precision, tile_side
from ..workspace import Workspace
from .rows import GroupedRows, Span

_TILES_A_THREAD = 4  # fewer are not worth a thread


@dataclass(frozen=True)
class Tile:
    """A tile of similarities, and where it stands."""

    similarity: Tensor  # (a, b); reductions read it and do not write to it
    rows: Span
    cols: Span
    own: Tensor | None  # (a, b) bool, True where row and column belong to one group; None where no entry does
    mirrored: bool  # off the diagonal of a symmetric matrix: stands for its transpose as well
    workspace: Workspace

    def buffer(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A scratch tile of this tile's shape, and of its dtype if none is named."""
        return self.workspace.buffer(name, len(self.rows), len(self.cols), dtype)

    def mask(self) -> Tensor:
        """A scratch tile of booleans."""
        return self.workspace.buffer("mask", len(self.rows), len(self.cols), torch.bool)


class Reduction(ABC):
    """Something that is computed from all tiles, each seen once."""

    @abstractmethod
    def update(self, tile: Tile) -> None:
        """Take one tile into account."""

    @abstractmethod
    def fork(self) -> "Reduction":
        """The same question with nothing seen yet, for another thread."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take all that a fork has seen into account."""


def sweep(
    x: GroupedRows,
    y: GroupedRows | None,
    reductions: Sequence[Reduction],
    *,
    progress: Progress | None = None,
    tile_rows: int | None = None,
    threads: int | None = None,
) -> None:
    """Sweep the Gram matrix of x with y, or of x with itself where y is None, once.

    Args:
        x: the rows.
        y: the columns; None for the symmetric matrix of x with itself.
        reductions: each sees every tile once.
        progress: called after each tile with the share of the work done since the last call (sums to 1).
        tile_rows: longest side of a tile; by default as the device wants it.
        threads: that visit tiles side by side, each with torch on one thread; by default as many as torch uses on a
            CPU, one on other devices.

    Source: DESIGN section 4, reductions.
    """
    work = _Work(x, y, tile_side(x.values.device) if tile_rows is None else tile_rows, progress)
    threads = cpu_threads(x.values.device) if threads is None else threads
    threads = max(1, min(threads, len(work.places) // _TILES_A_THREAD))
    forks = [reductions, *([r.fork() for r in reductions] for _ in range(threads - 1))]
    jobs = [partial(work.visit, forks[k], k, threads) for k in range(threads)]
    with full_precision():
        side_by_side(jobs, threads=threads, on_error=work.stop.set)
    for fork in forks[1:]:
        for reduction, other in zip(reductions, fork, strict=True):
            reduction.merge(other)


class _Work:
    """The tiles of one sweep, and how far it is."""

    def __init__(self, x: GroupedRows, y: GroupedRows | None, tile_rows: int, progress: Progress | None) -> None:
        self._x, self._y, self._symmetric = x, x if y is None else y, y is None
        rows, cols = list(x.spans(tile_rows)), list(self._y.spans(tile_rows))
        self.places = [(a, b) for i, a in enumerate(rows) for b in (cols[i:] if self._symmetric else cols)]
        self._entries = sum(len(a) * len(b) for a, b in self.places)
        self._same_group = SameGroup(x.groups, self._y.groups)
        self._ends = [_ends(r.groups, spans) for r, spans in ((x, rows), (self._y, cols))]
        self._progress, self._lock = progress, threading.Lock()
        self.stop = threading.Event()

    def _share_a_group(self, rows: Span, cols: Span) -> bool:
        (first, last), (low, high) = self._ends[0][rows.start], self._ends[1][cols.start]
        return first <= high and low <= last

    def visit(self, reductions: Sequence[Reduction], first: int, step: int) -> None:
        """Hand every `step`-th tile, from number `first` on, to the reductions."""
        try:
            self._visit(reductions, first, step)
        except BaseException:
            self.stop.set()  # the other threads finish their tile and end
            raise

    def _visit(self, reductions: Sequence[Reduction], first: int, step: int) -> None:
        x, y = self._x, self._y
        workspace = Workspace(x.values)
        for rows, cols in self.places[first::step]:
            if self.stop.is_set():
                return
            similarity = workspace.buffer("similarity", len(rows), len(cols))
            torch.mm(x.values[rows.slice], y.values[cols.slice].T, out=similarity)
            own = self._same_group.mask(rows.slice, cols.slice) if self._share_a_group(rows, cols) else None
            mirrored = self._symmetric and cols.start != rows.start
            tile = Tile(similarity, rows, cols, own, mirrored, workspace)
            for reduction in reductions:
                reduction.update(tile)
            if self._progress is not None:
                with self._lock:
                    self._progress(len(rows) * len(cols) / self._entries)


def _ends(groups: Tensor, spans: Sequence[Span]) -> dict[int, tuple[int, int]]:
    """The first and the last group of each stripe, by where it starts; groups ascend."""
    places = torch.tensor([(span.start, span.stop - 1) for span in spans], device=groups.device)
    return {span.start: (low, high) for span, (low, high) in zip(spans, groups[places].tolist(), strict=True)}


__all__ = ["Reduction", "Tile", "sweep"]
