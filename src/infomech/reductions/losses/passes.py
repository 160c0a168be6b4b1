"""Sweeps over a score matrix, tile by tile: log-sums forward, gradients backward, never holding n x m entries.

Scores are s_ij = scale x_i.y_j. A forward sweep gathers the log-sum-exp r_i of every row and c_j of every column from
one product a tile. A backward sweep recomputes the tile once and forms from it

    G_ij = g_i exp(s_ij - r_i) + h_j exp(s_ij - c_j),

whose two products G y and G^T x are the gradients, up to the factor `scale`: four products in all for both directions.
The Gram matrix of one set is symmetric: its sweeps visit the tiles on and above the diagonal only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..._typing import OtherRows, Rows
from .tiles import NEGLIGIBLE, Exclusion, KeptTiles, LogSums, Workspace, blocks, diagonal_of, tile_shape

Vector = Float[Tensor, " k"]


@dataclass(frozen=True)
class Side:
    """What the backward sweep needs of one side of the matrix: log-sums, their cotangents, and where gradients go."""

    log_sums: Vector | None  # None: this direction has no sums
    cotangent: Vector | None
    gradient: Float[Tensor, "k d"] | None  # None: not wanted

    def weights(self, shift: float, dtype: torch.dtype) -> Vector | None:
        """The factors g exp(shift - r), which turn exp(s - shift) into g exp(s - r)."""
        if self.log_sums is None or self.cotangent is None:
            return None
        return (self.cotangent * torch.exp(shift - self.log_sums)).to(dtype)


def gather(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    exclusion: Exclusion,
    rows: LogSums,
    cols: LogSums | None,
    own: Vector | None = None,
    kept: KeptTiles | None = None,
) -> None:
    """Add the exponentials of every score of x against y to the log-sums of the rows and, if given, of the columns.

    `own` receives the scores s_ii, with the very rounding that duplicates of a pair meet in its sums; `kept`, with a
    fixed shift, the first tiles of exponentials.
    """
    height, width = tile_shape(x.device)
    dtype = scale.dtype
    space = Workspace(min(height, len(x)), min(width, len(y)), dtype=dtype, device=x.device)
    for i in blocks(len(x), height):
        left = x[i].to(dtype) * scale
        for j in blocks(len(y), width):
            right = y[j].to(dtype)
            room = kept.place(i, j) if kept is not None else None
            tile = torch.mm(left, right.mT, out=room if room is not None else space.tile(len(left), len(right)))
            if own is not None:
                low, high, diagonal = diagonal_of(tile, i, j)
                own[low:high] = diagonal
            _absorb(tile, space, (i, j), exclusion, (rows, cols))


def gather_within(
    x: Rows, *, scale: Tensor, exclusion: Exclusion, rows: LogSums, kept: KeptTiles | None = None
) -> None:
    """Add the exponentials of every score of x against itself, each tile above the diagonal serving both its sides."""
    size = tile_shape(x.device)[0]
    dtype = scale.dtype
    space = Workspace(min(size, len(x)), min(size, len(x)), dtype=dtype, device=x.device)
    cuts = list(blocks(len(x), size))
    for a, i in enumerate(cuts):
        left = x[i].to(dtype) * scale
        for j in cuts[a:]:
            right = x[j].to(dtype)
            room = kept.place(i, j) if kept is not None else None
            tile = torch.mm(left, right.mT, out=room if room is not None else space.tile(len(left), len(right)))
            _absorb(tile, space, (i, j), exclusion, (rows, None if i == j else rows))


def _absorb(
    tile: Tensor,
    space: Workspace,
    where: tuple[slice, slice],
    exclusion: Exclusion,
    sums: tuple[LogSums, LogSums | None],
) -> None:
    """Turn one tile of scores into additions to the log-sums of its rows and columns."""
    shift = sums[0].shift
    if shift is None:
        exclusion.clear(tile, *where, -torch.inf)
        scratch = space.scratch(*tile.shape)
        for side, part in enumerate(sums):
            if part is not None:
                part.absorb_scores(tile, scratch, where[side], 1 - side)
        return
    _exponentials(tile, shift, where, exclusion)
    for side, part in enumerate(sums):
        if part is not None:
            part.absorb_exponentials(tile, where[side], 1 - side)


def scatter(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    shift: float | None,
    exclusion: Exclusion,
    row: Side,
    col: Side,
    kept: tuple[KeptTiles, Tensor] | None = None,
) -> None:
    """Add G y to the rows' gradients and G^T x to the columns', both still to be multiplied by `scale`.

    `kept` holds tiles that the forward sweep left, with the buffer that they are in.
    """
    height, width = tile_shape(x.device)
    dtype = scale.dtype
    space = Workspace(min(height, len(x)), min(width, len(y)), dtype=dtype, device=x.device)
    factors = None if shift is None else (row.weights(shift, dtype), col.weights(shift, dtype))
    for i in blocks(len(x), height):
        left = x[i].to(dtype)
        scaled = left * scale
        for j in blocks(len(y), width):
            right = y[j].to(dtype)
            tile = kept[0].find(i, j, kept[1]) if kept is not None and factors is not None else None
            if tile is None:
                tile = torch.mm(scaled, right.mT, out=space.tile(len(left), len(right)))
                if shift is not None:
                    _exponentials(tile, shift, (i, j), exclusion)
            weights = _softmax_weights(tile, space, (i, j), exclusion, (row, col), factors)
            if row.gradient is not None:
                row.gradient[i].addmm_(weights, right)
            if col.gradient is not None:
                col.gradient[j].addmm_(weights.mT, left)


def scatter_within(
    x: Rows,
    *,
    scale: Tensor,
    shift: float | None,
    exclusion: Exclusion,
    row: Side,
    kept: tuple[KeptTiles, Tensor] | None = None,
) -> None:
    """Add (G + G^T) x to the gradients, with G_ij = g_i exp(s_ij - r_i); still to be multiplied by `scale`."""
    size = tile_shape(x.device)[0]
    dtype = scale.dtype
    space = Workspace(min(size, len(x)), min(size, len(x)), dtype=dtype, device=x.device)
    factor = None if shift is None else row.weights(shift, dtype)
    cuts = list(blocks(len(x), size))
    assert row.gradient is not None
    for a, i in enumerate(cuts):
        left = x[i].to(dtype)
        scaled = left * scale
        for j in cuts[a:]:
            right = x[j].to(dtype)
            tile = kept[0].find(i, j, kept[1]) if kept is not None and shift is not None else None
            if tile is None:
                tile = torch.mm(scaled, right.mT, out=space.tile(len(left), len(right)))
                if shift is not None:
                    _exponentials(tile, shift, (i, j), exclusion)
            factors = None if shift is None else (factor, factor)
            weights = _softmax_weights(tile, space, (i, j), exclusion, (row, row), factors)
            row.gradient[i].addmm_(weights, right)
            if i != j:
                row.gradient[j].addmm_(weights.mT, left)


def _exponentials(tile: Tensor, shift: float, where: tuple[slice, slice], exclusion: Exclusion) -> None:
    """exp(score - shift) in place of the scores, and 0 for what is excluded."""
    if shift != 0.0:
        tile.sub_(shift)
    tile.exp_()
    exclusion.clear(tile, *where, 0.0)  # before any factor, which could overflow at an excluded entry


def _softmax_weights(
    tile: Tensor,
    space: Workspace,
    where: tuple[slice, slice],
    exclusion: Exclusion,
    sides: tuple[Side, Side],
    factors: tuple[Vector | None, Vector | None] | None,
) -> Tensor:
    """The tile of G: from the tile of exponentials where factors are given for a fixed shift, else from the scores."""
    scratch = space.scratch(*tile.shape)
    if factors is None:
        return _softmax_weights_any_scores(tile, scratch, where, exclusion, sides)
    u, v = (None if f is None else f[part] for f, part in zip(factors, where, strict=True))
    if u is None or v is None:
        only = u[:, None] if u is not None else v
        assert only is not None
        return torch.mul(tile, only, out=scratch)
    return torch.add(u[:, None], v[None, :], out=scratch).mul_(tile)


def _softmax_weights_any_scores(
    tile: Tensor, scratch: Tensor, where: tuple[slice, slice], exclusion: Exclusion, sides: tuple[Side, Side]
) -> Tensor:
    """The tile of G with one exponential for each direction: right for scores of any size."""
    parts = []
    for side, buffer in ((1, scratch), (0, tile)):  # the rows come last, in place of the scores
        sums, cotangent = sides[side].log_sums, sides[side].cotangent
        if sums is not None and cotangent is not None:
            level, factor = (v[where[side]].to(tile.dtype).unsqueeze(1 - side) for v in (sums, cotangent))
            torch.sub(tile, level, out=buffer).clamp_(min=NEGLIGIBLE).exp_().mul_(factor)
            parts.append(buffer)
    weights = parts[0] if len(parts) == 1 else tile.add_(scratch)
    exclusion.clear(weights, *where, 0.0)  # last: an excluded entry may exceed every log-sum
    return weights


def paired_scores(x: Rows, y: OtherRows, scale: Tensor) -> Float[Tensor, " n"]:
    """s_ii = scale x_i.y_i in double precision, a block of rows at a time."""
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for i in blocks(len(x), tile_shape(x.device)[0]):
        out[i] = (x[i].to(torch.float64) * y[i].to(torch.float64)).sum(1)
    return out * scale.to(torch.float64)


def add_scaled_rows(target: Tensor, rows: Tensor, factor: Tensor) -> None:
    """target_i += factor_i rows_i, a block of rows at a time."""
    for i in blocks(len(target), tile_shape(target.device)[0]):
        target[i].addcmul_(rows[i].to(target.dtype), factor[i].to(target.dtype).unsqueeze(1))


def inner_product(rows: Tensor, gradient: Tensor) -> Tensor:
    """sum_i rows_i.gradient_i in double precision, a block of rows at a time."""
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for i in blocks(len(rows), tile_shape(rows.device)[0]):
        total += (rows[i].to(torch.float64) * gradient[i].to(torch.float64)).sum()
    return total


__all__ = [
    "Side",
    "add_scaled_rows",
    "gather",
    "gather_within",
    "inner_product",
    "paired_scores",
    "scatter",
    "scatter_within",
]
