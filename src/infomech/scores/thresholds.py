"""Thresholds of a score: for a false positive rate, for a precision, for the best F1; each with its interval."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._checks import InputError, check_between
from .._shown import Brief, Fields, Shown
from .._words import interval_text, with_error
from ..diagnosis.estimate import Estimate
from ..diagnosis.uncertainty import t_quantile
from .rates import PairTable, Rates

LEAST_EFFECTIVE = 10.0  # random pairs above a threshold, fewer of which do not tell its rate
_SMALLEST_PRIOR = 1e-300
_UNSEEN = 0.1  # random pairs for each true one above a threshold that may go unseen: a tenth of the precision
_CANDIDATES = 48  # thresholds whose F1 is compared with the best


@dataclass(frozen=True, slots=True, repr=False)
class Cut(Fields):
    """A threshold of one score, and what it does."""

    score: Estimate
    true_positive_rate: Estimate
    false_positive_rate: Estimate
    precision: Estimate | None


@dataclass(frozen=True, repr=False)
class Threshold(Shown):
    """The threshold of the density ratio and, for the same goal, of the critic alone.

    ``float(threshold)`` is the ratio's, to be compared with `DensityRatio.log_ratio`. The interval of a score holds the
    threshold at which *fresh* pairs meet the goal, the fitted object being what it is. ``critic`` is in the critic's
    own units, cosines say; it is None where the critic alone cannot reach the goal.
    """

    goal: str
    ratio: Cut
    critic: Cut | None
    groups: int

    def __float__(self) -> float:
        return self.ratio.score.value

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "goal": self.goal,
            "groups": self.groups,
            "ratio": _cut_dict(self.ratio),
            "critic": None if self.critic is None else _cut_dict(self.critic),
        }

    def _brief(self) -> Brief:
        rows = []
        for key in ("score", "true_positive_rate", "false_positive_rate", "precision"):
            first = getattr(self.ratio, key)
            other = None if self.critic is None else getattr(self.critic, key)
            if first is not None:
                alone = "n/a" if other is None else with_error(other)
                rows.append([key.replace("_", " "), with_error(first), interval_text(first), alone])
        title = f"Threshold for {self.goal}, from {self.groups:,} groups"
        return Brief(title, ["", "ratio", "95% interval", "critic alone"], rows)


def _cut_dict(cut: Cut) -> dict[str, Any]:
    return {
        key: None if (found := getattr(cut, key)) is None else found.to_dict()
        for key in ("score", "true_positive_rate", "false_positive_rate", "precision")
    }


def for_false_positive_rate(table: PairTable, rate: float) -> Cut:
    """The threshold above which a random pair lies at a given rate; Woodruff's interval, two-way variance.

    Raises:
        InputError: where fewer than ten effective random pairs lie above it, with the rate that can be resolved.

    Source: E9.
    """
    check_between(rate, "false_positive_rate", "a share (0.001)")
    if rate * table.random_pairs < LEAST_EFFECTIVE:
        raise _too_fine(table, f"a false positive rate of {rate:g}", rate * table.random_pairs)
    value = table.quantile(rate)
    counts = table.counts(value)
    if counts.effective < LEAST_EFFECTIVE:
        raise _too_fine(table, f"a false positive rate of {rate:g}", counts.effective)
    reach = t_quantile(counts.degrees) * math.sqrt(counts.variance(0.0, 1.0))
    low, high = table.quantile(min(rate + reach, 1.0)), table.quantile(max(rate - reach, 0.0))
    return _cut(_between(value, low, high, len(table)), counts.estimates(None))


def for_precision(table: PairTable, precision: float, prior: float) -> Cut:
    """The lowest threshold at which so large a share of what lies above it are true pairs, at a prior.

    Its interval holds the thresholds at which (1 - p) prior TPR - p (1 - prior) FPR does not differ from 0.

    Raises:
        InputError: where no threshold reaches it, or fewer than ten effective random pairs lie above it.

    Source: E9.
    """
    check_prior(prior)
    check_between(precision, "precision", "a share (0.9)")
    goal = f"a precision of {precision:g} at a prior of {prior:g}"
    grid = np.unique(np.concatenate([table.true, table.wrong[:: max(1, len(table.wrong) // 20_000)], _tail(table)]))
    true, false = (1 - precision) * prior, precision * (1 - prior)
    margin = true * table.true_rates(grid) - false * table.false_rates(grid)
    reached = np.flatnonzero((margin >= 0) & (table.true_rates(grid) > 0))
    if not len(reached):
        raise InputError(f"no threshold reaches {goal} on this reference; ask for less, or for a larger prior")
    below = np.flatnonzero(margin[: reached[-1] + 1] < 0)
    at = int(below[-1]) + 1 if len(below) else 0  # lowest of the highest run that reaches it
    value = float(grid[at])
    counts = table.counts(value)
    if counts.effective < LEAST_EFFECTIVE:
        raise _too_fine(table, goal, counts.effective)
    reach = t_quantile(counts.degrees) * math.sqrt(counts.variance(true, -false))
    lower, upper = np.flatnonzero(margin[:at] < -reach), np.flatnonzero(margin[at:] > reach)
    low = float(grid[lower[-1]]) if len(lower) else -math.inf
    high = float(grid[at + upper[0]]) if len(upper) else math.inf
    return _cut(_between(value, low, high, len(table)), counts.estimates(prior))


def for_best_f1(table: PairTable, prior: float) -> Cut:
    """The threshold of the largest F1 at a prior: the harmonic mean of recall and precision.

    Its interval holds the thresholds whose F1 is not told apart from the best; the F1 of a threshold is flat at its
    top, so that it is wide.

    Raises:
        InputError: where fewer than ten effective random pairs lie above it, and so many more could change the F1.

    Source: E9.
    """
    check_prior(prior)
    f1 = _f1(table.true_rates(table.true), table.false_rates(table.true), prior)
    best = int(np.argmax(f1))
    value = float(table.true[best])
    counts = table.counts(value)
    hidden = LEAST_EFFECTIVE / table.random_pairs
    if counts.effective < LEAST_EFFECTIVE and (1 - prior) * hidden > _UNSEEN * prior * counts.true_rate:
        raise InputError(
            f"the best F1 at a prior of {prior:g} is finer than {len(table):,} groups can resolve: "
            f"{counts.effective:.3g} effective random pairs lie above its threshold, and unseen ones could outweigh "
            "the true ones; give a larger prior, or fit on more groups"
        )
    first = _f1_slopes(counts.true_rate, counts.false_rate, prior)
    alike = np.zeros(len(f1), dtype=bool)
    alike[best] = True
    for at in np.unique(np.linspace(0, len(f1) - 1, _CANDIDATES).round().astype(int)):
        other = table.counts(float(table.true[at]))
        second = _f1_slopes(other.true_rate, other.false_rate, prior)
        influence = (first[0] * (counts.true - counts.true_rate) - second[0] * (other.true - other.true_rate)) / len(
            table
        )
        wrong = [c.wrong - 2 * (len(table) - 1) * c.false_rate for c in (counts, other)]
        influence += (first[1] * wrong[0] - second[1] * wrong[1]) / table.random_pairs
        reach = t_quantile(len(table) - 1) * math.sqrt(float(influence.square().sum()))
        alike[at] = f1[best] - f1[at] <= reach
    kept = np.flatnonzero(alike)
    found = _between(value, float(table.true[kept[0]]), float(table.true[kept[-1]]), len(table))
    return _cut(found, counts.estimates(prior))


def check_prior(prior: float) -> None:
    """Raise InputError unless it is a probability of its own."""
    check_between(prior, "prior", "the share of true pairs among those you ask about (0.01)")
    if prior < _SMALLEST_PRIOR:
        raise InputError(
            f"prior is {prior:g}; shares below {_SMALLEST_PRIOR:g} are lost in rounding: give a larger one"
        )


def finest_rate(table: PairTable) -> float | None:
    """The smallest false positive rate, on a grid, above whose threshold ten effective random pairs lie."""
    for step in range(40):
        rate = LEAST_EFFECTIVE * 10 ** (step / 4) / table.random_pairs
        if rate >= 0.5:
            return None
        if table.counts(table.quantile(rate)).effective >= LEAST_EFFECTIVE:
            return rate
    return None


def _too_fine(table: PairTable, goal: str, effective: float) -> InputError:
    finest = finest_rate(table)
    if finest is None:
        can = "too few groups to resolve any rate: fit on more"
    else:
        digits = 10 ** math.floor(math.log10(finest))
        can = f"rates from {math.ceil(finest / digits) * digits:.1g} on can be resolved, or fit on more groups"
    return InputError(
        f"{goal} is finer than {len(table):,} groups can resolve: {effective:.3g} effective random pairs lie above, "
        f"and ten are needed; {can}"
    )


def _tail(table: PairTable) -> np.ndarray:
    return np.asarray(table.wrong[-20_000:], dtype=np.float64)


def _f1(true: Any, false: Any, prior: float) -> Any:
    return 2 * prior * true / (prior + prior * true + (1 - prior) * false)


def _f1_slopes(true: float, false: float, prior: float) -> tuple[float, float]:
    """Derivatives of F1 by both rates."""
    whole = prior + prior * true + (1 - prior) * false
    share = prior / whole  # whole**2 leaves float64 at the smallest priors
    return 2 * share * (1 - share * true), -2 * share * true * ((1 - prior) / whole)


def _between(value: float, low: float, high: float, groups: int) -> Estimate:
    low, high = min(low, value), max(high, value)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Estimate(value, 0.0, value, value).without_interval("the data do not bound it")
    return Estimate(value, (high - low) / (2 * t_quantile(groups - 1)), low, high)


def _cut(score: Estimate, rates: Rates) -> Cut:
    return Cut(score, rates.true_positive_rate, rates.false_positive_rate, rates.precision)


def scaled(cut: Cut, factor: float) -> Cut:
    """The same threshold of a score in other units."""
    s = cut.score
    score = Estimate(s.value * factor, s.stderr * factor, s.low * factor, s.high * factor, s.withheld)
    return replace(cut, score=score)


__all__ = [
    "LEAST_EFFECTIVE",
    "Cut",
    "Threshold",
    "check_prior",
    "finest_rate",
    "for_best_f1",
    "for_false_positive_rate",
    "for_precision",
    "scaled",
]
