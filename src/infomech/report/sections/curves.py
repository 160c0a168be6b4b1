"""Batch and temperature: what batches would see at other temperatures, each measured (E8)."""

import math
from typing import Any

from ..._words import Measure, cut, interval_text, number, put_in
from ...diagnosis import Diagnosis, Estimate
from ...diagnosis.curves import Curves
from ...diagnosis.thresholds import LARGEST_GROWTH, NOISE
from ..charts import MUTED, base_layout, curve, negatives_axis, short, temperature_axis, title
from ..drawing import MUTED as PAPER_MUTED
from ..drawing import Axes, bare_axes, blank_figure, label
from ..section import Column, Figure, Line, Picture, Section, Spec, Table, names_of
from ..style import DASHES, finite, heat, on_page, on_paper

# The parts of the budget over temperature: words, colour, dash.
_PARTS = {
    "infonce_sym": ("InfoNCE", "total", "solid"),
    "dispersion_x_relative": ("dispersion of {x}", "x", "dash"),
    "dispersion_y_relative": ("dispersion of {y}", "y", "dot"),
    "divergence_sym": ("divergence", "up", "solid"),
}
_SHOWN = 6  # temperatures that get a line


def measured(diagnosis: Diagnosis) -> Curves:
    """The curves of a report that has the section."""
    assert diagnosis.curves is not None
    return diagnosis.curves


def shown_temperatures(curves: Curves, temperature: float) -> dict[int, str]:
    """Places and colours of the temperatures that get a line: the model's own, and others spread over the grid."""
    count = len(curves.temperatures)
    places = list(range(count))
    if count > _SHOWN:
        spread = {round(k * (count - 1) / (_SHOWN - 2)) for k in range(_SHOWN - 1)}
        places = sorted(spread | {own_temperature(curves, temperature)})
    return {place: heat(at / max(1, len(places) - 1)) for at, place in enumerate(places)}


def own_temperature(curves: Curves, temperature: float) -> int:
    """Place of the report's own temperature."""
    return min(range(len(curves.temperatures)), key=lambda t: abs(math.log(curves.temperatures[t] / temperature)))


def own_batch(diagnosis: Diagnosis) -> int:
    """Place of the N of the report's batch, or of the largest below all other groups, where a gradient has an error."""
    sizes = measured(diagnosis).negatives[:-1]
    return min(range(len(sizes)), key=lambda k: abs(math.log(sizes[k] / diagnosis.budget.negatives)))


def _panels(curves: Curves) -> dict[str, tuple[str, list[list[Estimate]], float | None]]:
    """What is shown over N, by the end of its chart's id: title, table, and a level to compare with."""
    return {
        "gradient": ("relative error of the gradient", curves.gradient_error, NOISE),
        "above": ("loss − log N above all (nats)", curves.above_largest, None),
        "seen": ("effective negatives", curves.parts["effective_negatives"], None),
    }


def _drawn(table: list[list[Estimate]], place: int) -> list[bool]:
    """Which points have a place on a logarithmic axis: what is lost in its error, or 0 by construction, has none."""
    return [e.low > 1e-9 for e in table[place]]


def _part_names(diagnosis: Diagnosis) -> dict[str, str]:
    x, y = (cut(name, 14) for name in names_of(diagnosis))
    return {key: put_in(words, x, y) for key, (words, *_) in _PARTS.items()}


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """Error of the gradient, loss less log N above that of all, effective negatives over N; the budget over tau."""
    panels = _panels(measured(diagnosis))
    over = {f"chart-{key}": _over_sizes(diagnosis, *panel) for key, panel in panels.items()}
    return over | {"chart-taus": _over_temperatures(diagnosis)}


def _over_sizes(diagnosis: Diagnosis, name: str, table: list[list[Estimate]], level: float | None) -> Spec:
    curves, own = measured(diagnosis), diagnosis.inputs.temperature
    data: list[Spec] = []
    for place, colour in shown_temperatures(curves, own).items():
        tau = curves.temperatures[place]
        mine = tau == own
        drawn = _drawn(table, place)
        data.append(
            curve(
                f"τ = {tau:g}" + (" (yours)" if mine else ""),
                curves.negatives,
                [float(f"{e.value:.5g}") if on else None for e, on in zip(table[place], drawn, strict=True)],
                colour=colour,
                hover=f"τ = {tau:g}, N = %{{x}}<br>%{{y:.3g}} (95%: %{{customdata}})",
                mode="lines+markers",
                customdata=[interval_text(e) for e in table[place]],
                line={"width": 3.2 if mine else 1.6},
                marker={"size": 6 if mine else 4},
            )
        )
    layout = base_layout(
        height=400,
        x=negatives_axis(),
        y=title(name, type="log", exponentformat="power", dtick=1),
    )
    batch = diagnosis.budget.negatives
    shapes: list[Spec] = [{"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": batch, "x1": batch}]
    if level is not None:
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level})
    layout["shapes"] = [shape | {"line": {"color": MUTED, "width": 1.3, "dash": "dot"}} for shape in shapes]
    return {"data": data, "layout": layout}


def _over_temperatures(diagnosis: Diagnosis) -> Spec:
    curves, names, at = measured(diagnosis), _part_names(diagnosis), own_batch(diagnosis)
    data = [
        curve(
            short(names[key], 60),
            curves.temperatures,
            [float(f"{row[at].value:.5g}") if math.isfinite(row[at].value) else None for row in curves.parts[key]],
            colour=on_page(colour),
            hover="τ = %{x}<br>%{y:.3g} nats (95%: %{customdata})",
            mode="lines+markers",
            customdata=[interval_text(row[at]) for row in curves.parts[key]],
            line={"width": 2, "dash": dash},
        )
        for key, (_, colour, dash) in _PARTS.items()
    ]
    across = temperature_axis(curves.temperatures)
    layout = base_layout(height=400, x=across, y=title("nats", zeroline=True, zerolinecolor=MUTED))
    return {"data": data, "layout": layout}


def figure(diagnosis: Diagnosis) -> Figure:
    """The same four, for papers."""
    curves, at = measured(diagnosis), own_batch(diagnosis)
    drawn = blank_figure(9.2, 6.4)
    *panels, last = drawn.subplots(2, 2).flat
    for axes, (name, table, level) in zip(panels, _panels(curves).values(), strict=True):
        _draw_over_sizes(axes, diagnosis, table)
        axes.set_ylabel(name)
        if level is not None:
            axes.axhline(level, color=PAPER_MUTED, lw=1, ls=":")
    panels[0].legend(frameon=False, fontsize=8, ncols=2)
    names = _part_names(diagnosis)
    for key, (_, colour, dash) in _PARTS.items():
        values = [finite(row[at].value) for row in curves.parts[key]]
        known = [(tau, value) for tau, value in zip(curves.temperatures, values, strict=True) if value is not None]
        style = {"color": on_paper(colour), "ls": DASHES[dash], "marker": "o", "ms": 3, "lw": 1.5}
        last.plot([tau for tau, _ in known], [value for _, value in known], label=label(names[key], 60), **style)
    last.axhline(0, color=PAPER_MUTED, lw=0.8)
    last.set_xscale("log")
    last.set_xlabel(r"temperature $\tau$")
    last.set_ylabel(f"nats at N = {curves.negatives[at]:,}")
    last.legend(frameon=False, fontsize=8)
    for axes in (*panels, last):
        bare_axes(axes)
    return drawn


def _draw_over_sizes(axes: Axes, diagnosis: Diagnosis, table: list[list[Estimate]]) -> None:
    curves = measured(diagnosis)
    own = own_temperature(curves, diagnosis.inputs.temperature)
    for place, colour in shown_temperatures(curves, diagnosis.inputs.temperature).items():
        kept = zip(curves.negatives, table[place], _drawn(table, place), strict=True)
        points = [(n, e) for n, e, on in kept if on]
        sizes, mine = [n for n, _ in points], place == own
        name = rf"$\tau$ = {curves.temperatures[place]:g}"
        axes.plot(
            sizes,
            [e.value for _, e in points],
            color=colour,
            marker="o",
            lw=2.6 if mine else 1.3,
            ms=4.5 if mine else 3,
            label=name,
        )
        low = [max(e.low, 1e-3 * e.value) for _, e in points]
        axes.fill_between(sizes, low, [e.high for _, e in points], color=colour, alpha=0.2, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("negatives N")
    axes.axvline(diagnosis.budget.negatives, color=PAPER_MUTED, lw=1, ls=":")


def tables(diagnosis: Diagnosis) -> list[Table]:
    """What the batch sees at each temperature."""
    curves, at = measured(diagnosis), own_batch(diagnosis)
    columns = (
        "effective negatives",
        "gradient error",
        "gradient cosine",
        "loss less log N above that of all, in nats",
        "last doubling, in nats",
    )
    lines = [
        Line(
            f"tau_{tau:g}",
            Measure(f"{tau:g}"),
            (
                curves.parts["effective_negatives"][t][at],
                curves.gradient_error[t][at],
                curves.gradient_cosine[t][at],
                curves.above_largest[t][at],
                number(curves.growth[t], 3) + ("" if curves.resolved[t] else ", not resolved"),
            ),
        )
        for t, tau in enumerate(curves.temperatures)
    ]
    return [Table("curves", f"τ, at N = {curves.negatives[at]:,}", tuple(map(Column, columns)), lines)]


def fill(diagnosis: Diagnosis) -> dict[str, Any]:
    """The answer, and how it was measured."""
    curves = measured(diagnosis)
    how = (
        f"Averages over random batches of {curves.groups:,} groups; N stops at the data. The gradient is that with "
        "respect to an anchor's embedding, against all other groups as negatives, so that its error falls to 0 as N "
        "reaches them; a parameter's gradient averages over the anchors of a batch, and is better. What is lost in its "
        f"error is not drawn. Dotted lines: your batch, and {NOISE:g}, above which a gradient is mostly noise. "
        "Alignment, minus the mean similarity over τ, is left out of the budget's chart."
    )
    return {"answer": _answer(diagnosis), "how": how}


def _answer(diagnosis: Diagnosis) -> str:
    curves, at = measured(diagnosis), own_batch(diagnosis)
    own = own_temperature(curves, diagnosis.inputs.temperature)
    others = [t for t in range(len(curves.temperatures)) if t != own]
    near = min(others, key=lambda t: abs(math.log(curves.temperatures[t] / (2 * curves.temperatures[own]))))

    def seen(t: int) -> str:
        error = curves.gradient_error[t][at]
        return (
            f"at τ = {curves.temperatures[t]:g} it sees {number(curves.parts['effective_negatives'][t][at].value, 1)} "
            f"of {curves.negatives[at]:,} negatives and its gradient is off by {error.value:.0%} "
            f"(95%: {error.low:.0%} to {error.high:.0%})"
        )

    resolved = [tau for tau, good in zip(curves.temperatures, curves.resolved, strict=True) if good]
    limit = (
        f"From τ = {resolved[0]:g} on the last doubling of N moves no log kernel mean by over {LARGEST_GROWTH} nats."
        if resolved
        else "At no temperature of the grid do the data determine the limit of large batches."
    )
    return f"Your batch: {seen(own)}; {seen(near)}. {limit}"


CURVES = Section(
    name="curves",
    title="Batch and temperature",
    link="Batch and temperature",
    tables=tables,
    charts=charts,
    figures={"curves": Picture("Batch and temperature", figure)},
    fill=fill,
    notes=lambda diagnosis: list(fill(diagnosis).values()),
    present=lambda diagnosis: diagnosis.curves is not None,
)

__all__ = ["CURVES"]
