"""Intervals, slopes and rates against scipy and over draws; summaries by loops."""

import math

import numpy as np
import pytest
import scipy.stats

from infomech.experiments.statistics import (
    around,
    interval,
    intervals,
    plus_minus,
    quartiles,
    rate,
    slope,
    slopes_by_seed,
    summarise,
    verdict,
)


def test_intervals_by_scipy() -> None:
    values = np.random.default_rng(0).standard_normal((3, 7))
    for found, row in zip(intervals(values), values, strict=True):
        test = scipy.stats.ttest_1samp(row, 0.0).confidence_interval(0.95)
        assert (found["low"], found["high"]) == pytest.approx((test.low, test.high))
        assert found["value"] == pytest.approx(row.mean())
        assert found["deviation"] == pytest.approx(math.sqrt(((row - row.mean()) ** 2).sum() / 6))
    normal = around(2.0, 0.5)
    assert normal["high"] - 2.0 == pytest.approx(0.5 * scipy.stats.norm.ppf(0.975), rel=1e-4)


def test_intervals_cover() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(1000):
        found = interval(3.0 + generator.standard_normal(5))
        hits += found["low"] <= 3.0 <= found["high"]
    assert abs(hits / 1000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)


def test_rates_and_their_intervals() -> None:
    """A known slope is covered as often as the interval says."""
    generator = np.random.default_rng(0)
    counts = [4, 8, 16, 32, 64, 128]
    curve = np.array(counts, dtype=float)[:, None] ** -0.5
    hits = 0
    for _ in range(400):
        found = rate(counts, curve * np.exp(0.1 * generator.standard_normal((6, 20))))
        hits += found["low"] <= -0.5 <= found["high"]
    assert abs(hits / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
    assert rate(counts, np.broadcast_to(curve, (6, 5)))["value"] == pytest.approx(-0.5)


def test_slopes() -> None:
    x = [0.0, 0.25, 0.5, 1.0]
    assert slope(x, [3 - 2 * v for v in x]) == pytest.approx(-2)
    generator = np.random.default_rng(1)
    runs = [{"seed": s, "p": p, "r": float(generator.standard_normal()) + p} for p in x for s in (2, 0, 1)]
    expected = [np.polyfit(x, [r["r"] for r in runs if r["seed"] == s], 1)[0] for s in (0, 1, 2)]
    assert slopes_by_seed(runs, "r", "p") == pytest.approx(expected)


def test_summaries_pair_changes_by_seed() -> None:
    generator = np.random.default_rng(3)
    runs = [
        {"arm": arm, "p": p, "seed": s, "r": float(generator.standard_normal())}
        for s in (1, 0)
        for arm in ("b", "a")
        for p in (0.0, 0.5, 1.0)
    ]
    rows = summarise(runs, ["r"], by=["arm"], along="p")
    assert [(row["arm"], row["p"]) for row in rows] == [(arm, p) for arm in ("b", "a") for p in (0.0, 0.5, 1.0)]
    value = {(r["arm"], r["p"], r["seed"]): r["r"] for r in runs}
    for row in rows:
        pair = [value[row["arm"], row["p"], s] for s in (0, 1)]
        start = [value[row["arm"], 0.0, s] for s in (0, 1)]
        assert row["r"] == interval(pair)
        assert row["change_r"] == interval([a - b for a, b in zip(pair, start, strict=True)])


def test_one_run_has_no_interval() -> None:
    (row,) = summarise([{"p": 0.5, "seed": 0, "r": 2.0}], ["r"], by=[], along="p")
    assert row["r"] == {"value": 2.0, "stderr": None, "low": None, "high": None}
    assert plus_minus(row["r"], 1) == "2.0"


def test_quartiles_and_verdicts() -> None:
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
    assert all(math.isnan(v) for v in quartiles([]))
    assert verdict(around(1.0, 0.1)) == "rises"
    assert verdict(around(-1.0, 0.1)) == "falls"
    assert verdict(around(0.1, 0.1)) == "does not change significantly"
