"""The energy budget (E1): terms that add up to the loss."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._words import BUDGET as WORDS
from ..._words import Measure, interval_text, number, signed_text, value_text, with_error
from ...diagnosis import Diagnosis, Estimate
from ..charts import INK, MUTED, base_layout, error_bar, short, title
from ..drawing import INK as PAPER_INK
from ..drawing import MUTED as PAPER_MUTED
from ..drawing import bare_figure, label, legend, no_spine
from ..section import (
    Card,
    Column,
    Compared,
    Figure,
    Line,
    Picture,
    Section,
    SideBySide,
    Spec,
    Table,
    lines_of,
    names_of,
    side_by_side,
)
from ..style import finite, on_page, on_paper, series, whiskers

_CONSTANTS = ("log_negatives", "log_kernel_mean")
_SPREAD = "Minus half of the dispersion against uniform; 0 if uniform."


def terms(diagnosis: Diagnosis) -> list[Line]:
    """What the loss is made of: terms that add up to the last one."""
    b, (x, y) = diagnosis.budget, names_of(diagnosis)
    kernel = Estimate.exact(b.log_kernel_mean)
    divergence = "A wider gap lowers the loss: this is why training leaves one."
    parts: list[tuple[str, str, str, Estimate]] = [
        ("alignment", "Alignment", "Minus the mean similarity of true pairs, over τ.", b.alignment),
        ("dispersion_x_relative", f"Concentration, {x}", _SPREAD, _times(b.dispersion_x_relative, -0.5)),
        ("dispersion_y_relative", f"Concentration, {y}", _SPREAD, _times(b.dispersion_y_relative, -0.5)),
        ("divergence_sym", "− Divergence", divergence, _times(b.divergence_sym, -1.0)),
        ("log_negatives", "log N", "The number of negatives.", b.log_negatives),
        ("log_kernel_mean", "log kernel mean", "A constant of temperature and dimension.", kernel),
        ("remainder", "Remainder", "What the large-batch limit leaves out.", b.remainder),
        ("infonce_sym", "InfoNCE", "The loss: the sum of all terms.", b.infonce_sym),
    ]
    return [Line(key, Measure(name, why), (share,), key == "infonce_sym") for key, name, why, share in parts]


def _times(estimate: Estimate, factor: float) -> Estimate:
    low, high = sorted((factor * estimate.low, factor * estimate.high))
    return Estimate(factor * estimate.value, abs(factor) * estimate.stderr, low, high, estimate.withheld)


def shares(diagnosis: Diagnosis) -> list[Estimate]:
    """The terms' own numbers."""
    return [cell for line in terms(diagnosis) for cell in line.cells if isinstance(cell, Estimate)]


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The terms, and all parts of the budget under their own names."""
    found = {key: part for key, part in vars(diagnosis.budget).items() if isinstance(part, Estimate)}
    parts = {key: found[key] for key in dict.fromkeys([*WORDS, *found]) if key in found}
    caption = "Energy budget of the symmetric InfoNCE"
    return [
        Table("budget", "Term", (Column("nats"),), terms(diagnosis), intervals=True, caption=caption),
        Table("parts", "Part", (Column("Estimate"),), lines_of(WORDS, parts, diagnosis), intervals=True),
    ]


def notes(diagnosis: Diagnosis) -> list[str]:
    """What Markdown says above the tables."""
    found = [f"In nats, at temperature {diagnosis.inputs.temperature:g}. The terms add up to the loss."]
    if not diagnosis.budget.resolved:
        found.append(
            "**The data do not resolve the densities at this temperature**: dispersion and divergence are rough."
        )
    return found


def cards(diagnosis: Diagnosis) -> list[Card]:
    """The loss."""
    chance = number(math.log1p(diagnosis.budget.negatives), 2)
    lines = [f"Guessing would cost log(N + 1) = {chance} nats."]
    return [Card("Loss (symmetric InfoNCE)", diagnosis.budget.infonce_sym, lines, unit=" nats")]


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """The waterfall."""
    lines, parts = terms(diagnosis), shares(diagnosis)
    labels = [short(line.measure.label) for line in lines]
    values = [finite(share.value) for share in parts]
    texts = [value_text(share) if line.total else signed_text(share) for line, share in zip(lines, parts, strict=True)]
    ends = [*itertools.accumulate(v or 0.0 for v in values[:-1]), values[-1]]
    bars = {
        "type": "waterfall",
        "orientation": "h",
        "y": labels,
        "x": values,
        "measure": ["total" if line.total else "relative" for line in lines],
        "textposition": "none",
        "customdata": [[text, interval_text(share)] for text, share in zip(texts, parts, strict=True)],
        "hovertemplate": "<b>%{y}</b> %{customdata[0]} nats<br>95%: %{customdata[1]}<extra></extra>",
        "connector": {"line": {"color": MUTED, "width": 1, "dash": "dot"}},
        "increasing": {"marker": {"color": on_page("up")}},
        "decreasing": {"marker": {"color": on_page("down")}},
        "totals": {"marker": {"color": on_page("total")}},
        "showlegend": False,
    }
    over = {"type": "scatter", "y": labels, "hoverinfo": "skip", "showlegend": False}
    arms = over | {
        "mode": "markers",
        "x": ends,
        "marker": {"size": 1, "color": INK},
        "error_x": error_bar(parts),
    }
    # All texts stand to the right of their bar and its whisker: there they never meet the names on the left.
    running = [0.0, *(end or 0.0 for end in ends)]
    starts = [*running[: len(lines) - 1], 0.0]
    reach = [max(s, e + arm) for s, e, arm in zip(starts, running[1:], whiskers(parts)[1], strict=True)]
    amounts = over | {
        "mode": "text",
        "x": reach,
        "text": [f"  {text}" for text in texts],
        "textposition": "middle right",
        "cliponaxis": False,
    }
    width = max(running) - min(running) or 1.0
    low = min(running) - 0.05 * width
    layout = base_layout(
        height=520,
        x=title("nats", range=[low, max(running) + 0.24 * width], zeroline=True, zerolinecolor=MUTED),
        y={"autorange": "reversed", "showgrid": False, "ticks": ""},
    )
    chart = {"data": [bars, arms, amounts], "layout": layout, "narrow": [low, max(running) + 0.45 * width]}
    return {"chart-budget": chart}


def figure(diagnosis: Diagnosis) -> Figure:
    """The waterfall, for papers."""
    lines, parts = terms(diagnosis), shares(diagnosis)
    drawn, axes = bare_figure(6.3, 3.5)
    start, ends = 0.0, [0.0]
    for row, (line, share) in enumerate(zip(lines, parts, strict=True)):
        value = finite(share.value) or 0.0
        left = 0.0 if line.total else start
        colour = on_paper("total" if line.total else "up" if value > 0 else "down")
        axes.barh(row, value, left=left, height=0.62, color=colour, zorder=2)
        end = left + value
        arms = whiskers([share])
        if any(arms[0] + arms[1]):
            axes.errorbar(end, row, xerr=arms, color=PAPER_INK, elinewidth=1, capsize=2.5, zorder=3)
        if row + 1 < len(lines):
            axes.plot([end, end], [row - 0.31, row + 1.31], color=PAPER_MUTED, lw=0.7, ls=":", zorder=1)
        axes.annotate(
            value_text(share) if line.total else signed_text(share),
            (max(left, end) + arms[1][0], row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=PAPER_INK,
        )
        start = end
        ends.append(end)
    axes.set_yticks(range(len(lines)), [label(line.measure.label) for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    width = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.04 * width, max(ends) + 0.14 * width)
    axes.axvline(0, color=PAPER_MUTED, lw=0.8, zorder=1)
    no_spine(axes)
    axes.set_xlabel(f"contribution to the loss (nats), τ = {diagnosis.inputs.temperature:g}")
    return drawn


def compared_lines(reports: Sequence[Diagnosis]) -> list[Line]:
    """The loss first, then its parts, without the constants; and the effective negatives."""
    each = [{line.key: line.cells[0] for line in terms(report)} for report in reports]
    *parts, loss = (line for line in terms(reports[0]) if line.key not in _CONSTANTS)
    rows = [Line(line.key, line.measure, tuple(cells[line.key] for cells in each)) for line in (loss, *parts)]
    seen = [{"effective_negatives": report.budget.effective_negatives} for report in reports]
    return rows + side_by_side(WORDS, seen, names_of(reports[0]))


def compared_charts(sides: SideBySide) -> dict[str, Spec]:
    """The terms of every report side by side."""
    labels = [short(line.measure.label) for line in terms(sides.reports[0])]
    data: list[dict[str, Any]] = []
    for at, (name, report) in enumerate(zip(sides.names, sides.reports, strict=True)):
        parts = shares(report)
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": short(name, 30),
                "y": labels,
                "x": [finite(share.value) for share in parts],
                "error_x": error_bar(parts),
                "marker": {"color": on_page(series(at))},
                "customdata": [[with_error(share), interval_text(share)] for share in parts],
                "hovertemplate": f"<b>{short(name, 60)}</b><br>%{{y}} %{{customdata[0]}} nats<br>"
                "95%: %{customdata[1]}<extra></extra>",
            }
        )
    layout = base_layout(
        height=110 + len(labels) * (18 + 15 * len(data)),
        x=title("nats", zeroline=True, zerolinecolor=INK),
        y={"autorange": "reversed", "showgrid": False, "ticks": ""},
        barmode="group",
        bargap=0.25,
        bargroupgap=0.08,
    )
    layout["legend"] |= {"traceorder": "normal"}
    return {"chart-budget": {"data": data, "layout": layout}}


def compared_figure(sides: SideBySide) -> Figure:
    """The terms of every report side by side, for papers."""
    labels = [label(line.measure.label) for line in terms(sides.reports[0])]
    count = len(sides.names)
    drawn, axes = bare_figure(6.3, 1.0 + len(labels) * (0.2 + 0.13 * count))
    thick = 0.8 / count
    for at, (name, report) in enumerate(zip(sides.names, sides.reports, strict=True)):
        parts = shares(report)
        places = np.arange(len(parts)) + (at - (count - 1) / 2) * thick
        values = [finite(share.value) or 0.0 for share in parts]
        axes.barh(places, values, 0.92 * thick, color=on_paper(series(at)), label=label(name), zorder=2)
        axes.errorbar(values, places, xerr=whiskers(parts), color=PAPER_INK, elinewidth=0.9, ls="none", zorder=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.axvline(0, color=PAPER_MUTED, lw=0.8, zorder=1)
    no_spine(axes)
    axes.set_xlabel("contribution to the loss (nats)")
    letters = max(len(label(name)) for name in sides.names)
    legend(axes, columns=max(1, min(4, count, 75 // (letters + 6))))
    return drawn


BUDGET = Section(
    name="budget",
    title="Energy budget",
    link="Budget",
    tables=tables,
    charts=charts,
    figures={"budget": Picture("Energy budget", figure)},
    notes=notes,
    cards=cards,
    terms=(
        (
            "Temperature τ",
            "Similarities are divided by it before the softmax; a small τ looks at the nearest rows only.",
        ),
        (
            "InfoNCE",
            "The contrastive loss: how hard it is to find the partner among the negatives. Guessing costs log N.",
        ),
        ("Alignment", "The part of the loss that true pairs make: minus their mean similarity over τ."),
        (
            "Dispersion",
            "The entropy of a modality's density, smoothed at the scale of τ. Here against the uniform law on the "
            "sphere, so 0 is perfectly even, and more negative is more concentrated.",
        ),
        (
            "Divergence",
            "How differently the two modalities fill the space. It enters the symmetric loss with a minus sign: "
            "a larger gap lowers the loss, which is why training leaves one.",
        ),
        (
            "log kernel mean",
            "Logarithm of exp(similarity/τ) averaged over the uniform sphere: a constant of τ and d.",
        ),
        (
            "Remainder",
            "The loss minus the energy minus log N V: the positive pair in its own denominator, and the finite number "
            "of negatives.",
        ),
    ),
    compared=Compared(
        title="Loss and budget (nats)",
        lines=compared_lines,
        link="Budgets",
        charts=compared_charts,
        figures={"budget": Picture("Budgets", compared_figure)},
    ),
)

__all__ = ["BUDGET", "shares", "terms"]
