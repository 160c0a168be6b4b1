"""The budget of 5,000 samples of two von Mises-Fisher laws against the population's values (tests/oracles.json)."""

import json
import math
from pathlib import Path

import pytest
import torch

import infomech as im

ROWS = json.loads((Path(__file__).parents[1] / "oracles.json").read_text())["population_energies_vmf"]
NAMES = {
    "alignment": "alignment_energy",
    "dispersion_x": "cross_entropy_x_on_x",
    "dispersion_y": "cross_entropy_y_on_y",
    "divergence_xy": "divergence_x_to_y",
    "divergence_yx": "divergence_y_to_x",
    "divergence_sym": "divergence_sym",
    "energy_sym": "energy_sym",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"d{r['d']}")
def test_budget_within_four_standard_errors(row: dict) -> None:
    d, cosine = row["d"], float(row["cos_means"])
    mean_x, mean_y = torch.zeros(2, d, dtype=torch.float64)
    mean_x[0] = 1
    mean_y[0], mean_y[1] = cosine, math.sqrt(1 - cosine**2)
    generator = torch.Generator().manual_seed(0)
    x = im.VonMisesFisher(mean_x, float(row["kappa_x"])).sample(5_000, generator=generator).float()
    y = im.VonMisesFisher(mean_y, float(row["kappa_y"])).sample(5_000, generator=generator).float()
    budget = im.decompose(x, y, temperature=float(row["tau"])).limit
    assert budget is not None
    for name, oracle in NAMES.items():
        estimate = getattr(budget, name)
        off = (estimate.value - float(row[oracle])) / estimate.stderr
        assert abs(off) <= 4, f"{name} is off by {off:.2f} standard errors"
        assert estimate.stderr < 0.05 * max(1, abs(float(row["divergence_sym"])))  # an idle error bar would pass
