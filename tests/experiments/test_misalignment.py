"""Latent angles: closed-form gradients against the library's loss, estimators on known laws, whole small runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import i0e, i1e

import infomech as im
from infomech.experiments.angles.batch_temperature import Plan as GridPlan
from infomech.experiments.angles.batch_temperature import run_batch_temperature
from infomech.experiments.angles.misalignment import Plan, histogram_divergence, outcome, run_misalignment, score
from infomech.experiments.angles.training import AngleRun, TrainingPlan, symmetric_gradients, train_angles
from infomech.experiments.runs import RunFolder
from infomech.losses import symmetric_infonce

pytestmark = pytest.mark.usefixtures("unchecked")


def unit(runs: int, n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(runs, n, 2, generator=generator), dim=2)


@pytest.mark.parametrize(("runs", "n"), [(5, 33), (2, 700)])  # several runs in a tile; several tiles in a run
def test_gradients_are_those_of_the_library_s_loss(runs: int, n: int) -> None:
    z, w = unit(runs, n, 0), unit(runs, n, 1)
    rate = torch.linspace(1, 50, runs)
    found = symmetric_gradients(z, w, rate)
    for run in range(runs):
        leaves = [rows[run].double().requires_grad_() for rows in (z, w)]
        loss = symmetric_infonce(*leaves, temperature=1 / float(rate[run]))
        for ours, expected in zip(found, torch.autograd.grad(loss, leaves), strict=True):
            assert torch.allclose(ours[run].double(), expected, atol=2e-5 * float(expected.abs().max()))


def test_a_stack_trains_each_run_as_plain_torch_does(tmp_path: Path) -> None:
    """Same start and same draws; autograd through the normalisation, torch's Adam, one run at a time."""
    plan = TrainingPlan(batch=40, steps=25)
    runs = [AngleRun(0.3, 0.07, 0), AngleRun(0.6, 0.2, 0)]
    stacked = train_angles(RunFolder(tmp_path, "angles", {}), "stack", runs, plan=plan)
    for run, setting in enumerate(runs):
        generator = torch.Generator().manual_seed(0)
        encoders = torch.randn(1, 2, 2, 2, generator=generator)[0].clone().requires_grad_()
        optimizer = torch.optim.Adam([encoders], lr=plan.rate)
        for _ in range(plan.steps):
            circle, _ = im.equilibria.LatentAngles().sample(plan.batch, generator=generator)
            angle = torch.atan2(circle[:, 1], circle[:, 0]).float()
            other = angle + setting.misalignment * torch.randn(1, plan.batch, generator=generator)[0]
            noise = 0.02 * torch.randn(2, 1, plan.batch, 2, generator=generator)[:, 0]
            views = [torch.stack([a.cos(), a.sin()], 1) + e for a, e in zip((angle, other), noise, strict=True)]
            z, w = (torch.nn.functional.normalize(v @ m.T, dim=1) for v, m in zip(views, encoders, strict=True))
            scores = z @ w.T / setting.temperature
            labels = torch.arange(plan.batch)
            cross = torch.nn.functional.cross_entropy
            optimizer.zero_grad()
            ((cross(scores, labels) + cross(scores.T, labels)) / 2).backward()
            optimizer.step()
        assert torch.allclose(stacked[run], encoders.detach(), atol=2e-4)


@pytest.mark.parametrize("turn", [0.2, 1.0])
def test_the_gap_on_laws_with_known_divergence(turn: float) -> None:
    """Two von Mises laws of concentration k, turned apart: Dsym = k I1(k)/I0(k) (1 - cos(turn))."""
    law = im.equilibria.LatentAngles(weight=1.0)
    c, s = math.cos(turn), math.sin(turn)
    encoders = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[c, -s], [s, c]]], dtype=torch.float64)
    known = 6 * i1e(6) / i0e(6) * (1 - c)
    assert im.equilibria.encoded_divergence(law, encoders).item() == pytest.approx(known, rel=1e-8)


def test_the_histogram_on_laws_with_known_divergence() -> None:
    """Where both laws fill their bins it comes near the truth; an empty bin costs some 18 nats times its mass."""
    generator = np.random.default_rng(0)
    wide = [generator.vonmises(mean, 1.0, 400_000) for mean in (0.0, 0.5)]
    known = i1e(1) / i0e(1) * (1 - math.cos(0.5))
    assert histogram_divergence(*wide) == pytest.approx(known, rel=0.02)
    sharp = [generator.vonmises(mean, 20.0, 4000) for mean in (0.0, 1.0)]
    known = 20 * i1e(20) / i0e(20) * (1 - math.cos(1.0))
    assert abs(histogram_divergence(*sharp) / known - 1) > 0.2


def test_scores_of_equal_encoders_have_no_gap() -> None:
    identity = torch.eye(2).expand(1, 2, 2, 2)
    found = score(identity, [AngleRun(0.0, 0.07, 0)], noise=0.02, samples=2000, seed=0)
    assert abs(found["gap"][0]) < 1e-10
    assert found["condition"][0] == pytest.approx(1)
    assert found["histogram"][0] > 0.01  # what sampling and empty bins alone make of it


def test_outcomes() -> None:
    assert outcome(-1.0, 2.0, -1.0) == "reached"
    assert outcome(-0.9, 2.0, -1.0) == "elsewhere"
    assert outcome(-1.0, 80.0, -1.0) == "singular"


@pytest.mark.slow
def test_a_small_run_reaches_the_prediction_and_names_what_did_not(tmp_path: Path) -> None:
    plan = Plan(misalignments=(0.0, 0.4), seeds=6, steps=1200)
    results = run_misalignment(tmp_path / "out", plan=plan)
    aligned, apart = results["levels"]
    assert aligned["median"] < 0.01
    assert apart["predicted"] == pytest.approx(0.0244, abs=2e-4)
    assert apart["median"] == pytest.approx(apart["predicted"], rel=0.15)
    for level in results["levels"]:
        reached = [run for run in level["runs"] if run["outcome"] == "reached"]
        assert len(reached) == level["reached"] > 0
        assert level["median"] == pytest.approx(float(np.median([run["gap"] for run in reached])))
        assert set(level["failed"]) == {r["seed"] for r in level["runs"]} - {r["seed"] for r in reached}
    assert json.loads((tmp_path / "out" / "results.json").read_text())["levels"][1]["median"] == apart["median"]
    again = run_misalignment(tmp_path / "out", plan=plan)
    assert again == results


def test_a_small_grid(tmp_path: Path) -> None:
    plan = GridPlan(temperatures=(0.2, 1.0), batches=(16, 64), seeds=(3, 3), steps=300)
    results = run_batch_temperature(tmp_path, plan=plan)
    assert [(c["batch"], c["temperature"]) for c in results["cells"]] == [(16, 0.2), (16, 1.0), (64, 0.2), (64, 1.0)]
    assert all(len(c["failed"]) + c["settled"] == 3 for c in results["cells"])
    assert (tmp_path / "grid.pdf").exists()


def test_bad_settings(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "angles", {})
    with pytest.raises(im.InputError, match="batch is 1"):
        train_angles(run, "a", [AngleRun(0.1, 0.1, 0)], plan=replace(TrainingPlan(), batch=1))
    with pytest.raises(im.InputError, match=r"temperature is 0\.01"):
        train_angles(run, "b", [AngleRun(0.1, 0.01, 0)], plan=TrainingPlan(steps=1))
