"""Is a ratio a probability? Reliability with intervals by group, and calibrators that are fitted where it is not."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import InputError, check_choice
from .._shown import Brief, Fields, Shown
from .._words import interval_text, with_error
from ..diagnosis.estimate import Estimate
from ..diagnosis.uncertainty import proportion_estimate, symmetric_interval, wilson_estimate
from .rates import PairTable

METHODS = ("isotonic", "logistic")
_TAIL, _BELOW = 50_000, 100_000  # random pairs that a calibrator is fitted to: the highest, and some of the others
_FOLDS = 5
Array = np.ndarray


@dataclass(frozen=True, repr=False)
class Calibration(Fields):
    """A monotone map from the log ratio to the log odds of a match when true and random pairs are equally likely.

    Between its knots it is linear; outside of them it goes on with slope `slope`.
    """

    method: str
    knots: Array  # (k,) log ratios, ascending
    log_odds: Array  # (k,)
    slope: float

    def __call__(self, ratios: Tensor) -> Tensor:
        """Calibrated log odds at equal prior."""
        given = ratios.detach().cpu().double().numpy()
        inside = np.interp(given, self.knots, self.log_odds)
        inside += self.slope * (np.minimum(given - self.knots[0], 0) + np.maximum(given - self.knots[-1], 0))
        return torch.from_numpy(inside).to(ratios.device)


def fit_calibration(true: Array, wrong: Array, method: str, *, counts: Array | None = None) -> Calibration:
    """Fit to log ratios of true and of random pairs, both kinds weighing the same (scikit-learn).

    `counts` says how many random pairs each of `wrong` stands for.

    Raises:
        InputError: for another method.
    """
    check_choice(method, "method", METHODS)
    ratios = np.concatenate([true, wrong])
    matches = np.concatenate([np.ones(len(true)), np.zeros(len(wrong))])
    each = np.ones(len(wrong)) if counts is None else counts
    weights = np.concatenate([np.full(len(true), 0.5 / len(true)), 0.5 * each / each.sum()])
    if method == "logistic":
        from sklearn.linear_model import LogisticRegression

        # a shift of its own: only differences from the middle are seen by the penalty, which is negligible
        fitted = LogisticRegression(C=1e6).fit(ratios[:, None], matches, sample_weight=weights * len(ratios))
        slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        return Calibration(method, np.zeros(1), np.array([offset]), slope)
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(ratios, matches, sample_weight=weights)
    least = 0.25 / float(each.sum())  # where one kind alone is seen, the other is not impossible
    most = 1 - 0.25 / len(true)
    share = np.clip(fitted.y_thresholds_, least, most)
    return Calibration(method, fitted.X_thresholds_, np.log(share) - np.log1p(-share), 0.0)


def fitted_to(table: PairTable, method: str, *, seed: int = 0) -> Calibration:
    """Fit to all true pairs, the highest random ones, and a sample of the others that stands for all of them."""
    wrong = table.wrong.astype(np.float64)
    if len(wrong) <= _TAIL + _BELOW:
        return fit_calibration(table.true, wrong, method)
    below = np.random.default_rng(seed).integers(len(wrong) - _TAIL, size=_BELOW)
    counts = np.concatenate([np.full(_BELOW, (len(wrong) - _TAIL) / _BELOW), np.ones(_TAIL)])
    return fit_calibration(table.true, np.concatenate([wrong[below], wrong[-_TAIL:]]), method, counts=counts)


def cross_fitted(table: PairTable, method: str, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Calibrated log odds of pairs whose groups both lie in one fifth, by a calibrator of the other four.

    Returns:
        (g, g) log odds at equal prior, and which entries hold one.
    """
    count = len(table)
    fold = torch.arange(count) * _FOLDS // count  # groups stand in random order
    out = torch.full((count, count), torch.nan, dtype=torch.float64)
    for k in range(_FOLDS):
        inside, outside = torch.nonzero(fold == k).flatten(), torch.nonzero(fold != k).flatten()
        calibration = fitted_to(PairTable(table.values[outside][:, outside]), method, seed=seed)
        block = table.values[inside][:, inside]
        out[inside[:, None], inside] = calibration(block.flatten()).view(block.shape).cpu()
    return out, ~out.isnan()


@dataclass(frozen=True, repr=False)
class Reliability(Shown):
    """How often pairs of a stated probability do match.

    Args:
        what: is stated: the probability of a pair at a prior, or of the first of N + 1 candidates.
        stated: (b,) mean stated probability in each bin.
        observed: share that matches, with its interval by group.
        shares: (b,) of the pairs that lie in each bin.
        error: expected calibration error, the mean over bins of |stated - observed|; upwards of 0 by its noise.
        calibrated: by what; "" for the ratio as it is.
    """

    what: str
    stated: list[float]
    observed: list[Estimate]
    shares: list[float]
    error: Estimate
    calibrated: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "what": self.what,
            "calibrated": self.calibrated,
            "stated": self.stated,
            "observed": [e.to_dict() for e in self.observed],
            "shares": self.shares,
            "error": self.error.to_dict(),
        }

    def _brief(self) -> Brief:
        rows = [
            [f"{stated:.3g}", with_error(found), interval_text(found), f"{share:.2g}"]
            for stated, found, share in zip(self.stated, self.observed, self.shares, strict=True)
        ]
        by = f", {self.calibrated}" if self.calibrated else ""
        title = f"Reliability of {self.what}{by}: expected calibration error {with_error(self.error)}"
        return Brief(title, ["stated", "observed", "95% interval", "share"], rows)


def check_bins(bins: int) -> None:
    """Raise InputError unless it is a number of bins."""
    if not isinstance(bins, Integral) or bins < 1:
        raise InputError(f"bins is {bins!r}; give a whole number, at least 1")


def pair_reliability(
    log_odds: Tensor, known: Tensor, prior: float, *, bins: int = 10, calibrated: str = ""
) -> Reliability:
    """Of one pair's probability: true pairs weigh `prior`, random ones the rest.

    Args:
        log_odds: (g, g) at equal prior; true pairs on the diagonal.
        known: (g, g) which entries to look at.
        prior: share of true pairs.
        bins: of equal width in the probability.
        calibrated: by what.
    """
    check_bins(bins)
    count = len(log_odds)
    stated = torch.sigmoid(log_odds.double() + np.log(prior) - np.log1p(-prior))
    match = torch.eye(count, dtype=torch.float64)
    random = known & ~torch.eye(count, dtype=torch.bool)
    weight = torch.where(random, (1 - prior) / float(random.sum()), 0.0)
    weight.diagonal().copy_(known.diagonal().double() * prior / float(known.diagonal().sum()))
    place = (stated.nan_to_num(0.0) * bins).long().clamp_max(bins - 1)
    kept, means, observed, shares = [], [], [], []
    influence = torch.zeros(count, dtype=torch.float64)
    error = 0.0
    for k in range(bins):
        here = torch.where(place == k, weight, 0.0)
        mass = float(here.sum())
        if mass <= 0:
            continue
        kept.append(k)
        means.append(float((here * stated.nan_to_num(0.0)).sum()) / mass)
        share = float((here * match).sum()) / mass
        spread = _two_way(here * (match - share)) / mass
        shares.append(mass)
        pairs = mass**2 / float(here.square().sum())  # of equal weight
        observed.append(wilson_estimate(share, spread, rows=math.ceil(pairs), groups=min(pairs, float(count)) + 1))
        gap = here * (stated.nan_to_num(0.0) - match)
        total = float(gap.sum())
        error += abs(total)
        each = gap.sum(0) + gap.sum(1)
        influence += np.sign(total) * (each - each.mean())
    ece = symmetric_interval(error, float(influence.square().sum().sqrt()), count - 1)
    ece = Estimate(error, ece.stderr, max(ece.low, 0.0), min(ece.high, 1.0))
    return Reliability(f"a pair's probability at a prior of {prior:g}", means, observed, shares, ece, calibrated)


def _two_way(parts: Tensor) -> float:
    """Standard error of a sum over pairs: rows + columns - pairs, a group's row and column taken as one."""
    each = parts.sum(0) + parts.sum(1) - parts.diagonal()
    off = parts - torch.diag(parts.diagonal())
    twice = float(off.square().sum() + (off * off.T).sum())
    return math.sqrt(max(float(each.square().sum()) - twice, float(parts.square().sum())))


def candidate_reliability(ratios: Tensor, *, bins: int = 10) -> Reliability:
    """Of the softmax over N + 1 candidates: how often its first one is right, by the probability that it states."""
    check_bins(bins)
    count = len(ratios)
    stated, first = torch.softmax(ratios.double(), 1).max(1)
    right = (first == torch.arange(count)).double()
    place = (stated * bins).long().clamp_max(bins - 1)
    means, observed, shares, error = [], [], [], 0.0
    influence = torch.zeros(count, dtype=torch.float64)
    for k in range(bins):
        here = place == k
        size = int(here.sum())
        if not size:
            continue
        means.append(float(stated[here].mean()))
        found = proportion_estimate(right[here], torch.arange(size), size)
        observed.append(found)
        shares.append(size / count)
        gap = torch.where(here, stated - right, 0.0)
        error += abs(float(gap.mean()))
        influence += np.sign(float(gap.sum())) * (gap - gap.mean()) / count
    ece = symmetric_interval(error, float(influence.square().sum().sqrt()), count - 1)
    ece = Estimate(error, ece.stderr, max(ece.low, 0.0), min(ece.high, 1.0))
    return Reliability(f"the first of {count:,} candidates", means, observed, shares, ece)


__all__ = [
    "METHODS",
    "Calibration",
    "Reliability",
    "candidate_reliability",
    "cross_fitted",
    "fit_calibration",
    "fitted_to",
    "pair_reliability",
]
