"""A score matrix as the kernels take it, and a bound on its entries that the host never reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from .operands import Operand, Product, operand, product_for


class Scores(NamedTuple):
    """A score matrix s_ij = scale x_i.y_j, as its kernels take it.

    Args:
        x: the rows.
        y: the columns.
        scale: 0-d tensor on the device.
        bound: 0-d float32 tensor on the device, of every |s_ij| plus the largest finite term; infinity is always right.
        x_terms: (n,) float32, what is added to the scores of row i where it is a negative; -inf removes it.
        y_terms: (m,) the same of the columns.
        own: entries (i, i) are left out.
        x_groups: (n,) int32 groups; entries of one group are left out.
        y_groups: (m,) the same of the columns.
    """

    x: Operand
    y: Operand
    product: Product
    scale: Tensor
    bound: Tensor
    x_terms: Tensor | None = None
    y_terms: Tensor | None = None
    own: bool = False
    x_groups: Tensor | None = None
    y_groups: Tensor | None = None

    @property
    def limit(self) -> float:
        """Up to which bound all peaks may be 0: then no product of exponentials leaves float32."""
        return 60.0 if self.x_terms is None and self.y_terms is None else 40.0

    @property
    def careful(self) -> bool:
        """Whether an entry needs more room than its score."""
        return self.x_groups is not None

    def part(self, rows: slice, cols: slice = slice(None)) -> "Scores":
        """Some consecutive rows and columns."""
        cut = [None if t is None else t[at] for t, at in
               ((self.x_terms, rows), (self.y_terms, cols), (self.x_groups, rows), (self.y_groups, cols))]  # fmt: skip
        return self._replace(x=self.x.part(rows), y=self.y.part(cols), x_terms=cut[0], y_terms=cut[1],
                             x_groups=cut[2], y_groups=cut[3])  # fmt: skip

    @property
    def flags(self) -> dict[str, bool | int | str]:
        """What the kernels are compiled for."""
        return {
            "GROUPS": self.x_groups is not None,
            "X_TERMS": self.x_terms is not None,
            "Y_TERMS": self.y_terms is not None,
            "PARTS": self.product.parts,
            "DOT": self.product.dot if self.scale.is_cuda else "interpreted",
        }


def scores(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    *,
    x_terms: Tensor | None = None,
    y_terms: Tensor | None = None,
    own: bool = False,
    groups: tuple[Tensor, Tensor] | None = None,
    precision: str | None = None,
    bound: Tensor | None = None,
) -> Scores:
    """The score matrix of rows x (n, d) and y (m, d); x may be y.

    Args:
        x: (n, d) rows.
        y: (m, d) rows.
        scale: what inner products are multiplied by, a 0-d tensor on the device.
        x_terms: (n,) added to scores where the row of x is a negative, in nats; -inf removes it.
        y_terms: (m,) the same for y.
        own: leave out the entries (i, i).
        groups: of the rows and of the columns, whole numbers of at least 0; leave out entries of one group.
        precision: of float32 rows, as `product_for` takes it.
        bound: on every |s|; None: the product of the largest norms and the scale.
    """
    product = product_for(x, y, precision)
    left = operand(x, product)
    right = left if y is x else operand(y, product)
    terms = [None if t is None else t.detach().to(torch.float32).contiguous() for t in (x_terms, y_terms)]
    numbers = (None, None) if groups is None else tuple(g.to(torch.int32).contiguous() for g in groups)
    if bound is None:
        bound = score_bound(x, y, scale, *terms)
    return Scores(left, right, product, scale.detach(), bound, *terms, own, *numbers)


def score_bound(x: Tensor, y: Tensor, scale: Tensor, *terms: Tensor | None) -> Tensor:
    """A bound on every |s_ij| plus the largest finite term, as a 0-d float32 tensor on the device."""
    norms = [
        torch.linalg.vector_norm(z.detach(), dim=1, dtype=torch.float32).amax() for z in ((x,) if y is x else (x, y))
    ]
    bound = norms[0] * norms[-1] * scale.detach().abs().to(torch.float32)
    for term in terms:
        if term is not None:
            bound = bound + torch.where(term.isfinite(), term.abs(), 0.0).amax()
    return bound


__all__ = ["Scores", "score_bound", "scores"]
