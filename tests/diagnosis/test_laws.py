"""Invariances that hold exactly, inputs that are refused, and what the findings say."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import infomech as im
from cases import captions
from infomech.diagnosis import Estimate, Settings, examine
from infomech.diagnosis.uncertainty import proportion_estimate, quantile_estimate

SEEDS = st.integers(0, 10_000)


def numbers(x: Tensor, y: Tensor, pairs: Tensor | None, tau: float = 0.2) -> dict[str, float]:
    budget = im.decompose(x, y, temperature=tau, pairs=pairs, batch_size=len(x))  # of all groups at once
    out = {k: v.value for k, v in vars(budget).items() if isinstance(v, Estimate)}
    measured = im.gap(x, y, pairs=pairs, bandwidth=0.9)
    for name in ("energy_distance", "mmd2_median", "centroid_gap", "relative_modality_gap", "neighbour_mixing"):
        out[name] = measured[name].value
    return out


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_rotation(seed: int) -> None:
    x, y, pairs = captions(groups=20, seed=seed)
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64)).Q
    assert numbers(x @ turn, y @ turn, pairs) == pytest.approx(numbers(x, y, pairs), rel=1e-9, abs=1e-10)


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_order_of_rows_and_pairs(seed: int) -> None:
    x, y, pairs = captions(groups=20, most=1, seed=seed)  # of several pairs in a group one is drawn by its place
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randperm(len(x), generator=g), torch.randperm(len(y), generator=g)
    moved = torch.stack([torch.argsort(a)[pairs[:, 0]], torch.argsort(b)[pairs[:, 1]]], 1)
    moved = moved[torch.randperm(len(moved), generator=g)]
    assert numbers(x[a], y[b], moved) == pytest.approx(numbers(x, y, pairs), rel=1e-9, abs=1e-10)


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_lengths_of_rows_do_not_count(seed: int) -> None:
    x, y, pairs = captions(groups=20, seed=seed)
    g = torch.Generator().manual_seed(seed)
    longer = x * (0.5 + 3 * torch.rand(len(x), 1, generator=g, dtype=torch.float64))
    assert numbers(longer, y, pairs) == pytest.approx(numbers(x, y, pairs), rel=1e-9, abs=1e-10)


def test_swapping_the_modalities() -> None:
    x, y, pairs = captions(most=1)
    both = ((x, y), pairs), ((y, x), pairs.flip(1))
    one, other = (im.decompose(*a, pairs=p, temperature=0.07, batch_size=len(x)) for a, p in both)
    assert one.dispersion_x.value == pytest.approx(other.dispersion_y.value, rel=1e-12)
    assert one.divergence_xy.value == pytest.approx(other.divergence_yx.value, rel=1e-12)
    assert one.energy_sym.value == pytest.approx(other.energy_sym.value, rel=1e-12)


def test_unpaired_rows_are_left_out() -> None:
    x, y, pairs = captions()
    g = torch.Generator().manual_seed(0)
    more_x = torch.cat([x, torch.randn(7, 6, generator=g, dtype=torch.float64)])
    assert numbers(more_x, y, pairs) == pytest.approx(numbers(x, y, pairs), rel=1e-12)
    assert "unpaired-rows" in {f.code for f in examine(more_x, y, Settings(temperature=0.07, pairs=pairs)).findings}


def test_half_precision_is_lifted() -> None:
    x, y, _ = captions(groups=100, most=1)
    low = im.decompose(x.half(), y.half(), temperature=0.1)
    high = im.decompose(x.half().double(), y.half().double(), temperature=0.1)
    assert low.infonce_sym.value == pytest.approx(high.infonce_sym.value, abs=1e-5)


def test_nearly_collapsed_rows_keep_their_digits() -> None:
    g = torch.Generator().manual_seed(0)
    base = torch.ones(64)
    x = base + 1e-3 * torch.randn(200, 64, generator=g)
    y = base + 1e-3 * torch.randn(200, 64, generator=g)
    single = im.gap(x, y)["energy_distance"].value
    double = im.gap(x.double(), y.double())["energy_distance"].value
    assert single == pytest.approx(double, rel=1e-6)
    found = {f.code: f for f in examine(x, y, Settings(temperature=0.07)).findings}
    assert found["collapse-x"].severity == "serious"
    assert "collapsed to a point" in found["collapse-x"].title
    assert "Fix the training" in found["collapse-x"].text
    assert not found.keys() & {"no-gap", "duplicates-x", "duplicates-y"}  # which would call it good, or tie all rows


def _good() -> tuple[Tensor, Tensor]:
    x, y, _ = captions(groups=12, most=1)
    return x, y


def _with(row: int, value: float) -> Tensor:
    x = _good()[0].clone()
    x[row, 2] = value
    return x


X, Y = _good()
BAD = {
    "three dimensions": (dict(x=X[None]), "3 dimensions"),
    "one dimension": (dict(x=X[0]), "1 dimension"),
    "integers": (dict(x=X.long()), "floating-point"),
    "empty": (dict(x=X[:0], y=Y[:0]), "empty"),
    "nan": (dict(x=_with(3, math.nan)), "1 of 12 rows, the first at row 3"),
    "infinity": (dict(y=_with(5, math.inf)), "y has NaN or infinity in 1 of 12 rows, the first at row 5"),
    "widths": (dict(y=Y[:, :4]), "x has 6 features and y has 4"),
    "lengths": (dict(y=Y[:9]), "no pairs are given"),
    "pair out of range": (dict(pairs=torch.tensor([[0, 0], [1, 12]])), "row 12 of y"),
    "negative pair": (dict(pairs=torch.tensor([[0, 0], [-1, 3]])), "row -1 of x"),
    "pair twice": (dict(pairs=torch.tensor([[0, 0], [1, 1], [0, 0]])), "2 times"),
    "pairs of floats": (dict(pairs=torch.zeros(3, 2)), "row numbers"),
    "no pairs": (dict(pairs=torch.zeros(0, 2, dtype=torch.int64)), "pairs is empty"),
    "one group": (dict(pairs=torch.tensor([[0, 0], [0, 1], [1, 1]])), "1 group"),
    "all equal": (dict(x=torch.ones(12, 6)), "all 12 rows of x are equal"),
    "zero row": (dict(x=torch.cat([X[:4], 0 * X[:1], X[5:]])), "1 zero rows, the first at row 4"),
    "zero temperature": (dict(temperature=0.0), "temperature is 0.0"),
    "negative temperature": (dict(temperature=-0.1), "temperature is -0.1"),
    "nan temperature": (dict(temperature=math.nan), "temperature is nan"),
    "not unit": (dict(normalize=False), "not of unit length"),
    "labels": (dict(labels=["a"]), "labels has 1 entries and x has 12 rows"),
    "batch": (dict(batch_size=1), "batch_size is 1"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    changes, words = BAD[name]
    arguments = {"x": X, "y": Y} | changes
    with pytest.raises(im.InputError) as caught:
        examine(arguments.pop("x"), arguments.pop("y"), Settings(**{"temperature": 0.07, **arguments}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def codes(x: Tensor, y: Tensor, **options: object) -> set[str]:
    return {f.code for f in examine(x, y, Settings(**{"temperature": 0.07, **options})).findings}


def test_findings_of_unrelated_rows() -> None:
    g = torch.Generator().manual_seed(0)
    found = codes(torch.randn(300, 16, generator=g), torch.randn(300, 16, generator=g))
    assert {"loss-near-chance", "retrieval-at-chance", "no-gap", "not-normalized"} <= found


def test_no_gap_between_two_cones_is_nothing_good() -> None:
    g = torch.Generator().manual_seed(0)
    base = torch.ones(64)
    found = {f.code: f for f in examine(base + 0.1 * torch.randn(200, 64, generator=g),
                                        base + 0.1 * torch.randn(200, 64, generator=g),
                                        Settings(temperature=0.07)).findings}  # fmt: skip
    assert "no-gap" not in found
    assert found["collapse-x"].title == "x has collapsed to a cone"


def test_items_given_twice_are_no_collapse_and_a_file_that_is_named_exists(tmp_path: Path) -> None:
    """Two items many times each leave too few groups to tie; what a finding names then is no file."""
    g = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 2, 32, generator=g)
    few = torch.arange(200) % 2
    x, y = z[few], (z + noise)[few] + 1e-4 * torch.randn(200, 32, generator=g)
    report = im.diagnose(x, y, temperature=0.07)
    found = {f.code: f.text for f in report.findings}
    assert "collapse-x" not in found
    report.save(tmp_path / "out", figures=False)
    assert not (tmp_path / "out" / "pairs-tied.npy").exists()
    assert "pairs" not in found["duplicates-x"].split("`")[1]
    assert found["duplicates-x"].endswith("Embed more rows that differ, then `infomech doctor X Y -t 0.07`.")


def test_findings_of_a_clear_gap() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(400, 16, generator=g)
    x, y = z + 1.5, z + 0.3 * torch.randn(400, 16, generator=g) - 1.5
    found = codes(x, y, temperature=0.5, batch_size=256)
    assert {"gap", "loss-rewards-gap", "batch-sees"} <= found
    assert "no-gap" not in found


def test_findings_of_a_hard_temperature() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(400, 32, generator=g)
    found = codes(z, z + 0.5 * torch.randn(400, 32, generator=g), temperature=0.01, batch_size=32)
    assert {"temperature-at-clamp", "limit-not-resolved"} <= found
    assert len({"batch-sees", "batch-gradient-is-noise"} & found) == 1


def test_a_gradient_that_is_mostly_noise_is_serious() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(400, 3, generator=g)
    found = examine(z, z + 0.01 * torch.randn(400, 3, generator=g), Settings(temperature=0.2, batch_size=2)).findings
    (noise,) = (f for f in found if f.code == "batch-gradient-is-noise")
    assert noise.severity == "serious"
    assert noise.value > 1


def test_finding_of_duplicates() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(200, 16, generator=g)
    z[:20] = z[20:40]
    assert "duplicates-x" in codes(z, z + torch.randn(200, 16, generator=g))


def test_perfect_score_has_an_interval() -> None:
    estimate = proportion_estimate(torch.ones(50, dtype=torch.float64), torch.arange(50), 50)
    assert estimate.high == 1
    assert 0.9 < estimate.low < 0.95  # Wilson at n = 50: 0.929


def test_median_covers_like_the_sign_test() -> None:
    g = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(400):
        e = quantile_estimate(torch.randn(101, generator=g, dtype=torch.float64), 0.5, torch.arange(101), 101)
        hits += e.low <= 0 <= e.high
    assert 0.92 <= hits / 400 <= 0.985


def test_rows_against_themselves_have_no_gap() -> None:
    """A share of nothing has no number; near-copies have one that is not told from anything."""
    x = _good()[0]
    for other in (x, x.clone(), x + 1e-9):
        measured = im.gap(x, other)
        assert abs(measured["energy_distance"].value) < 1e-6
        assert measured["centered_share"].withheld


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_lengths_that_float64_cannot_square(factor: float) -> None:
    x, y = _good()
    for call in (
        lambda: im.gap(x * factor, y),
        lambda: im.decompose(x, y * factor, temperature=0.1),
        lambda: im.shared_information(x * factor, y),
        lambda: im.scores.DensityRatio(0.1).fit(x, y * factor),
    ):
        with pytest.raises(im.InputError, match="whose square leaves float64, the first row 0; divide"):
            call()


@pytest.mark.parametrize("ids", [[None] * 12, [float("nan")] * 12, [1] * 12, [*"abcdefghijk", "a"]])
def test_ids_are_one_for_each_row(ids: list[object]) -> None:
    x, y = _good()
    with pytest.raises(im.InputError, match="give every row of x an id of its own"):
        im.diagnose(x, y, temperature=0.1, ids=ids)


@pytest.mark.parametrize("tau", [1e-100, 1e-320, 1e-7])
def test_temperatures_that_no_loss_has(tau: float) -> None:
    x, y = _good()
    for call in (
        lambda: im.gap(x, y, temperature=tau),
        lambda: im.decompose(x, y, temperature=tau),
        lambda: im.diagnose(x, y, temperature=tau),
        lambda: im.scores.DensityRatio(tau).fit(x, y),
    ):
        with pytest.raises(im.InputError, match="a score over it is lost in its own rounding"):
            call()
    with pytest.raises(im.InputError, match="is that a logit scale"):
        im.gap(x, y, temperature=100.0)
    with pytest.raises(im.InputError, match="temperature is 0"):
        im.gap(x, y, temperature=0.0)


def test_pairs_of_a_correction_name_rows_that_are_there() -> None:
    x, y = _good()
    for pairs in ([[0, -1], [1, 1]], [[0, 500], [1, 1]]):
        with pytest.raises(im.InputError, match="pairs names row"):
            im.corrections.MeanRemoval().fit(x, y, pairs=pairs)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: im.decompose(x, y, temperature=0.1, batch_size=3.5), "batch_size is 3.5; it must be a whole"),
        (lambda x, y: im.decompose(x, y, temperature=0.1, batch_size="4"), "batch_size is '4'; it must be a whole"),
        (lambda x, y: im.diagnose(x, y, temperature=0.1, names="ab"), "give two names"),
        (lambda x, y: im.diagnose(x, y, temperature=0.1, names=("a", "a")), "names that differ"),
        (lambda x, y: im.scores.DensityRatio(0.1, critic="cos").fit(x, y), "critic is 'cos'; give Cosine()"),
        (lambda x, y: im.scores.DensityRatio(0.1, correction="whitening").fit(x, y), "correction is 'whitening'"),
        (lambda x, y: im.scores.DensityRatio(0.1).fit(x, y).reliability(bins=0), "bins is 0; give a whole number"),
        (lambda x, y: im.Sphere(2.5), "ambient_dim is 2.5; it must be a whole number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_of_the_wrong_kind(call: Callable[[Tensor, Tensor], object], words: str) -> None:
    with pytest.raises(im.InputError, match=words):
        call(*_good())
