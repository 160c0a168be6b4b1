"""`infomech.decompose`: the fields, the limit only where it is resolved, and what a batch's gradient is worth."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import infomech as im
from cases import captions, image_text
from infomech import InputError
from infomech.diagnosis.batch_budget import PARTS, BatchStatistics, batch_statistics
from infomech.diagnosis.batch_gradient import batch_gradients
from infomech.diagnosis.batch_tables import Batches, kernel_tables
from infomech.diagnosis.budget import default_batch
from infomech.diagnosis.continuation import CONTINUED, continuations, continued, held_out
from infomech.diagnosis.resolution import growth, limit, resolving_temperature
from infomech.measures import PairedSample


def law(groups: int, per_group: int = 1, *, seed: int = 0, dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    return image_text(groups, per_group, generator=torch.Generator().manual_seed(seed), dim=dim)


def measured(
    data: tuple[Tensor, Tensor, Tensor], tau: float, *, seed: int = 0, parts: int = 4
) -> tuple[Batches, BatchStatistics]:
    x, y, pairs = data
    batches = Batches.of(PairedSample.from_embeddings(x, y, pairs=pairs, seed=seed), seed=seed, parts=parts)
    (tables,) = kernel_tables(batches, [tau])
    return batches, batch_statistics(tables)


def test_fields_are_those_at_the_batch() -> None:
    x, y, pairs = law(200, 3)
    b = im.decompose(x, y, temperature=0.2, pairs=pairs, batch_size=33)
    _, statistics = measured((x, y, pairs), 0.2, parts=64)
    assert (b.negatives, b.batch_size, b.groups) == (32, 33, 200)
    for name in PARTS:
        assert getattr(b, name).value == pytest.approx(statistics.at(32).value(name), rel=1e-9)
        assert b.curve.parts[name][b.curve.negatives.index(32)] == getattr(b, name)
    assert b.curve.negatives[:3] == [1, 2, 4]
    assert b.curve.negatives[-1] == 199
    both = (b.effective_negatives_xy.value + b.effective_negatives_yx.value) / 2
    assert b.effective_negatives.value == pytest.approx(both)
    for key, side in (("x_to_y", b.effective_negatives_xy), ("y_to_x", b.effective_negatives_yx)):
        found = list(b.effective_negatives_quantiles[key].values())
        assert found == sorted(found)
        assert found[0] < side.value < found[-1]


@pytest.mark.parametrize(
    ("groups", "batch"), [(4, 2), (7, 2), (8, 2), (100, 16), (4095, 512), (4096, 1024), (10**6, 1024)]
)
def test_the_default_batch(groups: int, batch: int) -> None:
    assert default_batch(groups) == batch


def test_the_default_is_said_aloud() -> None:
    x, y, _ = law(100)
    shown = str(im.decompose(x, y, temperature=0.2))
    assert shown.startswith("Batch of 16: N = 15 negatives")
    assert 9 <= len(shown.splitlines()) <= 12


def test_a_resolved_limit() -> None:
    """Growth is small, the limit stands there, and InfoNCE is off it by what was measured."""
    x, y, _ = law(600)
    b = im.decompose(x, y, temperature=0.5, batch_size=64)
    assert b.resolved
    assert b.limit is not None
    assert b.off_the_limit is not None
    assert b.resolves_from == 0.5
    assert b.growth.largest < 0.01
    off = b.infonce_sym.value - b.log_partition.value - b.limit.energy_sym.value
    assert b.off_the_limit.value == pytest.approx(off, rel=1e-9)
    energy = b.limit.alignment.value - (b.limit.dispersion_x.value + b.limit.dispersion_y.value) / 2
    assert b.limit.energy_sym.value == pytest.approx(energy - b.limit.divergence_sym.value, rel=1e-9)
    assert b.limit.dispersion_x.value < b.dispersion_x.value  # H_N falls to H
    assert "limit of large batches" in str(b)


def test_an_unresolved_limit_has_no_number() -> None:
    x, y, _ = law(300, dim=64)
    b = im.decompose(x, y, temperature=0.05)
    assert not b.resolved
    assert b.limit is None
    assert b.off_the_limit is None
    assert b.growth.largest > 0.05
    assert b.resolves_from is not None
    assert b.resolves_from > 0.05
    assert "at most" in str(b)
    assert "no limit" in str(b)


def test_the_temperature_from_which_it_resolves() -> None:
    """At what the search finds the measured growth is at its bound, within the error of a few hundred anchors."""
    data = law(400, dim=32)
    batches, _ = measured(data, 0.05)
    found = resolving_temperature(batches, temperature=0.05)
    assert found is not None
    low, high = (growth(measured(data, tau)[1]).largest for tau in (found / 1.15, found * 1.15))
    assert high < 0.05 < low


def test_growth_is_that_of_the_curve() -> None:
    _, statistics = measured(law(300), 0.1)
    found = growth(statistics)
    first, second = found.negatives
    assert second == 2 * first <= 300
    for side, name, sign in (("xx", "dispersion_x", -1), ("yy", "dispersion_y", -1)):
        columns = [statistics.layout.negatives.index(n) for n in found.negatives]
        one, two = (float(statistics.values[statistics.row(name), c]) for c in columns)
        assert getattr(found, side).value == pytest.approx(sign * (two - one), rel=1e-9)
        assert getattr(found, side).value > 0


def test_the_limit_of_a_known_law() -> None:
    """Uniform laws on the sphere: both dispersions are log vol, the divergence is 0."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.nn.functional.normalize(torch.randn(800, 4, generator=g, dtype=torch.float64), dim=1) for _ in "xy")
    _, statistics = measured((x, y, torch.arange(800)[:, None].expand(800, 2)), 0.4)
    found = limit(statistics)
    assert found is not None
    for name in ("dispersion_x_relative", "dispersion_y_relative", "divergence_sym", "divergence_xy"):
        estimate = getattr(found, name)
        assert abs(estimate.value) < 4 * estimate.stderr + 1e-4, name


def test_near_duplicates_left_out() -> None:
    x, y, pairs = law(150)
    b = im.decompose(torch.cat([x, x[:30]]), torch.cat([y, -y[:30]]), temperature=0.1, batch_size=32)
    clean = im.decompose(x, y, temperature=0.1, pairs=pairs, batch_size=32)
    assert clean.without_duplicates is None
    assert b.without_duplicates is not None
    assert b.without_duplicates.groups == 150
    assert b.without_duplicates.negatives == 31
    assert b.without_duplicates.with_them["infonce_sym"] == b.infonce_sym
    assert b.without_duplicates.growth.xx.value < b.growth.xx.value


def test_batch_larger_than_the_data() -> None:
    x, y, _ = law(128)
    b = im.decompose(x, y, temperature=0.2, batch_size=4096)
    assert (b.negatives, b.batch_size) == (127, 4096)
    assert b.beyond is not None
    assert (b.beyond.negatives, b.beyond.measured) == (4095, 120)
    assert set(b.beyond.parts) == set(CONTINUED)
    loss = b.beyond.parts["infonce_sym"]
    assert b.infonce_sym.value < loss.low < loss.high < math.log(4096)
    assert im.decompose(x, y, temperature=0.2, batch_size=128).beyond is None


def test_continuations_of_known_sequences() -> None:
    """A straight line in log N is continued by the first, a geometric approach to a limit by the second."""
    straight = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert continued(straight, 3.0).tolist() == pytest.approx([5.0, 5.0, 1.0])
    geometric = torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64)  # 2 - 2^(1 - k)
    assert continued(geometric, 2.0).tolist() == pytest.approx([2.5, 1.875, 0.5])
    turning = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    assert continued(turning, 2.0).tolist() == pytest.approx([-0.5, 0.5, -0.5])
    proportional = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    assert continued(proportional, 2.0).tolist() == pytest.approx([0.8, 1.6, 0.2])
    assert continued(proportional, 2.0, most=0.5).tolist() == pytest.approx([0.8, 1.3, 0.2])


def test_the_bracket_holds_what_was_held_out() -> None:
    """N = n from n / 4: two doublings ahead."""
    _, statistics = measured(law(1000), 0.15)
    found = held_out(statistics)
    assert all(f.held for f in found.values()), {k: f for k, f in found.items() if not f.held}
    ahead = continuations(statistics, 10_000)["infonce_sym"]
    assert ahead.low < ahead.high


def test_gradients_against_a_loop() -> None:
    """Autograd of the loss of each anchor in every batch there is, against that in the batch of all."""
    x, y, pairs = captions(groups=7, most=2, seed=2)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=True)
    batches, tau = Batches.of(sample), 0.4
    rows = [sample.x.values[sample.pairs[batches.lent, 0]], sample.y.values[sample.pairs[batches.lent, 1]]]

    def gradient(side: int, anchor: int, negatives: list[int]) -> Tensor:
        a = rows[side][anchor].clone().requires_grad_()
        logits = rows[1 - side][[anchor, *negatives]] @ a / tau
        (logits.logsumexp(0) - logits[0]).backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None
        return a.grad - (a.grad @ rows[side][anchor]) * rows[side][anchor]

    import itertools

    gap = own = truth = dot = 0.0
    for side in (0, 1):
        for anchor in range(7):
            others = [g for g in range(7) if g != anchor]
            full = gradient(side, anchor, others)
            every = [gradient(side, anchor, list(c)) for c in itertools.combinations(others, 3)]
            gap += float(sum((f - full).square().sum() for f in every)) / len(every)
            own += float(sum(f.square().sum() for f in every)) / len(every)
            dot += float(sum(f @ full for f in every)) / len(every)
            truth += float(full.square().sum())
    many = [batch_gradients(batches, temperature=tau, negatives=[3], seed=s)[0] for s in range(200)]
    error = np.array([m.error.value for m in many])
    cosine = np.array([m.cosine.value for m in many])
    assert np.sqrt(np.mean(error**2)) == pytest.approx(math.sqrt(gap / truth), rel=0.02)
    assert cosine.mean() == pytest.approx(dot / math.sqrt(own * truth), rel=0.02)


def test_the_gradient_of_all_is_exact() -> None:
    batches, _ = measured(law(60), 0.2)
    at = batch_gradients(batches, temperature=0.2, negatives=[4, 16, 59])
    assert [g.error.value > 0.01 for g in at] == [True, True, False]
    assert at[0].error.value > at[1].error.value
    assert at[2].error.value == pytest.approx(0, abs=1e-6)
    assert at[2].cosine.value == pytest.approx(1, abs=1e-6)


def test_contributions_pair_two_models() -> None:
    """The same rows by two models: the error of the difference follows from the replicates, and is much smaller."""
    x, y, pairs = law(200, 2)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = torch.nn.functional.normalize(y + 0.01 * noise, dim=1)
    one, two = (im.decompose(x, v, temperature=0.2, pairs=pairs, batch_size=32) for v in (y, z))
    for b in (one, two):
        c = b.contributions
        assert c.weights.sum() == pytest.approx(1)
        for name in ("alignment", "infonce_xy", "infonce_yx"):
            assert (c.by_pair[name] @ c.weights) == pytest.approx(getattr(b, name).value)
        of_x = dict(zip(c.rows_x.tolist(), c.by_row["log_kernel_mean_xx"].tolist(), strict=True))
        mean = sum(w * of_x[i] for w, i in zip(c.weights.tolist(), c.pairs[:, 0].tolist(), strict=True))
        assert b.log_kernel_volume - mean == pytest.approx(b.dispersion_x.value)
        error = c.stderr(c.replicates["infonce_sym"], c.interactions["infonce_sym"])
        assert error == pytest.approx(b.infonce_sym.stderr)
        assert {tuple(p) for p in c.pairs.tolist()} == {tuple(p) for p in pairs.tolist()}
    assert one.contributions.digest == two.contributions.digest
    other = im.decompose(x, y, temperature=0.2, pairs=pairs, batch_size=32, seed=1).contributions
    assert one.contributions.digest != other.digest
    difference = one.contributions.replicates["infonce_sym"] - two.contributions.replicates["infonce_sym"]
    assert one.contributions.stderr(difference) < 0.3 * one.infonce_sym.stderr


@pytest.mark.parametrize("groups", [4, 5, 6, 8])
def test_few_groups(groups: int) -> None:
    x, y, _ = law(groups)
    b = im.decompose(x, y, temperature=0.3)
    for field in dataclasses.fields(b):
        value = getattr(b, field.name)
        if isinstance(value, im.Estimate):
            assert math.isfinite(value.value), field.name
            assert value.low <= value.value <= value.high, field.name


@pytest.mark.parametrize("batch", [1, 0, -5])
def test_a_batch_without_negatives_is_refused(batch: int) -> None:
    x, y, _ = law(20)
    with pytest.raises(InputError, match=f"batch_size is {batch}; it must be a whole number of at least 2"):
        im.decompose(x, y, temperature=0.1, batch_size=batch)


def test_the_temperature_is_required() -> None:
    x, y, _ = law(20)
    with pytest.raises(TypeError, match="temperature"):
        im.decompose(x, y)  # type: ignore[call-arg]
