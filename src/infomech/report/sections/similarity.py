"""How similar true and random pairs are, and a map of both clouds."""

from typing import Any

import numpy as np

from ..._words import cut, put_in
from ...diagnosis import Diagnosis
from ..charts import INK, base_layout, curve, numbers, short, title
from ..drawing import INK as PAPER_INK
from ..drawing import MUTED, bare_figure, label, legend
from ..section import Figure, Picture, Section, Spec, names_of
from ..style import DASHES, SIDES, SOFT, on_page, on_paper

MOST_POINTS = 2000  # of each cloud on the page: every one is an element that the browser has to draw
# Which pairs: their words, colour, dash, and whether the curve is filled.
_KINDS = {
    "pairs": ("true pairs", "pair", "solid", True),
    "xy": ("random {x} – {y}", "cross", "solid", True),
    "xx": ("random {x} – {x}", "x", "dash", False),
    "yy": ("random {y} – {y}", "y", "dot", False),
}


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """Histograms of cosines, and the map."""
    return {"chart-similarity": _histograms(diagnosis), "chart-map": _map(diagnosis)}


def _kind(diagnosis: Diagnosis, words: str) -> str:
    """The words of one kind of pairs."""
    x, y = (cut(name, 16) for name in names_of(diagnosis))
    return put_in(words, x, y)


def _histograms(diagnosis: Diagnosis) -> Spec:
    edges = diagnosis.pictures.similarity_edges
    data = []
    for key, (words, colour, dash, filled) in _KINDS.items():
        counts = diagnosis.pictures.similarity_counts.get(key)
        if counts is None:
            continue
        name = short(_kind(diagnosis, words), 50)
        data.append(
            curve(
                name,
                numbers((edges[1:] + edges[:-1]) / 2),
                numbers(counts),
                colour=on_page(colour),
                hover=f"{name}<br>similarity %{{x:.3f}}<br>density %{{y:.3f}}",
                line={"width": 2, "dash": dash, "shape": "hvh"},
                **({"fill": "tozeroy", "fillcolor": on_page(f"{colour}-soft")} if filled else {}),
            )
        )
    across = title("cosine similarity", range=similarity_range(diagnosis))
    layout = base_layout(height=450, x=across, y=title("density", rangemode="tozero"))
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


def _axes(diagnosis: Diagnosis) -> tuple[str, str]:
    if diagnosis.pictures.map_gap_axis:
        return "direction of the gap", "widest direction across it"
    return "first principal direction", "second principal direction"


def _map(diagnosis: Diagnosis) -> Spec:
    """Both clouds in one linear projection, with equal scales on both axes."""
    pictures = diagnosis.pictures
    clouds = ((pictures.map_x, pictures.map_labels_x), (pictures.map_y, pictures.map_labels_y))
    data: list[Spec] = []
    for name, (points, labels), (colour, _, symbol, _) in zip(names_of(diagnosis), clouds, SIDES, strict=True):
        step = max(1, -(-len(points) // MOST_POINTS))
        trace: Spec = {
            "type": "scatter",
            "mode": "markers",
            "name": short(name),
            "x": numbers(points[::step, 0]),
            "y": numbers(points[::step, 1]),
            "marker": {"color": on_page(colour), "size": 5, "opacity": 0.5, "symbol": symbol},
            "hovertemplate": f"{short(name)}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
        }
        if labels is not None:
            trace["text"] = [short(text, 80) for text in labels[::step]]
            trace["hovertemplate"] = f"%{{text}}<br>{short(name)} %{{x:.3f}}, %{{y:.3f}}<extra></extra>"
        data.append(trace)
    there = [(points.mean(axis=0), side) for (points, _), side in zip(clouds, SIDES, strict=True) if len(points)]
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "centroids",
            "x": numbers(np.array([centre[0] for centre, _ in there])),
            "y": numbers(np.array([centre[1] for centre, _ in there])),
            "line": {"color": INK, "width": 2},
            "marker": {
                "color": [on_page(side[0]) for _, side in there],
                "size": 13,
                "symbol": [side[2] for _, side in there],
                "line": {"color": INK, "width": 2},
            },
            "hovertemplate": "centroid<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        }
    )
    across, up = _axes(diagnosis)
    layout = base_layout(
        height=450,
        x=title(across, zeroline=False),
        y=title(up, scaleanchor="x", scaleratio=1, zeroline=False),
    )
    return {"data": data, "layout": layout}


def fill(diagnosis: Diagnosis) -> dict[str, Any]:
    """What the map shows, and how much of it."""
    pictures = diagnosis.pictures
    axes = (
        "Across: the direction of the gap, from one centroid to the other. Up: the widest direction at right angles."
        if pictures.map_gap_axis
        else "Across and up: the two directions of most variance."
    )
    share = f"Together they carry {pictures.map_explained:.0%} of the variance."
    return {"map_text": f"A linear projection, so that the gap is not made by the map. {axes} {share}"}


def histogram_figure(diagnosis: Diagnosis) -> Figure:
    """Histograms of cosines of true and random pairs."""
    pictures = diagnosis.pictures
    drawn, axes = bare_figure(5.4, 3.3)
    for key, (words, colour, dash, filled) in _KINDS.items():
        counts = pictures.similarity_counts.get(key)
        if counts is None:
            continue
        shade, name = on_paper(colour), label(_kind(diagnosis, words), 50)
        if filled:
            axes.stairs(counts, pictures.similarity_edges, fill=True, color=shade, alpha=SOFT, lw=0)
        axes.stairs(counts, pictures.similarity_edges, color=shade, ls=DASHES[dash], lw=1.5, label=name)
    axes.set_xlim(*similarity_range(diagnosis))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("density")
    legend(axes)
    return drawn


def map_figure(diagnosis: Diagnosis) -> Figure:
    """Both clouds in one linear projection, with equal scales."""
    pictures = diagnosis.pictures
    drawn, axes = bare_figure(5.4, 4.3)
    centres = []
    for name, points, side in zip(names_of(diagnosis), (pictures.map_x, pictures.map_y), SIDES, strict=True):
        if not len(points):
            continue
        colour, marker = on_paper(side[0]), side[3]
        # As pixels inside the PDF: thousands of vector dots make it slow to open.
        axes.scatter(points[:, 0], points[:, 1], s=7, marker=marker, color=colour, alpha=0.45, lw=0, rasterized=True)
        centres.append((points.mean(axis=0), colour, marker, label(name)))
    axes.plot(*np.array([c[0] for c in centres]).T.reshape(2, -1), color=PAPER_INK, lw=1.4, zorder=4)
    for centre, colour, marker, name in centres:
        axes.plot(*centre, marker, color=colour, ms=9, mec=PAPER_INK, mew=1.4, zorder=5, label=name, ls="none")
    axes.set_aspect("equal", adjustable="datalim")
    across, up = _axes(diagnosis)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    legend(axes)
    share = f"{pictures.map_explained:.0%} of the variance"
    axes.text(1, 1.02, share, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=MUTED)
    return drawn


SIMILARITY = Section(
    name="similarity",
    title="Similarities and map",
    link="Similarities and map",
    charts=charts,
    figures={
        "similarity": Picture("Similarities", histogram_figure),
        "map": Picture("Map of both clouds", map_figure),
    },
    fill=fill,
)

__all__ = ["SIMILARITY", "similarity_range"]
