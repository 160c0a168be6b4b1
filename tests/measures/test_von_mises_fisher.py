"""The von Mises-Fisher law at concentrations from 0 to 1e20: entropy, divergence, density and draws."""

import math

import mpmath
import numpy as np
import pytest
import torch

import infomech as im
from bessel import truths
from infomech.geometry import log_sphere_area, mean_resultant


def law(dim: int, kappa: float, *, angle: float = 0.0, dtype: torch.dtype = torch.float64) -> im.VonMisesFisher:
    mean = torch.zeros(dim, dtype=torch.float64)
    mean[0], mean[1] = math.cos(angle), math.sin(angle)
    return im.VonMisesFisher(mean.to(dtype), kappa)


@pytest.mark.parametrize("dim", [2, 3, 51, 64, 512, 4096])
@pytest.mark.parametrize("kappa", [1e-8, 0.5, 30.0, 1e3, 1e6, 1e9, 1e15, 1e20])
def test_entropy(dim: int, kappa: float) -> None:
    scaled, a, _ = truths(dim, kappa)
    with mpmath.workdps(80):
        k, d = mpmath.mpf(kappa), mpmath.mpf(dim)
        area = mpmath.log(2) + d / 2 * mpmath.log(mpmath.pi) - mpmath.loggamma(d / 2)
        truth = area + scaled + k * (1 - a)
        # Its terms are rounded to a few units in the last place, and the entropy may pass zero.
        size = abs(area) + d * max(1, mpmath.log(k))
        assert abs(mpmath.mpf(law(dim, kappa).entropy().item()) - truth) < 1e-14 * size


@pytest.mark.parametrize("dim", [3, 64])
def test_entropy_at_large_concentration_is_a_gaussian_s(dim: int) -> None:
    """d - 1 tangent directions of variance 1 / kappa; the next term is (d - 1)(d - 3) / (8 kappa)."""
    for kappa in (1e9, 1e15):
        gaussian = (dim - 1) / 2 * math.log(2 * math.pi * math.e / kappa)
        assert law(dim, kappa).entropy().item() == pytest.approx(gaussian, abs=1e-5 + dim**2 / kappa, rel=1e-14)


def test_entropy_s_slope() -> None:
    for dim, kappa in ((3, 0.5), (3, 1e4), (64, 20.0), (64, 1e9)):
        k = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(im.VonMisesFisher(torch.eye(dim, dtype=torch.float64)[0], k).entropy(), k)
        (variance,) = torch.autograd.grad(mean_resultant(dim, k), k)
        assert slope.item() == pytest.approx(-kappa * variance.item(), rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kappa", [10.0, 1e4, 1e9, 1e15])
def test_divergence_of_turned_means(kappa: float, dtype: torch.dtype) -> None:
    """A(k) k |m1 - m2|^2 / 2, down to angles of 1e-7 in either dtype (the means' own rounding is in the truth)."""
    for angle in (1.0, 1e-3, 1e-7):
        a, b = law(64, kappa, dtype=dtype), law(64, kappa, angle=angle, dtype=dtype)
        turn = torch.nn.functional.normalize(a.mean.double(), dim=0) - torch.nn.functional.normalize(
            b.mean.double(), dim=0
        )
        truth = truths(64, kappa)[1] * kappa * float(turn.square().sum()) / 2
        assert a.kl(b).item() == pytest.approx(float(truth), rel=4 * torch.finfo(dtype).eps)


def test_a_small_divergence_in_float32() -> None:
    """2.5e-5 nats, which float32 arithmetic cannot see as the difference of numbers of 1e4."""
    a, b = (law(64, k, dtype=torch.float32) for k in (1e4, 1.00125e4))
    truth = law(64, 1e4).kl(law(64, 1.00125e4))
    assert truth.item() == pytest.approx(63 / 4 * 0.00125**2, rel=0.01)
    assert a.kl(b).item() == pytest.approx(truth.item(), rel=1e-6)


@pytest.mark.parametrize("kappa", [3.0, 1e6, 1e12])
def test_density_integrates_to_one_at_any_concentration(kappa: float) -> None:
    t, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(80))
    reach = min(math.pi, 12 / math.sqrt(kappa))
    polar = reach * (1 + t) / 2
    z = torch.stack([polar.cos(), polar.sin(), torch.zeros_like(polar)], dim=1)
    mass = (w * reach / 2 * polar.sin() * law(3, kappa).log_density(z).exp()).sum() * 2 * math.pi
    assert mass.item() == pytest.approx(1.0, rel=1e-12)


def test_field_at_large_concentration() -> None:
    """At a point on the mean, log Gamma = 1/tau less the Gaussian's loss; and k = 0 is the uniform law's."""
    for dim, kappa, tau in ((3, 1e12, 0.5), (64, 1e15, 0.01)):
        a = law(dim, kappa)
        assert a.log_partition_field(a.mean, temperature=tau).item() == pytest.approx(1 / tau, rel=1e-9)
    uniform = law(3, 0.0)
    log_mean = math.log(math.sinh(2) / 2)
    assert uniform.log_partition_field(uniform.mean, temperature=0.5).item() == pytest.approx(log_mean, rel=1e-14)


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("kappa", [0.0, 1.0, 1e6, 1e15, 1e16, 1e18, 1e20])
def test_draws(dim: int, kappa: float) -> None:
    """1 - m.z = |z - m|^2 / 2 has the mean 1 - A and the variance A'."""
    n = 20_000
    z = law(dim, kappa).sample(n, generator=torch.Generator().manual_seed(5))
    drop = (z - law(dim, kappa).mean).square().sum(1) / 2
    k = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    mean = mean_resultant(dim, k, complement=True)
    (slope,) = torch.autograd.grad(mean, k)
    assert abs(drop.mean() - mean.detach()) < 4 * (-slope / n).sqrt()
    spread = (drop - drop.mean()).square()
    assert abs(spread.mean() + slope) < 4 * spread.std() / math.sqrt(n)
    assert z.norm(dim=1).sub(1).abs().max() < 1e-15 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_minus_zero(dtype: torch.dtype) -> None:
    a, uniform = law(5, 1e20, dtype=dtype), law(5, -0.0, dtype=dtype)
    z = a.sample(7, generator=torch.Generator().manual_seed(0))
    results = [z, a.kappa, a.entropy(), a.kl(uniform), a.log_density(z), a.log_partition_field(z, temperature=0.1)]
    results += [a.log_normalizer, a.mean_resultant_length]
    assert {r.dtype for r in results} == {dtype}
    assert all(bool(torch.isfinite(r).all()) for r in results)
    assert uniform.entropy().item() == pytest.approx(log_sphere_area(5), rel=1e-6)
    assert not bool(torch.signbit(uniform.kl(uniform)))
    assert not bool(torch.signbit(uniform.mean_resultant_length))
