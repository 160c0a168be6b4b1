"""The bias of the sigmoid loss: where the loss itself is least, with an interval that holds, and as a probability."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import infomech as im
from infomech import cli
from infomech.losses import sigmoid_loss
from infomech.scores import best_bias, sigmoid_findings, sigmoid_probability

sys.path.insert(0, str(Path(__file__).parent))
from laws import NoisyDirections

LAW = NoisyDirections(dim=6, concentration=8.0)


def test_the_loss_of_whole_batches_is_least_at_the_best_bias() -> None:
    x, y = LAW.draw(60, 0)
    found = best_bias(x, y, temperature=0.125, batch_size=60, bias=-4.0)
    at, left, right, given = (
        float(sigmoid_loss(x, y, temperature=0.125, bias=b))
        for b in (found.bias.value, found.bias.value - 0.01, found.bias.value + 0.01, -4.0)
    )
    assert at < min(left, right)
    assert found.loss == pytest.approx(at, rel=1e-6)
    assert found.given_loss == pytest.approx(given, rel=1e-6)
    assert "best bias" in repr(found)


def test_the_known_bias_lies_in_the_interval() -> None:
    """The law's log ratio is s / tau less a constant: the best bias is that constant less log(B - 1)."""
    one = torch.eye(6, dtype=torch.float64)[:1]
    constant = float(LAW.log_ratio(one, one)) - LAW.concentration
    truth = constant - np.log(255)
    covered, errors, stated = 0, [], []
    for seed in range(60):
        bias = best_bias(*LAW.draw(300, seed), temperature=LAW.temperature, batch_size=256).bias
        covered += bias.low <= truth <= bias.high
        errors.append(bias.value - truth)
        stated.append(bias.stderr)
    assert covered >= 52  # of 57 expected; 52 or fewer come in 2% of such experiments
    assert float(np.mean(stated)) == pytest.approx(float(np.std(errors)), rel=0.3)
    assert abs(float(np.mean(errors))) < 4 * float(np.std(errors)) / np.sqrt(60) + 0.02


def test_the_probability_is_calibrated_at_any_prior() -> None:
    x, y = LAW.draw(3000, 0)
    fit = best_bias(x, y, temperature=LAW.temperature, batch_size=256)
    a, b = LAW.draw(20_000, 1)
    for prior in (0.5, 0.1):
        cosines = torch.cat([(a * b).sum(1), (a * b.roll(1, 0)).sum(1)])
        stated = sigmoid_probability(
            cosines, temperature=LAW.temperature, bias=fit.bias.value, batch_size=256, prior=prior
        )
        weights = torch.cat([torch.full((20_000,), prior), torch.full((20_000,), 1 - prior)])
        match = torch.cat([torch.ones(20_000), torch.zeros(20_000)])
        for low in (0.1, 0.4, 0.7):
            here = (stated > low) & (stated < low + 0.2)
            share = float((weights * match)[here].sum() / weights[here].sum())
            assert share == pytest.approx(float((weights * stated)[here].sum() / weights[here].sum()), abs=0.05)


def test_findings_tell_a_bias_that_fits_from_one_that_does_not() -> None:
    x, y = LAW.draw(400, 0)
    best = best_bias(x, y, temperature=0.125, batch_size=256).bias.value
    for given, severity, word in (
        (best, "good", "fits"),
        (best + 3, "warning", "too high"),
        (best - 3, "warning", "low"),
    ):
        (found,) = sigmoid_findings(best_bias(x, y, temperature=0.125, batch_size=256, bias=given))
        assert found.severity == severity
        assert word in found.title + found.text
    assert sigmoid_findings(best_bias(x, y, temperature=0.125, batch_size=256)) == []
    for wrong in ({"batch_size": 1}, {"batch_size": 8, "bias": float("nan")}):
        with pytest.raises(im.InputError, match=f"{list(wrong)[-1]} is"):
            best_bias(x, y, temperature=0.125, **wrong)  # type: ignore[arg-type]


def test_doctor_looks_at_the_bias(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = LAW.draw(200, 0)
    files = []
    for name, rows in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", normalize(rows, dim=1).float().numpy())
        files.append(str(tmp_path / f"{name}.npy"))
    words = ["doctor", *files, "-t", "0.125", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--loss", "sigmoid", "--bias", "-1", "--batch-size", "256"])
    assert stop.value.code == 0
    assert "The bias does not fit" in capsys.readouterr().out
    for more, line in (
        (["--loss", "sigmoid"], "--loss sigmoid and --bias B belong together"),
        (["--loss", "hinge"], "--loss is 'hinge'"),
        (["--loss", "sigmoid", "--bias", "-1"], "give --batch-size"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, *more])
        assert stop.value.code == 2
        assert line in capsys.readouterr().err
