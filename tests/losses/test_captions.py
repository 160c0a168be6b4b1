"""Several positives in both directions, beside the definitions in float64."""

import pytest
import torch

import infomech as im
from infomech.losses import captioned_infonce, symmetric_infonce


def by_definition(x, y, tau, positive, several, weights_x=None, weights_y=None):
    scores = x @ y.T / tau
    losses = []
    for table, mask, weights in ((scores, positive, weights_x), (scores.T, positive.T, weights_y)):
        logs = table.log_softmax(1)
        if several == "mean_log":
            each = -(logs * mask).sum(1) / mask.sum(1)
        else:
            each = -torch.log((logs.exp() * mask).sum(1) / mask.sum(1))
        losses.append(each.mean() if weights is None else (weights * each).sum() / weights.sum())
    return sum(losses) / 2


@pytest.mark.parametrize("several", ["mean_log", "log_mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), [(7, 23), (601, 1301)])
def test_images_and_captions(naive_rows, several: str, weighted: bool, n: int, m: int) -> None:
    x, y = naive_rows(n, 5, 1).requires_grad_(), naive_rows(m, 5, 2).requires_grad_()
    generator = torch.Generator().manual_seed(3)
    of = torch.cat([torch.arange(n), torch.randint(0, n, (m - n,), generator=generator)])
    pairs = torch.stack([of, torch.arange(m)], 1)
    pairs = torch.cat([pairs, pairs[:3], torch.tensor([[0, 5], [1, 5]])])  # named again, and a caption of several
    positive = torch.zeros(n, m, dtype=torch.bool)
    positive[pairs[:, 0], pairs[:, 1]] = True
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    weights = [torch.rand(k, generator=generator, dtype=torch.float64) if weighted else None for k in (n, m)]
    found = captioned_infonce(
        x, y, pairs=pairs, several=several, temperature=tau, weights_x=weights[0], weights_y=weights[1]
    )
    truth = by_definition(x, y, tau, positive, several, *weights)
    assert abs(found - truth) <= 1e-10 * truth.abs()
    for ours, theirs in zip(*(torch.autograd.grad(v, (x, y, tau)) for v in (found, truth)), strict=True):
        assert (ours - theirs).norm() <= 1e-8 * theirs.norm()


@pytest.mark.parametrize("several", ["mean_log", "log_mean"])
def test_groups(naive_rows, several: str) -> None:
    x, y = naive_rows(31, 5, 1), naive_rows(31, 5, 2)
    groups = torch.arange(31) * 7 % 11
    found = captioned_infonce(x, y, groups=groups, several=several, temperature=0.2)
    assert abs(found - by_definition(x, y, 0.2, groups[:, None] == groups, several)) <= 1e-10
    alone = captioned_infonce(x, y, groups=torch.arange(31), several=several, temperature=0.2)
    assert abs(alone - symmetric_infonce(x, y, temperature=0.2)) <= 1e-10
    single = captioned_infonce(
        5 * x.float(), y.float(), groups=groups, several=several, temperature=0.2, normalize=True
    )
    assert single.dtype == torch.float32
    assert abs(single - found) <= 1e-5


@pytest.mark.usefixtures("unchecked")
def test_bad_pairs_are_one_line() -> None:
    x, y = torch.eye(3), torch.eye(3)
    attempts = [
        ({}, "either pairs="),
        ({"pairs": torch.tensor([[0, 0], [1, 1]])}, "row 2 of x has no partner"),
        ({"pairs": torch.tensor([[0, 0], [1, 1], [2, 1]])}, "row 2 of y has no partner"),
        ({"pairs": torch.tensor([[0, 0], [1, 1], [2, 3]])}, "points outside the 3 rows of x and 3 of y"),
        ({"pairs": torch.tensor([0, 1])}, "expected integers"),
        ({"groups": torch.tensor([0, 1])}, r"groups has shape \(2,\) for 3 and 3 rows"),
        ({"groups": torch.arange(3), "several": "mean"}, "several is 'mean'"),
    ]
    for settings, words in attempts:
        with pytest.raises(im.InputError, match=words) as caught:
            captioned_infonce(x, y, temperature=0.1, **settings)
        assert "\n" not in str(caught.value)


@pytest.fixture
def naive_rows(naive):
    return naive.rows
