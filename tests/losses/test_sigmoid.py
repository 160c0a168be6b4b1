"""The sigmoid loss against its definition."""

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
