"""What the figures on paper share: colours, bare axes, and files of a figure as bytes. No pyplot, no global state."""

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..diagnosis import Estimate

INK, MUTED, LINE = "#1b2430", "#5d6876", "#d5dae0"
X, Y, PAIR, CROSS = "#0072b2", "#d55e00", "#009e73", "#6c7585"  # after Okabe and Ito: told apart by every eye
UP, DOWN, TOTAL = "#aa3377", "#9a9430", "#38424f"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#b08900", "#2f9fd0", "#38424f", "#8a5a44")
MARKERS = "osD^vP*X"
FORMATS = ("png", "pdf")

Drawing = Callable[[], Figure]


def figure_files(drawings: dict[str, Drawing]) -> Iterator[tuple[str, bytes]]:
    """Each figure as PNG and PDF, drawn one after the other."""
    for name, draw in drawings.items():
        figure = draw()
        for kind in FORMATS:
            yield f"figures/{name}.{kind}", figure_bytes(figure, kind)
            figure.set_layout_engine("none")  # keeps what the first file's layout has found: it is half of the time


def figure_names(names: tuple[str, ...]) -> list[str]:
    """The files that `figure_files` writes for figures of these names."""
    return [f"figures/{name}.{kind}" for name in names for kind in FORMATS]


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure in one format; the same figure gives the same bytes."""
    out = io.BytesIO()
    dated = {"Creator": "infomech", "CreationDate": None} if kind == "pdf" else {"Software": "infomech"}
    # Type 42 fonts: journals refuse Type 3. Names may hold letters that the font lacks: a box is drawn in their place.
    with mpl.rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*[Gg]lyph.*")
        figure.savefig(out, format=kind, dpi=200, metadata=dated)
    return out.getvalue()


def bare_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes in the common style; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
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
    name = " ".join(name.split())
    name = name if len(name) <= most else name[: most - 1] + "…"
    return name.replace("$", r"\$")


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most that many letters."""
    return "\n".join(textwrap.wrap(text, width)) or text


def whiskers(estimates: list[Estimate]) -> list[list[float]]:
    """Lower and upper arms of 95% intervals; none where one is not finite or points the wrong way."""

    def arm(length: float) -> float:
        return max(0.0, length) if math.isfinite(length) else 0.0

    return [[arm(e.value - e.low) for e in estimates], [arm(e.high - e.value) for e in estimates]]


__all__ = [
    "CROSS",
    "DOWN",
    "FORMATS",
    "INK",
    "LINE",
    "MARKERS",
    "MUTED",
    "PAIR",
    "SERIES",
    "TOTAL",
    "UP",
    "Drawing",
    "X",
    "Y",
    "bare_axes",
    "bare_figure",
    "figure_bytes",
    "figure_files",
    "figure_names",
    "label",
    "legend",
    "whiskers",
    "wrapped",
]
