"""k modalities: energies against loops and D9, Hessians against differences and differentiation."""

import itertools
import math

import pytest
import torch

from infomech import Cosine, InputError, Sphere, log_kernel_volume
from infomech.energies import intrinsic_energy_sym, symmetric_divergence
from infomech.equilibria import (
    GibbsLaw,
    critical_divergence_weight,
    critical_weight_of_modalities,
    kernel_eigenvalues,
    many_stability,
    matched_stability,
    modality_coefficients,
    pairwise_divergence,
    pairwise_energy,
    pairwise_intrinsic_energy,
    sharp_coefficients,
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
    common, difference = modality_coefficients(2, divergence_weight=0.3)
    assert (common / 4, difference / 2) == pytest.approx(sharp_coefficients(0.3))
    assert modality_coefficients(2)[0] / 4 == pytest.approx(1 / 8)
    assert modality_coefficients(2)[1] / 2 == pytest.approx(-3 / 8)


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


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(("dim", "n"), [(2, 48), (3, 12)])
def test_sharp_coefficients_by_differences(k: int, dim: int, n: int) -> None:
    grid = quadrature_rule(Sphere(dim), n)
    potential = smooth(grid, 5)
    rho = GibbsLaw(potential, TAU, grid).density
    u = potential.expand(k, -1)
    shapes = torch.stack([smooth(grid, 20 + i) for i in range(k)])
    tilts = rho.values * (shapes - rho.mean(shapes)[:, None])
    mean = tilts.mean(0)
    h, lam = 1e-2, 0.3

    def second_order(directions: torch.Tensor, weight: float) -> float:
        values = [
            pairwise_intrinsic_energy(
                [Density.from_values(rho.values + s * h * d, grid) for d in directions], u,
                temperature=TAU, divergence_weight=weight,
            ).item()
            for s in (-2, -1, 0, 1, 2)
        ]  # fmt: skip
        return (-values[0] + 16 * values[1] - 30 * values[2] + 16 * values[3] - values[4]) / (24 * h * h)

    common, difference = modality_coefficients(k, divergence_weight=lam)
    unit = grid.integrate(mean.square() / rho.values)
    assert second_order(mean.expand(k, -1), lam) == pytest.approx(common * unit.item(), rel=1e-6)
    spread = tilts - mean
    unit = grid.integrate((spread.square() / rho.values).sum(0))
    assert second_order(spread, lam) == pytest.approx(difference * unit.item(), rel=1e-6)
    # they decouple, and the coefficient of the difference modes is zero at lambda_c = (k + 1)/(2 k)
    whole = second_order(tilts, lam)
    assert whole == pytest.approx(second_order(mean.expand(k, -1), lam) + second_order(spread, lam), rel=1e-6)
    free, full = second_order(spread, 0.0), second_order(spread, 1.0)
    assert free / (free - full) == pytest.approx((k + 1) / (2 * k), abs=1e-6)
    assert critical_weight_of_modalities(k) == pytest.approx((k + 1) / (2 * k), abs=1e-15)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_finite_temperature_hessian_by_differentiation(k: int, weight: float) -> None:
    # All eigenvalues of the k x modes Hessian of the energy itself: each common one once, each difference k - 1 times.
    grid, degree = quadrature_rule(Sphere(2), 32), 4
    rho = Density.from_log(smooth(grid, 3), grid)
    basis = harmonics(grid, degree).values[:, 1:]
    root = (rho.values * grid.weights).sqrt()
    frame = (
        torch.linalg.qr(root[:, None] * (basis - rho.mean(basis.mT))).Q * (rho.values / grid.weights).sqrt()[:, None]
    )
    log_volume = log_kernel_volume(Sphere(2), Cosine(), TAU)
    kernel = torch.exp(grid.nodes @ grid.nodes.mT / TAU - log_volume)

    def energy(flat: torch.Tensor) -> torch.Tensor:
        q = rho.values + flat.view(k, -1) @ frame.mT
        log_smooth = ((q * grid.weights) @ kernel).log()
        table = (q * grid.weights) @ log_smooth.mT  # (i, j): int q_i log S q_j
        own = table.diagonal().mean()
        cross = (table.sum() - table.diagonal().sum()) / (k * (k - 1))
        return (1 - weight) * cross + weight * own

    hessian = torch.autograd.functional.hessian(energy, torch.zeros(k * frame.shape[1], dtype=torch.float64)) / 2
    found = many_stability(rho, k, divergence_weight=weight, temperature=TAU, degree=degree)
    # int d^2/rho of equal d_i is 1 where the sum of squares of the coordinates is k
    expected = torch.cat([found.common / k, found.difference.repeat(k - 1)]).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(hessian), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_uniform_law_and_two_modalities(k: int) -> None:
    flat = Density.uniform(quadrature_rule(Sphere(3), 16))
    found = many_stability(flat, k, divergence_weight=0.3, temperature=TAU, degree=3)
    a = kernel_eigenvalues(3, 3, temperature=TAU)[1:]
    pairs = [modality_coefficients(k, divergence_weight=0.3, eigenvalue=float(v)) for v in a]
    counts = torch.tensor([3, 5, 7])
    for position, values in enumerate((found.common, found.difference)):
        truth = torch.tensor([p[position] for p in pairs], dtype=torch.float64).repeat_interleave(counts)
        torch.testing.assert_close(values, truth.sort().values, rtol=0, atol=1e-11)
    truth = critical_weight_of_modalities(k, ambient_dim=3, temperature=TAU)
    assert found.critical_weight == pytest.approx(truth, abs=1e-9)
    at_critical = many_stability(flat, k, divergence_weight=truth, temperature=TAU, degree=3)
    assert at_critical.difference.min().item() == pytest.approx(0, abs=1e-11)
    if k == 2:
        assert truth == pytest.approx(critical_divergence_weight(3, TAU), abs=1e-14)
        two = matched_stability(flat, divergence_weight=0.3, temperature=TAU, degree=3)
        torch.testing.assert_close(found.difference / 2, two.difference, rtol=0, atol=1e-13)
        torch.testing.assert_close(found.common / 4, two.common, rtol=0, atol=1e-13)
    assert many_stability(flat, k, degree=3).critical_weight == pytest.approx((k + 1) / (2 * k), abs=1e-12)


def test_more_modalities_need_less_control() -> None:
    weights = [critical_weight_of_modalities(k) for k in (2, 3, 4, 100)]
    assert weights == sorted(weights, reverse=True)
    assert weights[:3] == pytest.approx([3 / 4, 2 / 3, 5 / 8])
    assert critical_weight_of_modalities(5, ambient_dim=4096, temperature=100.0) == pytest.approx(1 / 5, abs=1e-4)


def test_bad_input() -> None:
    laws, u = setting(3)
    with pytest.raises(InputError, match="modalities is 1"):
        critical_weight_of_modalities(1)
    with pytest.raises(InputError, match="modalities is 1"):
        pairwise_divergence(laws[:1])
    with pytest.raises(InputError, match="2 potentials for 3"):
        pairwise_intrinsic_energy(laws, u[:2], temperature=TAU)
    with pytest.raises(InputError, match="U_2 is not finite"):
        pairwise_energy(laws, torch.stack([u[0], u[1] * math.nan, u[2]]), temperature=TAU)
    with pytest.raises(InputError, match=r"temperature is 0\.0"):
        pairwise_energy(laws, u, temperature=0.0)
    with pytest.raises(InputError, match="different nodes"):
        pairwise_divergence([laws[0], Density.uniform(quadrature_rule(Sphere(2), 16))])
    with pytest.raises(InputError, match="go together"):
        critical_weight_of_modalities(3, temperature=0.1)
