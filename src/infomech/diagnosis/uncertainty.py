"""Standard errors and 95% intervals from independent groups (E6).

Three methods, named in each estimator's docstring:

- **block jackknife**: blocks of groups are left out in turn (delete-m_j jackknife of Busing, Meijer and van der
  Leeden 1999); for U-statistics and for averages of logarithms of averages, whose replicates follow exactly from
  sums by block. Student's t with one degree of freedom less than there are blocks.
- **influence**: the estimate's influence function, summed over each group; for functions of first and second
  moments, and for averages over anchors (a ratio of group totals).
- **inverted distribution** (Woodruff 1952): an interval for a quantile from one for the distribution function there.
"""

import math

import scipy.special
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .estimate import Estimate

LEVEL = 0.95
FEW_EFFECTIVE_GROUPS = 15.0  # below, first-order errors of what is not a mean do not hold (docs/read-a-report.md)


def t_quantile(degrees: float | int) -> float:
    """Two-sided 95% quantile of Student's t; of one degree of freedom where there are fewer."""
    return float(scipy.special.stdtrit(max(degrees, 1.0), 0.5 + LEVEL / 2))


def effective_number(weights: Float[Tensor, " g"]) -> float:
    """(sum w)^2 / sum w^2: how many groups of equal weight would tell as much (E11).

    >>> effective_number(torch.tensor([1.0, 1.0, 1.0]))
    3.0
    >>> round(effective_number(torch.tensor([200.0] + 59 * [1.0])), 2)
    1.67
    """
    weights = weights.cpu()  # few numbers: many launches elsewhere
    return float(weights.sum().square() / weights.square().sum())


def unless_few(estimate: Estimate, effective: float) -> Estimate:
    """The estimate without its interval where there are fewer than 15 effective groups."""
    if effective >= FEW_EFFECTIVE_GROUPS:
        return estimate
    return estimate.without_interval(f"{effective:.3g} effective groups, and it needs about {FEW_EFFECTIVE_GROUPS:.0f}")


def symmetric_interval(value: float, stderr: float, degrees: float | int) -> Estimate:
    """Value +- t stderr."""
    reach = t_quantile(degrees) * stderr
    return Estimate(value, stderr, value - reach, value + reach)


def block_jackknife(
    full: Float[Tensor, " k"], replicates: Float[Tensor, "b k"], block_groups: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Bias-corrected values and standard errors of k statistics, from delete-a-block replicates.

    With G groups, m_b of them in block b and h_b = G / m_b, the pseudo-values are
    h_b theta - (h_b - 1) theta_(-b); their weighted mean corrects the bias of order 1/G, and
    var = mean over b of (pseudo-value - corrected)^2 / (h_b - 1).

    Args:
        full: (k,) statistics of the whole sample.
        replicates: (b, k) the same without block b.
        block_groups: (b,) groups in each block.

    Returns:
        (corrected, stderr), both (k,).

    Source: E6; Busing, Meijer and van der Leeden, Statistics and Computing 9 (1999).
    """
    share = block_groups / block_groups.sum()
    h = (1 / share)[:, None]
    corrected = len(share) * full - ((1 - share)[:, None] * replicates).sum(0)
    pseudo = h * full - (h - 1) * replicates
    variance = ((pseudo - corrected).square() / (h - 1)).mean(0)
    return corrected, variance.sqrt()


def jackknife_estimate(
    full: Float[Tensor, ""], replicates: Float[Tensor, " b"], block_groups: Float[Tensor, " b"], degrees: float
) -> Estimate:
    """A statistic with its jackknife standard error and t interval; the value is left as it is."""
    full, replicates, block_groups = full.cpu(), replicates.cpu(), block_groups.cpu()
    _, stderr = block_jackknife(full[None], replicates[:, None], block_groups)
    return symmetric_interval(float(full), float(stderr[0]), degrees)


def group_totals(values: Float[Tensor, "n ..."], groups: Int[Tensor, " n"], count: int) -> Float[Tensor, "g ..."]:
    """Sums of per-row values over each group."""
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, groups, values)


def influence_estimate(value: float, influence: Float[Tensor, " g"], weights: Float[Tensor, " g"]) -> Estimate:
    """A statistic that deviates by the sum over groups of `influence` (which sums to 0); groups weigh `weights`."""
    count, influence, weights = len(influence), influence.cpu(), weights.cpu()
    left = influence / (1 - weights / weights.sum())
    stderr = math.sqrt(float(left.square().sum()) * (count - 1) / count)
    return symmetric_interval(value, stderr, effective_number(weights) - 1)


def mean_estimate(
    values: Float[Tensor, " n"],
    groups: Int[Tensor, " n"],
    count: int,
    *,
    weights: Float[Tensor, " n"] | None = None,
) -> Estimate:
    """Weighted mean of per-row values, with groups as the independent units (influence)."""
    weights = torch.ones_like(values) if weights is None else weights
    total = weights.sum()
    mean = (weights * values).sum() / total
    influence = group_totals(weights * (values - mean), groups, count) / total
    return influence_estimate(float(mean), influence, group_totals(weights, groups, count))


def proportion_estimate(
    values: Float[Tensor, " n"],
    groups: Int[Tensor, " n"],
    count: int,
    *,
    weights: Float[Tensor, " n"] | None = None,
) -> Estimate:
    """Mean of per-row values in [0, 1], with Wilson's score interval at the effective number of independent rows.

    The effective number is p (1 - p) over the squared grouped standard error (influence); it never exceeds the number
    of rows, and is that of effective groups where p is 0 or 1, so that a perfect score still has an interval.
    """
    plain = mean_estimate(values, groups, count, weights=weights)
    effective = _effective_groups(values, groups, count, weights)
    return wilson_estimate(plain.value, plain.stderr, rows=len(values), groups=effective)


def _effective_groups(
    values: Float[Tensor, " n"], groups: Int[Tensor, " n"], count: int, weights: Float[Tensor, " n"] | None
) -> float:
    rows = torch.ones_like(values) if weights is None else weights
    return effective_number(group_totals(rows, groups, count))


def wilson_estimate(value: float, stderr: float, *, rows: int, groups: float) -> Estimate:
    """Wilson's score interval of a proportion whose standard error is known, for the effective number of rows."""
    p = min(max(value, 0.0), 1.0)
    spread = p * (1 - p)
    effective = spread / stderr**2 if stderr > 0 and spread > 0 else groups
    effective = min(effective, float(rows))
    t = t_quantile(groups - 1)
    center = (p + t * t / (2 * effective)) / (1 + t * t / effective)
    reach = t / (1 + t * t / effective) * math.sqrt(spread / effective + t * t / (4 * effective * effective))
    # the subtraction leaves 1e-17 where the end is exactly the bound
    low, high = min(max(center - reach, 0.0), p), max(min(center + reach, 1.0), p)
    return Estimate(p, stderr, low, high)


def quantile_estimate(
    values: Float[Tensor, " n"],
    probability: float,
    groups: Int[Tensor, " n"],
    count: int,
    *,
    weights: Float[Tensor, " n"] | None = None,
) -> Estimate:
    """Weighted quantile of per-row values, with Woodruff's interval by group (inverted distribution).

    The standard error is a quarter of the interval's width over half the normal's: (high - low) / (2 t).
    """
    weights = torch.ones_like(values) if weights is None else weights
    order = torch.argsort(values)
    ordered, cumulative = values[order], weights[order].cumsum(0) / weights.sum()

    def at(level: float) -> float:
        index = int(torch.searchsorted(cumulative, min(max(level, 0.0), 1.0)))
        return float(ordered[min(index, len(ordered) - 1)])

    middle = at(probability)
    below = (values <= middle).double()
    spread = mean_estimate(below, groups, count, weights=weights).stderr
    t = t_quantile(_effective_groups(values, groups, count, weights) - 1)
    low, high = at(probability - t * spread), at(probability + t * spread)
    return Estimate(middle, (high - low) / (2 * t), low, high)


def mapped(estimate: Estimate, low: float, high: float, *, root: bool = False) -> Estimate:
    """An estimate cut to the range that its quantity can take, or, with `root`, the square root of a squared length.

    The root of a squared length keeps the coverage of the squared length's interval; its standard error follows by
    the delta method, or from the interval where the length is near 0.
    """
    if not root:
        value, bottom, top = (min(max(v, low), high) for v in (estimate.value, estimate.low, estimate.high))
        return Estimate(value, estimate.stderr, bottom, top)
    value, bottom, top = (
        min(max(math.sqrt(max(v, 0.0)), low), high) for v in (estimate.value, estimate.low, estimate.high)
    )
    delta = estimate.stderr / (2 * value) if value > 0 else math.inf
    return Estimate(value, min(delta, math.sqrt(estimate.stderr)), bottom, top)


__all__ = [
    "FEW_EFFECTIVE_GROUPS",
    "LEVEL",
    "block_jackknife",
    "effective_number",
    "group_totals",
    "influence_estimate",
    "jackknife_estimate",
    "mapped",
    "mean_estimate",
    "proportion_estimate",
    "quantile_estimate",
    "symmetric_interval",
    "t_quantile",
    "unless_few",
    "wilson_estimate",
]
