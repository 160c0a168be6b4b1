"""Rates of true and random pairs above a threshold, with the variance of pairs that share rows (two-way)."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .._shown import Fields
from ..diagnosis.estimate import Estimate
from ..diagnosis.uncertainty import t_quantile, wilson_estimate


@dataclass(frozen=True, repr=False)
class Counts(Fields):
    """Who lies above a threshold, by group: of g true pairs, and of g (g - 1) random ones."""

    true: Float[Tensor, " g"]  # 1 or 0
    wrong: Float[Tensor, " g"]  # pairs that hold the group's x, plus those that hold its y
    total: float  # random pairs above
    mutual: float  # of those, pairs (i, j) whose mirror (j, i) lies above, too

    def __len__(self) -> int:
        return len(self.true)

    @property
    def random_pairs(self) -> float:
        """How many there are."""
        return float(len(self) * (len(self) - 1))

    @property
    def true_rate(self) -> float:
        """Share of true pairs above."""
        return float(self.true.mean())

    @property
    def false_rate(self) -> float:
        """Share of random pairs above."""
        return self.total / self.random_pairs

    def variance(self, true: float, false: float) -> float:
        """Variance of true * (true rate) + false * (false rate).

        Random pairs that share a row go together, and so do those of a row and of its partner: rows + columns - pairs,
        a group's row and column taken as one. It is at least that of independent pairs.
        """
        count, rate = len(self), self.false_rate
        wrong = self.wrong - 2 * (count - 1) * rate
        influence = true * (self.true - self.true_rate) / count + false * wrong / self.random_pairs
        squares = self.total * (1 - 2 * rate) + self.random_pairs * rate**2
        mirrored = self.mutual - 2 * rate * self.total + self.random_pairs * rate**2
        counted_twice = false**2 * (squares + mirrored) / self.random_pairs**2
        floor = true**2 * float((self.true - self.true_rate).square().sum()) / count**2 + counted_twice
        found = float(influence.square().sum()) - counted_twice
        return max(found, floor, false**2 * squares / self.random_pairs**2, 0.0)

    @cached_property
    def degrees(self) -> float:
        """Degrees of freedom of the false rate's variance, few where few groups make most of it (Satterthwaite)."""
        squares = (self.wrong - 2 * (len(self) - 1) * self.false_rate).square()
        fourth = float(squares.square().sum())
        found = 2 * float(squares.sum()) ** 2 / fourth if fourth > 0 else math.inf
        return max(1.0, min(found, float(len(self) - 1)))

    @property
    def effective(self) -> float:
        """Effective number of random pairs above: 1 / cv^2 of their count."""
        variance = self.variance(0.0, 1.0)
        return self.false_rate**2 / variance if variance > 0 else 0.0

    def estimates(self, prior: float | None) -> "Rates":
        """Both rates, and the precision at a prior, with their intervals."""
        true = wilson_estimate(
            self.true_rate, math.sqrt(self.variance(1.0, 0.0)), rows=len(self), groups=float(len(self))
        )
        false = _positive(self.false_rate, self.variance(0.0, 1.0), self.degrees)
        if prior is None:
            return Rates(true, false, None)
        return Rates(true, false, self._precision(prior))

    def _precision(self, prior: float) -> Estimate:
        hit, miss = prior * self.true_rate, (1 - prior) * self.false_rate
        if hit + miss == 0:
            return Estimate(math.nan, math.nan, math.nan, math.nan, "nothing lies above the threshold")
        value, total = hit / (hit + miss), (hit + miss) ** 2
        stderr = math.sqrt(self.variance(prior * miss / total, -(1 - prior) * hit / total))
        return wilson_estimate(value, stderr, rows=len(self) ** 2, groups=float(len(self)))


def _positive(value: float, variance: float, degrees: float) -> Estimate:
    """A rate near 0: its interval is that of its logarithm."""
    stderr = math.sqrt(variance)
    if value <= 0:
        return Estimate(value, stderr, 0.0, math.nan, "no random pair lies above the threshold")
    factor = math.exp(t_quantile(degrees) * stderr / value)
    return Estimate(value, stderr, value / factor, min(value * factor, 1.0))


@dataclass(frozen=True, slots=True, repr=False)
class Rates(Fields):
    """What a threshold does."""

    true_positive_rate: Estimate
    false_positive_rate: Estimate
    precision: Estimate | None  # at the prior that was asked for


@dataclass(frozen=True, repr=False)
class PairTable(Fields):
    """One score of g true pairs (the diagonal) and of all random pairs of different groups.

    Args:
        values: (g, g).
    """

    values: Float[Tensor, "g g"]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def random_pairs(self) -> int:
        """How many random pairs there are."""
        return len(self) * (len(self) - 1)

    @cached_property
    def true(self) -> np.ndarray:
        """Scores of true pairs, ascending."""
        return np.sort(self.values.diagonal().cpu().double().numpy())

    @cached_property
    def wrong(self) -> np.ndarray:
        """Scores of random pairs, ascending."""
        count = len(self)
        flat = self.values.flatten()[1:].view(count - 1, count + 1)[:, :-1]  # without the diagonal
        return np.sort(flat.flatten().cpu().numpy())

    def false_rates(self, thresholds: np.ndarray) -> np.ndarray:
        """Share of random pairs above each threshold."""
        at = np.searchsorted(self.wrong, thresholds.astype(self.wrong.dtype), side="right")
        return np.asarray(1 - at / len(self.wrong))

    def true_rates(self, thresholds: np.ndarray) -> np.ndarray:
        """Share of true pairs above each threshold."""
        return np.asarray(1 - np.searchsorted(self.true, thresholds, side="right") / len(self.true))

    def quantile(self, rate: float) -> float:
        """The threshold that the share `rate` of the random pairs lies above."""
        above = min(max(round(rate * len(self.wrong)), 0), len(self.wrong) - 1)
        return float(self.wrong[len(self.wrong) - 1 - above])

    def counts(self, threshold: float) -> Counts:
        """Who lies above a threshold."""
        above = self.values > threshold
        true = above.diagonal().clone().double()
        above.diagonal().fill_(False)
        rows, columns = above.sum(1), above.sum(0)
        mutual = float((above & above.T).sum())
        return Counts(true, (rows + columns).double(), float(rows.sum()), mutual)


__all__ = ["Counts", "PairTable", "Rates"]
