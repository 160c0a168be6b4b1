"""The minimiser of D5 at finite temperature (T13): closed forms, scipy, plain sums and descent on nodes."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch

from infomech import Cosine, FlatTorus, InputError, Sphere, log_kernel_volume
from infomech.equilibria import LinearPotential, TwoWellPotential, minimise_measure, vmf_equilibrium
from infomech.equilibria.finite_temperature import (
    held_energy,
    held_second_variation,
    held_variation,
    sharp_ratio,
    vmf_energy,
)
from infomech.geometry import quadrature_rule
from infomech.measures import Density

GOLDEN = (1 + math.sqrt(5)) / 2
EAST = torch.tensor([1.0, 0.0], dtype=torch.float64)
CIRCLE = quadrature_rule(Sphere(2), 512)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small
    yield
    torch.set_num_threads(threads)


def two_sphere_energy(k: float, tau: float) -> float:
    """J of vMF(m, k) on S^2 for U = -m.z by scipy: all normalisers are log(sinh k / k)."""

    def log_sinhc(x: float) -> float:
        return x + math.log(-math.expm1(-2 * x) / (2 * x))

    def integrand(t: float) -> float:
        tilted = math.sqrt(k * k + 1 / tau**2 + 2 * k * t / tau)
        log_field = log_sinhc(tilted) - log_sinhc(k) - log_sinhc(1 / tau) - math.log(4 * math.pi)
        density = math.exp(k * t - k) * k / -math.expm1(-2 * k)
        return density * (-t / tau + log_field)

    return scipy.integrate.quad(integrand, -1, 1, epsabs=1e-13, epsrel=1e-12, points=[1 - 8 / k])[0]


def test_the_number_of_the_claim() -> None:
    fit = scipy.optimize.minimize_scalar(lambda k: two_sphere_energy(k, 0.1), bounds=(10, 30), method="bounded")
    found = vmf_equilibrium(3, temperature=0.1)
    assert found.ratio == pytest.approx(1.659, abs=1e-3)
    assert found.ratio == pytest.approx(fit.x * 0.1, abs=1e-4)  # its own tolerance in k is 1e-5, in a flat minimum
    assert found.energy == pytest.approx(two_sphere_energy(found.concentration, 0.1), abs=1e-11)
    assert found.gibbs_energy == pytest.approx(two_sphere_energy(10.0, 0.1), abs=1e-11)
    assert found.energy < found.gibbs_energy - 0.05


@pytest.mark.parametrize(("dim", "n"), [(2, 128), (3, 32)])
def test_vmf_energy_on_nodes(dim: int, n: int) -> None:
    grid = quadrature_rule(Sphere(dim), n)
    u = -1.3 * grid.nodes[:, 0]
    rho = Density.from_log(7.0 * grid.nodes[:, 0], grid)
    truth = held_energy(rho, u, temperature=0.3).item()
    assert vmf_energy(dim, 7.0, temperature=0.3, slope=1.3) == pytest.approx(truth, abs=1e-10)


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_the_sharp_limit_is_the_golden_ratio(dim: int) -> None:
    assert sharp_ratio() == pytest.approx(GOLDEN, abs=1e-15)
    off = [vmf_equilibrium(dim, temperature=t).ratio - GOLDEN for t in (0.002, 0.001)]
    assert off[0] / off[1] == pytest.approx(2, abs=0.1)  # of first order in tau
    assert abs(off[1]) < 0.02


@pytest.mark.parametrize("dim", [2, 3, 9, 64, 512])
def test_along_the_gibbs_laws_the_energy_stays_below_f(dim: int) -> None:
    """J - F -> (d - 1)/2 (1/2 - log 2), not 0: -0.193 nats on S^2 only; F(rho*) = -log V. The rest falls as d^2 tau."""
    truth = (dim - 1) / 2 * (0.5 - math.log(2))
    gaps = []
    for tau in (1e-5, 1e-6):
        energy = vmf_energy(dim, 1 / tau, temperature=tau)
        gaps.append(energy + log_kernel_volume(Sphere(dim), Cosine(), tau))
        assert gaps[-1] == pytest.approx(truth, abs=dim**2 * tau + 1e-9)
    if dim > 3:  # a first-order rate: extrapolated to tau = 0 the rest is of second order
        assert gaps[1] + (gaps[1] - gaps[0]) / 9 == pytest.approx(truth, rel=1e-5)


def test_the_golden_ratio_at_very_low_temperatures() -> None:
    for dim in (3, 64):
        assert vmf_equilibrium(dim, temperature=1e-9).ratio == pytest.approx(GOLDEN, abs=1e-5)


@pytest.mark.parametrize("slope", [0.5, 1.5, 1.9])
def test_the_sharp_limit_at_other_slopes(slope: float) -> None:
    v = 1 / sharp_ratio(slope)
    assert 1 / (1 + v) + 1 / (1 + v) ** 2 == pytest.approx(slope, abs=1e-14)
    assert vmf_equilibrium(3, temperature=1e-4, slope=slope).ratio == pytest.approx(1 / v, rel=1e-3)


def test_steep_wells_collapse() -> None:
    assert vmf_equilibrium(3, temperature=0.3, slope=2.0).concentration == math.inf
    assert sharp_ratio(2.0) == math.inf
    sharp = vmf_energy(3, 1e6, temperature=0.3, slope=2.0)
    assert vmf_energy(3, math.inf, temperature=0.3, slope=2.0) == pytest.approx(sharp, abs=1e-4)
    grid = quadrature_rule(Sphere(3), 24)
    steep = minimise_measure(lambda z: -2.1 * z[..., 0], temperature=0.3, quadrature=grid)
    assert steep.count() == 1
    assert steep.violation < 1e-7
    assert steep.energy == pytest.approx(vmf_energy(3, math.inf, temperature=0.3, slope=2.1), abs=1e-10)
    assert minimise_measure(lambda z: -1.8 * z[..., 0], temperature=0.3, quadrature=grid).count() > 1


def smooth(seed: int, size: float = 1.0) -> torch.Tensor:
    noise = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    angle = CIRCLE.angles[:, 0]
    waves = [f(k * angle) for k in (1, 2, 3) for f in (torch.cos, torch.sin)]
    return size * sum(a * w for a, w in zip(noise, waves, strict=True)) / 2


def test_variations_against_differences() -> None:
    u, rho = smooth(0), Density.from_log(smooth(1), CIRCLE)
    f = smooth(2)
    d = rho.values * (f - rho.mean(f))

    def energy(step: float) -> float:
        return held_energy(Density.from_values(rho.values + step * d, CIRCLE), u, temperature=0.2).item()

    h = 1e-3
    values = [energy(k * h) for k in (-2, -1, 0, 1, 2)]
    first = (values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12 * h)
    second = (-values[0] + 16 * values[1] - 30 * values[2] + 16 * values[3] - values[4]) / (12 * h * h)
    variation = CIRCLE.integrate(held_variation(rho, u, temperature=0.2) * d).item()
    assert variation == pytest.approx(first, abs=1e-10)
    assert held_second_variation(rho, d, temperature=0.2).item() == pytest.approx(second, abs=1e-7)


def test_the_energy_is_not_convex() -> None:
    # Nearly a point mass at 0, and masses of two signs at the angles a and b: the form c' M c of the module's head.
    tau, a, b = 0.05, 0.9, 1.1
    angle = torch.atan2(CIRCLE.nodes[:, 1], CIRCLE.nodes[:, 0])

    def bump(centre: float) -> torch.Tensor:
        return Density.from_log(4000 * (angle - centre).cos(), CIRCLE).values

    def kernel(t: float) -> float:
        return math.exp((math.cos(t) - 1) / tau)

    off = kernel(b - a) * (1 / kernel(a) + 1 / kernel(b)) / 2
    assert 1 / (kernel(a) * kernel(b)) < off**2
    c = off * kernel(a)  # the worst direction is (c, -1)
    rho = Density.from_values(bump(0.0), CIRCLE)
    d = c * bump(a) - bump(b)
    d = d - rho.values * CIRCLE.integrate(d)
    assert held_second_variation(rho, d, temperature=tau) < 0
    # and the energy itself bends down along it, from a law with a little mass at a and b
    size, u = 0.01 * kernel(b), torch.zeros_like(d)
    base = bump(0.0) + size * (c * bump(a) + bump(b))
    path = [Density.from_values(base + s * size / 2 * d, CIRCLE) for s in (-1, 0, 1)]
    low, middle, high = (held_energy(r, u, temperature=tau) for r in path)
    assert low + high - 2 * middle < -1e-10
    flat = Density.uniform(CIRCLE)
    assert held_second_variation(flat, smooth(3), temperature=tau) > 0


def plain_energy(places: torch.Tensor, masses: torch.Tensor, u: torch.Tensor, tau: float, volume: float) -> float:
    x, w = places.numpy(), masses.numpy()
    kernel = np.exp((x @ x.T - 1) / tau)
    return float(w @ (u.numpy() / tau + np.log(kernel @ w)) + 1 / tau - math.log(volume))


@pytest.mark.parametrize("tau", [0.3, 0.1])
def test_atoms_on_the_circle(tau: float) -> None:
    found = minimise_measure(LinearPotential(EAST), temperature=tau, quadrature=CIRCLE)
    assert found.status == "stationary"
    volume = 2 * math.pi * float(np.i0(1 / tau))
    plain = plain_energy(found.atoms, found.masses, -found.atoms[:, 0], tau, volume)
    assert found.energy == pytest.approx(plain, abs=1e-11)
    assert max(found.start_energies) - found.energy < 1e-9  # not convex, yet the starts agree
    assert found.masses.sum().item() == pytest.approx(1, abs=1e-12)
    assert found.energy < vmf_equilibrium(2, temperature=tau).energy - 1e-3
    # phi at the atoms is its level, J + 1, and nowhere within reach is it lower.
    x, w = found.atoms.numpy(), found.masses.numpy()
    kernel = np.exp((x @ x.T - 1) / tau)
    field = kernel @ w
    phi = -x[:, 0] / tau + np.log(field) + kernel @ (w / field) + 1 / tau - math.log(volume)
    # A light atom's phi is known to the search's gradient of 1e-11 over its weight, at best.
    assert np.abs(w * (phi - found.energy - 1)).max() < 1e-8
    assert found.gain <= 1e-10
    if tau == 0.3:
        assert found.violation < 1e-6
    assert found.count() == {0.3: 5, 0.1: 3}[tau]


def test_stationary_measures_are_not_unique() -> None:
    # With an atom at the mode, and without: both stationary, at slightly different energies.
    grid = quadrature_rule(Sphere(2), 1024)
    found = [
        minimise_measure(LinearPotential(EAST), temperature=1.0, quadrature=grid, starts=(1,), seed=seed)
        for seed in (2, 11)
    ]
    at_mode = [float(f.masses[f.atoms[:, 0] > 0.999].sum()) for f in found]
    assert at_mode[0] > 0.3
    assert at_mode[1] == 0
    assert all(f.status == "stationary" for f in found)
    assert all(len(f.masses) == 7 for f in found)
    assert found[1].energy - found[0].energy == pytest.approx(7.425e-8, abs=1e-10)


@pytest.mark.slow
def test_descent_on_nodes_finds_no_lower_energy() -> None:
    # Multiplicative descent on 256 nodes, which needs no atoms: above the atoms' energy, and close to it.
    grid, tau = quadrature_rule(Sphere(2), 256), 0.3
    u = -grid.nodes[:, 0]
    found = minimise_measure(LinearPotential(EAST), temperature=tau, quadrature=grid)
    rho = Density.uniform(grid)
    for _ in range(4000):
        step = rho.log_values - held_variation(rho, u, temperature=tau)
        rho = Density.from_log(step - step.max(), grid)
    energy = held_energy(rho, u, temperature=tau).item()
    assert found.energy - 1e-9 < energy < found.energy + 5e-4
    outer = held_energy(Density.from_log(-u / tau, grid), u, temperature=tau).item()
    assert outer > energy + 0.03


def test_smoothed_density_and_distances() -> None:
    found = minimise_measure(LinearPotential(EAST), temperature=0.1, quadrature=CIRCLE)
    kernel = torch.exp((CIRCLE.nodes @ found.atoms.mT - 1) / 0.1) @ found.masses
    truth = kernel / CIRCLE.integrate(kernel)
    torch.testing.assert_close(found.smoothed.values, truth, rtol=1e-10, atol=0)
    gibbs = torch.exp((CIRCLE.nodes[:, 0] - 1) / 0.1)
    gibbs = gibbs / CIRCLE.integrate(gibbs)
    assert found.kl_to_gibbs == pytest.approx(CIRCLE.integrate(truth * (truth / gibbs).log()).item(), abs=1e-10)
    assert found.kl_to_gibbs > 0.05  # nothing makes the smoothed density the Gibbs law either: it is wider
    draws = 4000
    generator = torch.Generator().manual_seed(0)
    x = found.atoms[torch.multinomial(found.masses, draws, replacement=True, generator=generator)]
    y = found.gibbs.sample_exact(draws, generator=generator)
    between, own, among = (torch.cdist(a, b).sum() for a, b in ((x, y), (x, x), (y, y)))
    pairs = draws * (draws - 1)
    measured = 2 * between / draws**2 - own / pairs - among / pairs
    assert found.energy_distance_to_gibbs == pytest.approx(measured.item(), abs=0.004)  # of order 1 / sqrt(4000) / 4


def test_two_wells_on_the_sphere() -> None:
    found = minimise_measure(
        TwoWellPotential.paper(), temperature=0.5, quadrature=quadrature_rule(Sphere(3), 24), starts=(2, 4)
    )
    assert found.status == "stationary"
    assert max(found.start_energies) - found.energy < 1e-8
    grid = quadrature_rule(Sphere(3), 24)
    gibbs = held_energy(found.gibbs.density, found.gibbs.node_values, temperature=0.5).item()
    assert found.energy < gibbs - 0.02
    assert found.smoothed.quadrature.shape == grid.shape


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"temperature is 0\.0"):
        vmf_equilibrium(3, temperature=0.0)
    with pytest.raises(InputError, match=r"slope is -1\.0"):
        vmf_equilibrium(3, temperature=0.1, slope=-1.0)
    with pytest.raises(InputError, match="FlatTorus"):
        minimise_measure(lambda z: z[..., 0], temperature=0.1, quadrature=quadrature_rule(FlatTorus(1), 16))
    with pytest.raises(InputError, match="starts are"):
        minimise_measure(LinearPotential(EAST), temperature=0.1, quadrature=CIRCLE, starts=(0,))
    with pytest.raises(InputError, match="tolerance is"):
        minimise_measure(LinearPotential(EAST), temperature=0.1, quadrature=CIRCLE, tolerance=0.0)
    with pytest.raises(InputError, match="not finite"):
        minimise_measure(lambda z: z[..., 0] * math.nan, temperature=0.1, quadrature=CIRCLE)


def test_too_few_atoms_say_so() -> None:
    found = minimise_measure(LinearPotential(EAST), temperature=0.3, quadrature=CIRCLE, starts=(1,), max_atoms=2)
    assert found.status == "atoms used up"
    assert found.gain > 1e-6
