"""Curves over temperature and batch size: the closed limit, naive loops, the rates of T1 and T2, and the report."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import cases
import infomech as im
import infomech.cli as cli
from infomech.diagnosis.curves import Curves, _Batch, _one_batch, _seen_at, population_curves
from infomech.measures import PairedSample


def sample(groups: int = 200, *, seed: int = 0, dim: int = 6) -> PairedSample:
    g = torch.Generator().manual_seed(seed)
    x, y, pairs = cases.image_text(groups, 3, generator=g, dim=dim)
    return PairedSample.from_embeddings(x, y, pairs=pairs)


@pytest.fixture(scope="module")
def curves() -> Curves:
    return population_curves(
        sample(), temperature=0.5, temperatures=(0.2, 0.5, 1.0), batch_sizes=tuple(2**k for k in range(4, 13))
    )


def test_one_batch_by_loops() -> None:
    """Value, gradient and effective number of one batch from autograd and a loop over the draws of D7."""
    g = torch.Generator().manual_seed(1)
    x, y, w = (
        torch.nn.functional.normalize(torch.randn(n, 4, generator=g, dtype=torch.float64), dim=1) for n in (3, 3, 40)
    )
    tau, size = 0.3, 7
    names = ("bias", "gap", "own", "sq", "dot", "seen")
    found = {name: torch.zeros(1, 1, dtype=torch.float64) for name in names}
    _one_batch(_Batch(x, y, w), [tau], [size], torch.Generator().manual_seed(5), found)
    draw = torch.randint(40, (size,), generator=torch.Generator().manual_seed(5))
    bias, gap, own, square, dot, seen = [], [], [], [], [], []
    for a, partner in zip(x, y, strict=True):
        a = a.clone().requires_grad_()
        kernels = [(a @ w[i] / tau).exp() for i in draw.tolist()]
        loss = -a @ partner / tau + torch.log((a @ partner / tau).exp() + sum(kernels))
        limit = -a @ partner / tau + torch.log(sum((a @ row / tau).exp() for row in w) / 40)
        gradients = []
        for value in (loss, limit):
            (gradient,) = torch.autograd.grad(value, a, retain_graph=True)
            gradients.append(tau * (gradient - (gradient @ a.detach()) * a.detach()))
        loss, limit, kernels = loss.detach(), limit.detach(), torch.stack(kernels).detach()
        bias.append(float(loss - math.log(size) - limit))
        gap.append(float((gradients[0] - gradients[1]).square().sum()))
        own.append(float(gradients[0].square().sum()))
        square.append(float(gradients[1].square().sum()))
        dot.append(float(gradients[0] @ gradients[1]))
        seen.append(float(kernels.sum() ** 2 / kernels.square().sum()))
    means = {k: sum(v) / 3 for k, v in zip(names[:5], (bias, gap, own, square, dot), strict=True)}
    for name, expected in (means | {"seen": sorted(seen)[1]}).items():
        assert float(found[name]) == pytest.approx(expected, rel=1e-10)


def test_rates(curves: Curves) -> None:
    """T1 and T2: the gradient's error falls as N^(-1/2), the value's bias as 1/N, once the draws resolve the kernel."""
    n = torch.tensor(curves.batch_sizes, dtype=torch.float64).log()
    at = curves.temperatures.index(1.0)
    error = torch.tensor([e.value for e in curves.gradient_error[at]]).double().log()
    slope = float(((n - n.mean()) * (error - error.mean())).sum() / (n - n.mean()).square().sum())
    assert slope == pytest.approx(-0.5, abs=0.06)
    early = [(k, e) for k, e in enumerate(curves.value_bias[at]) if e.value > 6 * e.stderr]
    assert len(early) >= 3
    (first, low), (last, high) = early[0], early[-1]
    ratio = math.log(low.value / high.value) / float(n[last] - n[first])
    spread = math.hypot(low.stderr / low.value, high.stderr / high.value) / float(n[last] - n[first])
    assert abs(ratio - 1) < 4 * spread + 0.1
    for t in range(3):
        errors = curves.gradient_error[t]
        for smaller, larger in itertools.pairwise(errors):  # a larger batch is never further off, but for its own error
            assert larger.value < smaller.value + 4 * math.hypot(smaller.stderr, larger.stderr)
        assert errors[-1].value < 0.5 * errors[0].value
        assert all(e.value <= 1 + 1e-12 for e in curves.gradient_cosine[t])
        seen = [e.value for e in curves.effective_negatives[t]]
        assert all(1 <= s <= size for s, size in zip(seen, curves.batch_sizes, strict=True))


def test_budget_is_decompose(curves: Curves) -> None:
    s = sample()
    pairs = torch.stack([s.order_x[s.pairs[:, 0]], s.order_y[s.pairs[:, 1]]], 1)
    for t, tau in enumerate(curves.temperatures):
        budget = cases.corrected(s.given_x, s.given_y, pairs=pairs, temperature=tau)
        assert curves.budget["divergence_sym"][t].value == pytest.approx(budget.divergence_sym.value, rel=1e-9)
        assert curves.resolved[t] == budget.resolved


def test_where_the_population_is_seen() -> None:
    assert _seen_at([8, 16], [0.05, 0.01]) == 8
    assert _seen_at([10, 1000], [1.0, 0.01]) == pytest.approx(100)
    assert _seen_at([8, 16], [0.9, 0.8]) == math.inf


def test_intervals_cover_over_draws() -> None:
    """The interval of the gradient's error contains its value over many draws, for the population and anchors held."""
    held = sample(160, seed=3)
    settings = {"temperature": 0.5, "temperatures": (), "batch_sizes": (64,)}
    estimates = [population_curves(held, seed=s, **settings).gradient_error[0][0] for s in range(60)]
    truth = sum(e.value for e in estimates) / len(estimates)
    hits = sum(e.low <= truth <= e.high for e in estimates)
    # The anchors are held here, and their spread is part of the interval: it may be wider, not narrower.
    assert hits / 60 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 60)


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    with pytest.raises(im.InputError, match="at least 32"):
        population_curves(sample(20), temperature=0.5)
    with pytest.raises(im.InputError, match="batch_sizes"):
        population_curves(sample(), temperature=0.5, batch_sizes=(0,))
    with pytest.raises(im.InputError, match="temperature is 0"):
        population_curves(sample(), temperature=0.5, temperatures=(0.0,))


def test_the_report_shows_them_if_asked(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    x, y, pairs = cases.image_text(120, 2, generator=g)
    for name, array in (("x", x), ("y", y), ("pairs", pairs)):
        np.save(tmp_path / f"{name}.npy", array.numpy())
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "--pairs", str(tmp_path / "pairs.npy"), "-t", "0.5"]
    for folder, more in (("with", ["--curves", "--batch-size", "64"]), ("without", [])):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["report", *files, "-o", str(tmp_path / folder), *more])
        assert not stopped.value.code
        content = json.loads((tmp_path / folder / "report.json").read_text())
        page = (tmp_path / folder / "report.html").read_text()
        drawn = (tmp_path / folder / "figures" / "curves.png").exists()
        present = folder == "with"
        assert ("curves" in content, 'id="chart-gradient"' in page, drawn) == (present,) * 3
    text = (tmp_path / "with" / "report.md").read_text()
    assert "## Batch and temperature" in text
    page = (tmp_path / "with" / "report.html").read_text()
    assert "At τ = 0.5 the gradient is within 10%" in page
    assert "nearest to your batch" in page
