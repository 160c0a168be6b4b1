"""The unit of currency of the diagnosis: a number with its uncertainty."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error and a 95% confidence interval, all in the value's own units.

    The interval need not be symmetric (a quantile's or a norm's is not). Statistics without an uncertainty do not
    exist here; where a number is exact, ``stderr`` is 0 and ``low == value == high``.

    >>> str(Estimate(0.12345, 0.0021, 0.1193, 0.1276))
    '0.1235 ± 0.0021'
    """

    value: float
    stderr: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> "Estimate":
        """A number that carries no sampling error, log(N V) say."""
        return cls(value, 0.0, value, value)

    def to_dict(self) -> dict[str, float]:
        """The four numbers under the keys of ``report.json``."""
        return asdict(self)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.stderr == 0:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ± {self.stderr:.2g}"


__all__ = ["Estimate"]
