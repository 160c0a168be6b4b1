"""Limits of the one-directional and the sigmoid loss: at finite batches, on laws, and in the sharp limit."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize, softplus

import infomech as im
from infomech.energies import (
    cauchy_schwarz_divergence,
    directed_limit,
    intrinsic_energy,
    kl_divergence,
    sigmoid_limit,
    smoothed_log_density,
    symmetric_energy,
)
from infomech.geometry import Sphere, quadrature_rule
from infomech.losses import infonce, sigmoid_loss
from infomech.measures import Density

pytestmark = pytest.mark.usefixtures("unchecked")

TAU = 0.5


def finite_world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four values in each modality and the law of their pairs."""
    generator = torch.Generator().manual_seed(seed)
    x, y = normalize(torch.randn(2, 4, 3, generator=generator, dtype=torch.float64), dim=2)
    pairs = torch.rand(4, 4, generator=generator, dtype=torch.float64) + torch.eye(4)
    return x, y, pairs / pairs.sum()


def draw(pairs: torch.Tensor, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = torch.multinomial(pairs.flatten(), n, replacement=True, generator=generator)
    return chosen // 4, chosen % 4


def exact_sigmoid(n: int, offset: float) -> float:
    """E of the loss of n independent pairs, less log(n - 1): every question has a known law."""
    x, y, pairs = finite_world()
    scores = x @ y.T / TAU
    bias = offset - math.log(n - 1)
    own = (pairs * softplus(-(scores + bias))).sum()
    others = (pairs.sum(1)[:, None] * pairs.sum(0) * softplus(scores + bias)).sum()
    return float(own + (n - 1) * others) - math.log(n - 1)


@pytest.mark.parametrize("offset", [-1.0, 0.3])
def test_the_sigmoid_loss_tends_to_its_limit_as_one_over_n(offset: float) -> None:
    x, y, pairs = finite_world()
    scores = x @ y.T / TAU
    overlap = float((pairs.sum(1)[:, None] * pairs.sum(0) * scores.exp()).sum())
    limit = -float((pairs * scores).sum()) - offset + math.exp(offset) * overlap
    bias = [exact_sigmoid(n, offset) - limit for n in (2_000, 4_000, 8_000)]
    slopes = [math.log(abs(b / a)) / math.log(2) for a, b in pairwise(bias)]
    assert 2 * slopes[1] - slopes[0] == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize("n", [8, 64])
def test_drawn_batches_of_the_library_s_sigmoid_loss_have_that_expectation(n: int) -> None:
    x, y, pairs = finite_world()
    generator = torch.Generator().manual_seed(n)
    values = []
    for _ in range(600):
        i, j = draw(pairs, n, generator)
        loss = sigmoid_loss(x[i], y[j], temperature=TAU, bias=0.3 - math.log(n - 1))
        values.append(float(loss) - math.log(n - 1))
    drawn = torch.tensor(values)
    assert abs(drawn.mean() - exact_sigmoid(n, 0.3)) < 4 * drawn.std() / math.sqrt(len(drawn))


def test_limits_from_draws() -> None:
    """Both estimators at 1,500 draws against the sums over the finite law, by their spread over 30 repetitions."""
    x, y, pairs = finite_world()
    scores = x @ y.T / TAU
    first, second = pairs.sum(1), pairs.sum(0)
    alignment = -(pairs * scores).sum()
    directed = float(alignment + (first * (scores.exp() @ second).log()).sum())
    sigmoid = float(alignment + (first[:, None] * second * scores.exp()).sum().log() + 1)
    own = [float((q[:, None] * q * (z @ z.T / TAU).exp()).sum().log()) for z, q in ((x, first), (y, second))]
    divergence = sum(own) / 2 - (sigmoid - 1 - float(alignment))
    generator = torch.Generator().manual_seed(5)
    rows = []
    for _ in range(30):
        i, j = draw(pairs, 1500, generator)
        limit = sigmoid_limit(x[i], y[j], temperature=TAU)
        rows.append([directed_limit(x[i], y[j], temperature=TAU), limit.value, limit.divergence])
    found = torch.tensor(rows)
    off = (found.mean(0) - torch.tensor([directed, sigmoid, divergence])) / (found.std(0) / math.sqrt(30))
    assert off.abs().max() < 4
    assert float(sigmoid) - 1 >= directed  # Jensen


def test_one_direction_is_one_side_of_the_symmetric_energy() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = normalize(torch.randn(2, 50, 5, generator=generator, dtype=torch.float64), dim=2)
    volume = im.log_kernel_volume(im.Sphere(5), im.Cosine(), 0.3)
    expected = symmetric_energy(x, y, temperature=0.3).xy + volume
    assert directed_limit(x, y, temperature=0.3).item() == pytest.approx(float(expected), abs=1e-12)
    # In the batch itself the positive is a term as well: the loss lies above by about 1/n of it.
    batch = infonce(x, y, temperature=0.3) - math.log(49)
    assert 0 < batch - directed_limit(x, y, temperature=0.3) < 0.1


def test_the_best_bias_is_a_minimum() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = normalize(torch.randn(2, 200, 3, generator=generator, dtype=torch.float64), dim=2)
    limit = sigmoid_limit(x, y, temperature=TAU)
    best = -limit.log_overlap
    assert limit.at_offset(best).item() == pytest.approx(limit.value.item(), abs=1e-12)
    assert all(limit.at_offset(best + step) > limit.value for step in (-0.1, 0.1))
    assert limit.best_bias(201).item() == pytest.approx(float(best) - math.log(200))
    with pytest.raises(im.InputError, match="batch_size is 1"):
        limit.best_bias(1)


def test_sharp_limits_on_laws() -> None:
    """As tau falls J12 tends to F12 - KL(rho1 || rho2), and log(G / V) to -(H2 + H2)/2 - D_CS, at the order tau."""
    grid = quadrature_rule(Sphere(2), 256)
    angle = torch.atan2(grid.nodes[:, 1], grid.nodes[:, 0])
    rho1 = Density.from_log(1.5 * torch.cos(angle), grid)
    rho2 = Density.from_log(torch.cos(angle - 1) + 0.4 * torch.sin(2 * angle), grid)
    directed_errors, sigmoid_errors = [], []
    directed = float(-rho1.entropy() - kl_divergence(rho1, rho2))
    collisions = [float((rho.values * rho.values) @ grid.weights) for rho in (rho1, rho2)]
    sigmoid = math.log(collisions[0] * collisions[1]) / 2 - float(cauchy_schwarz_divergence(rho1, rho2))
    for tau in (0.02, 0.01):
        smoothed = smoothed_log_density(rho2, temperature=tau)
        directed_errors.append(float(rho1.mean(smoothed)) - directed)
        sigmoid_errors.append(float(rho1.mean(smoothed.exp()).log()) - sigmoid)
    for errors in (directed_errors, sigmoid_errors):
        assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
        assert abs(errors[1]) < 0.02
    assert float(intrinsic_energy(rho1, torch.zeros_like(angle), temperature=1.0)) == pytest.approx(
        -float(rho1.entropy())
    )


def test_the_divergence_is_zero_for_equal_laws_only() -> None:
    grid = quadrature_rule(Sphere(3), 24)
    rho = Density.from_log(2 * grid.nodes[:, 2], grid)
    other = Density.from_log(2 * grid.nodes[:, 0], grid)
    assert cauchy_schwarz_divergence(rho, rho).item() == pytest.approx(0, abs=1e-12)
    assert cauchy_schwarz_divergence(rho, other).item() > 0.1
    assert cauchy_schwarz_divergence(rho, other).item() == pytest.approx(cauchy_schwarz_divergence(other, rho).item())
