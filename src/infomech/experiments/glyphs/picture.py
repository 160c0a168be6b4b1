"""The demo's decision as one picture, and the numbers that it shows."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ..._files import Json, dump_json, plain, write_file
from ..._words import signed_text, value_text
from ...diagnosis import Estimate
from ...report import Comparison
from ...report.drawing import INK, MUTED, Axes, Figure, bare_axes, blank_figure, figure_bytes, no_spine
from ...report.style import on_paper, series
from .data import TEST_NAMES, Glyphs, split_glyphs
from .demo import DemoModel

SHOWN = (
    ("retrieval", "x_to_y_recall_at_10", "recall at 10, picture → name"),
    ("retrieval", "y_to_x_recall_at_10", "recall at 10, name → picture"),
)
ALSO = (
    ("gap", "energy_distance", "modality gap\n(energy distance)"),
    ("budget", "divergence_sym", "what the loss pays\nfor the gap, nats"),
    ("budget", "effective_negatives_xy", "effective negatives\nin a batch of 256"),
)
_EXAMPLES = 5


def demo_numbers(comparison: Comparison, models: Sequence[DemoModel]) -> Json:
    """What the picture shows: how the models were trained, each measure, and the differences."""
    rows = {(row.section, row.key): row for row in comparison.rows()}
    measures = {}
    for section, key, _ in (*SHOWN, *ALSO):
        row = rows[section, key]
        change = row.differences[-1]
        measures[key] = plain({"models": list(row.estimates), "difference": change and change.estimate})
    return {
        "plans": [plain(asdict(model.plan)) for model in models],
        "unseen_names": TEST_NAMES,
        "measures": measures,
        "decision": comparison.decision(),
    }


def save_picture(comparison: Comparison, models: Sequence[DemoModel], path: Path) -> None:
    """Write the picture, and beside it, as ``.json``, the numbers that it was drawn from."""
    numbers = demo_numbers(comparison, models)
    names = [model.title for model in models]
    write_file(path, figure_bytes(demo_figure(numbers, names, split_glyphs(models[0].plan.seed)[1]), "png"))
    write_file(path.with_suffix(".json"), dump_json(numbers))


def read_numbers(path: Path) -> Json:
    """The numbers beside a picture."""
    numbers: Json = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return numbers


def demo_figure(numbers: Json, names: Sequence[str], unseen: Glyphs) -> Figure:
    """Examples of the pairs; recall of both models with intervals and the paired difference; what else differs."""
    figure = blank_figure(10.8, 3.7)
    grid = figure.add_gridspec(1, 3, width_ratios=(2.3, 3.9, 3.9), wspace=0.03)
    parts = [figure.add_subfigure(grid[0, k]) for k in range(3)]
    titles = (f"{TEST_NAMES:,} unseen names", "which temperature finds them better?", "what changed")
    for part, title in zip(parts, titles, strict=True):
        part.suptitle(title, x=0.02, ha="left", fontsize=9.5, fontweight="bold", color=INK)
    left, middle, right = parts
    _examples(left, unseen)
    _recalls(middle.subplots(), numbers, names)
    panels = right.subplots(1, len(ALSO))
    for axes, (_, key, title) in zip(panels, ALSO, strict=True):
        _bars(axes, numbers["measures"][key]["models"], title)
    return figure


def _estimate(content: Json) -> Estimate:
    return Estimate(**content)


def _examples(part: object, unseen: Glyphs) -> None:
    """Some pictures, each with its name beneath: what the models have to match."""
    wanted = [k for k, name in enumerate(unseen.names) if 8 <= len(name) <= 26]
    pick = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(7))[:_EXAMPLES]
    grid = part.subplots(_EXAMPLES, 2, width_ratios=(1, 4.4))  # type: ignore[attr-defined]
    for (image, text), at in zip(grid, pick.tolist(), strict=True):
        name = unseen.names[wanted[at]]
        image.imshow(1 - unseen.images[unseen.name_of == wanted[at]][0].numpy(), cmap="gray", vmin=0, vmax=1)
        for axes in (image, text):
            axes.set_axis_off()
        text.text(0, 0.5, name.lower(), va="center", fontsize=7.5, color=INK)


def _recalls(axes: Axes, numbers: Json, names: Sequence[str]) -> None:
    bare_axes(axes)
    for at, (_, key, label) in enumerate(SHOWN):
        both = [_estimate(model) for model in numbers["measures"][key]["models"]]
        for k, (name, e) in enumerate(zip(names, both, strict=True)):
            height = -at + 0.13 - 0.26 * k
            axes.plot([e.low, e.high], [height, height], color=on_paper(series(k)), linewidth=2.2)
            axes.plot(e.value, height, "o", color=on_paper(series(k)), markersize=7, label=name if at == 0 else None)
            axes.text(e.high + 0.006, height, value_text(e), va="center", fontsize=9, color=INK)
        change = _estimate(numbers["measures"][key]["difference"])
        text = f"{label}\n{signed_text(change)} ({change.low:.3f} to {change.high:.3f}), paired"
        axes.text(0.0, -at + 0.3, text, transform=axes.get_yaxis_transform(), fontsize=8.5, color=INK, va="bottom")
    values = [_estimate(m) for _, key, _ in SHOWN for m in numbers["measures"][key]["models"]]
    axes.set_xlim(min(e.low for e in values) - 0.02, max(e.high for e in values) + 0.05)
    axes.set_ylim(-len(SHOWN) + 0.6, 0.85)
    axes.set_yticks([])
    no_spine(axes)
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)


def _bars(axes: Axes, models: Sequence[Json], title: str) -> None:
    bare_axes(axes)
    for k, e in enumerate(map(_estimate, models)):
        axes.bar(k, e.value, color=on_paper(series(k)), width=0.7)
        axes.plot([k, k], [e.low, e.high], color=INK, linewidth=1)
        axes.text(k, e.high, value_text(e), ha="center", va="bottom", fontsize=8.5, color=INK)
    axes.set_title(title, fontsize=8, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(y=0.15)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)


__all__ = ["ALSO", "SHOWN", "demo_figure", "demo_numbers", "read_numbers", "save_picture"]
