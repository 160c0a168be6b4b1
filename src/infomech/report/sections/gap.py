"""The modality gap (E3): its measures, each on its own axis."""

import math
from collections.abc import Sequence
from typing import Any

from ..._words import GAP as WORDS
from ..._words import Measure, brief, value_text, with_error
from ...diagnosis import Diagnosis, Estimate
from ..charts import glyph
from ..drawing import INK, LINE, MARKERS, MUTED, Axes, bare_axes, bare_figure, blank_figure, label, no_spine
from ..section import (
    Card,
    Column,
    Compared,
    Figure,
    Line,
    Picture,
    Section,
    SideBySide,
    Table,
    lines_of,
    names_of,
    side_by_side,
)
from ..style import on_paper, series, track, whiskers

_SMALL, _LARGE = 0.025, 0.031  # widths of a letter of an axis end, and of a number, in lengths of the axis
FIRST = ("energy_distance", "centroid_gap", "mmd2_median", "frechet", "relative_modality_gap")


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The measures in their order."""
    lines = lines_of(WORDS, diagnosis.gap, diagnosis)
    return [Table("gap", "Measure", (Column("Estimate"),), lines, intervals=True, caption="Modality gap")]


def cards(diagnosis: Diagnosis) -> list[Card]:
    """The energy distance, and the centroid gap."""
    gap = diagnosis.gap
    if "energy_distance" not in gap:
        return []
    lines = [f"Centroid gap {with_error(gap['centroid_gap'])}"] if "centroid_gap" in gap else []
    return [Card("Gap (energy distance)", gap["energy_distance"], lines)]


def figure(diagnosis: Diagnosis) -> Figure:
    """Gap measures with 95% intervals, each on its own axis."""
    lines = lines_of(WORDS, diagnosis.gap, diagnosis)
    found = list(diagnosis.gap.values())
    drawn, axes = bare_figure(6.8, 0.5 + 0.33 * max(1, len(lines)))
    for row, (line, estimate) in enumerate(zip(lines, found, strict=True)):
        _interval_row(axes, row, line.measure, estimate)
    axes.set_yticks(range(len(lines)), [label(line.measure.label, 34) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    ends = max((len(brief(track(line.measure, [e])[1])) for line, e in zip(lines, found, strict=True)), default=1)
    after = 1.05 + _SMALL * max(ends, 4)  # where the numbers begin
    for row, estimate in enumerate(found):
        axes.text(after, row, with_error(estimate), va="center", fontsize=8.5, color=INK)
    axes.set_xlim(-0.1, after + _LARGE * max((len(with_error(e)) for e in found), default=1))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    no_spine(axes)
    about = "each measure on its own axis; bar: 95% interval; tick: no gap; value ± standard error"
    drawn.supxlabel(about, fontsize=8, color=INK)
    return drawn


def _interval_row(axes: Axes, row: int, measure: Measure, estimate: Estimate) -> None:
    """One row: the axis with its ends, the tick of no gap, the interval, and the estimate."""
    bottom, top = track(measure, [estimate])
    colour = on_paper("total")

    def at(value: float) -> float:
        return (value - bottom) / (top - bottom)

    axes.plot([0, 1], [row, row], color=LINE, lw=1.6, zorder=1, solid_capstyle="butt")
    if measure.still is not None:
        axes.plot([at(measure.still)] * 2, [row - 0.28, row + 0.28], color=MUTED, lw=1.4, zorder=2)
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        axes.plot([at(estimate.low), at(estimate.high)], [row, row], color=colour, lw=4, alpha=0.5, zorder=3)
    axes.plot(at(estimate.value), row, "o", ms=4.5, color=colour, zorder=4)
    for place, side, end in ((-0.02, "right", bottom), (1.02, "left", top)):
        axes.text(place, row, brief(end), ha=side, va="center", fontsize=7, color=MUTED)


def compared_lines(reports: Sequence[Diagnosis]) -> list[Line]:
    """Every measure that a report has."""
    return side_by_side(WORDS, [report.gap for report in reports], names_of(reports[0]))


def shared(reports: Sequence[Diagnosis]) -> dict[str, tuple[Measure, list[Estimate]]]:
    """Gap measures that every report has, the usual ones first."""
    order = {key: at for at, key in enumerate(FIRST)}
    rows = sorted(compared_lines(reports), key=lambda line: order.get(line.key, len(order)))
    return {
        line.key: (line.measure, [report.gap[line.key] for report in reports])
        for line in rows
        if None not in line.cells
    }


def compared_fill(sides: SideBySide) -> dict[str, Any]:
    """Small multiples: each measure over all reports, on one axis."""
    multiples = []
    for line in compared_lines(sides.reports):
        known = [cell for cell in line.cells if isinstance(cell, Estimate)]
        rows = [
            {
                "name": name,
                "tone": series(at),
                "value": value_text(cell),
                "glyph": glyph(line.measure, cell, known),
            }
            for at, (name, cell) in enumerate(zip(sides.names, line.cells, strict=True))
            if isinstance(cell, Estimate)
        ]
        multiples.append({"label": line.measure.label, "lines": rows})
    return {"multiples": multiples}


def compared_figure(sides: SideBySide) -> Figure:
    """Small multiples, for papers."""
    rows = compared_lines(sides.reports)
    columns = 3
    height = max(1, math.ceil(len(rows) / columns))
    drawn = blank_figure(7.2, 0.4 + height * (0.5 + 0.2 * len(sides.names)))
    grid = drawn.subplots(height, columns, squeeze=False, sharey=True)
    names = [label(name, 18) for name in sides.names]
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, line in zip(grid.flat, rows, strict=False):
        bare_axes(axes)
        low, high = track(line.measure, [cell for cell in line.cells if isinstance(cell, Estimate)])
        axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        if line.measure.still is not None:
            axes.axvline(line.measure.still, color=LINE, lw=1.6, zorder=1)
        for at, cell in enumerate(line.cells):
            if isinstance(cell, Estimate):
                style = {"fmt": MARKERS[at % len(MARKERS)], "color": on_paper(series(at)), "ms": 4.5}
                axes.errorbar(cell.value, at, xerr=whiskers([cell]), elinewidth=1.6, zorder=3, **style)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        no_spine(axes)
        axes.tick_params(labelsize=7.5)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(label(line.measure.label, 34), fontsize=8.5, color=INK, loc="left")
    return drawn


GAP = Section(
    name="gap",
    title="Modality gap",
    link="Gap",
    tables=tables,
    figures={"gap": Picture("Gap measures", figure)},
    cards=cards,
    compared=Compared(
        title="Modality gap",
        lines=compared_lines,
        link="Gap measures",
        fill=compared_fill,
        figures={"gap": Picture("Gap measures", compared_figure)},
    ),
)

__all__ = ["GAP", "shared"]
