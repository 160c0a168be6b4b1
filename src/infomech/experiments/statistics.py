"""What experiments make of repeated runs: intervals, slopes, rates, quartiles, and summaries over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import linregress, sem
from scipy.stats import t as student_t

Interval = dict[str, Any]  # "value", "stderr", "low", "high": numbers, or None where there is no interval
Run = Mapping[str, Any]  # a "seed", what sets the run apart, and its measures by name
Array = NDArray[np.float64]


def around(value: float, stderr: float, *, runs: int | None = None) -> Interval:
    """The 95% interval of a value: Student's for a standard error from so many runs, the normal one otherwise."""
    half = (1.96 if runs is None else float(student_t.ppf(0.975, runs - 1))) * stderr
    return {"value": value, "stderr": stderr, "low": value - half, "high": value + half}


def interval(values: ArrayLike) -> Interval:
    """Mean, standard error and 95% Student interval of independent values; one value alone has no interval.

    >>> {key: round(number, 3) for key, number in interval([1.0, 2.0, 3.0]).items()}
    {'value': 2.0, 'stderr': 0.577, 'low': -0.484, 'high': 4.484}
    >>> interval([1.0])
    {'value': 1.0, 'stderr': None, 'low': None, 'high': None}
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return {"value": float(sample.mean()), "stderr": None, "low": None, "high": None}
    return around(float(sample.mean()), float(sem(sample)), runs=len(sample))


def intervals(values: Array) -> list[Interval]:
    """The interval of each row of (N, runs), with the runs' standard deviation."""
    return [interval(row) | {"deviation": float(row.std(ddof=1))} for row in values.astype(np.float64)]


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Least-squares slope of y in x."""
    return float(linregress(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)).slope)


def rate(counts: Sequence[int], values: Array) -> Interval:
    """Slope of log |mean over runs| against log N, with a 95% interval.

    The fit is to the logarithm of the mean over runs; its interval is Student's over the jackknife of the runs, so that
    it holds what the runs' spread says and not how straight the line is.

    Args:
        counts: N.
        values: (N, runs), positive on average.
    """
    x = np.log(np.asarray(counts, dtype=float))

    def fit(v: Array) -> float:
        return slope(x, np.log(np.abs(v.mean(1))))

    values, runs = values.astype(np.float64), values.shape[1]
    left = np.array([fit(np.delete(values, k, axis=1)) for k in range(runs)])
    stderr = math.sqrt((runs - 1) / runs * float(((left - left.mean()) ** 2).sum()))
    return around(fit(values), stderr, runs=runs)


def quartiles(values: ArrayLike) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; NaN of nothing."""
    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        return math.nan, math.nan, math.nan
    low, median, high = np.quantile(sample, [0.25, 0.5, 0.75])
    return float(low), float(median), float(high)


def slopes_by_seed(runs: Iterable[Run], measure: str, along: str) -> list[float]:
    """Slope of a measure in another quantity, one for each seed."""
    by_seed: dict[Any, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run["seed"], []).append(run)
    return [slope([r[along] for r in of], [r[measure] for r in of]) for _, of in sorted(by_seed.items())]


def summarise(runs: Iterable[Run], measures: Iterable[str], *, by: Sequence[str], along: str) -> list[dict[str, Any]]:
    """Interval over seeds of each measure, and of its change from the smallest `along`, paired by seed.

    Args:
        runs: all with the same seeds.
        measures: names.
        by: what sets the groups apart.
        along: what varies within a group.

    Returns:
        A row for each value of `along` in each group, in the order of the runs: those, each measure, and ``change_``
        before its name for the change.
    """
    cells: dict[tuple[Any, ...], dict[Any, Run]] = {}
    for run in runs:
        cells.setdefault((*(run[key] for key in by), run[along]), {})[run["seed"]] = run
    names = list(measures)
    rows = []
    for (*group, at), members in cells.items():
        start = cells[(*group, min(key[-1] for key in cells if list(key[:-1]) == group))]
        row: dict[str, Any] = {**dict(zip(by, group, strict=True)), along: at}
        for name in names:
            row[name] = interval([members[s][name] for s in sorted(members)])
            row[f"change_{name}"] = interval([members[s][name] - start[s][name] for s in sorted(members)])
        rows.append(row)
    return rows


def plus_minus(found: Interval, digits: int = 4) -> str:
    """A value and the half-width of its interval, if it has one.

    >>> plus_minus(around(0.5, 0.1))
    '0.5000 ± 0.1960'
    """
    text = f"{found['value']:.{digits}f}"
    return text if found["high"] is None else f"{text} ± {found['high'] - found['value']:.{digits}f}"


def verdict(change: Interval) -> str:
    """What an interval says of the direction."""
    return "rises" if change["low"] > 0 else "falls" if change["high"] < 0 else "does not change significantly"


__all__ = [
    "Interval",
    "Run",
    "around",
    "interval",
    "intervals",
    "plus_minus",
    "quartiles",
    "rate",
    "slope",
    "slopes_by_seed",
    "summarise",
    "verdict",
]
