"""Critics and log-weights in every loss against naive float64, values and gradients."""

import math

import pytest
import torch
from torch import Tensor

import infomech as im
from infomech.losses import (
    InfoNCE,
    PairwiseInfoNCE,
    SigmoidLoss,
    SymmetricInfoNCE,
    infonce,
    pairwise_infonce,
    sigmoid_loss,
    symmetric_infonce,
)

CRITICS = [im.Cosine(), im.RBF(0.7)]


def scores(critic, x: Tensor, y: Tensor) -> Tensor:
    """By the definition of the critic: squared distances from differences for RBF."""
    if critic == im.Cosine():
        return x @ y.mT
    return -critic.scale * (x[:, None, :] - y[None, :, :]).square().sum(-1)


def symmetric(x, y, u, v, *, critic, tau, weight, groups=None, weigh_positive=False) -> Tensor:
    same = torch.eye(len(x), dtype=torch.bool) if groups is None else groups[:, None] == groups[None, :]

    def negatives(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return (scores(critic, a, b) / tau + w[None, :]).masked_fill(same, -math.inf).logsumexp(1)

    xy, yx, xx, yy = negatives(x, y, v), negatives(y, x, u), negatives(x, x, u), negatives(y, y, v)
    own = scores(critic, x, y).diagonal() / tau
    losses = []
    for rest, w in ((xy, v), (yx, u)):
        positive = own + w if weigh_positive else own
        losses.append(torch.logaddexp(positive, rest) - positive)
    return ((losses[0] + losses[1]) / 2 + weight * (xx - xy + yy - yx) / 2).mean()


def check(found, truth, leaves: list[Tensor], tolerance: float = 1e-11) -> None:
    gradients = [torch.autograd.grad(value, leaves, retain_graph=True) for value in (found, truth)]
    assert float((found - truth).detach().abs()) <= tolerance * max(1.0, float(truth.detach().abs()))
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).norm()) <= tolerance * max(float(b.norm()), 1e-2)


def leaves_of(naive, n: int, *, norms: tuple[float, float] | None = None, spread: float = 1.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(n)
    rows = [naive.rows(n, 5, 1), naive.rows(n, 5, 2)]
    if norms is not None:
        sizes = [torch.linspace(*norms, n, dtype=torch.float64)[torch.randperm(n, generator=g)] for _ in rows]
        rows = [z * size[:, None] for z, size in zip(rows, sizes, strict=True)]
    weights = [spread * torch.randn(n, generator=g, dtype=torch.float64) for _ in rows]
    return [t.requires_grad_() for t in (*rows, *weights)]


@pytest.mark.parametrize("critic", CRITICS, ids=str)
@pytest.mark.parametrize("n", [2, 3, 129, 513])
@pytest.mark.parametrize("weigh_positive", [False, True])
def test_symmetric(naive, critic, n: int, weigh_positive: bool) -> None:
    leaves = leaves_of(naive, n)
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    x, y, u, v = leaves
    options = {"critic": critic, "weigh_positive": weigh_positive}
    found = symmetric_infonce(x, y, temperature=tau, divergence_weight=0.6, log_weights_x=u, log_weights_y=v, **options)
    check(found, symmetric(x, y, u, v, tau=tau, weight=0.6, **options), [*leaves, tau])


@pytest.mark.parametrize("tau", [0.005, 0.07, 1.0, 10.0])
@pytest.mark.parametrize("norms", [(1.0, 1.0), (0.0, 2.0), (0.0, 100.0)])
@pytest.mark.parametrize("weight", [0.0, 0.75])
def test_rbf_of_rows_of_any_norm(naive, tau: float, norms: tuple[float, float], weight: float) -> None:
    x, y, *_ = leaves_of(naive, 101, norms=norms)
    with torch.no_grad():
        y[3] = x[3]  # a pair at distance 0, and a duplicate of a row
        y[5] = y[6]
    zero = torch.zeros(101, dtype=torch.float64)
    found = symmetric_infonce(x, y, temperature=tau, divergence_weight=weight, critic=im.RBF(0.7))
    truth = symmetric(x, y, zero, zero, critic=im.RBF(0.7), tau=tau, weight=weight)
    # inner products of size |x|^2 cancel to the distance: their rounding is that of 2 scale |x|^2 / tau
    check(found, truth, [x, y], 1e-11 + 2e-15 * 1.4 * norms[1] ** 2 / tau)


@pytest.mark.parametrize("tau", [0.02, 0.5])
def test_rbf_in_float32(naive, tau: float) -> None:
    doubles = [z.detach().float().double().requires_grad_() for z in leaves_of(naive, 600)[:2]]
    singles = [z.detach().float().requires_grad_() for z in doubles]
    zero = torch.zeros(600, dtype=torch.float64)
    truth = symmetric(*doubles, zero, zero, critic=im.RBF(0.7), tau=tau, weight=0.5)
    found = symmetric_infonce(*singles, temperature=tau, divergence_weight=0.5, critic=im.RBF(0.7))
    assert abs(float(found.detach()) - float(truth.detach())) <= 1e-6 * float(truth.detach())
    for a, b in zip(torch.autograd.grad(found, singles), torch.autograd.grad(truth, doubles), strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


def test_groups_and_removed_rows(naive) -> None:
    leaves = leaves_of(naive, 90)
    x, y, u, v = leaves
    groups = torch.arange(90) % 31
    with torch.no_grad():
        u[4], v[:20] = -math.inf, -math.inf
    found = symmetric_infonce(
        x, y, temperature=0.1, divergence_weight=0.5, log_weights_x=u, log_weights_y=v, groups=groups
    )
    check(found, symmetric(x, y, u, v, critic=im.Cosine(), tau=0.1, weight=0.5, groups=groups), leaves)
    kept = torch.arange(20, 90)  # removing rows as negatives is the same as not having them, for the other anchors
    one = infonce(x, y, temperature=0.1, weights=torch.isin(torch.arange(90), kept).double(), log_weights=v.detach())
    truth = infonce(x[20:], y[20:], temperature=0.1, log_weights=v[20:].detach())
    assert float(one.detach()) == pytest.approx(float(truth.detach()), rel=1e-12)


def test_gradcheck(naive) -> None:
    leaves = leaves_of(naive, 6)

    def loss(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return symmetric_infonce(
            x, y, temperature=0.3, divergence_weight=0.4, critic=im.RBF(0.5), log_weights_x=u, log_weights_y=v
        ) + sigmoid_loss(x, y, temperature=0.3, bias=-1.0, critic=im.RBF(0.5), log_weights_x=u, log_weights_y=v)

    assert torch.autograd.gradcheck(loss, leaves)


def test_a_weight_counts_copies(naive) -> None:
    x, y, more = naive.rows(8, 4, 1), naive.rows(8, 4, 2), naive.rows(3, 4, 3)
    copies = torch.tensor([2, 1, 5])
    plain = infonce(x, y, temperature=0.2, negatives=more.repeat_interleave(copies, 0))
    found = infonce(x, y, temperature=0.2, negatives=more, negative_log_weights=copies.double().log())
    assert float(found) == pytest.approx(float(plain), rel=1e-13)


@pytest.mark.parametrize("critic", CRITICS, ids=str)
@pytest.mark.parametrize("weigh_positive", [False, True])
@pytest.mark.parametrize("own_sets", [False, True])
def test_one_direction(naive, critic, weigh_positive: bool, own_sets: bool) -> None:
    x, y, _, v = leaves_of(naive, 40)
    g = torch.Generator().manual_seed(0)
    shape = (40, 3, 5) if own_sets else (7, 5)
    more = torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()
    w = torch.randn(shape[:-1], generator=g, dtype=torch.float64).requires_grad_()
    at = torch.randint(0, 40, (40,), generator=g)
    found = infonce(
        x,
        y,
        temperature=0.3,
        positives=at,
        negatives=more,
        critic=critic,
        log_weights=v,
        negative_log_weights=w,
        weigh_positive=weigh_positive,
    )
    table = scores(critic, x, y) / 0.3
    positive = table.gather(1, at[:, None])
    if weigh_positive:
        positive = positive + v[at][:, None]
    weighted = (table + v).scatter(1, at[:, None], -math.inf)
    sets = more if own_sets else more.expand(40, *shape)
    extra = torch.cat([scores(critic, a[None], b) for a, b in zip(x, sets, strict=True)]) / 0.3 + w
    truth = (torch.cat([positive, weighted, extra], 1).logsumexp(1) - positive[:, 0]).mean()
    check(found, truth, [x, y, v, more, w])


def test_the_classical_log_q_correction(naive) -> None:
    x, y, _, log_q = leaves_of(naive, 50)
    found = infonce(x, y, temperature=0.1, log_weights=-log_q, weigh_positive=True)
    truth = torch.nn.functional.cross_entropy(x @ y.mT / 0.1 - log_q, torch.arange(50))
    check(found, truth, [x, y, log_q])


@pytest.mark.parametrize("weigh_positive", [False, True])
def test_several_positives(naive, weigh_positive: bool) -> None:
    z, _, _, v = leaves_of(naive, 12)
    labels = torch.arange(12) % 4
    positive = (labels[:, None] == labels[None, :]) & ~torch.eye(12, dtype=torch.bool)
    found = infonce(
        z,
        z,
        temperature=0.3,
        positives=torch.nonzero(positive),
        exclude_own=True,
        critic=im.RBF(0.4),
        log_weights=v,
        weigh_positive=weigh_positive,
    )
    table = scores(im.RBF(0.4), z, z) / 0.3
    total = (table + v).masked_fill(torch.eye(12, dtype=torch.bool), -math.inf).logsumexp(1)
    best = table + v if weigh_positive else table
    truth = (total - (best * positive).sum(1) / positive.sum(1)).mean()
    check(found, truth, [z, v])


@pytest.mark.parametrize("critic", CRITICS, ids=str)
@pytest.mark.parametrize("n", [2, 37, 515])
def test_sigmoid(naive, critic, n: int) -> None:
    leaves = leaves_of(naive, n)
    x, y, u, v = leaves
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    found = sigmoid_loss(x, y, temperature=0.2, bias=bias, critic=critic, log_weights_x=u, log_weights_y=v)
    table = scores(critic, x, y) / 0.2 + bias
    own = torch.eye(n, dtype=torch.bool)
    negative = (table + u[:, None] + v[None, :])[~own]
    softplus = torch.nn.functional.softplus
    truth = (softplus(-table.diagonal()).sum() + softplus(negative, threshold=40.0).sum()) / n
    check(found, truth, [*leaves, bias])


def test_pairwise(naive) -> None:
    x, y, u, v = leaves_of(naive, 20)
    z = naive.rows(20, 5, 7).requires_grad_()
    options = {"critic": im.RBF(0.6), "weigh_positive": True}
    found = pairwise_infonce([x, y, z], temperature=0.2, log_weights=[u, v, None], **options)
    zero = torch.zeros(20, dtype=torch.float64)
    pairs = [(x, y, u, v), (x, z, u, zero), (y, z, v, zero)]
    truth = sum(symmetric(*p, tau=0.2, weight=0.0, **options) for p in pairs) / 3
    check(found, truth, [x, y, z, u, v])
    module = PairwiseInfoNCE(0.2, **options)
    assert module([x, y, z], log_weights=[u, v, None]) == found


def test_modules_are_the_functions(naive) -> None:
    x, y, u, v = (t.detach() for t in leaves_of(naive, 20))
    critic = im.RBF(0.5)
    weights = {"log_weights_x": u, "log_weights_y": v}
    options = {"temperature": 0.2, "critic": critic}
    assert SymmetricInfoNCE(**options, weigh_positive=True)(x, y, **weights) == symmetric_infonce(
        x, y, **options, weigh_positive=True, **weights
    )
    assert InfoNCE(**options, weigh_positive=True)(x, y, log_weights=v) == infonce(
        x, y, **options, weigh_positive=True, log_weights=v
    )
    fixed = SigmoidLoss(bias=-1.0, learn_temperature=False, learn_bias=False, **options)
    assert fixed(x, y, **weights) == sigmoid_loss(x, y, bias=-1.0, **options, **weights)


def test_constants_of_log_weights(naive) -> None:
    """One number added to all log-weights: log of the number of negatives, or nothing with the positive weighted."""
    x, y, u, v = (t.detach() for t in leaves_of(naive, 30))
    options = {"temperature": 0.1, "weigh_positive": True, "divergence_weight": 0.7}
    a = symmetric_infonce(x, y, log_weights_x=u, log_weights_y=v, **options)
    b = symmetric_infonce(x, y, log_weights_x=u + 3, log_weights_y=v - 2, **options)
    assert float(a) == pytest.approx(float(b), rel=1e-12)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"log_weights_x": torch.zeros(2)}, r"log_weights_x is torch.float32 of shape \(2,\)"),
        ({"log_weights_y": torch.zeros(3, dtype=torch.int64)}, "log_weights_y is torch.int64"),
        ({"log_weights_y": torch.tensor([0.0, math.nan, 0.0])}, "log_weights_y has NaN or"),
        ({"log_weights_y": torch.tensor([0.0, math.inf, 0.0])}, "log_weights_y has NaN or"),
        ({"log_weights_x": torch.tensor([-math.inf] * 3)}, "has no negative"),
        ({"log_weights_y": torch.tensor([0.0, -math.inf, -math.inf])}, "pair 0 has no negative"),
        ({"log_weights_y": torch.tensor([0.0, -math.inf, 0.0]), "weigh_positive": True}, "drop one of the two"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_log_weights_are_refused_in_one_line(kwargs, words: str) -> None:
    with pytest.raises(im.InputError, match=words) as caught:
        symmetric_infonce(torch.eye(3), torch.eye(3), temperature=0.1, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_more_bad_log_weights() -> None:
    x, more = torch.eye(3), torch.ones(2, 3)
    with pytest.raises(im.InputError, match="needs negatives"):
        infonce(x, x, temperature=0.1, negative_log_weights=torch.zeros(2))
    with pytest.raises(im.InputError, match=r"negative_log_weights has shape \(3,\)"):
        infonce(x, x, temperature=0.1, negatives=more, negative_log_weights=torch.zeros(3))
    with pytest.raises(im.InputError, match="2 entries for 3 modalities"):
        pairwise_infonce([x, x, x], temperature=0.1, log_weights=[None, None])
