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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tau", [1e-3, 1e-6, 1e-10, 1e-14])
def test_rbf_volume_at_small_temperatures(tau: float, dtype: torch.dtype) -> None:
    """On S^2: V = 2 pi int_{-1}^{1} exp(-2 g (1 - t) / tau) dt = pi tau / g (1 - exp(-4 g / tau))."""
    found = im.log_kernel_volume(im.Sphere(3), im.RBF(1.0), torch.tensor(tau, dtype=dtype))
    truth = math.log(math.pi * float(torch.tensor(tau, dtype=dtype)))
    assert found.dtype is dtype
    assert float(found) == pytest.approx(truth, rel=1e-14 if dtype is torch.float64 else 1e-7)
