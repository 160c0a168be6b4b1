"""The parts of the budget against N: a small panel for each, with its band, and a line at the batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._words import cut, interval_text, put_in
from ..diagnosis import Diagnosis, Estimate
from .charts import MUTED, base_layout, negatives_axis, short
from .drawing import MUTED as PAPER_MUTED
from .drawing import Axes, bare_axes, label, whole_numbers
from .section import Spec, names_of
from .style import DASHES, finite, least_range, on_page, on_paper

# Panels from the top: the axis, and of each line its part, words, colour and dash.
PANELS: tuple[tuple[str, tuple[tuple[str, str, str, str], ...]], ...] = (
    ("InfoNCE", (("infonce_sym", "InfoNCE", "total", "solid"),)),
    (
        "dispersion",
        (
            ("dispersion_x_relative", "dispersion of {x}", "x", "solid"),
            ("dispersion_y_relative", "dispersion of {y}", "y", "dash"),
        ),
    ),
    ("divergence", (("divergence_sym", "divergence", "up", "solid"),)),
    (
        "effective negatives",
        (
            ("effective_negatives_xy", "effective negatives, {x} → {y}", "x", "solid"),
            ("effective_negatives_yx", "effective negatives, {y} → {x}", "y", "dash"),
        ),
    ),
)
_GAP = 0.05  # between two panels, of the height of all


@dataclass(frozen=True)
class _Line:
    """One part over N, and what an extrapolation says of a batch larger than the data."""

    name: str
    colour: str
    dash: str
    negatives: list[int]
    estimates: list[Estimate]
    beyond: tuple[int, float, float] | None  # N, and the ends of the bracket


def _lines(diagnosis: Diagnosis, parts: tuple[tuple[str, str, str, str], ...]) -> list[_Line]:
    budget = diagnosis.budget
    x, y = (cut(name, 14) for name in names_of(diagnosis))
    return [
        _Line(
            put_in(words, x, y), colour, dash, budget.curve.negatives, budget.curve.parts[key], _beyond(diagnosis, key)
        )
        for key, words, colour, dash in parts
    ]


def _shown(diagnosis: Diagnosis, parts: tuple[tuple[str, str, str, str], ...]) -> list[Estimate]:
    return [e for line in _lines(diagnosis, parts) for e in line.estimates]


def _beyond(diagnosis: Diagnosis, key: str) -> tuple[int, float, float] | None:
    found = diagnosis.budget.beyond
    name = key.removesuffix("_relative")
    if found is None or name not in found.parts:
        return None
    shift = diagnosis.budget.log_manifold_volume if name != key else 0.0
    part = found.parts[name]
    return found.negatives, part.low - shift, part.high - shift


def _marks(diagnosis: Diagnosis) -> list[tuple[int, str]]:
    """N that are marked, with their words: the batch, or all of the data and the batch that is larger."""
    budget = diagnosis.budget
    if budget.beyond is not None:
        beyond = budget.beyond.negatives
        return [
            (budget.negatives, f"all of the data: N = {budget.negatives:,}"),
            (beyond, f"your batch, extrapolated: N = {beyond:,}"),
        ]
    batch = "your batch: " if diagnosis.inputs.batch_size else ""
    return [(budget.negatives, f"{batch}N = {budget.negatives:,}")]


def panels_chart(diagnosis: Diagnosis, *, height: int) -> Spec:
    """Panels one above the other over a common N."""
    data: list[Spec] = []
    axes: Spec = {}
    count = len(PANELS)
    share = (1 - (count - 1) * _GAP) / count
    for at, (words, parts) in enumerate(PANELS):
        words = words.replace(" ", "<br>")
        name = "y" if at == 0 else f"y{at + 1}"
        top = 1 - at * (share + _GAP)
        axes[name.replace("y", "yaxis")] = {
            "domain": [max(0.0, top - share), top],
            "title": {"text": words, "font": {"size": 11}, "standoff": 6},
            "nticks": 4,
        }
        if least := least_range(_shown(diagnosis, parts)):
            axes[name.replace("y", "yaxis")]["range"] = least
        for line in _lines(diagnosis, parts):
            traces = _traces(line, name)
            if words == "dispersion":  # its two colours are those of the last panel's anchors, too
                traces[2] |= {"showlegend": True, "name": short(line.name.removeprefix("dispersion of "), 20)}
            data += traces
    layout = base_layout(height=height, x=negatives_axis(), y=axes.pop("yaxis"))
    plain = {key: layout["yaxis"][key] for key in ("automargin", "gridcolor", "linecolor", "ticks", "exponentformat")}
    plain |= {key: layout["yaxis"][key] for key in ("ticklen", "tickcolor", "fixedrange")} | {"zeroline": False}
    layout["yaxis"] |= {"zeroline": False}
    layout |= {key: plain | axis for key, axis in axes.items()}
    layout["xaxis"] |= {"anchor": f"y{count}"}
    marks = _marks(diagnosis)
    layout["legend"] |= {"y": 1 + 0.045 * len(marks), "xanchor": "right", "x": 1, "traceorder": "normal"}
    dotted = {"color": MUTED, "width": 1.3, "dash": "dot"}
    layout["shapes"] = [
        {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": dotted}
        for at, _ in marks
    ]
    furthest = max(at for at, _ in [*marks, (diagnosis.budget.curve.negatives[-1], "")])
    layout["annotations"] = [
        {
            "x": math.log10(at),
            "xref": "x",
            "y": 1.0,
            "yref": "paper",
            "yanchor": "bottom",
            "xanchor": "right" if at > math.sqrt(furthest) else "left",
            "yshift": 16 * line,
            "text": text,
            "showarrow": False,
            "font": {"color": MUTED, "size": 12},
        }
        for line, (at, text) in enumerate(marks)
    ]
    layout["xaxis"] |= {"range": [math.log10(0.8), math.log10(1.35 * furthest)]}
    layout["margin"] |= {"t": 30 + 18 * len(marks)}
    return {"data": data, "layout": layout}


def _traces(line: _Line, axis: str) -> list[Spec]:
    """The band below its line, and the bracket beyond the data."""
    common = {"type": "scatter", "yaxis": axis, "x": line.negatives, "showlegend": False}
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    low, high = ([finite(getattr(e, end)) for e in line.estimates] for end in ("low", "high"))
    traces = [
        common | edge | {"y": low},
        common | edge | {"y": high, "fill": "tonexty", "fillcolor": on_page(f"{line.colour}-soft")},
        common
        | {
            "mode": "lines+markers",
            "y": [finite(e.value) for e in line.estimates],
            "line": {"color": on_page(line.colour), "width": 2, "dash": line.dash},
            "marker": {"size": 4, "color": on_page(line.colour)},
            "customdata": [interval_text(e) for e in line.estimates],
            "hovertemplate": f"{short(line.name, 60)}, N = %{{x:,}}<br>%{{y:.4g}} "
            "(95%: %{customdata})<extra></extra>",
        },
    ]
    if line.beyond is not None:
        at, bottom, top = line.beyond
        traces.append(
            common
            | {
                "mode": "lines",
                "x": [at, at],
                "y": [finite(bottom), finite(top)],
                "line": {"color": on_page(line.colour), "width": 5},
                "opacity": 0.45,
                "hovertemplate": f"{short(line.name, 60)}, N = {at:,}<br>extrapolated: %{{y:.4g}}<extra></extra>",
            }
        )
    return traces


def draw_panels(panels: Sequence[Axes], diagnosis: Diagnosis) -> None:
    """The same on paper: one axes for each panel, the last one carries the names of N."""
    marked = _marks(diagnosis)
    furthest = max(at for at, _ in [*marked, (diagnosis.budget.curve.negatives[-1], "")])
    marks = [4**k for k in range(12) if 4**k <= furthest]
    for axes, (words, parts) in zip(panels, PANELS, strict=True):
        bare_axes(axes)
        lines = _lines(diagnosis, parts)
        for line in lines:
            _draw(axes, line)
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.8, 1.35 * furthest)
        axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
        for at, _ in marked:
            axes.axvline(at, color=PAPER_MUTED, lw=1, ls=":", zorder=1)
        axes.set_ylabel(words.replace(" ", "\n"), fontsize=8)
        axes.set_ylim(least_range(_shown(diagnosis, parts)))
        axes.locator_params(axis="y", nbins=4)
        whole_numbers(axes)
        axes.tick_params(labelsize=7.5)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=6.5, borderaxespad=0.1, handlelength=1.6, loc="best")
        if axes is not panels[-1]:
            axes.tick_params(labelbottom=False)
    for above, (at, text) in enumerate(marked):
        panels[0].annotate(
            text,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 1 + 9 * above),
            textcoords="offset points",
            ha="right" if at > math.sqrt(furthest) else "left",
            va="bottom",
            fontsize=7.5,
            color=PAPER_MUTED,
        )
    panels[-1].set_xlabel("negatives N")


def _draw(axes: Axes, line: _Line) -> None:
    colour = on_paper(line.colour)
    values = [e.value for e in line.estimates]
    style: dict[str, Any] = {"color": colour, "lw": 1.5, "ls": DASHES[line.dash], "marker": "o", "ms": 2.2}
    name = line.name.partition(", ")[2] or line.name.partition(" of ")[2] or line.name
    axes.plot(line.negatives, values, label=label(name, 40), zorder=3, **style)
    low, high = ([getattr(e, end) for e in line.estimates] for end in ("low", "high"))
    axes.fill_between(line.negatives, low, high, color=colour, alpha=0.2, lw=0, zorder=2)
    if line.beyond is not None:
        at, bottom, top = line.beyond
        axes.plot([at, at], [bottom, top], color=colour, lw=4, alpha=0.45, solid_capstyle="butt")


__all__ = ["PANELS", "draw_panels", "panels_chart"]
