"""Figures of gradient consistency."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...report.drawing import INK, MARKERS, MUTED, SERIES, bare_axes


def _panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(rows * columns)]
    for each in axes:
        bare_axes(each)
    return figure, axes


def _line(axes: Axes, x: list[int], estimates: list[dict[str, float]], *, k: int, label: str, band: str) -> None:
    """Values with a band: "deviation" of the runs, or "interval" of the mean."""
    values = [e["value"] for e in estimates]
    if band == "deviation":
        low, high = ([e["value"] + s * e["deviation"] for e in estimates] for s in (-1, 1))
    else:
        low, high = [e["low"] for e in estimates], [e["high"] for e in estimates]
    axes.plot(x, values, marker=MARKERS[k], ms=4, lw=1.4, color=SERIES[k], label=label)
    axes.fill_between(x, low, high, color=SERIES[k], alpha=0.18, lw=0)


def _guide(axes: Axes, x: list[int], start: float, slope: float, text: str) -> None:
    """A straight line of the predicted slope."""
    y = [start * (n / x[0]) ** slope for n in x]
    axes.plot(x, y, ls=(0, (4, 3)), lw=1, color=MUTED)
    at = len(x) // 2
    axes.annotate(
        text, (x[at], y[at]), xytext=(-3, -4), textcoords="offset points", ha="right", va="top", fontsize=8, color=MUTED
    )


def _counts(axes: Axes, x: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(x[::2], [f"{n:,}" for n in x[::2]])
    axes.minorticks_off()
    axes.set_xlabel("negatives N")


def _lowest(axes: Axes, series: list[list[dict[str, float]]]) -> None:
    """A log axis that ends below the values; intervals may reach further down."""
    least = min(abs(e["value"]) for estimates in series for e in estimates)
    axes.set_ylim(bottom=least / 4)


def paper_figure(results: dict[str, Any]) -> Figure:
    """Cosine and relative error against N for both critics, in the layout of Fig. 3."""
    figure, axes = _panels(1, 2, width=8.4, height=3.2)
    x = results["negatives"]
    labels = {"cosine": "cosine on the sphere, τ = 0.1", "rbf": "RBF on a bounded set, τ = 1"}
    for k, (name, label) in enumerate(labels.items()):
        found = results["paper"][name]
        _line(axes[0], x, found["cosine"], k=k, label=label, band="deviation")
        _line(axes[1], x, found["error"], k=k, label=label, band="deviation")
    axes[0].axhline(1, lw=0.8, color=MUTED)
    axes[0].set(ylabel="cosine with the gradient at 4,096")
    axes[1].set(yscale="log", ylabel="relative error of the gradient")
    for each in axes:
        _counts(each, x)
    _guide(axes[1], x, 0.6 * results["paper"]["rbf"]["error"][0]["value"], -0.5, "slope −1/2")
    axes[0].legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")
    return figure


def limit_figure(results: dict[str, Any]) -> Figure:
    """Against the limit: gradient and value at several temperatures, in-batch negatives, two modalities."""
    figure, axes = _panels(2, 2, width=8.4, height=6.2)
    x = results["negatives"]
    for k, (tau, found) in enumerate(results["limit"].items()):
        label = f"τ = {tau}, sees {found['effective_negatives']:,.0f} of 4,096"
        _line(axes[0], x, found["relative_error"], k=k, label=label, band="interval")
        bias = [{**e, "value": abs(e["value"]), "low": max(e["low"], 1e-9)} for e in found["bias"]]
        _line(axes[1], x, bias, k=k, label=f"τ = {tau}", band="interval")
        _line(axes[2], x, found["in_batch_cosine"], k=k, label=f"τ = {tau}", band="interval")
    pair = results["two_modalities"]
    for k, name in enumerate(("relative_error_1", "relative_error_2")):
        _line(axes[3], x, pair[name], k=k, label=f"gradient of encoder {k + 1}", band="interval")
    bias = [{**e, "value": abs(e["value"]), "low": max(e["low"], 1e-9)} for e in pair["bias"]]
    _line(axes[3], x, bias, k=2, label="value", band="interval")
    _guide(
        axes[0], x, 0.5 * min(f["relative_error"][0]["value"] for f in results["limit"].values()), -0.5, "slope −1/2"
    )
    _guide(axes[1], x, 0.5 * min(abs(f["bias"][0]["value"]) for f in results["limit"].values()), -1.0, "slope −1")
    _guide(axes[3], x, 1.6 * pair["relative_error_1"][0]["value"], -0.5, "slope −1/2")
    titles = (
        "relative error of the gradient (T2)",
        "bias of the value, nats (T1)",
        "cosine of in-batch with independent negatives",
        "two modalities, τ = 0.1 (T6)",
    )
    for each, title in zip(axes, titles, strict=True):
        _counts(each, x)
        if each is not axes[2]:
            each.set_yscale("log")
        each.set_title(title, fontsize=9.5, color=INK, loc="left")
    _lowest(axes[1], [found["bias"] for found in results["limit"].values()])
    _lowest(axes[3], [pair["bias"]])
    for position in (0, 3):
        axes[position].legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


__all__ = ["limit_figure", "paper_figure"]
