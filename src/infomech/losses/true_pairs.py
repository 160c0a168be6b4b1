"""Which pairs of a sigmoid loss are true, and what they contribute: row i with row i, listed pairs, or whole groups."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import softplus

from .._checks import InputError
from .._typing import Scalar
from ..reductions.exclusion import Exclusion, Listed, OtherGroups, OwnRow, SameGroup
from ..reductions.losses.infonce import row_scores
from ..reductions.losses.linear import group_codes
from ..reductions.losses.sigmoid import softplus_row_sums, softplus_sum
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
    def of_rows(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Float[Tensor, " n"]:
        """The same sum for every row of x."""

    @abstractmethod
    def exclusion(self) -> Exclusion:
        """What leaves them out of a sweep over the negatives."""


@dataclass(frozen=True)
class OwnPairs(TruePairs):
    """Row i of x with row i of y; there may be more rows of y."""

    backend: str = "auto"

    def total(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Scalar:  # noqa: D102
        return self.of_rows(x, y, scale, x_terms, y_terms).sum()

    def of_rows(  # noqa: D102
        self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor
    ) -> Float[Tensor, " n"]:
        n = x.shape[0]
        if y.shape[0] != n:
            y, y_terms = y.narrow(0, 0, n), y_terms.narrow(0, 0, n)
        score = added(row_scores(x, y, scale, self.backend), x_terms, y_terms)
        assert score is not None
        return softplus(-score, threshold=40.0)

    def exclusion(self) -> Exclusion:  # noqa: D102
        return OwnRow()


@dataclass(frozen=True)
class ListedPairs(TruePairs):
    """Pairs of rows, each with a weight."""

    pairs: Int[Tensor, "p 2"]
    weights: Float[Tensor, " p"]

    def total(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Scalar:  # noqa: D102
        return self._of_pairs(x, y, scale, x_terms, y_terms).sum()

    def of_rows(  # noqa: D102
        self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor
    ) -> Float[Tensor, " n"]:
        of_pairs = self._of_pairs(x, y, scale, x_terms, y_terms)
        return of_pairs.new_zeros(x.shape[0]).index_add(0, self.pairs.select(1, 0), of_pairs)

    def _of_pairs(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Float[Tensor, " p"]:
        i, j = self.pairs.select(1, 0), self.pairs.select(1, 1)
        of_x = None if x_terms is None else x_terms.index_select(0, i)
        score = added(
            row_scores(x.index_select(0, i), y.index_select(0, j), scale, "tiles"), of_x, y_terms.index_select(0, j)
        )
        assert score is not None
        return self.weights * softplus(-score, threshold=40.0)

    def exclusion(self) -> Exclusion:  # noqa: D102
        return Listed(self.pairs)


@dataclass(frozen=True)
class PairsOfGroups(TruePairs):
    """All pairs whose rows are of one group, in a sweep of their own.

    Args:
        rows: (n,) groups of the rows of x.
        cols: (m,) those of y.
        every_row: groups of all rows of x, of other ranks too: what the groups' sizes are counted from.
        counted_as: see `listed_pairs`.
        backend: see `symmetric_infonce`.
    """

    rows: Shaped[Tensor, " n"]
    cols: Shaped[Tensor, " m"]
    every_row: Shaped[Tensor, " N"]
    counted_as: CountedAs
    backend: str = "auto"

    def total(self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor) -> Scalar:  # noqa: D102
        return softplus_sum(
            x,
            y,
            scale=-scale,
            x_terms=None if x_terms is None else -x_terms,
            y_terms=-y_terms,
            exclusion=OtherGroups(self.rows, self.cols),
            row_weights=None if self.counted_as == "each" else self._weights(),
            backend=self.backend,
        )

    def of_rows(  # noqa: D102
        self, x: Tensor, y: Tensor, scale: Tensor, x_terms: Terms, y_terms: Tensor
    ) -> Float[Tensor, " n"]:
        sums = softplus_row_sums(
            x,
            y,
            scale=-scale,
            x_terms=None if x_terms is None else -x_terms,
            y_terms=-y_terms,
            exclusion=OtherGroups(self.rows, self.cols),
            backend=self.backend,
        )
        return sums if self.counted_as == "each" else self._weights() * sums

    def _weights(self) -> Float[Tensor, " n"]:
        """(1/k + 1/k') / 2 of every row's group, k its rows of y and k' its rows of x; 0 where it has none of y."""
        of_rows, others = group_codes(self.rows, torch.cat([self.cols, self.every_row]))
        m, ones = self.cols.shape[0], torch.ones(others.shape[0], dtype=torch.float64, device=others.device)
        shares = []
        for start, count in ((0, m), (m, self.every_row.shape[0])):
            there = others.narrow(0, start, count)
            sizes = ones.new_zeros(of_rows.shape[0] + others.shape[0]).index_add(0, there, ones.narrow(0, start, count))
            sizes = sizes.index_select(0, of_rows)
            shares.append(torch.where(sizes > 0, 1 / sizes.clamp(min=1.0), 0.0))
        return (shares[0] + shares[1]) / 2

    def exclusion(self) -> Exclusion:  # noqa: D102
        return SameGroup(self.rows, self.cols)


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
