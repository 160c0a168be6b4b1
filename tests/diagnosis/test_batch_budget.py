"""The budget at N against brute force: the same windows one by one, all batches there are, ten thousand random ones."""

import math

import pytest
import torch
from torch import Tensor

from batch_reference import Naive, random_batches
from cases import captions, image_text
from infomech import InputError
from infomech.diagnosis import batch_tables
from infomech.diagnosis.batch_budget import PARTS, BatchStatistics, batch_statistics
from infomech.diagnosis.batch_tables import Batches, kernel_tables
from infomech.measures import PairedSample

TAU = 0.2


def prepare(
    data: tuple[Tensor, Tensor, Tensor], *, tau: float = TAU, seed: int = 0, parts: int | None = None
) -> tuple[Batches, BatchStatistics]:
    x, y, pairs = data
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=True, seed=seed)
    batches = Batches.of(sample, seed=seed, parts=parts)
    (tables,) = kernel_tables(batches, [tau])
    return batches, batch_statistics(tables)


@pytest.mark.parametrize(("groups", "parts", "most"), [(9, 2, 3), (66, 2, 2), (135, 4, 1)])
@pytest.mark.parametrize("tau", [0.3, 0.02, 0.001])
def test_windows_one_by_one(groups: int, parts: int, most: int, tau: float) -> None:
    """Every part at every N, and its replicates, are those of the same windows walked through one at a time."""
    batches, found = prepare(captions(groups=groups, most=most), tau=tau, parts=parts)
    naive = Naive(batches, tau, found.log_volume)
    for column, negatives in enumerate(found.layout.negatives):
        expected = naive.average(naive.windows(negatives))
        for name, value in expected.items():
            assert float(found.values[found.row(name), column]) == pytest.approx(value, rel=1e-10, abs=1e-10), name
        block = (7 * column) % found.layout.blocks
        again = naive.average(naive.windows(negatives, without=block))
        for name, value in again.items():
            replicate = float(found.replicates[block, found.row(name), column])
            assert replicate == pytest.approx(value, rel=1e-10, abs=1e-10), (name, negatives, block)


def test_unbiased_for_all_batches_there_are() -> None:
    """Over random orders and draws the average is that over every batch: other groups, one pair from each."""
    data = captions(groups=6, most=2, seed=3)
    runs = [prepare(data, seed=seed) for seed in range(200)]
    for negatives in (1, 2, 4, 5):
        naive = Naive(runs[0][0], TAU, runs[0][1].log_volume)
        for name, expected in naive.average(naive.every_batch(negatives)).items():
            values = torch.tensor([s.at(negatives).value(name) for _, s in runs], dtype=torch.float64)
            error = float(values.std()) / len(values) ** 0.5
            assert abs(float(values.mean()) - expected) <= 4 * error + 1e-9, (name, negatives)


@pytest.mark.parametrize("per_group", [1, 5])
def test_ten_thousand_random_batches(per_group: int) -> None:
    """Drawn from the law anew, groups and pairs alike: every part at every N within the error of the difference.

    The batches come from the sample's own groups, so that the difference carries the error of 10,000 anchors and that
    of the estimate's windows; four of those, for the largest of 100 comparisons.
    """
    x, y, pairs = image_text(300, per_group, generator=torch.Generator().manual_seed(per_group))
    _, found = prepare((x, y, pairs), tau=0.15)
    groups = [list(range(g * per_group, (g + 1) * per_group)) for g in range(300)]
    for negatives in (1, 4, 16, 75, 200, 299):
        at = found.at(negatives)
        expected = random_batches(x, y, groups, pairs, tau=0.15, negatives=negatives, draws=10_000)
        for name, (value, error) in expected.items():
            part, shift = {
                "mean_xx": ("dispersion_x", found.log_volume),
                "mean_yy": ("dispersion_y", found.log_volume),
                "energy_sym": ("energy_sym", found.log_volume),
                "remainder_and_volume": ("remainder", 0.0),
            }.get(name, (name, 0.0))
            sign = -1 if part.startswith("dispersion") else 1
            own = at.estimate(part)
            off = abs(sign * own.value + shift - value)
            assert off <= 4 * math.hypot(error, own.stderr) + 1e-12, (name, negatives)  # one of one is exact


@pytest.mark.parametrize(("groups", "per_group", "blocks"), [(500, 5, 62), (2100, 5, 16), (40, 5, 40)])
def test_many_rows_have_fewer_blocks(groups: int, per_group: int, blocks: int) -> None:
    x, y, pairs = image_text(groups, per_group, generator=torch.Generator().manual_seed(0), dim=4)
    layout = Batches.of(PairedSample.from_embeddings(x, y, pairs=pairs)).layout
    assert layout.blocks == blocks
    assert layout.size * layout.blocks + layout.left_over == groups


def test_identities_hold_at_every_n() -> None:
    batches, found = prepare(captions(groups=150, most=3), tau=0.1)
    for negatives in (1, 1.5, 3, 10, 31, 50, 100, 120, 135, 149):
        at = found.at(negatives)
        v = {name: at.value(name) for name in PARTS}
        energy = v["alignment"] - (v["dispersion_x"] + v["dispersion_y"]) / 2 - v["divergence_sym"]
        assert v["energy_sym"] == pytest.approx(energy, abs=1e-10)
        assert v["infonce_sym"] == pytest.approx(v["energy_sym"] + v["log_partition"] + v["remainder"], abs=1e-10)
        assert v["log_negatives"] == pytest.approx(math.log(negatives), abs=1e-10)
        mean = sum(float(at.by_pair(f"infonce_{side}") @ batches.pair_weights) for side in ("xy", "yx")) / 2
        assert mean == pytest.approx(v["infonce_sym"], abs=1e-10)


@pytest.mark.parametrize("n", [0, 0.5, 150, math.inf, math.nan])
def test_n_beyond_the_data_is_refused(n: float) -> None:
    _, found = prepare(captions(groups=150, most=2))
    with pytest.raises(InputError, match="N runs from 1 to 149"):
        found.at(n)


def test_between_the_columns() -> None:
    """Interpolation in log N: at a column that is not a node of it, it agrees with what was measured there."""
    _, found = prepare(image_text(900, 1, generator=torch.Generator().manual_seed(0)), tau=0.1)
    for w in found.layout.last_doubling:
        n = w * found.layout.size
        column = found.layout.negatives.index(n)
        for name in ("dispersion_x", "divergence_sym", "infonce_sym", "effective_negatives"):
            measured, error = float(found.values[found.row(name), column]), found.at(n).estimate(name).stderr
            assert abs(found.at(n).value(name) - measured) < 0.25 * error, (name, n, found.at(n).value(name), measured)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_several_temperatures_in_one_sweep(dtype: torch.dtype) -> None:
    x, y, pairs = captions(groups=70, most=3)
    sample = PairedSample.from_embeddings(x.to(dtype), y.to(dtype), pairs=pairs, normalize=True)
    batches, taus = Batches.of(sample), [0.5, 0.07, 0.02, 0.002]
    for tau, together in zip(taus, kernel_tables(batches, taus), strict=True):
        (alone,) = kernel_tables(batches, [tau])
        for side, logs in together.log_sums.items():
            torch.testing.assert_close(
                logs, alone.log_sums[side], rtol=1e-6 if dtype is torch.float32 else 1e-12, atol=1e-6 / tau
            )
        high = PairedSample.from_embeddings(x.double(), y.double(), pairs=pairs, normalize=True)
        (exact,) = kernel_tables(Batches.of(high), [tau])
        low, high_values = batch_statistics(together).values, batch_statistics(exact).values
        assert torch.allclose(low, high_values, rtol=1e-5, atol=3e-7 / tau)


def test_one_anchor_stands_for_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are many, deletions are formed for one pair of each group: no value moves, and errors hardly do."""
    data = image_text(600, 5, generator=torch.Generator().manual_seed(3))
    x, y, pairs = data
    batches = Batches.of(PairedSample.from_embeddings(x, y, pairs=pairs, normalize=True), parts=2)
    (tables,) = kernel_tables(batches, [TAU])
    exact = batch_statistics(tables)
    monkeypatch.setattr(batch_tables, "_MANY_ROWS", 100)
    assert batches.thinned
    thinned = batch_statistics(tables)
    torch.testing.assert_close(thinned.values, exact.values, rtol=1e-12, atol=1e-12)
    for name, by_row in exact.by_row.items():
        torch.testing.assert_close(thinned.by_row[name], by_row, rtol=1e-10, atol=1e-10)
    for n in (5, 40, 150, 599):
        for name in ("dispersion_x", "dispersion_y", "divergence_sym", "infonce_sym", "effective_negatives"):
            ratio = thinned.at(n).estimate(name).stderr / exact.at(n).estimate(name).stderr
            assert 0.8 < ratio < 1.25, (n, name, ratio)
    assert float((thinned.replicates - exact.replicates).abs().max()) > 0
