"""Smoothed densities on nodes against the closed field of a von Mises-Fisher law."""

import pytest
import torch

from infomech import RBF, Cosine, FlatTorus, InputError, Sphere, VonMisesFisher, log_kernel_volume
from infomech.energies import log_smoothing_kernel, smoothed_log_density
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
