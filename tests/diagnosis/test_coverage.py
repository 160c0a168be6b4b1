"""Intervals by row fail where rows of a group belong together, and those by group do not; degenerate statistics."""

import pytest
import torch

import infomech as im
import intervals
from cases import image_text
from generators import Draw, evenly
from infomech.diagnosis import Estimate
from infomech.diagnosis.gram_statistics import run_sweeps
from infomech.diagnosis.uncertainty import proportion_estimate
from infomech.measures import PairedSample
from infomech.reductions import expected_hits


def coverage(found: list[Estimate], value: float) -> float:
    return sum(e.low <= value <= e.high for e in found) / len(found)


@pytest.mark.slow
def test_intervals_by_row_fail_with_five_rows_to_a_group() -> None:
    """As if every pair were an independent draw."""
    known = intervals.GAP.population(intervals.TEMPERATURE)
    found: dict[str, list[Estimate]] = {}
    for seed in range(60):
        x, y, pairs = intervals.GAP.draw(evenly(100, 5), torch.Generator().manual_seed(seed))
        by_row = Draw(x[pairs[:, 0]], y, torch.arange(len(pairs))[:, None].expand(-1, 2))
        for name, estimate in intervals.estimates(by_row, seed).items():
            found.setdefault(name, []).append(estimate)
    for name in ("gap.centroid_gap", "gap.energy_distance", "gap.mmd2_median", "budget.limit.dispersion_x"):
        assert coverage(found[name], known[name]) < 0.85, name


def test_recall_by_row_fails_with_five_rows_to_a_group() -> None:
    """The captions of one image are found, or missed, together: rows are no independent units."""
    generator = torch.Generator().manual_seed(11)
    found: dict[str, list[Estimate]] = {"by row": [], "by group": []}
    for seed in range(200):
        x, y, pairs = image_text(400, 5, generator=generator)
        sample = PairedSample.from_embeddings(x, y, pairs=pairs, seed=seed)
        ranks = run_sweeps(sample, ranks=True).ranks
        assert ranks is not None
        hits = expected_hits(ranks.true.columns_above, ranks.true.columns_tied, ranks.tied_positives[1], 5)
        found["by row"].append(proportion_estimate(hits, torch.arange(len(hits)), len(hits)))
        found["by group"].append(proportion_estimate(hits, sample.y.groups, sample.groups))
    value = sum(e.value for e in found["by row"]) / 200
    assert coverage(found["by row"], value) < 0.87
    assert coverage(found["by group"], value) > 0.9


@pytest.mark.slow
def test_no_gap_is_covered() -> None:
    """Where both laws are one the statistics are degenerate: the intervals may be wide, never short."""
    generator = torch.Generator().manual_seed(5)
    hits = 0
    for seed in range(100):
        z = torch.randn(150, 6, generator=generator, dtype=torch.float64)
        x, y = (z + 0.5 * torch.randn(150, 6, generator=generator, dtype=torch.float64) for _ in range(2))
        energy = im.gap(x, y, seed=seed)["energy_distance"]
        hits += energy.low <= 0 <= energy.high
    assert hits >= 90  # 95 expected, 2.2 the standard deviation
