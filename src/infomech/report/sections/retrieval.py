"""Retrieval (E5): how often partners are found, both ways, and against the gap over several reports."""

import html
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..._words import Measure, interval_text, with_error
from ...diagnosis import Diagnosis, Estimate
from ...diagnosis.retrieval import RECALL_AT
from ..charts import INK, MUTED, base_layout, error_bar, short, title
from ..drawing import INK as PAPER_INK
from ..drawing import MUTED as PAPER_MUTED
from ..drawing import bare_figure, label, legend
from ..section import (
    DIRECTIONS,
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
    direction,
)
from ..style import SIDES, finite, on_page, on_paper, whiskers
from .gap import shared

# Prefix, direction and colour: both directions, then both of the control.
_KINDS = tuple(
    (prefix, side, colour) for prefix in ("", "shuffled_") for side, (colour, *_) in zip(DIRECTIONS, SIDES, strict=True)
)
_UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)


def tables(diagnosis: Diagnosis) -> list[Table]:
    """Both directions, then both of the shuffled control."""
    columns = tuple(Column(direction(diagnosis, side), "shuffled" if prefix else "") for prefix, side, _ in _KINDS)
    keys = {f"recall_at_{k}": f"Recall at {k}" for k in RECALL_AT} | {"median_rank": "Median rank"}
    lines = [
        Line(key, Measure(words), tuple(diagnosis.retrieval.get(f"{prefix}{side}_{key}") for prefix, side, _ in _KINDS))
        for key, words in keys.items()
    ]
    lines = [line for line in lines if any(cell is not None for cell in line.cells)]
    caption = "Retrieval, with shuffled partners as a control"
    return [Table("retrieval", "", columns, lines, caption=caption, note="Value and 95% interval.")]


def cards(diagnosis: Diagnosis) -> list[Card]:
    """Recall at 1, both ways."""
    first, second = (diagnosis.retrieval.get(f"{side}_recall_at_1") for side in DIRECTIONS)
    if first is None:
        return []
    lines = [direction(diagnosis, "x_to_y")]
    if second is not None:
        lines.append(f"{direction(diagnosis, 'y_to_x')}: {with_error(second)}")
    return [Card("Recall at 1", first, lines)]


def _recalls(diagnosis: Diagnosis, prefix: str) -> list[Estimate] | None:
    """Recalls at 1, 5 and 10; None where there are none at all."""
    cells = [diagnosis.retrieval.get(f"{prefix}_recall_at_{k}") for k in RECALL_AT]
    return [cell or _UNKNOWN for cell in cells] if any(cells) else None


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """Recall both ways, and what shuffled partners give."""
    data = []
    for prefix, side, colour in _KINDS:
        known = _recalls(diagnosis, prefix + side)
        if known is None:
            continue
        name = short(direction(diagnosis, side, 14), 31) + (", shuffled" if prefix else "")
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": [f"R@{k}" for k in RECALL_AT],
                "y": [finite(cell.value) for cell in known],
                "error_y": error_bar(known),
                "customdata": [interval_text(cell) for cell in known],
                "marker": {"color": MUTED if prefix else on_page(colour), "pattern": {"shape": "/" if prefix else ""}},
                "hovertemplate": f"{name}<br>%{{x}} = %{{y:.3f}}<br>95%: %{{customdata}}<extra></extra>",
            }
        )
    layout = base_layout(
        height=380,
        x=title("recall at k", showgrid=False),
        y=title("share of queries with a hit", range=[0, 1.03]),
        barmode="group",
        bargap=0.22,
        bargroupgap=0.06,
    )
    return {"chart-retrieval": {"data": data, "layout": layout}}


def figure(diagnosis: Diagnosis) -> Figure:
    """Recall both ways, and what shuffled partners give."""
    drawn, axes = bare_figure(5.4, 3.3)
    width = 0.2
    for at, (prefix, side, name) in enumerate(_KINDS):
        known = _recalls(diagnosis, prefix + side)
        if known is None:
            continue
        colour = on_paper(name)
        places = [place + (at - 1.5) * width for place in range(len(known))]
        values = [cell.value for cell in known]
        axes.bar(
            places,
            values,
            0.92 * width,
            color="white" if prefix else colour,
            edgecolor=colour,
            hatch="////" if prefix else None,
            lw=0.8,
            label=label(direction(diagnosis, side), 30) + (", shuffled" if prefix else ""),
        )
        axes.errorbar(places, values, whiskers(known), color=PAPER_INK, elinewidth=1, capsize=2, ls="none")
    axes.set_xticks(range(len(RECALL_AT)), [f"R@{k}" for k in RECALL_AT])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("share of queries with a hit")
    legend(axes)
    return drawn


def compared_lines(reports: Sequence[Diagnosis]) -> list[Line]:
    """Recall and median rank, one direction after the other."""
    words = {f"recall_at_{k}": Measure(f"R@{k}", ends=(0.0, 1.0)) for k in RECALL_AT}
    words["median_rank"] = Measure("Median rank", ends=(1.0, None))
    rows = [
        Line(
            f"{side}_{key}",
            replace(measure, label=f"{measure.label}, {direction(reports[0], side)}"),
            tuple(report.retrieval.get(f"{side}_{key}") for report in reports),
        )
        for side in DIRECTIONS
        for key, measure in words.items()
    ]
    return [row for row in rows if any(row.cells)]


def _first(sides: SideBySide, side: str) -> list[Estimate]:
    """Recall at 1 of each report; NaN where it has none."""
    return [report.retrieval.get(f"{side}_recall_at_1") or _UNKNOWN for report in sides.reports]


def tradeoff(sides: SideBySide) -> dict[str, Spec]:
    """Recall at 1 against a gap measure, which the reader chooses."""
    tops = [cell.value for cell in _first(sides, DIRECTIONS[0])]
    choices = [
        {
            "key": key,
            "title": html.escape(measure.label),
            "x": [finite(gap.value) for gap in gaps],
            "error_x": error_bar(gaps),
            "textposition": label_places([gap.value for gap in gaps], tops, list(sides.names)),
        }
        for key, (measure, gaps) in shared(sides.reports).items()
    ]
    shown = choices[0]
    data = []
    for side, (colour, _, symbol, _) in zip(DIRECTIONS, SIDES, strict=True):
        known = _first(sides, side)
        way = short(direction(sides.reports[0], side, 14), 31)
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": way,
                "x": shown["x"],
                "y": [finite(cell.value) for cell in known],
                "error_x": shown["error_x"],
                "error_y": error_bar(known),
                "text": [short(name, 22) for name in sides.names] if side == DIRECTIONS[0] else None,
                "textposition": shown["textposition"],
                "customdata": [[short(n, 60), interval_text(e)] for n, e in zip(sides.names, known, strict=True)],
                "cliponaxis": False,
                "marker": {"color": on_page(colour), "size": 11, "symbol": symbol, "line": {"color": INK, "width": 1}},
                "hovertemplate": f"<b>%{{customdata[0]}}</b><br>{way}<br>R@1 %{{y:.3f}} "
                "(95%: %{customdata[1]})<br>gap %{x:.4g}<extra></extra>",
            }
        )
    across, up = title(str(shown["title"]), zeroline=False), title("recall at 1", zeroline=False)
    layout = base_layout(height=460, x=across, y=up)
    layout["margin"] |= {"t": 34, "r": 30}
    layout["legend"] |= {"y": 1.06}
    return {"chart-tradeoff": {"data": data, "layout": layout, "choices": choices}}


def tradeoff_figure(sides: SideBySide) -> Figure:
    """Recall at 1 against the first gap measure that all reports have."""
    measure, gaps = next(iter(shared(sides.reports).values()))
    at = [gap.value for gap in gaps]
    drawn, axes = bare_figure(5.4, 3.9)
    for side, (colour, _, _, marker) in zip(DIRECTIONS, SIDES, strict=True):
        known = _first(sides, side)
        axes.errorbar(
            at,
            [recall.value for recall in known],
            xerr=whiskers(gaps),
            yerr=whiskers(known),
            fmt=marker,
            color=on_paper(colour),
            ms=6,
            mec=PAPER_INK,
            mew=0.6,
            ecolor=PAPER_MUTED,
            elinewidth=0.9,
            label=label(direction(sides.reports[0], side), 40),
        )
    tops = [recall.value for recall in _first(sides, DIRECTIONS[0])]
    places = label_places(at, tops, list(sides.names), size=(500.0, 350.0))
    for x, y, name, place in zip(at, tops, sides.names, places, strict=True):
        if not math.isfinite(x + y):
            continue
        right, top = place.endswith("right"), place.startswith("top")
        axes.annotate(
            label(name, 22),
            (x, y),
            xytext=(5 if right else -5, 3 if top else -3),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if top else "top",
            fontsize=8,
            color=PAPER_INK,
        )
    axes.margins(0.12)
    axes.set_xlabel(measure.label.lower())
    axes.set_ylabel("recall at 1")
    legend(axes)
    return drawn


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
    known = [v for v in values if math.isfinite(v)] or [0.0]
    low, span = min(known), (max(known) - min(known)) or 1.0
    return [size * (v - low) / span if math.isfinite(v) else 0.0 for v in values]


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def compared_fill(sides: SideBySide) -> dict[str, Any]:
    """The gap measures that a reader may choose from."""
    return {"choices": [(key, measure.label) for key, (measure, _) in shared(sides.reports).items()]}


RETRIEVAL = Section(
    name="retrieval",
    title="Retrieval",
    link="Retrieval",
    tables=tables,
    charts=charts,
    figures={"retrieval": Picture("Retrieval", figure)},
    cards=cards,
    terms=(
        (
            "Recall at k",
            "Share of the queries with a true partner among the k most similar rows of the other modality.",
        ),
        (
            "Shuffled control",
            "The same with partners exchanged at random: what a model that knows nothing would score.",
        ),
    ),
    compared=Compared(
        title="Retrieval",
        lines=compared_lines,
        link="Retrieval and gap",
        charts=tradeoff,
        fill=compared_fill,
        figures={"tradeoff": Picture("Retrieval against the gap", tradeoff_figure)},
        present=lambda sides: bool(shared(sides.reports)),
    ),
)

__all__ = ["RETRIEVAL", "label_places"]
