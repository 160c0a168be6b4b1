"""Energies of k modalities: against loops over ordered pairs, and against the symmetric energy of two."""

import itertools
import math

import pytest
import torch

from infomech import Cosine, InputError, Sphere, log_kernel_volume
from infomech.energies import (
    intrinsic_energy_sym,
    pairwise_divergence,
    pairwise_energy,
    pairwise_intrinsic_energy,
    symmetric_divergence,
)
from infomech.geometry import harmonics, quadrature_rule
from infomech.measures import Density

CIRCLE = quadrature_rule(Sphere(2), 48)
TAU = 0.4


def smooth(grid, seed: int, size: float = 0.7) -> torch.Tensor:
    basis = harmonics(grid, 3)
    noise = torch.randn(basis.values.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise[0] = 0
    return size * basis.synthesise(noise)


def setting(k: int, grid=CIRCLE) -> tuple[list[Density], torch.Tensor]:
    laws = [Density.from_log(smooth(grid, i), grid) for i in range(k)]
    return laws, torch.stack([smooth(grid, 10 + i) for i in range(k)])


def test_two_modalities_are_the_symmetric_energy() -> None:
    laws, u = setting(2)
    for weight in (0.0, 0.75, 1.0):
        found = pairwise_intrinsic_energy(laws, u, temperature=TAU, divergence_weight=weight)
        truth = intrinsic_energy_sym(*laws, tuple(u), temperature=TAU, divergence_weight=weight)
        assert found.item() == pytest.approx(truth.item(), abs=1e-13)
    assert pairwise_divergence(laws).item() == pytest.approx(symmetric_divergence(*laws).item(), abs=1e-14)


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_energies_are_means_over_ordered_pairs(k: int, weight: float) -> None:
    # Written out pair by pair, with a potential of its own for each ordered pair.
    laws, _ = setting(k)
    pair_potentials = {(i, j): smooth(CIRCLE, 100 + 10 * i + j) for i, j in itertools.permutations(range(k), 2)}
    u = torch.stack([sum(pair_potentials[i, j] for j in range(k) if j != i) / (k - 1) for i in range(k)])
    log_volume = log_kernel_volume(Sphere(2), Cosine(), TAU)
    kernel = torch.exp(CIRCLE.nodes @ CIRCLE.nodes.mT / TAU - log_volume)
    log_smooth = [(kernel @ (rho.values * CIRCLE.weights)).log() for rho in laws]
    sharp = soft = 0.0
    for i, j in pair_potentials:
        q, r = laws[i].values * CIRCLE.weights, laws[j]
        aligned = q @ pair_potentials[i, j] / TAU
        sharp += aligned + q @ (r.log_values + weight * (laws[i].log_values - r.log_values))
        soft += aligned + q @ (log_smooth[j] + weight * (log_smooth[i] - log_smooth[j]))
    pairs = k * (k - 1)
    options = {"temperature": TAU, "divergence_weight": weight}
    assert pairwise_intrinsic_energy(laws, u, **options).item() == pytest.approx(float(sharp) / pairs, abs=1e-12)
    assert pairwise_energy(laws, u, **options).item() == pytest.approx(float(soft) / pairs, abs=1e-12)


def test_bad_input() -> None:
    laws, u = setting(3)
    with pytest.raises(InputError, match="1 laws are given"):
        pairwise_divergence(laws[:1])
    with pytest.raises(InputError, match="2 potentials for 3"):
        pairwise_intrinsic_energy(laws, u[:2], temperature=TAU)
    with pytest.raises(InputError, match="U_2 is not finite"):
        pairwise_energy(laws, torch.stack([u[0], u[1] * math.nan, u[2]]), temperature=TAU)
    with pytest.raises(InputError, match=r"temperature is 0\.0"):
        pairwise_energy(laws, u, temperature=0.0)
    with pytest.raises(InputError, match="different nodes"):
        pairwise_divergence([laws[0], Density.uniform(quadrature_rule(Sphere(2), 16))])
