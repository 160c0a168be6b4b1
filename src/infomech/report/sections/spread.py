"""How many directions carry the variance, and how many negatives an anchor sees (E2)."""

import math
from typing import Any

import numpy as np

from ..._words import brief, number, significant, with_error
from ...diagnosis import Diagnosis
from ...diagnosis.diagnosis import FloatArray
from ..charts import MUTED, base_layout, curve, negatives_axis, numbers, short, title
from ..drawing import MUTED as PAPER_MUTED
from ..drawing import bare_figure, label, legend
from ..section import DIRECTIONS, Card, Figure, Picture, Section, Spec, direction, names_of
from ..style import DASHES, SIDES, on_page, on_paper


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """Spectra, and the distribution of the effective negatives."""
    return {"chart-spectra": _spectra(diagnosis), "chart-effective": _effective(diagnosis)}


def _spectra(diagnosis: Diagnosis) -> Spec:
    """Eigenvalues of the centred covariance of each modality."""
    spectra = diagnosis.pictures.spectrum_x, diagnosis.pictures.spectrum_y
    data = []
    ends: list[float] = []
    for name, values, (colour, dash, *_) in zip(names_of(diagnosis), spectra, SIDES, strict=True):
        kept = spectrum_shown(values)
        ends += [*kept[:1], *kept[-1:]]
        share = np.cumsum(kept) / kept.sum() if len(kept) else kept
        hover = f"{short(name)}, direction %{{x}}<br>variance %{{y:.3g}}<br>first %{{x}} carry %{{customdata:.1f}}%"
        data.append(
            curve(
                short(name),
                list(range(1, len(kept) + 1)),
                numbers(kept),
                colour=on_page(colour),
                dash=dash,
                hover=hover,
                customdata=numbers(100 * share),
            )
        )
    marks = _few_ticks(ends)
    ticks: Spec = {"exponentformat": "power", "dtick": 1}
    if marks:
        ticks = {"tickvals": marks, "ticktext": [brief(mark) for mark in marks]}
    layout = base_layout(
        height=380,
        x=title("principal direction", rangemode="tozero"),
        y=title("variance", type="log", **ticks),
    )
    return {"data": data, "layout": layout}


def _few_ticks(values: list[float]) -> list[float]:
    """Round numbers for a logarithmic axis that spans too few powers of ten to be read by these; else none."""
    if not values or max(values) > 100 * min(values):
        return []
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        marks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
        marks = [mark for mark in marks if min(values) <= mark <= max(values)]
        if len(marks) >= 3:
            break
    return marks


def spectrum_shown(values: FloatArray) -> FloatArray:
    """The eigenvalues above rounding: a logarithmic axis has no place for the others."""
    values = np.asarray(values, dtype=np.float64)
    top = values.max(initial=0.0)
    shown: FloatArray = values[np.isfinite(values) & (values > 1e-12 * top)]
    return shown


def ecdf(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Steps of the empirical distribution, at most some hundred of them."""
    ordered = np.sort(values[np.isfinite(values)])
    share = np.arange(1, len(ordered) + 1) / max(1, len(ordered))
    if len(ordered) > 400:
        at = np.unique(np.linspace(0, len(ordered) - 1, 400).astype(int))
        ordered, share = ordered[at], share[at]
    return ordered, share


def _samples(diagnosis: Diagnosis) -> tuple[FloatArray, FloatArray]:
    return diagnosis.pictures.effective_negatives_x_to_y, diagnosis.pictures.effective_negatives_y_to_x


def _effective(diagnosis: Diagnosis) -> Spec:
    """How many negatives the anchors see: distribution functions over a logarithmic axis."""
    samples, negatives = _samples(diagnosis), diagnosis.budget.negatives
    data = []
    for side, values, (colour, dash, *_) in zip(DIRECTIONS, samples, SIDES, strict=True):
        at, share = ecdf(values)
        data.append(
            curve(
                short(direction(diagnosis, side, 14), 31),
                numbers(at),
                numbers(share),
                colour=on_page(colour),
                hover="%{y:.1%} of the anchors see<br>at most %{x:.1f} negatives",
                line={"dash": dash, "shape": "hv"},
            )
        )
    layout = base_layout(
        height=380,
        x=negatives_axis(
            "effective negatives of an anchor",
            range=log_range(*samples, negatives),
            minor={"ticks": "outside", "dtick": "D2"},
        ),
        y=title("share of anchors", range=[0, 1.02], tickformat=".0%"),
    )
    if negatives > 0:
        line = {"color": MUTED, "width": 1.5, "dash": "dot"}
        layout["shapes"] = [
            {"type": "line", "x0": negatives, "x1": negatives, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        ]
        layout["annotations"] = [
            {
                "x": math.log10(negatives),
                "y": 0.04,
                "yref": "paper",
                "text": f"N = {number(float(negatives), 0)}",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
                "xshift": -5,
                "font": {"color": MUTED},
            }
        ]
    return {"data": data, "layout": layout}


def log_range(first: FloatArray, second: FloatArray, negatives: float | int) -> list[float]:
    """Decimal exponents of the axis of effective negatives."""
    values = [float(v) for v in (*first, *second, 1.0, negatives) if math.isfinite(v) and v > 0]
    return [math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.08]


def fill(diagnosis: Diagnosis) -> dict[str, Any]:
    """The spread of the effective negatives in words."""
    parts = []
    for side, values in diagnosis.budget.effective_negatives_quantiles.items():
        if {"0.05", "0.5", "0.95"} <= values.keys():
            low, middle, high = (significant(values[q]) for q in ("0.05", "0.5", "0.95"))
            parts.append(f"{direction(diagnosis, side)} median {middle} (90% of anchors {low} to {high})")
    text = "; ".join(parts) + "." if parts else "the share of anchors that see at most so many."
    return {"effective_text": text}


def cards(diagnosis: Diagnosis) -> list[Card]:
    """The effective negatives."""
    budget = diagnosis.budget
    lines = [f"of {budget.negatives:,}, a mean over anchors"]
    if budget.negatives < budget.groups - 1:
        lines.append(f"Gradient error of the batch {with_error(budget.gradient.error)}")
    return [Card("Effective negatives", budget.effective_negatives, lines)]


def spectra_figure(diagnosis: Diagnosis) -> Figure:
    """Eigenvalues of the centred covariance of each modality."""
    drawn, axes = bare_figure(5.4, 3.3)
    spectra = diagnosis.pictures.spectrum_x, diagnosis.pictures.spectrum_y
    ends: list[float] = []
    for name, values, (colour, dash, *_) in zip(names_of(diagnosis), spectra, SIDES, strict=True):
        kept = spectrum_shown(values)
        ends += [*kept[:1], *kept[-1:]]
        if len(kept):
            at = np.arange(1, len(kept) + 1)
            axes.plot(at, kept, DASHES[dash], color=on_paper(colour), lw=1.7, label=label(name))
    axes.set_yscale("log")
    marks = _few_ticks(ends)
    if marks:
        axes.set_yticks(marks, [brief(mark) for mark in marks])
        axes.minorticks_off()
    axes.set_xlim(left=0)
    axes.set_xlabel("principal direction")
    axes.set_ylabel("variance")
    if axes.lines:
        legend(axes)
    return drawn


def effective_figure(diagnosis: Diagnosis) -> Figure:
    """Distribution functions of the effective negatives."""
    from matplotlib.ticker import PercentFormatter

    samples, negatives = _samples(diagnosis), diagnosis.budget.negatives
    drawn, axes = bare_figure(5.4, 3.3)
    for side, values, (colour, dash, *_) in zip(DIRECTIONS, samples, SIDES, strict=True):
        name = label(direction(diagnosis, side), 40)
        axes.step(*ecdf(values), DASHES[dash], where="post", color=on_paper(colour), lw=1.7, label=name)
    axes.set_xscale("log")
    low, high = log_range(*samples, negatives)
    axes.set_xlim(10**low, 10**high)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if negatives > 0:
        axes.axvline(negatives, color=PAPER_MUTED, lw=1.2, ls=":")
        axes.annotate(
            f"N = {number(float(negatives), 0)}",
            (negatives, 0.04),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            color=PAPER_MUTED,
        )
    axes.set_xlabel("effective negatives of an anchor (of N)")
    axes.set_ylabel("share of anchors")
    legend(axes)
    return drawn


SPREAD = Section(
    name="spread",
    title="Spectra and negatives",
    link="Spectra and negatives",
    charts=charts,
    figures={
        "spectra": Picture("Spectra", spectra_figure),
        "effective_negatives": Picture("Effective negatives", effective_figure),
    },
    fill=fill,
    cards=cards,
    terms=(
        (
            "Effective negatives",
            "(Σκ)²/Σκ² over an anchor's negatives, κ = exp(similarity/τ): N if all weigh the same, 1 if one outweighs "
            "all.",
        ),
    ),
)

__all__ = ["SPREAD", "ecdf", "spectrum_shown"]
