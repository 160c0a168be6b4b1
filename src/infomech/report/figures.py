"""The figures of one report, for papers: PNG and PDF."""

import math
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..diagnosis import Diagnosis, Estimate
from .charts import ecdf, log_range, map_axes, similarity_range, spectrum_shown
from .drawing import (
    CROSS,
    DOWN,
    INK,
    LINE,
    MUTED,
    PAIR,
    TOTAL,
    UP,
    Drawing,
    X,
    Y,
    bare_figure,
    label,
    legend,
    whiskers,
)
from .view import RECALLS, SIDES, View
from .words import MINUS, Measure, number, track, value_text, with_error


def report_drawings(view: View, diagnosis: Diagnosis) -> dict[str, Drawing]:
    """Each figure of a report by its name, drawn when called."""
    drawings: dict[str, Drawing] = {
        "budget": partial(budget, view),
        "gap": partial(gap, view),
        "similarity": partial(similarity, view, diagnosis),
        "map": partial(cloud_map, view, diagnosis),
        "spectra": partial(spectra, view, diagnosis),
        "effective_negatives": partial(effective, view, diagnosis),
        "retrieval": partial(retrieval, view),
    }
    if diagnosis.curves is not None:
        from .curve_figure import curve_figure

        drawings["curves"] = partial(curve_figure, diagnosis.curves, view)
    return drawings


def budget(view: View) -> Figure:
    """The waterfall: terms that add up to the loss."""
    terms = view.terms()
    figure, axes = bare_figure(6.3, 3.5)
    start, ends = 0.0, [0.0]
    for row, term in enumerate(terms):
        value = term.share.value if math.isfinite(term.share.value) else 0.0
        left = 0.0 if term.total else start
        colour = TOTAL if term.total else UP if value > 0 else DOWN
        axes.barh(row, value, left=left, height=0.62, color=colour, zorder=2)
        end = left + value
        arms = whiskers([term.share])
        if any(arms[0] + arms[1]):
            axes.errorbar(end, row, xerr=arms, color=INK, elinewidth=1, capsize=2.5, zorder=3)
        if row + 1 < len(terms):
            axes.plot([end, end], [row - 0.31, row + 1.31], color=MUTED, lw=0.7, ls=":", zorder=1)
        right = max(left, end) + arms[1][0]
        axes.annotate(
            value_text(term.share) if term.total else _signed(term.share),
            (right, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
        start = end
        ends.append(end)
    axes.set_yticks(range(len(terms)), [label(term.label) for term in terms])
    axes.set_ylim(len(terms) - 0.5, -0.5)
    width = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.04 * width, max(ends) + 0.14 * width)
    axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"contribution to the loss (nats), τ = {view.inputs['temperature']:g}")
    return figure


def _signed(estimate: Estimate) -> str:
    text = value_text(estimate)
    return text if text.startswith(MINUS) else f"+{text}"


def gap(view: View) -> Figure:
    """Gap measures with 95% intervals, each on its own axis."""
    lines = view.gap_lines()
    figure, axes = bare_figure(6.3, 0.5 + 0.33 * max(1, len(lines)))
    for row, line in enumerate(lines):
        interval_row(axes, row, line.measure, line.estimate)
    axes.set_yticks(range(len(lines)), [label(line.measure.label, 34) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(-0.1, 1.58)
    axes.set_xticks([])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("each measure on its own axis; bar: 95% interval; tick: no gap; value ± standard error")
    axes.xaxis.label.set_fontsize(8)
    return figure


def interval_row(axes: Axes, row: int, measure: Measure, estimate: Estimate) -> None:
    """One measure on an axis of its own from 0 to 1 of the figure's width."""
    bottom, top = track(measure, [estimate])

    def at(value: float) -> float:
        return (value - bottom) / (top - bottom)

    axes.plot([0, 1], [row, row], color=LINE, lw=1.6, zorder=1, solid_capstyle="butt")
    if measure.still is not None:
        axes.plot([at(measure.still)] * 2, [row - 0.28, row + 0.28], color=MUTED, lw=1.4, zorder=2)
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        axes.plot([at(estimate.low), at(estimate.high)], [row, row], color=TOTAL, lw=4, alpha=0.5, zorder=3)
    axes.plot(at(estimate.value), row, "o", ms=4.5, color=TOTAL, zorder=4)
    for place, side, end in ((-0.02, "right", bottom), (1.02, "left", top)):
        text = f"{end:.2g}".replace("-", MINUS)
        axes.text(place, row, text, ha=side, va="center", fontsize=7, color=MUTED)
    axes.text(1.17, row, with_error(estimate), va="center", fontsize=8.5, color=INK)


def similarity(view: View, diagnosis: Diagnosis) -> Figure:
    """Histograms of cosines of true and random pairs."""
    pictures = diagnosis.pictures
    x, y = label(view.name_x, 16), label(view.name_y, 16)
    figure, axes = bare_figure(5.4, 3.3)
    for key, name, colour, style, filled in (
        ("pairs", "true pairs", PAIR, "-", True),
        ("xy", f"random {x} – {y}", CROSS, "-", True),
        ("xx", f"random {x} – {x}", X, "--", False),
        ("yy", f"random {y} – {y}", Y, ":", False),
    ):
        counts = pictures.similarity_counts.get(key)
        if counts is None:
            continue
        if filled:
            axes.stairs(counts, pictures.similarity_edges, fill=True, color=colour, alpha=0.18, lw=0)
        axes.stairs(counts, pictures.similarity_edges, color=colour, ls=style, lw=1.5, label=name)
    axes.set_xlim(*similarity_range(diagnosis))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("density")
    legend(axes)
    return figure


def cloud_map(view: View, diagnosis: Diagnosis) -> Figure:
    """Both clouds in one linear projection, with equal scales."""
    pictures = diagnosis.pictures
    figure, axes = bare_figure(5.4, 4.3)
    centres = []
    for name, points, colour, marker in (
        (view.name_x, pictures.map_x, X, "o"),
        (view.name_y, pictures.map_y, Y, "D"),
    ):
        if not len(points):
            continue
        # As pixels inside the PDF: thousands of vector dots make it slow to open.
        axes.scatter(points[:, 0], points[:, 1], s=7, marker=marker, color=colour, alpha=0.45, lw=0, rasterized=True)
        centres.append((points.mean(axis=0), colour, marker, label(name)))
    axes.plot(*np.array([c[0] for c in centres]).T.reshape(2, -1), color=INK, lw=1.4, zorder=4)
    for centre, colour, marker, name in centres:
        axes.plot(*centre, marker, color=colour, ms=9, mec=INK, mew=1.4, zorder=5, label=name, ls="none")
    axes.set_aspect("equal", adjustable="datalim")
    across, up = map_axes(diagnosis)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    legend(axes)
    share = f"{pictures.map_explained:.0%} of the variance"
    axes.text(1, 1.02, share, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=MUTED)
    return figure


def spectra(view: View, diagnosis: Diagnosis) -> Figure:
    """Eigenvalues of the centred covariance of each modality."""
    figure, axes = bare_figure(5.4, 3.3)
    for name, values, colour, style in (
        (view.name_x, diagnosis.pictures.spectrum_x, X, "-"),
        (view.name_y, diagnosis.pictures.spectrum_y, Y, "--"),
    ):
        kept = spectrum_shown(values)
        if len(kept):
            axes.plot(np.arange(1, len(kept) + 1), kept, style, color=colour, lw=1.7, label=label(name))
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("principal direction")
    axes.set_ylabel("variance")
    if axes.lines:
        legend(axes)
    return figure


def effective(view: View, diagnosis: Diagnosis) -> Figure:
    """Distribution functions of the effective negatives."""
    pictures = diagnosis.pictures
    samples = pictures.effective_negatives_x_to_y, pictures.effective_negatives_y_to_x
    figure, axes = bare_figure(5.4, 3.3)
    for side, values, colour, style in zip(SIDES, samples, (X, Y), ("-", "--"), strict=True):
        axes.step(*ecdf(values), style, where="post", color=colour, lw=1.7, label=label(view.direction(side), 40))
    axes.set_xscale("log")
    low, high = log_range(*samples, view.negatives)
    axes.set_xlim(10**low, 10**high)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if view.negatives > 0:
        axes.axvline(view.negatives, color=MUTED, lw=1.2, ls=":")
        axes.annotate(
            f"N = {number(view.negatives, 0)}",
            (view.negatives, 0.04),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            color=MUTED,
        )
    axes.set_xlabel("effective negatives of an anchor (of N)")
    axes.set_ylabel("share of anchors")
    legend(axes)
    return figure


def retrieval(view: View) -> Figure:
    """Recall both ways, and what shuffled partners give."""
    figure, axes = bare_figure(5.4, 3.3)
    width = 0.2
    kinds = [(prefix, side) for prefix in ("", "shuffled_") for side in SIDES]
    for at, (prefix, side) in enumerate(kinds):
        cells = [(k, view.retrieval.get(f"{prefix}{side}_recall_at_{k}")) for k in RECALLS]
        known = [(place, cell) for place, (_, cell) in enumerate(cells) if cell is not None]
        if not known:
            continue
        places = [place + (at - 1.5) * width for place, _ in known]
        estimates = [cell for _, cell in known]
        colour = X if side == "x_to_y" else Y
        axes.bar(
            places,
            [e.value for e in estimates],
            0.92 * width,
            color="white" if prefix else colour,
            edgecolor=colour,
            hatch="////" if prefix else None,
            lw=0.8,
            label=label(view.direction(side), 30) + (", shuffled" if prefix else ""),
        )
        values = [e.value for e in estimates]
        axes.errorbar(places, values, whiskers(estimates), color=INK, elinewidth=1, capsize=2, ls="none")
    axes.set_xticks(range(len(RECALLS)), [f"R@{k}" for k in RECALLS])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("share of queries with a hit")
    legend(axes)
    return figure


__all__ = ["report_drawings"]
