"""Charts of shared information: InfoNCE over the temperature, and shared information over N."""

import math
from typing import Any, Literal

from .._words import interval_text
from ..diagnosis import Estimate
from ..diagnosis.information.shared import Information
from .charts import MUTED, base_layout, curve, negatives_axis, temperature_axis, title
from .drawing import MUTED as PAPER_MUTED
from .drawing import Axes, Figure, bare_axes, blank_figure, whole_numbers
from .section import Spec
from .style import least_range, on_page, on_paper, whiskers


def information_charts(found: Information) -> dict[str, Spec]:
    """Both curves for the page; none where nothing was measured."""
    if found.over_temperature is None or found.over_negatives is None:
        return {}
    return {"chart-information": _over_temperature(found), "chart-negatives": _over_negatives(found)}


def _over_temperature(found: Information) -> Spec:
    taus, infonce = _measured(found)
    data = [
        curve(
            "InfoNCE",
            taus,
            [float(f"{e.value:.6g}") for e in infonce],
            colour=on_page("total"),
            hover="τ = %{x:.3g}<br>%{y:.4g} nats (95%: %{customdata})",
            mode="lines+markers",
            customdata=[interval_text(e) for e in infonce],
            line={"width": 2},
        )
    ]
    layout = base_layout(
        height=320,
        x=temperature_axis([*taus, *(tau for tau, *_ in _marked(found))]),
        y=title(f"InfoNCE at N = {found.negatives:,}"),
    )
    shapes: list[Spec] = []
    notes: list[Spec] = []
    for at, (tau, text, dash) in enumerate(_marked(found)):
        shapes.append(
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": tau, "x1": tau}
            | {"line": {"color": MUTED, "width": 1.5, "dash": dash}}
        )
        notes.append(
            {"x": math.log10(tau), "xref": "x", "y": 1.0, "yref": "paper", "yanchor": "bottom", "text": text}
            | {
                "xanchor": _anchor(tau, found),
                "yshift": 16 * at,
                "showarrow": False,
                "font": {"color": MUTED, "size": 12},
            }
        )
    if math.isfinite(found.temperature.low):
        shapes.append(
            {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": found.temperature.low}
            | {"x1": found.temperature.high, "fillcolor": on_page("pair-soft"), "line": {"width": 0}, "layer": "below"}
        )
    layout["shapes"], layout["annotations"] = shapes, notes
    if least := least_range(infonce):
        layout["yaxis"] |= {"range": least}
    layout["margin"] |= {"t": 46}
    return {"data": data, "layout": layout}


def _measured(found: Information) -> tuple[list[float], list[Estimate]]:
    """InfoNCE over the temperature: that of the grid and, where it is given, of the model's own temperature."""
    assert found.over_temperature is not None
    points = dict(zip(found.over_temperature.temperatures, found.over_temperature.infonce, strict=True))
    own = found.calibration
    if own is not None and not any(math.isclose(tau, own.temperature, rel_tol=1e-9) for tau in points):
        points[own.temperature] = own.infonce
    taus = sorted(points)
    return taus, [points[tau] for tau in taus]


def _anchor(tau: float, found: Information) -> Literal["left", "center", "right"]:
    """The side of its line on which a mark's text stands: it stays within the axes."""
    taus, _ = _measured(found)
    place = math.log(tau / taus[0]) / math.log(taus[-1] / taus[0]) if taus[-1] > taus[0] else 0.5
    return "left" if place < 0.25 else "right" if place > 0.75 else "center"


def _marked(found: Information) -> list[tuple[float, str, str]]:
    """Temperatures that are marked: the best one, and the model's own."""
    marked = []
    if math.isfinite(found.temperature.value):
        marked.append((found.temperature.value, f"τ* = {found.temperature.value:.2g}", "solid"))
    if found.calibration is not None:
        marked.append((found.calibration.temperature, f"yours: {found.calibration.temperature:g}", "dot"))
    return marked


def _over_negatives(found: Information) -> Spec:
    along = found.over_negatives
    assert along is not None
    data = [
        curve(
            "shared information",
            along.negatives,
            [float(f"{e.value:.6g}") for e in along.information],
            colour=on_page("pair"),
            hover="N = %{x:,}<br>%{y:.4g} nats (95%: %{customdata})",
            mode="lines+markers",
            customdata=[interval_text(e) for e in along.information],
            line={"width": 2},
        ),
        curve(
            "ceiling, log(N + 1)",
            along.negatives,
            [float(f"{math.log1p(n):.6g}") for n in along.negatives],
            colour=MUTED,
            hover="N = %{x:,}<br>at most %{y:.4g} nats",
            mode="lines",
            line={"width": 1.3, "dash": "dot"},
        ),
    ]
    layout = base_layout(height=320, x=negatives_axis(), y=title("nats"))
    return {"data": data, "layout": layout}


def draw_information(found: Information) -> Figure:
    """Both curves on paper."""
    drawn = blank_figure(8.2, 3.0)
    left, right = drawn.subplots(1, 2)
    _draw_temperature(left, found)
    _draw_negatives(right, found)
    for axes in (left, right):
        bare_axes(axes)
    return drawn


def _draw_temperature(axes: Axes, found: Information) -> None:
    if found.over_temperature is not None:
        taus, infonce = _measured(found)
        values = [e.value for e in infonce]
        style: dict[str, Any] = {"color": on_paper("total"), "marker": "o", "ms": 3, "lw": 1.5}
        axes.plot(taus, values, **style)
        low, high = ([getattr(e, end) for e in infonce] for end in ("low", "high"))
        axes.fill_between(taus, low, high, color=on_paper("total"), alpha=0.2, lw=0)
        axes.set_ylim(least_range(infonce))
    for tau, text, dash in _marked(found):
        best = dash == "solid"
        axes.axvline(tau, color=on_paper("pair") if best else PAPER_MUTED, ls="-" if best else ":")
        axes.annotate(
            text.replace("τ*", r"$\tau^*$"), (tau, 1.0), xycoords=("data", "axes fraction"), va="bottom",
            ha=_anchor(tau, found) if found.over_temperature is not None else "center",
            fontsize=8, color=PAPER_MUTED, xytext=(0, 1 if best else 11), textcoords="offset points",
        )  # fmt: skip
    if math.isfinite(found.temperature.low):
        axes.axvspan(found.temperature.low, found.temperature.high, color=on_paper("pair"), alpha=0.2, lw=0)
    axes.set_xscale("log")
    axes.set_xlabel(r"temperature $\tau$")
    axes.locator_params(axis="y", nbins=5)
    whole_numbers(axes)
    axes.set_ylabel(f"InfoNCE at N = {found.negatives:,} (nats)")


def _draw_negatives(axes: Axes, found: Information) -> None:
    along = found.over_negatives
    if along is not None:
        values = [e.value for e in along.information]
        style: dict[str, Any] = {
            "color": on_paper("pair"),
            "fmt": "o-",
            "ms": 3,
            "lw": 1.5,
            "label": "shared information",
        }
        axes.errorbar(along.negatives, values, yerr=whiskers(along.information), **style)
        top = [math.log1p(n) for n in along.negatives]
        axes.plot(along.negatives, top, color=PAPER_MUTED, ls=":", lw=1.3, label="ceiling, log(N + 1)")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("negatives N")
    axes.set_ylabel("nats")


__all__ = ["draw_information", "information_charts"]
