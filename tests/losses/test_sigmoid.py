"""The sigmoid loss against its definition."""

import copy
import itertools
import math

import pytest
import torch

import infomech as im
from infomech.losses import SigmoidLoss, sigmoid_loss


@pytest.mark.parametrize("n", [2, 511, 1031])
def test_parity(naive, n: int) -> None:
    leaves = [naive.rows(n, 5, 1), naive.rows(n, 5, 2), torch.tensor(0.1).double(), torch.tensor(-3.0).double()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    results = []
    for loss in (
        lambda: naive.sigmoid(*leaves),
        lambda: sigmoid_loss(leaves[0], leaves[1], temperature=leaves[2], bias=leaves[3]),
    ):
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.backward()
        results.append((value.detach(), [leaf.grad for leaf in leaves]))
    assert abs(results[0][0] - results[1][0]) < 1e-12 * results[0][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert (a - b).norm() < 1e-11 * a.norm()


@pytest.mark.parametrize(("tau", "bias"), [(0.1, -10.0), (0.01, -10.0), (0.01, 20.0)])
def test_float32_accuracy(naive, tau: float, bias: float) -> None:
    x = naive.rows(600, 32, 1)
    y = naive.unit(x + 0.1 * naive.rows(600, 32, 2) * 32**0.5)
    single = [t.float().requires_grad_() for t in (x, y)]
    double = [t.detach().double().requires_grad_() for t in single]
    found, truth = sigmoid_loss(*single, temperature=tau, bias=bias), naive.sigmoid(*double, tau, bias)
    found.backward()
    truth.backward()
    # An entry deep in a tail is an exponential: its relative error is its score's absolute one.
    assert abs(found.double() - truth) <= max(1e-6, 2**-24 / tau) * truth
    for a, b in zip(single, double, strict=True):
        assert (a.grad.double() - b.grad).norm() <= 1e-5 * b.grad.norm()


def test_gradcheck_and_second_derivatives(naive) -> None:
    x, y = naive.rows(5, 3, 1).requires_grad_(), naive.rows(5, 3, 2).requires_grad_()
    tau, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, -1.0))
    torch.autograd.gradcheck(lambda a, b, t, c: sigmoid_loss(a, b, temperature=t, bias=c), (x, y, tau, bias))
    (gradient,) = torch.autograd.grad(sigmoid_loss(x, y, temperature=0.3, bias=0.0), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_module_learns_scale_and_bias(naive) -> None:
    loss = SigmoidLoss()
    x = naive.rows(8, 4, 1).float()
    loss(x, x).backward()
    assert loss.bias.grad.abs() > 0
    assert loss.log_scale.grad.abs() > 0
    assert math.isclose(loss.temperature.item(), 0.1, rel_tol=1e-6)
    frozen = SigmoidLoss(learn_temperature=False, learn_bias=False)
    assert not list(frozen.parameters())
    assert torch.equal(frozen(x, x), sigmoid_loss(x, x, temperature=0.1, bias=-10.0))


def test_bad_bias(naive) -> None:
    x = naive.rows(8, 4, 1)
    with pytest.raises(im.InputError, match="bias must be"):
        sigmoid_loss(x, x, temperature=0.1, bias=math.inf)


PAIRS = torch.tensor([[0, 0], [0, 3], [1, 1], [2, 2], [3, 4], [3, 5], [5, 6], [5, 0], [6, 6], [6, 11], [5, 0], [8, 9]])


def written(x, y, tau, bias, true, asked, counted_as, critic=None, u=None, v=None):
    """Every question by itself."""
    scores = (critic or im.Cosine()).pairwise(x, y) / tau + bias
    k, other = true.double().sum(1), true.double().sum(0)
    total = 0.0
    for i, j in itertools.product(range(len(x)), range(len(y))):
        if true[i, j]:
            weight = 1.0 if counted_as == "each" else (1 / k[i] + 1 / other[j]) / 2
            total = total + weight * torch.nn.functional.softplus(-scores[i, j])
        elif asked[i, j]:
            total = total + torch.nn.functional.softplus(scores[i, j] + (0 if u is None else u[i] + v[j]))
    return total / len(x)


@pytest.mark.parametrize("counted_as", ["each", "per_anchor"])
@pytest.mark.parametrize("kind", ["pairs", "positive", "pairs and groups", "groups"])
def test_several_true_pairs(naive, kind: str, counted_as: str) -> None:
    """m captions of n images: with critic, log-weights, and rows without a partner."""
    n, m = (9, 9) if kind == "groups" else (9, 13)
    x, y = 1.2 * naive.rows(n, 5, 1), naive.rows(m, 5, 2)
    u, v = naive.rows(1, n, 3)[0], naive.rows(1, m, 4)[0]
    leaves = [t.requires_grad_() for t in (x, y, torch.tensor(0.3).double(), torch.tensor(-2.0).double(), u, v)]
    of_x, of_y = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 6]), torch.tensor([0, 1, 1, 0, 3, 7, 1, 5, 5, 2, 2, 9, 0])[:m]
    same = of_x[:, None] == of_y[None, :]
    true, given, asked = torch.zeros(n, m, dtype=torch.bool), {}, torch.ones(n, m, dtype=torch.bool)
    if "pairs" in kind:
        true[PAIRS[:, 0], PAIRS[:, 1]] = True
        given["pairs"] = PAIRS
    elif kind == "groups":
        true[range(n), range(n)] = True
    if "groups" in kind:
        given["groups"], asked = (of_x, of_y), ~same
    if kind == "positive":
        given |= {"groups": (of_x, of_y), "same_group": "positive"}
        true = same
    results = []
    call = {"temperature": leaves[2], "bias": leaves[3], "critic": im.RBF(0.6), "log_weights_x": u, "log_weights_y": v}
    for loss in (
        lambda: sigmoid_loss(x, y, counted_as=counted_as, **call, **given),
        lambda: written(x, y, *leaves[2:4], true, asked, counted_as, im.RBF(0.6), u, v),
    ):
        value = loss()
        results.append((value.detach(), torch.autograd.grad(value, leaves)))
    assert abs(results[0][0] - results[1][0]) < 1e-12 * results[1][0]
    for a, b in zip(*(gradients for _, gradients in results), strict=True):
        assert (a - b).norm() < 1e-11 * max(b.norm(), 1e-3)


@pytest.mark.parametrize("counted_as", ["each", "per_anchor"])
def test_one_true_pair_each_is_the_plain_loss(naive, counted_as: str) -> None:
    x, y = naive.rows(9, 5, 1), naive.rows(9, 5, 2)
    call = {"temperature": 0.1, "bias": -3.0}
    plain, own = sigmoid_loss(x, y, **call), torch.arange(9)
    pairs = torch.stack([own, own], 1).flip(0)
    for given in ({"pairs": pairs}, {"groups": own, "same_group": "positive"}, {"groups": own}):
        assert sigmoid_loss(x, y, counted_as=counted_as, **given, **call).item() == pytest.approx(
            plain.item(), rel=1e-14
        )


def test_many_tiles_of_groups(naive) -> None:
    x, y = naive.rows(600, 5, 1).requires_grad_(), naive.rows(1031, 5, 2).requires_grad_()
    of_x, of_y = torch.arange(600) % 7, torch.arange(1031) % 5
    same = of_x[:, None] == of_y[None, :]
    scores = x @ y.mT / 0.2 - 1.0
    k, other = same.double().sum(1, keepdim=True), same.double().sum(0, keepdim=True)
    weights = torch.where(same, (1 / k.clamp(min=1) + 1 / other.clamp(min=1)) / 2, 1.0)
    truth = (weights * torch.nn.functional.softplus(torch.where(same, -scores, scores))).sum() / 600
    found = sigmoid_loss(
        x, y, temperature=0.2, bias=-1.0, groups=(of_x, of_y), same_group="positive", counted_as="per_anchor"
    )
    assert abs(found - truth) < 1e-11 * truth
    for a, b in zip(torch.autograd.grad(found, [x, y]), torch.autograd.grad(truth, [x, y]), strict=True):
        assert (a - b).norm() < 1e-11 * b.norm()


def test_the_module_takes_them(naive) -> None:
    x, y = naive.rows(9, 5, 1), naive.rows(13, 5, 2)
    groups = torch.arange(9) % 4, torch.arange(13) % 4
    fixed = {"temperature": 0.1, "bias": -10.0}
    frozen = {"learn_temperature": False, "learn_bias": False}
    loss = SigmoidLoss(counted_as="per_anchor", same_group="positive", **frozen).double()
    truth = sigmoid_loss(x, y, groups=groups, same_group="positive", counted_as="per_anchor", **fixed)
    assert torch.equal(copy.deepcopy(loss)(x, y, groups=groups), truth)
    loss = SigmoidLoss(counted_as="per_anchor", **frozen).double()
    assert torch.equal(loss(x, y, pairs=PAIRS), sigmoid_loss(x, y, pairs=PAIRS, counted_as="per_anchor", **fixed))
    assert set(loss.state_dict()) == {"bias"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pairs": torch.tensor([[0, 13]])}, "pairs points outside the 9 rows of x and 13 rows of y"),
        ({"pairs": torch.tensor([0, 1])}, r"pairs has shape \(2,\)"),
        ({"pairs": [[0, 1]]}, "pairs is a list"),
        ({}, "x has 9 rows and y has 13"),
        ({"groups": torch.arange(9), "same_group": "positive"}, r"groups of y has shape \(9,\)"),
        ({"same_group": "positive"}, "needs groups, and no pairs"),
        ({"pairs": PAIRS, "same_group": "positive"}, "needs groups, and no pairs"),
        ({"pairs": PAIRS, "counted_as": "twice"}, "counted_as is 'twice'"),
        ({"same_group": "apart"}, "same_group is 'apart'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_pairs(naive, given, words: str) -> None:
    with pytest.raises(im.InputError, match=words) as caught:
        sigmoid_loss(naive.rows(9, 5, 1), naive.rows(13, 5, 2), temperature=0.1, bias=0.0, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counted_as", ["each", "per_anchor"])
@pytest.mark.parametrize("kind", ["own", "left out", "pairs", "groups"])
def test_the_losses_of_rows(naive, monkeypatch, kind: str, counted_as: str) -> None:
    """A row's questions, summed: their gradients with any cotangents, and their sum and mean."""
    monkeypatch.setattr("infomech.reductions.losses.sigmoid.tile_shape", lambda device: (5, 4))
    x, y = naive.rows(11, 5, 1).requires_grad_(), naive.rows(11, 5, 2).requires_grad_()
    tau, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, -1.0))
    u = torch.linspace(-1, 1, 11, dtype=torch.float64).requires_grad_()
    of_x, of_y = torch.arange(11) % 4, torch.arange(11) % 5
    same, true = of_x[:, None] == of_y[None, :], torch.eye(11, dtype=torch.bool)
    given = {"temperature": tau, "bias": bias, "log_weights_x": u, "counted_as": counted_as}
    if kind == "pairs":
        true = true | true.roll(2, 1)
        given["pairs"] = true.nonzero()
    elif kind == "groups":
        true = same
        given |= {"groups": (of_x, of_y), "same_group": "positive"}
    elif kind == "left out":
        given["groups"] = (of_x, of_y)
    scores = x @ y.mT / tau + bias
    shares = (
        sum(1 / true.double().sum(k, keepdim=True).clamp(min=1) for k in (0, 1)) / 2
        if counted_as == "per_anchor"
        else 1.0
    )
    asked = torch.where(true, shares * torch.nn.functional.softplus(-scores), 0.0)
    others = ~true & ~same if kind == "left out" else ~true
    rest = torch.where(others, torch.nn.functional.softplus(scores + u[:, None]), 0.0)
    truth = (asked + rest).sum(1)
    found = sigmoid_loss(x, y, reduction="none", **given)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-13)
    pull = torch.linspace(-1, 2, 11, dtype=torch.float64)
    leaves = [x, y, tau, bias, u]
    for a, b in zip(torch.autograd.grad(pull @ found, leaves), torch.autograd.grad(pull @ truth, leaves), strict=True):
        assert (a - b).norm() <= 1e-11 * b.norm()
    assert sigmoid_loss(x, y, **given).item() == pytest.approx(found.mean().item(), rel=1e-12)
    assert sigmoid_loss(x, y, reduction="sum", **given).item() == pytest.approx(found.sum().item(), rel=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_reduction(naive) -> None:
    x = naive.rows(4, 5, 1)
    with pytest.raises(im.InputError, match="reduction is 'each'"):
        sigmoid_loss(x, x, temperature=0.1, bias=0.0, reduction="each")
    with pytest.raises(im.InputError, match="reduction is 'each'"):
        SigmoidLoss(reduction="each")
