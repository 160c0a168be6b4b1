"""The page and the Markdown of a comparison."""

import html
import math
from typing import Any

from ..diagnosis import Estimate
from .chart_parts import INK, Spec, X, Y, base_layout, error_bar, short, short_direction
from .comparison_table import GAP_FIRST, ComparedReports, Difference, Row, Section
from .page import glyph, render
from .texts import md, md_table
from .view import SIDES
from .words import GLOSSARY, MINUS, MISSING, decimals, interval_text, number, value_text, with_error

TITLES: dict[Section, str] = {
    "budget": "Loss and budget (nats)",
    "gap": "Modality gap",
    "retrieval": "Retrieval",
    "geometry": "Geometry",
}
COLOURS = 8
_UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)


def comparison_page(comparison: ComparedReports) -> bytes:
    """The page."""
    gap = gap_rows(comparison)
    charts = {"chart-budget": budgets(comparison)}
    if gap:
        charts["chart-tradeoff"] = tradeoff(comparison)
    return render(
        "compare.html",
        charts=charts,
        names=comparison.names,
        notes=comparison.notes(),
        lead=lead_text(comparison),
        sections=[(TITLES[key], _cells(comparison.rows(key))) for key in TITLES],
        choices=[(row.key, row.measure.label) for row in gap],
        multiples=[_multiple(comparison, row) for row in comparison.rows("gap")],
        terms=GLOSSARY,
    )


def lead_text(comparison: ComparedReports) -> str:
    """What is compared, in a line."""
    first = comparison.views[0]
    temperatures = dict.fromkeys(f"{view.inputs['temperature']:g}" for view in comparison.views)
    count = len(comparison.names)
    return (
        f"{count} report{'s' if count > 1 else ''} · {first.name_x} and {first.name_y} · "
        f"temperature τ\u00a0=\u00a0{', '.join(temperatures)}"
    )


def gap_rows(comparison: ComparedReports) -> list[Row]:
    """Gap measures that every report has, the usual ones first."""
    rows = [row for row in comparison.rows("gap") if None not in row.estimates]
    order = {key: at for at, key in enumerate(GAP_FIRST)}
    return sorted(rows, key=lambda row: order.get(row.key, len(order)))


def delta_text(difference: Difference) -> str:
    """The difference with a sign and an arrow; says so where it is within the errors.

    >>> delta_text(Difference(Estimate(-0.25, 0.01, -0.27, -0.23), True))
    '▼ −0.250'
    """
    estimate = difference.estimate
    text = number(estimate.value, decimals(estimate))
    if not text.startswith(MINUS) and text != MISSING:
        text = f"+{text}"
    if difference.apart:
        return f"{'▲' if estimate.value > 0 else '▼'} {text}"
    return f"{text}, within error"


def _cells(rows: list[Row]) -> list[dict[str, Any]]:
    return [
        {
            "label": row.measure.label,
            "meaning": row.measure.meaning,
            "cells": [
                {
                    "estimate": estimate,
                    "delta": "" if change is None else delta_text(change),
                    "apart": change is not None and change.apart,
                    "title": "" if change is None else f"difference: {interval_text(change.estimate)} (95%)",
                }
                for estimate, change in zip(row.estimates, row.differences, strict=True)
            ],
        }
        for row in rows
    ]


def _multiple(comparison: ComparedReports, row: Row) -> dict[str, Any]:
    """One measure over all reports, on one axis."""
    known = [estimate for estimate in row.estimates if estimate is not None]
    lines = [
        {"name": name, "tone": f"t{at % COLOURS}", "value": value_text(e), "glyph": glyph(row.measure, e, known)}
        for at, (name, e) in enumerate(zip(comparison.names, row.estimates, strict=True))
        if e is not None
    ]
    return {"label": row.measure.label, "lines": lines}


def tradeoff(comparison: ComparedReports) -> Spec:
    """Recall at 1 against a gap measure, which the reader chooses."""
    rows = gap_rows(comparison)
    tops = [e.value for e in recalls(comparison, SIDES[0])]
    choices = [
        {
            "key": row.key,
            "title": html.escape(row.measure.label),
            "x": [_finite(e.value) for e in row.estimates if e is not None],
            "error_x": error_bar([e for e in row.estimates if e is not None]),
            "textposition": label_places(
                [e.value for e in row.estimates if e is not None], tops, list(comparison.names)
            ),
        }
        for row in rows
    ]
    data = []
    for side, colour, symbol in zip(SIDES, (X, Y), ("circle", "diamond"), strict=True):
        known = recalls(comparison, side)
        direction = short_direction(comparison.views[0], side)
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": direction,
                "x": choices[0]["x"],
                "y": [_finite(e.value) for e in known],
                "error_x": choices[0]["error_x"],
                "error_y": error_bar(known),
                "text": [short(name, 22) for name in comparison.names] if side == SIDES[0] else None,
                "textposition": choices[0]["textposition"],
                "customdata": [[short(n, 60), interval_text(e)] for n, e in zip(comparison.names, known, strict=True)],
                "cliponaxis": False,
                "marker": {"color": colour, "size": 11, "symbol": symbol, "line": {"color": INK, "width": 1}},
                "hovertemplate": f"<b>%{{customdata[0]}}</b><br>{direction}<br>R@1 %{{y:.3f}} "
                "(95%: %{customdata[1]})<br>gap %{x:.4g}<extra></extra>",
            }
        )
    layout = base_layout(height=460)
    layout["margin"] |= {"t": 34, "r": 30}
    layout["legend"] |= {"y": 1.06}
    layout["xaxis"] |= {"title": {"text": choices[0]["title"]}, "zeroline": False}
    layout["yaxis"] |= {"title": {"text": "recall at 1"}, "zeroline": False}
    return {"data": data, "layout": layout, "choices": choices}


def label_places(
    xs: list[float], ys: list[float], names: list[str], *, size: tuple[float, float] = (700.0, 330.0)
) -> list[str]:
    """Where the name of each point stands, so that names stay inside and off each other and off the points.

    Greedy, from the top down: the corner with the least in its way. The size is that of the chart, in pixels of which
    a letter takes 7 by 14.

    >>> label_places([0.0, 0.01, 1.0], [1.0, 0.99, 0.0], ["first", "second", "third"])
    ['top right', 'bottom right', 'top left']
    """
    across, up = _pixels(xs, size[0]), _pixels(ys, size[1])
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in zip(across, up, strict=True)]
    places = ["top right"] * len(names)
    for at in sorted(range(len(names)), key=lambda k: -up[k]):
        width, costs = 7 * min(len(names[at]), 22), {}
        for rank, place in enumerate(_CORNERS):
            left = across[at] + 8 if place.endswith("right") else across[at] - 8 - width
            low = up[at] + 3 if place.startswith("top") else up[at] - 17
            box = (left, low, left + width, low + 14)
            others = [b for k, b in enumerate(taken) if k != at]
            outside = max(0.0, -20 - box[0]) + max(0.0, box[2] - size[0] - 20) + max(0.0, -10 - box[1])
            costs[rank + 20 * outside + sum(_overlap(box, other) for other in others)] = (place, box)
        places[at], box = costs[min(costs)]
        taken.append(box)
    return places


_CORNERS = ("top right", "top left", "bottom right", "bottom left")
_Box = tuple[float, float, float, float]


def _pixels(values: list[float], size: float) -> list[float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return [size * (v - low) / span if math.isfinite(v) else 0.0 for v in values]


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def recalls(comparison: ComparedReports, side: str) -> list[Estimate]:
    """Recall at 1 of each report; NaN where it has none."""
    return [view.retrieval.get(f"{side}_recall_at_1") or _UNKNOWN for view in comparison.views]


def budgets(comparison: ComparedReports) -> Spec:
    """The terms of every report side by side."""
    terms = [view.terms() for view in comparison.views]
    labels = [short(term.label) for term in terms[0]]
    data = []
    for at, (name, row) in enumerate(zip(comparison.names, terms, strict=True)):
        shares = [term.share for term in row]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": short(name, 30),
                "y": labels,
                "x": [_finite(e.value) for e in shares],
                "error_x": error_bar(shares),
                "marker": {"color": f"var(--c{at % COLOURS})"},
                "customdata": [[with_error(e), interval_text(e)] for e in shares],
                "hovertemplate": f"<b>{short(name, 60)}</b><br>%{{y}} %{{customdata[0]}} nats<br>"
                "95%: %{customdata[1]}<extra></extra>",
            }
        )
    layout = base_layout(height=110 + len(labels) * (18 + 15 * len(terms)))
    layout |= {"barmode": "group", "bargap": 0.25, "bargroupgap": 0.08}
    layout["xaxis"] |= {"title": {"text": "nats"}, "zeroline": True, "zerolinecolor": INK}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "ticks": ""}
    layout["legend"] |= {"traceorder": "normal"}
    return {"data": data, "layout": layout}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def comparison_markdown(comparison: ComparedReports, *, figures: bool) -> str:
    """The tables as Markdown."""
    blocks = ["# Comparison of reports", md(lead_text(comparison))]
    blocks += [f"**{md(note)}**" for note in comparison.notes()]
    blocks.append(
        f"▲ and ▼ mark what lies higher and lower than in {md(comparison.names[0])}, where the 95% interval of the "
        "difference leaves out 0."
    )
    header = ["Measure", *map(md, comparison.names)]
    for key, title in TITLES.items():
        rows = []
        for row in comparison.rows(key):
            cells = []
            for estimate, change in zip(row.estimates, row.differences, strict=True):
                mark = "" if change is None or not change.apart else " ▲" if change.estimate.value > 0 else " ▼"
                cells.append("" if estimate is None else f"{with_error(estimate)}{mark}")
            rows.append([md(row.measure.label), *cells])
        blocks += [f"## {title}", md_table(header, rows)]
    if figures:
        names = {"tradeoff": "Retrieval against the gap", "gap": "Gap measures", "budget": "Budgets"}
        blocks += [f"![{title}](figures/{name}.png)" for name, title in names.items()]
    return "\n\n".join(blocks) + "\n"


__all__ = ["comparison_markdown", "comparison_page", "delta_text", "gap_rows", "label_places", "recalls"]
