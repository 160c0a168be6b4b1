"""The unit of currency of the diagnosis: a number with its uncertainty."""

import math
from dataclasses import dataclass, replace

from .._words import value_text, with_error


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error and a 95% confidence interval, all in the value's own units.

    The interval need not be symmetric (a quantile's or a norm's is not). Where a number is exact, ``stderr`` is 0 and
    ``low == value == high``. Where no interval is known to hold, error and ends are NaN and ``withheld`` says why.

    >>> str(Estimate(0.12345, 0.0021, 0.1193, 0.1276)), str(Estimate(0.09575, 0.0152, 0.066, 0.126))
    ('0.1235 ± 0.0021', '0.096 ± 0.015')
    >>> str(Estimate(0.12345, 0.0021, 0.1193, 0.1276).without_interval("3 groups"))
    '0.1235 (interval withheld: 3 groups)'
    """

    value: float
    stderr: float
    low: float
    high: float
    withheld: str = ""

    @classmethod
    def exact(cls, value: float) -> "Estimate":
        """A number that carries no sampling error, log(N V) say."""
        return cls(value, 0.0, value, value)

    def without_interval(self, why: str) -> "Estimate":
        """The value alone, where its error and interval cannot be trusted; `why` completes "interval withheld:"."""
        return replace(self, stderr=math.nan, low=math.nan, high=math.nan, withheld=why)

    def to_dict(self) -> dict[str, float | str]:
        """The four numbers under the keys of ``report.json``; and ``withheld``, only where there is no interval."""
        numbers = {"value": self.value, "stderr": self.stderr, "low": self.low, "high": self.high}
        return numbers | {"withheld": self.withheld} if self.withheld else dict(numbers)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.withheld and not math.isnan(self.value):
            return f"{value_text(self)} (interval withheld: {self.withheld})"
        return with_error(self)


__all__ = ["Estimate"]
