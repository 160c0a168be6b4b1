"""Which pairs of a sigmoid loss are true, and what they contribute: row i with row i, listed pairs, or whole groups."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from .._checks import InputError
from .._typing import Scalar
from ..reductions.exclusion import Exclusion, Listed, OtherGroups, OwnRow, SameGroup
from ..reductions.losses.infonce import row_scores
from ..reductions.losses.sigmoid import softplus_sum
from ._inputs import check_tensor
from .positives import in_order
from .scores import added

CountedAs = Literal["each", "per_anchor"]
Terms = Float[Tensor, " k"] | None


def check_counted_as(counted_as: str) -> None:
    """Raise InputError unless it says what a true pair weighs."""
    if counted_as not in ("each", "per_anchor"):
        raise InputError(f"counted_as is {counted_as!r}; expected 'each' or 'per_anchor'")


class TruePairs(ABC):
    """The true pairs among n rows of x and m of y; a score is scale x.y + u + t, with a term for either row."""

    @abstractmethod
    def total(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Scalar:
        """The sum over true pairs of w_ij log(1 + exp(-score)), in float64."""

    @abstractmethod
    def exclusion(self) -> Exclusion:
        """What leaves them out of a sweep over the negatives."""


@dataclass(frozen=True)
class OwnPairs(TruePairs):
    """Row i of x with row i of y; there may be more rows of y."""

    backend: str = "auto"

    def total(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Scalar:  # noqa: D102
        n = x.shape[0]
        score = added(row_scores(x, y.narrow(0, 0, n), scale, self.backend), x_terms, y_terms.narrow(0, 0, n))
        assert score is not None
        return softplus(-score, threshold=40.0).sum()

    def exclusion(self) -> Exclusion:  # noqa: D102
        return OwnRow()


@dataclass(frozen=True)
class ListedPairs(TruePairs):
    """Pairs of rows, each with a weight."""

    pairs: Int[Tensor, "p 2"]
    weights: Float[Tensor, " p"]

    def total(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Scalar:  # noqa: D102
        i, j = self.pairs.select(1, 0), self.pairs.select(1, 1)
        of_x = None if x_terms is None else x_terms.index_select(0, i)
        score = added(
            row_scores(x.index_select(0, i), y.index_select(0, j), scale, "tiles"), of_x, y_terms.index_select(0, j)
        )
        assert score is not None
        return (self.weights * softplus(-score, threshold=40.0)).sum()

    def exclusion(self) -> Exclusion:  # noqa: D102
        return Listed(self.pairs)


@dataclass(frozen=True)
class PairsOfGroups(TruePairs):
    """All pairs whose rows are of one group, in a sweep of their own.

    Args:
        rows: (n,) groups of the rows of x.
        cols: (m,) those of y.
        every_row: groups of all rows of x, of other ranks too: what the groups' sizes are counted from.
        counted_as: see `listed_pairs`; ``"per_anchor"`` looks at the groups' sizes, and sweeps once for each of them.
    """

    rows: Int[Tensor, " n"]
    cols: Int[Tensor, " m"]
    every_row: Int[Tensor, " N"]
    counted_as: CountedAs

    def total(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Scalar:  # noqa: D102
        if self.counted_as == "each":
            return _of_groups(x, y, scale, x_terms, y_terms, self.rows, self.cols)
        of_rows, of_cols = self._weights()
        total = 0.0 * y_terms.sum()  # a part of the graph on every rank, with true pairs or without
        for weight in torch.unique(of_rows[of_rows > 0]).tolist():
            i, j = (torch.nonzero(weights == weight).flatten() for weights in (of_rows, of_cols))
            own = None if x_terms is None else x_terms.index_select(0, i)
            part = (x.index_select(0, i), y.index_select(0, j), scale, own, y_terms.index_select(0, j))
            total = total + weight * _of_groups(*part, self.rows[i], self.cols[j])
        return total

    def _weights(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
        """(1/k + 1/k') / 2 of every row's group, k its rows of y and k' its rows of x; 0 where either is missing."""
        names, codes = torch.unique(torch.cat([self.rows, self.cols, self.every_row]), return_inverse=True)
        n, m = len(self.rows), len(self.cols)
        k = torch.bincount(codes[n : n + m], minlength=len(names)).double()
        k_other = torch.bincount(codes[n + m :], minlength=len(names)).double()
        weights = torch.where((k > 0) & (k_other > 0), (1 / k + 1 / k_other) / 2, 0.0)
        return weights[codes[:n]], weights[codes[n : n + m]]

    def exclusion(self) -> Exclusion:  # noqa: D102
        return SameGroup(self.rows, self.cols)


def _of_groups(
    x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor, rows: Tensor, cols: Tensor
) -> Scalar:
    own = None if x_terms is None else -x_terms
    return softplus_sum(x, y, scale=-scale, x_terms=own, y_terms=-y_terms, exclusion=OtherGroups(rows, cols),
                        backend="tiles")  # fmt: skip


def listed_pairs(
    pairs: Int[Tensor, "p 2"], rows: int, cols: int, device: torch.device, counted_as: CountedAs, *, look: bool
) -> ListedPairs:
    """The pairs, each once; raises InputError if one points outside of the batch.

    ``"each"`` weighs every pair 1, ``"per_anchor"`` (1/k_i + 1/k_j) / 2, k how many pairs a row has.
    """
    check_tensor(pairs, "pairs")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError(f"pairs has shape {tuple(pairs.shape)}; expected (p, 2), (row of x, row of y)")
    pairs = pairs.to(device)
    if look and bool(((pairs < 0) | (pairs >= torch.tensor([rows, cols], device=device))).any()):
        raise InputError(f"pairs points outside the {rows} rows of x and {cols} rows of y")
    found = in_order(pairs, rows, cols)
    assert found.distinct is not None
    weights = found.distinct.double()
    if counted_as == "per_anchor":
        shares = []
        for side, count in enumerate((rows, cols)):
            of = found.pairs.select(1, side)
            counts = torch.zeros(count, dtype=torch.float64, device=device).index_add(0, of, weights)
            shares.append(1 / counts.index_select(0, of))
        weights = weights * (shares[0] + shares[1]) / 2
    return ListedPairs(found.pairs, weights)


__all__ = [
    "CountedAs",
    "ListedPairs",
    "OwnPairs",
    "PairsOfGroups",
    "TruePairs",
    "check_counted_as",
    "listed_pairs",
]
