"""Do the intervals hold? 500 independent draws of 400 groups, one row or five rows of y to a group.

The nominal level is 95%. With 500 draws the share of intervals that cover has a standard error of 1%, so that 92 to 98%
is three of them to each side. Seeds are fixed; nothing is tried again.
"""

from functools import cache

import torch
from torch import Tensor

import infomech as im
from cases import image_text
from infomech.diagnosis import Estimate
from infomech.diagnosis.energy_limit import corrected_budget
from infomech.diagnosis.gaps import gap_measures
from infomech.diagnosis.gram_statistics import run_sweeps
from infomech.diagnosis.moments import halved_moments
from infomech.diagnosis.retrieval import retrieval_scores
from infomech.diagnosis.uncertainty import proportion_estimate
from infomech.measures import PairedSample
from infomech.reductions import expected_hits

TAU, BANDWIDTH, GROUPS, DRAWS = 0.3, 1.2, 400, 500
POPULATION = 60_000

GAPS = ("energy_distance", "mmd2_half", "mmd2_median", "mmd2_double", "centroid_gap", "centered_energy_distance")
PARTS = ("dispersion_x", "dispersion_y", "divergence_xy", "divergence_yx", "divergence_sym")
RECALLS = tuple(f"{d}_recall_at_{k}" for d in ("x_to_y", "y_to_x") for k in (1, 5, 10))


def estimates(x: Tensor, y: Tensor, pairs: Tensor | None, seed: int) -> dict[str, Estimate]:
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, seed=seed)
    sweeps = run_sweeps(sample, temperature=TAU, gap=True, ranks=True, bandwidth=BANDWIDTH)
    assert sweeps.kernels is not None
    assert sweeps.gap is not None
    assert sweeps.ranks is not None
    budget = corrected_budget(sample, sweeps.kernels, temperature=TAU)
    gaps = gap_measures(sample, sweeps.gap, moments=halved_moments(sample))
    out = {name: gaps[name] for name in GAPS} | {name: getattr(budget, name) for name in PARTS}
    recalls = retrieval_scores(sample, sweeps.ranks)
    return out | {name: recalls[name] for name in RECALLS}


@cache
def truth() -> dict[str, float]:
    """From 60,000 groups in three parts: a tenth of the standard error of one draw, or less."""
    generator = torch.Generator().manual_seed(99)
    parts = [estimates(*image_text(POPULATION // 3, 1, generator=generator), 0) for _ in range(3)]
    return {name: sum(p[name].value for p in parts) / 3 for name in (*GAPS, *PARTS)}


def draw_many(per_group: int, draws: int, *, by_row: bool = False) -> dict[str, list[Estimate]]:
    generator = torch.Generator().manual_seed(per_group)
    found: dict[str, list[Estimate]] = {}
    for seed in range(draws):
        x, y, pairs = image_text(GROUPS, per_group, generator=generator)
        if by_row:  # as if every pair were an independent draw
            x, pairs = x[pairs[:, 0]], None
        for name, estimate in estimates(x, y, pairs, seed).items():
            found.setdefault(name, []).append(estimate)
    return found


def coverage(found: list[Estimate], value: float) -> float:
    return sum(e.low <= value <= e.high for e in found) / len(found)


def check(per_group: int) -> None:
    known = truth()
    found = draw_many(per_group, DRAWS)
    for name, values in found.items():
        # a recall belongs to its gallery's size: its truth is its expectation over draws of this size
        value = known.get(name, sum(e.value for e in values) / len(values))
        share = coverage(values, value)
        assert 0.92 <= share <= 0.98, f"{name}: {share:.3f} of the intervals cover {value:.5f}"


def test_intervals_hold_with_one_row_to_a_group() -> None:
    check(1)


def test_intervals_hold_with_five_rows_to_a_group() -> None:
    check(5)


def test_intervals_by_row_fail_with_five_rows_to_a_group() -> None:
    known = truth()
    found = draw_many(5, 60, by_row=True)
    for name in ("centroid_gap", "energy_distance", "mmd2_median", "dispersion_x", "divergence_sym"):
        assert coverage(found[name], known[name]) < 0.85, name


def test_recall_by_row_fails_with_five_rows_to_a_group() -> None:
    """The captions of one image are found, or missed, together: rows are no independent units."""
    generator = torch.Generator().manual_seed(11)
    found: dict[str, list[Estimate]] = {"by row": [], "by group": []}
    for seed in range(200):
        x, y, pairs = image_text(GROUPS, 5, generator=generator)
        sample = PairedSample.from_embeddings(x, y, pairs=pairs, seed=seed)
        ranks = run_sweeps(sample, ranks=True).ranks
        assert ranks is not None
        hits = expected_hits(ranks.true.columns_above, ranks.true.columns_tied, ranks.tied_positives[1], 5)
        found["by row"].append(proportion_estimate(hits, torch.arange(len(hits)), len(hits)))
        found["by group"].append(proportion_estimate(hits, sample.y.groups, sample.groups))
    value = sum(e.value for e in found["by row"]) / 200
    assert coverage(found["by row"], value) < 0.87
    assert coverage(found["by group"], value) > 0.9


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
