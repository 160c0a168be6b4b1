"""Closed forms against the reference values at high precision (tests/oracles.json)."""

import json
import math
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech.geometry import mean_resultant

ORACLES = json.loads((Path(__file__).parents[1] / "oracles.json").read_text())


def relative(value: float, truth: str) -> float:
    return abs(value - float(truth)) / abs(float(truth))


@pytest.mark.parametrize("row", ORACLES["log_kernel_volume"], ids=lambda r: f"d{r['d']}-tau{r['tau']}")
def test_log_kernel_volume(row: dict) -> None:
    value = im.log_kernel_volume(im.Sphere(row["d"]), im.Cosine(), float(row["tau"]))
    assert relative(value, row["value"]) <= 1e-10


@pytest.mark.parametrize("row", ORACLES["mean_resultant"], ids=lambda r: f"d{r['d']}-k{r['kappa']}")
def test_mean_resultant(row: dict) -> None:
    value = mean_resultant(row["d"], torch.tensor(float(row["kappa"]), dtype=torch.float64))
    assert relative(value.item(), row["value"]) <= 1e-10


def vmf(dim: int, kappa: str, cosine: float = 1.0) -> im.VonMisesFisher:
    mean = torch.zeros(dim, dtype=torch.float64)
    mean[0], mean[1] = cosine, math.sqrt(1 - cosine**2)
    return im.VonMisesFisher(mean, float(kappa))


@pytest.mark.parametrize("row", ORACLES["vmf_entropy"], ids=lambda r: f"d{r['d']}-k{r['kappa']}")
def test_entropy(row: dict) -> None:
    assert relative(vmf(row["d"], row["kappa"]).entropy().item(), row["value"]) <= 1e-10


@pytest.mark.parametrize("row", ORACLES["vmf_kl"], ids=lambda r: f"d{r['d']}-{r['k1']}-{r['k2']}-{r['cos']}")
def test_kl(row: dict) -> None:
    value = vmf(row["d"], row["k1"]).kl(vmf(row["d"], row["k2"], float(row["cos"])))
    assert relative(value.item(), row["value"]) <= 1e-10
