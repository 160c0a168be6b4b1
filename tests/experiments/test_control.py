"""The study of control: its scores, its statistics, and a whole small run."""

import json
import math
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech.experiments.digits.control import MEASURES, Plan, run_control, score
from infomech.experiments.digits.halves import load_halves, swap_within_class, train_two_tower


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
    for _ in range(300):
        x, y = (torch.nn.functional.normalize(torch.randn(20, 3, generator=generator).double(), dim=1) for _ in "xy")
        draws.append(im.gap(x, y)["energy_distance"].value)
    values = torch.tensor(draws)
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(300)


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
