"""Differences of two diagnoses with intervals: paired where both are of the same pairs, else of independent data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from .._shown import Fields
from .estimate import Estimate
from .uncertainty import block_jackknife, symmetric_interval, t_quantile

if TYPE_CHECKING:
    from .diagnosis import Diagnosis

_ROOTS = ("centroid_gap", "centroid_norm_x", "centroid_norm_y")  # of a square that may reach 0: there no error is known
RECALLS = tuple(f"{side}_recall_at_{k}" for side in ("x_to_y", "y_to_x") for k in (1, 5, 10))


@dataclass(frozen=True, slots=True, repr=False)
class Difference(Fields):
    """What one report has more than the first one."""

    estimate: Estimate
    apart: bool  # the 95% interval of the difference leaves out 0
    paired: bool = False  # whether it is the error of the difference of the same pairs

    @classmethod
    def of(cls, estimate: Estimate, *, paired: bool) -> "Difference":
        """Apart if the interval is known and leaves out 0."""
        known = math.isfinite(estimate.low) and math.isfinite(estimate.high)
        return cls(estimate, bool(known and (estimate.low > 0 or estimate.high < 0)), paired)


def difference(first: Estimate, other: Estimate) -> Difference:
    """Other minus first, with an interval from both intervals (Newcombe's square-and-add).

    low = d - sqrt((o - o_low)^2 + (f_high - f)^2), high = d + sqrt((o_high - o)^2 + (f - f_low)^2). It takes the
    reports as independent; of reports on the same data, whose errors go together, the interval is too wide, not too
    narrow: `paired_difference` is the one for them.

    Source: Newcombe 1998, method 10; Zou and Donner 2008.

    >>> difference(Estimate(0.5, 0.1, 0.2, 0.8), Estimate(1.0, 0.1, 0.6, 1.4)).estimate.low
    0.0
    """
    value = other.value - first.value
    low = value - math.hypot(other.value - other.low, first.high - first.value)
    high = value + math.hypot(other.high - other.value, first.value - first.low)
    withheld = first.withheld or other.withheld
    estimate = Estimate(value, math.hypot(first.stderr, other.stderr), low, high, withheld)
    return Difference.of(estimate, paired=False)


def same_pairs(first: "Diagnosis", other: "Diagnosis") -> bool:
    """Whether both are of the same pairs of row numbers, dealt to the same blocks; not whose rows they are."""
    mine, theirs = first.budget.contributions, other.budget.contributions
    return mine is not None and theirs is not None and mine.digest == theirs.digest


def paired_difference(first: "Diagnosis", other: "Diagnosis", section: str, key: str) -> Difference | None:
    """Other minus first of one measure, with the error of the difference: both are of the same pairs (`same_pairs`).

    Parts of the budget and gap measures: delete-a-block jackknife of the difference. Recalls: each group's hits, see
    `paired_recall`. None where a report does not hold what that takes, or the measure has neither.

    Args:
        first: a diagnosis.
        other: a diagnosis of the same pairs by another model.
        section: ``budget``, ``gap`` or ``retrieval``.
        key: of the measure.

    Source: E6, E8.
    """
    if section == "gap" and key == "smoothed_divergence":
        section, key = "budget", "divergence_sym"
    if section == "budget":
        return _of_budgets(first, other, key)
    mine, theirs = first.group_contributions, other.group_contributions
    if mine is None or theirs is None:
        return None
    if section == "retrieval":
        return _of_recalls(first, other, (key,)) if key in RECALLS and {key} <= mine.hits.keys() else None
    if section != "gap" or key not in mine.gap or key not in theirs.gap:
        return None
    one, two = first.gap[key], other.gap[key]
    if key in _ROOTS and min(one.low, two.low) <= 0:
        return None
    full = torch.tensor([two.value - one.value], dtype=torch.float64)
    replicates = torch.from_numpy(theirs.gap[key] - mine.gap[key])
    _, stderr = block_jackknife(full, replicates[:, None], torch.from_numpy(mine.block_groups))
    found = symmetric_interval(float(full), float(stderr), mine.degrees)
    withheld = one.withheld or two.withheld
    return Difference.of(found.without_interval(withheld) if withheld else found, paired=True)


def mean_recall_difference(first: "Diagnosis", other: "Diagnosis", k: int) -> Difference | None:
    """Of recall at k averaged over both directions, paired."""
    keys = [f"{side}_recall_at_{k}" for side in ("x_to_y", "y_to_x")]
    return _of_recalls(first, other, keys)


def _of_budgets(first: "Diagnosis", other: "Diagnosis", key: str) -> Difference | None:
    mine, theirs = first.budget.contributions, other.budget.contributions
    if mine is None or theirs is None or key not in mine.replicates or key not in theirs.replicates:
        return None
    one, two = getattr(first.budget, key), getattr(other.budget, key)
    replicates = theirs.replicates[key] - mine.replicates[key]
    known = key in mine.interactions and key in theirs.interactions
    interactions = theirs.interactions[key] - mine.interactions[key] if known else None
    return Difference.of(mine.estimate(two.value - one.value, replicates, interactions), paired=True)


def _of_recalls(first: "Diagnosis", other: "Diagnosis", keys: Sequence[str]) -> Difference | None:
    mine, theirs = first.group_contributions, other.group_contributions
    if mine is None or theirs is None:
        return None
    withheld = next((d.retrieval[k].withheld for d in (first, other) for k in keys if d.retrieval[k].withheld), "")
    parts = [theirs.hits[key] - mine.hits[key] for key in keys]
    shares = [mine.queries[key.partition("_recall")[0]] for key in keys]
    found = paired_recall(parts, shares)
    return Difference.of(found.without_interval(withheld) if withheld else found, paired=True)


def paired_recall(differences: list[NDArray[np.float64]], queries: list[NDArray[np.float64]]) -> Estimate:
    """Difference of two recalls on the same queries, or the mean of several, from each group's hits.

    A group of the mean number of queries whose every hit changed counts as 1. Two such groups, one for either side,
    are added before the error is taken, so that few or no groups that changed still leave an interval (Agresti and
    Min's adjustment of the interval for paired shares); t interval around the shrunken difference.

    Args:
        differences: (g,) hits of the other model less those of the first, for each direction.
        queries: (g,) queries.

    Source: Agresti and Min, Statistics in Medicine 24 (2005).

    >>> same = paired_recall([np.zeros(100)], [np.ones(100)])
    >>> same.value, round(same.high, 4)
    (0.0, 0.0195)
    """
    groups = len(queries[0])
    values = [float(d.sum() / q.sum()) for d, q in zip(differences, queries, strict=True)]
    value = sum(values) / len(values)
    changed = np.zeros(groups)
    for d, q, v in zip(differences, queries, values, strict=True):
        changed += (d - v * (q - q.mean())) / q.mean() / len(queries)  # sums to groups * v: a ratio's influence
    count = groups + 2
    middle = value * groups / count
    spread = max((float(np.square(changed).sum()) + 1) / count - middle**2, 0.0)
    stderr = math.sqrt(spread / count)
    reach = t_quantile(groups - 1) * stderr
    low, high = middle - reach, middle + reach
    return Estimate(value, stderr, min(low, value), max(high, value))


def pairs_to_tell(change: Difference, groups: int) -> int | None:
    """Groups at which the interval would leave out 0, were the difference as large as it was found; None if it is 0."""
    e = change.estimate
    reach = (e.high - e.low) / 2
    if not (math.isfinite(reach) and reach > 0 and e.value != 0):
        return None
    return math.ceil(groups * (reach / abs(e.value)) ** 2)


__all__ = [
    "Difference",
    "difference",
    "mean_recall_difference",
    "paired_difference",
    "paired_recall",
    "pairs_to_tell",
    "same_pairs",
]
