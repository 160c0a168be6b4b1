"""Rows of any size: the value and the gradients are right, or one line says why not."""

import math

import pytest
import torch

import infomech as im
from infomech.integrations import LabelledInfoNCE, SentenceSymmetricInfoNCE
from infomech.losses import SymmetricInfoNCE, infonce, sigmoid_loss, symmetric_infonce

EPS = 2.0**-52


def gradients(value, leaves):
    return torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("norm", [1.0, 1e4, 1e8, 1e9, 1e10, 1e30, 1e100, 1e140])
@pytest.mark.parametrize("weight", [0.0, 0.75])
@pytest.mark.parametrize("n", [40, 600])
def test_value_and_gradients_against_double(naive, norm: float, weight: float, n: int) -> None:
    """A score of size S is known to S eps; a mean of differences of scores no better, nor its gradient's softmax.

    Random rows have no two scores within that of each other, so that the softmax is the same in both.
    """
    leaves = [(norm * naive.rows(n, 8, seed)).requires_grad_() for seed in (1, 2)]
    found = symmetric_infonce(*leaves, temperature=0.07, divergence_weight=weight)
    truth = naive.symmetric(*leaves, 0.07, weight)
    size = norm * norm / 0.07
    assert abs(found - truth) <= 64 * EPS * size + 1e-12
    for a, b in zip(gradients(found, leaves), gradients(truth, leaves), strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).norm() <= 1e-7 * norm / 0.07 / math.sqrt(n)


@pytest.mark.parametrize("norm", [1e3, 1e8, 1e9, 1e10, 1e100])
@pytest.mark.parametrize("weight", [0.0, 0.75])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ties_share_the_gradient(norm: float, weight: float, sign: float) -> None:
    """Collapse: n equal scores, each with the weight 1/n, however large they are; the gradients have a closed form."""
    n, tau = 700, 0.5
    one = torch.zeros(n, 3, dtype=torch.float64)
    one[:, 1] = norm
    x, y = one.clone().requires_grad_(), (sign * one).requires_grad_()
    value = symmetric_infonce(x, y, temperature=tau, divergence_weight=weight)
    # InfoNCE has none; Dsym is the mean of (x.x - x.y + y.y - y.x) / 2, with the mean of the others in each product.
    expected = weight * (1 - sign) * one / tau / n
    for found, wanted in zip(gradients(value, [x, y]), (expected, sign * expected), strict=True):
        assert (found - wanted).norm() <= 1e-10 * norm / tau / math.sqrt(n)


def test_float32_rows_whose_scores_leave_float32(naive) -> None:
    for norm in (1e16, 1e19, 1e25, 1e30, 1e35):
        x, y = ((norm * naive.rows(30, 6, seed)).float().requires_grad_() for seed in (1, 2))
        for a, b in ((x, x), (x, y)):
            truth = symmetric_infonce(a.double(), b.double(), temperature=0.07)
            if abs(truth) > 1e37:
                with pytest.raises(im.InputError, match="float32 does not hold"):
                    symmetric_infonce(a, b, temperature=0.07)
                continue
            found = symmetric_infonce(a, b, temperature=0.07)
            assert found.dtype == torch.float32
            assert abs(found - truth) <= 1e-5 * abs(truth)
            for grad in gradients(found, [a]):
                assert torch.isfinite(grad).all()


def test_other_losses_of_large_float32_rows(naive) -> None:
    x = (1e25 * naive.unit(naive.rows(20, 30, 1))).float()
    z, labels = x.clone(), torch.arange(20) % 4
    queue = (1e25 * naive.rows(7, 30, 3)).float()
    assert infonce(x, x, temperature=0.1) == 0
    assert torch.isfinite(infonce(x, x, temperature=0.1, negatives=queue))
    assert torch.isfinite(infonce(x, x, temperature=0.1, negatives=queue[:3].expand(20, 3, 30), in_batch=False))
    far = naive.unit(torch.eye(20, 30, dtype=torch.float64)).float() * 1e25
    assert sigmoid_loss(far, far, temperature=0.1, bias=0.0) == pytest.approx(19 * math.log(2), rel=1e-6)
    for norm in (1.0, 1e30):
        rows = (norm * naive.rows(20, 30, 5)).float()
        plain = naive.unit(rows.double())
        wanted = LabelledInfoNCE(0.1)(plain, labels)
        assert LabelledInfoNCE(0.1)(rows, labels) == pytest.approx(wanted.item(), rel=1e-5)
        pair = [{"sentence_embedding": rows}, {"sentence_embedding": rows.roll(1, 0)}]
        found = SentenceSymmetricInfoNCE(torch.nn.Identity())(pair)
        assert found == pytest.approx(symmetric_infonce(plain, plain.roll(1, 0), temperature=0.05).item(), rel=1e-5)
    assert z.equal(x)


@pytest.mark.parametrize(
    ("rows", "kwargs", "words"),
    [
        (1e200 * torch.eye(3, dtype=torch.float64), {}, "leave double precision"),
        (1e160 * torch.eye(3, dtype=torch.float64), {}, "leave double precision"),
        (torch.eye(3, dtype=torch.float64), {"temperature": 1e-320}, "leaves double precision"),
        (torch.eye(3), {"temperature": 1e-310}, "leaves double precision"),
        (torch.eye(3, dtype=torch.float64), {"temperature": None, "logit_scale": 1e-320}, "leaves double precision"),
        ((1e30 * torch.eye(3)).requires_grad_(), {"temperature": 1e-9}, "gradients that leave float32"),
        (1e30 * torch.eye(3), {"temperature": torch.tensor(0.1, requires_grad=True)}, "gradients that leave float32"),
        (1e30 * torch.eye(3), {"divergence_weight": -1e-3, "temperature": 1e-3}, None),
        (torch.eye(3), {"log_weights_x": torch.tensor([0.0, 0.0, 1e35])}, "NaN or .inf"),
    ],
)
def test_right_or_refused_in_one_line(rows, kwargs, words) -> None:
    call = {"temperature": 0.1, **kwargs}
    if words is None:
        assert torch.isfinite(symmetric_infonce(rows, rows, **call))
        return
    with pytest.raises(im.InputError, match=words) as caught:
        symmetric_infonce(rows, rows, **call)
    assert "\n" not in str(caught.value)
    assert "collapsed" not in str(caught.value)


@pytest.mark.parametrize("size", [1e308, 1e-300])
def test_weights_of_any_size(naive, size: float) -> None:
    x, y = (naive.rows(9, 4, seed).requires_grad_() for seed in (1, 2))
    weights = torch.linspace(0.1, 1.0, 9, dtype=torch.float64)
    truth = symmetric_infonce(x, y, temperature=0.1, weights=weights)
    found = symmetric_infonce(x, y, temperature=0.1, weights=weights * size)
    assert found.item() == pytest.approx(truth.item(), rel=1e-12)
    for a, b in zip(gradients(found, [x, y]), gradients(truth, [x, y]), strict=True):
        assert (a - b).norm() <= 1e-11 * b.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_normalize_takes_rows_of_any_length(naive, dtype: torch.dtype) -> None:
    x = naive.rows(12, 5, 1)
    for norm in (1e-6, 1.0, torch.finfo(dtype).max / 4):
        loss = SymmetricInfoNCE(0.2, 0.5, normalize=True)
        rows = (norm * x).to(dtype)
        unit = naive.unit(rows.double() / rows.double().abs().max())
        found = loss(rows, rows.roll(1, 0))
        truth = symmetric_infonce(unit, unit.roll(1, 0), temperature=0.2, divergence_weight=0.5)
        assert abs(found - truth) <= 8 * torch.finfo(dtype).eps * (1 + 1 / 0.2) + 1e-12
