"""Caption corruption on digits: the stack against single runs, whole small runs, resuming."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech.experiments.digits import corruption as digits_corruption
from infomech.experiments.digits.corruption import Arm, DigitsPlan, one_part, run_digits_corruption
from infomech.experiments.digits.halves import DigitsHalves, load_halves, swap_within_class, train_two_tower
from infomech.experiments.digits.stacked import Run, stacked_losses, train_stack
from infomech.losses import symmetric_infonce


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_stack_is_its_single_runs() -> None:
    data = load_halves(2)
    runs = [Run(0.0), Run(0.5, 0.75), Run(1.0, 0.25)]
    stack = train_stack(data, runs, seed=2, steps=30)
    for run, model in zip(runs, stack, strict=True):
        single = train_two_tower(data, seed=2, steps=30, swap=run.swap, divergence_weight=run.divergence_weight)
        for side, rows in (("embed_x", data.test_x), ("embed_y", data.test_y)):
            off = (getattr(single, side)(rows) - getattr(model, side)(rows)).abs().max()
            assert off < 1e-5  # float32, 30 steps of Adam
    # The same numbers must not come of runs that are all alike.
    assert (stack[0].embed_x(data.test_x) - stack[2].embed_x(data.test_x)).abs().max() > 1e-3


def test_stacked_losses_and_gradients() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(3, 9, 4, generator=g, dtype=torch.float64), dim=2) for _ in "xy")
    x.requires_grad_()
    weights = torch.tensor([0.0, 0.75, 1.0], dtype=torch.float64)
    found = stacked_losses(x, y, temperature=0.1, weights=weights)
    expected = torch.stack(
        [
            symmetric_infonce(a, b, temperature=0.1, divergence_weight=float(w))
            for a, b, w in zip(x, y, weights, strict=True)
        ]
    )
    assert torch.allclose(found, expected, rtol=1e-12)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, rtol=1e-10)


def test_fresh_draws_move_and_fixed_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import infomech.experiments.digits.stacked as stacked

    drawn = []

    def watched(labels, probability, generator):
        out = swap_within_class(labels, probability, generator)
        drawn.append(out)
        return out

    monkeypatch.setattr(stacked, "swap_within_class", watched)
    data = load_halves(0)
    for redraw, draws in ((False, 1), (True, 3)):
        drawn.clear()
        train_stack(data, [Run(0.25), Run(0.75)], seed=0, steps=13, redraw=redraw)  # 6 steps an epoch
        assert len(drawn) == 2 * draws
        low, high = drawn[0], drawn[1]
        moved = low != torch.arange(len(low))
        assert torch.equal(low[moved], high[moved])  # what is exchanged at p is exchanged at all higher p
        assert all(torch.equal(data.train_labels[d], data.train_labels) for d in drawn)
    assert not torch.equal(drawn[1], drawn[3])


def with_few_to_score(seed: int) -> DigitsHalves:
    data = load_halves(seed)
    return replace(data, test_x=data.test_x[:120], test_y=data.test_y[:120])


def test_a_small_run_and_its_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = DigitsPlan(swaps=(0.0, 1.0), arms=(Arm(0.0, fresh=True), Arm(0.75)), seeds=2, steps=20)
    monkeypatch.setattr(digits_corruption, "load_halves", with_few_to_score)
    shares: list[float] = []
    whole = run_digits_corruption(tmp_path / "a", plan=plan, workers=1, progress=shares.append)
    assert sum(shares) == pytest.approx(1)
    names = {
        "results.json",
        "provenance.json",
        "README.md",
        "caption-corruption.png",
        "caption-corruption.pdf",
        "parts",
    }
    assert {p.name for p in (tmp_path / "a").iterdir()} == names
    assert len(whole["runs"]) == 8
    assert len(whole["found"]) == 6
    assert json.loads((tmp_path / "a" / "results.json").read_text())["runs"] == whole["runs"]
    parts = sorted((tmp_path / "a" / "parts").iterdir())
    keys = ["weight0-fresh-0", "weight0-fresh-1", "weight0.75-fixed-0", "weight0.75-fixed-1"]
    assert [p.name.rsplit("-", 1)[0] for p in parts] == keys
    shutil.copytree(tmp_path / "a" / "parts", tmp_path / "b" / "parts")
    (tmp_path / "b" / "parts" / parts[0].name).unlink()
    cut = tmp_path / "b" / "parts" / parts[3].name
    cut.write_bytes(cut.read_bytes()[:100])  # cut off by a kill: done again
    asked = []

    def counted(plan, arm, seed):
        asked.append((arm.slug, seed))
        return one_part(plan, arm, seed)

    monkeypatch.setattr(digits_corruption, "one_part", counted)
    assert run_digits_corruption(tmp_path / "b", plan=plan, workers=1)["runs"] == whole["runs"]
    assert asked == [("weight0.75-fixed", 1), ("weight0-fresh", 0)]
    asked.clear()
    other = DigitsPlan(swaps=(0.0, 1.0), arms=(Arm(0.75),), seeds=2, steps=10)
    run_digits_corruption(tmp_path / "b", plan=other, workers=1)
    assert asked == [("weight0.75-fixed", 0), ("weight0.75-fixed", 1)]  # other settings take nothing from it


def test_arms_of_the_command_line() -> None:
    assert DigitsPlan().chosen() == DigitsPlan().arms
    assert DigitsPlan(weights=(0.0, 0.5)).chosen() == (Arm(0.0, fresh=True), Arm(0.5, fresh=True))
    assert DigitsPlan(fresh=False).chosen() == (Arm(0.0, fresh=False),)


@pytest.mark.usefixtures("unchecked")
def test_bad_settings() -> None:
    with pytest.raises(im.InputError, match="probability"):
        train_stack(load_halves(0), [Run(1.5)], seed=0, steps=1)
    with pytest.raises(im.InputError, match=r"at least 0\.0125"):
        train_stack(load_halves(0), [Run(0.5)], seed=0, steps=1, temperature=0.01)
