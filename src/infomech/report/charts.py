"""What the interactive charts share: layout, whiskers, names that fit.

Charts are plain dictionaries: no plotly import, strict JSON. Colours are names of the page's CSS variables, which the
page's script puts in, so that charts follow the reader's light or dark theme.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._words import Measure, Uncertain, brief, cut, interval_text, with_error
from ..diagnosis.diagnosis import FloatArray
from .section import Spec
from .style import on_page, track, whiskers

INK, MUTED = on_page("ink"), on_page("muted")


def base_layout(*, height: int, x: Spec, y: Spec, **more: Any) -> Spec:
    """What all charts share: the page's fonts and colours, room for labels, the legend on top."""
    line = on_page("line")
    axis = {
        "automargin": True,
        "gridcolor": line,
        "linecolor": line,
        "zerolinecolor": line,
        "tickcolor": line,
        "ticks": "outside",
        "ticklen": 4,
        "fixedrange": False,
        "exponentformat": "power",  # no "5µ" nats
    }
    return {
        "height": height,
        "margin": {"l": 8, "r": 14, "t": 10, "b": 8},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": on_page("card"), "bordercolor": MUTED, "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": axis | x,
        "yaxis": axis | y,
        "dragmode": False,
    } | more


def title(text: str, **more: Any) -> Spec:
    """An axis with a title."""
    return {"title": {"text": text}} | more


def negatives_axis(text: str = "negatives N", **more: Any) -> Spec:
    """A logarithmic axis of counts, with whole numbers at powers of ten."""
    return title(text, type="log", dtick=1, tickformat=",", **more)


def temperature_axis(temperatures: Sequence[float], **more: Any) -> Spec:
    """A logarithmic axis of temperatures: each tick carries its whole number, and none meets another."""
    ratio = max(temperatures) / min(temperatures)
    return title("temperature τ", type="log", dtick="D2" if ratio < 40 else 1, tickformat="~g", **more)


def short(name: str, most: int = 26) -> str:
    """A name for a chart: not too long, and safe where plotly reads tags and entities.

    >>> short("<b> & co")
    '&lt;b&gt; &amp; co'
    """
    return html.escape(cut(name, most))


def error_bar(estimates: Sequence[Uncertain]) -> Spec:
    """Asymmetric 95% whiskers; none where a number is exact: no cap to draw."""
    lower, upper = ([arm or None for arm in arms] for arms in whiskers(estimates))
    return {
        "type": "data",
        "symmetric": False,
        "array": upper,
        "arrayminus": lower,
        "color": INK,
        "thickness": 1.3,
        "width": 4,
    }


def curve(name: str, x: Any, y: Any, *, colour: str, hover: str, dash: str = "solid", **more: Any) -> Spec:
    """A line; `hover` is what stands at a point of it."""
    line = {"color": colour, "width": 2.2, "dash": dash} | more.pop("line", {})
    trace = {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": line}
    return trace | {"hovertemplate": f"{hover}<extra></extra>"} | more


def numbers(values: FloatArray) -> list[float | None]:
    """Five significant digits are plenty for a screen; a third of the bytes."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=np.float64)]


def glyph(measure: Measure, estimate: Uncertain, others: Sequence[Uncertain] | None = None) -> dict[str, Any]:
    """Where dot, interval and tick stand on the measure's axis, in percent of its length: the page draws it itself."""
    bottom, top = track(measure, others or [estimate])

    def percent(value: float) -> float | None:
        return round(100 * (value - bottom) / (top - bottom), 2) if math.isfinite(value) else None

    low, high = percent(estimate.low), percent(estimate.high)
    whole = low is not None and high is not None
    return {
        "at": percent(estimate.value),
        "low": low if whole else None,
        "width": round((high or 0.0) - (low or 0.0), 2) if whole else None,
        "still": None if measure.still is None else percent(measure.still),
        "left": brief(bottom),
        "right": brief(top),
        "title": f"{measure.label}: {with_error(estimate)}, 95%: {interval_text(estimate)}",
    }


__all__ = [
    "INK",
    "MUTED",
    "base_layout",
    "curve",
    "error_bar",
    "glyph",
    "negatives_axis",
    "numbers",
    "short",
    "temperature_axis",
    "title",
]
