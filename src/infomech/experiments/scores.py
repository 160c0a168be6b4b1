"""What the studies of trained models score: gap, divergence and retrieval, in a dictionary, a table and a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._markdown import table
from ..diagnosis import Diagnosis, Estimate
from .statistics import plus_minus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {
    "energy_distance": "energy distance",
    "mmd2": "MMD², median bandwidth",
    "centroid_gap": "centroid gap",
    "divergence_sym": "Dsym (nats)",
    "alignment": "alignment (nats)",
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
}


def scores_of(found: Diagnosis, divergence: Estimate) -> dict[str, float]:
    """The measures of a diagnosis, with the divergence that is wanted; recall is the mean of both directions."""
    recalls = {k: [found.retrieval[f"{side}_recall_at_{k}"].value for side in ("x_to_y", "y_to_x")] for k in (1, 5, 10)}
    return {
        "energy_distance": found.gap["energy_distance"].value,
        "mmd2": found.gap["mmd2_median"].value,
        "centroid_gap": found.gap["centroid_gap"].value,
        "divergence_sym": divergence.value,
        "alignment": found.budget.alignment.value,
        **{f"recall_at_{k}": sum(both) / 2 for k, both in recalls.items()},
    }


def measures_table(summary: Sequence[Mapping[str, Any]], keys: Mapping[str, str], measures: Mapping[str, str]) -> str:
    """A row for each of a summary: the keys, by their heading, and each measure with its interval."""
    rows = [
        [
            *(f"{row[key]:g}" if isinstance(row[key], float) else str(row[key]) for key in keys.values()),
            *(plus_minus(row[m]) for m in measures),
        ]
        for row in summary
    ]
    return table([*keys, *measures.values()], rows)


def measures_figure(
    summary: Sequence[Mapping[str, Any]],
    *,
    panels: Mapping[str, str],
    along: str,
    by: str,
    axis: str,
    words: str,
    mark: tuple[float, str] | None = None,
) -> "Figure":
    """A panel for each measure against what varies, with a line and a band of intervals for each group.

    Args:
        summary: rows of `statistics.summarise`.
        panels: measures with their labels.
        along: what varies.
        by: what the groups differ in.
        axis: label of what varies.
        words: label of a group, with {} for its value.
        mark: a place on the axis, and its name.
    """
    from matplotlib.figure import Figure

    from ..report.drawing import INK, MARKERS, MUTED, SERIES, bare_axes

    figure = Figure(figsize=(10, 3.3), layout="constrained")
    groups = list(dict.fromkeys(row[by] for row in summary))
    for axes, (name, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for k, group in enumerate(groups):
            rows = [row for row in summary if row[by] == group]
            x, values = [row[along] for row in rows], [row[name]["value"] for row in rows]
            color = SERIES[k % len(SERIES)]
            if all(row[name]["high"] is not None for row in rows):
                low, high = ([row[name][end] for row in rows] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
            shown = words.format(f"{group:g}" if isinstance(group, float) else group)
            axes.plot(x, values, marker=MARKERS[k % len(MARKERS)], ms=4.5, lw=1.5, color=color, label=shown)
        if mark is not None:
            axes.axvline(mark[0], ls="--", lw=1, color=MUTED)
            axes.annotate(
                mark[1], (mark[0], 0.03), xycoords=("data", "axes fraction"), xytext=(3, 0),
                textcoords="offset points", va="bottom", fontsize=8, color=INK,
            )  # fmt: skip
        axes.set(xlabel=axis, ylabel=label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if "recall" not in name else None)
        bare_axes(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(groups), frameon=False, fontsize=8.5)
    return figure


__all__ = ["MEASURES", "measures_figure", "measures_table", "scores_of"]
