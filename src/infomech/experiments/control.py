"""Control, shown (C1, T11): what the divergence weight does to the gap and to retrieval, on the halves of digits."""

import json
import math
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import Tensor

from ..diagnosis import examine
from .digits import TwoTower, load_halves, train_two_tower

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


FULL = Plan()
FAST = Plan(swaps=(0.0, 1.0), seeds=2, steps=500)


@dataclass(frozen=True)
class Setting:
    """One training run."""

    divergence_weight: float
    swap: float
    seed: int
    steps: int


def run_control(
    output: Path,
    *,
    plan: Plan = FULL,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train the grid of (lambda, p, seed), score every model on held-out digits, and write what was found.

    Args:
        output: folder for results.json, provenance.json, README.md, control.png and control.pdf; made if missing.
        plan: what to run; `FAST` takes two seeds, two values of p and 500 steps in place of five, three and 1,500.
        seed: first seed; a seed sets the split, the initial weights, the batches and the swaps, for every lambda alike.
        workers: processes; by default one for each core.
        progress: called with (runs done, runs in all).

    Returns:
        What results.json holds: "settings", "runs" and "summary", the latter with a mean, a standard error and a 95%
        interval (Student, over seeds) for each measure, and for its paired difference from lambda = 0.
    """
    started = time.perf_counter()
    seeds = range(seed, seed + plan.seeds)
    settings = [Setting(w, p, s, plan.steps) for s in seeds for p in plan.swaps for w in plan.weights]
    runs = _run_all(settings, workers, progress)
    summary = summarise(runs)
    results: dict[str, Any] = {
        "settings": {
            "temperature": TEMPERATURE,
            "weights": list(plan.weights),
            "swaps": list(plan.swaps),
            "seeds": list(seeds),
            "steps": plan.steps,
        },
        "runs": runs,
        "summary": summary,
        "found": findings(summary, plan),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1))
    (output / "provenance.json").write_text(json.dumps(_provenance(time.perf_counter() - started), indent=1))
    (output / "README.md").write_text(_readme(results))
    _draw(summary, plan.swaps, output)
    return results


def _run_all(
    settings: Sequence[Setting], workers: int | None, progress: Callable[[int, int], None] | None
) -> list[dict[str, float]]:
    """All runs, in the order of the settings; in processes of their own unless one worker is asked for."""
    if workers == 1:
        done: list[dict[str, float]] = []
        for setting in settings:
            done.append(run_one(setting))
            if progress is not None:
                progress(len(done), len(settings))
        return done
    context = multiprocessing.get_context("spawn")  # a forked child of a threaded parent may hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(run_one, setting) for setting in settings]
        for count, _ in enumerate(as_completed(futures), start=1):
            if progress is not None:
                progress(count, len(settings))
        return [future.result() for future in futures]


def run_one(setting: Setting) -> dict[str, float]:
    """Train one model and score it on the digits that it has not seen."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a step's matrices are too small to share
    try:
        return _train_and_score(setting)
    finally:
        torch.set_num_threads(threads)


def _train_and_score(setting: Setting) -> dict[str, float]:
    data = load_halves(setting.seed)
    model = train_two_tower(
        data,
        divergence_weight=setting.divergence_weight,
        temperature=TEMPERATURE,
        steps=setting.steps,
        seed=setting.seed,
        swap=setting.swap,
    )
    return {**asdict(setting), **score(model, data.test_x, data.test_y)}


def score(model: TwoTower, test_x: Tensor, test_y: Tensor) -> dict[str, float]:
    """Gap, alignment and retrieval of a model on pairs, as `infomech report` has them, in double precision.

    The divergence is the plain one, that the loss weighs; recall is the mean of both directions.
    """
    found = examine(model.embed_x(test_x).double(), model.embed_y(test_y).double(), temperature=TEMPERATURE)
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


def _provenance(seconds: float) -> dict[str, Any]:
    return {
        "experiment": NAME,
        "infomech": metadata.version("infomech"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }


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


def _draw(summary: Sequence[dict[str, Any]], swaps: Sequence[float], output: Path) -> None:
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
    for suffix in ("png", "pdf"):
        figure.savefig(output / f"control.{suffix}", dpi=200)


__all__ = [
    "FAST",
    "FULL",
    "MEASURES",
    "NAME",
    "TITLE",
    "Plan",
    "Setting",
    "interval",
    "run_control",
    "run_one",
    "score",
    "summarise",
]
