"""Which entries of a score matrix take part in its sums, and which of them with a log-weight of their own."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .tiling import diagonal_of


class Exclusion(ABC):
    """Entries of the score matrix that are left out of the sums, or count with a weight of their own.

    A tile of scores passes `weigh` first; entries are overwritten by `clear` once their value can do no harm: scores
    by -inf, exponentials and gradients by 0.
    """

    headroom: float = 0.0  # how far `weigh` may raise a score

    @abstractmethod
    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:
        """Overwrite the excluded entries of a tile that covers these rows and columns."""

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: B027 (most exclusions weigh nothing)
        """Add the log-weights of entries to a tile of scores."""


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
    """Entries whose row and column carry the same group number are left out (E1).

    Args:
        rows: (n,) group of each row.
        cols: (m,) group of each column.
        ascending: both are sorted, so that most tiles are known at a glance to hold no such entry.
    """

    rows: Int[Tensor, " n"]
    cols: Int[Tensor, " m"]
    ascending: bool = False

    def mask(self, rows: slice, cols: slice) -> Bool[Tensor, "a b"] | None:
        """The entries of a tile that are left out; None where it is known that none is."""
        a, b = self.rows[rows], self.cols[cols]
        if self.ascending and (a[0] > b[-1] or b[0] > a[-1]):
            return None
        return a[:, None] == b[None, :]

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        mask = self.mask(rows, cols)
        if mask is not None:
            tile.masked_fill_(mask, value)


@dataclass(frozen=True)
class Both(Exclusion):
    """What either of two exclusions leaves out, with the log-weights of both."""

    first: Exclusion
    second: Exclusion

    @property
    def headroom(self) -> float:  # type: ignore[override]  # noqa: D102
        return self.first.headroom + self.second.headroom

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        self.first.clear(tile, rows, cols, value)
        self.second.clear(tile, rows, cols, value)

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: D102
        self.first.weigh(tile, rows, cols)
        self.second.weigh(tile, rows, cols)


class Entries:
    """Listed (row, column) entries of a matrix, found tile by tile."""

    def __init__(self, pairs: Int[Tensor, "p 2"]) -> None:
        self.order = torch.argsort(pairs[:, 0], stable=True)
        self._pairs = pairs[self.order]
        self._rows = self._pairs[:, 0].contiguous()

    def within(self, rows: slice, cols: slice) -> tuple[Int[Tensor, "k 2"], Int[Tensor, " k"]]:
        """The entries that a tile holds, counted from its corner, and their places in the order by row."""
        bounds = torch.tensor([rows.start, rows.stop], device=self._rows.device)
        first, last = torch.searchsorted(self._rows, bounds).tolist()
        near = self._pairs[first:last]
        here = torch.nonzero((near[:, 1] >= cols.start) & (near[:, 1] < cols.stop)).flatten()
        corner = torch.tensor([rows.start, cols.start], device=near.device)
        return near[here] - corner, here + first


class Listed(Exclusion):
    """The listed (row, column) entries are left out; with log-weights they stay, and count exp(weight) times.

    Args:
        pairs: (p, 2) distinct entries.
        log_weights: (p,) finite numbers that are added to these entries' scores: the log of how often a mined
            negative was drawn, say. Constants: no gradient flows to them. In sums within one modality, whose matrix is
            taken to be symmetric, both (i, j) and (j, i) must be listed, with one weight.
    """

    def __init__(self, pairs: Int[Tensor, "p 2"], log_weights: Float[Tensor, " p"] | None = None) -> None:
        self._entries = Entries(pairs)
        self._log_weights = None if log_weights is None else log_weights.detach()[self._entries.order]
        if self._log_weights is not None and len(pairs):
            self.headroom = max(0.0, float(self._log_weights.max()))

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        if self._log_weights is None:
            self.fill(tile, rows, cols, value)

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: D102
        if self._log_weights is not None:
            at, places = self._entries.within(rows, cols)
            tile[at[:, 0], at[:, 1]] += self._log_weights[places].to(tile.dtype)

    def fill(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:
        """Overwrite the listed entries of a tile."""
        at, _ = self._entries.within(rows, cols)
        tile[at[:, 0], at[:, 1]] = value


class Only(Exclusion):
    """All entries but the listed (row, column) ones are left out; these may have log-weights, as in `Listed`."""

    def __init__(self, pairs: Int[Tensor, "p 2"], log_weights: Float[Tensor, " p"] | None = None) -> None:
        self._listed = Listed(pairs, log_weights)
        self.headroom = self._listed.headroom

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        left_out = torch.ones_like(tile, dtype=torch.bool)
        self._listed.fill(left_out, rows, cols, 0.0)
        tile.masked_fill_(left_out, value)

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: D102
        self._listed.weigh(tile, rows, cols)


__all__ = ["Both", "Entries", "Exclusion", "Listed", "Nothing", "Only", "OwnRow", "SameGroup"]
