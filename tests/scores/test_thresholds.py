"""Thresholds, probabilities and their intervals: against loops, against fresh pairs, over many draws."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech as im
from infomech.scores import DensityRatio
from infomech.scores.calibration import candidate_reliability, fit_calibration, pair_reliability
from infomech.scores.rates import PairTable
from infomech.scores.thresholds import finest_rate, for_best_f1, for_false_positive_rate, for_precision

sys.path.insert(0, str(Path(__file__).parent))
from laws import Hubs, NoisyDirections

LAW = NoisyDirections(dim=6, concentration=8.0)


def table(count: int, seed: int) -> PairTable:
    """A score with strong row and column effects: hubs, and queries that like everything."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.randn(2, count, generator=generator, dtype=torch.float64)
    column = 0.6 * row + 0.8 * column  # a group's row and column go together
    values = 0.7 * row[:, None] + 0.7 * column[None, :] + torch.randn(count, count, generator=generator)
    values.diagonal().add_(3.0)
    return PairTable(values)


def test_counts_are_those_of_a_loop() -> None:
    scores = table(30, 0)
    counts = scores.counts(1.5)
    above = [(i, j) for i in range(30) for j in range(30) if i != j and scores.values[i, j] > 1.5]
    assert counts.total == len(above)
    assert counts.mutual == sum((j, i) in above for i, j in above)
    assert counts.wrong.tolist() == [sum(g in pair for pair in above) for g in range(30)]
    assert scores.false_rates(np.array([1.5]))[0] == pytest.approx(len(above) / 870)
    # the two-way sum over all pairs of pairs that share a group
    rate = len(above) / 870
    pairs = [(i, j) for i in range(30) for j in range(30) if i != j]
    off = {pair: (pair in above) - rate for pair in pairs}
    double = sum(off[p] * off[q] for p in pairs for q in pairs if set(p) & set(q))
    assert counts.variance(0.0, 1.0) == pytest.approx(double / 870**2)


def test_the_variance_is_that_of_many_draws() -> None:
    rates, stated = [], []
    for seed in range(200):
        counts = table(120, seed).counts(2.5)
        rates.append(counts.false_rate)
        stated.append(math.sqrt(counts.variance(0.0, 1.0)))
    assert float(np.mean(stated)) == pytest.approx(float(np.std(rates)), rel=0.15)
    rows_alone = math.sqrt(np.mean(rates) / (120 * 119))
    assert float(np.std(rates)) > 3 * rows_alone  # pairs are far from independent


def test_thresholds_do_what_was_asked_for() -> None:
    scores = table(400, 1)
    cut = for_false_positive_rate(scores, 0.02)
    assert cut.false_positive_rate.value == pytest.approx(0.02, abs=1e-4)
    assert cut.score.low < cut.score.value < cut.score.high
    cut = for_precision(scores, 0.8, prior=0.1)
    assert cut.precision is not None
    assert cut.precision.value == pytest.approx(0.8, abs=0.01)
    assert cut.precision.low < 0.8 < cut.precision.high
    best = for_best_f1(scores, prior=0.3)
    f1 = [
        2 * 0.3 * t / (0.3 + 0.3 * t + 0.7 * f)
        for t, f in zip(scores.true_rates(scores.true), scores.false_rates(scores.true), strict=True)
    ]
    assert best.score.value == scores.true[int(np.argmax(f1))]
    assert best.score.low <= best.score.value <= best.score.high


def test_the_best_f1_at_a_small_prior_is_right_or_refused() -> None:
    """Where no random pair lies above a threshold, a precision of 1 would be said of what nobody has counted."""
    scores = table(400, 1)
    for prior in (0.5, 0.1, 0.01):
        best = for_best_f1(scores, prior=prior)
        assert all(math.isfinite(v) for v in (best.score.value, best.score.low, best.score.high))
        assert best.precision is not None
        hit, miss = prior * best.true_positive_rate.value, (1 - prior) * best.false_positive_rate.value
        assert best.precision.value == pytest.approx(hit / (hit + miss))
    for prior in (1e-5, 1e-12, 1e-290):
        with pytest.raises(im.InputError, match=r"finer than 400 groups can resolve: .* give a larger prior"):
            for_best_f1(scores, prior=prior)
    apart = torch.diag(torch.linspace(1, 2, 400, dtype=torch.float64))
    perfect = for_best_f1(PairTable(apart), prior=0.1)
    assert perfect.precision is not None
    assert perfect.precision.value == 1
    with pytest.raises(im.InputError, match="0 effective random pairs"):
        for_best_f1(PairTable(apart), prior=1e-12)


def test_a_rate_finer_than_the_data_resolve_is_refused_with_one_that_they_do() -> None:
    scores = table(200, 2)
    finest = finest_rate(scores)
    assert finest is not None
    for_false_positive_rate(scores, 1.2 * finest)
    with pytest.raises(im.InputError, match=r"than 200 groups can resolve: .* rates from [0-9.e-]+ on can be resolved"):
        for_false_positive_rate(scores, finest / 8)
    with pytest.raises(im.InputError, match="no threshold reaches a precision"):
        for_precision(PairTable(torch.zeros(20, 20)), 0.999999, 0.01)
    with pytest.raises(im.InputError, match="effective random pairs lie above"):
        for_precision(scores, 0.99, 1e-4)


def fitted(count: int, seed: int, **more: object) -> DensityRatio:
    return DensityRatio(LAW.temperature, **more).fit(*LAW.draw(count, seed))  # type: ignore[arg-type]


def test_the_ratio_and_the_critic_stand_side_by_side() -> None:
    ratio = fitted(600, 0)
    found = ratio.threshold(false_positive_rate=1e-2)
    assert float(found) == found.ratio.score.value
    assert found.critic is not None
    assert -1 < found.critic.score.value < 1  # a cosine
    assert "critic alone" in repr(found)
    assert found.to_dict()["ratio"]["score"]["low"] < float(found)
    x, y = LAW.draw(1000, 9)
    rate = float((ratio.log_ratios(x, y.roll(1, 0)) > float(found)).double().mean())
    assert rate == pytest.approx(1e-2, rel=0.3)
    assert ratio.threshold(precision=0.5, prior=0.05).ratio.precision is not None
    for wrong, message in (
        ({}, "ask for one of"),
        ({"precision": 0.5}, "give prior"),
        ({"best_f1": True, "prior": 2.0}, "prior is 2"),
        ({"false_positive_rate": 1e-7}, "finer than 600 groups can resolve"),
        ({"false_positive_rate": 0.0}, "a share, between 0 and 1"),
        ({"best_f1": True, "prior": 5e-324}, "shares below 1e-300 are lost in rounding"),
    ):
        with pytest.raises(im.InputError, match=message):
            ratio.threshold(**wrong)  # type: ignore[arg-type]


def test_a_known_ratio_is_a_probability() -> None:
    """The law's own ratio is calibrated; so is the fitted one, and a distorted one after it is calibrated."""
    ratio = fitted(1200, 0)
    assert ratio.reliability(prior=0.5).error.value < 0.02
    x, y = LAW.draw(4000, 5)
    stated = ratio.match_probability(x, y.roll(1, 0), prior=0.5)
    true = ratio.match_probability(x, y, prior=0.5)
    together = torch.cat([stated, true])
    matches = torch.cat([torch.zeros(4000), torch.ones(4000)])
    for low in (0.2, 0.5, 0.8):
        here = (together > low) & (together < low + 0.15)
        assert float(matches[here].mean()) == pytest.approx(float(together[here].mean()), abs=0.06)
    cold = DensityRatio(LAW.temperature / 2).fit(*LAW.draw(1200, 0))  # twice as sure as it may be
    for method in ("isotonic", "logistic"):
        before, after = cold.reliability(), cold.reliability(calibrated=method)
        assert after.error.value < 0.5 * before.error.value
        assert after.error.value < 0.03
        assert after.error.low <= after.error.value <= after.error.high
    cold.calibrate("logistic")
    fresh = cold.match_probability(x, y, prior=0.5) - true
    assert float(fresh.abs().mean()) < 0.05


def test_candidates_share_one_match() -> None:
    ratio = fitted(800, 0)
    x, y = LAW.draw(50, 1)
    assert bool(torch.allclose(ratio.candidate_probabilities(x, y).sum(1), torch.ones(50, dtype=torch.float64)))
    assert bool(torch.allclose(ratio.candidate_probabilities(x, y, side="x").sum(0), torch.ones(50).double()))
    found = ratio.candidate_reliability()
    assert found.error.value < 0.05
    assert "candidates" in repr(found)


def test_reliability_is_what_a_loop_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    found = pair_reliability(odds, torch.ones(40, 40, dtype=torch.bool), 0.2, bins=4)
    stated = torch.sigmoid(odds + math.log(0.2 / 0.8))
    error = 0.0
    for k in range(4):
        total, wrong = 0.0, 0.0
        for i in range(40):
            for j in range(40):
                if int(stated[i, j] * 4) == k:
                    weight = 0.2 / 40 if i == j else 0.8 / (40 * 39)
                    total += weight
                    wrong += weight * (float(stated[i, j]) - (i == j))
        error += abs(wrong)
    assert found.error.value == pytest.approx(error)
    assert sum(found.shares) == pytest.approx(1)
    ratios = 10 * torch.eye(30) + 0.01 * odds[:30, :30]
    assert candidate_reliability(ratios).observed[-1].value == 1.0


def test_calibrators_are_monotone_and_never_certain() -> None:
    generator = np.random.default_rng(0)
    for method in ("isotonic", "logistic"):
        calibration = fit_calibration(generator.normal(2, 1, 300), generator.normal(-2, 1, 5000), method)
        odds = calibration(torch.linspace(-40, 40, 200, dtype=torch.float64))
        assert bool((odds.diff() >= 0).all())
        assert bool(torch.isfinite(odds).all())
    with pytest.raises(im.InputError, match="method is 'beta'; it is one of isotonic, logistic"):
        fit_calibration(np.ones(3), np.zeros(3), "beta")


@pytest.mark.slow
def test_intervals_hold_the_thresholds_of_fresh_pairs() -> None:
    """Coverage over 300 references of pairs with hubs: what each fitted object does to 720,000 fresh random pairs."""
    law, rates = Hubs(), (1e-2, 2e-3)
    covered = dict.fromkeys((*rates, "precision", *(-rate for rate in rates)), 0)
    for seed in range(300):
        ratio = DensityRatio(law.temperature).fit(*law.draw(300, seed))
        x, y = law.draw(60_000, 10_000 + seed)
        field_x, field_y = ratio.log_field_y(x), ratio.log_field_x(y)
        true = ((x * y).sum(1) / law.temperature - (field_x + field_y) / 2).numpy()
        cosines = [(x * y.roll(k, 0)).sum(1).double() for k in range(1, 13)]
        ratios = [c / law.temperature - (field_x + field_y.roll(k, 0)) / 2 for k, c in enumerate(cosines, start=1)]
        wrong, cosine = torch.cat(ratios).numpy(), torch.cat(cosines).numpy()
        for rate in rates:
            found = ratio.threshold(false_positive_rate=rate)
            assert found.critic is not None
            for key, values, score in ((rate, wrong, found.ratio.score), (-rate, cosine, found.critic.score)):
                covered[key] += (values > score.low).mean() >= rate >= (values > score.high).mean()
        score = ratio.threshold(precision=0.5, prior=0.05).ratio.score
        margins = [0.05 * (true > t).mean() - 0.95 * (wrong > t).mean() for t in (score.low, score.high)]
        covered["precision"] += margins[0] <= 0 <= margins[1]
    assert all(0.92 <= count / 300 <= 0.98 for count in covered.values()), covered
