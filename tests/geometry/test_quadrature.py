"""Quadrature and differential operators against exact integrals and eigenvalues."""

import math

import pytest
import scipy.special
import torch

from infomech import FlatTorus, InputError, Sphere
from infomech.geometry import Manifold, faces, harmonics, log_sphere_mgf, quadrature_rule

GRIDS: list[tuple[Manifold, int]] = [(Sphere(2), 24), (Sphere(3), 12), (FlatTorus(1), 24), (FlatTorus(2), 12)]


@pytest.mark.parametrize(("manifold", "n"), GRIDS)
def test_volume_and_nodes(manifold: Manifold, n: int) -> None:
    grid = quadrature_rule(manifold, n)
    assert grid.weights.sum().log().item() == pytest.approx(manifold.log_volume, abs=1e-13)
    torch.testing.assert_close(
        grid.nodes.square().sum(1), torch.full((len(grid),), manifold.squared_radius).double(), rtol=0, atol=1e-14
    )
    assert math.prod(grid.shape) == len(grid)


def test_trigonometric_polynomials_are_exact_up_to_the_degree_and_no_further() -> None:
    grid = quadrature_rule(Sphere(2), 16)
    angle = grid.angles[:, 0]
    for k in range(1, grid.degree + 1):
        assert abs(grid.integrate((k * angle).cos())) < 1e-13
        assert abs(grid.integrate((k * angle).sin())) < 1e-13
    assert grid.integrate((16 * angle).cos()).item() == pytest.approx(2 * math.pi)


def test_torus_products_are_exact() -> None:
    grid = quadrature_rule(FlatTorus(2), 8)
    a, b = grid.angles.unbind(1)
    for j in range(8):
        for k in range(8):
            truth = 4 * math.pi**2 * (j == k == 0)
            assert abs(grid.integrate((j * a).cos() * (k * b).cos()) - truth) < 1e-12


def test_spherical_harmonics_of_scipy_are_exact_up_to_the_degree() -> None:
    grid = quadrature_rule(Sphere(3), 6)
    theta, phi = (t.numpy() for t in grid.angles.unbind(1))
    for ell in range(grid.degree + 1):
        for m in range(ell + 1):
            y = torch.from_numpy(scipy.special.sph_harm_y(ell, m, theta, phi))
            truth = math.sqrt(4 * math.pi) * (ell == 0)
            assert abs(grid.integrate(y.real) - truth) < 1e-13
            assert abs(grid.integrate(y.imag)) < 1e-13
    beyond = torch.from_numpy(scipy.special.sph_harm_y(12, 0, theta, phi).real.copy())
    assert abs(grid.integrate(beyond)) > 1e-3


@pytest.mark.parametrize(("manifold", "n"), [(Sphere(2), 64), (Sphere(3), 32), (FlatTorus(1), 64), (FlatTorus(2), 64)])
def test_exponentials_match_the_closed_form(manifold: Manifold, n: int) -> None:
    grid = quadrature_rule(manifold, n)
    kappa = torch.tensor(8.0, dtype=torch.float64)
    log_mean = grid.log_integrate(kappa * (grid.nodes @ grid.nodes[3]))
    assert log_mean.item() == pytest.approx(manifold.log_linear_integral(kappa).item(), abs=1e-12)


@pytest.mark.parametrize(("manifold", "n"), GRIDS)
def test_harmonics_are_orthonormal_eigenfunctions(manifold: Manifold, n: int) -> None:
    basis = harmonics(quadrature_rule(manifold, n))
    gram = basis.analyse(basis.values.mT)
    torch.testing.assert_close(gram, torch.eye(gram.shape[0]).double(), rtol=0, atol=1e-12)
    # Linear functions z.a are eigenfunctions: -1 on circles and tori (one angle at a time), -2 on S^2.
    eigenvalue = 2.0 if manifold == Sphere(3) else 1.0
    linear = basis.quadrature.nodes[:, 0]
    torch.testing.assert_close(basis.laplacian(linear), -eigenvalue * linear, rtol=0, atol=1e-11)
    assert basis.dirichlet(linear).item() == pytest.approx(eigenvalue * basis.quadrature.integrate(linear**2).item())


def test_spherical_harmonics_span_those_of_scipy() -> None:
    grid = quadrature_rule(Sphere(3), 10)
    basis = harmonics(grid)
    theta, phi = (t.numpy() for t in grid.angles.unbind(1))
    for ell, m in [(3, 2), (7, 0), (9, 9), (9, 1)]:
        y = torch.from_numpy(scipy.special.sph_harm_y(ell, m, theta, phi).imag.copy())
        y = y if m else torch.from_numpy(scipy.special.sph_harm_y(ell, m, theta, phi).real.copy())
        coefficients = basis.analyse(y)
        inside = coefficients[basis.degrees == ell]
        assert coefficients.norm().item() == pytest.approx(inside.norm().item(), abs=1e-12)
        torch.testing.assert_close(basis.laplacian(y), -ell * (ell + 1) * y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("manifold", [Sphere(2), Sphere(3), FlatTorus(2)])
def test_finite_volumes_converge_at_second_order(manifold: Manifold) -> None:
    errors = []
    for n in (16, 32):
        grid = quadrature_rule(manifold, n)
        smooth = (grid.nodes[:, 0] + 0.5 * grid.nodes[:, 1] * grid.nodes[:, -1]).exp()
        truth = harmonics(quadrature_rule(manifold, 40))
        nodes = truth.quadrature.nodes
        reference = truth.dirichlet((nodes[:, 0] + 0.5 * nodes[:, 1] * nodes[:, -1]).exp())
        errors.append((faces(grid).dirichlet(smooth) / reference - 1).abs().item())
    assert errors[1] < 0.01
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


def test_rotations_leave_the_integral_of_a_gaussian_bump() -> None:
    grid = quadrature_rule(Sphere(3), 24)
    rows = Sphere(3).uniform(5, generator=torch.Generator().manual_seed(0))
    log_values = grid.log_integrate(9.0 * rows @ grid.nodes.mT)
    truth = Sphere(3).log_volume + log_sphere_mgf(3, torch.tensor(9.0, dtype=torch.float64))
    torch.testing.assert_close(log_values, truth.expand(5), rtol=0, atol=1e-12)


def test_dtype_is_kept() -> None:
    grid = quadrature_rule(Sphere(3), 6, dtype=torch.float32)
    assert grid.nodes.dtype == grid.weights.dtype == harmonics(grid).values.dtype == torch.float32


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"Sphere\(ambient_dim=4\) has no quadrature"):
        quadrature_rule(Sphere(4), 8)
    with pytest.raises(InputError, match="resolution is 1"):
        quadrature_rule(Sphere(2), 1)
    with pytest.raises(InputError, match="degree is 9"):
        harmonics(quadrature_rule(Sphere(2), 8), 9)


@pytest.mark.parametrize(("manifold", "n"), [(Sphere(2), 48), (Sphere(3), 24), (FlatTorus(2), 32)])
def test_spectral_interpolation_of_a_smooth_function(manifold: Manifold, n: int) -> None:
    basis = harmonics(quadrature_rule(manifold, n))
    points = manifold.uniform(50, generator=torch.Generator().manual_seed(1))

    def smooth(z: torch.Tensor) -> torch.Tensor:
        return (z[:, 0] - 0.7 * z[:, -1]).exp()

    values = basis.evaluate(basis.analyse(smooth(basis.quadrature.nodes)), points)
    torch.testing.assert_close(values, smooth(points), rtol=0, atol=1e-11)
