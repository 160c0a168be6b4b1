"""Densities on nodes against closed forms: normalisation, entropy, divergence, change of variables, sampling."""

import math

import pytest
import torch
from scipy import stats

from infomech import FlatTorus, InputError, Sphere, VonMisesFisher
from infomech.geometry import Manifold, harmonics, quadrature_rule
from infomech.measures import Density

CIRCLE = quadrature_rule(Sphere(2), 128)


def vmf(dim: int, kappa: float, axis: int = 0) -> VonMisesFisher:
    return VonMisesFisher(torch.eye(dim, dtype=torch.float64)[axis], kappa)


@pytest.mark.parametrize(("dim", "n"), [(2, 128), (3, 40)])
def test_entropy_and_divergence_of_von_mises_fisher(dim: int, n: int) -> None:
    grid = quadrature_rule(Sphere(dim), n)
    a, b = vmf(dim, 8.0), vmf(dim, 3.0, axis=1)
    rho = Density(a.log_density(grid.nodes), grid)
    other = Density.from_log(3.0 * grid.nodes[:, 1] + 17.0, grid)
    torch.testing.assert_close(other.log_values, b.log_density(grid.nodes), rtol=0, atol=1e-12)
    assert rho.entropy().item() == pytest.approx(a.entropy().item(), abs=1e-12)
    assert rho.kl(other).item() == pytest.approx(a.kl(b).item(), abs=1e-12)
    assert rho.mean(grid.nodes[:, 0]).item() == pytest.approx(a.mean_resultant_length.item(), abs=1e-12)


def test_uniform_has_the_largest_entropy() -> None:
    assert Density.uniform(CIRCLE).entropy().item() == pytest.approx(math.log(2 * math.pi), abs=1e-14)


def test_zeros() -> None:
    values = torch.zeros(128, dtype=torch.float64)
    values[:64] = 1
    half = Density.from_values(values, CIRCLE)
    assert half.entropy().item() == pytest.approx(math.log(math.pi), abs=1e-13)
    assert half.kl(Density.uniform(CIRCLE)).item() == pytest.approx(math.log(2), abs=1e-13)
    assert Density.uniform(CIRCLE).kl(half) == math.inf
    assert half.kl(half) == 0


def test_a_huge_range_stays_in_the_log_domain() -> None:
    rho = Density.from_log(5000.0 * CIRCLE.nodes[:, 0] - 5e5, CIRCLE)
    assert rho.log_values.min() < -9000
    assert torch.isfinite(rho.entropy())
    assert rho.mass.item() == pytest.approx(1, abs=5e5 * 2**-52)  # the rounding of the offset


def test_log_at_interpolates() -> None:
    rho = Density(vmf(2, 5.0).log_density(CIRCLE.nodes), CIRCLE)
    points = Sphere(2).uniform(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rho.log_at(points), vmf(2, 5.0).log_density(points), rtol=0, atol=1e-12)


def angle_map(function):  # a map of the circle from one of angles
    def mapping(z: torch.Tensor) -> torch.Tensor:
        t = function(torch.atan2(z[:, 1], z[:, 0]))
        return torch.stack([t.cos(), t.sin()], dim=1)

    return mapping


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("turn", [0.0, 2.0, -3.0])
def test_pushforward_on_the_circle_is_the_change_of_variables(sign: int, turn: float) -> None:
    # g(t) = s t + 0.6 sin t + c: the density of g at the image of t is rho(t) / |g'(t)|.
    grid = quadrature_rule(Sphere(2), 256)
    rho = Density(vmf(2, 3.0, axis=1).log_density(grid.nodes), grid)

    def g(t: torch.Tensor) -> torch.Tensor:
        return sign * t + 0.6 * torch.sin(t) + turn

    pushed = rho.pushforward(angle_map(g))
    t = torch.linspace(-3, 3, 50, dtype=torch.float64)
    image = torch.stack([g(t).cos(), g(t).sin()], dim=1)
    source = torch.stack([t.cos(), t.sin()], dim=1)
    truth = rho.log_at(source) - (sign + 0.6 * t.cos()).abs().log()
    torch.testing.assert_close(pushed.log_at(image), truth, rtol=0, atol=1e-9)


def test_pushforward_of_a_linear_map() -> None:
    # z -> W z / |W z| has d angle'/d angle = det W / |W z|^2.
    grid = quadrature_rule(Sphere(2), 256)
    weight = torch.tensor([[1.2, 0.5], [-0.3, 0.8]], dtype=torch.float64)
    rho = Density(vmf(2, 2.0).log_density(grid.nodes), grid)
    by_newton = rho.pushforward(lambda z: torch.nn.functional.normalize(z @ weight.mT, dim=1))
    inverse = torch.linalg.inv(weight)
    by_formula = rho.pushforward(
        inverse=lambda z: torch.nn.functional.normalize(z @ inverse.mT, dim=1),
        log_jacobian=lambda z: torch.linalg.det(inverse).log() - (z @ inverse.mT).square().sum(1).log(),
    )
    torch.testing.assert_close(by_newton.log_values, by_formula.log_values, rtol=0, atol=1e-9)


def test_pushforward_on_the_sphere_by_a_rotation() -> None:
    grid = quadrature_rule(Sphere(3), 32)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    rho = Density(vmf(3, 4.0).log_density(grid.nodes), grid)
    pushed = rho.pushforward(inverse=lambda z: z @ turn, log_jacobian=lambda z: torch.zeros_like(z[:, 0]))
    moved = VonMisesFisher(turn @ vmf(3, 4.0).mean, 4.0)
    torch.testing.assert_close(pushed.log_values, moved.log_density(grid.nodes), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("manifold", "n"), [(Sphere(2), 16), (Sphere(3), 6), (FlatTorus(2), 6)])
def test_samples_fall_into_cells_by_their_mass(manifold: Manifold, n: int) -> None:
    grid = quadrature_rule(manifold, n)
    rho = Density.from_log(1.5 * grid.nodes[:, 0] + grid.nodes[:, -1], grid)
    draws = 40000
    z = rho.sample(draws, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        z.square().sum(1), torch.full((draws,), manifold.squared_radius).double(), rtol=0, atol=1e-12
    )
    if manifold == Sphere(3):  # cells are bands of height and sectors of longitude
        edges = 1 - torch.cat([torch.zeros(1), grid.weights.reshape(grid.shape).sum(1).cumsum(0) / (2 * math.pi)])
        row = torch.bucketize(-z[:, 2], -edges.double()[1:-1])
        column = torch.remainder(torch.round(torch.atan2(z[:, 1], z[:, 0]) / (math.pi / n)), 2 * n).long()
        cell = row * 2 * n + column
    else:  # nearest node
        cell = (z @ grid.nodes.mT).argmax(1)
    counts = torch.bincount(cell, minlength=len(grid)).numpy()
    expected = (rho.values * grid.weights * draws).numpy()
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert len(torch.unique(z, dim=0)) == draws  # not the nodes themselves


def test_samples_are_uniform_inside_a_cell() -> None:
    grid = quadrature_rule(Sphere(3), 3)
    height = Density.uniform(grid).sample(20000, generator=torch.Generator().manual_seed(4))[:, 2].numpy()
    assert stats.kstest(height, stats.uniform(-1, 2).cdf).pvalue > 1e-3  # Archimedes


def test_bad_input() -> None:
    ones = torch.ones(128, dtype=torch.float64)
    negative = ones.clone()
    negative[5] = -0.1
    with pytest.raises(InputError, match=r"negative or not finite at 1 of 128 nodes, the first -0\.1 at node 5"):
        Density.from_values(negative, CIRCLE)
    with pytest.raises(InputError, match="negative or not finite"):
        Density.from_values(ones * math.inf, CIRCLE)
    with pytest.raises(InputError, match="zero and cannot be normalised"):
        Density.from_values(0 * ones, CIRCLE)
    with pytest.raises(InputError, match=r"integrates to 6\.28319, not 1; use Density.from_log"):
        Density(0 * ones, CIRCLE)
    with pytest.raises(InputError, match="NaN or infinite at 1 of 128 nodes"):
        Density.from_log(torch.where(negative < 0, math.nan, ones), CIRCLE)
    with pytest.raises(InputError, match=r"\(64,\) values for 128 nodes"):
        Density.from_log(ones[:64], CIRCLE)
    rho = Density.uniform(CIRCLE)
    with pytest.raises(InputError, match="winds 2 times"):
        rho.pushforward(angle_map(lambda t: 2 * t))
    with pytest.raises(InputError, match="not one-to-one"):
        rho.pushforward(angle_map(lambda t: t + 1.5 * torch.sin(t)))
    with pytest.raises(InputError, match="either mapping"):
        rho.pushforward(inverse=lambda z: z)
    sphere = Density.uniform(quadrature_rule(Sphere(3), 4))
    with pytest.raises(InputError, match="circles only"):
        sphere.pushforward(lambda z: z)
    with pytest.raises(InputError, match="different nodes"):
        rho.kl(sphere)
    values = ones.clone()
    values[0] = 0
    with pytest.raises(InputError, match="cannot be interpolated"):
        Density.from_values(values, CIRCLE).log_at(CIRCLE.nodes)


def test_dtype_is_kept() -> None:
    grid = quadrature_rule(Sphere(3), 8, dtype=torch.float32)
    rho = Density.from_log(grid.nodes[:, 0], grid)
    assert rho.entropy().dtype == rho.sample(4, generator=torch.Generator()).dtype == torch.float32
    assert harmonics(grid).laplacian(rho.values).dtype == torch.float32
