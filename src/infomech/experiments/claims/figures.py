"""Figures of the claims: what was predicted as a line, what was measured as points with error bars."""

import math

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ...report.drawing import MARKERS, SERIES, bare_axes, figure_bytes
from .claim import ClaimResult, Picture

_PER_ROW = 3


def claim_figure(result: ClaimResult) -> bytes:
    """A claim's pictures side by side, as the bytes of a PNG file."""
    columns = min(_PER_ROW, len(result.pictures))
    rows = math.ceil(len(result.pictures) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.5 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    verdict = "holds" if result.holds else "FAILS"
    figure.suptitle(f"{result.tag}: {result.statement} [{verdict}]", fontsize=9, wrap=True)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, picture in zip(grid, result.pictures, strict=False):
        draw_picture(axes, picture)
    for axes in grid[len(result.pictures) :]:
        axes.set_axis_off()
    return figure_bytes(figure, "png")


def draw_picture(axes: Axes, picture: Picture) -> None:
    """Draw one picture on a pair of axes."""
    bare_axes(axes)
    for position, series in enumerate(picture.series):
        colour = SERIES[position % len(SERIES)]
        marker = MARKERS[position % len(MARKERS)] if series.error is not None or not series.line else None
        style = "-" if series.line else "none"
        axes.errorbar(
            series.x,
            series.y,
            yerr=series.error,
            color=colour,
            marker=marker,
            markersize=4,
            linestyle=style,
            linewidth=1.3,
            capsize=2,
            label=series.label,
        )
    if picture.log_x:
        axes.set_xscale("log")
        _few_ticks(axes.xaxis)
    if picture.log_y:
        axes.set_yscale("log")
        _few_ticks(axes.yaxis)
    axes.set_title(picture.title, fontsize=9)
    axes.set_xlabel(picture.x_label, fontsize=8)
    axes.set_ylabel(picture.y_label, fontsize=8)
    axes.tick_params(labelsize=7)
    if any(series.label for series in picture.series):
        axes.legend(fontsize=7, frameon=False)


def _few_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2, 5 on a short logarithmic axis; powers of ten alone on a long one."""
    low, high = axis.get_view_interval()
    if high / low < 300:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


__all__ = ["claim_figure", "draw_picture"]
