"""The density ratio against laws where it is known, and against a loop that leaves rows out one by one."""

import math
import sys
from pathlib import Path

import pytest
import torch
from sklearn.base import clone
from torch import Tensor
from torch.nn.functional import normalize

import infomech as im
from infomech.scores import DensityRatio
from infomech.scores.own_rows import row_digests

sys.path.insert(0, str(Path(__file__).parent))
from laws import GaussianPairs, NoisyDirections

VMF = NoisyDirections(dim=6, concentration=8.0)
GAUSS = GaussianPairs(dim=3, rho=0.7)
CAPTIONS = torch.tensor([[i // 3, i] for i in range(60)])


def fitted(law: NoisyDirections | GaussianPairs, count: int, seed: int, **more: object) -> DensityRatio:
    critic = law.critic if isinstance(law, GaussianPairs) else None
    ratio = DensityRatio(law.temperature, critic=critic, **more)  # type: ignore[arg-type]
    return ratio.fit(*law.draw(count, seed))


@pytest.mark.parametrize("law", [VMF, GAUSS], ids=["directions", "gaussian"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_the_known_ratio_is_found_within_its_own_error(
    law: NoisyDirections | GaussianPairs, weights: tuple[float, float]
) -> None:
    ratio = fitted(law, 2000, 1, weights=weights)
    x, y = law.draw(300, 2)
    x, y = torch.cat([x, x]), torch.cat([y, y.roll(1, 0)])  # true pairs, then random ones
    error, own = ratio.log_ratio(x, y) - law.log_ratio(x, y), ratio.log_ratio_stderr(x, y)
    standardised = error / own
    assert 0.6 < float(standardised.square().mean().sqrt()) < 1.4
    assert float((standardised.abs() < 4).double().mean()) > 0.99


@pytest.mark.parametrize("weights", [pytest.param((1.0, 0.0), marks=pytest.mark.slow), (0.5, 0.5)])
def test_the_error_falls_with_the_reference_as_stated(weights: tuple[float, float]) -> None:
    x, y = VMF.draw(400, 3)
    truth = VMF.log_ratio(x, y)
    sizes = (200, 800, 3200)
    errors = []
    for size in sizes:
        squares = [
            (fitted(VMF, size, seed, weights=weights).log_ratio(x, y) - truth).square().mean() for seed in range(10, 14)
        ]
        errors.append(math.sqrt(float(torch.stack(squares).mean())))
    # one field: cv / sqrt(n); the half sum of two independent ones: less by sqrt(2)
    stated = [VMF.kernel_variation / math.sqrt(n) * math.hypot(*weights) for n in sizes]
    for error, rate in zip(errors[1:], stated[1:], strict=True):
        assert error == pytest.approx(rate, rel=0.25)
    slope = math.log(errors[2] / errors[0]) / math.log(sizes[2] / sizes[0])
    assert -0.6 < slope < -0.4


def by_loops(ratio: DensityRatio, x: Tensor, y: Tensor, pairs: Tensor, i: int, j: int) -> float:
    """r(x_i, y_j) of the reference itself: the fields summed entry by entry without the groups of both rows."""
    x, y = normalize(x.double(), dim=1), normalize(y.double(), dim=1)
    group_x, group_y = ratio.groups_x_, ratio.groups_y_
    left_out = {int(group_x[i]), int(group_y[j])}
    per_group = torch.bincount(group_x[pairs[:, 0]])
    fields = []
    for row, others, groups, column in ((x[i], y, group_y, 1), (y[j], x, group_x, 0)):
        total, weight = 0.0, 0.0
        for pair in pairs:
            k = int(pair[column])
            if int(groups[k]) not in left_out:
                share = 1 / float(per_group[groups[k]])
                total += share * math.exp(float(row @ others[k]) / ratio.temperature)
                weight += share
        fields.append(math.log(total / weight))
    return float(x[i] @ y[j]) / ratio.temperature - ratio.weights_[0] * fields[0] - ratio.weights_[1] * fields[1]


def captioned(seed: int = 0, temperature: float = 0.2) -> tuple[DensityRatio, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(20, 5, generator=generator)
    texts = images.repeat_interleave(3, 0) + 0.5 * torch.randn(60, 5, generator=generator)
    ratio = DensityRatio(temperature, weights=(0.3, 0.7)).fit(images, texts, pairs=CAPTIONS)
    return ratio, images, texts


@pytest.mark.parametrize("temperature", [0.2, 0.01])  # below 0.04 sums are shifted, and one group can be all of a field
def test_a_reference_pair_leaves_out_the_groups_of_both_its_rows(temperature: float) -> None:
    ratio, images, texts = captioned(temperature=temperature)
    groups_x, groups_y = ratio.groups_x_, ratio.groups_y_
    everything = ratio.log_ratios(images, texts, groups_x=groups_x, groups_y=groups_y)
    matching = ratio.log_ratio(images[CAPTIONS[:, 0]], texts, groups_x=groups_x[CAPTIONS[:, 0]], groups_y=groups_y)
    for i, j in ((0, 0), (0, 1), (5, 16), (19, 3), (7, 58)):
        expected = by_loops(ratio, images, texts, CAPTIONS, i, j)
        assert float(everything[i, j]) == pytest.approx(expected, abs=2e-4)
        if i == j // 3:
            assert float(matching[j]) == pytest.approx(expected, abs=2e-4)


def test_rows_that_are_new_use_the_whole_reference() -> None:
    ratio, _, texts = captioned()
    new = torch.randn(4, 5, generator=torch.Generator().manual_seed(9))
    kernel = torch.exp(normalize(new, dim=1).double() @ normalize(texts, dim=1).double().T / 0.2)
    expected = (kernel / 3).sum(1).div(20).log()
    torch.testing.assert_close(ratio.log_field_y(new), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ratio.log_field_x(new), ratio.log_field_x(new, groups=torch.full((4,), -1)))
    own = ratio.log_field_x(texts, groups=ratio.groups_y_)
    whole = ratio.log_field_x(texts, groups=torch.full((60,), -1))
    assert float(own.mean()) < float(whole.mean()) - 0.3  # without its image, which is close to it


def test_rows_of_the_reference_are_recognised_wherever_they_stand() -> None:
    ratio, images, texts = captioned()
    new = torch.randn(3, 5, generator=torch.Generator().manual_seed(9))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    mixed, groups = torch.cat([new, texts[order]]), torch.cat([torch.full((3,), -1), ratio.groups_y_[order]])
    assert torch.equal(ratio.groups_of(mixed, side="y"), groups)
    assert torch.equal(ratio.groups_of(texts.double().numpy(), side="y"), ratio.groups_y_)  # of another type
    assert bool((ratio.groups_of(texts, side="x") == -1).all())  # they are rows of y
    torch.testing.assert_close(ratio.log_field_x(mixed), ratio.log_field_x(mixed, groups=groups))
    torch.testing.assert_close(ratio.index_vectors(mixed), ratio.index_vectors(mixed, groups=groups))
    known = {"groups_x": ratio.groups_x_, "groups_y": groups}
    torch.testing.assert_close(ratio.log_ratios(images, mixed), ratio.log_ratios(images, mixed, **known))
    known["groups_x"] = ratio.groups_x_[CAPTIONS[:, 0]]
    known["groups_y"] = ratio.groups_y_
    same = images[CAPTIONS[:, 0]], texts
    torch.testing.assert_close(ratio.log_ratio(*same), ratio.log_ratio(*same, **known))


def test_equal_rows_are_told_by_their_place() -> None:
    x, y = VMF.draw(40, 0)
    y[30] = y[3]
    ratio = DensityRatio(0.2).fit(x, y)
    assert torch.equal(ratio.groups_of(y, side="y"), ratio.groups_y_)
    assert ratio.groups_of(y[[30]], side="y") == ratio.groups_y_[3]
    digests = row_digests(torch.eye(3000, dtype=torch.float16))  # as alike as rows can be
    assert len(digests.unique()) == 3000
    assert im.scores.own_rows.row_digests(torch.tensor([[0.0]])) == im.scores.own_rows.row_digests(
        torch.tensor([[-0.0]])
    )


@pytest.mark.parametrize("side", ["x", "y"])
def test_the_best_of_the_references_own_rows_do_not_know_their_partners(side: str) -> None:
    ratio, images, texts = captioned()
    ratio.ranking_weights_ = {"x": 0.7, "y": 0.7}
    rows, candidates = (images, texts) if side == "y" else (texts, images)
    found = ratio.best_matches(rows, candidates, k=4, side=side)
    table = ratio.log_ratios(images, texts, ranking=True, side=side, groups_x=ratio.groups_x_, groups_y=ratio.groups_y_)
    table = table if side == "y" else table.T
    assert torch.equal(found.rows, table.topk(4, dim=1).indices)
    torch.testing.assert_close(found.ranking, table.topk(4, dim=1).values, atol=1e-4, rtol=0)
    i, j = torch.arange(20).repeat_interleave(3), torch.arange(60).roll(1)
    scored = ratio.scored_pairs(images, texts, rows=(i, j))
    expected = ratio.log_ratio(images[i], texts[j], groups_x=ratio.groups_x_[i], groups_y=ratio.groups_y_[j])
    errors = ratio.log_ratio_stderr(images[i], texts[j], groups_x=ratio.groups_x_[i], groups_y=ratio.groups_y_[j])
    torch.testing.assert_close(scored["log_ratio"], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored["stderr"], errors, atol=1e-5, rtol=0)


def test_matching_rows_are_the_diagonal_of_all_rows() -> None:
    ratio = fitted(VMF, 200, 0)
    x, y = VMF.draw(50, 1)
    torch.testing.assert_close(ratio.log_ratios(x, y).diagonal(), ratio.log_ratio(x, y), atol=1e-9, rtol=0)
    rows = ratio.log_ratios(x.float(), y)
    assert rows.dtype is torch.float64  # the reference's


def test_an_index_of_inner_products_ranks_as_the_ratio_does() -> None:
    ratio = fitted(VMF, 300, 0)
    ratio.ranking_weights_ = {"x": 0.4, "y": 0.8}
    x, y = VMF.draw(70, 1)
    products = ratio.query_vectors(x) @ ratio.index_vectors(y).T
    torch.testing.assert_close(products, ratio.log_ratios(x, y, ranking=True), atol=1e-9, rtol=0)
    products = ratio.query_vectors(y, side="y") @ ratio.index_vectors(x, side="x").T
    torch.testing.assert_close(products.T, ratio.log_ratios(x, y, ranking=True, side="x"), atol=1e-9, rtol=0)
    assert ratio.index_vectors(y).shape == (70, VMF.dim + 1)


def test_the_index_ranks_by_the_critic_with_row_terms_too() -> None:
    ratio = fitted(GAUSS, 300, 0)
    x, y = GAUSS.draw(40, 1)
    products, scores = ratio.query_vectors(x) @ ratio.index_vectors(y).T, ratio.log_ratios(x, y, ranking=True)
    offset = products - scores  # what belongs to the query alone
    torch.testing.assert_close(offset, offset[:, :1].expand_as(offset), atol=1e-9, rtol=0)


def test_hubs_are_put_in_their_place_by_the_ranking_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 16, generator=generator)
    y = x + 0.9 * torch.randn(600, 16, generator=generator)
    y[::8] = 0.3 * y[::8] + 2.0 * x.mean(0) + 1.5  # near everything
    x = x + 1.0
    ratio = DensityRatio(0.1).fit(x[:300], y[:300])
    assert ratio.ranking_weights_["y"] > 0.2
    queries, candidates = x[300:], y[300:]
    cosine = normalize(queries, dim=1) @ normalize(candidates, dim=1).T
    hits = [
        float((scores.argmax(1) == torch.arange(300)).double().mean())
        for scores in (cosine, ratio.log_ratios(queries, candidates, ranking=True))
    ]
    assert hits[1] > hits[0] + 0.02


def test_a_row_far_from_everything_has_a_finite_answer_that_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    cone = normalize(torch.randn(50, 8, generator=generator) * 0.05 + torch.eye(8)[0], dim=1)
    ratio = DensityRatio(0.001).fit(cone, cone + 0.01 * torch.randn(50, 8, generator=generator))
    far = -torch.eye(8)[:1]  # its kernels are exp(-1000)
    field = ratio.log_field_y(far)
    assert float(field) < -900
    assert bool(torch.isfinite(ratio.log_ratio(far, cone[:1])).all())
    assert bool(torch.isfinite(ratio.log_ratios(far, cone)).all())
    assert float(ratio.log_ratio_stderr(far, cone[:1])) > 0.1


def test_weights_can_be_held_out() -> None:
    ratio = fitted(VMF, 400, 0, weights="held-out")
    assert sum(ratio.weights_) == pytest.approx(1)
    assert 0 <= ratio.weights_[0] <= 1


def test_manners_of_scikit_learn() -> None:
    ratio = DensityRatio(0.05, weights=(1.0, 0.0), seed=3)
    assert ratio.get_params()["temperature"] == 0.05
    assert clone(ratio).set_params(temperature=0.1).temperature == 0.1
    with pytest.raises(im.InputError, match="not been fitted"):
        ratio.log_ratio(torch.eye(3), torch.eye(3))
    assert ratio.fit(*VMF.draw(20, 0)) is ratio


def test_a_correction_comes_first() -> None:
    x, y = VMF.draw(100, 0)
    x, y = x + 0.5, y - 0.5
    removal = im.corrections.MeanRemoval()
    ratio = DensityRatio(0.2, correction=removal).fit(x, y)
    assert not removal.fitted  # a parameter stays as it was given
    plain = DensityRatio(0.2).fit(*removal.fit(x, y).transform(x, y))
    a, b = VMF.draw(10, 1)
    expected = plain.log_ratio(*removal.transform(a + 0.5, b - 0.5))
    torch.testing.assert_close(ratio.log_ratio(a + 0.5, b - 0.5), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (float("nan"), 1.0)}, r"weights is \(nan, 1\); give two finite numbers that sum to 1"),
        ({"weights": (1.0, 1.0)}, r"weights is \(1, 1\)"),
        ({"weights": "best"}, "weights is 'best'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": 100.0}, "is that a logit scale"),
    ],
)
def test_parameters_that_cannot_be_used(change: dict[str, object], message: str) -> None:
    with pytest.raises(im.InputError, match=message):
        DensityRatio(**{"temperature": 0.1, **change}).fit(*VMF.draw(20, 0))  # type: ignore[arg-type]


def test_references_that_cannot_be_used() -> None:
    x, y = VMF.draw(20, 0)
    with pytest.raises(im.InputError, match="x is empty"):
        DensityRatio(0.1).fit(x[:0], y[:0])
    with pytest.raises(im.InputError, match="into 1 group"):
        DensityRatio(0.1).fit(x, y[:1], pairs=torch.tensor([[i, 0] for i in range(20)]))
    ratio = DensityRatio(0.1).fit(x, y)
    with pytest.raises(im.InputError, match="x has 4 features and the reference has 6; both must come from the same"):
        ratio.log_ratio(x[:, :4], y)
    with pytest.raises(im.InputError, match="x has 20 rows and y has 3"):
        ratio.log_ratio(x, y[:3])
    with pytest.raises(im.InputError, match="side is 'z'"):
        ratio.index_vectors(y, side="z")
    with pytest.raises(im.InputError, match="groups has shape"):
        ratio.log_field_y(x, groups=torch.zeros(3, dtype=torch.int64))
