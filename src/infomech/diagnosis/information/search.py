"""Where the loss is lowest over the temperature: a pilot for the range, then interpolation between a few of them (E12).

InfoNCE is convex in 1 / tau: it has one minimum, inside the range, or at an end of it where the scores tell pairs from
others not at all (the best temperature is infinite) or without any error (it is 0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .anchors import BOTH, Anchors, Side

Where = Literal["inside", "highest", "lowest"]

NODES = 8  # temperatures of a sweep
STEP = math.log(2) / 2  # between two of them, in log tau: two chains in which each is half the one before
_PILOT_ANCHORS, _PILOT_BATCHES = 256, 4
_RANGE = 64.0  # the search ends at so many times the standard deviation of the scores, and at that part of it
_HALVINGS = 9
_FINE, _POLISH = 32, 4  # places tried between two nodes; steps of Newton's method after that


def pilot_temperature(anchors: Anchors, negatives: int, *, sides: Sequence[Side] = BOTH) -> tuple[float, Where]:
    """About where some hundred anchors, each with up to four batches, have their lowest loss; good to a few percent.

    Source: E12.
    """
    return lowest_temperature([_pilot_scores(anchors, negatives, side) for side in sides])


def lowest_temperature(scores: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, Where]:
    """The same from scores of anchors with their partners, (a,), and with those of some batches, (a, w, n)."""
    spread = max(float(others[others > -math.inf].std()) for _, others in scores)
    low, high = 1 / (_RANGE * spread), _RANGE / spread  # of 1 / tau
    if _slope(scores, low) >= 0:
        return 1 / low, "highest"
    if _slope(scores, high) <= 0:
        return 1 / high, "lowest"
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _slope(scores, middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high), "inside"


def _pilot_scores(anchors: Anchors, negatives: int, side: Side) -> tuple[Float[Tensor, " a"], Float[Tensor, "a w n"]]:
    """Scores of some anchors with their partners, and with the groups of a few batches; -inf for their own group."""
    sample = anchors.batches.sample
    mine = "xy".index(side[0])
    step = max(1, len(anchors.pairs) // _PILOT_ANCHORS)
    pairs = anchors.pairs[::step][:_PILOT_ANCHORS]
    own = sample.pair_groups[pairs]
    batches = max(1, min(_PILOT_BATCHES, sample.groups // negatives))
    columns = min(batches * negatives, sample.groups)
    rows = sample.pairs[pairs, mine]
    values = (sample.x, sample.y)[mine].values[rows]
    terms = anchors.terms(side, rows)
    scores = terms.slope * (values @ anchors.lent_rows(side, columns).T).double()
    if terms.x is not None:
        scores += terms.x[:, None]
    if terms.y is not None:
        scores += terms.y[:columns]
    inside = own < columns
    scores[inside, own[inside]] = -math.inf
    return anchors.scores[::step][: len(pairs)], scores.unflatten(1, (batches, -1)) if batches > 1 else scores[:, None]


def _slope(scores: Sequence[tuple[Tensor, Tensor]], inverse: float) -> float:
    """Derivative of the mean loss by 1 / tau."""
    found = []
    for own, others in scores:
        both = torch.cat([own[:, None, None].expand(-1, others.shape[1], 1), others], 2)
        share = torch.softmax(inverse * both, 2)
        found.append(float((share * both.where(share > 0, 0.0)).sum(2).mean() - own.mean()))
    return sum(found)


@dataclass(frozen=True)
class Grid:
    """Temperatures in the ratio of the square root of 2, and the polynomial in log tau through values at them."""

    temperatures: tuple[float, ...]

    @classmethod
    def around(cls, temperature: float, *, aligned: float | None = None) -> "Grid":
        """Eight, around one; among them, where it lies in their range, the one that they are to be aligned with."""
        middle = math.log(temperature)
        if aligned is not None:
            middle = math.log(aligned) + STEP * (round((middle - math.log(aligned)) / STEP - 0.5) + 0.5)
        return cls(tuple(math.exp(middle + STEP * (k - (NODES - 1) / 2)) for k in range(NODES)))

    @cached_property
    def logs(self) -> Float[Tensor, " t"]:
        """Log tau of each."""
        return torch.tensor(self.temperatures, dtype=torch.float64).log()

    @cached_property
    def _coefficients(self) -> Float[Tensor, "t t"]:
        """Of the powers of the scaled log tau, for a value of 1 at one node and 0 at the others."""
        inverse: Tensor = torch.linalg.inv(torch.vander(self._scaled(self.logs), increasing=True))
        return inverse

    def _scaled(self, logs: Tensor) -> Tensor:
        return (logs - self.logs.mean()) / (self.logs[-1] - self.logs[0]) * 2

    def weights(self, log_tau: float, derivative: int = 0) -> Float[Tensor, " t"]:
        """Weights of the values at the nodes for the value at log tau, or for a derivative by it."""
        z = self._scaled(torch.tensor(log_tau, dtype=torch.float64))
        count = len(self.temperatures)
        powers = torch.zeros(count, dtype=torch.float64)
        for k in range(derivative, count):
            powers[k] = math.perm(k, derivative) * z ** (k - derivative)
        scale = 2 / float(self.logs[-1] - self.logs[0])
        found: Tensor = (powers @ self._coefficients) * scale**derivative
        return found

    def lowest(self, values: Float[Tensor, " t"]) -> float:
        """Log tau at which the polynomial through the values is lowest, within the range of the nodes."""
        values = values.cpu()
        tried, table = self._tried
        at = int((table @ values).argmin())
        if at in (0, len(tried) - 1):
            return tried[at]
        u = tried[at]
        for _ in range(_POLISH):
            slope, bend = (float(self.weights(u, k) @ values) for k in (1, 2))
            if bend <= 0:
                break
            u = min(max(u - slope / bend, tried[at - 1]), tried[at + 1])
        return u

    @cached_property
    def _tried(self) -> tuple[list[float], Float[Tensor, "u t"]]:
        """Places that are tried first, and the weights there."""
        count = _FINE * (len(self.logs) - 1) + 1
        tried = torch.linspace(float(self.logs[0]), float(self.logs[-1]), count, dtype=torch.float64)
        powers = torch.vander(self._scaled(tried), len(self.logs), increasing=True)
        return tried.tolist(), powers @ self._coefficients

    def inside(self, log_tau: float) -> bool:
        """Whether interpolation is good there: between the second node and the last but one."""
        return float(self.logs[1]) <= log_tau <= float(self.logs[-2])


__all__ = ["NODES", "STEP", "Grid", "Where", "lowest_temperature", "pilot_temperature"]
