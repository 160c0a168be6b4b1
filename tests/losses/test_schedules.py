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
    x = naive.unit(naive.rows(16, 4, 1) + torch.tensor([3.0, 0.0, 0.0, 0.0]))  # two opposite cones: Dsym is large
    y = -x
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


def test_controller_holds_a_noisy_divergence_at_its_target() -> None:
    """A plant as T11 has it: Dsym relaxes to a level that falls with lambda and is 0 beyond 3/4."""
    generator = torch.Generator().manual_seed(0)
    controller = DivergenceController(0.2, gain=0.02, maximum=2.0)
    divergence, history, weights = 1.0, [], []
    for _ in range(4000):
        level = max(0.0, 1.0 - controller.weight() / 0.75)
        divergence += 0.1 * (level - divergence)
        seen = divergence + 0.05 * torch.randn((), generator=generator).item()
        controller.advance(seen)
        history.append(seen)
        weights.append(controller.weight())
    # An integral controller's mean error over T steps is its net movement over gain T: at most 2/(0.02 * 2000).
    assert abs(sum(history[2000:]) / 2000 - 0.2) < 0.05 / 2000**0.5 * 4 + 0.002
    assert abs(sum(weights[2000:]) / 2000 - 0.6) < 0.02
    assert int(controller.steps_done) == 4000


def test_controller_stays_within_its_limits() -> None:
    controller = DivergenceController(0.0, gain=1.0, maximum=1.5)
    controller.advance(5.0)
    assert controller.weight() == 1.5
    controller.advance(-9.0)
    assert controller.weight() == 0.0
    controller.advance(math.nan)
    assert controller.weight() == 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearWarmup(1.0, steps=0),
        lambda: ConstantWeight(math.nan),
        lambda: DivergenceController(0.1, gain=-1.0),
        lambda: DivergenceController(-1.0),
        lambda: DivergenceController(0.1, start=3.0, maximum=2.0),
    ],
)
def test_bad_settings(make) -> None:
    with pytest.raises(im.InputError):
        make()
