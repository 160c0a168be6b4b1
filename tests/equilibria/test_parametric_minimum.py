"""Latent angles, energies of their encoders, and the minimum (T12), against closed forms and other quadratures."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch

from infomech import InputError, Sphere, VonMisesFisher
from infomech.energies import cross_entropy, symmetric_divergence
from infomech.equilibria import LatentAngles, ParametricMinimum, encoded_divergence, minimise_parametric
from infomech.equilibria.encoded_angles import angular_energy, encoded_law
from infomech.equilibria.rank_one import rank_one_limit
from infomech.geometry import quadrature_rule

TAU = 0.07
SKEW = torch.tensor([[[1.2, 0.5], [-0.3, 0.8]], [[1.0, -0.2], [0.4, 0.7]]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small
    yield
    torch.set_num_threads(threads)


def circle(n: int) -> torch.Tensor:
    t = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return torch.stack([t.cos(), t.sin()], dim=1)


def images(encoders: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (torch.nn.functional.normalize(circle(n) @ a.mT, dim=1) for a in encoders)
    return first, second


@pytest.mark.parametrize("scale", [0.02, 0.3, 1.5])
def test_noise_attenuates_as_the_projected_normal_law(scale: float) -> None:
    # Density of the angle of (1, 0) + s n: exp(-1/(2 s^2)) / (2 pi) (1 + sqrt(pi) h exp(h^2) (1 + erf h)),
    # h = cos phi / (s sqrt 2); written with erfcx where the exponential would overflow.
    def density(phi: float) -> float:
        h = math.cos(phi) / (scale * math.sqrt(2))
        return (
            math.exp(-1 / (2 * scale**2)) / (2 * math.pi)
            + h * math.exp(-(math.sin(phi) ** 2) / (2 * scale**2)) * scipy.special.erfc(-h) / (2 * math.sqrt(math.pi))
        )  # fmt: skip

    found = LatentAngles(observation_noise=scale).attenuation(0, 7)
    for k in range(7):
        edges = [0.0, *(min(scale * c, 3.0) for c in (1, 3, 6)), math.pi]
        truth = sum(
            2 * scipy.integrate.quad(lambda p, k=k: density(p) * math.cos(k * p), a, b, epsabs=1e-13)[0]
            for a, b in itertools.pairwise(edges)
            if b > a
        )
        assert found[k].item() == pytest.approx(truth, abs=1e-11)


def test_small_noise_is_continuous() -> None:
    below, above = (LatentAngles(observation_noise=s).attenuation(0, 40) for s in (0.99999e-4, 1.00001e-4))
    torch.testing.assert_close(below, above, rtol=0, atol=1e-9)  # 2e-5 of (s k)^2 / 2 < 1e-5


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_energy_needs_the_angles_of_noisy_observations_only(noise: float) -> None:
    # E[z.w] with the noise on the coordinates integrated by Gauss-Hermite in two dimensions, given the latent angles.
    problem = LatentAngles(misalignment=0.5, observation_noise=noise)
    knots, weights = np.polynomial.hermite_e.hermegauss(40)
    shift = noise * torch.from_numpy(np.stack(np.meshgrid(knots, knots, indexing="ij"), -1).reshape(-1, 2))
    weight = torch.from_numpy(np.outer(weights, weights).flatten() / (2 * math.pi))
    n = 128
    mean = [
        (torch.nn.functional.normalize((circle(n)[:, None] + shift) @ a.mT, dim=-1) * weight[:, None]).sum(1)
        for a in SKEW
    ]
    latent = LatentAngles(misalignment=0.5).joint(n)  # of (t, t')
    truth = -torch.einsum("ij,id,jd->", latent, *mean).item() / TAU
    found = angular_energy(problem, images(SKEW, 256), temperature=TAU).alignment.item()
    assert found == pytest.approx(truth, abs=1e-8)
    draws = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far, near = (torch.nn.functional.normalize(r * draws @ SKEW[0].mT, dim=1) for r in (7.0, 0.2))
    torch.testing.assert_close(far, near, rtol=0, atol=1e-14)


def test_energies_against_a_plain_sum() -> None:
    # The joint density written out: mixture times wrapped normal, on a grid, in loops of numpy.
    n, sigma = 400, 0.6
    t = 2 * np.pi * np.arange(n) / n
    latent = sum(w * np.exp(6 * (np.cos(t - m) - 1)) for w, m in ((0.7, 0.0), (0.3, np.pi)))
    latent = latent / (2 * np.pi * scipy.special.ive(0, 6))
    turn = t[None, :] - t[:, None]
    wrapped = sum(np.exp(-((turn + 2 * np.pi * j) ** 2) / (2 * sigma**2)) for j in range(-4, 5))
    joint = latent[:, None] * wrapped / (sigma * np.sqrt(2 * np.pi)) * (2 * np.pi / n) ** 2
    z, w = (m.numpy() for m in images(SKEW, n))
    p, q = joint.sum(1), joint.sum(0)
    volume = 2 * np.pi * scipy.special.iv(0, 1 / TAU)
    kernel = {
        name: np.exp(a @ b.T / TAU) / volume for name, (a, b) in {"zw": (z, w), "zz": (z, z), "ww": (w, w)}.items()
    }
    found = angular_energy(LatentAngles(misalignment=sigma), images(SKEW, 256), temperature=TAU)
    alignment = -(joint * (z @ w.T)).sum() / TAU
    truth = {
        "alignment": alignment,
        "cross_xy": p @ np.log(kernel["zw"] @ q),
        "cross_yx": q @ np.log(kernel["zw"].T @ p),
        "own_x": p @ np.log(kernel["zz"] @ p),
        "own_y": q @ np.log(kernel["ww"] @ q),
    }
    for name, value in truth.items():
        assert getattr(found, name).item() == pytest.approx(value, abs=1e-9), name
    assert found.single.item() == pytest.approx(alignment + truth["own_x"], abs=1e-9)
    assert found.sym.item() == pytest.approx(alignment + (truth["cross_xy"] + truth["cross_yx"]) / 2, abs=1e-9)
    cross, own = truth["cross_xy"] + truth["cross_yx"], truth["own_x"] + truth["own_y"]
    assert found.controlled(0.75).item() == pytest.approx(alignment + (cross + 3 * own) / 8, abs=1e-9)


def test_one_mode_is_a_von_mises_law() -> None:
    law = VonMisesFisher(torch.tensor([1.0, 0.0], dtype=torch.float64), 6.0)
    problem = LatentAngles(weight=1.0, misalignment=0.3)
    found = angular_energy(problem, (circle(256), circle(256)), temperature=0.1)
    assert found.own_x.item() == pytest.approx(-cross_entropy(law, law, temperature=0.1).item(), abs=1e-10)
    assert found.alignment.item() == pytest.approx(-10 * math.exp(-0.045), abs=1e-12)
    angles = torch.arange(64, dtype=torch.float64) * (2 * math.pi / 64)
    torch.testing.assert_close(problem.log_density(0, angles), law.log_density(circle(64)), rtol=0, atol=1e-9)


def test_joint_has_the_exact_marginals() -> None:
    problem = LatentAngles(misalignment=0.4, observation_noise=0.1)
    n = 128
    t = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    joint = problem.joint(n)
    for modality, marginal in enumerate((joint.sum(1), joint.sum(0))):
        truth = problem.log_density(modality, t).exp() * (2 * math.pi / n)
        torch.testing.assert_close(marginal, truth, rtol=0, atol=1e-15)
    diagonal = LatentAngles().joint(n)
    torch.testing.assert_close(diagonal, diagonal.diagonal().diag(), rtol=0, atol=1e-17)


def test_samples_have_the_moments_of_the_law() -> None:
    problem = LatentAngles(misalignment=0.6, observation_noise=0.3)
    n = 40000
    draws = problem.sample(n, generator=torch.Generator().manual_seed(1))
    for modality, x in enumerate(draws):
        angle = torch.atan2(x[:, 1], x[:, 0])
        for k in (1, 2, 3):
            truth = problem.latent_coefficients[k] * problem.attenuation(modality, 4)[k]
            values = (k * angle).cos()
            assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(n)
            assert abs((k * angle).sin().mean()) < 4 / math.sqrt(n)
    unit = [torch.nn.functional.normalize(x, dim=1) for x in draws]
    score = (unit[0] * unit[1]).sum(1)
    truth = -angular_energy(problem, (circle(256), circle(256)), temperature=1.0).alignment
    assert abs(score.mean() - truth) < 4 * score.std() / math.sqrt(n)


def test_encoded_laws_are_pushforwards() -> None:
    grid = quadrature_rule(Sphere(2), 512)
    problem = LatentAngles(misalignment=0.4)
    laws = [encoded_law(problem, m, SKEW[m], quadrature=grid) for m in (0, 1)]
    for m in (0, 1):
        plain = encoded_law(problem, m, torch.eye(2, dtype=torch.float64), quadrature=grid)
        pushed = plain.pushforward(lambda z, m=m: torch.nn.functional.normalize(z @ SKEW[m].mT, dim=1))
        torch.testing.assert_close(laws[m].log_values, pushed.log_values, rtol=0, atol=1e-8)
    found = encoded_divergence(problem, SKEW).item()
    assert found == pytest.approx(symmetric_divergence(*laws).item(), abs=1e-10)
    mirrored = torch.stack([SKEW[0], SKEW[1].flip(0)])  # an encoder may turn the circle over
    laws[1] = encoded_law(problem, 1, mirrored[1], quadrature=grid)
    assert encoded_divergence(problem, mirrored).item() == pytest.approx(symmetric_divergence(*laws).item(), abs=1e-10)


@pytest.mark.parametrize("weight", [0.0, 0.75])
def test_gradients_and_invariances(weight: float) -> None:
    problem = LatentAngles(misalignment=0.4, observation_noise=0.05)

    def value(encoders: torch.Tensor) -> torch.Tensor:
        return angular_energy(problem, images(encoders, 64), temperature=0.3).controlled(weight)

    leaf = SKEW.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, leaf)
    assert torch.autograd.gradcheck(lambda e: encoded_divergence(problem, e, nodes=64), leaf)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    scaled = turn @ SKEW * torch.tensor([3.0, 0.2], dtype=torch.float64)[:, None, None]
    assert value(scaled).item() == pytest.approx(value(SKEW).item(), abs=1e-12)


def found_at(misalignment: float, **options: object) -> ParametricMinimum:
    return minimise_parametric(LatentAngles(misalignment=misalignment), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("misalignment", "dsym"), [(0.4, 0.0243), (0.7, 0.0820)])
def test_the_predicted_gap(misalignment: float, dsym: float) -> None:
    found = found_at(misalignment)
    assert found.dsym == pytest.approx(dsym, rel=0.01)
    assert found.dsym == pytest.approx(symmetric_divergence(*found.laws).item(), abs=1e-9)
    assert found.error < 1e-9
    assert found.outcomes["minimum"] >= 2
    ends = [s.energy for s in found.starts if s.outcome == "minimum"]
    assert max(ends) - min(ends) < 1e-6
    assert all(s.gradient < 1e-6 for s in found.starts if s.outcome == "minimum")
    assert found.energy == pytest.approx(found.terms.sym.item(), abs=1e-12)


def test_no_gap_without_misalignment() -> None:
    found = found_at(0.0, starts=4)
    assert abs(found.dsym) < 1e-10
    assert found.outcomes == {"minimum": 4}
    torch.testing.assert_close(found.encoders[0], found.encoders[1], rtol=0, atol=1e-6)


def test_divergence_falls_with_its_weight() -> None:
    # Of two minimisers of J + lambda D the one with the larger lambda has the smaller D, and the larger J.
    found = [found_at(0.4, starts=3, divergence_weight=w) for w in (0.0, 0.75, 4.0)]
    divergence, energy = ([float(v(f.terms)) for f in found] for v in (lambda t: t.divergence, lambda t: t.sym))
    assert divergence[0] > 1.1 * divergence[1]
    assert divergence[1] > 1.05 * divergence[2]
    assert energy[0] < energy[1] < energy[2]
    for f, weight in zip(found, (0.0, 0.75, 4.0), strict=True):
        assert f.energy == pytest.approx(f.terms.controlled(weight).item(), abs=1e-12)


def test_rank_one_encoders_lie_lower_at_large_misalignment() -> None:
    # Two images per modality, assigned by half circles of the nodes: a Riemann sum of the closed form.
    low, high = (rank_one_limit(LatentAngles(misalignment=s), temperature=TAU) for s in (0.4, 0.7))
    for limit, sigma in ((low, 0.4), (high, 0.7)):
        n = 1024
        t = (torch.arange(n, dtype=torch.float64)) * (2 * math.pi / n)
        side = [torch.where((t - c).cos() > 0, 1.0, -1.0)[:, None] for c in limit.cuts]
        axis = [torch.tensor([[1.0, 0.0]]), torch.tensor([[limit.cosine, math.sqrt(1 - limit.cosine**2)]])]
        z, w = (s.double() * a.double() for s, a in zip(side, axis, strict=True))
        truth = angular_energy(LatentAngles(misalignment=sigma), (z, w), temperature=TAU).sym.item()
        # The cut moves by up to a spacing on each side, where the density is at most 0.06 per radian.
        slope = abs(limit.cosine) / TAU + 2
        assert limit.energy == pytest.approx(truth, abs=4 * 0.06 * 2 * math.pi / n * slope)
        assert np.sum(limit.bits) == pytest.approx(1, abs=1e-12)
    smooth = [found_at(s, starts=2) for s in (0.4, 0.7)]
    assert [f.status for f in smooth] == ["global", "local"]
    assert low.energy > smooth[0].energy
    assert high.energy < smooth[1].energy - 0.5
    assert "rank one" in smooth[1].reason


def test_starts_that_end_elsewhere_are_shown() -> None:
    nearly = torch.tensor([[1.0, 0.0], [0.0, 1e-3]], dtype=torch.float64)
    crossed = torch.tensor([[0.1, 0.0], [1.0, 1e-3]], dtype=torch.float64)
    found = found_at(0.7, starts=[torch.stack([nearly, crossed]), SKEW])
    assert [s.outcome for s in found.starts] == ["singular", "minimum"]
    assert found.starts[0].energy < found.energy
    alone = found_at(0.7, starts=[torch.stack([nearly, crossed])])
    assert alone.status == "not converged"
    assert "more starts" in alone.reason


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"weight is 1\.2"):
        LatentAngles(weight=1.2)
    with pytest.raises(InputError, match=r"concentration is 50\.0"):
        LatentAngles(concentration=50.0)
    with pytest.raises(InputError, match=r"misalignment is -0\.1"):
        LatentAngles(misalignment=-0.1)
    with pytest.raises(InputError, match="observation_noise is nan"):
        LatentAngles(observation_noise=math.nan)
    with pytest.raises(InputError, match="nodes is 63"):
        LatentAngles().joint(63)
    with pytest.raises(InputError, match=r"temperature is 0\.0"):
        found_at(0.4, temperature=0.0)
    with pytest.raises(InputError, match="nodes is 130"):
        found_at(0.4, nodes=130)
    with pytest.raises(InputError, match="starts is 0"):
        found_at(0.4, starts=0)
    with pytest.raises(InputError, match="shape"):
        found_at(0.4, starts=[])
    with pytest.raises(InputError, match="singular"):
        encoded_law(LatentAngles(), 0, torch.ones(2, 2, dtype=torch.float64), quadrature=quadrature_rule(Sphere(2), 64))
    with pytest.raises(InputError, match=r"Sphere\(2\)"):
        encoded_law(LatentAngles(), 0, SKEW[0], quadrature=quadrature_rule(Sphere(3), 8))
