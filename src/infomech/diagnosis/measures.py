"""Estimates by name, as `infomech.gap` returns them: a dictionary that prints as a table."""

from collections.abc import Mapping
from typing import Any

from .._shown import Brief, Shown, data_frame
from .._words import interval_text, with_error
from .estimate import Estimate


class Measures(Shown, dict[str, Estimate]):
    """Estimates by name.

    >>> Measures({"energy_distance": Estimate(0.5, 0.02, 0.46, 0.54)})
    1 measure
    name             estimate      95% interval
    energy_distance  0.500 ± 0.020  0.460 to 0.540
    """

    def _brief(self) -> Brief:
        return measured(f"{len(self)} measure{'s' * (len(self) != 1)}", self)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain numbers: name -> ``{"value", "stderr", "low", "high"}``."""
        return {name: dict(estimate.to_dict()) for name, estimate in self.items()}

    def to_pandas(self) -> Any:
        """A data frame with a row for each measure.

        Raises:
            InputError: if pandas is not installed.
        """
        return data_frame(records(self), index="name")


def measured(title: str, estimates: Mapping[str, Estimate], more: str = "to_dict(), to_pandas()") -> Brief:
    """A table of estimates with their intervals."""
    rows = [[name, with_error(estimate), interval_text(estimate)] for name, estimate in estimates.items()]
    return Brief(title, ["name", "estimate", "95% interval"], rows, more)


def records(measures: Mapping[str, Estimate], **more: str) -> list[dict[str, Any]]:
    """Rows of a table, with further columns in front."""
    return [{**more, "name": name, **estimate.to_dict()} for name, estimate in measures.items()]


__all__ = ["Measures", "measured", "records"]
