"""Differences of two models on the same pairs: naive values, coverage, and narrower than unpaired ones."""

import math

import numpy as np
import pytest
import torch

import cases
import infomech as im
from infomech.diagnosis import Diagnosis, Settings, examine
from infomech.diagnosis.differences import (
    Difference,
    difference,
    mean_recall_difference,
    paired_difference,
    paired_recall,
    pairs_to_tell,
    same_pairs,
)

DIM, TAU, BATCH = 6, 0.2, 16


def two_models(groups: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, and y by two models that make nearly the same mistakes, the second of them more."""
    x = torch.randn(groups, DIM, generator=generator, dtype=torch.float64)
    noise, own = (torch.randn(groups, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    first = x + 0.7 * noise
    return tuple(torch.nn.functional.normalize(z, dim=1) for z in (x, first, first + 0.3 * own))  # type: ignore[return-value]


def diagnoses(groups: int, seed: int) -> tuple[Diagnosis, Diagnosis]:
    x, *models = two_models(groups, torch.Generator().manual_seed(seed))
    first, other = (examine(x, y, Settings(temperature=TAU, batch_size=BATCH)) for y in models)
    return first, other


@pytest.fixture(scope="module")
def pair() -> tuple[Diagnosis, Diagnosis]:
    return diagnoses(200, 0)


def value(diagnosis: Diagnosis, section: str, key: str) -> im.Estimate:
    found = vars(diagnosis.budget) if section == "budget" else getattr(diagnosis, section)
    return found[key]


@pytest.mark.parametrize(
    ("section", "key"),
    [("budget", k) for k in ("infonce_sym", "alignment", "divergence_sym", "effective_negatives")]
    + [("gap", k) for k in ("energy_distance", "mmd2_median", "pair_distance", "relative_modality_gap")]
    + [("gap", "smoothed_divergence"), ("gap", "neighbour_mixing"), ("gap", "centered_energy_distance")]
    + [("retrieval", f"{side}_recall_at_{k}") for side in ("x_to_y", "y_to_x") for k in (1, 10)],
)
def test_a_paired_difference_is_that_of_the_values(pair: tuple[Diagnosis, Diagnosis], section: str, key: str) -> None:
    first, other = (value(d, section, key) for d in pair)
    found = paired_difference(*pair, section, key)
    assert found is not None
    assert found.paired
    assert found.estimate.value == pytest.approx(other.value - first.value, abs=1e-12)
    assert found.estimate.low <= found.estimate.value <= found.estimate.high


@pytest.mark.parametrize(
    ("section", "key"), [("budget", "infonce_sym"), ("gap", "pair_distance"), ("retrieval", "x_to_y_recall_at_1")]
)
def test_it_is_narrower_than_the_unpaired_one(pair: tuple[Diagnosis, Diagnosis], section: str, key: str) -> None:
    """The two models make nearly the same mistakes; their errors cancel."""
    found = paired_difference(*pair, section, key)
    apart = difference(*(value(d, section, key) for d in pair))
    assert found is not None
    assert not apart.paired
    width, other = ((d.estimate.high - d.estimate.low) for d in (found, apart))
    assert width < 0.7 * other


def test_the_error_of_a_recall_is_that_of_a_naive_sum(pair: tuple[Diagnosis, Diagnosis]) -> None:
    first, other = (d.group_contributions for d in pair)
    assert first is not None
    assert other is not None
    d = other.hits["x_to_y_recall_at_1"] - first.hits["x_to_y_recall_at_1"]  # one query in each group
    n, plus, minus = len(d), int((d == 1).sum()), int((d == -1).sum())
    found = paired_recall([d], [np.ones(n)])
    p, q = (plus + 0.5) / (n + 2), (minus + 0.5) / (n + 2)  # Agresti and Min 2005
    error = math.sqrt(((p + q) - (p - q) ** 2) / (n + 2))
    assert found.stderr == pytest.approx(error, rel=1e-12)
    assert (found.low + found.high) / 2 == pytest.approx(p - q, rel=1e-12)


def test_what_cannot_be_paired_is_none(pair: tuple[Diagnosis, Diagnosis]) -> None:
    for key in ("frechet", "separability", "centered_share"):
        assert paired_difference(*pair, "gap", key) is None
    assert paired_difference(*pair, "retrieval", "x_to_y_median_rank") is None
    assert paired_difference(*pair, "geometry", "x_hubness") is None
    shuffled = examine(*two_models(200, torch.Generator().manual_seed(0))[:2], Settings(temperature=TAU, seed=1))
    assert same_pairs(*pair)
    assert not same_pairs(pair[0], shuffled)


def test_pairs_to_tell() -> None:
    """A difference of half its interval's reach needs four times the pairs."""
    change = Difference.of(im.Estimate(0.1, 0.1, -0.1, 0.3), paired=True)
    assert pairs_to_tell(change, 100) == 400
    assert pairs_to_tell(Difference.of(im.Estimate(0.0, 0.1, -0.2, 0.2), paired=True), 100) is None


@pytest.mark.slow
def test_the_interval_of_a_paired_difference_covers() -> None:
    """Over 200 draws of two correlated models, 92 to 98%. Of 64 groups the divergence's covers 99%."""
    groups, batch_size = 256, 32
    names = ("infonce_sym", "divergence_sym", "alignment")
    draws: dict[str, list[im.Estimate]] = {name: [] for name in (*names, "recall")}
    for seed in range(200):
        x, *models = two_models(groups, torch.Generator().manual_seed(3000 + seed))
        budgets = [im.decompose(x, y, temperature=TAU, batch_size=batch_size) for y in models]
        for name in names:
            one, two = (b.contributions for b in budgets)
            assert one is not None
            assert two is not None
            change = two.replicates[name] - one.replicates[name]
            known = name in two.interactions  # the alignment has no negatives
            d = getattr(budgets[1], name).value - getattr(budgets[0], name).value
            found = two.estimate(d, change, two.interactions[name] - one.interactions[name] if known else None)
            assert len(change) == 32
            draws[name].append(found)
        hits = [((x @ y.T) >= (x * y).sum(1, keepdim=True)).sum(1) <= 3 for y in models]
        draws["recall"].append(paired_recall([(hits[1].double() - hits[0].double()).numpy()], [np.ones(groups)]))
    for name, estimates in draws.items():
        # the mean over the draws stands for the truth: its own error is a fourteenth of an interval's
        truth = sum(e.value for e in estimates) / len(estimates)
        share = sum(e.low <= truth <= e.high for e in estimates) / len(estimates)
        assert 0.92 <= round(share, 3) <= 0.98, (name, share)


def test_mean_recall_averages_both_directions(pair: tuple[Diagnosis, Diagnosis]) -> None:
    found = mean_recall_difference(*pair, 10)
    keys = [f"{side}_recall_at_10" for side in ("x_to_y", "y_to_x")]
    expected = sum(pair[1].retrieval[k].value - pair[0].retrieval[k].value for k in keys) / 2
    assert found is not None
    assert found.estimate.value == pytest.approx(expected, abs=1e-12)


def test_captions_are_one_group() -> None:
    """Five captions of an image change together: the interval is that of images."""
    g = torch.Generator().manual_seed(3)
    x, y, pairs = cases.image_text(60, 5, generator=g)
    z = torch.nn.functional.normalize(y + 0.2 * torch.randn(y.shape, generator=g), dim=1)
    first, other = (examine(x, rows, Settings(temperature=TAU, pairs=pairs)) for rows in (y, z))
    found = paired_difference(first, other, "retrieval", "y_to_x_recall_at_1")
    assert found is not None
    hits = [d.group_contributions.hits["y_to_x_recall_at_1"] for d in (first, other) if d.group_contributions]
    assert hits[0].shape == (60,)
    assert hits[0].max() <= 5
    changed = (hits[1] - hits[0]) / 5
    error = math.sqrt(((changed**2).sum() + 1) / 62 - (changed.sum() / 62) ** 2) / math.sqrt(62)
    assert found.estimate.stderr == pytest.approx(error, rel=1e-9)
