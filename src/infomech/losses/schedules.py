"""How the divergence weight lambda moves during training: constant, linear warm-up, or held by a controller."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .._checks import InputError


class WeightSchedule(nn.Module, ABC):
    """A divergence weight that changes with the steps; its state travels in the `state_dict` of the loss."""

    steps_done: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def weight(self) -> float:
        """The lambda of the step to come."""

    def weight_tensor(self) -> Tensor:
        """The same as a tensor, computed without a look at the state's values: what compiled code uses."""
        return torch.full((), self.weight(), dtype=torch.float64)

    def advance(self, divergence: float | None) -> None:
        """One training step is done, on a batch of this Dsym (None if it was not computed)."""
        self.steps_done += 1


class ConstantWeight(WeightSchedule):
    """lambda stays at one value.

    >>> ConstantWeight(0.75).weight()
    0.75
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = _finite(value, "value")

    def weight(self) -> float:  # noqa: D102
        return self.value


class LinearWarmup(WeightSchedule):
    """lambda goes from `start` to `value` in a straight line over `steps` training steps, and stays there.

    Args:
        value: the final lambda.
        steps: length of the warm-up, in calls of the loss in training mode, or in steps of the optimizer that the loss
            follows (`SymmetricInfoNCE.follow`).
        start: the first lambda.

    >>> warmup = LinearWarmup(0.8, steps=4)
    >>> weights = []
    >>> for _ in range(6):
    ...     weights.append(round(warmup.weight(), 3))
    ...     warmup.advance(None)
    >>> weights
    [0.0, 0.2, 0.4, 0.6, 0.8, 0.8]
    """

    def __init__(self, value: float, *, steps: int, start: float = 0.0) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"steps is {steps}; a warm-up takes one step or more")
        self.value, self.start, self.steps = _finite(value, "value"), _finite(start, "start"), steps

    def weight(self) -> float:  # noqa: D102
        return self.start + (self.value - self.start) * min(1.0, int(self.steps_done) / self.steps)

    def weight_tensor(self) -> Tensor:  # noqa: D102
        return self.start + (self.value - self.start) * (self.steps_done.double() / self.steps).clamp(max=1.0)


class DivergenceController(WeightSchedule):
    """lambda holds the batch's Dsym at a target: an integral controller.

        lambda <- clip(lambda + gain (Dsym - target), 0, maximum), after every training step

    Dsym falls as lambda rises (T11: sharply so around 3/4), so that the feedback is negative. The batch's Dsym is
    noisy, and the integral averages over about 1/gain steps; a gain above the encoder's own rate of change oscillates.

    Args:
        target: the Dsym to hold, in nats; 0 closes the gap as far as `maximum` allows. The sums leave the anchor out,
            so a batch of matched marginals has a Dsym whose mean is not exactly 0: it may be slightly negative.
        gain: of lambda per nat and step.
        start: the first lambda.
        maximum: the largest lambda allowed.

    >>> controller = DivergenceController(0.1, gain=0.5)
    >>> controller.advance(0.5)
    >>> round(controller.weight(), 3)
    0.2
    """

    current: Tensor

    def __init__(self, target: float, *, gain: float = 0.01, start: float = 0.0, maximum: float = 2.0) -> None:
        super().__init__()
        if not (math.isfinite(gain) and gain > 0):
            raise InputError(f"gain is {gain}; it must be a finite number above 0 (lambda rises while the gap is wide)")
        if not _finite(target, "target") >= 0:
            raise InputError(f"target is {target}; it is the divergence to hold, in nats, 0 or more")
        if not 0.0 <= start <= maximum < math.inf:
            raise InputError(f"start is {start} and maximum {maximum}; expected 0 <= start <= maximum")
        self.target, self.gain, self.maximum = float(target), gain, maximum
        self.register_buffer("current", torch.tensor(float(start), dtype=torch.float64))

    def weight(self) -> float:  # noqa: D102
        return float(self.current)

    def weight_tensor(self) -> Tensor:  # noqa: D102
        return self.current.clone()

    def advance(self, divergence: float | None) -> None:  # noqa: D102
        super().advance(divergence)
        if divergence is not None and math.isfinite(divergence):
            moved = float(self.current) + self.gain * (divergence - self.target)
            self.current.fill_(min(self.maximum, max(0.0, moved)))


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}; it must be a finite number")
    return float(value)


__all__ = ["ConstantWeight", "DivergenceController", "LinearWarmup", "WeightSchedule"]
