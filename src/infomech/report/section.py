"""What a section of a report is: its words, tables, charts and figures, for one report and for several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._words import Measure, cut, measure
from ..diagnosis import Diagnosis, Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # matplotlib is imported when the first figure is drawn

Spec = dict[str, Any]  # a chart, as plotly reads it

DIRECTIONS = ("x_to_y", "y_to_x")


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table: a measure, and an estimate or a text for each column; None where there is none."""

    key: str
    measure: Measure
    cells: tuple[Estimate | str | None, ...]
    total: bool = False  # whether the rows above add up to this one


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column: its name, what is special about it, and the colour that stands for it."""

    name: str
    note: str = ""
    tone: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.note}" if self.note else self.name


@dataclass(frozen=True)
class Table:
    """Rows of numbers, the same on the page, in Markdown and in LaTeX.

    Args:
        key: of the table among those of its section, and in LaTeX's label.
        head: what the first column holds.
        columns: the others.
        lines: the rows.
        intervals: whether the one estimate of each row has its 95% interval in a column of its own.
        caption: of the LaTeX table, without its end; a table without a caption is not written to LaTeX.
        note: a sentence above it in Markdown.
    """

    key: str
    head: str
    columns: tuple[Column, ...]
    lines: list[Line]
    intervals: bool = False
    caption: str = ""
    note: str = ""


@dataclass(frozen=True)
class Card:
    """A number that a reader wants first."""

    title: str
    estimate: Estimate
    lines: list[str]
    unit: str = ""


@dataclass(frozen=True, repr=False)
class SideBySide:
    """Several reports under their names."""

    names: tuple[str, ...]
    reports: tuple[Diagnosis, ...]


@dataclass(frozen=True)
class Picture:
    """A figure for papers: what it is called, and how it is drawn from a report (or from reports side by side)."""

    title: str
    draw: Callable[[Any], Figure]


@dataclass(frozen=True)
class Compared:
    """What a section says of several reports.

    Args:
        title: of its rows in the table.
        lines: the rows, a cell for each report.
        link: in the bar of the page; a section without one has rows only, else a template ``compare/<name>.html``.
        charts: plotly specifications by the id of their place.
        fill: what else the template shows.
        figures: by the name of their file.
        present: whether these reports have what its charts and figures show.
    """

    title: str
    lines: Callable[[Sequence[Diagnosis]], list[Line]]
    link: str = ""
    charts: Callable[[SideBySide], dict[str, Spec]] = lambda sides: {}
    fill: Callable[[SideBySide], dict[str, Any]] = lambda sides: {}
    figures: Mapping[str, Picture] = field(default_factory=dict)
    present: Callable[[SideBySide], bool] = lambda sides: True


@dataclass(frozen=True)
class Section:
    """A section of a report; all that is shown is drawn from the `Diagnosis`.

    The page shows it by its template ``sections/<name>.html``, Markdown and LaTeX by its tables and figures. A new
    section is a module in ``sections/`` that makes one, its template, and its line in ``sections/__init__.py``.

    Args:
        name: of the template and of the place on the page.
        title: heading.
        link: in the bar of the page.
        tables: what stands in rows.
        charts: plotly specifications by the id of their place.
        figures: by the name of their file.
        fill: what else the template shows.
        notes: sentences above the tables in Markdown.
        cards: its numbers among the first ones.
        terms: its words in the glossary.
        present: whether this report has the section.
        compared: what it says of several reports.
    """

    name: str
    title: str
    link: str
    tables: Callable[[Diagnosis], list[Table]] = lambda diagnosis: []
    charts: Callable[[Diagnosis], dict[str, Spec]] = lambda diagnosis: {}
    figures: Mapping[str, Picture] = field(default_factory=dict)
    fill: Callable[[Diagnosis], dict[str, Any]] = lambda diagnosis: {}
    notes: Callable[[Diagnosis], list[str]] = lambda diagnosis: []
    cards: Callable[[Diagnosis], list[Card]] = lambda diagnosis: []
    terms: tuple[tuple[str, str], ...] = ()
    present: Callable[[Diagnosis], bool] = lambda diagnosis: True
    compared: Compared | None = None


def names_of(diagnosis: Diagnosis) -> tuple[str, str]:
    """The names of both modalities."""
    return diagnosis.inputs.name_x, diagnosis.inputs.name_y


def direction(diagnosis: Diagnosis, side: str, most: int | None = None) -> str:
    """The direction of a search in words; each name cut to so many letters, if that is given."""
    first, second = names_of(diagnosis) if side == "x_to_y" else names_of(diagnosis)[::-1]
    return f"{first} → {second}" if most is None else f"{cut(first, most)} → {cut(second, most)}"


def lines_of(words: Mapping[str, Measure], estimates: Mapping[str, Estimate], diagnosis: Diagnosis) -> list[Line]:
    """One estimate in each row, with the words of its measure."""
    return [Line(key, measure(words, key, *names_of(diagnosis)), (estimate,)) for key, estimate in estimates.items()]


def side_by_side(
    words: Mapping[str, Measure], parts: Sequence[Mapping[str, Estimate]], names: tuple[str, str]
) -> list[Line]:
    """The rows of several reports, whose cells are None where a report lacks the measure."""
    keys = dict.fromkeys(key for part in parts for key in part)
    return [Line(key, measure(words, key, *names), tuple(part.get(key) for part in parts)) for key in keys]


__all__ = [
    "DIRECTIONS",
    "Card",
    "Column",
    "Compared",
    "Figure",
    "Line",
    "Picture",
    "Section",
    "SideBySide",
    "Spec",
    "Table",
    "direction",
    "lines_of",
    "names_of",
    "side_by_side",
]
