"""Sums of functions of the distance over all pairs of rows of different groups, by pair of blocks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..tiling import few_launches, rows_at_once
from .chains import geometric_chains
from .gram import Reduction, Tile
from .rows import GroupedRows, Span


class PairFunction(ABC):
    """A function of the distance of two unit rows."""

    exponent: float | None = None  # gamma of exp(-gamma |x - y|^2), so that powers can share an exponential

    @abstractmethod
    def of_squared(self, squared: Tensor) -> Tensor:
        """The function, from squared distances of any shape."""

    @abstractmethod
    def of_half(self, half: Tensor, out: Tensor) -> Tensor:
        """The function, from half the squared distances, written to a buffer."""


@dataclass(frozen=True)
class Distance(PairFunction):
    """The function |x - y| of a pair."""

    def of_squared(self, squared: Tensor) -> Tensor:  # noqa: D102
        return squared.clamp_min(0).sqrt()

    def of_half(self, half: Tensor, out: Tensor) -> Tensor:  # noqa: D102
        return torch.mul(half, 2.0, out=out).sqrt_()


@dataclass(frozen=True)
class Gaussian(PairFunction):
    """The function exp(-gamma |x - y|^2) of a pair; bandwidth sigma = (2 gamma)^(-1/2)."""

    gamma: float

    @property
    def exponent(self) -> float:  # type: ignore[override]  # noqa: D102
        return self.gamma

    def of_squared(self, squared: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(-self.gamma * squared)

    def of_half(self, half: Tensor, out: Tensor) -> Tensor:  # noqa: D102
        return torch.mul(half, -2 * self.gamma * math.log2(math.e), out=out).exp2_()  # four times as fast as exp


class PairSums(Reduction):
    """sum w_i w_j f(|x_i - y_j|) over pairs of different groups, for several f, as a matrix over pairs of blocks.

    From the matrix every delete-a-block replicate of a U-statistic follows exactly. Gaussians whose gammas stand in
    the ratio 4 share one exponential: exp(-4 g) is its fourth power.

    Args:
        x: the rows of the sweep.
        y: its columns, or None for a symmetric sweep.
        functions: by name.

    Source: E3 (energy distance, MMD^2), E4 (uniformity).
    """

    def __init__(self, x: GroupedRows, y: GroupedRows | None, *, functions: Mapping[str, PairFunction]) -> None:
        self._x, self._y, self._symmetric = x, x if y is None else y, y is None
        self.functions = dict(functions)
        shape = (x.blocks, self._y.blocks)
        self.sums: dict[str, Float[Tensor, "b c"]] = {
            name: torch.zeros(shape, dtype=torch.float64, device=x.values.device) for name in functions
        }
        exponents = {name: f.exponent for name, f in functions.items() if f.exponent is not None}
        others = [[[name]] for name, f in functions.items() if f.exponent is None]
        self._chains = others + geometric_chains(exponents, ratio=4.0)

    def fork(self) -> "PairSums":  # noqa: D102
        return PairSums(self._x, None if self._symmetric else self._y, functions=self.functions)

    def merge(self, other: "PairSums") -> None:  # noqa: D102
        for name, sums in other.sums.items():
            self.sums[name] += sums

    def update(self, tile: Tile) -> None:  # noqa: D102
        for names, values in self._evaluate(tile):
            if tile.own is not None:
                values.masked_fill_(tile.own, 0.0)
            self._accumulate(tile, names, values)

    def _evaluate(self, tile: Tile) -> Iterator[tuple[list[str], Tensor]]:
        """Each function of |x - y|^2 = 2 - 2 x.y in turn, in one buffer."""
        half, values = tile.buffer("kernel"), tile.buffer("pair")
        torch.sub(half.new_ones(()), tile.similarity, out=half).clamp_min_(0.0)
        for first, *powers in self._chains:
            yield first, self.functions[first[0]].of_half(half, values)
            for names in powers:
                yield names, values.square_().square_()

    def _accumulate(self, tile: Tile, names: list[str], values: Tensor) -> None:
        totals = block_totals(values, (tile.rows, tile.cols), self._x, self._y)
        first_row, first_col = tile.rows.blocks[0][0], tile.cols.blocks[0][0]
        rows = slice(first_row, first_row + totals.shape[0])
        cols = slice(first_col, first_col + totals.shape[1])
        for name in names:
            self.sums[name][rows, cols] += totals
            if tile.mirrored:
                self.sums[name][cols, rows] += totals.T


def block_totals(
    values: Float[Tensor, "a b"], spans: tuple[Span, Span], x: GroupedRows, y: GroupedRows
) -> Float[Tensor, "r c"]:
    """Weighted sums of a tile's values over each pair of the blocks that its spans touch, float64."""
    rows, cols = spans
    weights = None if y.uniform else y.tile_weights[cols.slice]
    if few_launches(values.device):
        by_block = (values @ cols.indicator(weights, values)).double()
        return rows.indicator(x.weights[rows.slice], by_block).T @ by_block
    parts = [
        values[:, cut].sum(1) if weights is None else torch.mv(values[:, cut], weights[cut]) for _, cut in cols.blocks
    ]
    by_row = torch.stack(parts, 1).double().mul_(x.weights[rows.slice, None])
    first, last = rows.blocks[0][0], rows.blocks[-1][0]
    totals = by_row.new_zeros(last - first + 1, len(parts))
    return totals.index_add_(0, x.block_of[rows.slice] - first, by_row)


class ShiftedDistances(Reduction):
    """Sums of |x_i - y_j - shift| over pairs of different groups, with their derivative in the shift.

    What is left of a gap after one modality is moved onto the other's centroid. Only sums along rows and columns of
    the reciprocal distance are kept: the gradient -sum w_i w_j (x_i - y_j - shift) / |x_i - y_j - shift| follows.

    Args:
        x: the rows of the sweep.
        y: its columns.
        shift: (d,) vector subtracted from x.

    Source: E3, the gap left after aligning centroids.
    """

    def __init__(self, x: GroupedRows, y: GroupedRows, *, shift: Float[Tensor, " d"]) -> None:
        self._x, self._y = x, y
        device = x.values.device
        self.shift = shift.double()
        self.sums = torch.zeros(x.blocks, y.blocks, dtype=torch.float64, device=device)
        self._inverse_rows = torch.zeros(len(x), dtype=torch.float64, device=device)
        self._inverse_cols = torch.zeros(len(y), dtype=torch.float64, device=device)
        half = self.shift.square().sum() / 2
        dtype = x.values.dtype
        # |x - y - shift|^2 = 2 (1 - x.shift + |shift|^2/2 + y.shift - x.y) for unit rows
        self._row_term = (1 + half - _along(x.values, self.shift)).to(dtype)
        self._col_term = _along(y.values, self.shift).to(dtype)

    def fork(self) -> "ShiftedDistances":  # noqa: D102
        return ShiftedDistances(self._x, self._y, shift=self.shift)

    def merge(self, other: "ShiftedDistances") -> None:  # noqa: D102
        self.sums += other.sums
        self._inverse_rows += other._inverse_rows
        self._inverse_cols += other._inverse_cols

    def update(self, tile: Tile) -> None:  # noqa: D102
        rows, cols = tile.rows, tile.cols
        squared, inverse = tile.buffer("pair"), tile.buffer("kernel")
        torch.sub(self._row_term[rows.slice, None], tile.similarity, out=squared)
        squared.add_(self._col_term[None, cols.slice]).mul_(2.0).clamp_min_(1e-12)
        torch.rsqrt(squared, out=inverse)
        if tile.own is not None:
            inverse.masked_fill_(tile.own, 0.0)
        self._inverse_rows[rows.slice] += torch.mv(inverse, self._y.tile_weights[cols.slice]).double()
        self._inverse_cols[cols.slice] += torch.mv(inverse.T, self._x.tile_weights[rows.slice]).double()
        totals = block_totals(squared.mul_(inverse), (rows, cols), self._x, self._y)
        first_row, first_col = rows.blocks[0][0], cols.blocks[0][0]
        self.sums[first_row : first_row + len(totals), first_col : first_col + totals.shape[1]] += totals

    def gradient(self) -> Float[Tensor, " d"]:
        """Derivative of the sum in the shift, (d,)."""
        x, y = self._x, self._y
        from_x = _weighted_sum(x.weights * self._inverse_rows, x.values)
        from_y = _weighted_sum(y.weights * self._inverse_cols, y.values)
        return -(from_x - from_y - self.shift * (x.weights * self._inverse_rows).sum())


def _along(rows: Float[Tensor, "n d"], direction: Float[Tensor, " d"]) -> Float[Tensor, " n"]:
    return torch.cat([chunk.double() @ direction for chunk in rows.split(rows_at_once(rows.device))])


def _weighted_sum(weights: Float[Tensor, " n"], rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    total = weights.new_zeros(rows.shape[1])
    step = rows_at_once(rows.device)
    for weight, chunk in zip(weights.split(step), rows.split(step), strict=True):
        total += weight @ chunk.double()
    return total


__all__ = ["Distance", "Gaussian", "PairFunction", "PairSums", "ShiftedDistances"]
