"""What a loss carries from step to step: nothing moves that a backward may compute again."""

import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from infomech.losses import DivergenceController, InfoNCE, LinearWarmup, SigmoidLoss, SymmetricInfoNCE

REENTRANT = pytest.mark.parametrize("reentrant", [True, False])


def opposite(naive, seed: int):
    """Two cones, whose Dsym is large."""
    x = naive.unit(naive.rows(12, 4, seed) + torch.tensor([2.0, 0.0, 0.0, 0.0]))
    return x, -x.roll(1, 0)


def make(kind: str):
    torch.manual_seed(0)
    return {
        "clamp": lambda: SymmetricInfoNCE(0.011, 0.5, learn_temperature=True),
        "warm-up": lambda: SymmetricInfoNCE(0.2, LinearWarmup(1.0, steps=4)),
        "controller": lambda: SymmetricInfoNCE(0.2, DivergenceController(0.1, gain=0.05), learn_temperature=True),
        "queue": lambda: InfoNCE(0.2, queue_size=30, dim=4, learn_temperature=True),
        "both queues": lambda: SymmetricInfoNCE(0.2, LinearWarmup(1.0, steps=4), True, queue_size=30, dim=4),
    }[kind]().double()


KINDS = ["clamp", "warm-up", "controller", "queue", "both queues"]


def state(loss):
    return {name: value.clone() for name, value in loss.state_dict().items()}


def same_state(one, two) -> bool:
    return all(torch.allclose(one[name].double(), two[name].double(), rtol=1e-12) for name in one)


def train(loss, batches, call, *, steps=4, penalty=False):
    """Some steps on a linear encoder; the gradients of every step."""
    encoder = torch.nn.Linear(4, 4).double()
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(4))
        encoder.bias.zero_()
    optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.05)
    gradients = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        if penalty:
            total = 0.1 * loss.log_scale.square()  # saved before the loss looks at it
        for x, y in batches:
            total = total + call(encoder, loss, x, y)
        total.backward()
        gradients += [p.grad.clone() for p in (*encoder.parameters(), *loss.parameters())]
        optimizer.step()
    return gradients


def plainly(encoder, loss, x, y):
    return loss(torch.nn.functional.normalize(encoder(x), dim=1), y)


@REENTRANT
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("calls", "whole"),
    [(1, True), (2, False), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((1, False), (2, True)))],
)
def test_checkpointing_changes_nothing(naive, kind: str, reentrant: bool, calls: int, whole: bool) -> None:
    """`whole`: encoder and loss are computed again; else the loss alone. `calls` in one graph."""
    batches = [tuple(z.clone().requires_grad_() for z in opposite(naive, seed)) for seed in range(calls)]

    def checkpointed(encoder, loss, x, y):
        if whole:
            return checkpoint(lambda a, b: plainly(encoder, loss, a, b), x, y, use_reentrant=reentrant)
        return checkpoint(loss, torch.nn.functional.normalize(encoder(x), dim=1), y, use_reentrant=reentrant)

    ours, plain = make(kind), make(kind)
    penalty = kind != "warm-up"
    found, truth = (
        train(loss, batches, call, penalty=penalty) for loss, call in ((ours, checkpointed), (plain, plainly))
    )
    for a, b in zip(found, truth, strict=True):
        assert (a - b).norm() <= 1e-12 * max(1.0, b.norm())
    assert same_state(state(ours), state(plain))
    if kind == "warm-up":
        assert int(ours.divergence_weight.steps_done) == 4 * calls
    if kind == "queue":
        assert int(ours.queue.count) == 4 * 12 * calls
    if kind == "both queues":
        assert int(ours.queue_x.count) == int(ours.queue_y.count) == 4 * 12 * calls


@pytest.mark.parametrize("lr", [0.05, 10.0])
def test_a_penalty_on_the_temperature(naive, lr: float) -> None:
    x, y = naive.rows(20, 6, 1), naive.rows(20, 6, 2)
    loss = SymmetricInfoNCE(0.011, 0.5, learn_temperature=True).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=lr)
    for _ in range(6):
        before = loss.log_scale.square()
        total = loss(x, x) + before + loss.log_scale.square() + loss.temperature
        optimizer.zero_grad()
        total.backward()
        at = loss.log_scale.detach()
        optimizer.step()
        assert torch.isfinite(at)
        assert 0.01 * (1 - 1e-9) <= loss.temperature.item() <= 1 + 1e-9
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    before = loss.log_scale.square()
    (before + loss(x, y)).backward()
    assert loss.log_scale.item() == pytest.approx(4.605, abs=1e-3)  # brought back before the step


def test_a_forward_leaves_the_parameter_alone(naive) -> None:
    loss = SymmetricInfoNCE(0.02, learn_temperature=True).double()
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    version = loss.log_scale._version
    value = loss(naive.rows(9, 4, 1), naive.rows(9, 4, 2))
    assert loss.log_scale._version == version
    assert loss.temperature.item() == pytest.approx(0.01, rel=1e-12)
    (slope,) = torch.autograd.grad(value, loss.log_scale)
    assert slope != 0


@pytest.mark.parametrize("kind", ["warm-up", "controller", "queue", "both queues"])
def test_open_calls_see_one_state(naive, kind: str) -> None:
    x, y = (z.requires_grad_() for z in opposite(naive, 1))
    loss = make(kind)
    first = loss(x, y)
    second = loss(x, y)
    assert torch.equal(first, second)
    (first + second).backward()
    assert not torch.equal(loss(x, y), first)


@pytest.mark.parametrize("kind", ["warm-up", "controller", "queue", "both queues"])
def test_a_graph_that_is_dropped_holds_nothing_back(naive, kind: str) -> None:
    x, y = (z.requires_grad_() for z in opposite(naive, 1))
    loss = make(kind)
    values = [loss(x, y).item() for _ in range(3)]
    assert len(set(values)) == 3


@pytest.mark.parametrize("kind", ["warm-up", "controller", "queue", "both queues"])
def test_without_gradients_and_in_evaluation(naive, kind: str) -> None:
    x, y = opposite(naive, 1)
    loss = make(kind)
    with torch.no_grad():
        assert loss(x, y) != loss(x, y)
    loss.eval()
    before = state(loss)
    loss(x.requires_grad_(), y).backward()
    assert same_state(state(loss), before)


def test_accumulated_batches_are_one_step(naive) -> None:
    batches = [opposite(naive, seed) for seed in range(3)]
    loss = SymmetricInfoNCE(0.2, DivergenceController(0.1, gain=0.05)).double()
    encoder = torch.nn.Linear(4, 4).double()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    loss.follow(optimizer)
    queue = InfoNCE(0.2, queue_size=50, dim=4).double()
    queue.follow(optimizer)
    for step in range(1, 3):
        for x, y in batches:
            z = torch.nn.functional.normalize(encoder(x), dim=1)
            before = loss.divergence_weight.weight()
            (loss(z, y) + queue(z, y)).backward()
            assert loss.divergence_weight.weight() == before
        optimizer.step()
        optimizer.zero_grad()
        assert int(loss.divergence_weight.steps_done) == step
        assert int(queue.queue.count) == 36 * step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_copies(naive, kind: str, how) -> None:
    x, y = (z.requires_grad_() for z in opposite(naive, 1))
    loss = make(kind)
    loss(x, y).backward()
    open_call = loss(x, y)  # a copy has no graphs: what is still to come counts as done
    twin = how(loss)
    open_call.backward()
    assert torch.equal(twin(x, y), loss(x, y))


def test_sigmoid_has_no_state() -> None:
    assert set(SigmoidLoss().state_dict()) == {"log_scale", "bias"}
