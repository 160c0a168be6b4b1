"""Batch and temperature: the loss against its large-batch limit over N, and the budget over tau."""

import math
from typing import Any

from ..._words import Measure, cut, interval_text, number, put_in
from ...diagnosis import Diagnosis, Estimate
from ...diagnosis.curves import SEEN_AT, Curves
from ..charts import MUTED, base_layout, curve, short, title
from ..drawing import MUTED as PAPER_MUTED
from ..drawing import Axes, bare_axes, blank_figure, label
from ..section import Column, Figure, Line, Picture, Section, Spec, Table, names_of
from ..style import DASHES, finite, heat, on_page, on_paper

# The parts of the budget: words, colour, dash.
_PARTS = {
    "infonce_sym": ("InfoNCE", "total", "solid"),
    "dispersion_x_relative": ("dispersion of {x}, relative to uniform", "x", "dash"),
    "dispersion_y_relative": ("dispersion of {y}, relative to uniform", "y", "dot"),
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


def _panels(curves: Curves) -> dict[str, tuple[str, list[list[Estimate]], float | None]]:
    """What is shown over N, by the end of its chart's id: title, table, and a level to compare with."""
    seen = "effective negatives of the median anchor"
    return {
        "gradient": ("relative error of the gradient", curves.gradient_error, SEEN_AT),
        "bias": ("InfoNCE less its limit (nats)", curves.value_bias, None),
        "seen": (seen, curves.effective_negatives, None),
    }


def _part_names(diagnosis: Diagnosis) -> dict[str, str]:
    x, y = (cut(name, 14) for name in names_of(diagnosis))
    return {key: put_in(words, x, y) for key, (words, *_) in _PARTS.items()}


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """Error of the gradient, bias of the value and effective negatives over N; the budget over tau."""
    panels = _panels(measured(diagnosis))
    over = {f"chart-{key}": _over_sizes(diagnosis, *panel) for key, panel in panels.items()}
    return over | {"chart-taus": _over_temperatures(diagnosis)}


def _over_sizes(diagnosis: Diagnosis, name: str, table: list[list[Estimate]], level: float | None) -> Spec:
    curves, own = measured(diagnosis), diagnosis.inputs.temperature
    data: list[Spec] = []
    for place, colour in shown_temperatures(curves, own).items():
        tau = curves.temperatures[place]
        mine = tau == own
        data.append(
            curve(
                f"τ = {tau:g}" + (" (yours)" if mine else ""),
                curves.batch_sizes,
                [float(f"{e.value:.5g}") if e.low > 0 else None for e in table[place]],
                colour=colour,
                hover=f"τ = {tau:g}, N = %{{x}}<br>%{{y:.3g}} (95%: %{{customdata}})",
                mode="lines+markers",
                customdata=[f"{e.low:.3g} to {e.high:.3g}" for e in table[place]],
                line={"width": 3.2 if mine else 1.6},
                marker={"size": 6 if mine else 4},
            )
        )
    layout = base_layout(
        height=400,
        x=title("negatives N", type="log", dtick=1),
        y=title(name, type="log", exponentformat="power", dtick=1),
    )
    shapes: list[Spec] = []
    if level is not None:
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level})
    batch = diagnosis.inputs.batch_size
    if batch:
        shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": batch, "x1": batch})
    layout["shapes"] = [shape | {"line": {"color": MUTED, "width": 1.3, "dash": "dot"}} for shape in shapes]
    return {"data": data, "layout": layout}


def _over_temperatures(diagnosis: Diagnosis) -> Spec:
    curves, names = measured(diagnosis), _part_names(diagnosis)
    data = [
        curve(
            short(names[key], 60),
            curves.temperatures,
            [float(f"{e.value:.5g}") if math.isfinite(e.value) else None for e in curves.budget[key]],
            colour=on_page(colour),
            hover="τ = %{x}<br>%{y:.3g} nats (95%: %{customdata})",
            mode="lines+markers",
            customdata=[interval_text(e) for e in curves.budget[key]],
            line={"width": 2, "dash": dash},
        )
        for key, (_, colour, dash) in _PARTS.items()
    ]
    across = title("temperature τ", type="log", dtick="D2")
    layout = base_layout(height=400, x=across, y=title("nats", zeroline=True, zerolinecolor=MUTED))
    return {"data": data, "layout": layout}


def figure(diagnosis: Diagnosis) -> Figure:
    """Error of the gradient, bias of the value and effective negatives over N; the budget over tau."""
    curves = measured(diagnosis)
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
        values = [finite(e.value) for e in curves.budget[key]]
        known = [(tau, value) for tau, value in zip(curves.temperatures, values, strict=True) if value is not None]
        style = {"color": on_paper(colour), "ls": DASHES[dash], "marker": "o", "ms": 3, "lw": 1.5}
        last.plot([tau for tau, _ in known], [value for _, value in known], label=label(names[key], 60), **style)
    last.axhline(0, color=PAPER_MUTED, lw=0.8)
    last.set_xscale("log")
    last.set_xlabel(r"temperature $\tau$")
    last.set_ylabel("nats")
    last.legend(frameon=False, fontsize=8)
    for axes in (*panels, last):
        bare_axes(axes)
    return drawn


def _draw_over_sizes(axes: Axes, diagnosis: Diagnosis, table: list[list[Estimate]]) -> None:
    curves = measured(diagnosis)
    own = own_temperature(curves, diagnosis.inputs.temperature)
    for place, colour in shown_temperatures(curves, diagnosis.inputs.temperature).items():
        points = [(n, e) for n, e in zip(curves.batch_sizes, table[place], strict=True) if e.low > 0]
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
    if diagnosis.inputs.batch_size:
        axes.axvline(diagnosis.inputs.batch_size, color=PAPER_MUTED, lw=1, ls=":")


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The batch at which each temperature sees the population."""
    curves = measured(diagnosis)
    largest = curves.batch_sizes[-1]
    columns = (
        f"N for {SEEN_AT:.0%} error of the gradient",
        f"error at N = {largest:,}",
        "bias of the value there, in nats",
    )
    rows = zip(curves.temperatures, curves.seen_at, curves.gradient_error, curves.value_bias, strict=True)
    lines = [
        Line(
            "seen_at",
            Measure(f"{tau:g}"),
            (
                f"{seen:,.0f}" if math.isfinite(seen) else f"more than {largest:,}",
                number(errors[-1].value, 3),
                number(bias[-1].value, 4),
            ),
        )
        for tau, seen, errors, bias in rows
    ]
    return [Table("curves", "τ", tuple(map(Column, columns)), lines)]


def fill(diagnosis: Diagnosis) -> dict[str, Any]:
    """The answer, and how it was measured."""
    curves = measured(diagnosis)
    how = (
        f"{curves.anchors:,} anchors in each direction meet N independent draws from the {curves.population:,} pairs "
        "of all other groups, which stand for the population: the embeddings are held, and what is looked at is the "
        "batch. The gradient is that with respect to one anchor's embedding, tangent to the sphere; a parameter's "
        "gradient is an average over the anchors of a batch, and better than that. Its error falls as N^(-1/2) and the "
        "value's bias as 1/N once the draws resolve the kernel; a bias that is lost in its error is not drawn. The "
        f"dotted lines are {SEEN_AT:.0%} and your batch size, if given. Alignment, minus the mean similarity over τ, "
        "is left out of the budget's chart."
    )
    if not all(curves.resolved):
        low = max(t for t, good in zip(curves.temperatures, curves.resolved, strict=True) if not good)
        how += f" Up to τ = {low:g} the data do not resolve the densities: the budget is rough there."
    return {"answer": _answer(diagnosis), "how": how}


def _answer(diagnosis: Diagnosis) -> str:
    curves = measured(diagnosis)
    place = own_temperature(curves, diagnosis.inputs.temperature)
    tau, at = curves.temperatures[place], curves.seen_at[place]
    if math.isfinite(at):
        answer = f"At τ = {tau:g} the gradient is within {SEEN_AT:.0%} of the population's from N ≈ {number(at, 0)} on."
    else:
        error = curves.gradient_error[place][-1]
        answer = (
            f"At τ = {tau:g} no batch up to N = {curves.batch_sizes[-1]:,} does: there the gradient is still off by "
            f"{error.value:.0%} (95%: {error.low:.0%} to {error.high:.0%})."
        )
    batch = diagnosis.inputs.batch_size
    if batch:
        near = min(range(len(curves.batch_sizes)), key=lambda k: abs(math.log(curves.batch_sizes[k] / batch)))
        error, bias = curves.gradient_error[place][near], curves.value_bias[place][near]
        answer += (
            f" At N = {curves.batch_sizes[near]:,}, nearest to your batch, it is off by {error.value:.0%}, "
            f"and the loss lies {bias.value:.3f} nats above its limit."
        )
    return answer


CURVES = Section(
    name="curves",
    title="Batch and temperature",
    link="Batch and temperature",
    tables=tables,
    charts=charts,
    figures={"curves": Picture("Batch and temperature", figure)},
    fill=fill,
    present=lambda diagnosis: diagnosis.curves is not None,
)

__all__ = ["CURVES"]
