"""A claim as a measurement that can fail: what is stated, what it predicts, what was measured, and the verdict.

A module of checks gathers functions ``check(seed, *, ...) -> Outcome`` in a tuple ``CHECKS``. Whatever a claim states
(a sign, a rate, a constant, a minimiser) is a keyword argument of its check with the stated value as its default, so
that a test can pass a wrong statement into the very same check and see it rejected.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..._checks import InputError

Relation = Literal["=", "<=", ">="]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One number that a claim predicts, beside the one that was measured.

    Args:
        quantity: what was measured, in a few words, with units if it has any.
        predicted: the stated value, or the bound.
        measured: the value found.
        error: half the width of the measurement's interval: a derived numerical tolerance, or a multiple (said in
            `source`) of the standard error. A bound must hold for the whole interval.
        relation: "=" the interval must hold the prediction; "<=" and ">=" the measurement must lie on that side of it.
        source: where the error comes from: "95% interval over 20 draws", "second differences, h = 1e-4", ...

    >>> Evidence("slope", -1.0, -0.98, 0.05, source="95% interval").holds
    True
    >>> Evidence("slope", -0.5, -0.98, 0.05, source="95% interval").holds
    False
    """

    quantity: str
    predicted: float
    measured: float
    error: float
    relation: Relation = "="
    source: str = ""

    @property
    def holds(self) -> bool:
        """Whether the measurement agrees with the prediction; False for anything that is not a finite number."""
        if not all(math.isfinite(v) for v in (self.predicted, self.measured, self.error)) or self.error < 0:
            return False
        if self.relation == "=":
            return abs(self.measured - self.predicted) <= self.error
        if self.relation == "<=":
            return self.measured + self.error <= self.predicted
        return self.measured - self.error >= self.predicted

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a number that is not finite is None."""
        numbers = {"predicted": self.predicted, "measured": self.measured, "error": self.error}
        return {
            "quantity": self.quantity,
            "relation": self.relation,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "source": self.source,
            "holds": self.holds,
        }


@dataclass(frozen=True)
class Series:
    """A curve or a set of points with error bars, as plain numbers."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    line: bool = True  # joined by a line; otherwise markers only


@dataclass(frozen=True)
class Picture:
    """One pair of axes of a claim's figure."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a check returns: its evidence, the headline first, and pictures."""

    evidence: tuple[Evidence, ...]
    pictures: tuple[Picture, ...] = ()


Check = Callable[[int], Outcome]


@dataclass(frozen=True)
class Claim:
    """A tag of the theory, its statement in a line, and the check that measures it."""

    tag: str
    statement: str
    check: Check


@dataclass(frozen=True)
class ClaimResult:
    """A claim after its check.

    Args:
        tag: T1 to T13, or C1, E1.
        statement: the claim in a line.
        evidence: at least one; the verdict is that all hold.
        pictures: for `plot_claims`.
        seed: the seed that was used.
        seconds: wall time of the check.
    """

    tag: str
    statement: str
    evidence: tuple[Evidence, ...]
    pictures: tuple[Picture, ...] = field(repr=False)
    seed: int
    seconds: float

    def __post_init__(self) -> None:
        if not self.evidence:
            raise InputError(f"the check of {self.tag} returned no evidence; a claim without a measurement cannot fail")

    @property
    def holds(self) -> bool:
        """The verdict: every piece of evidence holds."""
        return all(e.holds for e in self.evidence)

    @property
    def headline(self) -> Evidence:
        """The evidence to show in one row: the first that fails, otherwise the first."""
        return next((e for e in self.evidence if not e.holds), self.evidence[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "tag": self.tag,
            "statement": self.statement,
            "holds": self.holds,
            "evidence": [e.to_dict() for e in self.evidence],
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }


__all__ = ["Check", "Claim", "ClaimResult", "Evidence", "Outcome", "Picture", "Relation", "Series"]
