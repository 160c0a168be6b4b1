"""Several reports side by side: one table, and retrieval against the gap."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .._checks import InputError
from .._files import Json, check_target, dump_json, plain, write_folder
from .._markdown import document, table
from .._shown import Brief, Shown, data_frame
from .._words import Measure, signed_text, with_error
from ..diagnosis import Diagnosis, Estimate
from .drawing import Drawing, Figure, chosen_figure, figure_files, figure_names
from .report import Report
from .schema import SCHEMA_VERSION, read_report, read_report_json, report_from
from .section import Compared, SideBySide, names_of
from .sections import SECTIONS

# The page begins with the last of them: retrieval against the gap is what a reader wants to see first.
_COMPARED = {section.name: section.compared for section in SECTIONS if section.compared is not None}
_DRAWN = {name: part for name, part in reversed(_COMPARED.items()) if part.link}
FIGURES = tuple(name for part in _DRAWN.values() for name in part.figures)
FILES = ("compare.html", "compare.json", "compare.md", *figure_names(FIGURES))

Source = str | os.PathLike[str] | Json | Report


@dataclass(frozen=True, slots=True)
class Difference:
    """What one report has more than the first one."""

    estimate: Estimate
    apart: bool  # the 95% interval of the difference leaves out 0


@dataclass(frozen=True, slots=True)
class Row:
    """One measure over all reports; None where a report lacks it."""

    section: str
    key: str
    measure: Measure
    estimates: tuple[Estimate | None, ...]
    differences: tuple[Difference | None, ...]  # to the first report; None for that one


@dataclass(frozen=True, repr=False)
class Comparison(Shown, SideBySide):
    """Reports side by side, each measure with its difference to the first report. `compare` makes it."""

    def rows(self, section: str | None = None) -> list[Row]:
        """The measures of a section, or all of them, in the order of the table."""
        wanted = _COMPARED if section is None else {section: _COMPARED[section]}
        rows = []
        for name, part in wanted.items():
            for line in part.lines(self.reports):
                cells = tuple(cell if isinstance(cell, Estimate) else None for cell in line.cells)
                changes = tuple(_change(cells, at) for at in range(len(cells)))
                rows.append(Row(name, line.key, line.measure, cells, changes))
        return rows

    def groups(self) -> list[tuple[str, list[Row]]]:
        """The rows under the title of their section."""
        return [(part.title, self.rows(name)) for name, part in _COMPARED.items()]

    def drawn(self) -> dict[str, Compared]:
        """The sections that have charts or figures of these reports, by name, in the order of the page."""
        return {name: part for name, part in _DRAWN.items() if part.present(self)}

    def lead(self) -> str:
        """What is compared, in a line."""
        x, y = names_of(self.reports[0])
        temperatures = dict.fromkeys(f"{report.inputs.temperature:g}" for report in self.reports)
        count = len(self.names)
        return (
            f"{count} report{'s' if count > 1 else ''} · {x} and {y} · "
            f"temperature τ\u00a0=\u00a0{', '.join(temperatures)}"
        )

    def notes(self) -> list[str]:
        """What speaks against a comparison: another temperature, other names, other amounts of data."""
        found = []
        inputs = [report.inputs for report in self.reports]
        for what, values, why in (
            (
                "Temperatures",
                [each.temperature for each in inputs],
                "the budget, the divergence and the effective negatives change with it",
            ),
            ("Dimensions", [each.dim for each in inputs], "distances and ranks depend on it"),
            (
                "Numbers of groups",
                [each.groups for each in inputs],
                "recall falls and the loss rises with the number of candidates",
            ),
        ):
            if len(set(values)) > 1:
                shown = ", ".join(f"{value:g}" for value in dict.fromkeys(values))
                found.append(f"{what} differ ({shown}): {why}.")
        unresolved = [name for name, report in zip(self.names, self.reports, strict=True) if not report.budget.resolved]
        if unresolved:
            found.append(
                f"The data do not resolve the densities of {', '.join(unresolved)}: "
                "their dispersion and divergence are rough."
            )
        return found

    def to_dict(self) -> Json:
        """The content of ``compare.json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "names": list(self.names),
            "baseline": self.names[0],
            "notes": self.notes(),
            "inputs": [plain(report.inputs) for report in self.reports],
            "provenance": [plain(report.provenance) for report in self.reports],
            "measures": [
                {
                    "section": row.section,
                    "name": row.key,
                    "estimates": plain(list(row.estimates)),
                    "differences": plain(list(row.differences)),
                }
                for row in self.rows()
            ],
        }

    def to_pandas(self) -> Any:
        """All estimates as a data frame: a row for each measure and report.

        Raises:
            InputError: if pandas is not installed.
        """
        return data_frame(
            (
                {"section": row.section, "name": row.key, "report": name, **estimate.to_dict()}
                for row in self.rows()
                for name, estimate in zip(self.names, row.estimates, strict=True)
                if estimate is not None
            ),
            index=["section", "name", "report"],
        )

    def _brief(self) -> Brief:
        rows = [[row.measure.label, *_marked(row)] for row in self.rows()]
        return Brief(self.lead(), ["measure", *self.names], rows, "rows(), to_dict(), to_pandas()")

    def plot(self, name: str | None = None) -> Figure:
        """One figure of the comparison, as matplotlib knows it.

        Args:
            name: ``tradeoff`` (retrieval against the gap), ``gap`` or ``budget``; the first that there is by default.

        Raises:
            InputError: if these reports have no figure of that name.
        """
        return chosen_figure(self.drawings(), name)

    def drawings(self) -> dict[str, Drawing]:
        """Each figure by its name, drawn when called."""
        return {
            name: partial(picture.draw, self)
            for part in self.drawn().values()
            for name, picture in part.figures.items()
        }

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write ``compare.html``, ``.json``, ``.md`` and ``figures/``, all of them or none; as `Report.save` does.

        Args:
            folder: where to; made if it does not exist.
            overwrite: replace an earlier comparison, or write beside other files.
            figures: also draw PNG and PDF figures.

        Returns:
            The path of ``compare.html``.

        Raises:
            InputError: if the folder may not or cannot be written.
        """
        target = Path(folder)
        write_folder(target, self._files(figures), owned=FILES, what="comparison", overwrite=overwrite)
        return target / "compare.html"

    @staticmethod
    def check_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Raise InputError if `save` would refuse the folder."""
        check_target(Path(folder), owned=FILES, what="comparison", overwrite=overwrite)

    def _files(self, figures: bool) -> Iterator[tuple[str, bytes]]:
        from .page import comparison_page

        yield "compare.json", dump_json(self.to_dict())
        yield "compare.md", self._markdown(figures).encode("utf-8", errors="replace")
        yield "compare.html", comparison_page(self)
        if figures:
            yield from figure_files(self.drawings())

    def _markdown(self, figures: bool) -> str:
        """The tables as Markdown."""
        from .writing import md, md_figures

        blocks = [md(self.lead()), *(f"**{md(note)}**" for note in self.notes())]
        blocks.append(
            f"▲ and ▼ mark what lies higher and lower than in {md(self.names[0])}, where the 95% interval of the "
            "difference leaves out 0."
        )
        header = ["Measure", *map(md, self.names)]
        for title, rows in self.groups():
            blocks += [f"## {title}", table(header, [[md(row.measure.label), *_marked(row)] for row in rows])]
        if figures:
            for part in self.drawn().values():
                blocks += md_figures(part.figures)
        return document("Comparison of reports", *blocks)


def _marked(row: Row) -> list[str]:
    """The estimates of a row, those that are apart from the first with their arrow."""
    marks = [" " + arrow(change) if change is not None and change.apart else "" for change in row.differences]
    return ["" if cell is None else with_error(cell) + mark for cell, mark in zip(row.estimates, marks, strict=True)]


def arrow(change: Difference) -> str:
    """Higher or lower."""
    return "▲" if change.estimate.value > 0 else "▼"


def delta_text(change: Difference) -> str:
    """The difference with a sign and an arrow; says so where it is within the errors.

    >>> delta_text(Difference(Estimate(-0.25, 0.01, -0.27, -0.23), True))
    '▼ −0.250'
    """
    text = signed_text(change.estimate)
    return f"{arrow(change)} {text}" if change.apart else f"{text}, within error"


def _change(cells: Sequence[Estimate | None], at: int) -> Difference | None:
    first, other = cells[0], cells[at]
    return None if at == 0 or first is None or other is None else difference(first, other)


def difference(first: Estimate, other: Estimate) -> Difference:
    """Other minus first, with an interval from both intervals (Newcombe's square-and-add).

    low = d - sqrt((o - o_low)^2 + (f_high - f)^2), high = d + sqrt((o_high - o)^2 + (f - f_low)^2). It takes the
    reports as independent; of reports on the same data, whose errors go together, the interval is too wide, not too
    narrow.

    Source: Newcombe 1998, method 10; Zou and Donner 2008.

    >>> difference(Estimate(0.5, 0.1, 0.2, 0.8), Estimate(1.0, 0.1, 0.6, 1.4)).estimate.low
    0.0
    """
    value = other.value - first.value
    low = value - math.hypot(other.value - other.low, first.high - first.value)
    high = value + math.hypot(other.high - other.value, first.value - first.low)
    estimate = Estimate(value, math.hypot(first.stderr, other.stderr), low, high)
    known = math.isfinite(low) and math.isfinite(high)
    return Difference(estimate, bool(known and (low > 0 or high < 0)))


def compare(reports: Sequence[Source], *, names: Sequence[str] | None = None) -> Comparison:
    """Put several reports side by side; differences are to the first of them.

    Args:
        reports: folders that `Report.save` wrote, ``report.json`` files, their dictionaries, or `Report` objects.
        names: one for each; by default the names of the folders.

    Returns:
        A `Comparison`, with ``.save(folder)`` and ``.plot()``.

    Raises:
        InputError: if there is nothing to compare, a report cannot be read, or the names do not match.
    """
    if isinstance(reports, str | os.PathLike | dict | Report):
        raise InputError("compare needs a list of reports; put the one given into a list")
    if len(reports) == 0:
        raise InputError("there is nothing to compare; name at least one folder of a saved report")
    if names is not None and len(names) != len(reports):
        raise InputError(f"{len(names)} names for {len(reports)} reports; give one name for each, or none")
    read = [_read(source, at) for at, source in enumerate(reports)]
    chosen = [name for _, name in read] if names is None else list(names)
    return Comparison(tuple(_distinct(chosen)), tuple(diagnosis for diagnosis, _ in read))


def _read(source: Source, at: int) -> tuple[Diagnosis, str]:
    """A report, and a name for it."""
    if isinstance(source, Report | dict):
        diagnosis = source.diagnosis if isinstance(source, Report) else report_from(source, f"report {at + 1}")
        return diagnosis, " ↔ ".join(names_of(diagnosis))
    path = Path(source)
    if path.is_file():  # the numbers alone: a comparison draws no pictures
        return report_from(read_report_json(path), str(path)), path.resolve().parent.name or str(path)
    return read_report(path), path.resolve().name or str(path)


def _distinct(names: list[str]) -> list[str]:
    out: list[str] = []
    for name in names:
        count, fresh = 1, name
        while fresh in out:
            count += 1
            fresh = f"{name} ({count})"
        out.append(fresh)
    return out


__all__ = ["FIGURES", "FILES", "Comparison", "Difference", "Row", "compare", "delta_text", "difference"]
