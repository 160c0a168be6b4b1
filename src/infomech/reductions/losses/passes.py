"""Sweeps over a score matrix, tile by tile: log-sums forward, gradients backward, never holding n x m entries.

Scores are s_ij = scale x_i.y_j; wherever y_j is a negative its score is s_ij + t_j, and s_ij + u_i where x_i is one. A
forward sweep gathers the log-sum-exp r_i = log sum_j exp(s_ij + t_j) of every row and c_j = log sum_i exp(s_ij + u_i)
of every column from one product a tile. A backward sweep recomputes the tile once and forms from it

    G_ij = g_i exp(s_ij + t_j - r_i) + h_j exp(s_ij + u_i - c_j),

whose two products G y and G^T x are the gradients, up to the factor `scale`: four products in all for both directions.
The gradient in t_j is the sum over i of the first part, that in u_i the sum over j of the second. The Gram matrix of
one set is symmetric: its sweeps visit the tiles on and above the diagonal only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..._typing import OtherRows, Rows
from ..exclusion import Exclusion, Masks
from ..log_sums import NEGLIGIBLE, LogSums
from ..tiling import blocks, diagonal_of, tile_shape
from ..workspace import Workspace
from .kept import KeptTiles
from .terms import NegativeTerms, top_of

Vector = Float[Tensor, " k"]
ByRowAndColumn = tuple[Float[Tensor, " a"] | None, Float[Tensor, " b"] | None]
TermsOfBoth = tuple[NegativeTerms | None, NegativeTerms | None]


@dataclass(frozen=True)
class Side:
    """What the backward sweep needs of one side of the matrix: its sums, their cotangents, and where gradients go.

    A sum is total * exp(level); the weight of an entry is cotangent * exp(score - level), the cotangent being that of
    the log-sum over the total.
    """

    level: Vector | None  # None: this direction has no sums; -inf: an empty one
    cotangent: Vector | None
    gradient: Float[Tensor, "k d"] | None  # None: not wanted
    terms: NegativeTerms | None = None  # of this side's rows as negatives
    term_gradient: Vector | None = None  # float64; None: not wanted

    def factors(
        self, shift: float, other: NegativeTerms | None, dtype: torch.dtype, where: slice = slice(None)
    ) -> Vector | None:
        """G exp(shift + top - level), which turns weights exp(s - shift) into g exp(s + t - level); 0 if empty."""
        if self.level is None or self.cotangent is None:
            return None
        return (self.cotangent[where] * torch.exp(shift + top_of(other) - self.levels(where))).to(dtype)

    def levels(self, where: slice) -> Vector:
        """The levels; +inf in place of an empty sum's -inf, so that its exponentials vanish."""
        assert self.level is not None
        part = self.level[where]
        return torch.where(part == -torch.inf, torch.inf, part)


def gather(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    shift: float | None,
    exclusion: Exclusion,
    rows: LogSums,
    cols: LogSums | None,
    terms: TermsOfBoth = (None, None),
    own: Vector | None = None,
    kept: KeptTiles | None = None,
) -> None:
    """Add the exponentials of every score of x against y to the log-sums of the rows and, if given, of the columns.

    `terms` are those of the rows of x and of y as negatives; with a fixed `shift` of the scores, the log-sums have that
    shift plus the largest term. `own` receives the scores s_ii, with the very rounding
    that duplicates of a pair meet in its sums; `kept`, with a fixed shift, the first tiles of exponentials.
    """
    height, width = tile_shape(x.device)
    dtype = scale.dtype
    space = Workspace(scale)
    for i in blocks(len(x), height):
        left = x[i].to(dtype) * scale
        for j in blocks(len(y), width):
            right = y[j].to(dtype)
            tile = _product(left, right, space, kept.find(i, j) if kept is not None else None)
            if own is not None:
                low, high, diagonal = diagonal_of(tile, i, j)
                own[low:high] = diagonal
            absorb(tile, space, (i, j), shift, exclusion, (rows, cols), terms)


def gather_within(
    x: Rows,
    *,
    scale: Tensor,
    shift: float | None,
    exclusion: Exclusion,
    rows: LogSums,
    terms: NegativeTerms | None = None,
    kept: KeptTiles | None = None,
) -> None:
    """Add the exponentials of every score of x against itself, each tile above the diagonal serving both its sides."""
    dtype = scale.dtype
    space = Workspace(scale)
    cuts = list(blocks(len(x), tile_shape(x.device)[0]))
    for a, i in enumerate(cuts):
        left = x[i].to(dtype) * scale
        for j in cuts[a:]:
            tile = _product(left, x[j].to(dtype), space, kept.find(i, j) if kept is not None else None)
            both = rows, None if i == j else rows
            absorb(tile, space, (i, j), shift, exclusion, both, (terms, terms))


def _product(left: Tensor, right: Tensor, space: Workspace, room: Tensor | None = None) -> Tensor:
    """Left right^T, in the room for a kept tile or in the workspace."""
    return torch.mm(left, right.mT, out=room if room is not None else space.buffer("tile", len(left), len(right)))


def absorb(
    tile: Tensor,
    space: Workspace,
    where: tuple[slice, slice],
    shift: float | None,
    exclusion: Exclusion,
    sums: tuple[LogSums, LogSums | None],
    terms: TermsOfBoth,
) -> None:
    """Turn one tile of scores into additions to the log-sums of its rows and columns."""
    if shift is None:
        exclusion.weigh(tile, *where)
        exclusion.clear(tile, *where, -torch.inf)
        scratch = space.buffer("scratch", *tile.shape)
    else:
        exponentials(tile, shift, where, exclusion)
    masks = exclusion.of_one_side(tile, *where, shift, space)
    for side, part in enumerate(sums):
        other, there = terms[1 - side], where[1 - side]
        if part is None:
            continue
        left = _within(tile, masks[side], exponentials=shift is not None)
        if shift is None:
            part.absorb_scores(left, scratch, where[side], 1 - side, None if other is None else other.terms[there])
        else:
            part.absorb_exponentials(left, where[side], 1 - side, None if other is None else other.weights[there])


def _within(tile: Tensor, mask: Tensor | None, *, exponentials: bool) -> Tensor:
    """What a mask of 0 and 1 leaves of a tile, in place of the mask; the tile itself without one."""
    if mask is None:
        return tile
    return mask.mul_(tile) if exponentials else torch.where(mask == 0, -torch.inf, tile)


def scatter(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    shift: float | None,
    exclusion: Exclusion,
    row: Side,
    col: Side,
    kept: KeptTiles | None = None,
) -> None:
    """Add G y to the rows' gradients and G^T x to the columns', both still to be multiplied by `scale`.

    `kept` holds tiles that the forward sweep left.
    """
    height, width = tile_shape(x.device)
    dtype = scale.dtype
    space = Workspace(scale)
    factors = _factors(row, col, shift, dtype)
    for i in blocks(len(x), height):
        left = x[i].to(dtype)
        scaled = left * scale
        for j in blocks(len(y), width):
            right = y[j].to(dtype)
            tile = kept.find(i, j) if kept is not None and factors is not None else None
            if tile is None:
                tile = _recomputed(scaled, right, space, shift, (i, j), exclusion)
            weights = softmax_weights(tile, space, (i, j), exclusion, (row, col), factors, shift)
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
    kept: KeptTiles | None = None,
) -> None:
    """Add (G + G^T) x to the gradients, G_ij = g_i exp(s_ij + t_j - r_i); still to be multiplied by `scale`."""
    dtype = scale.dtype
    space = Workspace(scale)
    factors = _factors(row, row, shift, dtype)
    on_diagonal = Side(row.level, row.cotangent, row.gradient, row.terms)  # its terms' gradient counts once
    by_rows = Side(None, None, row.gradient, row.terms, row.term_gradient)
    cuts = list(blocks(len(x), tile_shape(x.device)[0]))
    assert row.gradient is not None
    for a, i in enumerate(cuts):
        left = x[i].to(dtype)
        scaled = left * scale
        for j in cuts[a:]:
            right = x[j].to(dtype)
            tile = kept.find(i, j) if kept is not None and shift is not None else None
            if tile is None:
                tile = _recomputed(scaled, right, space, shift, (i, j), exclusion)
            if i == j and factors is None:
                # Entries (a, b) and (b, a) round apart: of large scores each is right for its own row only.
                weights = softmax_weights(tile, space, (i, j), exclusion, (row, by_rows), None)
                weights = weights + weights.mT
            else:
                sides = (row, on_diagonal if i == j else row)
                weights = softmax_weights(tile, space, (i, j), exclusion, sides, factors, shift)
            row.gradient[i].addmm_(weights, right)
            if i != j:
                row.gradient[j].addmm_(weights.mT, left)


def _factors(row: Side, col: Side, shift: float | None, dtype: torch.dtype) -> ByRowAndColumn | None:
    if shift is None:
        return None
    return row.factors(shift, col.terms, dtype), col.factors(shift, row.terms, dtype)


def _recomputed(
    left: Tensor, right: Tensor, space: Workspace, shift: float | None, where: tuple[slice, slice], exclusion: Exclusion
) -> Tensor:
    """The tile of exponentials with a fixed shift, or of scores, which are cleared at the very end."""
    tile = _product(left, right, space)
    if shift is not None:
        exponentials(tile, shift, where, exclusion)
    else:
        exclusion.weigh(tile, *where)
    return tile


def exponentials(tile: Tensor, shift: float, where: tuple[slice, slice], exclusion: Exclusion) -> None:
    """exp(score - shift) in place of the scores, and 0 for what is excluded."""
    exclusion.weigh(tile, *where)
    if shift != 0.0:
        tile.sub_(shift)
    tile.exp_()
    exclusion.clear(tile, *where, 0.0)  # before any factor, which could overflow at an excluded entry


def softmax_weights(
    tile: Tensor,
    space: Workspace,
    where: tuple[slice, slice],
    exclusion: Exclusion,
    sides: tuple[Side, Side],
    factors: ByRowAndColumn | None,
    shift: float | None = None,
) -> Tensor:
    """The tile of G: from the tile of exponentials where factors are given for a fixed shift, else from the scores."""
    scratch = space.buffer("scratch", *tile.shape)
    masks = exclusion.of_one_side(tile, *where, shift, space)
    if factors is None:
        return _softmax_weights_any_scores(tile, scratch, where, exclusion, sides, masks)
    u, v = (None if f is None else f[part] for f, part in zip(factors, where, strict=True))
    a, b = (None if s.terms is None else s.terms.weights[part] for s, part in zip(sides, where, strict=True))
    if masks != (None, None):
        return _softmax_weights_of_each(tile, space, where, sides, (u, v), (a, b), masks)
    _add_term_gradients(tile, where, sides, (u, v), (a, b))
    if u is None or v is None:
        only, other = (u[:, None], b) if u is not None else (v, None if a is None else a[:, None])
        assert only is not None
        weights = torch.mul(tile, only, out=scratch)
        return weights if other is None else weights.mul_(other)
    if a is None and b is None:
        return torch.add(u[:, None], v[None, :], out=scratch).mul_(tile)
    left = scratch.copy_(u[:, None]) if b is None else torch.mul(u[:, None], b[None, :], out=scratch)
    right = left.add_(v[None, :]) if a is None else left.addcmul_(a[:, None], v[None, :])
    return right.mul_(tile)


def _add_term_gradients(
    tile: Tensor,
    where: tuple[slice, slice],
    sides: tuple[Side, Side],
    factors: ByRowAndColumn,
    weights: ByRowAndColumn,
) -> None:
    """sum_i u_i E_ij w_j to the terms of the columns, and its mirror image to those of the rows."""
    for side, matrix in enumerate((tile, tile.mT)):
        gradient, factor, weight = sides[side].term_gradient, factors[1 - side], weights[side]
        if gradient is not None and factor is not None and weight is not None:
            gradient[where[side]] += torch.mv(matrix, factor).mul_(weight)


def _softmax_weights_of_each(
    tile: Tensor,
    space: Workspace,
    where: tuple[slice, slice],
    sides: tuple[Side, Side],
    factors: ByRowAndColumn,
    weights: ByRowAndColumn,
    masks: Masks,
) -> Tensor:
    """The tile of G from the tile of exponentials where rows and columns leave out entries of their own."""
    parts = []
    for side, factor in enumerate(factors):
        if factor is None:
            continue
        left = _within(tile, masks[side], exponentials=True)
        weight, gradient = weights[1 - side], sides[1 - side].term_gradient
        if gradient is not None and weight is not None:
            gradient[where[1 - side]] += torch.mv(left.mT if side == 0 else left, factor).mul_(weight)
        if weight is not None:
            left = left * weight.unsqueeze(side)
        parts.append((left, factor.unsqueeze(1 - side)))
    total = torch.mul(*parts[0], out=space.buffer("scratch", *tile.shape))
    return total if len(parts) == 1 else total.addcmul_(*parts[1])


def _softmax_weights_any_scores(
    tile: Tensor,
    scratch: Tensor,
    where: tuple[slice, slice],
    exclusion: Exclusion,
    sides: tuple[Side, Side],
    masks: Masks,
) -> Tensor:
    """The tile of G with one exponential for each direction: right for scores of any size."""
    parts = []
    for side, buffer in ((1, scratch), (0, tile)):  # the rows come last, in place of the scores
        this, other = sides[side], sides[1 - side]
        if this.level is None or this.cotangent is None:
            continue
        vectors = this.levels(where[side]), this.cotangent[where[side]]
        level, factor = (v.to(tile.dtype).unsqueeze(1 - side) for v in vectors)
        if other.terms is None:
            torch.sub(tile, level, out=buffer)
        else:
            torch.add(tile, other.terms.terms[where[1 - side]].unsqueeze(side), out=buffer).sub_(level)
        buffer.clamp_(min=NEGLIGIBLE, max=0.0).exp_().mul_(factor)
        mask = masks[side]
        if mask is not None:
            buffer.mul_(mask)
        if other.term_gradient is not None:
            exclusion.clear(buffer, *where, 0.0)
            other.term_gradient[where[1 - side]] += buffer.sum(side)
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
    "TermsOfBoth",
    "absorb",
    "add_scaled_rows",
    "exponentials",
    "gather",
    "gather_within",
    "inner_product",
    "paired_scores",
    "scatter",
    "scatter_within",
    "softmax_weights",
]
