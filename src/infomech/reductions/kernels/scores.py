"""A score matrix as the kernels take it, and a bound on its entries that the host never reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from .listing import Listing
from .operands import Operand, Product, operand, product_for, without_gradient
from .rows import extents


def level_limit(has_terms: bool) -> float:
    """Up to which bound on scores, with their terms, all peaks may be 0: no product of exponentials leaves float32."""
    return 40.0 if has_terms else 60.0


class Scores(NamedTuple):
    """A score matrix s_ij = scale x_i.y_j, as its kernels take it.

    Args:
        x: the rows.
        y: the columns.
        product: how both are multiplied.
        scale: 0-d float64 tensor on the device.
        extents: of the rows and of the columns, (2, k) float32 each: squared norms and sizes of terms, of which the
            largest bound every score; they may be those of a larger matrix.
        x_terms: (n,) float32, what is added to the scores of row i where it is a negative; -inf removes it.
        y_terms: (m,) the same of the columns.
        own: entries (i, i) are left out.
        x_groups: (n,) groups, whole numbers; entries of one group are left out.
        y_groups: (m,) the same of the columns.
        other_groups: entries of two groups are left out instead.
        listed: entries that are left out.
    """

    x: Operand
    y: Operand
    product: Product
    scale: Tensor
    extents: tuple[Tensor, Tensor]
    x_terms: Tensor | None = None
    y_terms: Tensor | None = None
    own: bool = False
    x_groups: Tensor | None = None
    y_groups: Tensor | None = None
    other_groups: bool = False
    listed: Listing | None = None

    @property
    def limit(self) -> float:
        """Up to which bound all peaks may be 0; see `level_limit`."""
        return level_limit(self.x_terms is not None or self.y_terms is not None)

    @property
    def careful(self) -> bool:
        """Whether an entry needs more room than its score."""
        return self.x_groups is not None

    def part(self, rows: slice, cols: slice = slice(None)) -> "Scores":
        """Some consecutive rows and columns."""
        if rows.start == 0 and rows.stop >= len(self.x) and cols in (slice(None), slice(0, len(self.y))):
            return self
        cut = [None if t is None else t[at] for t, at in
               ((self.x_terms, rows), (self.y_terms, cols), (self.x_groups, rows), (self.y_groups, cols))]  # fmt: skip
        return self._replace(x=self.x.part(rows), y=self.y.part(cols), x_terms=cut[0], y_terms=cut[1],
                             x_groups=cut[2], y_groups=cut[3],
                             listed=None if self.listed is None else self.listed.part(rows, cols))  # fmt: skip

    def by_tile(self, rows: int, cols: int) -> "Scores":
        """With the listed entries in the order of tiles of this many rows and columns."""
        return self if self.listed is None else self._replace(listed=self.listed.by_tile(rows, cols))

    def within(self, side: int) -> "Scores":
        """The matrix of the rows, or of the columns, against themselves."""
        rows = (self.x, self.y)[side]
        terms, groups = (self.x_terms, self.y_terms)[side], (self.x_groups, self.y_groups)[side]
        return self._replace(x=rows, y=rows, extents=(self.extents[side],) * 2, x_terms=terms, y_terms=terms,
                             x_groups=groups, y_groups=groups)  # fmt: skip

    @property
    def arguments(self) -> dict[str, object]:
        """What every kernel is told of the matrix."""
        return {
            "X": self.x.values, "Y": self.y.values, "U": self.x_terms, "V": self.y_terms,
            "GX": self.x_groups, "GY": self.y_groups, "scale": self.scale, "EX": self.extents[0], "EY": self.extents[1],
            "M": len(self.x), "N": len(self.y), "D": self.x.depth, "limit": self.limit,
            "GROUPS": "" if self.x_groups is None else "other" if self.other_groups else "same",
            "X_TERMS": self.x_terms is not None, "Y_TERMS": self.y_terms is not None,
            "PARTS": self.product.parts, "EXTENT": self.extents[0].shape[1],
            "DOT": self.product.dot if self.scale.is_cuda else "interpreted",
        }  # fmt: skip


def singles(*terms: Tensor | None) -> list[Tensor | None]:
    """Terms as kernels take them: float32, without a gradient."""
    return [None if t is None else without_gradient(t).to(torch.float32).contiguous() for t in terms]


def scores(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    *,
    x_terms: Tensor | None = None,
    y_terms: Tensor | None = None,
    own: bool = False,
    groups: tuple[Tensor, Tensor] | None = None,
    other_groups: bool = False,
    listed: Tensor | None = None,
    precision: str | None = None,
    paired: bool = False,
    bounds: Tensor | None = None,
) -> tuple[Scores, Tensor | None]:
    """The score matrix of rows x (n, d) and y (m, d), and the products x_i.y_i if they are paired.

    Args:
        x: (n, d) rows.
        y: (m, d) rows; it may be x.
        scale: what inner products are multiplied by, a 0-d float64 tensor on the device.
        x_terms: (n,) added to scores where the row of x is a negative, in nats; -inf removes it.
        y_terms: (m,) the same for y.
        own: leave out the entries (i, i).
        groups: of the rows and of the columns, whole numbers; leave out entries of one group.
        other_groups: leave out those of two groups instead.
        listed: (p, 2) distinct entries to be left out; of a matrix that is to be cut in half, (i, j) and (j, i).
        precision: of float32 rows, as `product_for` takes it.
        paired: also find the products, (n,) float64.
        bounds: the extents of both sides, (2, 2, k), where they are known and the products are not wanted.
    """
    product = product_for(x, y, precision)
    terms = singles(x_terms, y_terms)
    numbers = (None, None) if groups is None else tuple(g.to(torch.int64).contiguous() for g in groups)
    pairs = None
    if bounds is None:
        bounds, pairs = extents(x, y, *terms, paired=paired)
    left = operand(x, product)
    right = left if y is x else operand(y, product)
    return Scores(
        left, right, product, without_gradient(scale), (bounds[0], bounds[1]), terms[0], terms[1], own,
        numbers[0], numbers[1], other_groups, None if listed is None or not len(listed) else Listing.of(listed),
    ), pairs  # fmt: skip


__all__ = ["Scores", "level_limit", "scores", "singles"]
