"""Interactive charts of one report, as plotly specifications.

They are plain dictionaries: no plotly import, strict JSON. Colours are names of the page's CSS variables, which the
page's script puts in, so that charts follow the reader's light or dark theme.
"""

import itertools
import math

import numpy as np

from ..diagnosis import Diagnosis, Estimate
from ..diagnosis.diagnosis import FloatArray
from .chart_parts import (
    CROSS,
    DOWN,
    INK,
    MUTED,
    PAIR,
    TOTAL,
    UP,
    Spec,
    X,
    Y,
    base_layout,
    error_bar,
    finite,
    numbers,
    short,
    short_direction,
)
from .curves import curve_charts
from .view import RECALLS, SIDES, View
from .words import MINUS, interval_text, number, value_text

MOST_POINTS = 2000  # of each cloud on the page: every one is an element that the browser has to draw


def report_charts(view: View, diagnosis: Diagnosis) -> dict[str, Spec]:
    """Every chart of the page, by the id of its place."""
    charts = {
        "chart-budget": waterfall(view),
        "chart-similarity": similarity(view, diagnosis),
        "chart-map": cloud_map(view, diagnosis),
        "chart-spectra": spectra(view, diagnosis),
        "chart-effective": effective(view, diagnosis),
        "chart-retrieval": retrieval(view),
    }
    return charts if diagnosis.curves is None else charts | curve_charts(diagnosis.curves, view)


def signed(estimate: Estimate) -> str:
    """The value with its sign spelled out."""
    text = value_text(estimate)
    return text if text.startswith(MINUS) else f"+{text}"


def waterfall(view: View) -> Spec:
    """The budget: terms that add up to the loss."""
    terms = view.terms()
    labels = [short(term.label) for term in terms]
    values = [finite(term.share.value) for term in terms]
    texts = [value_text(t.share) if t.total else signed(t.share) for t in terms]
    ends = [*itertools.accumulate(v or 0.0 for v in values[:-1]), values[-1]]
    bars = {
        "type": "waterfall",
        "orientation": "h",
        "y": labels,
        "x": values,
        "measure": ["total" if term.total else "relative" for term in terms],
        "textposition": "none",
        "customdata": [[text, interval_text(t.share)] for text, t in zip(texts, terms, strict=True)],
        "hovertemplate": "<b>%{y}</b> %{customdata[0]} nats<br>95%: %{customdata[1]}<extra></extra>",
        "connector": {"line": {"color": MUTED, "width": 1, "dash": "dot"}},
        "increasing": {"marker": {"color": UP}},
        "decreasing": {"marker": {"color": DOWN}},
        "totals": {"marker": {"color": TOTAL}},
        "showlegend": False,
    }
    whiskers = {
        "type": "scatter",
        "mode": "markers",
        "y": labels,
        "x": ends,
        "marker": {"size": 1, "color": INK},
        "error_x": error_bar([t.share for t in terms]),
        "hoverinfo": "skip",
        "showlegend": False,
    }
    # All texts stand to the right of their bar and its whisker: there they never meet the names on the left.
    running = [0.0, *(end or 0.0 for end in ends)]
    starts = [*running[: len(terms) - 1], 0.0]
    arms = [finite(t.share.high - t.share.value) or 0.0 for t in terms]
    amounts = {
        "type": "scatter",
        "mode": "text",
        "y": labels,
        "x": [max(start, end + arm) for start, end, arm in zip(starts, running[1:], arms, strict=True)],
        "text": [f"  {text}" for text in texts],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    width = max(running) - min(running) or 1.0
    low = min(running) - 0.05 * width
    layout = base_layout(height=520)
    layout["xaxis"] |= {
        "title": {"text": "nats"},
        "range": [low, max(running) + 0.24 * width],
        "zeroline": True,
        "zerolinecolor": MUTED,
    }
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "ticks": ""}
    return {"data": [bars, whiskers, amounts], "layout": layout, "narrow": [low, max(running) + 0.45 * width]}


def similarity(view: View, diagnosis: Diagnosis) -> Spec:
    """Histograms of cosines of true and random pairs."""
    edges = diagnosis.pictures.similarity_edges
    x, y = short(view.name_x, 16), short(view.name_y, 16)
    curves = (
        ("pairs", "true pairs", PAIR, "solid", True),
        ("xy", f"random {x} – {y}", CROSS, "solid", True),
        ("xx", f"random {x} – {x}", X, "dash", False),
        ("yy", f"random {y} – {y}", Y, "dot", False),
    )
    data = []
    for key, label, colour, dash, filled in curves:
        counts = diagnosis.pictures.similarity_counts.get(key)
        if counts is None:
            continue
        trace = {
            "type": "scatter",
            "mode": "lines",
            "name": label,
            "x": numbers((edges[1:] + edges[:-1]) / 2),
            "y": numbers(counts),
            "line": {"color": colour, "width": 2, "dash": dash, "shape": "hvh"},
            "hovertemplate": f"{label}<br>similarity %{{x:.3f}}<br>density %{{y:.3f}}<extra></extra>",
        }
        if filled:
            trace |= {"fill": "tozeroy", "fillcolor": colour.replace(")", "-soft)")}
        data.append(trace)
    layout = base_layout(height=450)
    layout["xaxis"] |= {"title": {"text": "cosine similarity"}, "range": similarity_range(diagnosis)}
    layout["yaxis"] |= {"title": {"text": "density"}, "rangemode": "tozero"}
    return {"data": data, "layout": layout}


def similarity_range(diagnosis: Diagnosis) -> list[float]:
    """The part of the axis where any histogram has mass."""
    edges = diagnosis.pictures.similarity_edges
    filled = np.zeros(len(edges) - 1, dtype=bool)
    for counts in diagnosis.pictures.similarity_counts.values():
        filled |= np.nan_to_num(counts) > 0
    at = np.flatnonzero(filled)
    if len(at) == 0:
        return [float(edges[0]), float(edges[-1])]
    margin = 0.03 * (edges[at[-1] + 1] - edges[at[0]])
    return [float(edges[at[0]] - margin), float(edges[at[-1] + 1] + margin)]


def map_axes(diagnosis: Diagnosis) -> tuple[str, str]:
    """Titles of the axes of the map."""
    if diagnosis.pictures.map_gap_axis:
        return "direction of the gap", "widest direction across it"
    return "first principal direction", "second principal direction"


def cloud_map(view: View, diagnosis: Diagnosis) -> Spec:
    """Both clouds in one linear projection, with equal scales on both axes."""
    pictures = diagnosis.pictures
    clouds = (
        (view.name_x, pictures.map_x, pictures.map_labels_x, X, "circle"),
        (view.name_y, pictures.map_y, pictures.map_labels_y, Y, "diamond"),
    )
    data: list[Spec] = []
    for name, points, labels, colour, symbol in clouds:
        step = max(1, -(-len(points) // MOST_POINTS))
        trace: Spec = {
            "type": "scatter",
            "mode": "markers",
            "name": short(name),
            "x": numbers(points[::step, 0]),
            "y": numbers(points[::step, 1]),
            "marker": {"color": colour, "size": 5, "opacity": 0.5, "symbol": symbol},
            "hovertemplate": f"{short(name)}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
        }
        if labels is not None:
            trace["text"] = [short(label, 80) for label in labels[::step]]
            trace["hovertemplate"] = f"%{{text}}<br>{short(name)} %{{x:.3f}}, %{{y:.3f}}<extra></extra>"
        data.append(trace)
    centres = [points.mean(axis=0) for _, points, _, _, _ in clouds if len(points)]
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "centroids",
            "x": numbers(np.array([c[0] for c in centres])),
            "y": numbers(np.array([c[1] for c in centres])),
            "line": {"color": INK, "width": 2},
            "marker": {
                "color": [X, Y][: len(centres)],
                "size": 13,
                "symbol": ["circle", "diamond"][: len(centres)],
                "line": {"color": INK, "width": 2},
            },
            "hovertemplate": "centroid<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        }
    )
    layout = base_layout(height=450)
    across, up = map_axes(diagnosis)
    layout["xaxis"] |= {"title": {"text": across}, "zeroline": False}
    layout["yaxis"] |= {"title": {"text": up}, "scaleanchor": "x", "scaleratio": 1, "zeroline": False}
    return {"data": data, "layout": layout}


def spectra(view: View, diagnosis: Diagnosis) -> Spec:
    """Eigenvalues of the centred covariance of each modality."""
    data = []
    for name, values, colour, dash in (
        (view.name_x, diagnosis.pictures.spectrum_x, X, "solid"),
        (view.name_y, diagnosis.pictures.spectrum_y, Y, "dash"),
    ):
        kept = spectrum_shown(values)
        share = np.cumsum(kept) / kept.sum() if len(kept) else kept
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": short(name),
                "x": list(range(1, len(kept) + 1)),
                "y": numbers(kept),
                "customdata": numbers(100 * share),
                "line": {"color": colour, "width": 2.2, "dash": dash},
                "hovertemplate": f"{short(name)}, direction %{{x}}<br>variance %{{y:.3g}}<br>"
                "first %{x} carry %{customdata:.1f}%<extra></extra>",
            }
        )
    layout = base_layout(height=380)
    layout["xaxis"] |= {"title": {"text": "principal direction"}, "rangemode": "tozero"}
    layout["yaxis"] |= {"title": {"text": "variance"}, "type": "log", "exponentformat": "power", "dtick": 1}
    return {"data": data, "layout": layout}


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


def effective(view: View, diagnosis: Diagnosis) -> Spec:
    """How many negatives the anchors see: distribution functions over a logarithmic axis."""
    samples = (
        (short_direction(view, "x_to_y"), diagnosis.pictures.effective_negatives_x_to_y, X, "solid"),
        (short_direction(view, "y_to_x"), diagnosis.pictures.effective_negatives_y_to_x, Y, "dash"),
    )
    data = []
    for name, values, colour, dash in samples:
        at, share = ecdf(values)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": numbers(at),
                "y": numbers(share),
                "line": {"color": colour, "width": 2.2, "dash": dash, "shape": "hv"},
                "hovertemplate": "%{y:.1%} of the anchors see<br>at most %{x:.1f} negatives<extra></extra>",
            }
        )
    layout = base_layout(height=380)
    layout["xaxis"] |= {
        "title": {"text": "effective negatives of an anchor (of N)"},
        "type": "log",
        "range": log_range(samples[0][1], samples[1][1], view.negatives),
        "dtick": 1,
        "minor": {"ticks": "outside", "dtick": "D2"},
    }
    layout["yaxis"] |= {"title": {"text": "share of anchors"}, "range": [0, 1.02], "tickformat": ".0%"}
    if view.negatives > 0:
        layout["shapes"] = [
            {
                "type": "line",
                "x0": view.negatives,
                "x1": view.negatives,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": MUTED, "width": 1.5, "dash": "dot"},
            }
        ]
        layout["annotations"] = [
            {
                "x": math.log10(view.negatives),
                "y": 0.04,
                "yref": "paper",
                "text": f"N = {number(view.negatives, 0)}",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
                "xshift": -5,
                "font": {"color": MUTED},
            }
        ]
    return {"data": data, "layout": layout}


def log_range(first: FloatArray, second: FloatArray, negatives: float) -> list[float]:
    """Decimal exponents of the axis of effective negatives."""
    values = [float(v) for v in (*first, *second, 1.0, negatives) if math.isfinite(v) and v > 0]
    return [math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.08]


def retrieval(view: View) -> Spec:
    """Recall both ways, and what shuffled partners give."""
    labels = [f"R@{k}" for k in RECALLS]
    data = []
    for prefix, note in (("", ""), ("shuffled_", ", shuffled")):
        for side, colour in zip(SIDES, (X, Y), strict=True):
            cells = [view.retrieval.get(f"{prefix}{side}_recall_at_{k}") for k in RECALLS]
            if not any(cells):
                continue
            known = [c or Estimate(math.nan, math.nan, math.nan, math.nan) for c in cells]
            name = short_direction(view, side) + note
            data.append(
                {
                    "type": "bar",
                    "name": name,
                    "x": labels,
                    "y": [finite(c.value) for c in known],
                    "error_y": error_bar(known),
                    "customdata": [interval_text(c) for c in known],
                    "marker": {"color": MUTED if prefix else colour, "pattern": {"shape": "/" if prefix else ""}},
                    "hovertemplate": f"{name}<br>%{{x}} = %{{y:.3f}}<br>95%: %{{customdata}}<extra></extra>",
                }
            )
    layout = base_layout(height=380)
    layout |= {"barmode": "group", "bargap": 0.22, "bargroupgap": 0.06}
    layout["xaxis"] |= {"showgrid": False, "title": {"text": "recall at k"}}
    layout["yaxis"] |= {"title": {"text": "share of queries with a hit"}, "range": [0, 1.03]}
    return {"data": data, "layout": layout}


__all__ = [
    "ecdf",
    "log_range",
    "map_axes",
    "report_charts",
    "similarity_range",
    "spectrum_shown",
    "waterfall",
]
