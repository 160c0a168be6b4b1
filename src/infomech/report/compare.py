"""Several reports side by side: one table, and retrieval against the gap."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .._checks import InputError, check_flag, shown
from .._files import Json, as_path, check_target, dump_json, plain, write_folder
from .._markdown import document, table
from .._shown import Brief, Shown, data_frame
from .._words import Measure, arrow, interval_text, signed_text, value_text, with_error
from ..diagnosis import Diagnosis, Estimate, Inputs
from ..diagnosis.differences import (
    Difference,
    difference,
    mean_recall_difference,
    paired_difference,
    pairs_to_tell,
    same_pairs,
)
from ..diagnosis.information.pairing import at_common_negatives as at_common_information
from ..diagnosis.information.pairing import information_difference, more_groups
from ..diagnosis.thresholds import FULL_RECALL
from .drawing import Drawing, Figure, chosen_figure, figure_files, figure_names
from .report import Report
from .schema import SCHEMA_VERSION, read_report, read_report_json, report_from
from .section import Compared, SideBySide, direction, names_of
from .sections import SECTIONS

# The page begins with the last of them: retrieval against the gap is what a reader wants to see first.
_COMPARED = {section.name: section.compared for section in SECTIONS if section.compared is not None}
_DRAWN = {name: part for name, part in reversed(_COMPARED.items()) if part.link}
FIGURES = tuple(name for part in _DRAWN.values() for name in part.figures)
FILES = ("compare.html", "compare.json", "compare.md", *figure_names(FIGURES))

Source = str | os.PathLike[str] | Json | Report


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
    """Reports side by side, each measure with its difference to the first report. `compare` makes it.

    All budgets stand at the same N. Where rows are the same, differences are paired: their intervals are those of the
    difference on the same pairs.
    """

    asked: tuple[int, ...]  # N of each report's own batch
    paired: tuple[bool, ...]  # whether each report is of the first one's rows, as far as is known or stated
    why_unpaired: str  # in a line, where one of them is not

    def rows(self, section: str | None = None) -> list[Row]:
        """The measures of a section, or all of them, in the order of the table."""
        wanted = _COMPARED if section is None else {section: _COMPARED[section]}
        rows = []
        for name, part in wanted.items():
            for line in part.lines(self.reports):
                cells = tuple(cell if isinstance(cell, Estimate) else None for cell in line.cells)
                changes = tuple(self._change(name, line.key, cells, at) for at in range(len(cells)))
                rows.append(Row(name, line.key, line.measure, cells, changes))
        return rows

    def _change(self, section: str, key: str, cells: Sequence[Estimate | None], at: int) -> Difference | None:
        first, other = cells[0], cells[at]
        if at == 0 or first is None or other is None:
            return None
        found = None
        if section == "information":
            found = information_change(self, at) if key == "information" else None
        elif self.paired[at]:
            found = paired_difference(self.reports[0], self.reports[at], section, key)
        return difference(first, other) if found is None else found

    @property
    def negatives(self) -> int:
        """The N at which all budgets stand."""
        return self.reports[0].budget.negatives

    def decision(self) -> str:
        """Which report is better, if the difference is significant: by shared information, recall at 10, the loss.

        Some sentences for every report but the first, and the order of all by shared information. A loss depends on
        its temperature: where temperatures differ it decides nothing.
        """
        ranking = [] if len(self.names) < 3 else ranked(self)
        return "\n".join([*ranking, *(decide(self, at) for at in range(1, len(self.names)))])

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
                "the budget, the divergence and the effective negatives change with it, and losses do not compare",
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
        if any(n != self.negatives for n in self.asked):
            found.append(f"Budgets stand at N = {self.negatives:,}, the largest N that all reports have measured.")
        if self.why_unpaired:
            found.append(self.why_unpaired)
        return found

    def to_dict(self) -> Json:
        """The content of ``compare.json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "names": list(self.names),
            "baseline": self.names[0],
            "negatives": self.negatives,
            "paired": list(self.paired),
            "decision": self.decision(),
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
        target = as_path(folder, "folder")
        write_folder(target, self._files(figures), owned=FILES, what="comparison", overwrite=overwrite)
        return target / "compare.html"

    @staticmethod
    def check_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Raise InputError if `save` would refuse the folder."""
        check_target(as_path(folder, "folder"), owned=FILES, what="comparison", overwrite=overwrite)

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

        blocks = [md(self.lead()), *map(md, self.decision().splitlines()), *(f"**{md(n)}**" for n in self.notes())]
        blocks.append(
            f"▲ and ▼ mark what lies higher and lower than in {md(self.names[0])}, where the 95% interval of the "
            "difference leaves out 0; p marks differences that are paired, row by row."
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
    return [
        "" if cell is None else marked(cell, change) + (" p" if change is not None and change.paired else "")
        for change, cell in zip(row.differences, row.estimates, strict=True)
    ]


def marked(estimate: Estimate, change: Difference | None, *, error: bool = True) -> str:
    """The estimate, with an arrow where it is apart from another and its digits show it."""
    return (with_error(estimate) if error else value_text(estimate)) + (
        "" if change is None else arrow(change.estimate, change.apart, estimate)
    )


def delta_text(change: Difference) -> str:
    """The difference with a sign and an arrow; says whether it is paired, and where it is within the errors.

    >>> delta_text(Difference(Estimate(-0.25, 0.01, -0.27, -0.23), True, paired=True))
    '▼ −0.250, paired'
    """
    text, how = signed_text(change.estimate), "paired" if change.paired else "unpaired"
    if change.estimate.withheld:
        return f"{text}, error withheld"
    sign = "▲" if change.estimate.value > 0 else "▼"
    return f"{sign} {text}, {how}" if change.apart else f"{text}, within error, {how}"


def information_change(comparison: Comparison, at: int) -> Difference | None:
    """Shared information of a report less that of the first, paired where their rows are the same."""
    first, other = (comparison.reports[k].information for k in (0, at))
    if first is None or other is None:
        return None
    return information_difference(first, other, paired=comparison.paired[at])


def ranked(comparison: Comparison) -> list[str]:
    """The reports in the order of their shared information at one N, in a line; none where one lacks it."""
    found = [report.information for report in comparison.reports]
    if any(each is None for each in found):
        return []
    known = [each for each in found if each is not None]
    common = at_common_information(known)
    order = sorted(range(len(common)), key=lambda k: -common[k].information.value)
    shown = ", ".join(f"{comparison.names[k]} {with_error(common[k].information)}" for k in order)
    return [f"By shared information (nats, N = {common[0].negatives:,}): {shown}."]


def _information_told(comparison: Comparison, at: int) -> list[str]:
    """Which of two shares more, or how many more groups would detect it; nothing where one was not measured."""
    change = information_change(comparison, at)
    first, other = (comparison.reports[k].information for k in (0, at))
    if change is None or first is None or other is None:
        return []
    one, two = at_common_information([first, other])
    names, inputs = (comparison.names[0], comparison.names[at]), comparison.reports[0].inputs
    what = f"shared information at N = {one.negatives:,}"
    said = [_told(change, names, what, " nats", inputs, better=1, more=more_groups(change, one.anchor_groups))]
    near = [each for each in (one, two) if each.near_ceiling]
    if near:
        which = "Both are" if len(near) == 2 else "One of them is"
        needed = [each.rows_needed for each in near if each.rows_needed is not None]
        to_do = (
            f"report both with `--batch-size {max(needed)}`, which takes as many groups"
            if len(needed) == len(near)
            else "tie equal rows into one group, which lower the ceiling"
        )
        said.append(f"{which} within 0.5 nats of the ceiling, where differences are understated: {to_do}.")
    return said


def decide(comparison: Comparison, at: int) -> str:
    """What shared information, recall at 10 and the loss at the common N say of one report against the first."""
    first, other = comparison.reports[0], comparison.reports[at]
    names = comparison.names[0], comparison.names[at]
    k, why = _recall_that_differs(first, other)
    recall = mean_recall_difference(first, other, k) if comparison.paired[at] else None
    what = f"R@{k} (mean of both directions{why and '; '}{why})"
    if recall is None:
        key = f"x_to_y_recall_at_{k}"
        what = f"R@{k} {direction(first, 'x_to_y')}{why and f' ({why})'}"
        recall = difference(first.retrieval[key], other.retrieval[key])
    row = next(r for r in comparison.rows("budget") if r.key == "infonce_sym")
    loss = row.differences[at]
    assert loss is not None
    sentences = [*_information_told(comparison, at), _told(recall, names, what, "", first.inputs, better=1)]
    same = first.inputs.temperature == other.inputs.temperature
    measured = f"InfoNCE at N = {comparison.negatives:,}"
    if same:
        sentences.append(_told(loss, names, measured, " nats", first.inputs, better=-1))
    else:
        sentences.append(
            f"{measured} differs by {signed_text(loss.estimate)} nats, each at its own temperature, so that it decides "
            "nothing."
        )
    return " ".join(sentences)


def _recall_that_differs(first: Diagnosis, other: Diagnosis) -> tuple[int, str]:
    """Recall at 10, or at 1 where that at 10 has no room left in either report, and then why."""
    at_10 = [r.retrieval[f"{way}_recall_at_10"].value for r in (first, other) for way in ("x_to_y", "y_to_x")]
    return (1, f"R@10 is above {FULL_RECALL} in both") if min(at_10) > FULL_RECALL else (10, "")


def _told(
    change: Difference,
    names: tuple[str, str],
    what: str,
    unit: str,
    inputs: Inputs,
    *,
    better: Literal[1, -1],
    more: int | None = None,
) -> str:
    """Which of two is better by one measure, or how many more groups would detect it: `more` at 80% power, if known."""
    groups, unit_of_data = inputs.groups, "pairs" if inputs.groups == inputs.pairs else "groups"
    e, how = change.estimate, "paired" if change.paired else "unpaired"
    interval = f"{signed_text(e)}{unit}, 95% interval {interval_text(e, exact=None)}, {how}"
    if change.apart:
        wins, loses = (names[1], names[0]) if e.value * better > 0 else names
        return f"{wins} is better than {loses} by {what} ({names[1]} less {names[0]}: {interval})."
    text = f"By {what} the difference is not significant ({names[1]} less {names[0]}: {interval})"
    if more is not None and more <= 1000 * groups:
        return f"{text}; to detect one of that size takes {more:,} more {unit_of_data} at 80% power."
    needed = pairs_to_tell(change, groups)
    if needed is None or needed > 1000 * groups:
        return text + "."
    return f"{text}; to detect one of that size takes {needed - groups:,} more {unit_of_data}."


def compare(
    reports: Sequence[Source] | Mapping[str, Source],
    *more: object,
    names: Sequence[str] | None = None,
    same_rows: bool = False,
) -> Comparison:
    """Put several reports side by side; differences are to the first of them.

    Budgets are put at the same N: their own where that is the same, else the largest N that all of them have measured.
    Differences are paired where reports are of the same pairs in the same order and their ids are equal, or
    `same_rows` says so.

    Args:
        reports: folders that `Report.save` wrote, ``report.json`` files, their dictionaries, or `Report` objects; or a
            dictionary of them by name.
        more: nothing: reports are given as one list.
        names: one for each; by default the names of the folders.
        same_rows: states that row i is the same item in all of them, where no ids are known.

    Returns:
        A `Comparison`, with ``.decision()``, ``.save(folder)`` and ``.plot()``.

    Raises:
        InputError: if there is nothing to compare, a report cannot be read, the names do not match, or reports that
            are said to be of the same rows are not.
    """
    if more:
        raise InputError("compare needs one list of reports: compare([first, second])")
    if isinstance(reports, Mapping) and "schema_version" not in reports and reports and names is None:
        names = [str(name) for name in reports]
        reports = list(reports.values())
    if isinstance(reports, str | os.PathLike | Mapping | Report):
        raise InputError("compare needs a list of reports; put the one given into a list")
    if not isinstance(reports, list | tuple):
        raise InputError(f"reports is {shown(reports)}; give a list of folders that were saved, or of reports")
    check_flag(same_rows, "same_rows")
    if names is not None and (isinstance(names, str) or not all(isinstance(each, str) for each in _listed(names))):
        raise InputError(f"names is {shown(names)}; give a list with a name for each report, or None")
    if len(reports) == 0:
        raise InputError("there is nothing to compare; name at least one folder of a saved report")
    if names is not None and len(names) != len(reports):
        raise InputError(f"{len(names)} names for {len(reports)} reports; give one name for each, or none")
    read = [_read(source, at) for at, source in enumerate(reports)]
    chosen = [name for _, name in read] if names is None else list(names)
    found = [diagnosis for diagnosis, _ in read]
    titles = tuple(_distinct(chosen))
    paired, why = _pairing(found, titles, same_rows)
    asked = tuple(each.budget.negatives for each in found)
    return Comparison(titles, tuple(at_common_negatives(found)), asked, paired, why)


def _pairing(reports: Sequence[Diagnosis], names: Sequence[str], same_rows: bool) -> tuple[tuple[bool, ...], str]:
    """Which reports are of the first one's rows, and in a line why one is not."""
    first, paired, why = reports[0], [True], ""
    for other, name in zip(reports[1:], names[1:], strict=True):
        ids = first.inputs.ids, other.inputs.ids
        reason = ""
        if first.budget.contributions is None or other.budget.contributions is None:
            reason = "a report.json alone does not hold what pairing takes; name the whole folder"
        elif not same_pairs(first, other):
            reason = "they have other pairs, another order of them, or another seed"
        elif all(ids) and ids[0] != ids[1]:
            reason = "their ids differ"
        if reason and same_rows:
            raise InputError(f"{name} and {names[0]} cannot be compared row by row: {reason}")
        if not reason and not all(ids) and not same_rows:
            reason = (
                "no ids say that their rows correspond; if row i is the same item in both, pass same_rows=True "
                "(--same-rows), and intervals get narrower"
            )
        paired.append(not reason)
        if reason and not why:
            why = f"Differences are unpaired, of {name} to {names[0]}: {reason}."
    return tuple(paired), why


def at_common_negatives(reports: Sequence[Diagnosis]) -> list[Diagnosis]:
    """The reports with their budgets at the same N: their own, or the largest that all curves hold.

    Raises:
        InputError: if there is none.
    """
    if len({each.budget.negatives for each in reports}) == 1:
        return list(reports)
    common = set.intersection(*(set(each.budget.curve.negatives) for each in reports))
    if not common:
        raise InputError("these reports have measured no common number of negatives; they have too few groups")
    return [_at_negatives(each, max(common)) for each in reports]


def _at_negatives(report: Diagnosis, negatives: int) -> Diagnosis:
    """A report whose budget stands at one N of its curve; what is known at its own N alone keeps it."""
    budget = report.budget
    if budget.negatives == negatives:
        return report
    at = budget.curve.negatives.index(negatives)
    parts: dict[str, Any] = {name: row[at] for name, row in budget.curve.parts.items()}
    kept = budget.contributions
    if kept is not None:
        replicates = {name: table[:, at] for name, table in kept.curve_replicates.items()}
        kept = replace(kept, replicates=replicates, interactions={}, negatives=negatives, by_pair={}, by_row={})
    gap = dict(report.gap)
    if "smoothed_divergence" in gap:
        gap["smoothed_divergence"] = parts["divergence_sym"]
    moved = replace(budget, negatives=negatives, batch_size=negatives + 1, contributions=kept, **parts)
    return replace(report, budget=moved, gap=gap)


def _read(source: Source, at: int) -> tuple[Diagnosis, str]:
    """A report, and a name for it."""
    if isinstance(source, Report | dict):
        diagnosis = source.diagnosis if isinstance(source, Report) else report_from(source, f"report {at + 1}")
        return diagnosis, " ↔ ".join(names_of(diagnosis))
    path = as_path(source, "reports")
    if path.is_file():  # the numbers alone: a comparison draws no pictures
        return report_from(read_report_json(path), str(path)), path.resolve().parent.name or str(path)
    return read_report(path), path.resolve().name or str(path)


def _listed(names: object) -> list[Any]:
    return list(names) if isinstance(names, list | tuple) else [None]


def _distinct(names: list[str]) -> list[str]:
    out: list[str] = []
    for name in names:
        count, fresh = 1, name
        while fresh in out:
            count += 1
            fresh = f"{name} ({count})"
        out.append(fresh)
    return out


__all__ = ["FIGURES", "FILES", "Comparison", "Difference", "Row", "compare", "delta_text", "difference", "marked"]
