"""Intrinsic energies and their variations against closed forms and finite differences."""

import math

import pytest
import torch

from infomech import InputError, Sphere, VonMisesFisher
from infomech.energies import (
    effective_potential,
    fisher_information,
    intrinsic_energy,
    intrinsic_energy_sym,
    intrinsic_second_variation,
    intrinsic_second_variation_sym,
    intrinsic_variation,
    intrinsic_variation_sym,
    kl_divergence,
    symmetric_divergence,
)
from infomech.equilibria import GibbsLaw
from infomech.geometry import harmonics, quadrature_rule
from infomech.measures import Density

GRIDS = [quadrature_rule(Sphere(2), 64), quadrature_rule(Sphere(3), 16)]
TAU = 0.6


def smooth(grid, seed: int) -> torch.Tensor:
    basis = harmonics(grid, 3)
    noise = torch.randn(basis.values.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = noise / noise.norm()
    return basis.synthesise(noise) * 1.5


def setting(grid, seed: int):
    """Two densities, two potentials, and two perturbations of mass 0."""
    rho = tuple(Density.from_log(smooth(grid, seed + i), grid) for i in (0, 1))
    u = tuple(smooth(grid, seed + i) for i in (2, 3))
    d = []
    for r, i in zip(rho, (4, 5), strict=True):
        f = smooth(grid, seed + i)
        d.append(r.values * (f - r.mean(f)))
    return rho, u, tuple(d)


def shifted(rho: Density, direction: torch.Tensor, size: float) -> Density:
    return Density((rho.values + size * direction).log(), rho.quadrature)


@pytest.mark.parametrize("grid", GRIDS, ids=["S1", "S2"])
@pytest.mark.parametrize("seed", range(10))
def test_excess_energy_is_the_divergence_from_gibbs(grid, seed: int) -> None:
    (rho, _), (u, _), _ = setting(grid, 10 * seed)
    law = GibbsLaw(u, TAU, grid)
    excess = intrinsic_energy(rho, u, temperature=TAU) - intrinsic_energy(law.density, u, temperature=TAU)
    assert excess.item() == pytest.approx(kl_divergence(rho, law.density).item(), abs=1e-10)
    assert intrinsic_energy(law.density, u, temperature=TAU).item() == pytest.approx(
        -law.log_partition.item(), abs=1e-12
    )
    variation = intrinsic_variation(law.density, u, temperature=TAU)
    assert (variation - variation.mean()).abs().max() < 1e-12  # constant at the minimum


def test_energy_of_von_mises_fisher_in_closed_form() -> None:
    grid = quadrature_rule(Sphere(3), 32)
    law = VonMisesFisher(torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64), 5.0)
    rho = Density(law.log_density(grid.nodes), grid)
    energy = intrinsic_energy(rho, -grid.nodes[:, 2], temperature=TAU)
    truth = -0.8 * law.mean_resultant_length / TAU - law.entropy()
    assert energy.item() == pytest.approx(truth.item(), abs=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=["S1", "S2"])
@pytest.mark.parametrize("weight", [0.0, 0.4, 0.75, 1.0, 1.5])
def test_variations_against_finite_differences(grid, weight: float) -> None:
    rho, u, d = setting(grid, 7)
    options = {"temperature": TAU, "divergence_weight": weight}

    def energy(size: float) -> float:
        pair = [shifted(r, e, size) for r, e in zip(rho, d, strict=True)]
        return intrinsic_energy_sym(*pair, u, **options).item()

    # Central differences of order 4 with h = 1e-2: errors of order h^4 = 1e-8 and rounding / h^2 = 1e-12.
    h = 1e-2
    e = {k: energy(k * h) for k in (-2, -1, 0, 1, 2)}
    first = (e[-2] - 8 * e[-1] + 8 * e[1] - e[2]) / (12 * h)
    second = (-e[-2] + 16 * e[-1] - 30 * e[0] + 16 * e[1] - e[2]) / (12 * h * h)
    v1, v2 = intrinsic_variation_sym(*rho, u, **options)
    assert first == pytest.approx(grid.integrate(v1 * d[0] + v2 * d[1]).item(), abs=1e-6)
    closed = intrinsic_second_variation_sym(*rho, d, divergence_weight=weight).item()
    assert second == pytest.approx(closed, rel=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=["S1", "S2"])
def test_one_modality_variations_against_finite_differences(grid) -> None:
    (rho, _), (u, _), (d, _) = setting(grid, 3)
    h = 1e-2
    e = {k: intrinsic_energy(shifted(rho, d, k * h), u, temperature=TAU).item() for k in (-2, -1, 0, 1, 2)}
    first = (e[-2] - 8 * e[-1] + 8 * e[1] - e[2]) / (12 * h)
    second = (-e[-2] + 16 * e[-1] - 30 * e[0] + 16 * e[1] - e[2]) / (12 * h * h)
    assert first == pytest.approx(grid.integrate(intrinsic_variation(rho, u, temperature=TAU) * d).item(), abs=1e-6)
    assert second == pytest.approx(intrinsic_second_variation(rho, d).item(), rel=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=["S1", "S2"])
@pytest.mark.parametrize("weight", [0.0, 0.7, 0.75, 0.8, 1.0])
def test_coefficients_at_a_matched_state(grid, weight: float) -> None:
    rho, _, (d, _) = setting(grid, 5)
    matched = rho[0]
    scale = fisher_information(matched, d).item()
    half = {"divergence_weight": weight}
    # sum = d, m = 0; then sum = 0, m = d. The second-order term is half of the second variation.
    common = intrinsic_second_variation_sym(matched, matched, (d / 2, d / 2), **half).item() / 2 / scale
    difference = intrinsic_second_variation_sym(matched, matched, (d / 2, -d / 2), **half).item() / 2 / scale
    assert common == pytest.approx(1 / 8, abs=1e-12)
    assert difference == pytest.approx((4 * weight - 3) / 8, abs=1e-12)


def test_concave_in_one_modality_with_the_other_held() -> None:
    for seed in range(20):
        rho, _, (d, _) = setting(GRIDS[0], 11 * seed)
        value = intrinsic_second_variation_sym(*rho, (d, torch.zeros_like(d)))
        closed = -GRIDS[0].integrate(rho[1].values * (d / rho[0].values).square()) / 2
        assert value.item() == pytest.approx(closed.item(), rel=1e-10)
        assert value < 0


def test_entropy_cancels_in_the_best_response() -> None:
    rho, u, _ = setting(GRIDS[1], 2)
    v1, _ = intrinsic_variation_sym(*rho, u, temperature=TAU)
    barrier = effective_potential(rho[1], u[0], temperature=TAU)
    torch.testing.assert_close(v1, (barrier + rho[1].values / rho[0].values) / 2, rtol=0, atol=1e-12)


def test_full_control_takes_the_divergence_away_even_where_it_is_infinite() -> None:
    grid = GRIDS[0]
    values = torch.ones(64, dtype=torch.float64)
    values[3:9] = 0
    half, flat = Density.from_values(values, grid), Density.uniform(grid)
    assert symmetric_divergence(half, flat) == math.inf
    u = grid.nodes[:, 0]
    energy = intrinsic_energy_sym(half, flat, (u, u), temperature=TAU, divergence_weight=1.0)
    parts = [intrinsic_energy(r, u, temperature=TAU) for r in (half, flat)]
    assert energy.item() == pytest.approx(sum(parts).item() / 2, abs=1e-13)


def test_bad_input() -> None:
    grid = GRIDS[0]
    rho = Density.uniform(grid)
    flat = torch.zeros(64, dtype=torch.float64)
    with pytest.raises(InputError, match="temperature is 0"):
        intrinsic_energy(rho, flat, temperature=0.0)
    with pytest.raises(InputError, match="temperature is nan"):
        intrinsic_energy_sym(rho, rho, (flat, flat), temperature=math.nan)
    with pytest.raises(InputError, match="potential is not finite at 64 of 64"):
        intrinsic_energy(rho, flat + math.nan, temperature=1.0)
    with pytest.raises(InputError, match="potential U21 is not finite"):
        intrinsic_energy_sym(rho, rho, (flat, flat + math.inf), temperature=1.0)
    with pytest.raises(InputError, match="different nodes"):
        symmetric_divergence(rho, Density.uniform(GRIDS[1]))
