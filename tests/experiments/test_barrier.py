"""The barrier: growth rates as T11 has them, energies that never rise, and the files of a run."""

import math
from pathlib import Path

import numpy as np
import pytest

from infomech.experiments.barrier.barrier import Plan, growth, run_barrier

pytestmark = pytest.mark.usefixtures("unchecked")


def test_growth_of_a_known_rate() -> None:
    times = np.linspace(0, 5, 40)
    assert growth(times, 1e-6 * np.exp(2 * 0.7 * times)) == pytest.approx(0.7)
    assert growth(times, 1e-3 * np.exp(-2 * 0.4 * times)) == pytest.approx(-0.4)
    assert math.isnan(growth(times, np.ones(40)))


def test_modalities_part_below_three_quarters_and_meet_above(tmp_path: Path) -> None:
    results = run_barrier(tmp_path, plan=Plan(weights=(0.0, 0.7, 0.8), nodes=48, frames=24, rounds=6))
    by_weight = {row["divergence_weight"]: row for row in results["flows"]}
    for weight, row in by_weight.items():
        assert row["growth_rate"] == pytest.approx((3 - 4 * weight) / 2, abs=0.03)
        assert row["largest_energy_rise"] <= 1e-10
    assert by_weight[0.7]["divergence_end"] > by_weight[0.7]["divergence_start"] > by_weight[0.8]["divergence_end"]
    ends = results["alternation"]["angles"]
    assert ends[0] != ends[1]  # each goes where the other is not (T8)
    assert results["alternation"]["divergence_end"] > 5
    assert {"barrier.gif", "barrier.pdf", "barrier.png", "README.md", "provenance.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
