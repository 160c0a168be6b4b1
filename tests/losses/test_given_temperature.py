"""A temperature that a call of a module brings, a model's parameter say; and numbers that are none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import infomech as im
from infomech.integrations import (
    LabelledInfoNCE,
    SentenceSymmetricInfoNCE,
    TrainerLoss,
    TwoViewInfoNCE,
)
from infomech.losses import (
    InfoNCE,
    LinearWarmup,
    MatryoshkaInfoNCE,
    PairwiseInfoNCE,
    SigmoidLoss,
    SymmetricInfoNCE,
    infonce,
    matryoshka_infonce,
    pairwise_infonce,
    sigmoid_loss,
    symmetric_infonce,
)

FIXED = {"learn_temperature": False, "learn_bias": False}
LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "symmetric": (SymmetricInfoNCE, symmetric_infonce),
    "directed": (InfoNCE, infonce),
    "sigmoid": (lambda **k: SigmoidLoss(**{**FIXED, **k}), lambda x, y, **k: sigmoid_loss(x, y, bias=-10.0, **k)),
    "pairwise": (
        lambda **k: (lambda loss: lambda x, y, **g: loss([x, y], **g))(PairwiseInfoNCE(**k)),
        lambda x, y, **k: pairwise_infonce([x, y], **k),
    ),
    "lengths": (
        lambda **k: MatryoshkaInfoNCE((4, 2), **k),
        lambda x, y, **k: matryoshka_infonce(x, y, dims=(4, 2), **k),
    ),
}
any_loss = pytest.mark.parametrize("name", LOSSES)


def scale_of(value: float = 8.0) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@any_loss
@pytest.mark.parametrize("given", ["temperature", "logit_scale"])
@pytest.mark.parametrize("mode", ["always", "first", "never"])
def test_the_call_s_takes_the_place_of_the_module_s(naive, name: str, given: str, mode: str) -> None:
    make, function = LOSSES[name]
    x, y, loss = naive.rows(9, 4, 1), naive.rows(9, 4, 2), make(temperature=0.3, check=mode)
    one, two = scale_of(8.0 if given == "logit_scale" else 0.125), scale_of(8.0 if given == "logit_scale" else 0.125)
    found, truth = loss(x, y, **{given: one}), function(x, y, **{given: two})
    assert torch.equal(found, truth)
    assert torch.equal(*(torch.autograd.grad(v, t)[0] for v, t in ((found, one), (truth, two))))
    assert torch.equal(loss(x, y, **{given: float(one.detach())}), truth)
    assert torch.equal(loss(x, y), function(x, y, temperature=0.3))  # of that call alone


@any_loss
@pytest.mark.usefixtures("unchecked")
def test_a_module_that_learns_its_own_is_given_none(naive, name: str) -> None:
    make, _ = LOSSES[name]
    x, y = naive.rows(9, 4, 1), naive.rows(9, 4, 2)
    learned = make(learn_temperature=True)
    for given in ("temperature", "logit_scale"):
        with pytest.raises(im.InputError, match=r"learns its own temperature.* learn_temperature=False") as caught:
            learned(x, y, **{given: 0.5})
        assert "\n" not in str(caught.value)
    assert learned(x, y).isfinite()
    with pytest.raises(im.InputError, match="either temperature= or logit_scale="):
        make()(x, y, temperature=0.1, logit_scale=10.0)
    with pytest.raises(im.InputError, match="temperature is -1"):
        make()(x, y, temperature=-1.0)


@pytest.mark.parametrize("state", ["queue", "both queues", "warm-up"])
def test_a_state_goes_on_with_a_model_s_scale(naive, state: str) -> None:
    """Two steps, against the functions with what the state is to hold by then."""
    loss = {
        "queue": InfoNCE(queue_size=6, dim=4),
        "both queues": SymmetricInfoNCE(queue_size=6, dim=4),
        "warm-up": SymmetricInfoNCE(divergence_weight=LinearWarmup(1.0, steps=1)),
    }[state].double()
    x_before: Tensor | None = None
    y_before: Tensor | None = None
    for k in range(2):
        x, y, log_scale, twin = naive.rows(6, 4, k), naive.rows(6, 4, k + 9), scale_of(2.0), scale_of(2.0)
        value, given = loss(x, y, logit_scale=log_scale.exp()), {"logit_scale": twin.exp()}
        if state == "queue":
            truth = infonce(x, y, negatives=y_before, **given)
        elif state == "both queues":
            truth = symmetric_infonce(x, y, negatives_x=x_before, negatives_y=y_before, **given)
        else:
            truth = symmetric_infonce(x, y, divergence_weight=float(k), **given)
        value.backward()
        truth.backward()
        assert value.item() == pytest.approx(truth.item(), rel=1e-12)
        assert log_scale.grad is not None
        assert twin.grad is not None
        assert log_scale.grad.item() == pytest.approx(twin.grad.item(), rel=1e-10)
        x_before, y_before = x, y


def test_a_bias_of_the_call(naive) -> None:
    x, y, bias = naive.rows(9, 4, 1), naive.rows(9, 4, 2), scale_of(-3.0)
    found = SigmoidLoss(**FIXED)(x, y, logit_scale=8.0, bias=bias)
    truth = sigmoid_loss(x, y, logit_scale=8.0, bias=-3.0)
    assert torch.equal(found, truth)
    assert torch.autograd.grad(found, bias)[0] != 0
    with pytest.raises(im.InputError, match="learns its own bias, and is given one: make it with learn_bias=False"):
        SigmoidLoss(learn_temperature=False)(x, y, bias=bias)


@pytest.mark.parametrize("name", ["symmetric", "directed", "sigmoid", "lengths"])
def test_a_trainer_takes_modules_with_the_model_s_scale(naive, name: str) -> None:
    """As docs/choose-a-loss.md writes it."""
    make, function = LOSSES[name]
    x, y = naive.rows(9, 4, 1), naive.rows(9, 4, 2)
    log_scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    value = TrainerLoss(make(), log_scale=log_scale)({"image_embeds": x, "text_embeds": y}, None)
    value.backward()
    assert torch.equal(value, function(x, y, logit_scale=log_scale.exp()))
    assert log_scale.grad is not None
    assert log_scale.grad != 0
    with pytest.raises(im.InputError, match="learns its own temperature, and is given one"):
        TrainerLoss(make(learn_temperature=True), log_scale=log_scale)


@pytest.mark.parametrize("loss", [SigmoidLoss(**FIXED), sigmoid_loss])
def test_a_trainer_takes_siglip_s_scale_and_bias(naive, loss) -> None:
    x, y = naive.rows(9, 4, 1), naive.rows(9, 4, 2)
    of_model = [torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (2.0, -5.0)]
    value = TrainerLoss(loss, log_scale=of_model[0], bias=of_model[1])({"image_embeds": x, "text_embeds": y}, None)
    assert torch.equal(value, sigmoid_loss(x, y, logit_scale=of_model[0].exp(), bias=of_model[1]))
    value.backward()
    assert all(p.grad is not None and p.grad != 0 for p in of_model)
    with pytest.raises(im.InputError, match="learns its own bias"):
        TrainerLoss(SigmoidLoss(learn_temperature=False), bias=of_model[1])


@any_loss
@pytest.mark.parametrize("given", [{"temperature": 14.0}, {"temperature": 100.0}, {"logit_scale": 0.07}])
@pytest.mark.usefixtures("unchecked")
def test_a_logit_scale_is_no_temperature(naive, name: str, given: dict[str, float]) -> None:
    """Of cosines: at once where the loss makes them, at the first call where the rows are seen to be unit rows."""
    make, _ = LOSSES[name]
    x, y = naive.rows(9, 4, 1), naive.rows(9, 4, 2)
    words = r"is one given as the other\? CLIP starts at 0.07 and 14"
    for fails in (lambda: make(**given)(x, y), lambda: make()(x, y, **given)):
        for _ in range(2):
            with pytest.raises(im.InputError, match=words) as caught:
                fails()
            assert "\n" not in str(caught.value)
    if name == "lengths":
        return
    with pytest.raises(im.InputError, match=words):
        make(normalize=True, **given)
    assert make(critic=im.RBF(1.0), **given)(x, y).isfinite()
    with pytest.warns(UserWarning, match="rows of length"):
        assert make(**given)(20 * x, y).isfinite()  # products of long rows may have any
    assert make(temperature=9.0)(x, y).isfinite()


@pytest.mark.usefixtures("unchecked")
def test_what_a_failed_call_saw_is_not_remembered(naive) -> None:
    x, y = naive.rows(9, 4, 1), naive.rows(9, 4, 2)
    loss = SymmetricInfoNCE(temperature=100.0)
    for _ in range(2):
        with pytest.raises(im.InputError, match="is one given as the other"):
            loss(x, y)
    loss = SymmetricInfoNCE()
    with pytest.raises(im.InputError):
        loss(x[0], y[0])
    with pytest.warns(UserWarning, match="rows of length"):
        assert loss(20 * x, y, temperature=100.0).isfinite()


@pytest.mark.usefixtures("unchecked")
def test_adapters_know_cosines() -> None:
    for make in (lambda: TwoViewInfoNCE(14.0), lambda: LabelledInfoNCE(100.0),
                 lambda: SentenceSymmetricInfoNCE(torch.nn.Identity(), scale=0.05)):  # fmt: skip
        with pytest.raises(im.InputError, match="is one given as the other"):
            make()


def test_a_tensor_on_a_card_is_not_read() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(9, 4, device="cuda")
        scale = torch.empty((), device="cuda")
        with torch.no_grad():
            value = SymmetricInfoNCE(normalize=True)(x, x, logit_scale=scale)
        assert value.device.type == "cuda"
