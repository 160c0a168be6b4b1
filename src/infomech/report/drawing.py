"""What the figures on paper share: bare axes, legends, and files of a figure as bytes. No pyplot, no global state."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .._checks import InputError, shown
from .._words import cut
from .style import SERIES as _SERIES
from .style import on_paper, whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # matplotlib is imported when the first figure is drawn

INK, MUTED, LINE = on_paper("ink"), on_paper("muted"), on_paper("line")
X, Y = on_paper("x"), on_paper("y")
SERIES = tuple(on_paper(name) for name in _SERIES)
MARKERS = "osD^vP*X"
FORMATS = ("png", "pdf")
FONTS: dict[Any, Any] = {"pdf.fonttype": 42}  # journals refuse Type 3

Drawing = Callable[[], Figure]


def figure_files(drawings: Mapping[str, Drawing]) -> Iterator[tuple[str, bytes]]:
    """Each figure as PNG and PDF, drawn one after the other."""
    for name, draw in drawings.items():
        figure = draw()
        for kind in FORMATS:
            yield f"figures/{name}.{kind}", figure_bytes(figure, kind)
            figure.set_layout_engine("none")  # keeps what the first file's layout has found: it is half of the time


def figure_names(names: Iterable[str]) -> list[str]:
    """The files that `figure_files` writes for figures of these names."""
    return [f"figures/{name}.{kind}" for name in names for kind in FORMATS]


def chosen_figure(drawings: Mapping[str, Drawing], name: str | None) -> Figure:
    """The figure of that name, or the first; raises InputError if there is none."""
    if name is None:
        name = next(iter(drawings))
    if not isinstance(name, str) or name not in drawings:
        raise InputError(f"there is no figure {shown(name)}; choose one of {', '.join(drawings)}")
    return drawings[name]()


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure in one format; the same figure gives the same bytes."""
    import matplotlib as mpl

    out = io.BytesIO()
    dated = {"Creator": "infomech", "CreationDate": None} if kind == "pdf" else {"Software": "infomech"}
    # Names may hold letters that the font lacks: a box is drawn in their place.
    with mpl.rc_context(FONTS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*[Gg]lyph.*")
        figure.savefig(out, format=kind, dpi=200, metadata=dated)
    return out.getvalue()


def blank_figure(width: float, height: float) -> Figure:
    """A figure without axes; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bare_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes in the common style; sizes in inches."""
    figure = blank_figure(width, height)
    axes = figure.subplots()
    bare_axes(axes)
    return figure, axes


def bare_axes(axes: Axes) -> None:
    """No box, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5, width=0.8, length=3)
    axes.xaxis.label.set(color=INK, fontsize=9.5)
    axes.yaxis.label.set(color=INK, fontsize=9.5)


def whole_numbers(axes: Axes) -> None:
    """Each tick of the vertical axis carries its whole number: no multiplier stands above the axes."""
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)


def legend(axes: Axes, columns: int = 2, **more: object) -> None:
    """A legend above the axes, without a frame."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        borderaxespad=0.3,
        handlelength=1.8,
        columnspacing=1.4,
        **more,
    )


def label(name: str, most: int = 26) -> str:
    r"""A name for a figure: not too long, and no mathematics in it.

    >>> label("US$ & EUR$")
    'US\\$ & EUR\\$'
    """
    shown = cut(name, most).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib leaves those names out of legends


def no_spine(axes: Axes) -> None:
    """Names of rows on the left, without an axis line."""
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


__all__ = [
    "FORMATS",
    "INK",
    "LINE",
    "MARKERS",
    "MUTED",
    "SERIES",
    "Axes",
    "Drawing",
    "Figure",
    "X",
    "Y",
    "bare_axes",
    "bare_figure",
    "blank_figure",
    "chosen_figure",
    "figure_bytes",
    "figure_files",
    "figure_names",
    "label",
    "legend",
    "no_spine",
    "whiskers",
    "whole_numbers",
]
