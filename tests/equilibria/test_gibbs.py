"""Gibbs laws, their masses, exact samplers and Langevin chains against closed forms and quadrature."""

import math
from collections.abc import Iterator

import pytest
import torch
from scipy import stats

from infomech import FlatTorus, InputError, Sphere, VonMisesFisher
from infomech.equilibria import EmpiricalPotential, GibbsLaw, LinearPotential, TwoWellPotential, sample_mala
from infomech.equilibria.gibbs import sample_gibbs_exact
from infomech.equilibria.langevin import effective_sample_size, langevin_step, split_rhat
from infomech.equilibria.potentials import potential_at_nodes
from infomech.geometry import quadrature_rule

TEMPERATURES = (10.0, 5.0, 2.5, 1.0, 0.5, 0.2, 0.1)  # of the paper
CAP = 0.5
NORTH = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small
    yield
    torch.set_num_threads(threads)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_caps(wells: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return ((z @ wells.mT).amax(1) >= math.cos(CAP)).double()


@pytest.mark.parametrize("tau", [2.0, 0.5, 0.1])
def test_linear_potential_gives_von_mises_fisher(tau: float) -> None:
    law = GibbsLaw(LinearPotential(NORTH), tau, quadrature_rule(Sphere(3), 32))
    oracle = VonMisesFisher(NORTH, 1 / tau)
    torch.testing.assert_close(law.density.log_values, oracle.log_density(law.quadrature.nodes), rtol=0, atol=1e-12)
    assert law.log_partition.item() == pytest.approx(-oracle.log_normalizer.item(), abs=1e-12)
    assert law.density.entropy().item() == pytest.approx(oracle.entropy().item(), abs=1e-12)
    # P(z.m >= cos r) = (1 - exp(-(1 - cos r)/tau)) / (1 - exp(-2/tau))
    truth = -math.expm1(-(1 - math.cos(CAP)) / tau) / -math.expm1(-2 / tau)
    assert law.cap_mass(NORTH[None], CAP).item() == pytest.approx(truth, abs=1e-13)


def test_caps_on_the_circle_and_the_whole_sphere() -> None:
    east = torch.tensor([1.0, 0.0], dtype=torch.float64)
    law = GibbsLaw(LinearPotential(east), 0.7, quadrature_rule(Sphere(2), 64))
    truth = stats.vonmises(1 / 0.7).cdf(0.4) - stats.vonmises(1 / 0.7).cdf(-0.4)
    assert law.cap_mass(east[None], 0.4).item() == pytest.approx(truth, abs=1e-12)
    whole = GibbsLaw(LinearPotential(NORTH), 0.7, quadrature_rule(Sphere(3), 32))
    assert whole.cap_mass(NORTH[None], math.pi).item() == pytest.approx(1, abs=1e-12)


def test_the_papers_cap_mass_at_low_temperature() -> None:
    wells = TwoWellPotential.paper()
    law = GibbsLaw(wells, 0.1, quadrature_rule(Sphere(3), 48))
    # They report 0.707 from twenty times 120,000 uniform points, a standard error of about 0.0007.
    assert law.cap_mass(wells.wells, CAP).item() == pytest.approx(0.707, abs=0.002)


def test_sublevel_mass_of_a_cap() -> None:
    law = GibbsLaw(LinearPotential(NORTH), 0.3, quadrature_rule(Sphere(3), 400))
    excess = 1 - math.cos(CAP)  # the sublevel set is the cap, up to the minimum over the nodes
    assert law.sublevel_mass(excess).item() == pytest.approx(law.cap_mass(NORTH[None], CAP).item(), abs=0.01)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_exact_sampler_of_two_wells(tau: float) -> None:
    potential = TwoWellPotential.paper()
    law = GibbsLaw(potential, tau, quadrature_rule(Sphere(3), 48))
    n = 20000
    z = law.sample_exact(n, generator=seeded(5))
    mass = law.cap_mass(potential.wells, CAP).item()
    assert abs(in_caps(potential.wells, z).mean().item() - mass) < 3 * math.sqrt(mass * (1 - mass) / n)
    mean = law.density.mean(law.quadrature.nodes.mT)
    error = z.std(0) / math.sqrt(n)
    assert ((z.mean(0) - mean).abs() < 4 * error).all()


def test_exact_sampler_with_uneven_wells_in_five_dimensions() -> None:
    first, second = torch.eye(5, dtype=torch.float64)[:2]
    potential = TwoWellPotential(first, second, sharpness=4.0, weight=0.8)
    tau, n = 0.1, 20000  # power 2.5: the other bound
    z = sample_gibbs_exact(potential, tau, n, generator=seeded(6))
    weight = -potential(uniform := Sphere(5).uniform(400000, generator=seeded(7))) / tau
    share = torch.softmax(weight, 0)
    truth = share @ uniform
    spread = ((share.square() @ (uniform - truth).square()) + z.var(0) / n).sqrt()
    assert ((z.mean(0) - truth).abs() < 4 * spread).all()


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_particles_hold_the_gibbs_mass_in_the_caps(tau: float) -> None:
    potential = TwoWellPotential.paper()
    mass = GibbsLaw(potential, tau, quadrature_rule(Sphere(3), 48)).cap_mass(potential.wells, CAP).item()
    draws = sample_mala(potential, tau, Sphere(3), generator=seeded(1), chains=768, steps=150, warmup=150)
    value, error = draws.mean(lambda z: in_caps(potential.wells, z))
    assert error < 0.01
    assert abs(value - mass) < 3 * error
    assert 0.4 < draws.acceptance <= 1


def test_langevin_keeps_the_gibbs_law_at_a_large_step() -> None:
    # Started from exact draws, any number of steps must leave the law as it is, whatever the step: here 0.5, far
    # beyond where the uncorrected scheme is accurate.
    z = sample_gibbs_exact(LinearPotential(NORTH), 0.3, 20000, generator=seeded(2))
    generator = seeded(3)
    options = {"temperature": 0.3, "step": 0.5, "manifold": Sphere(3), "generator": generator}
    for _ in range(20):
        z, moved = langevin_step(LinearPotential(NORTH), z, **options)
    assert 0.1 < moved.double().mean() < 0.9
    height = (z @ NORTH).numpy()
    edge = math.exp(-2 / 0.3)
    cdf = lambda t: (torch.exp((torch.as_tensor(t) - 1) / 0.3).numpy() - edge) / (1 - edge)  # noqa: E731
    assert stats.kstest(height, cdf).pvalue > 1e-3


def test_langevin_on_the_torus() -> None:
    def potential(z: torch.Tensor) -> torch.Tensor:
        return -(z[:, 0] + 0.5 * z[:, 0] * z[:, 2])

    draws = sample_mala(potential, 0.5, FlatTorus(2), generator=seeded(4), chains=256, steps=200)
    law = GibbsLaw(potential, 0.5, quadrature_rule(FlatTorus(2), 48))
    for axis in range(4):
        value, error = draws.mean(lambda z, axis=axis: z[:, axis])
        assert abs(value - law.density.mean(law.quadrature.nodes[:, axis]).item()) < 4 * error


def test_chains_that_do_not_mix_say_so() -> None:
    potential = TwoWellPotential(NORTH, -NORTH)
    draws = sample_mala(potential, 0.02, Sphere(3), generator=seeded(8), chains=32, steps=100)
    assert draws.status == "not mixed"
    assert "R-hat" in draws.remedy
    good = sample_mala(potential, 2.0, Sphere(3), generator=seeded(8), chains=64, steps=300)
    assert good.status == "mixed"
    assert good.remedy == ""


def test_effective_sample_size_of_an_autoregression() -> None:
    # x_t = a x_{t-1} + noise has an integrated autocorrelation time (1 + a)/(1 - a).
    a, n, chains = 0.8, 4000, 64
    noise = torch.randn(n, chains, generator=seeded(9), dtype=torch.float64)
    path = noise.clone()
    path[0] /= math.sqrt(1 - a * a)
    for t in range(1, n):
        path[t] += a * path[t - 1]
    assert effective_sample_size(path) == pytest.approx(n * chains * (1 - a) / (1 + a), rel=0.05)
    assert effective_sample_size(noise) == pytest.approx(n * chains, rel=0.05)
    assert split_rhat(path) < 1.01
    assert split_rhat(path + torch.arange(chains)) > 2
    assert split_rhat(torch.linspace(0, 1, n, dtype=torch.float64)[:, None] + 0.01 * noise) > 1.5  # a drift


def test_empirical_potential_against_a_loop() -> None:
    x, y = Sphere(4).uniform(30, generator=seeded(10)), Sphere(4).uniform(30, generator=seeded(11))
    potential = EmpiricalPotential(x, y, bandwidth=0.2)
    z = Sphere(4).uniform(7, generator=seeded(12))
    for row, value in zip(z, potential(z), strict=True):
        weights = [math.exp(float(row @ a) / 0.2) for a in x]
        truth = -sum(w * float(row @ b) for w, b in zip(weights, y, strict=True)) / sum(weights)
        assert value.item() == pytest.approx(truth, abs=1e-12)
    others = [i for i in range(30) if i != 3]
    alone = EmpiricalPotential(x[others], y[others], bandwidth=0.2)(x[3:4])
    assert potential.leave_one_out()[3].item() == pytest.approx(alone.item(), abs=1e-12)


def test_empirical_potential_of_a_known_channel() -> None:
    # y = -x exactly: every partner of a point near z is near -z, so that U(z) -> 1 as the bandwidth shrinks.
    x = Sphere(3).uniform(20000, generator=seeded(13))
    potential = EmpiricalPotential(x, -x, bandwidth=0.02)
    z = Sphere(3).uniform(20, generator=seeded(14))
    # E[z.x] under the kernel is A_3(50) = coth 50 - 1/50 = 0.98; some 200 rows carry it, hence 5 sd of 0.02 / sqrt(200)
    torch.testing.assert_close(potential(z), torch.full((20,), 0.98, dtype=torch.float64), rtol=0, atol=0.008)


def test_bad_input() -> None:
    grid = quadrature_rule(Sphere(3), 8)
    with pytest.raises(InputError, match="temperature is 0"):
        GibbsLaw(LinearPotential(NORTH), 0.0, grid)
    with pytest.raises(InputError, match="potential is not finite at 64 of 128 nodes"):
        GibbsLaw(lambda z: torch.where(z[:, 2] > 0, z[:, 2], math.nan), 1.0, grid)
    with pytest.raises(InputError, match="U12 is not finite"):
        potential_at_nodes(torch.full((128,), math.inf), grid, "U12")
    with pytest.raises(InputError, match=r"potential has \(5,\) values for 128 nodes"):
        GibbsLaw(torch.zeros(5), 1.0, grid)
    with pytest.raises(InputError, match="overlap"):
        GibbsLaw(TwoWellPotential.paper(), 1.0, grid).cap_mass(TwoWellPotential.paper().wells, 1.2)
    with pytest.raises(InputError, match="only its values at nodes"):
        GibbsLaw(torch.zeros(128), 1.0, grid).cap_mass(NORTH[None], 0.5)
    with pytest.raises(InputError, match="use sample_mala"):
        sample_gibbs_exact(lambda z: z[:, 0], 1.0, 5, generator=seeded(0))
    with pytest.raises(InputError, match=r"temperature is 0\.001"):
        sample_gibbs_exact(TwoWellPotential.paper(), 0.001, 5, generator=seeded(0))
    with pytest.raises(InputError, match="weight is 1"):
        TwoWellPotential(NORTH, -NORTH, weight=1.0)
    with pytest.raises(InputError, match="first well"):
        TwoWellPotential(2 * NORTH, NORTH)
    with pytest.raises(InputError, match="x has 3 rows and y has 2"):
        EmpiricalPotential(torch.eye(3), torch.eye(3)[:2], bandwidth=0.1)
    with pytest.raises(InputError, match="bandwidth is 0"):
        EmpiricalPotential(torch.eye(3), torch.eye(3), bandwidth=0.0)
    with pytest.raises(InputError, match="chains is 2"):
        sample_mala(LinearPotential(NORTH), 1.0, Sphere(3), generator=seeded(0), chains=2)
