"""The loss of k modalities against one-directional losses written out, and its population limit."""

import itertools
import math

import pytest
import torch

from infomech import InputError, Sphere, VonMisesFisher, log_kernel_volume
from infomech.energies import cross_entropy
from infomech.geometry import Cosine
from infomech.losses import PairwiseInfoNCE, pairwise_infonce, symmetric_infonce


def rows(k: int, n: int = 7, d: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    draws = torch.randn(k, n, d, generator=generator, dtype=torch.float64)
    return list(torch.nn.functional.normalize(draws, dim=2))


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_mean_over_ordered_pairs(k: int, weight: float) -> None:
    tau, modalities = 0.3, rows(k)
    total = 0.0
    off = ~torch.eye(7, dtype=torch.bool)
    for x, y in itertools.permutations(modalities, 2):
        logits = x @ y.T / tau
        within = (x @ x.T / tau)[off].view(7, 6).logsumexp(1)
        divergence = (within - logits[off].view(7, 6).logsumexp(1)).mean()
        total += float((logits.logsumexp(1) - logits.diagonal()).mean() + weight * divergence)
    found = pairwise_infonce(modalities, temperature=tau, divergence_weight=weight)
    assert found.item() == pytest.approx(total / (k * (k - 1)), abs=1e-12)
    assert PairwiseInfoNCE(tau, weight)(modalities).item() == pytest.approx(found.item(), abs=1e-12)
    if k == 2:
        truth = symmetric_infonce(*modalities, temperature=tau, divergence_weight=weight)
        assert found.item() == pytest.approx(truth.item(), abs=1e-14)


def test_gradients_weights_and_groups() -> None:
    leaves = [x.clone().requires_grad_() for x in rows(3)]
    weights = torch.linspace(0.5, 2, 7, dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 2, 3, 4, 4])

    def loss(*modalities: torch.Tensor) -> torch.Tensor:
        return pairwise_infonce(modalities, temperature=0.3, divergence_weight=0.5, weights=weights, groups=groups)

    assert torch.autograd.gradcheck(loss, leaves)


def test_large_batch_limit() -> None:
    # Independent modalities, laws vMF(m_i, k_i): the loss less log(N V) tends to the mean of J_ij over ordered pairs.
    axes = torch.eye(3, dtype=torch.float64)
    laws = [VonMisesFisher(axes[i], c) for i, c in enumerate((1.0, 2.0, 3.0))]
    tau, n, batches = 0.5, 1000, 20
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [pairwise_infonce([a.sample(n, generator=generator) for a in laws], temperature=tau) for _ in range(batches)]
    )
    energy = 0.0
    for a, b in itertools.permutations(laws, 2):
        score = a.mean_resultant_length * b.mean_resultant_length * (a.mean @ b.mean)
        energy += float(-score / tau - cross_entropy(a, b, temperature=tau)) / 6
    limit = energy + math.log(n) + log_kernel_volume(Sphere(3), Cosine(), tau)
    error = float(values.std()) / math.sqrt(batches)
    # The bias is of order (variance of the kernel over its mean squared) / n, here below 4 / n.
    assert values.mean().item() == pytest.approx(limit, abs=4 * error + 4 / n)
    assert error < 0.01


def test_bad_input() -> None:
    with pytest.raises(InputError, match="sequence of 1"):
        pairwise_infonce(rows(2)[:1], temperature=0.1)


def test_reductions(naive) -> None:
    rows = [naive.rows(9, 5, seed) for seed in (1, 2, 3)]
    each = pairwise_infonce(rows, temperature=0.2, reduction="none")
    truth = [symmetric_infonce(x, y, temperature=0.2, reduction="none") for x, y in itertools.combinations(rows, 2)]
    torch.testing.assert_close(each, sum(truth) / 3, rtol=1e-12, atol=0)
    for how, value in (("mean", each.mean()), ("sum", each.sum())):
        assert PairwiseInfoNCE(0.2, reduction=how)(rows).item() == pytest.approx(value.item(), rel=1e-12)
    with pytest.raises(InputError, match="reduction='mean'"):
        pairwise_infonce(rows, temperature=0.2, reduction="none", divergence_weight=0.5)
