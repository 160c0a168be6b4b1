"""Every number of the diagnosis against its definition, on groups of unequal size in a mixed order."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

import infomech as im
import naive
from cases import captions
from infomech.diagnosis import Settings, examine
from infomech.diagnosis.centering import centering_bias
from infomech.diagnosis.frechet import _nuclear, _transports
from infomech.diagnosis.gaps import gap
from infomech.diagnosis.gram_statistics import run_sweeps
from infomech.diagnosis.moments import halved_moments
from infomech.diagnosis.retrieval import retrieval_scores
from infomech.measures import PairedSample


@pytest.mark.parametrize("tau", [1.0, 0.07, 0.01, 0.001])
def test_budget_of_all_groups(tau: float) -> None:
    """With all other groups as negatives, one pair a group, it is the sum over all others."""
    x, y, pairs = captions(most=1)
    truth = naive.budget(naive.expand(x, y, pairs), tau, im.log_kernel_volume(im.Sphere(6), im.Cosine(), tau))
    found = im.decompose(x, y, temperature=tau, pairs=pairs, batch_size=len(x))
    for name, value in truth.items():
        assert getattr(found, name).value == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_the_parts_add_up() -> None:
    x, y, pairs = captions(groups=80, dim=40)
    b = im.decompose(x, y, temperature=0.07, pairs=pairs)
    energy = b.alignment.value - (b.dispersion_x.value + b.dispersion_y.value) / 2 - b.divergence_sym.value
    assert b.energy_sym.value == pytest.approx(energy, rel=1e-9)
    loss = b.energy_sym.value + b.log_partition.value + b.remainder.value
    assert b.infonce_sym.value == pytest.approx(loss, rel=1e-9)
    relative = b.alignment.value - (b.dispersion_x_relative.value + b.dispersion_y_relative.value) / 2
    relative += -b.divergence_sym.value + b.log_negatives.value + b.log_kernel_mean + b.remainder.value
    assert b.infonce_sym.value == pytest.approx(relative, rel=1e-9)


@pytest.mark.parametrize("statistic", ["U", "V"])
def test_distances(statistic: str) -> None:
    x, y, pairs = captions()
    e = naive.expand(x, y, pairs)
    own = statistic == "V"
    measured = gap(x, y, pairs=pairs, bandwidth=0.8, statistic=statistic)  # type: ignore[arg-type]
    assert measured["energy_distance"].value == pytest.approx(naive.energy_distance(e, own=own), rel=1e-9)
    assert measured["alignment"].value == pytest.approx(float((e.x - e.y).square().sum(1).mean()), rel=1e-9)
    across = naive.pair_means(e, lambda q: torch.exp(-2 * q), own=own)[2]
    assert measured["cross_uniformity"].value == pytest.approx(math.log(across), rel=1e-9)
    for name, factor in (("half", 0.5), ("median", 1.0), ("double", 2.0)):
        truth = naive.mmd2(e, 0.8 * factor, own=own)
        assert measured[f"mmd2_{name}"].value == pytest.approx(truth, rel=1e-9)


def test_distances_in_float32_are_good_to_a_millionth() -> None:
    x, y, pairs = captions(groups=60)
    x, y = x.float(), y.float()
    e = naive.expand(x, y, pairs)
    measured = gap(x, y, pairs=pairs, bandwidth=0.8)
    assert measured["energy_distance"].value == pytest.approx(naive.energy_distance(e), abs=1e-6)
    assert measured["mmd2_half"].value == pytest.approx(naive.mmd2(e, 0.4), abs=1e-6)


def test_centroids_and_relative_gap() -> None:
    x, y, pairs = captions()
    e = naive.expand(x, y, pairs)
    measured = gap(x, y, pairs=pairs)
    assert measured["centroid_gap"].value == pytest.approx(math.sqrt(naive.centroid_gap_squared(e)), rel=1e-9)
    assert measured["relative_modality_gap"].value == pytest.approx(naive.relative_modality_gap(e), rel=1e-9)
    norms = {s: math.sqrt(float((u @ u.T)[e.others].mean())) for s, u in (("x", e.x), ("y", e.y))}
    assert measured["centroid_norm_x"].value == pytest.approx(norms["x"], rel=1e-9)
    cosine = float((e.x @ e.y.T)[e.others].mean()) / norms["x"] / norms["y"]
    assert measured["centroid_cosine"].value == pytest.approx(cosine, rel=1e-9)
    assert measured["pair_distance"].value == pytest.approx(float((e.x - e.y).norm(dim=1).mean()), rel=1e-9)


def test_the_geometry_within_the_modalities_stands_beside_the_gap() -> None:
    x, y, pairs = captions()
    measured, whole = gap(x, y, pairs=pairs), examine(x, y, Settings(temperature=0.07, pairs=pairs))
    for side in "xy":
        for name, estimate in whole.geometry[side].items():
            assert measured[f"{name}_{side}"] == estimate
    assert measured.keys() == whole.gap.keys() | {f"{n}_{s}" for s in "xy" for n in whole.geometry[s]}


def test_a_centroid_that_the_data_do_not_tell_from_zero_has_no_direction() -> None:
    x, y, _ = captions()
    x = torch.nn.functional.normalize(x[: len(x) // 4 * 4], dim=1)
    x = torch.cat([x[: len(x) // 2], -x[: len(x) // 2]])  # opposite rows: the mean is 0, its unbiased square negative
    y = torch.nn.functional.normalize(x + 0.3, dim=1)
    cosine = gap(x, y)["centroid_cosine"]
    assert math.isnan(cosine.value)
    assert (cosine.low, cosine.high) == (-1.0, 1.0)


def test_standard_error_of_the_energy_distance() -> None:
    x, y, pairs = captions(groups=40)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs)
    e = naive.Expanded(sample.x.values[sample.pairs[:, 0]], sample.y.values[sample.pairs[:, 1]], sample.pair_groups)
    parts = [naive.energy_distance(e.keep(sample.pair_blocks != b)) for b in range(sample.blocks)]
    sizes = [int(c) for c in sample.block_groups]
    _, stderr = naive.jackknife(naive.energy_distance(e), parts, sizes)
    assert gap(x, y, pairs=pairs)["energy_distance"].stderr == pytest.approx(stderr, rel=1e-8)


def test_centered_energy_distance_and_its_replicates() -> None:
    x, y, pairs = captions(groups=200)
    x[:, 1] *= 3  # what is left after centring is then no degenerate statistic
    sample = PairedSample.from_embeddings(x, y, pairs=pairs)
    e = naive.Expanded(sample.x.values[sample.pairs[:, 0]], sample.y.values[sample.pairs[:, 1]], sample.pair_groups)

    def centered(part: naive.Expanded) -> float:
        shift = (part.x - part.y).mean(0)
        return naive.energy_distance(naive.Expanded(part.x - shift, part.y, part.groups))

    truth = centered(e) - 2 * naive.shift_bias(e, (e.x - e.y).mean(0))
    estimate = gap(x, y, pairs=pairs)["centered_energy_distance"]
    assert estimate.value == pytest.approx(truth, rel=1e-9)
    parts = [centered(e.keep(sample.pair_blocks != b)) for b in range(sample.blocks)]
    _, stderr = naive.jackknife(centered(e), parts, [int(c) for c in sample.block_groups])
    assert estimate.stderr == pytest.approx(stderr, rel=0.1)  # replicates move the shift to first order only


def test_centering_bias_is_the_mean_error() -> None:
    g = torch.Generator().manual_seed(3)
    errors, biases = [], []
    for _ in range(300):
        z = torch.randn(40, 5, generator=g, dtype=torch.float64)
        x = torch.nn.functional.normalize(z + 0.5 * torch.randn(40, 5, generator=g, dtype=torch.float64), dim=1)
        y = torch.nn.functional.normalize(z, dim=1)
        sample = PairedSample.from_embeddings(x, y)
        others = ~torch.eye(40, dtype=torch.bool)
        fitted = (x - y).mean(0)
        # by symmetry the true shift is 0
        means = [(x[:, None] - y[None] - s).norm(dim=-1)[others].mean() for s in (fitted, torch.zeros_like(fitted))]
        errors.append(float(means[0] - means[1]))
        biases.append(centering_bias(sample, fitted))
    error = torch.tensor(errors)
    assert abs(np.mean(biases) - np.mean(errors)) < 3 * float(error.std()) / math.sqrt(300) + 0.05 * abs(
        np.mean(errors)
    )
    assert abs(np.mean(errors)) > 10 * float(error.std()) / math.sqrt(300)  # there is a bias to be found


def test_frechet_against_scipy() -> None:
    x, y, pairs = captions(groups=60)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs)
    value, roots = _nuclear(*(m.whole for m in halved_moments(sample)))
    to_x, to_y = _transports(roots)
    e = naive.expand(x, y, pairs)
    mean_x, mean_y = e.x.mean(0), e.y.mean(0)
    cov_x, cov_y = (np.cov(np.asarray(u).T, bias=True) for u in (e.x, e.y))
    cross = scipy.linalg.sqrtm(cov_x @ cov_y)
    truth = float((mean_x - mean_y).square().sum()) + float(np.trace(cov_x + cov_y - 2 * cross.real))
    assert float(value) == pytest.approx(truth, rel=1e-8)
    to_x, to_y = to_x.numpy(), to_y.numpy()
    np.testing.assert_allclose(to_y @ cov_x @ to_y, cov_y, atol=1e-10)  # it pushes one Gaussian to the other
    np.testing.assert_allclose(to_x @ cov_y @ to_x, cov_x, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_retrieval_with_ties(dtype: torch.dtype) -> None:
    x, y, pairs = captions(groups=40, dim=4)
    y[5], y[17], y[30] = y[6], y[6], y[6]  # candidates that are equal
    x[3] = x[8]
    x, y = x.to(dtype), y.to(dtype)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs)
    ranks = run_sweeps(sample, ranks=True).ranks
    assert ranks is not None
    scores = retrieval_scores(sample, ranks)
    unit_x, unit_y = (torch.nn.functional.normalize(v.double(), dim=1) for v in (x, y))
    similarity = unit_x @ unit_y.T
    to_y = [pairs[pairs[:, 0] == i, 1].tolist() for i in range(len(x))]
    to_x = [pairs[pairs[:, 1] == j, 0].tolist() for j in range(len(y))]
    for k in (1, 5, 10):
        assert scores[f"x_to_y_recall_at_{k}"].value == pytest.approx(naive.recall(similarity, to_y, k), abs=1e-9)
        assert scores[f"y_to_x_recall_at_{k}"].value == pytest.approx(naive.recall(similarity.T, to_x, k), abs=1e-9)


def test_retrieval_at_chance_when_everything_ties() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=g)
    y = torch.ones(50, 3, dtype=torch.float64)
    y[-1, 2] += 1e-11  # not all equal, yet tied
    sample = PairedSample.from_embeddings(x.double(), y)
    ranks = run_sweeps(sample, ranks=True).ranks
    assert ranks is not None
    assert retrieval_scores(sample, ranks)["x_to_y_recall_at_5"].value == pytest.approx(0.1, abs=1e-12)


def test_neighbour_mixing_and_hubness() -> None:
    x, y, pairs = captions(groups=50)
    report = examine(x, y, Settings(temperature=0.07, pairs=pairs))
    sample = PairedSample.from_embeddings(x, y, pairs=pairs)
    rows = torch.cat([sample.x.values, sample.y.values])
    groups = torch.cat([sample.x.groups, sample.y.groups])
    side = torch.cat([torch.zeros(len(sample.x)), torch.ones(len(sample.y))])
    s = torch.where(groups[:, None] != groups[None, :], rows @ rows.T, -2.0)
    nearest = s.topk(10, dim=1).indices
    shares = []
    for value in (0, 1):
        anchors = side == value
        share = (side[nearest[anchors]] != value).double().mean()
        possible = (s > -2)[anchors]
        chance = (possible[:, side != value].sum(1) / possible.sum(1)).double().mean()
        shares.append(float(share / chance))
    assert report.gap["neighbour_mixing"].value == pytest.approx(np.mean(shares), rel=1e-6)
    within = torch.where(sample.x.groups[:, None] != sample.x.groups, sample.x.values @ sample.x.values.T, -2.0)
    counts = torch.bincount(within.topk(10, dim=1).indices.flatten(), minlength=len(sample.x)).numpy()
    assert report.geometry["x"]["hubness"].value == pytest.approx(scipy.stats.skew(counts), rel=1e-9)


def test_geometry_of_one_modality() -> None:
    x, y, pairs = captions(groups=50)
    e = naive.expand(x, y, pairs)
    measured = examine(x, y, Settings(temperature=0.07, pairs=pairs)).geometry["y"]
    assert measured["mean_cosine"].value == pytest.approx(float((e.y @ e.y.T)[e.others].mean()), rel=1e-9)
    squared = (e.y[:, None] - e.y[None]).square().sum(-1)
    uniformity = math.log(float(torch.exp(-2 * squared)[e.others].mean()))
    assert measured["uniformity"].value == pytest.approx(uniformity, rel=1e-9)
    sigma = torch.linalg.svdvals(e.y)
    p = sigma / sigma.sum()
    assert measured["effective_rank"].value == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-9)
    z = e.y - e.y.mean(0)
    squares = float((z @ z.T).square()[e.others].mean())
    ratio = float(z.square().sum(1).mean()) ** 2 / squares
    assert measured["participation_ratio"].value == pytest.approx(ratio, rel=1e-9)
    spread = e.y.var(0, unbiased=False) * 50 / 49
    assert measured["collapse"].value == pytest.approx(float(spread.sqrt().mean()) * 6**0.5, rel=1e-9)
