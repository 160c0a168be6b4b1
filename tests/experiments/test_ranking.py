"""What ranks models: the baselines against their formulas, the curves of signs, and the whole in miniature."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech as im
from infomech.experiments.ranking import measures
from infomech.experiments.ranking.ranking import RankingPlan, run_ranking
from infomech.experiments.ranking.sets import glyph_plans, sentence_variants, train_glyphs, trained

ROOT = Path(__file__).parents[2]


def rows(n=60, d=6, noise=0.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    both = z, z + noise * torch.randn(n, d, generator=g, dtype=torch.float64)
    return tuple(torch.nn.functional.normalize(r, dim=1) for r in both)


def test_dense_information_is_the_lowest_loss_of_a_fine_grid():
    x, y = rows()
    scores = x @ y.T
    fine = min(measures.in_batch_loss(scores, math.exp(u)) for u in np.linspace(-4, 2, 4000))
    assert measures.dense_information(scores) == pytest.approx(math.log(60) - fine, abs=2e-3)
    whole = im.shared_information(*rows(n=300), batch_size=300).information.value
    x, y = rows(n=300)
    assert measures.dense_information(x @ y.T) == pytest.approx(whole, abs=0.01)


def test_loss_and_recalls_are_loops_written_out():
    x, y = rows(n=12)
    scores = (x @ y.T).numpy()
    losses = []
    for i in range(12):
        both = (scores, scores.T)
        losses += [math.log(sum(math.exp(s / 0.2) for s in t[i])) - t[i, i] / 0.2 for t in both]
    assert measures.in_batch_loss(x @ y.T, 0.2) == pytest.approx(np.mean(losses))
    places = [1 + sum(t[i, j] > t[i, i] for j in range(12)) for t in (scores, scores.T) for i in range(12)]
    found = measures.retrieval(x @ y.T)
    assert found["recall_at_1"] == pytest.approx(np.mean([p <= 1 for p in places]))
    assert found["mrr"] == pytest.approx(np.mean([1 / p for p in places]))


def test_baselines_on_rows_whose_value_is_known():
    flat = torch.eye(8, dtype=torch.float64).repeat(5, 1)
    assert measures.rankme(flat) == pytest.approx(8, rel=1e-5)
    line = torch.ones(10, 8, dtype=torch.float64)
    assert measures.rankme(line) == pytest.approx(1, abs=1e-4)
    x, y = rows(n=80)
    assert measures.lidar(x, y) > measures.lidar(x[:, :1].expand(80, 6), y[:, :1].expand(80, 6))
    value = measures.alignment_uniformity(x, y)
    aligned = float(((x - y) ** 2).sum(1).mean())
    parts = []
    for r in (x, y):
        inner = [math.exp(-2 * float(((r[i] - r[j]) ** 2).sum())) for i in range(80) for j in range(80) if i != j]
        parts.append(math.log(np.mean(inner)))
    assert value == pytest.approx(aligned + sum(parts) / 2, abs=1e-9)
    assert measures.knn(x, x) == pytest.approx(1.0)
    assert measures.knn(x, x[torch.randperm(80)]) < 0.4


def test_correlations_and_signs():
    models = [rows(noise=level, seed=3) for level in (0.3, 0.6, 1.0, 1.6, 2.5)]
    scores = [x @ y.T for x, y in models]
    whole = [measures.subset_measures(s) for s in scores]
    found = measures.correlations(whole)
    assert found["information"]["value"] == pytest.approx(1.0)
    assert found["information"]["low"] <= found["information"]["value"] <= found["information"]["high"]
    told: list[float] = []
    signs = measures.sign_curve(scores, whole, [10, 60], draws=4, progress=told.append)
    assert signs["information"][1] == 1.0  # all pairs agree with themselves
    assert 0.5 < signs["information"][0] <= 1.0
    assert sum(told) == pytest.approx(1.0)


def test_variants_of_an_encoding():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(600, 40, generator=g)
    found = list(sentence_variants(z, z + torch.randn(600, 40, generator=g), seed=0))
    assert len({each.name for each in found}) == len(found) >= 8
    assert all(len(each.x) == len(each.y) == 300 for each in found)
    with pytest.raises(im.InputError, match="at least 512 are needed"):
        list(sentence_variants(z[:100], z[:100], seed=0))


def test_the_experiment_in_miniature(tmp_path):
    plan = RankingPlan(trainings=5, steps=60, glyphs=0, functions=0, draws=2, seeds=1)
    told: list[float] = []
    results = run_ranking(tmp_path, plan=plan, workers=1, progress=told.append)
    assert sum(told) == pytest.approx(1.0)
    assert set(results["sets"]) == {"digits"}
    found = results["sets"]["digits"]
    assert len(found["models"]) == 5
    assert set(found["spearman"]) == set(measures.WORDS) - {"recall_at_10"}
    assert found["signs"]["sizes"] == [50, 100, 200]
    assert {row["divergence_weight"] for row in results["stopped"]} == {0.0, 0.75}
    text = (tmp_path / "README.md").read_text()
    assert "Spearman with R@10" in text
    assert json.loads((tmp_path / "results.json").read_text())["found"] == results["found"]
    assert (tmp_path / "ranking.png").exists()
    kept = sorted((tmp_path / "parts").iterdir())
    assert len(kept) == 5 + 4
    kept[0].unlink()  # as if it had been interrupted there
    again = run_ranking(tmp_path, plan=plan, workers=1)
    assert again["sets"] == results["sets"]
    assert json.loads((tmp_path / "provenance.json").read_text())["resumed"]


def test_trainings_on_glyphs_are_encodings_of_unseen_names():
    (plan,) = glyph_plans(1, samples=1000, seed=0).values()
    found = train_glyphs(replace(plan, steps=2), 0)
    assert found["x"].shape == found["y"].shape == (1500, 64)
    (each,) = trained({"one": plan}, {"one": found})
    assert each.name == "tau 0.07, batch 256, 20 steps, lambda 0, seed 0"


def test_the_pages_show_the_record():
    shown = runpy.run_path(str(ROOT / "benchmarks" / "ranking_shown.py"), run_name="shown")
    record = json.loads((ROOT / "docs" / "ranking.json").read_text(encoding="utf-8"))
    for (path, name), text in shown["shown"](record).items():
        assert f"<!-- {name} -->{text}<!-- end -->" in path.read_text(encoding="utf-8"), name
    for name, found in record["sets"].items():
        own = found["spearman"]["information"]
        assert own["value"] >= 0.95, name  # as the page says
        assert own["value"] >= found["spearman"]["loss"]["value"], name
