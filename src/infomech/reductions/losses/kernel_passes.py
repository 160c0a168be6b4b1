"""The sweeps of `passes` on Triton kernels: a block of scores at a time, for batches whose blocks come one by one.

They take what the tiles take and leave what the tiles leave, with levels of each sum's own. Importing this module
imports Triton.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exclusion import Exclusion
from ..kernels import gradients as made
from ..kernels.configs import extent_programs
from ..kernels.gradients import gain, gradients, gradients_within
from ..kernels.log_sums import log_sums, log_sums_within
from ..kernels.merging import Sums
from ..kernels.rows import LOG2
from ..kernels.scores import Scores
from ..log_sums import LogSums
from .fused import matrix_of, softplus
from .passes import Side, TermsOfBoth
from .sigmoid import SoftplusGradients
from .terms import NegativeTerms


@dataclass(frozen=True)
class KernelPasses:
    """The four sweeps, for blocks of one matrix.

    Args:
        tame: whether no score of the whole matrix, with its terms, is too large for a level of 0: the same for all of
            its blocks, forward and backward, since levels are those of sums over all of them.
        precision: of float32 rows.
    """

    tame: bool
    precision: str | None = None

    def _matrix(self, x: Tensor, y: Tensor, scale: Tensor, terms: TermsOfBoth, exclusion: Exclusion) -> Scores:
        u, v = (None if t is None else t.terms for t in terms)
        shape, size = (2, 2, extent_programs(x.device)), 0.0 if self.tame else torch.inf
        bounds = torch.full(shape, size, dtype=torch.float32, device=x.device)
        return matrix_of(x, y, scale.double(), (u, v), exclusion, precision=self.precision, bounds=bounds)

    def gather(
        self,
        x: Tensor,
        y: Tensor,
        *,
        scale: Tensor,
        shift: float | None,
        exclusion: Exclusion,
        rows: LogSums,
        cols: LogSums | None,
        terms: TermsOfBoth = (None, None),
        own: Tensor | None = None,
    ) -> None:
        """As `passes.gather`; the shift is None."""
        if not (len(x) and len(y)):
            return
        matrix = self._matrix(x, y, scale, terms, exclusion)
        by_row, by_col, mine = log_sums(matrix, cols=cols is not None, keep_own=own is not None)
        _merge(rows, by_row)
        if cols is not None and by_col is not None:
            _merge(cols, by_col)
        if own is not None and mine is not None:
            own.copy_(mine)

    def gather_within(
        self,
        x: Tensor,
        *,
        scale: Tensor,
        shift: float | None,
        exclusion: Exclusion,
        rows: LogSums,
        terms: NegativeTerms | None = None,
    ) -> None:
        """As `passes.gather_within`."""
        if len(x):
            _merge(rows, log_sums_within(self._matrix(x, x, scale, (terms, terms), exclusion)))

    def scatter(
        self,
        x: Tensor,
        y: Tensor,
        *,
        scale: Tensor,
        shift: float | None,
        exclusion: Exclusion,
        row: Side,
        col: Side,
    ) -> None:
        """As `passes.scatter`."""
        if not (len(x) and len(y)):
            return
        matrix = self._matrix(x, y, scale, (row.terms, col.terms), exclusion)
        factor = gain(matrix)
        of_rows = _side(row, factor)
        assert of_rows is not None
        found = gradients(
            matrix,
            of_rows,
            _side(col, factor),
            x=row.gradient is not None,
            y=col.gradient is not None,
            x_terms=row.term_gradient is not None,
            y_terms=col.term_gradient is not None,
        )
        _add(row, found.x, found.x_terms, factor)
        _add(col, found.y, found.y_terms, factor)

    def scatter_within(self, x: Tensor, *, scale: Tensor, shift: float | None, exclusion: Exclusion, row: Side) -> None:
        """As `passes.scatter_within`."""
        side = _side(row, 1.0)
        if not len(x) or side is None:
            return
        matrix = self._matrix(x, x, scale, (row.terms, row.terms), exclusion)
        factor = gain(matrix)
        side = side._replace(factor=side.factor * factor)
        found = gradients_within(matrix, side, x=row.gradient is not None, x_terms=row.term_gradient is not None)
        _add(row, found.x, found.x_terms, factor)

    def accumulate(
        self,
        x: Tensor,
        y: Tensor,
        *,
        scale: Tensor,
        x_terms: Tensor | None,
        y_terms: Tensor | None,
        exclusion: Exclusion,
        gradients: SoftplusGradients | None,
    ) -> Tensor:
        """As `sigmoid.accumulate`."""
        if not (len(x) and len(y)):
            return scale.new_zeros((), dtype=torch.float64)
        terms = x_terms, y_terms
        keep = [gradients is not None, False, gradients is not None]
        value, *found = softplus(x, y, scale.double(), terms, exclusion, keep=keep, precision=self.precision)
        if gradients is not None:
            places = gradients.x, gradients.y, None, gradients.x_terms, gradients.y_terms
            for into, part in zip(places, found, strict=True):
                if into is not None:
                    into.add_(part)
        return value


def _merge(into: LogSums, found: Sums) -> None:
    part = LogSums(0, shift=None, device=found.total.device)
    part.peak, part.total = torch.where(found.total > 0, found.peak, -torch.inf), found.total
    into.merge(part)


def _side(side: Side, factor: float) -> made.Side | None:
    if side.level is None or side.cotangent is None:
        return None
    return made.Side((side.levels(slice(None)) / LOG2).float(), (side.cotangent * factor).float())


def _add(side: Side, gradient: Tensor | None, terms: Tensor | None, factor: float) -> None:
    if side.gradient is not None and gradient is not None:
        side.gradient.add_(gradient, alpha=1 / factor)
    if side.term_gradient is not None and terms is not None:
        side.term_gradient.add_(terms, alpha=1 / factor)


__all__ = ["KernelPasses"]
