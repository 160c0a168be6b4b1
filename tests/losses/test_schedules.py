"""Schedules of the divergence weight, alone and inside the loss."""

import math

import pytest
import torch

import infomech as im
from infomech.losses import (
    ConstantWeight,
    DivergenceController,
    LinearWarmup,
    SymmetricInfoNCE,
    symmetric_infonce,
    symmetric_terms,
)


def test_warmup_moves_in_training_mode_only(naive) -> None:
    x, y = naive.rows(16, 4, 1), naive.rows(16, 4, 2)
    loss = SymmetricInfoNCE(temperature=0.1, divergence_weight=LinearWarmup(1.0, steps=2))
    seen = [loss(x, y).item() for _ in range(4)]
    expected = [symmetric_infonce(x, y, temperature=0.1, divergence_weight=w).item() for w in (0.0, 0.5, 1.0, 1.0)]
    assert seen == expected
    fresh = SymmetricInfoNCE(temperature=0.1, divergence_weight=LinearWarmup(1.0, steps=2)).eval()
    assert [fresh(x, y).item() for _ in range(3)] == expected[:1] * 3


def test_state_survives_a_checkpoint(naive) -> None:
    x, y = naive.rows(16, 4, 1), -naive.rows(16, 4, 1)
    first = SymmetricInfoNCE(temperature=0.1, divergence_weight=DivergenceController(0.0, gain=0.02))
    for _ in range(3):
        first(x, y)
    second = SymmetricInfoNCE(temperature=0.1, divergence_weight=DivergenceController(0.0, gain=0.02))
    second.load_state_dict(first.state_dict())
    assert second(x, y) == first(x, y)
    assert first.divergence_weight.weight() > 0


def test_constant_is_a_number(naive) -> None:
    x, y = naive.rows(16, 4, 1), naive.rows(16, 4, 2)
    with_schedule = SymmetricInfoNCE(temperature=0.1, divergence_weight=ConstantWeight(0.5))(x, y)
    assert with_schedule == symmetric_infonce(x, y, temperature=0.1, divergence_weight=0.5)


def test_controller_holds_the_divergence_at_its_target(naive) -> None:
    """Two cones trained by the loss alone: Dsym settles at the target, where lambda = 0 leaves it far above."""
    target = 0.3
    start_x = naive.unit(naive.rows(48, 8, 1) + 3 * torch.eye(8, dtype=torch.float64)[0])
    start_y = naive.unit(naive.rows(48, 8, 2) - 3 * torch.eye(8, dtype=torch.float64)[0])

    def train(weight) -> list[float]:
        x, y = start_x.clone().requires_grad_(), start_y.clone().requires_grad_()
        loss = SymmetricInfoNCE(temperature=0.5, divergence_weight=weight)
        optimizer = torch.optim.SGD([x, y], lr=2.0)
        history = []
        for _ in range(600):
            optimizer.zero_grad()
            a, b = naive.unit(x), naive.unit(y[torch.arange(48).roll(1)])  # partners that cannot all be met
            loss(a, b).backward()
            optimizer.step()
            history.append(symmetric_terms(a.detach(), b.detach(), temperature=0.5).divergence.item())
        return history

    free = train(0.0)
    if abs(sum(free[-50:]) / 50 - target) < 0.05:
        pytest.fail("the uncontrolled run ends at the target by itself: this test would show nothing")
    controlled = train(DivergenceController(target, gain=0.02, maximum=2.0))
    assert abs(sum(controlled[-50:]) / 50 - target) < 0.05


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearWarmup(1.0, steps=0),
        lambda: ConstantWeight(math.nan),
        lambda: DivergenceController(0.1, gain=-1.0),
        lambda: DivergenceController(0.1, start=3.0, maximum=2.0),
    ],
)
def test_bad_settings(make) -> None:
    with pytest.raises(im.InputError):
        make()
