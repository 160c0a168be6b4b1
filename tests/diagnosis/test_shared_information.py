"""Shared information: a law whose information is known, brute force, intervals, ceilings, twins, and bad input."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import infomech as im
from cases import captions
from infomech import InputError
from infomech.diagnosis.batch_budget import batch_statistics, column_weights
from infomech.diagnosis.batch_tables import Batches, kernel_tables
from infomech.diagnosis.differences import Difference
from infomech.diagnosis.information import twins
from infomech.diagnosis.information.anchors import Anchors, loss_table
from infomech.diagnosis.information.dense import dense_information
from infomech.diagnosis.information.pairing import groups_for_power, information_difference
from infomech.diagnosis.information.search import Grid
from infomech.diagnosis.information.shared import Asked, Losses, measure
from infomech.diagnosis.information.twins import expected_log
from infomech.measures import PairedSample
from information_laws import information, naive_infonce, von_mises_fisher_pairs

LAWS = [(3, 5.0), (64, 20.0), (384, 50.0)]


@pytest.mark.parametrize(("dim", "kappa"), LAWS)
def test_law_whose_information_is_known(dim: int, kappa: float) -> None:
    """Over averaged draws it rises with N to the information and is not above it; tau* is 1 / kappa."""
    found = [
        im.shared_information(*von_mises_fisher_pairs(1000, dim, kappa, seed), batch_size=250) for seed in range(6)
    ]
    true = information(dim, kappa)
    curves = np.array([[e.value for e in each.over_negatives.information] for each in found])
    mean, error = curves.mean(0), curves.std(0, ddof=1) / math.sqrt(len(curves))
    assert (np.diff(mean) > -1e-3).all()
    assert (mean <= true + 3 * error).all()
    assert mean[-1] > true - (0.02 if dim == 3 else 0.25) - 3 * error[-1]
    errors = [(math.log(each.temperature.value * kappa)) for each in found]
    spread = np.mean([each.temperature.stderr / each.temperature.value for each in found]) / math.sqrt(len(found))
    assert abs(np.mean(errors)) < 3.5 * spread
    assert all(each.found.status == "found" for each in found)


@pytest.mark.parametrize(("most", "groups"), [(1, 150), (3, 130)])
def test_brute_force_at_every_negatives(most: int, groups: int) -> None:
    """At fixed temperatures every N of the layout is the mean over random batches drawn one by one."""
    x, y, pairs = captions(groups=groups, most=most, seed=5)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=True)
    batches = Batches.of(sample, parts=2, doubling=False)
    at = column_weights(batches.layout, 10)
    taus = (0.05, 0.1, 0.3)
    table = loss_table(Anchors.of(batches), taus, at).means()
    order = torch.stack([sample.order_x[sample.pairs[:, 0]], sample.order_y[sample.pairs[:, 1]]], 1)
    for t, tau in enumerate(taus):
        for k, n in enumerate(batches.layout.negatives):
            if n in (1, 8, 64, groups - 1):
                naive, error = naive_infonce(x, y, order, sample.pair_groups, tau=tau, negatives=n, draws=400, seed=k)
                assert abs(float(table[t, k]) - naive) < 4 * error + 0.002, (tau, n)


def test_the_losses_are_those_of_the_budget() -> None:
    """Every N, every replicate and every pair of blocks: as the budget has them at the same temperature."""
    x, y, pairs = captions(groups=140, most=2, seed=1)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=True)
    batches = Batches.of(sample, parts=2)
    expected = batch_statistics(kernel_tables(batches, [0.2])[0])
    table = loss_table(Anchors.of(batches), (0.2, 0.4), column_weights(batches.layout, 20))
    shares = table.combined(torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None].expand(-1, len(table.weights)))
    row = expected.row("infonce_sym")
    torch.testing.assert_close(shares.values(), expected.values[row], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shares.replicates(), expected.replicates[:, row], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shares.interactions(), expected.interactions[:, row], rtol=1e-9, atol=1e-9)
    by_pair = (expected.at(20).by_pair("infonce_xy") + expected.at(20).by_pair("infonce_yx")) / 2
    torch.testing.assert_close(table.by_pair[0], by_pair, rtol=1e-9, atol=1e-9)


def test_interpolation_between_temperatures() -> None:
    """Between the middle nodes the polynomial is the loss itself to 1e-3 nats; its minimum is the loss's."""
    x, y = von_mises_fisher_pairs(400, 64, 20.0, 0)
    batches = Batches.of(PairedSample.from_embeddings(x, y), parts=2, doubling=False)
    anchors, at = Anchors.of(batches), column_weights(batches.layout, 99)
    grid = Grid.around(0.06)
    losses = loss_table(anchors, grid.temperatures, at).means() @ at
    tried = [0.035, 0.042, 0.05, 0.066, 0.09]
    exact = loss_table(anchors, tried, at).means() @ at
    for tau, loss in zip(tried, exact.tolist(), strict=True):
        assert float(grid.weights(math.log(tau)) @ losses) == pytest.approx(loss, abs=1e-3)
    best = grid.lowest(losses)
    nearby = [math.exp(best + step) for step in (-0.1, 0.0, 0.1)]
    left, middle, right = (loss_table(anchors, nearby, at).means() @ at).tolist()
    assert middle < left
    assert middle < right
    slope = (grid.weights(best + 1e-4) - grid.weights(best - 1e-4)) @ losses / 2e-4
    assert float(grid.weights(best, 1) @ losses) == pytest.approx(float(slope), abs=1e-6)


def test_the_interval_does_not_feel_the_search() -> None:
    """With both temperatures sought again in every replicate the error is the same: the envelope theorem at work."""
    x, y = von_mises_fisher_pairs(600, 64, 20.0, 3)
    batches = Batches.of(PairedSample.from_embeddings(x, y), parts=2, doubling=False)
    anchors, at = Anchors.of(batches), column_weights(batches.layout, 99)
    grid = Grid.around(0.05)
    losses = Losses(loss_table(anchors, grid.temperatures, at), grid)
    shares = losses.table.combined(losses.crossed(at))
    spared = losses.replicates(shares) @ at
    nodes = [
        [losses.replicates(_of_half(losses, t, half)) @ at for half in losses.halves]
        for t in range(len(grid.temperatures))
    ]
    table = torch.stack([torch.stack(halves) for halves in nodes])  # (t, 2, b)
    size = losses.table.weights
    sought = []
    for b in range(table.shape[2]):
        best = [grid.lowest(table[:, half, b]) for half in (0, 1)]
        shares_of = [float(size[half].sum() - (size[b] if bool(half[b]) else 0.0)) for half in losses.halves]
        parts = [float(grid.weights(best[1 - half]) @ table[:, half, b]) for half in (0, 1)]
        sought.append(sum(s * p for s, p in zip(shares_of, parts, strict=True)) / sum(shares_of))
    between = shares.interactions() @ at
    with_search, _ = losses.error(torch.tensor(sought, dtype=torch.float64), between)
    without, _ = losses.error(spared, between)
    assert with_search == pytest.approx(without, rel=0.02)


def _of_half(losses: Losses, t: int, half: torch.Tensor):
    """The loss at one temperature of one half of the anchors."""
    kept = half.to(torch.float64)
    table = losses.table
    return type(losses.constant(torch.zeros(len(table.temperatures), dtype=torch.float64)))(
        table.sums[t] * kept[:, None], table.falls[t] * kept[:, None, None], table.weights * kept
    )


def test_chunks_of_anchors_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, pairs = captions(groups=300, most=3, seed=2)
    one = im.shared_information(x, y, pairs=pairs, batch_size=32, normalize=True)
    from infomech.diagnosis.information import anchors as module

    monkeypatch.setattr(module, "_ENTRIES", 1)
    monkeypatch.setattr(module, "_FEWEST_ROWS", 37)
    two = im.shared_information(x, y, pairs=pairs, batch_size=32, normalize=True)
    assert two.information.value == pytest.approx(one.information.value, abs=1e-5)
    assert two.information.stderr == pytest.approx(one.information.stderr, rel=1e-3)
    np.testing.assert_allclose(two.by_pair, one.by_pair, atol=1e-4)


def test_contributions_and_fewer_anchors() -> None:
    x, y = von_mises_fisher_pairs(600, 64, 20.0, 4)
    found = im.shared_information(x, y, batch_size=100)
    shares = found.found.shares
    assert shares is not None
    assert float(shares.information @ shares.weights) == pytest.approx(found.information.value, abs=1e-9)
    some = im.shared_information(x, y, batch_size=100, anchors=150)
    assert some.found.anchor_groups == 150
    assert len(some.by_pair) == 150
    assert some.information.stderr > found.information.stderr
    assert abs(some.information.value - found.information.value) < 4 * some.information.stderr


def test_one_direction_and_offsets() -> None:
    x, y = von_mises_fisher_pairs(500, 16, 8.0, 6)
    both = im.shared_information(x, y, batch_size=64)
    ways = [im.shared_information(x, y, batch_size=64, direction=way) for way in ("x_to_y", "y_to_x")]
    assert both.information.value == pytest.approx(np.mean([w.information.value for w in ways]), abs=5e-3)
    # an offset of the anchors is in the partner's score and in all others: it moves the other direction only
    offset = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same = im.shared_information(x, y, batch_size=64, direction="x_to_y", offsets=(offset, None))
    assert same.information.value == pytest.approx(ways[0].information.value, abs=1e-6)
    worse = im.shared_information(x, y, batch_size=64, direction="y_to_x", offsets=(offset, None))
    assert worse.information.value < ways[1].information.value - 0.1


def test_calibration_of_the_models_temperature() -> None:
    x, y = von_mises_fisher_pairs(800, 64, 20.0, 7)
    found = im.shared_information(x, y, batch_size=128, temperature=0.02)
    cost = found.calibration
    assert cost is not None
    loss = im.decompose(x, y, temperature=0.02, batch_size=128).infonce_sym
    assert cost.infonce.value == pytest.approx(loss.value, abs=2e-3)
    assert cost.cost.value == pytest.approx(cost.infonce.value - (found.ceiling - found.information.value), abs=1e-9)
    assert cost.cost.low > 0.2
    right = im.shared_information(x, y, batch_size=128, temperature=0.05).calibration
    assert right is not None
    assert right.cost.low < 0.01


def test_ceiling_and_what_it_takes() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=g)
    near = im.shared_information(x, x + 0.8 * torch.randn(300, 64, generator=g), batch_size=16, normalize=True)
    assert near.near_ceiling
    assert near.information.value <= near.ceiling + 1e-9
    assert near.ceiling == pytest.approx(math.log(16))
    assert any("differences between models are understated" in line for line in near.remarks())
    far = im.shared_information(x, x + 6 * torch.randn(300, 64, generator=g), batch_size=64, normalize=True)
    assert not far.near_ceiling
    assert not any("understated" in line for line in far.remarks())


def test_near_twins_lower_the_ceiling_at_the_best_temperature() -> None:
    """Each row has one near-twin at a known distance, rows at a distance just too large have none."""
    g = torch.Generator().manual_seed(0)
    x = normalize(torch.randn(200, 32, generator=g, dtype=torch.float64), dim=1)
    off = torch.randn(200, 32, generator=g, dtype=torch.float64)
    off = normalize(off - (off * x).sum(1, keepdim=True) * x, dim=1)  # at right angles
    for angle, counted in ((0.010, True), (0.013, True), (0.016, False)):
        rows = torch.cat([x, math.cos(angle) * x + math.sin(angle) * off])
        y = normalize(rows + 0.02 * torch.randn(400, 32, generator=g, dtype=torch.float64), dim=1)
        found = im.shared_information(y, rows, batch_size=100, direction="x_to_y")
        if not counted:
            assert found.found.twin_groups == 0
            assert found.ceiling_left == found.ceiling
            continue
        distance, among = 2 * math.sin(angle / 2), 99 / 399
        assert found.found.twin_groups == 400
        lost = among * math.log1p(math.exp(-distance / found.temperature.value))
        assert found.ceiling_left == pytest.approx(found.ceiling - lost, abs=1e-9)
        assert found.information.value <= found.ceiling_left + 3 * found.information.stderr


def test_many_twins_are_counted_as_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten texts for all rows: the same ceiling whether pairs of twins are looked at or only copies are counted."""
    g = torch.Generator().manual_seed(0)
    y = normalize(torch.randn(10, 16, generator=g), dim=1).repeat(30, 1)
    x = normalize(y + 0.1 * torch.randn(300, 16, generator=g), dim=1)
    looked = im.shared_information(x, y, batch_size=50)
    monkeypatch.setattr(twins, "_MOST_NEAR", 0)
    counted = im.shared_information(x, y, batch_size=50)
    assert looked.ceiling_left == counted.ceiling_left
    assert looked.found.twin_groups == counted.found.twin_groups == 300


def test_twins_lower_the_ceiling() -> None:
    """Two classes of equal partners: what is left is log(N + 1) less E log(1 + twins in the batch)."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 32, generator=g)
    y = x.clone() + 0.05 * torch.randn(200, 32, generator=g)
    x[100:], y[100:] = x[:100], y[:100]
    found = im.shared_information(x, y, batch_size=50, normalize=True)
    assert found.found.twin_groups == 200
    expected = math.log(50) - 49 / 199 * math.log(2)  # each has one twin among 199 others
    assert found.ceiling_left == pytest.approx(expected, abs=1e-9)
    assert found.information.value <= expected + 3 * found.information.stderr
    assert any("tie twins" in line for line in found.remarks())
    draws = np.random.default_rng(0).hypergeometric(7, 93, 30, 200_000)
    assert expected_log(np.array([7]), 100, 30)[0] == pytest.approx(np.log1p(draws).mean(), abs=3e-3)


def test_no_information_and_no_errors() -> None:
    g = torch.Generator().manual_seed(0)
    nothing = im.shared_information(
        torch.randn(400, 16, generator=g), torch.randn(400, 16, generator=g), normalize=True
    )
    assert abs(nothing.information.value) < 0.05
    x = torch.randn(200, 64, generator=g)
    perfect = im.shared_information(x, x + 1e-3 * torch.randn(200, 64, generator=g), normalize=True)
    assert perfect.found.status == "no_errors"
    assert math.isnan(perfect.temperature.low)
    assert any("lower end of its search" in line for line in perfect.remarks())
    opposed = im.shared_information(x, -x + 0.1 * torch.randn(200, 64, generator=g), normalize=True)
    assert opposed.found.status == "no_information"
    assert any("upper end of its search" in line for line in opposed.remarks())


def test_rows_that_are_all_equal_share_nothing() -> None:
    x = torch.ones(150, 8)
    found = im.shared_information(x, torch.randn(150, 8), normalize=True)
    assert found.information.value == 0.0
    assert math.isnan(found.temperature.value)
    assert found.found.status == "undefined"
    assert "All rows of one side are equal" in found.remarks()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "0" in repr(found)


def test_bad_input_gets_one_line() -> None:
    x, y = torch.randn(99, 8), torch.randn(99, 8)
    with pytest.raises(InputError, match="99 independent groups; shared information needs at least 100"):
        im.shared_information(x, y, normalize=True)
    x, y = torch.randn(120, 8), torch.randn(120, 8)
    with pytest.raises(InputError, match="batch_size is 121 and the pairs form 120 groups"):
        im.shared_information(x, y, batch_size=121, normalize=True)
    with pytest.raises(InputError, match="offsets of y have shape"):
        im.shared_information(x, y, offsets=(None, torch.zeros(3)), normalize=True)
    with pytest.raises(InputError, match="logit scale"):
        im.shared_information(x, y, temperature=100.0, normalize=True)


def test_prints_in_ten_lines_and_draws() -> None:
    x, y = von_mises_fisher_pairs(300, 16, 8.0, 1)
    found = im.shared_information(x, y, temperature=0.07)
    assert len(repr(found).splitlines()) <= 10
    assert repr(found).startswith("These embeddings share ")
    assert len(found.plot().axes) == 2
    assert found.to_dict()["negatives"] == 63
    assert "<table>" in found._repr_html_()


@pytest.mark.slow
def test_coverage() -> None:
    """Intervals of the information and of tau*, and of the cost of a temperature, hold in 92 to 98% of draws."""
    dim, kappa, n, draws = 16, 10.0, 256, 400
    runs = [
        im.shared_information(*von_mises_fisher_pairs(n, dim, kappa, seed), batch_size=32, temperature=0.15)
        for seed in range(draws)
    ]
    large = [
        im.shared_information(*von_mises_fisher_pairs(4000, dim, kappa, 9000 + s), batch_size=32, temperature=0.15)
        for s in range(8)
    ]
    true = np.mean([r.information.value for r in large])
    cost = np.mean([r.calibration.cost.value for r in large if r.calibration is not None])
    hits = {
        "information": np.mean([r.information.low <= true <= r.information.high for r in runs]),
        "temperature": np.mean([r.temperature.low <= 1 / kappa <= r.temperature.high for r in runs]),
        "cost": np.mean([r.calibration.cost.low <= cost <= r.calibration.cost.high for r in runs if r.calibration]),
    }
    assert all(0.92 <= share <= 0.98 for share in hits.values()), hits


def test_measure_takes_what_is_asked() -> None:
    """A sweep that begins far from the minimum goes on until the minimum lies inside."""
    x, y = von_mises_fisher_pairs(300, 16, 8.0, 2)
    batches = Batches.of(PairedSample.from_embeddings(x, y), parts=2, doubling=False)
    asked = Asked(31, 32)
    one = measure(batches, asked)
    two = measure(batches, replace(asked, temperature=3.0))  # far away: a node of its own
    assert two.information.value == pytest.approx(one.information.value, abs=2e-3)
    assert two.calibration is not None
    assert two.calibration.temperature == 3.0


def test_a_matrix_of_scores_shares_what_its_rows_do() -> None:
    """The cosines as a matrix: the same blocks, the same number, in each direction."""
    x, y = von_mises_fisher_pairs(320, 16, 8.0, 3)
    sample = PairedSample.from_embeddings(x, y)
    ordered = sample.x.values[sample.pairs[:, 0]] @ sample.y.values[sample.pairs[:, 1]].T
    for way, scores in (("x_to_y", ordered), ("y_to_x", ordered.T)):
        dense = dense_information(scores, negatives=63)
        rows = im.shared_information(x, y, batch_size=64, direction=way)
        assert dense.information.value == pytest.approx(rows.information.value, abs=2e-3)
        assert dense.information.stderr == pytest.approx(rows.information.stderr, rel=0.02)
        assert dense.temperature == pytest.approx(rows.temperature.value, rel=0.01)
        scaled = dense_information(3 * scores + 1, negatives=63)
        assert scaled.information.value == pytest.approx(dense.information.value, abs=1e-4)
        assert scaled.less(dense).value == pytest.approx(0, abs=1e-4)


def two_encodings(n: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The law's pairs, and the same with noise on one side."""
    x, y = von_mises_fisher_pairs(n, 16, 10.0, seed)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1_000_000 + seed), dtype=torch.float64)
    return [(x, y), (x, torch.nn.functional.normalize(y + 0.04 * noise, dim=1))]


def paired_change(n: int, seed: int) -> Difference:
    one, two = (im.shared_information(*rows, batch_size=32).found for rows in two_encodings(n, seed))
    return information_difference(two, one, paired=True)


@pytest.mark.slow
def test_power_is_what_was_asked_for() -> None:
    """The groups that a pilot's paired error asks for decide in about 80% of draws of fresh pairs.

    800 draws gave 80.1%; here are 400, whose share is known to 2%.
    """
    pilots = [paired_change(400, 60_000 + s).estimate for s in range(200)]
    true, stderr = (float(np.mean([getattr(e, name) for e in pilots])) for name in ("value", "stderr"))
    groups = groups_for_power(stderr, 400, true)
    changes = [paired_change(groups, s) for s in range(400)]
    decided = np.mean([change.apart and change.estimate.value > 0 for change in changes])
    assert abs(decided - 0.8) <= 0.03 + 2 * (0.8 * 0.2 / 400) ** 0.5, (true, groups, decided)
