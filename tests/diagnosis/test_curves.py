"""Curves over temperature and N: the budget of `decompose` at each point, its gradient, and the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cases
import infomech as im
import infomech.cli as cli
from infomech.diagnosis.batch_gradient import batch_gradients
from infomech.diagnosis.batch_tables import Batches
from infomech.diagnosis.curves import CURVED, Curves, batch_curves
from infomech.measures import PairedSample
from infomech.report.page import report_page


def sample(groups: int = 96, *, seed: int = 0, dim: int = 6) -> PairedSample:
    g = torch.Generator().manual_seed(seed)
    x, y, pairs = cases.image_text(groups, 3, generator=g, dim=dim)
    return PairedSample.from_embeddings(x, y, pairs=pairs)


def given(s: PairedSample) -> torch.Tensor:
    return torch.stack([s.order_x[s.pairs[:, 0]], s.order_y[s.pairs[:, 1]]], 1)


@pytest.fixture(scope="module")
def curves() -> Curves:
    s = sample()
    budget = im.decompose(s.given_x, s.given_y, pairs=given(s), temperature=0.5, batch_size=24)
    return batch_curves(s, budget, temperatures=(0.2, 1.0))


def test_n_stops_at_the_data(curves: Curves) -> None:
    assert curves.temperatures == [0.2, 0.5, 1.0]
    assert curves.negatives == [1, 4, 16, 23, 64, 95]
    assert curves.groups == 96


def test_each_point_is_that_of_decompose(curves: Curves) -> None:
    s = sample()
    for t, tau in enumerate(curves.temperatures):
        budget = im.decompose(s.given_x, s.given_y, pairs=given(s), temperature=tau, batch_size=17)
        at = curves.negatives.index(16)
        for name in CURVED:
            mine, theirs = curves.parts[name][t][at], getattr(budget, name)
            # smaller batches are averaged over fewer parts of a block: the same expectation, by other batches
            assert mine.value == pytest.approx(theirs.value, abs=4 * theirs.stderr + 1e-12)
            last = budget.curve.parts[name][-1]
            assert curves.parts[name][t][-1].value == pytest.approx(last.value, rel=1e-9)
        assert curves.growth[t] == pytest.approx(budget.growth.largest, rel=1e-9)
        assert curves.resolved[t] == budget.resolved
        assert curves.above_largest[t][-1].value == 0


def test_the_gradient_is_that_of_random_batches(curves: Curves) -> None:
    found = batch_gradients(Batches.of(sample(), parts=2), temperature=0.2, negatives=curves.negatives)
    assert [g.error for g in found] == curves.gradient_error[0]
    assert [g.cosine for g in found] == curves.gradient_cosine[0]
    for row in curves.gradient_error:
        assert [e.value for e in row] == sorted((e.value for e in row), reverse=True)


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    s = sample()
    budget = im.decompose(s.given_x, s.given_y, pairs=given(s), temperature=0.5)
    with pytest.raises(im.InputError, match="at least 8"):
        batch_curves(sample(6), budget)
    with pytest.raises(im.InputError, match="temperature is 0"):
        batch_curves(s, budget, temperatures=(0.0,))


def test_the_report_shows_them_if_asked(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    x, y, pairs = cases.image_text(60, 2, generator=g)
    for name, array in (("x", x), ("y", y), ("pairs", pairs)):
        np.save(tmp_path / f"{name}.npy", array.numpy())
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "--pairs", str(tmp_path / "pairs.npy"), "-t", "0.5"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", *files, "-o", str(tmp_path / "with"), "--curves", "--batch-size", "32"])
    assert not stopped.value.code
    assert "curves" in json.loads((tmp_path / "with" / "report.json").read_text())
    assert 'id="chart-gradient"' in (tmp_path / "with" / "report.html").read_text()
    assert (tmp_path / "with" / "figures" / "curves.png").exists()
    without = im.diagnose(x, y, temperature=0.5, pairs=pairs)
    assert "curves" not in without.to_dict()
    assert 'id="chart-gradient"' not in report_page(without.diagnosis).decode()
    text = (tmp_path / "with" / "report.md").read_text()
    assert "## Batch and temperature" in text
    assert "Your batch: at τ = 0.5 it sees" in (tmp_path / "with" / "report.html").read_text()
