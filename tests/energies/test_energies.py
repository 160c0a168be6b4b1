"""Energies on laws against the reference values, and on samples against definitions and against the loss."""

import json
import math
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech import energies

ROWS = json.loads((Path(__file__).parents[1] / "oracles.json").read_text())["population_energies_vmf"]


def laws(row: dict) -> tuple[im.VonMisesFisher, im.VonMisesFisher]:
    mean_x, mean_y = torch.zeros(2, row["d"], dtype=torch.float64)
    cosine = float(row["cos_means"])
    mean_x[0] = 1
    mean_y[0], mean_y[1] = cosine, math.sqrt(1 - cosine**2)
    return im.VonMisesFisher(mean_x, float(row["kappa_x"])), im.VonMisesFisher(mean_y, float(row["kappa_y"]))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"d{r['d']}")
def test_energies_of_laws(row: dict) -> None:
    x, y = laws(row)
    tau = float(row["tau"])
    for name, (a, b) in {"x_on_x": (x, x), "y_on_y": (y, y), "x_on_y": (x, y), "y_on_x": (y, x)}.items():
        value = float(energies.cross_entropy(a, b, temperature=tau))
        assert value == pytest.approx(float(row[f"cross_entropy_{name}"]), rel=1e-10), name
    sym = float(energies.independent_energy(x, y, temperature=tau).sym)
    assert sym == pytest.approx(float(row["energy_sym"]), rel=1e-10)


def test_cross_entropy_on_the_circle() -> None:
    x, y = (
        im.VonMisesFisher(torch.tensor(m, dtype=torch.float64), k) for m, k in (([1.0, 0.0], 3.0), ([0.6, 0.8], 2.0))
    )
    angle = torch.arange(4096, dtype=torch.float64) * (2 * math.pi / 4096)
    z = torch.stack([angle.cos(), angle.sin()], 1)
    volume = im.log_kernel_volume(im.Sphere(2), im.Cosine(), 0.3)
    density = y.log_partition_field(z, temperature=0.3) - volume
    truth = -(x.log_density(z).exp() * density).sum() * (2 * math.pi / 4096)
    assert float(energies.cross_entropy(x, y, temperature=0.3)) == pytest.approx(float(truth), rel=1e-11)


@pytest.mark.parametrize("kappa", [1e8, 1e12, 1e15])
def test_cross_entropy_of_concentrated_laws_is_a_gaussian_s(kappa: float) -> None:
    """Two tangent directions, variances 1/k1 of the law and 1/k2 + tau of the smoothed one, means an angle apart."""
    tau, angle = 0.5 / kappa, 1.3 / math.sqrt(kappa)
    x, y = (
        im.VonMisesFisher(torch.tensor([math.sin(a), 0.0, math.cos(a)], dtype=torch.float64), k)
        for a, k in ((0.0, 3 * kappa), (angle, kappa))
    )
    variance = 1 / kappa + tau
    truth = math.log(2 * math.pi * variance) + (1 / (3 * kappa) + angle**2 / 2) / variance
    assert float(energies.cross_entropy(x, y, temperature=tau)) == pytest.approx(truth, abs=3 / kappa, rel=1e-13)


def sample(n: int, dim: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("critic", [im.Cosine(), im.RBF(0.7)], ids=str)
def test_fields_on_samples(critic: im.Cosine | im.RBF) -> None:
    z, w = sample(1500, 4, 0), sample(1500, 4, 1)
    s = critic.pairwise(z, w) / 0.3
    field = energies.log_partition_field(z, w, temperature=0.3, critic=critic)
    torch.testing.assert_close(field, s.logsumexp(1) - math.log(1500))
    left = energies.log_partition_field(z, w, temperature=0.3, critic=critic, leave_own_out=True)
    own = torch.eye(1500, dtype=torch.bool)
    torch.testing.assert_close(left, s.masked_fill(own, -math.inf).logsumexp(1) - math.log(1499))


def test_gradients_through_the_chunks() -> None:
    z, w = sample(1100, 3, 0).requires_grad_(), sample(1100, 3, 1).requires_grad_()
    energies.log_partition_field(z, w, temperature=0.3).sum().backward()  # type: ignore[no-untyped-call]
    plain_z, plain_w = z.detach().requires_grad_(), w.detach().requires_grad_()
    (plain_z @ plain_w.T / 0.3).logsumexp(1).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(z.grad, plain_z.grad)
    torch.testing.assert_close(w.grad, plain_w.grad)


def test_energy_on_samples_is_the_budget() -> None:
    x, y = sample(300, 5, 0), sample(300, 5, 1)
    budget = im.decompose(x, y, temperature=0.4, batch_size=300)
    value = energies.symmetric_energy(x, y, temperature=0.4)
    assert float(value.sym) == pytest.approx(budget.energy_sym.value, rel=1e-10)


def test_infonce_tends_to_the_energy() -> None:
    """T1 on draws of a law with one modality: the loss less log(N V) is the energy, to the positive's share."""
    x, noise = sample(2000, 3, 0), sample(2000, 3, 1)
    partner = torch.nn.functional.normalize(x + 0.3 * noise, dim=1)
    tau = 0.5
    j = float(energies.energy(x, partner, temperature=tau))
    positive = (x * partner).sum(1) / tau
    logits = (x @ x.T / tau).masked_fill(torch.eye(2000, dtype=torch.bool), -math.inf)
    infonce = float((torch.logaddexp(logits.logsumexp(1), positive) - positive).mean())
    log_nv = math.log(1999) + im.log_kernel_volume(im.Sphere(3), im.Cosine(), tau)
    assert 0 < infonce - j - log_nv < 2e-3  # exp(s/tau) over 2,000 kernels


def test_potentials() -> None:
    z = sample(5, 3, 0)
    positives = torch.stack([sample(5, 3, s) for s in (1, 2, 3)], 1)
    truth = -torch.stack([(z * positives[:, k]).sum(1) for k in range(3)]).mean(0)
    torch.testing.assert_close(energies.alignment_potential(z, positives), truth)


def test_refusals() -> None:
    z = sample(5, 3, 0)
    with pytest.raises(im.InputError, match="as many z as w"):
        energies.log_partition_field(z, z[:4], temperature=0.5, leave_own_out=True)
    with pytest.raises(im.InputError, match="one dimension"):
        energies.cross_entropy(*(im.VonMisesFisher(torch.eye(d)[0], 1.0) for d in (3, 4)), temperature=0.5)
