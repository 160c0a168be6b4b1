"""Every manifold and critic keeps its contract; volumes beyond the reference values; the von Mises-Fisher law."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import infomech as im
from infomech.geometry import Critic, Manifold, log_sphere_mgf, mean_resultant
from infomech.testing import check_critic, check_manifold

MANIFOLDS = [im.Sphere(2), im.Sphere(3), im.Sphere(16), im.FlatTorus(1), im.FlatTorus(3)]


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_manifold(manifold: Manifold) -> None:
    check_manifold(manifold)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
@pytest.mark.parametrize("critic", [im.Cosine(), im.RBF(0.3)], ids=str)
def test_critic(critic: Critic, manifold: Manifold) -> None:
    check_critic(critic, manifold)


def test_a_broken_critic_is_caught() -> None:
    class Broken(im.Cosine):  # type: ignore[misc]
        def affine_form(self, squared_radius: float) -> tuple[float, float]:
            return 0.1, 1.0

    with pytest.raises(AssertionError, match="affine"):
        check_critic(Broken(), im.Sphere(3))


@pytest.mark.parametrize("dim", [2, 3, 7, 48, 50, 51, 64, 333, 4096])
@pytest.mark.parametrize("tau", [10.0, 1.0, 0.3, 0.05, 0.004, 0.001])
def test_volume_where_the_expansions_meet(dim: int, tau: float) -> None:
    mpmath.mp.dps = 40
    order, kappa = mpmath.mpf(dim) / 2 - 1, 1 / mpmath.mpf(tau)
    truth = mpmath.loggamma(order + 1) - order * mpmath.log(kappa / 2) + mpmath.log(mpmath.besseli(order, kappa))
    value = log_sphere_mgf(dim, torch.tensor(1 / tau, dtype=torch.float64))
    assert float(abs(mpmath.mpf(value.item()) - truth) / abs(truth)) < 1e-12
    ratio = mpmath.besseli(order + 1, kappa) / mpmath.besseli(order, kappa)
    resultant = mean_resultant(dim, torch.tensor(1 / tau, dtype=torch.float64))
    assert float(abs(mpmath.mpf(resultant.item()) - ratio) / ratio) < 1e-11


@pytest.mark.parametrize("dim", [2, 5, 64, 512])
def test_volume_is_twice_differentiable_in_the_temperature(dim: int) -> None:
    tau = torch.tensor([5.0, 0.7, 0.08], dtype=torch.float64, requires_grad=True)

    def volume(t: torch.Tensor) -> torch.Tensor:
        return im.log_kernel_volume(im.Sphere(dim), im.Cosine(), t)

    assert torch.autograd.gradcheck(volume, (tau,))
    assert torch.autograd.gradgradcheck(volume, (tau,))


def test_rbf_on_the_sphere_is_a_cosine_at_another_temperature() -> None:
    g, tau = 0.4, 0.05
    rbf = im.log_kernel_volume(im.Sphere(10), im.RBF(g), tau)
    cosine = im.log_kernel_volume(im.Sphere(10), im.Cosine(), tau / (2 * g)) - 2 * g / tau
    assert rbf == pytest.approx(cosine, rel=1e-13)


def test_cosine_on_the_torus() -> None:
    value = im.log_kernel_volume(im.FlatTorus(3), im.Cosine(), 0.2)
    assert value == pytest.approx(3 * float(mpmath.log(2 * mpmath.pi * mpmath.besseli(0, 5))), rel=1e-13)


def test_dtype_and_shape_follow_the_temperature() -> None:
    tau = torch.full((2, 3), 0.5, dtype=torch.float32)
    volume = im.log_kernel_volume(im.Sphere(4), im.Cosine(), tau)
    assert volume.dtype is torch.float32
    assert volume.shape == (2, 3)


@given(turns=st.lists(st.floats(-10, 10), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_torus_angles_come_back(turns: list[float]) -> None:
    angles = torch.tensor(turns, dtype=torch.float64)
    torus = im.FlatTorus(3)
    wrapped = torch.atan2(angles.sin(), angles.cos())
    torch.testing.assert_close(torus.angles(torus.embed(angles)), wrapped)


@pytest.mark.parametrize("dim", [2, 3, 16, 512])
@pytest.mark.parametrize("kappa", [0.0, 5.0, 300.0])
def test_vmf_samples(dim: int, kappa: float) -> None:
    mean = torch.nn.functional.normalize(torch.arange(1.0, dim + 1, dtype=torch.float64), dim=0)
    law = im.VonMisesFisher(mean, kappa)
    n = 100_000 if dim < 100 else 10_000
    z = law.sample(n, generator=torch.Generator().manual_seed(1))
    cosine = z @ mean
    error = float(cosine.std()) / math.sqrt(n)
    assert abs(float(cosine.mean() - law.mean_resultant_length)) < 4 * error
    # variance of m.z: A' = 1 - A^2 - (d - 1) A / k
    a = float(law.mean_resultant_length)
    variance = 1 - a * a - (dim - 1) * a / kappa if kappa else 1 / dim
    spread = float((cosine - cosine.mean()).square().std()) / math.sqrt(n)
    assert abs(float(cosine.var()) - variance) < 4 * spread
    tangent = z - cosine[:, None] * mean
    assert float(tangent.mean(0).norm()) < 4 / math.sqrt(n)


def test_vmf_density_integrates_to_one() -> None:
    law = im.VonMisesFisher(torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64), 7.0)
    t, w = (torch.from_numpy(v) for v in __import__("numpy").polynomial.legendre.leggauss(40))
    z = t[:, None] * law.mean + (1 - t * t).sqrt()[:, None] * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert float((w * law.log_density(z).exp()).sum() * 2 * math.pi) == pytest.approx(1.0, rel=1e-12)


def test_vmf_partition_field() -> None:
    law = im.VonMisesFisher(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), 4.0)
    z = torch.tensor([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float64)
    samples = law.sample(400_000, generator=torch.Generator().manual_seed(0))
    kernel = torch.exp(z @ samples.T / 0.5)
    error = kernel.std(1) / math.sqrt(kernel.shape[1])
    assert bool(((kernel.mean(1) - law.log_partition_field(z, temperature=0.5).exp()).abs() < 4 * error).all())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: im.Sphere(1), "at least 2"),
        (lambda: im.FlatTorus(0), "at least 1"),
        (lambda: im.RBF(-1.0), "above 0"),
        (lambda: im.VonMisesFisher(torch.ones(3), 1.0), "unit vector"),
        (lambda: im.VonMisesFisher(torch.tensor([1.0, 0.0]), -1.0), "at least 0"),
        (lambda: im.log_kernel_volume(im.Sphere(3), im.Cosine(), 0.0), "above 0"),
        (lambda: im.log_kernel_volume(im.Sphere(3), im.Cosine(), float("nan")), "above 0"),
        (lambda: im.log_kernel_volume(im.Sphere(3), im.Cosine(), torch.tensor([1.0, -1.0])), "above 0"),
    ],
)
def test_bad_arguments(call, words: str) -> None:
    with pytest.raises(im.InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
