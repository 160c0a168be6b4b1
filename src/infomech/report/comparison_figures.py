"""The figures of a comparison, for papers: PNG and PDF."""

import math
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..diagnosis import Estimate
from .comparison_page import gap_rows, label_places, recalls
from .comparison_table import ComparedReports
from .drawing import (
    INK,
    LINE,
    MARKERS,
    MUTED,
    SERIES,
    Drawing,
    X,
    Y,
    bare_axes,
    bare_figure,
    label,
    legend,
    whiskers,
)
from .view import SIDES
from .words import track


def comparison_drawings(comparison: ComparedReports) -> dict[str, Drawing]:
    """Each figure of a comparison by its name, drawn when called."""
    drawings: dict[str, Drawing] = {"gap": partial(gap, comparison), "budget": partial(budget, comparison)}
    if gap_rows(comparison):
        drawings["tradeoff"] = partial(tradeoff, comparison)
    return drawings


def tradeoff(comparison: ComparedReports) -> Figure:
    """Recall at 1 against the first gap measure that all reports have."""
    row = gap_rows(comparison)[0]
    gaps = [e for e in row.estimates if e is not None]
    figure, axes = bare_figure(5.4, 3.9)
    for side, colour, marker in zip(SIDES, (X, Y), "oD", strict=True):
        known = recalls(comparison, side)
        axes.errorbar(
            [g.value for g in gaps],
            [recall.value for recall in known],
            xerr=whiskers(gaps),
            yerr=whiskers(known),
            fmt=marker,
            color=colour,
            ms=6,
            mec=INK,
            mew=0.6,
            ecolor=MUTED,
            elinewidth=0.9,
            label=label(comparison.views[0].direction(side), 40),
        )
    named = recalls(comparison, SIDES[0])
    places = label_places(
        [g.value for g in gaps], [r.value for r in named], list(comparison.names), size=(500.0, 350.0)
    )
    for g, recall, name, place in zip(gaps, named, comparison.names, places, strict=True):
        if not math.isfinite(g.value + recall.value):
            continue
        right, top = place.endswith("right"), place.startswith("top")
        axes.annotate(
            label(name, 22),
            (g.value, recall.value),
            xytext=(5 if right else -5, 3 if top else -3),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if top else "top",
            fontsize=8,
            color=INK,
        )
    axes.margins(0.12)
    axes.set_xlabel(row.measure.label.lower())
    axes.set_ylabel("recall at 1")
    legend(axes)
    return figure


def gap(comparison: ComparedReports) -> Figure:
    """Small multiples: each measure on its own axis, one line per report."""
    rows = comparison.rows("gap")
    columns = 3
    height = max(1, math.ceil(len(rows) / columns))
    figure = Figure(figsize=(7.2, 0.4 + height * (0.5 + 0.2 * len(comparison.names))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, columns, squeeze=False, sharey=True)
    names = [label(name, 18) for name in comparison.names]
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, rows, strict=False):
        bare_axes(axes)
        known = [e for e in row.estimates if e is not None]
        axes.set_xlim(*_margin(*track(row.measure, known)))
        if row.measure.still is not None:
            axes.axvline(row.measure.still, color=LINE, lw=1.6, zorder=1)
        for at, estimate in enumerate(row.estimates):
            if estimate is not None:
                _dot(axes, at, estimate)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(labelsize=7.5)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(label(row.measure.label, 34), fontsize=8.5, color=INK, loc="left")
    return figure


def _margin(low: float, high: float) -> tuple[float, float]:
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _dot(axes: Axes, at: int, estimate: Estimate) -> None:
    axes.errorbar(
        estimate.value,
        at,
        xerr=whiskers([estimate]),
        fmt=MARKERS[at % len(MARKERS)],
        color=SERIES[at % len(SERIES)],
        ms=4.5,
        elinewidth=1.6,
        zorder=3,
    )


def budget(comparison: ComparedReports) -> Figure:
    """The terms of every report side by side."""
    terms = [view.terms() for view in comparison.views]
    count = len(terms)
    figure, axes = bare_figure(6.3, 1.0 + len(terms[0]) * (0.2 + 0.13 * count))
    thick = 0.8 / count
    for at, (name, row) in enumerate(zip(comparison.names, terms, strict=True)):
        places = np.arange(len(row)) + (at - (count - 1) / 2) * thick
        shares = [term.share for term in row]
        values = [e.value if math.isfinite(e.value) else 0.0 for e in shares]
        axes.barh(places, values, 0.92 * thick, color=SERIES[at % len(SERIES)], label=label(name), zorder=2)
        axes.errorbar(values, places, xerr=whiskers(shares), color=INK, elinewidth=0.9, ls="none", zorder=3)
    axes.set_yticks(range(len(terms[0])), [label(term.label) for term in terms[0]])
    axes.set_ylim(len(terms[0]) - 0.5, -0.5)
    axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("contribution to the loss (nats)")
    legend(axes, columns=min(4, count))
    return figure


__all__ = ["comparison_drawings"]
