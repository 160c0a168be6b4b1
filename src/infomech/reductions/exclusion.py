"""Which entries of a score matrix take part in its sums, and which of them with a log-weight of their own.

Operators take an exclusion as a code and tensors, `Coded`: ``own_row``, ``same_group`` (the groups of rows and of
columns) and ``other_groups`` (the same), ``listed`` and ``only`` (the entries), ``weighted`` and ``only_weighted`` (the
entries and their log-weights), ``above`` (a threshold for each row) and ``guided`` (two sets of rows and thresholds),
``above_each`` and ``guided_each`` (the same with thresholds of the rows and of the columns, each for its own sums);
several are joined by commas, and what any of them leaves out is left out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .tiling import diagonal_of
from .workspace import Workspace


def looks_are_free(tensor: Tensor) -> bool:
    """Whether values can be read without waiting for a device."""
    return tensor.device.type == "cpu"


# Of the sums of the rows, and of those of the columns; numbers, since boolean masks are ten times slower on a CPU.
Masks = tuple[Tensor | None, Tensor | None]


class Coded(NamedTuple):
    """An exclusion as an operator takes it."""

    code: str
    tensors: list[Tensor]


class Exclusion(ABC):
    """Entries of the score matrix that are left out of the sums, or count with a weight of their own.

    A tile of scores passes `weigh` first; entries are overwritten by `clear` once their value can do no harm: scores
    by -inf, exponentials and gradients by 0. Nothing looks at the value of a tensor before a tile is met.
    """

    @property
    def headroom(self) -> float:
        """How far `weigh` may raise a score."""
        return 0.0

    @abstractmethod
    def coded(self) -> Coded:
        """The code and the tensors that `decoded` turns into this exclusion again."""

    @abstractmethod
    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:
        """Overwrite the excluded entries of a tile that covers these rows and columns."""

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: B027 (most exclusions weigh nothing)
        """Add the log-weights of entries to a tile of scores."""

    def of_one_side(self, tile: Tensor, rows: slice, cols: slice, shift: float | None, space: Workspace) -> Masks:
        """Which entries take part in the sums of the rows, and in those of the columns, 1 or 0; None: all of them.

        The tile holds scores, or with a shift exp(score - shift); the masks lie in buffers of the workspace.
        """
        return None, None


class Nothing(Exclusion):
    """Every entry takes part."""

    def coded(self) -> Coded:  # noqa: D102
        return Coded("", [])

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        return


class OwnRow(Exclusion):
    """Entry (i, i) is left out: a row is not its own negative."""

    def coded(self) -> Coded:  # noqa: D102
        return Coded("own_row", [])

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        diagonal_of(tile, rows, cols)[2].fill_(value)


@dataclass(frozen=True)
class SameGroup(Exclusion):
    """Entries whose row and column carry the same group number are left out (E1).

    Args:
        rows: (n,) group of each row.
        cols: (m,) group of each column.
    """

    rows: Shaped[Tensor, " n"]
    cols: Shaped[Tensor, " m"]

    def coded(self) -> Coded:  # noqa: D102
        return Coded("same_group", [self.rows, self.cols])

    def mask(self, rows: slice, cols: slice) -> Bool[Tensor, "a b"]:
        """The entries of a tile that are left out."""
        return self.rows[rows, None] == self.cols[None, cols]

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        tile.masked_fill_(self.mask(rows, cols), value)


@dataclass(frozen=True)
class OtherGroups(Exclusion):
    """Entries whose row and column carry different group numbers are left out: what is left are the same groups'."""

    rows: Shaped[Tensor, " n"]
    cols: Shaped[Tensor, " m"]

    def coded(self) -> Coded:  # noqa: D102
        return Coded("other_groups", [self.rows, self.cols])

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        tile.masked_fill_(self.rows[rows, None] != self.cols[None, cols], value)


@dataclass(frozen=True)
class Above(Exclusion):
    """Entries whose score lies above their row's threshold are left out: negatives that look like positives.

    Args:
        thresholds: (n,) in the units of the tile's scores, scale x.y, before any term or log-weight; constants. In a
            `Both` with log-weights this one comes first.
    """

    thresholds: Float[Tensor, " n"]

    def coded(self) -> Coded:  # noqa: D102
        return Coded("above", [self.thresholds])

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        return  # what was removed has the score -inf, and the exponential 0

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: D102
        tile.masked_fill_(tile > self.thresholds[rows, None].to(tile.dtype), -torch.inf)


@dataclass(frozen=True)
class Guided(Exclusion):
    """Entries that a guide scores above its row's threshold are left out; one more product a tile.

    Args:
        rows: (n, k) the guide's rows for the rows; constants.
        cols: (m, k) for the columns.
        thresholds: (n,) in the units of their products.
    """

    rows: Float[Tensor, "n k"]
    cols: Float[Tensor, "m k"]
    thresholds: Float[Tensor, " n"]

    def coded(self) -> Coded:  # noqa: D102
        return Coded("guided", [self.rows, self.cols, self.thresholds])

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        scores = self.rows[rows] @ self.cols[cols].mT
        tile.masked_fill_(scores > self.thresholds[rows, None].to(scores.dtype), value)


@dataclass(frozen=True)
class BeyondEach(Exclusion):
    """Above a row's threshold an entry is left out of the row's sum, above a column's out of the column's.

    Args:
        of_rows: (n,) in the units of the tile's scores, or of the guide's; constants.
        of_cols: (m,) the same.
        guide: a guide's rows for rows and columns, whose products are compared in place of the scores.
    """

    of_rows: Float[Tensor, " n"]
    of_cols: Float[Tensor, " m"]
    guide: tuple[Float[Tensor, "n k"], Float[Tensor, "m k"]] | None = None

    def coded(self) -> Coded:  # noqa: D102
        code = "above_each" if self.guide is None else "guided_each"
        return Coded(code, [self.of_rows, self.of_cols, *(self.guide or ())])

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        return

    def of_one_side(  # noqa: D102
        self, tile: Tensor, rows: slice, cols: slice, shift: float | None, space: Workspace
    ) -> Masks:
        limits = [self.of_rows[rows, None], self.of_cols[None, cols]]
        if self.guide is not None:
            tile = self.guide[0][rows] @ self.guide[1][cols].mT
        elif shift is not None:
            limits = [torch.exp(limit - shift) for limit in limits]
        row, col = (
            torch.le(tile, limit.to(tile.dtype), out=space.buffer(f"within {side}", *tile.shape))
            for side, limit in enumerate(limits)
        )
        return row, col


@dataclass(frozen=True)
class Both(Exclusion):
    """What either of two exclusions leaves out, with the log-weights of both."""

    first: Exclusion
    second: Exclusion

    def coded(self) -> Coded:  # noqa: D102
        one, two = self.first.coded(), self.second.coded()
        return Coded(",".join(code for code in (one.code, two.code) if code), [*one.tensors, *two.tensors])

    @property
    def headroom(self) -> float:  # noqa: D102
        return self.first.headroom + self.second.headroom

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        self.first.clear(tile, rows, cols, value)
        self.second.clear(tile, rows, cols, value)

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: D102
        self.first.weigh(tile, rows, cols)
        self.second.weigh(tile, rows, cols)

    def of_one_side(  # noqa: D102
        self, tile: Tensor, rows: slice, cols: slice, shift: float | None, space: Workspace
    ) -> Masks:
        parts = (part.of_one_side(tile, rows, cols, shift, space) for part in (self.first, self.second))
        (row, col), (more, further) = parts
        return _either(row, more), _either(col, further)


def _either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one * other


class Entries:
    """Listed (row, column) entries of a matrix, found tile by tile."""

    def __init__(self, pairs: Int[Tensor, "p 2"]) -> None:
        self.pairs = pairs

    @cached_property
    def order(self) -> Int[Tensor, " p"]:
        """The places of the entries in the order by row."""
        return torch.argsort(self.pairs[:, 0], stable=True)

    @cached_property
    def _here(self) -> Int[Tensor, "p 2"]:
        """The entries by row, on the CPU."""
        return self.pairs[self.order].cpu()

    @cached_property
    def _rows(self) -> Int[Tensor, " p"]:
        return self._here[:, 0].contiguous()

    def within(self, rows: slice, cols: slice) -> tuple[Int[Tensor, "k 2"], Int[Tensor, " k"]]:
        """The entries that a tile holds, counted from its corner, and their places in the order by row.

        They are looked for on the CPU, so that an accelerator is not waited for.
        """
        first, last = torch.searchsorted(self._rows, torch.tensor([rows.start, rows.stop])).tolist()
        near = self._here[first:last]
        here = torch.nonzero((near[:, 1] >= cols.start) & (near[:, 1] < cols.stop)).flatten()
        at, places = near[here] - torch.tensor([rows.start, cols.start]), here + first
        device = self.pairs.device
        return at.to(device, non_blocking=True), places.to(device, non_blocking=True)

    def spread(self, tile: Tensor, rows: slice, cols: slice, values: Tensor) -> Tensor:
        """A matrix like the tile: the values of the entries that it holds, 0 elsewhere; without a look at any value.

        What lies outside goes to one place behind the last, which is cut off.
        """
        width = cols.stop - cols.start
        i, j = self.pairs[:, 0] - rows.start, self.pairs[:, 1] - cols.start
        inside = (i >= 0) & (i < rows.stop - rows.start) & (j >= 0) & (j < width)
        places = torch.where(inside, i * width + j, tile.numel())
        flat = values.new_zeros(tile.numel() + 1).index_put_((places,), values)
        return flat[:-1].view(tile.shape)


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
        self._log_weights = None if log_weights is None else log_weights.detach()

    @property
    def pairs(self) -> Int[Tensor, "p 2"]:
        """The entries."""
        return self._entries.pairs

    def coded(self) -> Coded:  # noqa: D102
        if self._log_weights is None:
            return Coded("listed", [self._entries.pairs])
        return Coded("weighted", [self._entries.pairs, self._log_weights])

    @property
    def headroom(self) -> float:  # noqa: D102
        given = self._log_weights is not None and len(self._log_weights) > 0
        return max(0.0, float(self._log_weights.max())) if given and self._log_weights is not None else 0.0

    @cached_property
    def _by_row(self) -> Float[Tensor, " p"]:
        assert self._log_weights is not None
        return self._log_weights[self._entries.order]

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        if self._log_weights is None:
            self.fill(tile, rows, cols, value)

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: D102
        if self._log_weights is None:
            return
        if not looks_are_free(tile):
            tile += self._entries.spread(tile, rows, cols, self._log_weights.to(tile.dtype))
            return
        at, places = self._entries.within(rows, cols)
        tile[at[:, 0], at[:, 1]] += self._by_row[places].to(tile.dtype)

    def fill(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:
        """Overwrite the listed entries of a tile."""
        if not looks_are_free(tile):
            tile.masked_fill_(self.held(tile, rows, cols), value)
            return
        at, _ = self._entries.within(rows, cols)
        tile[at[:, 0], at[:, 1]] = value

    def held(self, tile: Tensor, rows: slice, cols: slice) -> Bool[Tensor, "a b"]:
        """Which entries of a tile are listed."""
        there = torch.ones(len(self._entries.pairs), dtype=torch.bool, device=tile.device)
        return self._entries.spread(tile, rows, cols, there)


class Only(Exclusion):
    """All entries but the listed (row, column) ones are left out; these may have log-weights, as in `Listed`."""

    def __init__(self, pairs: Int[Tensor, "p 2"], log_weights: Float[Tensor, " p"] | None = None) -> None:
        self._listed = Listed(pairs, log_weights)

    def coded(self) -> Coded:  # noqa: D102
        code, tensors = self._listed.coded()
        return Coded("only" if code == "listed" else "only_weighted", tensors)

    @property
    def headroom(self) -> float:  # noqa: D102
        return self._listed.headroom

    def clear(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:  # noqa: D102
        left_out = torch.ones_like(tile, dtype=torch.bool)
        self._listed.fill(left_out, rows, cols, 0.0)
        tile.masked_fill_(left_out, value)

    def weigh(self, tile: Tensor, rows: slice, cols: slice) -> None:  # noqa: D102
        self._listed.weigh(tile, rows, cols)


_KINDS: dict[str, Callable[[Iterator[Tensor]], Exclusion]] = {
    "own_row": lambda _: OwnRow(),
    "same_group": lambda tensors: SameGroup(next(tensors), next(tensors)),
    "other_groups": lambda tensors: OtherGroups(next(tensors), next(tensors)),
    "above": lambda tensors: Above(next(tensors)),
    "guided": lambda tensors: Guided(next(tensors), next(tensors), next(tensors)),
    "above_each": lambda tensors: BeyondEach(next(tensors), next(tensors)),
    "guided_each": lambda tensors: BeyondEach(next(tensors), next(tensors), (next(tensors), next(tensors))),
    "listed": lambda tensors: Listed(next(tensors)),
    "weighted": lambda tensors: Listed(next(tensors), next(tensors)),
    "only": lambda tensors: Only(next(tensors)),
    "only_weighted": lambda tensors: Only(next(tensors), next(tensors)),
}


def decoded(code: str, tensors: Sequence[Tensor]) -> Exclusion:
    """The exclusion of a code and its tensors.

    >>> decoded("own_row,listed", [torch.tensor([[0, 2]])]).coded().code
    'own_row,listed'
    """
    rest = iter(tensors)
    found = [_KINDS[kind](rest) for kind in code.split(",") if kind]
    whole: Exclusion = found[0] if found else Nothing()
    for part in found[1:]:
        whole = Both(whole, part)
    return whole


__all__ = [
    "Above",
    "BeyondEach",
    "Both",
    "Coded",
    "Entries",
    "Exclusion",
    "Guided",
    "Listed",
    "Masks",
    "Nothing",
    "Only",
    "OtherGroups",
    "OwnRow",
    "SameGroup",
    "decoded",
    "looks_are_free",
]
