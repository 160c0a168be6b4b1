"""The temperature of a loss module: a number, or learned as log(1/tau)."""

import math

import torch
from torch import Tensor, nn

from .._checks import InputError, check_temperature

CLIP_RANGE = (0.01, 1.0)  # of tau: CLIP clamps log(1/tau) to [0, log 100]


class TemperedLoss(nn.Module):
    """A loss module with a temperature; the base of the losses of this package.

    Args:
        temperature: tau, or where a learned one starts.
        learn_temperature: learn ``log_scale`` = log(1/tau).
        limits: smallest and largest tau of a learned temperature, None for no limits. The parameter is clamped in
            place before every use, so that it keeps its gradient at either end.
    """

    def __init__(
        self, temperature: float, *, learn_temperature: bool, limits: tuple[float, float] | None = CLIP_RANGE
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if learn_temperature and limits is not None and not limits[0] <= temperature <= limits[1]:
            raise InputError(
                f"temperature is {temperature}; a learned one is kept within [{limits[0]}, {limits[1]}]: start it there"
            )
        self.initial_temperature = float(temperature)
        self.limits = limits
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None

    @property
    def temperature(self) -> float | Tensor:
        """The tau as it is used now: a number, or a tensor with a gradient if it is learned."""
        if self.log_scale is None:
            return self.initial_temperature
        if self.limits is not None:
            with torch.no_grad():
                self.log_scale.clamp_(-math.log(self.limits[1]), -math.log(self.limits[0]))
        return torch.exp(-self.log_scale)

    def extra_repr(self) -> str:
        """The temperature, for the printed form of the module."""
        if self.log_scale is None:
            return f"temperature={self.initial_temperature:.4g}"
        return f"temperature={float(torch.exp(-self.log_scale.detach())):.4g}, learned"


__all__ = ["TemperedLoss"]
