"""Control, shown (C1, T11): what the divergence weight does to the gap and to retrieval, on the halves of digits."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor

from ...diagnosis import Settings, examine
from ...reductions import torch_threads
from ..runs import Part, RunFolder
from .halves import TwoTower, load_halves
from .stacked import Run, train_stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "control"
TITLE = "Control, shown: gap and retrieval against the divergence weight (T11), on the halves of handwritten digits"

CRITICAL_WEIGHT = 0.75  # T11
TEMPERATURE = 0.07
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


@dataclass(frozen=True)
class Plan:
    """The grid of runs: every lambda (0 and 3/4 among them) with every p and every seed."""

    weights: tuple[float, ...] = (0.0, 0.25, 0.5, CRITICAL_WEIGHT, 1.0, 1.5)
    swaps: tuple[float, ...] = (0.0, 0.5, 1.0)
    seeds: int = 5
    steps: int = 1500

    def grid(self) -> list[Run]:
        """The runs of one seed."""
        return [Run(p, w) for p in self.swaps for w in self.weights]


FULL = Plan()
FAST = Plan(swaps=(0.0, 1.0), seeds=2, steps=500)


def run_control(
    folder: Path,
    *,
    plan: Plan = FULL,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Train the grid of (lambda, p, seed), score every model on held-out digits, and write what was found.

    All the models of a seed are one stacked program; what a seed gave is kept, and an interrupted run goes on after it.

    Args:
        folder: for results.json, provenance.json, README.md, control.png and control.pdf; made if missing.
        plan: what to run; `FAST` takes two seeds, two values of p and 500 steps in place of five, three and 1,500.
        seed: first seed; a seed sets the split, the initial weights, the batches and the swaps, for every lambda alike.
        workers: processes, which take the seeds in turn; by default one for each core.
        progress: called with shares of the work that sum to 1.

    Returns:
        What results.json holds: "settings", "runs" and "summary", the latter with a mean, a standard error and a 95%
        interval (Student, over seeds) for each measure, and for its paired difference from lambda = 0.
    """
    seeds = range(seed, seed + plan.seeds)
    run = RunFolder(folder, NAME, {"temperature": TEMPERATURE, **asdict(plan), "seed": seed})
    parts = run.parts({f"seed{s}": (plan, s) for s in seeds}, train_seed, workers=workers, progress=progress)
    runs = [
        {"divergence_weight": r.divergence_weight, "swap": r.swap, "seed": s}
        | {name: float(parts[f"seed{s}"][name][i]) for name in MEASURES}
        for s in seeds
        for i, r in enumerate(plan.grid())
    ]
    summary = summarise(runs)
    results: dict[str, Any] = {
        "settings": {"temperature": TEMPERATURE, **asdict(plan), "seeds": list(seeds)},
        "runs": runs,
        "summary": summary,
        "found": findings(summary, plan),
    }
    run.write(results, readme=_readme(results), figures={"control": _figure(summary, plan.swaps)})
    return results


def train_seed(plan: Plan, seed: int) -> Part:
    """Train the models of one seed, and score them on the digits that they have not seen: each measure by run."""
    with torch_threads(1):  # a step's matrices are too small to share
        data = load_halves(seed)
        models = train_stack(data, plan.grid(), seed=seed, steps=plan.steps, temperature=TEMPERATURE)
        scores = [score(model, data.test_x, data.test_y) for model in models]
    return {name: np.asarray([row[name] for row in scores]) for name in MEASURES}


def score(model: TwoTower, test_x: Tensor, test_y: Tensor) -> dict[str, float]:
    """Gap, alignment and retrieval of a model on pairs, as `infomech report` has them, in double precision.

    The divergence is the plain one, that the loss weighs; recall is the mean of both directions.
    """
    rows = model.embed_x(test_x).double(), model.embed_y(test_y).double()
    found = examine(*rows, Settings(temperature=TEMPERATURE))
    recall = {
        k: sum(found.retrieval[f"{direction}_recall_at_{k}"].value for direction in ("x_to_y", "y_to_x")) / 2
        for k in (1, 5, 10)
    }
    return {
        "energy_distance": found.gap["energy_distance"].value,
        "mmd2": found.gap["mmd2_median"].value,
        "centroid_gap": found.gap["centroid_gap"].value,
        "divergence_sym": found.budget.plain["divergence_sym"].value,
        "alignment": found.budget.alignment.value,
        **{f"recall_at_{k}": value for k, value in recall.items()},
    }


def summarise(runs: Iterable[dict[str, float]]) -> list[dict[str, Any]]:
    """Mean and 95% interval over seeds for every (p, lambda), and of the paired change from lambda = 0."""
    cells: dict[tuple[float, float], dict[float, dict[str, float]]] = {}
    for run in runs:
        cells.setdefault((run["swap"], run["divergence_weight"]), {})[run["seed"]] = run
    rows = []
    for (swap, weight), by_seed in sorted(cells.items()):
        start = cells[swap, min(w for p, w in cells if p == swap)]
        row: dict[str, Any] = {"swap": swap, "divergence_weight": weight}
        for name in MEASURES:
            values = [by_seed[s][name] for s in sorted(by_seed)]
            changes = [by_seed[s][name] - start[s][name] for s in sorted(by_seed)]
            row[name], row[f"change_{name}"] = interval(values), interval(changes)
        rows.append(row)
    return rows


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard error and 95% Student interval of independent values (two or more).

    >>> {key: round(number, 3) for key, number in interval([1.0, 2.0, 3.0]).items()}
    {'value': 2.0, 'stderr': 0.577, 'low': -0.484, 'high': 4.484}
    """
    sample = torch.tensor(values, dtype=torch.float64)
    stderr = float(sample.std() / math.sqrt(len(values)))
    half = float(student_t.ppf(0.975, len(values) - 1)) * stderr
    mean = float(sample.mean())
    return {"value": mean, "stderr": stderr, "low": mean - half, "high": mean + half}


def findings(summary: Sequence[dict[str, Any]], plan: Plan) -> list[str]:
    """What the numbers say, for and against T11, in sentences made of the numbers."""
    cell = {(row["swap"], row["divergence_weight"]): row for row in summary}
    sentences = []
    for p in plan.swaps:
        energy = {w: cell[p, w]["energy_distance"]["value"] for w in plan.weights}
        start, critical, last = energy[0.0], energy[CRITICAL_WEIGHT], energy[plan.weights[-1]]
        share = 1 - critical / start if start > 0 else math.nan
        sentences.append(
            f"p = {p:g}: the energy distance is {start:.4f} at lambda = 0, {critical:.4f} at 3/4 "
            f"({share:.0%} of it gone) and {last:.4f} at {plan.weights[-1]:g}; "
            f"it is smallest at lambda = {min(energy, key=energy.__getitem__):g}."
        )
        recall, change = cell[p, CRITICAL_WEIGHT]["recall_at_10"], cell[p, CRITICAL_WEIGHT]["change_recall_at_10"]
        direction = "rises" if change["low"] > 0 else "falls" if change["high"] < 0 else "does not change significantly"
        sentences.append(
            f"p = {p:g}: R@10 is {recall['value']:.3f} at lambda = 3/4; against lambda = 0 it {direction} "
            f"({change['value']:+.3f}, 95% interval {change['low']:+.3f} to {change['high']:+.3f})."
        )
        sentences.append(f"p = {p:g}: " + _against_theory({w: cell[p, w]["divergence_sym"] for w in plan.weights}))
    return sentences


def _against_theory(divergence: dict[float, dict[str, float]]) -> str:
    """Where Dsym falls with lambda, beside the transition at 3/4 that T11 puts between unstable and stable."""
    path = ", ".join(f"{d['value']:.3f} at {w:g}" for w, d in divergence.items())
    drops = {w: (divergence[v]["value"] - divergence[w]["value"]) / (w - v) for v, w in pairwise(divergence)}
    steepest = max(drops, key=drops.__getitem__)
    below = next(v for v, w in pairwise(divergence) if w == steepest)
    agrees = below <= CRITICAL_WEIGHT <= steepest
    return (
        f"Dsym is {path}; it falls most steeply between lambda = {below:g} and {steepest:g}. T11, for matched "
        "marginals with the potentials held and in the sharp limit, puts a transition at 3/4: here "
        + ("the steepest fall is there." if agrees else "the fall is smooth, and most of it comes earlier.")
    )


def _readme(results: dict[str, Any]) -> str:
    settings = results["settings"]
    lines = [
        f"# {TITLE}",
        "",
        f"Two small towers on the left and right halves of scikit-learn's digits, tau = {TEMPERATURE}, batch 256, "
        f"{settings['steps']} steps, {len(settings['seeds'])} seeds; the loss is InfoNCE + lambda Dsym of the batch. "
        "p is the share of training pairs whose partner was exchanged within its class. Scores are on 497 digits that "
        "training has not seen; gap measures are U statistics, with partners "
        "left out of the cross means; ± is the half-width of a 95% interval over seeds.",
        "",
        *(f"- {sentence}" for sentence in results["found"]),
        "",
        "| p | lambda | " + " | ".join(MEASURES.values()) + " |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for row in results["summary"]:
        cells = [f"{row[m]['value']:.4f} ± {row[m]['high'] - row[m]['value']:.4f}" for m in MEASURES]
        lines.append(f"| {row['swap']:g} | {row['divergence_weight']:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "![gap and recall against lambda](control.png)", ""])


def _figure(summary: Sequence[dict[str, Any]], swaps: Sequence[float]) -> "Figure":
    """Gap and recall against lambda, with lambda_c marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = {"energy_distance": "energy distance", "divergence_sym": "Dsym (nats)", "recall_at_10": "recall at 10"}
    for axes, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for k, (p, marker) in enumerate(zip(swaps, "osD", strict=False)):
            rows = [row for row in summary if row["swap"] == p]
            x = [row["divergence_weight"] for row in rows]
            y = [row[name]["value"] for row in rows]
            bars = [row[name]["high"] - row[name]["value"] for row in rows]
            color = ("#0072B2", "#D55E00", "#009E73")[k]
            axes.errorbar(x, y, yerr=bars, marker=marker, ms=4, capsize=2, lw=1.4, color=color, label=f"p = {p:g}")
        axes.axvline(CRITICAL_WEIGHT, ls="--", lw=1, color="0.4")
        axes.annotate(
            r"$\lambda_c = 3/4$", (CRITICAL_WEIGHT, 0.03), xycoords=("data", "axes fraction"), xytext=(3, 0),
            textcoords="offset points", va="bottom", fontsize=8, color="0.3",
        )  # fmt: skip
        axes.set_xlabel(r"divergence weight $\lambda$")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


__all__ = [
    "FAST",
    "FULL",
    "MEASURES",
    "NAME",
    "TITLE",
    "Plan",
    "interval",
    "run_control",
    "score",
    "summarise",
    "train_seed",
]
