"""Stability of matched marginals: closed forms, finite differences of the energies, and spectra on nodes."""

import itertools
import math

import pytest
import scipy.integrate
import scipy.special
import torch

from infomech import RBF, Cosine, InputError, Sphere, log_kernel_volume
from infomech.energies import intrinsic_energy_sym, pairwise_intrinsic_energy
from infomech.equilibria import (
    GibbsLaw,
    critical_divergence_weight,
    kernel_eigenvalues,
    matched_potential,
    matched_stability,
    mode_coefficients,
    stationarity_residual,
)
from infomech.geometry import harmonics, quadrature_rule
from infomech.measures import Density


def smooth(grid, seed: int) -> torch.Tensor:
    basis = harmonics(grid, 3)
    noise = torch.randn(basis.values.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return basis.synthesise(noise)


def bump(grid, seed: int, size: float = 0.7) -> torch.Tensor:
    """As `smooth`, without a constant and smaller."""
    values = smooth(grid, seed)
    return size * (values - grid.integrate(values) / grid.weights.sum())


TAU = 0.4


@pytest.mark.parametrize("dim", [2, 3, 8])
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_kernel_eigenvalues_by_funk_and_hecke(dim: int, tau: float) -> None:
    # a_l = int exp(t/tau) P_l(t) (1-t^2)^((d-3)/2) dt / int exp(t/tau) (1-t^2)^((d-3)/2) dt, P_l Gegenbauer, P_l(1) = 1
    # with t = cos x.
    def integral(ell: int) -> float:
        def integrand(x: float) -> float:
            order = dim / 2 - 1
            if dim == 2:
                p = math.cos(ell * x)
            else:
                gegenbauer = scipy.special.eval_gegenbauer
                p = gegenbauer(ell, order, math.cos(x)) / gegenbauer(ell, order, 1)
            return math.exp((math.cos(x) - 1) / tau) * p * math.sin(x) ** (dim - 2)

        return scipy.integrate.quad(integrand, 0, math.pi, epsabs=1e-13, epsrel=1e-11)[0]

    truth = [integral(ell) / integral(0) for ell in range(6)]
    assert kernel_eigenvalues(dim, 5, temperature=tau).tolist() == pytest.approx(truth, abs=1e-11)
    # |z - w|^2 = 2 - 2 z.w: an RBF of scale g is the cosine at temperature tau / (2 g)
    rbf = kernel_eigenvalues(dim, 5, temperature=2 * tau, critic=RBF(1.0))
    assert rbf.tolist() == pytest.approx(truth, abs=1e-11)


@pytest.mark.parametrize(("dim", "n"), [(2, 64), (3, 20)])
@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_uniform_spectrum_on_nodes_is_the_closed_form(dim: int, n: int, weight: float) -> None:
    flat = Density.uniform(quadrature_rule(Sphere(dim), n))
    degree = 5
    result = matched_stability(flat, divergence_weight=weight, temperature=0.3, degree=degree)
    a = kernel_eigenvalues(dim, degree, temperature=0.3)[1:]
    counts = torch.tensor([2 if dim == 2 else 2 * ell + 1 for ell in range(1, degree + 1)])
    common, difference = mode_coefficients(a, divergence_weight=weight)
    torch.testing.assert_close(result.common, common.repeat_interleave(counts).sort().values, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        result.difference, difference.repeat_interleave(counts).sort().values, rtol=0, atol=1e-10
    )
    assert result.critical_weight == pytest.approx(critical_divergence_weight(dim, 0.3), abs=1e-9)
    assert result.critical_weight == pytest.approx((2 + a[0].item()) / 4, abs=1e-9)


def energy_at_finite_temperature(q1, q2, potentials, grid, *, tau: float, weight: float) -> torch.Tensor:
    """D6 with control, written out from its definition (raw arrays; q2 and q1 need not have mass 1)."""
    log_kernel = Cosine().pairwise(grid.nodes, grid.nodes) / tau - log_kernel_volume(grid.manifold, Cosine(), tau)
    log_field = [torch.logsumexp(log_kernel + (q * grid.weights).log(), dim=1) for q in (q1, q2)]
    out = torch.zeros((), dtype=torch.float64)
    for q, u, own, cross in ((q1, potentials[0], *log_field), (q2, potentials[1], *log_field[::-1])):
        out = out + grid.integrate(q * (u / tau + cross)) / 2  # D6
        out = out + weight * grid.integrate(q * (own - cross)) / 2  # lambda Dsym of the smoothed densities
    return out


@pytest.mark.parametrize("weight", [0.0, 0.75, 0.9])
def test_finite_temperature_hessian_and_stationarity_by_differentiation(weight: float) -> None:
    grid = quadrature_rule(Sphere(2), 40)
    tau = 0.4
    rho = Density.from_log(0.7 * smooth(grid, 0), grid)
    u = matched_potential(rho, temperature=tau)

    def energy(shift: torch.Tensor) -> torch.Tensor:
        q1, q2 = rho.values + shift[0], rho.values + shift[1]
        return energy_at_finite_temperature(q1, q2, (u, u), grid, tau=tau, weight=weight)

    zero = torch.zeros(2, 40, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(energy, zero) / grid.weights
    assert (gradient - gradient.mean(1, keepdim=True)).abs().max() < 1e-12  # constant: stationary under mass
    hessian = torch.autograd.functional.hessian(energy, zero)
    result = matched_stability(rho, divergence_weight=weight, temperature=tau, degree=6)
    basis = harmonics(grid, 6).values[:, 1:]
    root = (rho.values * grid.weights).sqrt()[:, None]
    frame = torch.linalg.qr(root * (basis - rho.mean(basis.mT))).Q * (rho.values / grid.weights).sqrt()[:, None]
    for sign, found in ((1, result.common), (-1, result.difference)):
        pair = torch.stack([frame / 2, sign * frame / 2])  # so that the sum, or the difference, is the frame
        form = torch.einsum("aik,aibj,bjl->kl", pair, hessian, pair) / 2
        torch.testing.assert_close(found, torch.linalg.eigvalsh(form), rtol=0, atol=1e-10)


def test_sharp_limit() -> None:
    grid = quadrature_rule(Sphere(3), 10)
    rho = Density.from_log(smooth(grid, 1), grid)
    for weight in (0.0, 0.5, 0.75, 1.0):
        result = matched_stability(rho, divergence_weight=weight, degree=4)
        common, difference = mode_coefficients(divergence_weight=weight)
        torch.testing.assert_close(result.common, torch.full_like(result.common, common))
        torch.testing.assert_close(
            result.difference, torch.full_like(result.difference, difference), atol=1e-14, rtol=0
        )
        assert result.stable == (weight >= 0.75)
        torch.testing.assert_close(result.growth_rates, torch.full_like(result.common, (3 - 4 * weight) / 2))
    assert result.critical_weight == pytest.approx(0.75, abs=1e-12)


def test_critical_weight_goes_to_three_quarters_as_the_kernel_sharpens_and_to_one_half_in_high_dimension() -> None:
    weights = [critical_divergence_weight(3, tau) for tau in (1.0, 0.1, 0.01, 0.001)]
    assert weights == sorted(weights)
    # A_3(k) = coth k - 1/k
    assert weights[2] == pytest.approx((2 + 1 - 0.01) / 4, abs=1e-12)
    assert abs(critical_divergence_weight(100000, 0.07) - 0.5) < 1e-4
    # A_d(k) ~ k / d for k << d
    assert critical_divergence_weight(4096, 0.1) == pytest.approx(0.5 + 10 / 4096 / 4, abs=1e-5)


def test_a_concentrated_law_has_unstable_common_modes_at_finite_temperature() -> None:
    # With the potential held, a law as narrow as the kernel is no minimum even for one modality (T13).
    grid = quadrature_rule(Sphere(2), 128)
    narrow = Density.from_log(10 * grid.nodes[:, 0], grid)
    result = matched_stability(narrow, divergence_weight=1.0, temperature=0.1)
    assert result.common.min() < -1e-4
    assert result.critical_weight == math.inf
    assert not result.stable
    assert matched_stability(narrow, divergence_weight=1.0).stable  # in the sharp limit it is


def test_knife_edge_residual() -> None:
    grid = quadrature_rule(Sphere(3), 12)
    u12 = smooth(grid, 2)
    rho = GibbsLaw(u12, 0.5, grid).density
    for weight in (0.0, 0.75):
        same = stationarity_residual(rho, rho, (u12, u12 + 3.0), temperature=0.5, divergence_weight=weight)
        assert same < 1e-13
        u21 = u12 + 0.1 * smooth(grid, 3)
        off = stationarity_residual(rho, rho, (u12, u21), temperature=0.5, divergence_weight=weight)
        delta = (u21 - u12) / (2 * 0.5)
        assert off.item() == pytest.approx(rho.mean((delta - rho.mean(delta)).square()).sqrt().item(), rel=1e-10)


def test_critical_weight_of_the_flow_of_energies_changes_sign() -> None:
    # The energy of a small difference mode, straight from D9, is above or below that of the matched state.
    grid = quadrature_rule(Sphere(2), 64)
    u = 0.3 * smooth(grid, 4)
    rho = GibbsLaw(u, 0.5, grid).density
    mode = smooth(grid, 5)
    mode = rho.values * (mode - rho.mean(mode)) * 1e-3
    for weight, sign in ((0.74, -1), (0.76, 1)):
        energies = [
            intrinsic_energy_sym(a, b, (u, u), temperature=0.5, divergence_weight=weight)
            for a, b in (
                (rho, rho),
                (Density.from_values(rho.values + mode, grid), Density.from_values(rho.values - mode, grid)),
            )
        ]
        assert sign * (energies[1] - energies[0]) > 0


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(("dim", "n"), [(2, 48), (3, 12)])
def test_sharp_coefficients_of_k_modalities_by_differences(k: int, dim: int, n: int) -> None:
    grid = quadrature_rule(Sphere(dim), n)
    potential = bump(grid, 5)
    rho = GibbsLaw(potential, TAU, grid).density
    u = potential.expand(k, -1)
    shapes = torch.stack([bump(grid, 20 + i) for i in range(k)])
    tilts = rho.values * (shapes - rho.mean(shapes)[:, None])
    mean = tilts.mean(0)
    pairs = [tilts[i] - tilts[j] for i, j in itertools.combinations(range(k), 2)]
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

    common, difference = mode_coefficients(modalities=k, divergence_weight=lam)
    unit = grid.integrate(tilts.sum(0).square() / rho.values)
    assert second_order(mean.expand(k, -1), lam) == pytest.approx(common * unit.item(), rel=1e-6)
    spread = tilts - mean
    unit = sum(grid.integrate(pair.square() / rho.values) for pair in pairs)
    assert second_order(spread, lam) == pytest.approx(difference * unit.item(), rel=1e-6)
    # they decouple, and the coefficient of the difference modes is zero at lambda_c = (k + 1)/(2 k)
    whole = second_order(tilts, lam)
    assert whole == pytest.approx(second_order(mean.expand(k, -1), lam) + second_order(spread, lam), rel=1e-6)
    free, full = second_order(spread, 0.0), second_order(spread, 1.0)
    assert free / (free - full) == pytest.approx((k + 1) / (2 * k), abs=1e-6)
    assert critical_divergence_weight(modalities=k) == pytest.approx((k + 1) / (2 * k), abs=1e-15)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_finite_temperature_hessian_of_k_modalities_by_differentiation(k: int, weight: float) -> None:
    # All eigenvalues of the k x modes Hessian of the energy itself: each common one once, each difference k - 1 times.
    grid, degree = quadrature_rule(Sphere(2), 32), 4
    rho = Density.from_log(bump(grid, 3), grid)
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
    found = matched_stability(rho, modalities=k, divergence_weight=weight, temperature=TAU, degree=degree)
    # At coordinates of unit length sum^2 is k for equal d_i, and the squared differences add to k where they add to 0.
    expected = k * torch.cat([found.common, found.difference.repeat(k - 1)]).sort().values
    spectrum = torch.linalg.eigvalsh(hessian)
    torch.testing.assert_close(spectrum, expected, rtol=0, atol=1e-10)
    # In these coordinates the Fisher-Rao flow is the plain gradient flow: rates are minus twice the spectrum.
    assert (found.growth_rates[:, None] + 2 * spectrum).abs().min(1).values.max() < 1e-9


@pytest.mark.parametrize("k", [2, 3, 4])
def test_uniform_law_with_k_modalities(k: int) -> None:
    flat = Density.uniform(quadrature_rule(Sphere(3), 16))
    found = matched_stability(flat, modalities=k, divergence_weight=0.3, temperature=TAU, degree=3)
    a = kernel_eigenvalues(3, 3, temperature=TAU)[1:]
    stated = mode_coefficients(a, modalities=k, divergence_weight=0.3)
    counts = torch.tensor([3, 5, 7])
    for truth, values in zip(stated, (found.common, found.difference), strict=True):
        truth = truth.repeat_interleave(counts)
        torch.testing.assert_close(values, truth.sort().values, rtol=0, atol=1e-11)
    critical = critical_divergence_weight(3, TAU, modalities=k)
    assert critical == pytest.approx((2 + (k - 1) * float(a[0])) / (2 * k), abs=1e-14)
    assert found.critical_weight == pytest.approx(critical, abs=1e-9)
    at_critical = matched_stability(flat, modalities=k, divergence_weight=critical, temperature=TAU, degree=3)
    assert at_critical.difference.min().item() == pytest.approx(0, abs=1e-11)
    sharp = matched_stability(flat, modalities=k, degree=3)
    assert sharp.critical_weight == pytest.approx((k + 1) / (2 * k), abs=1e-12)


def test_more_modalities_need_less_control() -> None:
    weights = [critical_divergence_weight(modalities=k) for k in (2, 3, 4, 100)]
    assert weights == sorted(weights, reverse=True)
    assert weights[:3] == pytest.approx([3 / 4, 2 / 3, 5 / 8])
    assert critical_divergence_weight(4096, 100.0, modalities=5) == pytest.approx(1 / 5, abs=1e-4)


def test_bad_input() -> None:
    grid = quadrature_rule(Sphere(2), 16)
    values = torch.ones(16, dtype=torch.float64)
    values[3] = 0
    with pytest.raises(InputError, match="zero at a node"):
        matched_stability(Density.from_values(values, grid))
    with pytest.raises(InputError, match="temperature is 0"):
        matched_stability(Density.uniform(grid), temperature=0.0)
    with pytest.raises(InputError, match="temperature is -1"):
        critical_divergence_weight(3, -1.0)
    with pytest.raises(InputError, match="modalities is 1"):
        critical_divergence_weight(modalities=1)
    with pytest.raises(InputError, match="modalities is 1"):
        matched_stability(Density.uniform(grid), modalities=1)
    with pytest.raises(InputError, match="go together"):
        critical_divergence_weight(temperature=0.1)
