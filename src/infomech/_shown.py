"""How a result shows itself where it is printed, ten lines and no more, and how it becomes a table of pandas."""

import html
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ._checks import InputError
from ._files import plain
from ._words import significant, with_error

_LINES = 10


@dataclass(frozen=True)
class Brief:
    """A small table: what a result is, and its first numbers.

    Args:
        title: one line.
        header: of the columns; the first holds names, the others numbers.
        rows: all of them; what does not fit is counted.
        more: where all of it is to be had.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: str = "to_dict()"

    def text(self) -> str:
        """At most ten lines.

        >>> print(Brief("two numbers", ["name", "value"], [["a", "1.5"], ["long", "2"]]).text())
        two numbers
        name  value
        a       1.5
        long      2
        """
        shown, rest = self._cut()
        table = [[" ".join(cell.split()) for cell in row] for row in (self.header, *shown)]
        widths = [max(len(row[at]) for row in table) for at in range(len(self.header))]
        lines = []
        for first, *others in table:
            numbers = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
        return "\n".join([" ".join(self.title.split()), *lines, *rest])

    def html(self) -> str:
        """The same as a table of HTML."""
        shown, rest = self._cut()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in shown)
        foot = "".join(f"<p>{html.escape(line)}</p>" for line in rest)
        title = html.escape(self.title)
        return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}"

    def _cut(self) -> tuple[Sequence[Sequence[str]], list[str]]:
        if len(self.rows) <= _LINES - 2:
            return self.rows, []
        kept = _LINES - 3
        return self.rows[:kept], [f"... and {len(self.rows) - kept} more: {self.more}"]


class Shown(ABC):
    """A result that prints as a small table, in a terminal and in a notebook."""

    @abstractmethod
    def _brief(self) -> Brief:
        """The table."""

    def __repr__(self) -> str:
        return self._brief().text()

    def __str__(self) -> str:
        return self._brief().text()

    def _repr_html_(self) -> str:
        return self._brief().html()


class Fields(Shown):
    """A data class that prints as a table of its fields: numbers as they are, arrays by their shape.

    Its decorator is ``@dataclass(repr=False)``: the table is the representation.
    """

    def _brief(self) -> Brief:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).capitalize()
        kept = [each for each in fields(self) if each.repr]  # type: ignore[arg-type]
        rows = [[each.name.replace("_", " "), _cell(getattr(self, each.name))] for each in kept]
        return Brief(words, ["", "value"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, by field."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}  # type: ignore[arg-type]


_WIDEST = 60


def _cell(value: Any) -> str:
    """A value of a field, short enough for a table."""
    if all(hasattr(value, name) for name in ("value", "stderr", "low", "high", "withheld")):
        return with_error(value)
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, float):
        return significant(value, 4) if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__
    text = value if isinstance(value, str) else " ".join(repr(value).split())
    if len(text) <= _WIDEST and "tensor(" not in text:
        return text
    if isinstance(value, list | tuple | dict):
        return f"{len(value):,} entries"
    return text[: _WIDEST - 3].rstrip() + "..."


def data_frame(records: Iterable[Mapping[str, Any]], *, index: str | list[str]) -> Any:
    """A data frame of pandas.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise InputError("pandas is not installed; pip install pandas, or use to_dict()") from None
    return pandas.DataFrame.from_records(list(records)).set_index(index)


__all__ = ["Brief", "Fields", "Shown", "data_frame"]
