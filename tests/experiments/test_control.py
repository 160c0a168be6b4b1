"""The study of control: its scores, its statistics, and a whole small run."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech.experiments.digits.control import MEASURES, Plan, at_their_best, run_control, score
from infomech.experiments.digits.halves import TwoTower, load_halves, swap_within_class, train_two_tower
from infomech.experiments.digits.selection import Checkpoint, best, checkpoint, stops
from infomech.experiments.digits.stacked import Run, train_stack
from infomech.experiments.statistics import summarise


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Given:
    """A model that embeds everything as it is."""

    def embed_x(self, rows):
        return rows

    def embed_y(self, rows):
        return rows


@pytest.mark.usefixtures("unchecked")
def test_scores_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(12, 3, generator=generator).double(), dim=1) for _ in range(2))
    found = score(Given(), x, y)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    mean = {
        name: sum(float((a[i] - b[j]).norm()) for i, j in pairs) / len(pairs)
        for name, (a, b) in {"xy": (x, y), "xx": (x, x), "yy": (y, y)}.items()
    }
    assert found["energy_distance"] == pytest.approx(2 * mean["xy"] - mean["xx"] - mean["yy"], abs=1e-12)
    better = [sum(float(x[i] @ y[j]) > float(x[i] @ y[i]) for j in range(12)) for i in range(12)]
    better += [sum(float(x[j] @ y[i]) > float(x[i] @ y[i]) for j in range(12)) for i in range(12)]
    assert found["recall_at_5"] == pytest.approx(sum(b < 5 for b in better) / 24)
    assert found["alignment"] == pytest.approx(-float((x * y).sum(1).mean()) / 0.07)
    squared = sum(float((x[i] - y[i]) @ (x[j] - y[j])) for i, j in pairs) / len(pairs)  # unbiased
    assert found["centroid_gap"] == pytest.approx(math.sqrt(max(squared, 0.0)))
    assert set(found) == set(MEASURES)


@pytest.mark.usefixtures("unchecked")
def test_matched_marginals_have_no_gap_on_average() -> None:
    """The U statistics are unbiased: over many draws from one law their mean is 0 within its error."""
    generator = torch.Generator().manual_seed(1)
    draws = []
    for _ in range(100):
        x, y = (torch.nn.functional.normalize(torch.randn(20, 3, generator=generator).double(), dim=1) for _ in "xy")
        draws.append(im.gap(x, y)["energy_distance"].value)
    values = torch.tensor(draws)
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(100)


def test_a_whole_small_run(tmp_path: Path) -> None:
    plan = Plan(weights=(0.0, 0.75), swaps=(0.0, 1.0), seeds=2, steps=25)
    counted = []
    results = run_control(tmp_path / "out", plan=plan, workers=1, progress=counted.append)
    assert sum(counted) == pytest.approx(1)
    assert len(results["runs"]) == 8
    assert len(results["summary"]) == 4
    names = {"results.json", "provenance.json", "README.md", "control.png", "control.pdf", "parts"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["summary"] == results["summary"]
    first = [run for run in written["runs"] if run["swap"] == 0 and run["divergence_weight"] == 0]
    mean = sum(run["recall_at_10"] for run in first) / 2
    row = next(r for r in written["summary"] if r["swap"] == 0 and r["divergence_weight"] == 0)
    assert row["recall_at_10"]["value"] == pytest.approx(mean)
    assert row["change_recall_at_10"] == {"value": 0.0, "stderr": 0.0, "low": 0.0, "high": 0.0}

    selected = next(r for r in written["selected"] if r["swap"] == 1 and r["divergence_weight"] == 0.75)
    runs = [run for run in written["runs"] if run["swap"] == 1 and run["divergence_weight"] == 0.75]
    mean = sum(run["recall_at_10_at_best"] for run in runs) / 2
    assert selected["recall_at_10_at_best"]["value"] == pytest.approx(mean)
    assert any("stopped where shared information" in line for line in written["found"])


def test_a_run_stops_where_it_shares_most_and_is_scored_on_other_pairs() -> None:
    """The stack shows the models that runs one by one pass through; nothing of the scoring half enters the choice."""
    data = load_halves(2)
    one_by_one: list[Checkpoint] = []

    def watch(step: int, model: TwoTower) -> None:
        if step in (5, 40):
            one_by_one.append(checkpoint(step, model, data, seed=2))

    train_two_tower(data, steps=40, seed=2, divergence_weight=0.75, watch=watch)
    shown: list[Checkpoint] = []
    train_stack(
        data,
        [Run(0.0, 0.75)],
        seed=2,
        steps=40,
        stops=(5, 40),
        watch=lambda step, models: shown.append(checkpoint(step, models[0], data, seed=2)),
    )
    for alone, stacked in zip(one_by_one, shown, strict=True):
        assert stacked.step == alone.step
        assert stacked.information == pytest.approx(alone.information, abs=1e-4)
        assert stacked.recall_at_10 == pytest.approx(alone.recall_at_10, abs=0.01)
    assert best(shown) is max(shown, key=lambda each: each.information)
    half = len(data.test_x) // 2
    others = replace(data, test_x=torch.cat([data.test_x[:half], data.test_x[half:].flip(0)]))
    model = train_two_tower(data, steps=40, seed=2)
    changed, was = (checkpoint(40, model, each, seed=2) for each in (others, data))
    assert changed.information == was.information
    assert changed.recall_at_10 < 0.5 * was.recall_at_10
    assert stops(1500) == (100, 200, 400, 800, 1500)
    assert stops(50) == (50,)


def test_few_seeds_give_no_verdict_at_the_best() -> None:
    """Two equal differences have an interval without width: that is chance."""
    names = ("step_at_best", "recall_at_10_at_best", "recall_at_10_at_last")
    for seeds, says in ((2, "that 2 seeds do not tell from nothing"), (5, "it rises (+0.100, 95% interval")):
        runs = [
            {"swap": 0.0, "divergence_weight": w, "seed": s} | dict(zip(names, (400, 0.5 + w / 7.5, 0.4), strict=True))
            for s in range(seeds)
            for w in (0.0, 0.75)
        ]
        selected = summarise(runs, names, by=["swap"], along="divergence_weight")
        (line,) = at_their_best(selected, Plan(swaps=(0.0,), seeds=seeds))
        assert "0.500 without control and 0.600 at lambda = 3/4" in line
        assert says in line


def test_runs_repeat_themselves() -> None:
    data = load_halves(3)
    models = [train_two_tower(data, steps=5, seed=3, swap=0.5, divergence_weight=0.5) for _ in range(2)]
    assert torch.equal(models[0].embed_x(data.test_x), models[1].embed_x(data.test_x))
    assert not torch.equal(data.test_x, load_halves(4).test_x)


def test_the_weight_closes_the_gap() -> None:
    """DESIGN section 7 in small: a paired run at lambda = 3/4 ends with a smaller divergence than at 0."""
    data = load_halves(0)
    gaps = []
    for weight in (0.0, 0.75):
        model = train_two_tower(data, divergence_weight=weight, steps=300)
        gaps.append(score(model, data.test_x, data.test_y))
    assert gaps[1]["divergence_sym"] < 0.6 * gaps[0]["divergence_sym"]
    assert gaps[1]["energy_distance"] < gaps[0]["energy_distance"]


def test_swaps_stay_within_the_class_and_are_as_many_as_asked() -> None:
    labels = torch.arange(5000) % 10
    partner = swap_within_class(labels, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(labels[partner], labels)
    moved = float((partner != torch.arange(5000)).double().mean())
    expected = 0.3 * (1 - 1 / 500)  # a swap may draw the row itself
    assert abs(moved - expected) < 4 * math.sqrt(expected * (1 - expected) / 5000)


@pytest.mark.parametrize(("kwargs", "words"), [({"swap": 1.5}, "probability"), ({"batch_size": 2000}, "batch_size")])
def test_bad_settings(kwargs, words: str) -> None:
    with pytest.raises(im.InputError, match=words):
        train_two_tower(load_halves(0), steps=1, **kwargs)
