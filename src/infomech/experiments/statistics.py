"""What experiments make of repeated runs: intervals, slopes and rates."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import linregress, sem
from scipy.stats import t as student_t

Interval = dict[str, Any]  # "value", "stderr", "low", "high": numbers, or None where there is no interval
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

    runs = values.shape[1]
    left = np.array([fit(np.delete(values, k, axis=1)) for k in range(runs)])
    stderr = math.sqrt((runs - 1) / runs * float(((left - left.mean()) ** 2).sum()))
    return around(fit(values), stderr, runs=runs)


__all__ = ["Interval", "around", "interval", "rate", "slope"]
