"""The section on batch and temperature: charts over tau and N, and the answer in words."""

import math

from ..diagnosis import Estimate
from ..diagnosis.curves import SEEN_AT, Curves
from .chart_parts import MUTED, Spec, base_layout, short
from .view import View
from .words import number

PARTS = {
    "infonce_sym": ("InfoNCE", "var(--total)", "solid"),
    "dispersion_x_relative": ("dispersion of {x}, relative to uniform", "var(--x)", "dash"),
    "dispersion_y_relative": ("dispersion of {y}, relative to uniform", "var(--y)", "dot"),
    "divergence_sym": ("divergence", "var(--up)", "solid"),
}
_SHOWN = 6  # temperatures that get a line


def curve_charts(curves: Curves, view: View) -> dict[str, Spec]:
    """The four charts of the section, by the id of their place."""
    return {
        "chart-gradient": _over_sizes(
            curves, view, curves.gradient_error, title="relative error of the gradient", level=SEEN_AT
        ),
        "chart-bias": _over_sizes(curves, view, curves.value_bias, title="InfoNCE less its limit (nats)"),
        "chart-seen": _over_sizes(
            curves, view, curves.effective_negatives, title="effective negatives of the median anchor"
        ),
        "chart-taus": _over_temperatures(curves, view),
    }


def shown_temperatures(curves: Curves, temperature: float) -> list[int]:
    """Places of the temperatures that get a line: the model's own, and others spread over the grid."""
    count = len(curves.temperatures)
    own = min(range(count), key=lambda t: abs(math.log(curves.temperatures[t] / temperature)))
    if count <= _SHOWN:
        return list(range(count))
    spread = {round(k * (count - 1) / (_SHOWN - 2)) for k in range(_SHOWN - 1)}
    return sorted(spread | {own})


def colour_of(place: int, count: int) -> str:
    """From blue (cold) to red (hot), readable on light and on dark paper."""
    share = place / max(1, count - 1)
    return f"hsl({round(215 - 205 * share)}, 70%, 48%)"


def _over_sizes(
    curves: Curves, view: View, table: list[list[Estimate]], *, title: str, level: float | None = None
) -> Spec:
    own = float(view.inputs["temperature"])
    data: list[Spec] = []
    for place in shown_temperatures(curves, own):
        tau = curves.temperatures[place]
        mine = tau == own
        values = [e.value if e.low > 0 else None for e in table[place]]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"τ = {tau:g}" + (" (yours)" if mine else ""),
                "x": curves.batch_sizes,
                "y": [None if v is None else float(f"{v:.5g}") for v in values],
                "customdata": [f"{e.low:.3g} to {e.high:.3g}" for e in table[place]],
                "line": {"color": colour_of(place, len(curves.temperatures)), "width": 3.2 if mine else 1.6},
                "marker": {"size": 6 if mine else 4},
                "hovertemplate": f"τ = {tau:g}, N = %{{x}}<br>%{{y:.3g}} (95%: %{{customdata}})<extra></extra>",
            }
        )
    layout = base_layout(height=400)
    layout["xaxis"] |= {"title": {"text": "negatives N"}, "type": "log", "dtick": 1}
    layout["yaxis"] |= {"title": {"text": title}, "type": "log", "exponentformat": "power", "dtick": 1}
    shapes = []
    if level is not None:
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level})
    batch = view.inputs.get("batch_size")
    if batch:
        shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": batch, "x1": batch})
    layout["shapes"] = [shape | {"line": {"color": MUTED, "width": 1.3, "dash": "dot"}} for shape in shapes]
    return {"data": data, "layout": layout}


def _over_temperatures(curves: Curves, view: View) -> Spec:
    names = {"x": short(view.name_x, 14), "y": short(view.name_y, 14)}
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": label.format(**names),
            "x": curves.temperatures,
            "y": [float(f"{e.value:.5g}") if math.isfinite(e.value) else None for e in curves.budget[key]],
            "customdata": [f"{e.low:.3g} to {e.high:.3g}" for e in curves.budget[key]],
            "line": {"color": colour, "width": 2, "dash": dash},
            "hovertemplate": "τ = %{x}<br>%{y:.3g} nats (95%: %{customdata})<extra></extra>",
        }
        for key, (label, colour, dash) in PARTS.items()
    ]
    layout = base_layout(height=400)
    layout["xaxis"] |= {"title": {"text": "temperature τ"}, "type": "log", "dtick": "D2"}
    layout["yaxis"] |= {"title": {"text": "nats"}, "zeroline": True, "zerolinecolor": MUTED}
    return {"data": data, "layout": layout}


def curves_text(curves: Curves, view: View) -> dict[str, str]:
    """The answer, and how it was measured."""
    own = float(view.inputs["temperature"])
    place = shown_own(curves, own)
    tau, at = curves.temperatures[place], curves.seen_at[place]
    largest = curves.batch_sizes[-1]
    if math.isfinite(at):
        answer = f"At τ = {tau:g} the gradient is within {SEEN_AT:.0%} of the population's from N ≈ {number(at, 0)} on."
    else:
        error = curves.gradient_error[place][-1]
        answer = (
            f"At τ = {tau:g} no batch up to N = {largest:,} does: there the gradient is still off by "
            f"{error.value:.0%} (95%: {error.low:.0%} to {error.high:.0%})."
        )
    batch = view.inputs.get("batch_size")
    if batch:
        near = min(range(len(curves.batch_sizes)), key=lambda k: abs(math.log(curves.batch_sizes[k] / batch)))
        error, bias = curves.gradient_error[place][near], curves.value_bias[place][near]
        answer += (
            f" At N = {curves.batch_sizes[near]:,}, nearest to your batch, it is off by {error.value:.0%}, "
            f"and the loss lies {bias.value:.3f} nats above its limit."
        )
    how = (
        f"{curves.anchors:,} anchors in each direction meet N independent draws from the {curves.population:,} pairs "
        "of all other groups, which stand for the population: the embeddings are held, and what is looked at is the "
        "batch. The gradient is that with respect to one anchor's embedding, tangent to the sphere; a parameter's "
        "gradient is an average over the anchors of a batch, and better than that. Its error falls as N^(-1/2) and the "
        "value's bias as 1/N once the draws resolve the kernel; a bias that is lost in its error is not drawn. The "
        "dotted lines are 10% and your batch size, if given. Alignment, minus the mean similarity over τ, is left out "
        "of the budget's chart."
    )
    if not all(curves.resolved):
        low = max(t for t, good in zip(curves.temperatures, curves.resolved, strict=True) if not good)
        how += f" Up to τ = {low:g} the data do not resolve the densities: the budget is rough there."
    return {"answer": answer, "how": how}


def shown_own(curves: Curves, temperature: float) -> int:
    """Place of the report's own temperature."""
    return min(range(len(curves.temperatures)), key=lambda t: abs(curves.temperatures[t] - temperature))


__all__ = ["PARTS", "colour_of", "curve_charts", "curves_text", "shown_own", "shown_temperatures"]
