"""Fields of a law given as draws, on nodes or in closed form: one function, one answer."""

import pytest
import torch

from infomech import RBF, Cosine, FlatTorus, InputError, Sphere, VonMisesFisher, log_kernel_volume
from infomech.energies import log_partition_field, log_smoothed_density, log_smoothing_kernel, smoothed_log_density
from infomech.geometry import quadrature_rule
from infomech.measures import Density


@pytest.mark.parametrize(("dim", "n"), [(2, 128), (3, 40)])
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_smoothed_density_of_von_mises_fisher(dim: int, n: int, tau: float) -> None:
    grid = quadrature_rule(Sphere(dim), n)
    law = VonMisesFisher(torch.eye(dim, dtype=torch.float64)[1], 6.0)
    rho = Density(law.log_density(grid.nodes), grid)
    truth = law.log_partition_field(grid.nodes, temperature=tau) - log_kernel_volume(Sphere(dim), Cosine(), tau)
    torch.testing.assert_close(smoothed_log_density(rho, temperature=tau), truth, rtol=0, atol=1e-11)
    # |z - w|^2 = 2 - 2 z.w: the RBF of scale g at 2 g tau smooths in the same way
    same = smoothed_log_density(rho, temperature=6 * tau, critic=RBF(3.0))
    torch.testing.assert_close(same, truth, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("manifold", "n"), [(Sphere(3), 24), (FlatTorus(2), 32)])
def test_the_kernel_integrates_to_one(manifold, n: int) -> None:
    log_kernel = log_smoothing_kernel(quadrature_rule(manifold, n), temperature=0.3)
    grid = quadrature_rule(manifold, n)
    assert grid.log_integrate(log_kernel).abs().max() < 1e-10


def test_temperature_is_checked() -> None:
    with pytest.raises(InputError, match="temperature is 0"):
        smoothed_log_density(Density.uniform(quadrature_rule(Sphere(2), 8)), temperature=0.0)


def test_one_field_however_the_law_is_known() -> None:
    grid, tau = quadrature_rule(Sphere(3), 32), 0.4
    law = VonMisesFisher(torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64), 3.0)
    on_nodes = Density(law.log_density(grid.nodes), grid)
    z = Sphere(3).uniform(7, generator=torch.Generator().manual_seed(0))
    closed = log_partition_field(z, law, temperature=tau)
    torch.testing.assert_close(closed, law.log_partition_field(z, temperature=tau), rtol=0, atol=0)
    torch.testing.assert_close(log_partition_field(z, on_nodes, temperature=tau), closed, rtol=0, atol=1e-12)
    draws = law.sample(200_000, generator=torch.Generator().manual_seed(1))
    kernel = torch.exp(z @ draws.mT / tau - closed[:, None])
    error = kernel.std(1) / 200_000**0.5
    field = log_partition_field(z, draws, temperature=tau)
    assert ((field - closed).abs() < 4 * error).all()
    for form in (law, on_nodes):
        density = log_smoothed_density(z, form, temperature=tau)
        torch.testing.assert_close(density, closed - log_kernel_volume(Sphere(3), Cosine(), tau), rtol=0, atol=1e-12)


def test_a_density_brings_its_manifold() -> None:
    grid = quadrature_rule(FlatTorus(2), 32)
    density = log_smoothed_density(grid.nodes[:3], Density.uniform(grid), temperature=0.5)
    torch.testing.assert_close(density, torch.full_like(density, -FlatTorus(2).log_volume), rtol=0, atol=1e-12)


def test_gradients_reach_the_law_and_the_temperature() -> None:
    grid = quadrature_rule(Sphere(2), 32)

    def field(tilt: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        rho = Density.from_log(tilt * grid.nodes[:, 0], grid)
        closed = VonMisesFisher(grid.nodes[0], 2.0)
        return sum(log_partition_field(grid.nodes[:2], law, temperature=tau).sum() for law in (rho, closed))

    inputs = tuple(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.4))
    assert torch.autograd.gradcheck(field, inputs)


def test_laws_that_do_not_fit_are_refused() -> None:
    grid = quadrature_rule(Sphere(2), 8)
    law = VonMisesFisher(grid.nodes[0], 2.0)
    with pytest.raises(InputError, match="closed for Cosine"):
        log_partition_field(grid.nodes, law, temperature=0.5, critic=RBF(1.0))
    with pytest.raises(InputError, match="leave_own_out is for draws"):
        log_partition_field(grid.nodes, Density.uniform(grid), temperature=0.5, leave_own_out=True)
