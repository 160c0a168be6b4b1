"""Gradient consistency against a straight implementation, seed by seed and N by N."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from infomech.experiments.gradient.consistency import (
    COSINE,
    RBF,
    Draws,
    Plan,
    Setting,
    draw,
    limit_and_gradient,
    loss_and_gradient,
    mixture,
    paper_part,
    run_gradient_consistency,
)

pytestmark = pytest.mark.usefixtures("unchecked")


def plain_loss(setting: Setting, encoder: torch.nn.Linear, anchors, positives, negatives):
    """The mean over anchors of -s+/tau + log(e^{s+/tau} + sum over shared negatives), one anchor at a time."""

    def represent(rows):
        features = encoder(rows)
        return features / features.norm(dim=1, keepdim=True) if setting.name == "cosine" else torch.tanh(features)

    def critic(a, rows):
        if setting.name == "cosine":
            return rows @ a / setting.temperature
        return -((rows - a) ** 2).sum(1) / 128 / setting.temperature

    z, v, w = represent(anchors), represent(positives), represent(negatives)
    losses = []
    for i in range(len(z)):
        positive = critic(z[i], v[i : i + 1])
        losses.append(torch.logsumexp(torch.cat([positive, critic(z[i], w)]), 0) - positive[0])
    return torch.stack(losses).mean()


def plain_gradient(setting, weight, anchors, positives, negatives):
    encoder = torch.nn.Linear(64, 128, bias=False, dtype=weight.dtype)
    encoder.weight.data.copy_(weight)
    plain_loss(setting, encoder, anchors, positives, negatives).backward()
    return encoder.weight.grad.flatten()


def straight(setting: Setting, seeds: int, negatives: tuple[int, ...], reference: int) -> tuple[np.ndarray, np.ndarray]:
    """The paper's measurement as its text has it, with draws of its own: cosines and relative errors, (N, seeds)."""
    cosines, errors = np.empty((len(negatives), seeds)), np.empty((len(negatives), seeds))
    for seed in range(seeds):
        torch.manual_seed(1000 + seed)
        means = torch.randn(4, 64)
        means *= 4 / means.norm(dim=1, keepdim=True)
        weight = torch.randn(128, 64) / 8

        def sample(count, means=means):
            return means[torch.randint(4, (count,))] + torch.randn(count, 64)

        anchors = sample(64)
        positives = anchors + setting.positive_noise * torch.randn(64, 64)
        target = plain_gradient(setting, weight, anchors, positives, sample(reference))
        for k, count in enumerate(negatives):
            found = plain_gradient(setting, weight, anchors, positives, sample(count))
            cosines[k, seed] = float(found @ target / (found.norm() * target.norm()))
            errors[k, seed] = float((found - target).norm() / target.norm())
    return cosines, errors


@pytest.mark.parametrize("setting", [COSINE, RBF], ids=lambda s: s.name)
def test_the_paper_part_agrees_with_a_straight_implementation(setting: Setting) -> None:
    """Independent draws on both sides: the means over 20 seeds differ by their standard errors."""
    negatives = (4, 32, 256, 1024)
    ours = paper_part(setting, Plan(negatives=negatives), seed=0)
    for name, plain in zip(("cosine", "error"), straight(setting, 20, negatives, 4096), strict=True):
        here = ours[name].astype(float)
        difference = here.mean(1) - plain.mean(1)
        stderr = np.sqrt((here.var(1, ddof=1) + plain.var(1, ddof=1)) / 20)
        assert np.all(np.abs(difference) < 4 * stderr), (name, difference / stderr)


@pytest.mark.parametrize("setting", [COSINE, RBF], ids=lambda s: s.name)
def test_gradients_of_a_stack_are_those_of_single_runs(setting: Setting) -> None:
    generator = torch.Generator().manual_seed(0)
    data = draw(setting, 3, generator=generator, dtype=torch.float64)
    negatives = mixture(data.means, 37, generator=generator)
    _, gradients = loss_and_gradient(setting, data, negatives)
    for run in range(3):
        single = plain_gradient(setting, data.weights[run], data.anchors[run], data.positives[run], negatives[run])
        assert torch.allclose(gradients[run], single, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chunk", [16, 64])
def test_the_limit_by_autograd_over_all_draws(chunk: int) -> None:
    """With the same draws, mean positive and log of the mean exponential, differentiated in one piece."""
    generator = torch.Generator().manual_seed(1)
    data = draw(COSINE, 2, generator=generator, dtype=torch.float64)
    small = Draws(data.means, data.weights, data.anchors[:, :9], data.positives[:, :9])
    state = generator.get_state()
    values, gradients = limit_and_gradient(COSINE, small, 64, generator=generator, chunk=chunk)
    generator.set_state(state)
    negatives = torch.cat([mixture(data.means, chunk, generator=generator) for _ in range(64 // chunk)], 1)
    weights = data.weights.clone().requires_grad_()
    z, v, w = (COSINE.embed(rows, weights) for rows in (small.anchors, small.positives, negatives))
    expected = (torch.logsumexp(COSINE.scores(z, w), 2) - math.log(64) - COSINE.pair_scores(z, v)).mean(1)
    (gradient,) = torch.autograd.grad(expected.sum(), weights)
    assert torch.allclose(values, expected, rtol=1e-10)
    assert torch.allclose(gradients, gradient.flatten(1), rtol=1e-8, atol=1e-12)


def test_a_small_run_reaches_the_rates_where_negatives_rule(tmp_path: Path) -> None:
    """tau = 1: the bias falls as 1/N and the gradient's error as N^-1/2 (T1, T2); at 0.1 neither is there yet."""
    plan = Plan(seeds=6, negatives=(64, 128, 256, 512, 1024), temperatures=(1.0, 0.1), population=8192)
    results = run_gradient_consistency(tmp_path, plan=plan)
    warm, cold = results["limit"]["1"], results["limit"]["0.1"]
    assert warm["bias_rate"]["value"] == pytest.approx(-1, abs=0.1)
    assert warm["gradient_rate"]["value"] == pytest.approx(-0.5, abs=0.1)
    assert cold["gradient_rate"]["value"] > -0.2
    assert {p.name for p in tmp_path.iterdir()} >= {
        "results.json",
        "provenance.json",
        "README.md",
        "fig3.pdf",
        "fig3.png",
    }
