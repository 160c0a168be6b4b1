"""The figure of batch and temperature for papers."""

import math

from matplotlib.figure import Figure

from ..diagnosis import Estimate
from ..diagnosis.curves import SEEN_AT, Curves
from .curves import PARTS, shown_own, shown_temperatures
from .drawing import MUTED, TOTAL, UP, X, Y, bare_axes, label
from .view import View

_COLOURS = {
    "infonce_sym": TOTAL,
    "dispersion_x_relative": X,
    "dispersion_y_relative": Y,
    "divergence_sym": UP,
}


def curve_figure(curves: Curves, view: View) -> Figure:
    """Error of the gradient, bias of the value and effective negatives over N; the budget over tau."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(9.2, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    own = shown_own(curves, float(view.inputs["temperature"]))
    shown = shown_temperatures(curves, float(view.inputs["temperature"]))
    colours = mpl.colormaps["viridis"]
    tables: list[tuple[str, list[list[Estimate]]]] = [
        ("relative error of the gradient", curves.gradient_error),
        ("InfoNCE less its limit (nats)", curves.value_bias),
        ("effective negatives of the median anchor", curves.effective_negatives),
    ]
    for axes, (title, table) in zip(panels.flat, tables, strict=False):
        for k, place in enumerate(shown):
            points = [(n, e) for n, e in zip(curves.batch_sizes, table[place], strict=True) if e.low > 0]
            colour = colours(0.92 * k / max(1, len(shown) - 1))
            sizes = [n for n, _ in points]
            axes.plot(
                sizes, [e.value for _, e in points], color=colour, lw=2.6 if place == own else 1.3, marker="o",
                ms=4.5 if place == own else 3, label=rf"$\tau$ = {curves.temperatures[place]:g}",
            )  # fmt: skip
            low = [max(e.low, 1e-3 * e.value) for _, e in points]
            axes.fill_between(sizes, low, [e.high for _, e in points], color=colour, alpha=0.2, lw=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("negatives N")
        axes.set_ylabel(title)
        batch = view.inputs.get("batch_size")
        if batch:
            axes.axvline(batch, color=MUTED, lw=1, ls=":")
    panels.flat[0].axhline(SEEN_AT, color=MUTED, lw=1, ls=":")
    panels.flat[0].legend(frameon=False, fontsize=8, ncols=2)
    last = panels.flat[3]
    names = {"x": label(view.name_x, 14), "y": label(view.name_y, 14)}
    for key, (words, _, _) in PARTS.items():
        known = [(t, e.value) for t, e in zip(curves.temperatures, curves.budget[key], strict=True)]
        known = [(t, value) for t, value in known if math.isfinite(value)]
        at, values = [t for t, _ in known], [value for _, value in known]
        last.plot(at, values, color=_COLOURS[key], marker="o", ms=3, lw=1.5, label=words.format(**names))
    last.axhline(0, color=MUTED, lw=0.8)
    last.set_xscale("log")
    last.set_xlabel(r"temperature $\tau$")
    last.set_ylabel("nats")
    last.legend(frameon=False, fontsize=8)
    for axes in panels.flat:
        bare_axes(axes)
    return figure


__all__ = ["curve_figure"]
