"""What the interactive charts share: colours, layout, whiskers, names that fit."""

import html
import math
from typing import Any

import numpy as np

from ..diagnosis import Estimate
from ..diagnosis.diagnosis import FloatArray
from .view import View

Spec = dict[str, Any]

INK, MUTED, GRID, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--card)"
X, Y, PAIR, CROSS = "var(--x)", "var(--y)", "var(--pair)", "var(--cross)"
UP, DOWN, TOTAL = "var(--up)", "var(--down)", "var(--total)"


def base_layout(*, height: int) -> Spec:
    """What all charts share: the page's fonts and colours, room for labels, the legend on top."""
    axis = {
        "automargin": True,
        "gridcolor": GRID,
        "linecolor": GRID,
        "zerolinecolor": GRID,
        "tickcolor": GRID,
        "ticks": "outside",
        "ticklen": 4,
        "fixedrange": False,
    }
    return {
        "height": height,
        "margin": {"l": 8, "r": 14, "t": 10, "b": 8},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": MUTED, "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
        "dragmode": False,
    }


def short(name: str, most: int = 26) -> str:
    """A name for a chart: not too long, and safe where plotly reads tags and entities."""
    return html.escape(name if len(name) <= most else name[: most - 1] + "…")


def short_direction(view: View, side: str) -> str:
    """The direction of a search in words for a legend."""
    first, second = (view.name_x, view.name_y) if side == "x_to_y" else (view.name_y, view.name_x)
    return f"{short(first, 14)} → {short(second, 14)}"


def error_bar(estimates: list[Estimate], **more: Any) -> Spec:
    """Asymmetric 95% whiskers."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [finite(e.high - e.value) or None for e in estimates],  # none where exact: no cap to draw
        "arrayminus": [finite(e.value - e.low) or None for e in estimates],
        "color": INK,
        "thickness": 1.3,
        "width": 4,
    } | more


def numbers(values: FloatArray) -> list[float | None]:
    """Five significant digits are plenty for a screen; a third of the bytes."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=np.float64)]


def finite(value: float) -> float | None:
    """The value, or None: JSON knows no NaN."""
    return value if math.isfinite(value) else None


__all__ = [
    "CROSS",
    "DOWN",
    "GRID",
    "INK",
    "MUTED",
    "PAIR",
    "PAPER",
    "TOTAL",
    "UP",
    "Spec",
    "X",
    "Y",
    "base_layout",
    "error_bar",
    "finite",
    "numbers",
    "short",
    "short_direction",
]
