"""Gradient flows: monotone energies, conserved mass, the Gibbs law at the end, and the rates in between."""

import math
from collections.abc import Iterator

import pytest
import torch

from infomech import FlatTorus, InputError, Sphere
from infomech.energies import intrinsic_energy, kl_divergence
from infomech.equilibria import (
    GibbsLaw,
    LinearPotential,
    TwoWellPotential,
    fokker_planck,
    particle_flow,
    replicator_flow,
)
from infomech.equilibria.flows import project_on_floor
from infomech.equilibria.gibbs import sample_gibbs_exact
from infomech.geometry import Manifold, harmonics, quadrature_rule
from infomech.measures import Density

NORTH = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small
    yield
    torch.set_num_threads(threads)


def random_density(grid, seed: int, size: float = 1.0) -> Density:
    basis = harmonics(grid, 4)
    noise = torch.randn(basis.values.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Density.from_log(size * basis.synthesise(noise), grid)


@pytest.mark.parametrize(("manifold", "n"), [(Sphere(2), 96), (Sphere(3), 20), (FlatTorus(2), 24)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fokker_planck_falls_to_the_gibbs_law(manifold: Manifold, n: int, seed: int) -> None:
    grid = quadrature_rule(manifold, n)
    u = random_density(grid, 100 + seed).log_values
    flow = fokker_planck(random_density(grid, seed), u, temperature=0.5)
    law = GibbsLaw(u, 0.5, grid)
    assert flow.converged
    assert kl_divergence(flow.density, law.density) < 1e-8
    assert (flow.energies.diff() < 0).all()
    assert flow.mass_error < 1e-12
    direct = intrinsic_energy(flow.density, u, temperature=0.5)
    assert flow.energies[-1].item() == pytest.approx(direct.item(), abs=1e-11)


def test_fokker_planck_at_the_papers_lowest_temperature() -> None:
    grid = quadrature_rule(Sphere(3), 24)
    flow = fokker_planck(Density.uniform(grid), TwoWellPotential.paper(), temperature=0.1)
    assert flow.converged
    assert flow.mass_error < 1e-12


@pytest.mark.parametrize(("manifold", "rate"), [(Sphere(2), 1.0), (Sphere(3), 2.0)])
def test_fokker_planck_without_potential_is_the_heat_equation(manifold: Manifold, rate: float) -> None:
    # The mean of z.m decays as exp(-(d - 1) t): error of first order in the step, of second in the spacing.
    def end(n: int, step: float) -> float:
        grid = quadrature_rule(manifold, n)
        start = Density.from_values(1 + 0.5 * grid.nodes[:, -1], grid)
        flat = torch.zeros(len(grid), dtype=torch.float64)
        flow = fokker_planck(start, flat, temperature=1.0, max_time=0.5, first_step=step, growth=1.0, tolerance=0.0)
        assert flow.status == "time reached"
        ratio = flow.density.mean(grid.nodes[:, -1]) / start.mean(grid.nodes[:, -1])
        return ratio.item() / math.exp(-0.5 * rate) - 1

    coarse, fine = end(40, 0.02), end(40, 0.01)
    assert abs(fine) < 0.02
    extrapolated = 2 * fine - coarse
    assert abs(extrapolated) < 2e-3


def test_particles_follow_the_fokker_planck_equation() -> None:
    n, time, tau = 20000, 0.3, 0.4
    generator = torch.Generator().manual_seed(0)
    start = sample_gibbs_exact(LinearPotential(-NORTH), tau, n, generator=generator)
    options = {"temperature": tau, "manifold": Sphere(3), "time": time, "steps": 60, "generator": generator}
    end, acceptance = particle_flow(start, LinearPotential(NORTH), **options)
    assert acceptance > 0.98
    grid = quadrature_rule(Sphere(3), 32)
    law = GibbsLaw(LinearPotential(-NORTH), tau, grid).density
    flow = fokker_planck(
        law, LinearPotential(NORTH), temperature=tau, max_time=time, first_step=time / 400, growth=1.0, max_steps=500
    )
    height = end[:, 2]
    predicted = flow.density.mean(grid.nodes[:, 2]).item()
    start_height = law.mean(grid.nodes[:, 2]).item()
    assert abs(predicted - start_height) > 0.3  # it has moved, and is not there yet
    # Three standard errors, and 1% of the way for the steps in time and the spacing of the nodes.
    allowed = 3 * height.std().item() / math.sqrt(n) + 0.01 * abs(predicted - start_height)
    assert abs(height.mean().item() - predicted) < allowed


def push(grid, size: float) -> tuple[tuple[Density, Density], tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A matched state of a potential, the two laws pushed apart by size * cos t."""
    u = 0.05 * (grid.nodes[:, 0] + 0.5 * grid.nodes[:, 1])
    matched = GibbsLaw(u, 0.1, grid).density
    mode = grid.nodes[:, 1] - matched.mean(grid.nodes[:, 1])
    pair = tuple(Density.from_values(matched.values * (1 + sign * size / 2 * mode), grid) for sign in (1, -1))
    return pair, (u, u), mode


@pytest.mark.parametrize(("manifold", "n"), [(Sphere(2), 48), (Sphere(3), 12)])
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.7, 0.8, 1.0])
def test_difference_mode_grows_below_three_quarters_and_decays_above(manifold: Manifold, n: int, weight: float) -> None:
    grid = quadrature_rule(manifold, n)
    start, u, mode = push(grid, 1e-4)
    flow = replicator_flow(start, u, temperature=0.1, divergence_weight=weight, max_time=1.0, step=0.005, tolerance=0.0)
    assert flow.status == "time reached"
    assert (flow.energies.diff() <= 1e-13).all()
    assert flow.mass_error < 1e-12
    gap = [a.mean(mode) - b.mean(mode) for a, b in (start, flow.densities)]
    rate = math.log(gap[1] / gap[0])
    # Explicit steps of length h turn a rate r into log(1 + r h)/h, that is r - r^2 h / 2.
    assert rate == pytest.approx((3 - 4 * weight) / 2, abs=1.5**2 * 0.005 / 2 + 1e-4)


def test_separates_below_and_returns_above_the_critical_weight() -> None:
    grid = quadrature_rule(Sphere(2), 48)
    start, u, _ = push(grid, 1e-2)
    floor = 1e-3
    below = replicator_flow(start, u, temperature=0.1, divergence_weight=0.7, floor=floor, max_steps=800)
    above = replicator_flow(start, u, temperature=0.1, divergence_weight=0.8, floor=floor)
    assert below.divergences[-1] > 1000 * below.divergences[0]
    assert above.converged
    assert above.divergences[-1] < 1e-8 * above.divergences[0]
    for flow in (below, above):
        assert (flow.energies.diff() <= 1e-12).all()
        assert flow.mass_error < 1e-12
        assert all(r.values.min() >= floor * (1 - 1e-12) for r in flow.densities)
    # It comes back to the matched state itself.
    matched = GibbsLaw(u[0], 0.1, grid).density
    assert kl_divergence(above.densities[0], matched) < 1e-12


def test_projection_on_a_floor_is_the_nearest_in_kl() -> None:
    grid = quadrature_rule(Sphere(2), 32)
    log_values = 4 * grid.nodes[:, 0]
    floor = 0.05
    nearest = project_on_floor(log_values, grid, floor)
    target = Density.from_log(log_values, grid)
    assert nearest.mass.item() == pytest.approx(1, abs=1e-14)
    assert nearest.values.min().item() == pytest.approx(floor, rel=1e-12)
    # Optimality: moving towards any feasible density raises KL(. || target).
    for seed in range(20):
        other = project_on_floor(random_density(grid, seed).log_values, grid, floor)
        mixed = Density.from_values(0.999 * nearest.values + 0.001 * other.values, grid)
        assert kl_divergence(mixed, target) >= kl_divergence(nearest, target) - 1e-14


def test_a_flow_that_cannot_go_on_says_so() -> None:
    grid = quadrature_rule(Sphere(2), 32)
    start, u, _ = push(grid, 0.1)
    few = replicator_flow(start, u, temperature=0.1, max_steps=3)
    assert few.status == "steps used up"
    assert "allow more" in few.reason
    # Without a floor nothing bounds the energy below: the densities run to zero until no step can be evaluated.
    endless = replicator_flow(start, u, temperature=0.1, step=50.0, max_steps=3000)
    assert not endless.converged
    assert all(torch.isfinite(r.mass) for r in endless.densities)
    exact = fokker_planck(random_density(grid, 0), u[0], temperature=0.1, tolerance=0.0)
    assert exact.status == "stalled"
    assert exact.residuals[-1] < 1e-24
    short = fokker_planck(random_density(grid, 0), u[0], temperature=0.1, max_steps=2)
    assert short.status == "steps used up"
    assert len(short.times) == 3


def test_bad_input() -> None:
    grid = quadrature_rule(Sphere(2), 16)
    flat = torch.zeros(16, dtype=torch.float64)
    law = Density.uniform(grid)
    pair = (law, law)
    with pytest.raises(InputError, match="temperature is 0"):
        fokker_planck(law, flat, temperature=0.0)
    with pytest.raises(InputError, match="potential is not finite at 16 of 16"):
        fokker_planck(law, flat + math.nan, temperature=1.0)
    with pytest.raises(InputError, match="potential is not finite"):
        fokker_planck(law, lambda z: 1 / (z[:, 1] * 0), temperature=1.0)
    with pytest.raises(InputError, match=r"floor is 0\.2; .* below 1 / volume = 0\.1592"):
        replicator_flow(pair, (flat, flat), temperature=1.0, floor=0.2)
    with pytest.raises(InputError, match=r"start density 1 falls to .* below the floor"):
        replicator_flow((random_density(grid, 0, 3.0), law), (flat, flat), temperature=1.0, floor=0.1)
    with pytest.raises(InputError, match="U21 is not finite"):
        replicator_flow(pair, (flat, flat + math.inf), temperature=1.0)
    with pytest.raises(InputError, match="step is 0"):
        replicator_flow(pair, (flat, flat), temperature=1.0, step=0.0)
    with pytest.raises(InputError, match=r"growth is 0\.5"):
        fokker_planck(law, flat, temperature=1.0, growth=0.5)
    with pytest.raises(InputError, match="different nodes"):
        replicator_flow((law, Density.uniform(quadrature_rule(Sphere(2), 8))), (flat, flat), temperature=1.0)
    with pytest.raises(InputError, match="two modalities"):
        _ = replicator_flow(pair, (flat, flat), temperature=1.0).density
