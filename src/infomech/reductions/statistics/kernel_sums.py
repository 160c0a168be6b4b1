"""Sums of the kernel exp(s / tau) along the rows and columns of a Gram matrix, in the log domain, by block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..log_sums import LogSums
from ..losses.backends import Backend, takes_kernels
from ..shifts import common_shift, unshifted
from ..tiling import few_launches
from .chains import geometric_chains
from .gram import Reduction, Tile
from .rows import GroupedRows, Span

if TYPE_CHECKING:
    from ..kernels.block_sums import Tables

_LOG2_E = math.log2(math.e)  # powers of two are four times as fast as powers of e here, and as accurate
_FEW_BLOCKS = 64  # of both sides of a tile: beyond, the largest score in each costs more than a tile in float64
_FEW_RUNS = 4  # of blocks of equal width: a sum for each
_MANY_BLOCKS = 64  # in one tile: from there on a product with their indicator is cheaper than a sum for each


class BlockedLogSums:
    """For each row, the log of the sum of weighted kernels over each block of the columns, and of their squares.

    ``log_sums[i, b] = log sum over j in block b, outside i's group, of w_j exp(s_ij / tau)``, float64, -inf where there
    is no such column; `log_squares` the same of (w_j exp(s_ij / tau))^2.
    """

    def __init__(
        self, rows: int, blocks: int, device: torch.device, *, shift: float | None = None, squares: bool = True
    ) -> None:
        # a block's sums of consecutive rows lie side by side, as tiles add them
        self._sums = LogSums(blocks, rows, shift=shift, device=device, with_squares=squares)

    @classmethod
    def of(cls, peak: Tensor, total: Tensor, squares: Tensor | None) -> "BlockedLogSums":
        """Sums that stand in a table of kernels, (b, n) each."""
        table = cls(0, 0, total.device, squares=squares is not None)
        table._sums.peak, table._sums.total, table._sums.squares = peak, total, squares
        return table

    def add(self, span: Span, first: int, totals: Tensor, squares: Tensor | None, level: Tensor | float) -> None:
        """Add sums times exp(level), and sums of squares times its square, over consecutive blocks from `first` on."""
        level = level.T if isinstance(level, Tensor) else level
        squares = None if squares is None else squares.T
        self._sums.add((slice(first, first + totals.shape[1]), span.slice), totals.T, level, squares)

    def merge(self, other: "BlockedLogSums") -> None:
        """Add another table of the same shape."""
        self._sums.merge(other._sums)

    @property
    def log_sums(self) -> Float[Tensor, "n b"]:
        """Logs of the sums by row and block of columns."""
        return self._sums.value().T

    @property
    def log_squares(self) -> Float[Tensor, "n b"]:
        """Logs of the sums of squares by row and block of columns."""
        return self._sums.value_of_squares().T


@dataclass(frozen=True)
class TemperatureSums:
    """The sums at one temperature."""

    temperature: float
    by_row: BlockedLogSums
    by_column: BlockedLogSums  # of a symmetric sweep: the same table

    def merge(self, other: "TemperatureSums") -> None:
        """Add the sums of another part of the matrix."""
        self.by_row.merge(other.by_row)
        if self.by_column is not self.by_row:
            self.by_column.merge(other.by_column)


@dataclass(frozen=True)
class RowTerms:
    """Scores s_ij = slope x_i.y_j + b_i + c_j: what a critic, a bias or a correction adds to inner products.

    Args:
        slope: a factor above 0.
        x: (n,) terms b of the rows, finite; None for 0.
        y: (m,) terms c of the columns; of a symmetric sweep they are those of x.
    """

    slope: float = 1.0
    x: Float[Tensor, " n"] | None = None
    y: Float[Tensor, " m"] | None = None


@dataclass(frozen=True)
class _Level:
    """One temperature of a chain in which each is half the one before."""

    scale: float  # what x.y plus the terms over the slope is multiplied by
    sums: list[TemperatureSums]


class KernelSums(Reduction):
    """Kernel sums over the columns outside each row's group, and over the rows for each column.

    One or several temperatures; where they stand in the ratio 2 one exponential serves them all, by squares. The
    square of the kernel is summed alongside for the effective count. A column counts by its weight as a negative.

    Args:
        x: the rows of the sweep.
        y: its columns, or None for a symmetric sweep; then ``by_column`` is ``by_row``.
        temperature: tau > 0, or several.
        terms: what is added to the inner products, before the sum is divided by tau.
        each_block: whether every block's sum is kept to full precision; otherwise one that is below e^-20 of its row's
            largest kernel may read 0, which the row's total does not feel.
        squares: whether the squares are summed; without them there are no effective counts.
        columns: whether sums along the columns are wanted of a sweep that is not symmetric; without them
            ``by_column`` is ``by_row``.
        backend: ``"auto"`` takes Triton kernels for tiles on CUDA, where they can be used; see the losses.

    The blocks are those of x and y here; the sweep's own rows may be cut otherwise.

    Source: D3, E1, E2, E8.
    """

    def __init__(
        self,
        x: GroupedRows,
        y: GroupedRows | None,
        *,
        temperature: float | Sequence[float],
        terms: RowTerms | None = None,
        each_block: bool = False,
        squares: bool = True,
        columns: bool = True,
        backend: Backend = "auto",
    ) -> None:
        self._x, self._y = x, x if y is None else y
        self._symmetric, self._columns = y is None, columns
        self._each_block, self._squares = each_block, squares
        self._terms = RowTerms() if terms is None else terms
        temperatures = (temperature,) if isinstance(temperature, (int, float)) else tuple(temperature)
        dtype = x.values.dtype
        slope = self._terms.slope
        parts = self._terms.x, self._terms.x if y is None else self._terms.y
        self._added = tuple(None if part is None else (part / slope).to(dtype) for part in parts)
        bound = x.largest_norm * self._y.largest_norm
        bound += sum(float(part.abs().max()) for part in self._added if part is not None)
        self._nothing = -2 * bound - 1  # stands for an entry that is left out: below every score, yet finite
        self._unshifted = {tau: unshifted(bound * slope / tau, dtype, squares=squares) for tau in temperatures}
        self._backend = backend
        self._on_kernels = _OnKernels.of(self, temperatures) if takes_kernels(backend, "", x.values) else None
        if self._on_kernels is None:
            self.at = tuple(self._tables(tau) for tau in temperatures)
        else:
            self.at = self._on_kernels.sums
        self._chains = self._levels()

    def _tables(self, temperature: float) -> TemperatureSums:
        device, shift = self._x.values.device, 0.0 if self._unshifted[temperature] else None
        by_row = BlockedLogSums(len(self._x), self._y.blocks, device, shift=shift, squares=self._squares)
        if self._symmetric or not self._columns:
            return TemperatureSums(temperature, by_row, by_row)
        by_column = BlockedLogSums(len(self._y), self._x.blocks, device, shift=shift, squares=self._squares)
        return TemperatureSums(temperature, by_row, by_column)

    def _levels(self) -> list[list[_Level]]:
        scales = {str(k): self._terms.slope / sums.temperature for k, sums in enumerate(self.at)}
        return [
            [_Level(scales[names[0]], [self.at[int(name)] for name in names]) for names in chain]
            for chain in geometric_chains(scales, ratio=2.0)
        ]

    def _shift_for(self, lowest: float, highest: float, dtype: torch.dtype) -> float | None:
        return common_shift(lowest, highest, dtype, squares=self._squares)

    @property
    def by_row(self) -> BlockedLogSums:
        """The sums along rows, at the first temperature."""
        return self.at[0].by_row

    @property
    def by_column(self) -> BlockedLogSums:
        """The sums along columns, at the first temperature."""
        return self.at[0].by_column

    def fork(self) -> "KernelSums":  # noqa: D102
        return KernelSums(
            self._x,
            None if self._symmetric else self._y,
            temperature=[sums.temperature for sums in self.at],
            terms=self._terms,
            each_block=self._each_block,
            squares=self._squares,
            columns=self._columns,
            backend=self._backend,
        )

    def merge(self, other: "KernelSums") -> None:  # noqa: D102
        for mine, theirs in zip(self.at, other.at, strict=True):
            mine.merge(theirs)

    def update(self, tile: Tile) -> None:  # noqa: D102
        if self._on_kernels is not None:
            self._on_kernels.add(self, tile)
            return
        sweep = _TileSweep(self, tile)
        for chain in self._chains:
            start = 0
            while start < len(chain):
                start += sweep.take(chain[start:])

    def scores(self, tile: Tile) -> Tensor:
        """The tile's scores over the slope."""
        b, c = self._added
        if b is None and c is None:
            return tile.similarity
        scores = tile.buffer("scores").copy_(tile.similarity)
        if b is not None:
            scores.add_(b[tile.rows.slice, None])
        return scores if c is None else scores.add_(c[None, tile.cols.slice])


class _OnKernels:
    """The sums of all temperatures from two launches a tile: along its rows, and along its columns."""

    def __init__(self, rows: "Tables", cols: "Tables | None", temperatures: Sequence[float]) -> None:
        self._rows, self._cols = rows, cols
        parts = [zip(*_by_temperature(side), strict=True) for side in (rows, cols or rows)]
        self.sums = tuple(
            TemperatureSums(tau, by_row, by_row if cols is None else BlockedLogSums.of(*col))
            for tau, row, col in zip(temperatures, *parts, strict=True)
            for by_row in (BlockedLogSums.of(*row),)
        )

    @classmethod
    def of(cls, kernels: KernelSums, temperatures: Sequence[float]) -> "_OnKernels":
        """With nothing seen yet."""
        from ..kernels.block_sums import Tables  # here: it imports Triton, which need not be there

        x, y, squares = kernels._x, kernels._y, kernels._squares
        scales = [kernels._terms.slope / tau for tau in temperatures]
        on = torch.tensor(scales, dtype=torch.float64).to(x.values.device)
        rows = Tables.empty(on, y.blocks, len(x), squares=squares)
        wanted = kernels._columns and not kernels._symmetric
        return cls(rows, Tables.empty(on, x.blocks, len(y), squares=squares) if wanted else None, temperatures)

    def add(self, kernels: KernelSums, tile: Tile) -> None:
        """The sums of one tile."""
        from ..kernels.block_sums import Kept, add_block_sums

        sides = []
        ends = zip((kernels._x, kernels._y), (tile.rows, tile.cols), kernels._added, strict=True)
        for rows, stripe, terms in ends:
            here, weights = stripe.slice, rows.negative_weights
            added = None if terms is None else terms[here]
            groups = None if tile.own is None else rows.groups[here]
            counted = None if weights is None else weights[here]
            sides.append(Kept(stripe.start, len(stripe), added, groups, counted))
        for side in (0, 1) if (tile.mirrored if kernels._symmetric else self._cols is not None) else (0,):
            others, stripe = ((kernels._y, tile.cols), (kernels._x, tile.rows))[side]
            there = others.span(stripe.start, stripe.stop)
            tables = self._cols if side and self._cols is not None else self._rows
            edges, first = there.ends(tile.similarity.device), there.blocks[0][0]
            kept, summed = sides[side], sides[1 - side]
            add_block_sums(tables, tile.similarity, kept, summed, edges, first=first, transposed=side == 1)


def _by_temperature(tables: "Tables") -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor | None]]:
    squares = [None] * len(tables.peak) if tables.squares is None else list(tables.squares)
    return list(tables.peak), list(tables.total), squares


class _TileSweep:
    """What one tile adds to the sums of all temperatures."""

    def __init__(self, kernels: KernelSums, tile: Tile) -> None:
        self._kernels, self._tile = kernels, tile
        ends = (kernels._x, tile.rows), (kernels._y, tile.cols)
        self._rows = tuple((rows, rows.span(stripe.start, stripe.stop)) for rows, stripe in ends)
        self._want_columns = tile.mirrored if kernels._symmetric else kernels._columns
        self._scores = kernels.scores(tile)

    def take(self, chain: Sequence[_Level]) -> int:
        """Add the first levels of a chain, as many as one exponential serves; how many that were."""
        served, last = 0, 0.0
        looks = not (self._kernels._each_block and few_launches(self._scores.device))
        for level in chain:
            shift = 0.0 if self._unshifted(level) else self._common_shift(level) if looks else None
            if shift is None:
                break
            served, last = served + 1, shift  # the smaller scores of the levels before have room under half of it
        if served:
            self._add_powers(chain[:served], last)
        elif not looks:
            self._add_by_maxima_of_blocks(chain)
            served = len(chain)
        elif self._kernels._each_block and (shift := self._common_shift(chain[0], torch.float64)) is not None:
            self._add_powers(chain[:1], shift, torch.float64)
        else:
            self._add_by_own_maxima(chain[0])
        return max(served, 1)

    def _unshifted(self, level: _Level) -> bool:
        return self._kernels._unshifted[level.sums[0].temperature]

    @cached_property
    def _cleared(self) -> Tensor:
        """The scores, with a number below all of them in place of what is left out."""
        own = self._tile.own
        return self._scores if own is None else self._scores.masked_fill(own, self._kernels._nothing)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """The smallest of the largest scores of the rows and columns (in each block, if asked for), and the largest."""
        sides = (0, 1) if self._want_columns else (0,)
        if self._kernels._each_block:
            blocks = sum(len(self._rows[1 - side][1].blocks) for side in sides)
            lowest, highest = self._extremes
            sharpest = max(level.scale for chain in self._kernels._chains for level in chain)
            close = self._kernels._shift_for(lowest * sharpest, highest * sharpest, self._scores.dtype) is not None
            if close or blocks > _FEW_BLOCKS or few_launches(self._scores.device):
                return lowest, highest
            tops = [top for side in sides for top in self._tops_by_block(side)]
        else:
            tops = [self._tops(side) for side in sides]
        ends = torch.stack([torch.stack(top.aminmax()) for top in tops if top.numel()] or [self._cleared.new_zeros(2)])
        lowest, highest = float(ends[:, 0].min()), float(ends[:, 1].max())
        if any(rows.counted is not None for rows, _ in self._rows):  # an entry that counts for nobody must not overflow
            highest = max(highest, float(self._cleared.amax()))
        return lowest, highest

    @property
    def _extremes(self) -> tuple[float, float]:
        """The smallest and the largest score: bounds on the largest of any block."""
        own = self._tile.own
        if own is None:
            lowest, highest = (float(end) for end in self._scores.aminmax())
        else:
            lowest, highest = float(self._scores.masked_fill(own, math.inf).amin()), float(self._cleared.amax())
        return (lowest, highest) if lowest < math.inf else (0.0, 0.0)

    def _tops_by_block(self, side: int) -> list[Tensor]:
        """The largest score of each row (side 0) or column (1) in each block, where a block has a negative for it."""
        others, span = self._rows[1 - side]
        tops = []
        for _, cut in span.blocks:
            part = self._cleared[:, cut] if side == 0 else self._cleared[cut]
            if others.counted is not None:
                part = part.index_select(1 - side, torch.nonzero(others.counted[span.slice][cut]).flatten())
            if part.shape[1 - side]:
                top = part.amax(1 - side)
                tops.append(top if self._tile.own is None else top[top > self._kernels._nothing])
        return tops

    def _tops(self, side: int) -> Tensor:
        """The largest score of each row (side 0) or column (1), among what counts as its negative."""
        others, span = self._rows[1 - side]
        scores = self._cleared
        if others.counted is not None:
            scores = scores.index_select(1 - side, torch.nonzero(others.counted[span.slice]).flatten())
        return scores.amax(1 - side) if scores.shape[1 - side] else scores.new_empty(0)

    def _common_shift(self, level: _Level, dtype: torch.dtype | None = None) -> float | None:
        lowest, highest = self._ends
        return self._kernels._shift_for(lowest * level.scale, highest * level.scale, dtype or self._scores.dtype)

    def _add_powers(self, chain: Sequence[_Level], last_shift: float, dtype: torch.dtype | None = None) -> None:
        """One exponential for the first level, squares for the others; each shift is half the next one's."""
        of = "" if dtype is None else f", {dtype}"
        kernel = self._tile.buffer(f"kernel{of}", dtype)
        shift = last_shift / 2 ** (len(chain) - 1)
        torch.mul(self._scores.to(kernel.dtype), chain[0].scale * _LOG2_E, out=kernel)
        if shift:
            kernel.sub_(shift * _LOG2_E)
        kernel.exp2_()
        if self._tile.own is not None:
            kernel.masked_fill_(self._tile.own, 0.0)
        square = self._tile.buffer(f"square{of}", dtype) if self._kernels._squares else None
        for k, level in enumerate(chain):
            if square is not None:
                torch.mul(kernel, kernel, out=square)
            for sums in level.sums:
                self._add(sums.by_row, 0, kernel, square, shift)
                if self._want_columns:
                    self._add(sums.by_column, 1, kernel, square, shift)
            shift *= 2
            if square is not None:
                kernel, square = square, kernel
            elif k < len(chain) - 1:
                kernel.mul_(kernel)  # a tile that stays in the cache

    def _add(self, table: BlockedLogSums, side: int, kernel: Tensor, square: Tensor | None, shift: float) -> None:
        """Sums along the rows (side 0) or columns (1), by block of the other side."""
        (_, here), (others, there) = self._rows[side], self._rows[1 - side]
        weights = others.negative_weights
        weights = None if weights is None else weights[there.slice].to(kernel.dtype)
        totals = _sums_by_block(kernel, there, weights, dim=1 - side)
        squares = None
        if square is not None:
            squares = _sums_by_block(square, there, None if weights is None else weights.square(), dim=1 - side)
        table.add(here, there.blocks[0][0], totals, squares, shift)

    def _add_by_maxima_of_blocks(self, chain: Sequence[_Level]) -> None:
        """The same for all blocks at once and without a look at any value: one exponential serves the whole chain."""
        for side in (0, 1) if self._want_columns else (0,):
            (_, here), (others, there) = self._rows[side], self._rows[1 - side]
            scores = self._cleared.T.contiguous() if side == 0 else self._cleared  # sums run along the first axis
            weights = others.negative_weights
            weights = None if weights is None else weights[there.slice]
            if others.counted is not None:
                scores = scores.masked_fill(~others.counted[there.slice, None], self._kernels._nothing)
            widths, places = there.widths(scores.device)
            tops = torch.segment_reduce(scores, "max", lengths=widths, axis=0, unsafe=True)
            kernel = torch.sub(scores, tops.index_select(0, places)).mul_(chain[0].scale * _LOG2_E).exp2_()
            kernel.masked_fill_(scores == self._kernels._nothing, 0.0)
            for k, level in enumerate(chain):
                square = kernel.square() if self._kernels._squares or k < len(chain) - 1 else None
                totals = _sums_by_block(kernel, there, weights, dim=0)
                squares = None
                if self._kernels._squares and square is not None:
                    squares = _sums_by_block(square, there, None if weights is None else weights.square(), dim=0)
                for sums in level.sums:
                    table = sums.by_column if side else sums.by_row
                    table.add(here, there.blocks[0][0], totals, squares, tops.T.double() * level.scale)
                kernel = kernel if square is None else square

    def _add_by_own_maxima(self, level: _Level) -> None:
        """Each row of each block shifted by its own maximum."""
        for sums in level.sums:
            self._add_shifted(sums.by_row, 0, level.scale)
            if self._want_columns:
                self._add_shifted(sums.by_column, 1, level.scale)

    def _add_shifted(self, table: BlockedLogSums, side: int, scale: float) -> None:
        (_, here), (others, there) = self._rows[side], self._rows[1 - side]
        scores = self._cleared if side == 0 else self._cleared.T
        for block, cut in there.blocks:
            part = scores[:, cut]
            weights = others.negative_weights
            if weights is not None:
                weights = weights[there.slice][cut]
            if others.counted is not None and weights is not None:
                kept = torch.nonzero(weights).flatten()
                part, weights = part[:, kept], weights[kept]
            if not part.shape[1]:
                continue
            top = part.amax(1, keepdim=True)
            kernel = torch.sub(part, top).mul_(scale * _LOG2_E).exp2_()
            kernel.masked_fill_(part == self._kernels._nothing, 0.0)
            square = kernel.square()
            if weights is None:
                totals, squares = kernel.sum(1, keepdim=True), square.sum(1, keepdim=True)
            else:
                totals, squares = kernel @ weights[:, None], square @ weights.square()[:, None]
            table.add(here, block, totals, squares, top.double() * scale)


def _sums_by_block(values: Tensor, span: Span, weights: Tensor | None, *, dim: int) -> Float[Tensor, "a k"]:
    """Weighted sums of a tile over each block of its columns (dim 1) or rows (dim 0), in the tile's dtype."""
    if weights is None and len(span.runs) <= _FEW_RUNS and not few_launches(values.device):
        return _sums_by_run(values, span, dim=dim)
    if len(span.blocks) > _MANY_BLOCKS or few_launches(values.device):
        return (values if dim == 1 else values.T) @ span.indicator(weights, values)
    parts = []
    for _, cut in span.blocks:
        part = values[:, cut] if dim == 1 else values[cut]
        if weights is None:
            parts.append(part.sum(dim))
        else:
            parts.append(torch.mv(part if dim == 1 else part.T, weights[cut]))
    return torch.stack(parts, 1)


def _sums_by_run(values: Tensor, span: Span, *, dim: int) -> Float[Tensor, "a k"]:
    """The same without weights: blocks of equal width are a view with one more axis, and one sum."""
    parts = []
    for start, count, width in span.runs:
        part = values[:, start : start + count * width] if dim == 1 else values[start : start + count * width]
        parts.append(part.unflatten(dim, (count, width)).sum(dim + 1))
    sums = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
    return sums if dim == 1 else sums.T


__all__ = ["BlockedLogSums", "KernelSums", "RowTerms", "TemperatureSums"]
