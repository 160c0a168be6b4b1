"""Particles in two wells: kernels and gradients by autograd, Adam by torch's own, and a whole small run."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from infomech.experiments.gibbs import wells
from infomech.experiments.gibbs.particles import GeodesicGaussian, InfoNCEKernel, KernelEnergy, SphereAdam
from infomech.experiments.gibbs.wells import Plan, in_caps, infonce_energy, laws_part, potential, run_gibbs
from infomech.geometry import Sphere, quadrature_rule
from infomech.measures import VonMisesFisher

pytestmark = pytest.mark.usefixtures("unchecked")

TINY = Plan(
    temperatures=(2.5, 0.1), particles=48, seeds=2, steps=60, rate=0.05, degree=24, chains=64, frames=3
)  # fmt: skip


def points(runs: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(runs, n, 3, generator=generator, dtype=dtype), dim=2)


def test_the_cubic_stands_for_the_squared_angle() -> None:
    assert np.abs(GeodesicGaussian.of_bandwidth(0.35).exact_error(0.35)).max() < 1.5e-5


@pytest.mark.parametrize("kernel", [GeodesicGaussian.of_bandwidth(0.35), InfoNCEKernel((0.3,))], ids=["kde", "infonce"])
def test_slopes_are_derivatives(kernel) -> None:
    u = torch.linspace(0, 2, 33, dtype=torch.float64)[None].requires_grad_()
    buffers = [torch.empty(1, 33, dtype=torch.float64) for _ in range(4)]
    step = 1e-6
    kernel.evaluate((u + step).detach(), buffers[0], buffers[1], run=0)
    kernel.evaluate((u - step).detach(), buffers[2], buffers[1], run=0)
    kernel.evaluate(u.detach().clone(), buffers[3], buffers[1], run=0)
    assert torch.allclose(-(buffers[0] - buffers[2]) / (2 * step), buffers[1], atol=1e-8)


@pytest.mark.parametrize("way", ["kde", "infonce"])
def test_gradients_by_autograd_over_the_whole_matrix(way: str) -> None:
    temperatures = torch.tensor([1.0, 0.2, 0.5], dtype=torch.float64)
    z = points(3, 21)
    bandwidth = 0.35
    kernel = GeodesicGaussian.of_bandwidth(bandwidth) if way == "kde" else InfoNCEKernel(tuple(temperatures.tolist()))
    found = KernelEnergy(potential(), temperatures, kernel).gradient(z)
    leaf = z.clone().requires_grad_()
    cosine = leaf @ leaf.mT
    if way == "kde":
        angle = torch.arccos(cosine.clamp(-1 + 1e-12, 1 - 1e-12))
        others = torch.ones(21, 21, dtype=torch.float64)
        matrix = torch.exp(-(angle**2) / (2 * bandwidth**2)) * (1 - torch.eye(21)) + torch.eye(21)
    else:
        others = 1 - torch.eye(21, dtype=torch.float64)
        matrix = torch.exp((cosine - 1) / temperatures[:, None, None])
    energy = (potential()(leaf) / temperatures[:, None]).sum() + (matrix * others).sum(2).log().sum()
    (expected,) = torch.autograd.grad(energy, leaf)
    inside = lambda g: g - (g * z).sum(2, keepdim=True) * z  # noqa: E731
    scale = float(inside(expected).abs().max())
    assert torch.allclose(inside(found), inside(expected), atol=(2e-4 if way == "kde" else 1e-12) * scale)


def test_adam_is_torchs_on_the_tangent_gradient() -> None:
    z = points(2, 5)
    target = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    adam = SphereAdam(z.clone(), rate=0.05, noise=0.0)
    plain = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([plain], lr=0.05)
    for number in range(20):
        adam.step(-target.expand_as(z), number, generator=torch.Generator())
        with torch.no_grad():
            plain.grad = -target + (plain @ target)[..., None] * plain
            optimizer.step()
            plain /= plain.norm(dim=2, keepdim=True)
    assert torch.allclose(adam.z, plain.detach(), atol=1e-7)


def test_laws_by_quadrature_and_flow() -> None:
    """Cap mass of the Gibbs law by a plain sum over a fine grid of angles; the flow ends there."""
    plan = Plan(temperatures=(1.0, 0.2), degree=40)
    found = laws_part(plan)
    height = (torch.arange(2000, dtype=torch.float64) + 0.5) / 1000 - 1
    turn = (torch.arange(2000, dtype=torch.float64) + 0.5) * math.pi / 1000
    ring = (1 - height**2).sqrt()[:, None]
    grid = torch.stack(torch.broadcast_tensors(ring * turn.cos(), ring * turn.sin(), height[:, None]), 2)
    for k, tau in enumerate(plan.temperatures):
        weight = torch.exp(-potential()(grid) / tau)
        mass = float((weight * in_caps(grid)).sum() / weight.sum())
        assert found["exact"][k] == pytest.approx(mass, abs=1e-3)
        assert found["flow"][k] == pytest.approx(found["exact"][k], abs=1e-5)
        assert found["flow_kl"][k] < 1e-8


def test_energies_of_atoms_by_loops() -> None:
    atoms = points(1, 4)[0]
    masses = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    grid = quadrature_rule(Sphere(3), 60)
    smoothed, energy = infonce_energy(atoms, masses, 0.5, grid)
    expected = 0.0
    for z, m in zip(atoms, masses, strict=True):
        cross = sum(float(n) * math.exp((float(z @ w) - 1) / 0.5) for w, n in zip(atoms, masses, strict=True))
        expected += float(m) * (float(potential()(z)) / 0.5 + math.log(cross))
    assert float(energy) == pytest.approx(expected, abs=1e-12)
    component = torch.multinomial(masses, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat(
        [
            VonMisesFisher(atoms[k], 2.0).sample(
                int((component == k).sum()), generator=torch.Generator().manual_seed(k)
            )
            for k in range(4)
        ]
    )
    mass = float(in_caps(drawn).double().mean())
    assert (
        abs(float(smoothed) - mass) < 4 * math.sqrt(mass * (1 - mass) / len(drawn)) + 1e-3
    )  # the caps cut between nodes


def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laws = cache(wells.laws_part)  # of the plan alone: once for both runs
    monkeypatch.setattr(wells, "laws_part", laws)
    undisturbed = run_gibbs(tmp_path / "whole", plan=TINY)

    calls = 0

    def stop(share: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_gibbs(tmp_path / "cut", plan=TINY, progress=stop)
    assert not (tmp_path / "cut" / "results.json").exists()
    shares: list[float] = []
    resumed = run_gibbs(tmp_path / "cut", plan=TINY, progress=shares.append)
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert resumed == undisturbed
    whole, cut = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "cut"))
    assert whole == cut
    assert json.loads((tmp_path / "cut" / "provenance.json").read_text())["resumed"]
    assert (tmp_path / "whole" / "particles.gif").read_bytes() == (tmp_path / "cut" / "particles.gif").read_bytes()


@pytest.mark.slow
def test_cold_particles_collapse_under_the_paper_s_kernel_where_the_law_does_not(tmp_path: Path) -> None:
    """(a) at tau = 0.1: all mass in the caps, where the Gibbs law has 0.707 of it."""
    plan = Plan(temperatures=(0.1,), particles=128, seeds=2, steps=600, degree=24, chains=64, frames=3)
    (row,) = run_gibbs(tmp_path, plan=plan)["rows"]
    assert row["gibbs"] == pytest.approx(0.7065, abs=1e-3)
    assert row["kde"]["value"] > 0.97
    assert abs(row["mala"]["value"] - row["gibbs"]) < 4 * row["mala"]["stderr"]
