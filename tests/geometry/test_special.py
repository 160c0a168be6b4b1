"""The sphere's special functions against mpmath at any concentration, and the laws that they keep in both dtypes."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import infomech as im
from bessel import truths
from infomech.geometry import concentration_divergence, log_sphere_mgf, mean_resultant

DIMS = (2, 3, 4, 5, 8, 16, 47, 48, 49, 50, 51, 64, 128, 333, 1024, 4096)
KAPPAS = (
    1e-8,
    1e-3,
    0.5,
    2.0,
    3.9,
    4.1,
    10.0,
    20.0,
    30.0,
    70.0,
    182.0,
    300.0,
    2e3,
    1e4,
    1e5,
    1e6,
    1e9,
    1e12,
    1e15,
    1e20,
)


def off(value: torch.Tensor, truth: mpmath.mpf) -> float:
    return float(abs((mpmath.mpf(value.item()) - truth) / truth))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", KAPPAS)
def test_against_mpmath(dim: int, kappa: float) -> None:
    """1e-12 relative everywhere: downward recurrence multiplies rounding by the ratio of the orders' kappa (1 - A)."""
    scaled, a, variance = truths(dim, kappa)
    k = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    with mpmath.workdps(80):
        assert off(log_sphere_mgf(dim, k), scaled + mpmath.mpf(kappa)) < 1e-13
        assert off(log_sphere_mgf(dim, k, scaled=True), scaled) < 1e-13
        assert off(mean_resultant(dim, k), a) < 2e-15
        assert off(mean_resultant(dim, k, complement=True), 1 - a) < 1e-12
        for complement, sign in ((False, 1), (True, -1)):
            (slope,) = torch.autograd.grad(mean_resultant(dim, k, complement=complement), k)
            assert off(slope, sign * variance) < 1e-12
        (slope,) = torch.autograd.grad(log_sphere_mgf(dim, k, scaled=True), k)
        assert off(slope, a - 1) < 1e-12


@pytest.mark.parametrize("dim", [2, 3, 51, 64, 4096])
@pytest.mark.parametrize("kappa", [1e-8, 0.7, 60.0, 1e4, 1e9, 1e15])
@pytest.mark.parametrize("factor", [1.0 + 2**-30, 0.999, 0.3, 3.9, 4.1, 1e-3, 1e4])
def test_divergence_of_concentrations(dim: int, kappa: float, factor: float) -> None:
    """Relative 1e-12 by quadrature of A'; beyond a factor of four, 1e-12 with the 100 that the direct form may lose."""
    other = kappa * factor
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (kappa, other))
    first, resultant, _ = truths(dim, kappa)
    second, *_ = truths(dim, other)
    with mpmath.workdps(80):
        truth = second - first + (1 - resultant) * (mpmath.mpf(other) - mpmath.mpf(kappa))
        assert off(concentration_divergence(dim, a, b), truth) < 1e-12


def test_divergence_has_the_gradients_of_a_bregman_divergence() -> None:
    a = torch.tensor([0.0, 0.3, 20.0, 90.0, 3e3], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.5, 0.4, 1.5, 700.0, 3.1e3], dtype=torch.float64, requires_grad=True)
    for dim in (2, 7, 64):
        by_a, by_b = torch.autograd.grad(concentration_divergence(dim, a, b).sum(), (a, b))
        (variance,) = torch.autograd.grad(mean_resultant(dim, a).sum(), a)
        torch.testing.assert_close(by_a, (a - b).detach() * variance, rtol=1e-12, atol=0)
        rise = mean_resultant(dim, b) - mean_resultant(dim, a)
        torch.testing.assert_close(by_b, rise.detach(), rtol=1e-10, atol=0)
        step = 1e-6
        up, down = (concentration_divergence(dim, a.detach(), b.detach() * (1 + s)) for s in (step, -step))
        torch.testing.assert_close((up - down) / (2 * step * b.detach()), by_b, rtol=1e-7, atol=1e-9)


DTYPES = (torch.float32, torch.float64)
EXPONENTS = st.floats(-8, 15)


@given(dim=st.integers(2, 4096), exponent=EXPONENTS, dtype=st.sampled_from(DTYPES))
@settings(max_examples=300, deadline=None)
def test_ranges(dim: int, exponent: float, dtype: torch.dtype) -> None:
    k = torch.tensor(10**exponent, dtype=dtype, requires_grad=True)
    log_mgf, scaled = (log_sphere_mgf(dim, k, scaled=s) for s in (False, True))
    a, deficit = mean_resultant(dim, k), mean_resultant(dim, k, complement=True)
    (slope,) = torch.autograd.grad(a, k)
    assert {v.dtype for v in (log_mgf, scaled, a, deficit, slope)} == {dtype}
    assert 0 < a <= 1
    assert 0 < deficit <= 1
    assert slope >= torch.finfo(dtype).tiny
    assert log_mgf >= 0 >= scaled
    # A rises from 0 at the slope 1/d, and falls short of 1 by less than (d - 1) / (2 kappa) and a sliver.
    assert slope <= (1 / dim) * (1 + 1e-6)
    assert deficit <= (dim - 1) / (2 * k.detach()) * (1 + 1e-6) + 1 / (k.detach() * k.detach())


@given(dim=st.integers(2, 4096), exponent=EXPONENTS)
@settings(max_examples=100, deadline=None)
def test_float32_is_float64_rounded(dim: int, exponent: float) -> None:
    single = torch.tensor(10**exponent, dtype=torch.float32, requires_grad=True)
    double = single.detach().double().requires_grad_()
    results = []
    for k in (single, double):
        values = [log_sphere_mgf(dim, k), log_sphere_mgf(dim, k, scaled=True), mean_resultant(dim, k)]
        values += [mean_resultant(dim, k, complement=True), torch.autograd.grad(values[2], k)[0]]
        results.append(torch.stack([v.detach() for v in values]))
    assert torch.equal(results[0], results[1].float())


@given(dim=st.integers(2, 4096), first=EXPONENTS, second=EXPONENTS, turn=st.floats(0, math.pi))
@settings(max_examples=200, deadline=None)
def test_divergence_is_never_negative(dim: int, first: float, second: float, turn: float) -> None:
    for dtype in DTYPES:
        means = torch.zeros(2, dim, dtype=torch.float64)
        means[:, 0] = torch.tensor([1.0, math.cos(turn)])
        means[1, 1] = math.sin(turn)
        a, b = (im.VonMisesFisher(m.to(dtype), 10**e) for m, e in zip(means, (first, second), strict=True))
        assert a.kl(b) >= 0
        assert a.kl(b).dtype is dtype
        assert a.kl(a) == 0


def test_zero_and_infinity() -> None:
    for dtype in DTYPES:
        ends = torch.tensor([0.0, -0.0, math.inf], dtype=dtype)
        for dim in (2, 64):
            assert log_sphere_mgf(dim, ends).tolist() == [0, 0, math.inf]
            assert mean_resultant(dim, ends).tolist() == [0, 0, 1]
            assert not bool(torch.signbit(mean_resultant(dim, ends)).any())
            assert mean_resultant(dim, ends, complement=True).tolist() == [1, 1, 0]


def test_parity() -> None:
    k = torch.tensor([0.3, 9.0, 400.0], dtype=torch.float64)
    torch.testing.assert_close(log_sphere_mgf(3, -k), log_sphere_mgf(3, k), rtol=0, atol=0)
    torch.testing.assert_close(mean_resultant(3, -k), -mean_resultant(3, k), rtol=0, atol=0)
    torch.testing.assert_close(mean_resultant(3, -k, complement=True), 1 + mean_resultant(3, k), rtol=0, atol=0)
    torch.testing.assert_close(log_sphere_mgf(3, -k, scaled=True), log_sphere_mgf(3, k) + k, rtol=1e-15, atol=0)


@pytest.mark.parametrize("manifold", [im.Sphere(5), im.FlatTorus(2)], ids=str)
def test_scaled_integrals(manifold: im.Sphere | im.FlatTorus) -> None:
    k = torch.tensor([0.0, 0.4, 30.0], dtype=torch.float64)
    plain, scaled = (manifold.log_linear_integral(k, scaled=s) for s in (False, True))
    torch.testing.assert_close(plain - k * manifold.squared_radius, scaled, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_resultant(3, torch.tensor(math.nan)), "NaN at 1 of 1"),
        (lambda: log_sphere_mgf(3, torch.tensor([1.0, math.nan])), "NaN at 1 of 2"),
        (lambda: concentration_divergence(3, torch.tensor(-1.0), torch.tensor(1.0)), "at least 0"),
        (lambda: concentration_divergence(3, torch.ones(2), torch.tensor(1.0)), "equal shapes"),
    ],
)
def test_refusals(call, words: str) -> None:
    with pytest.raises(im.InputError, match=words):
        call()
