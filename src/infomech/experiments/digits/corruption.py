"""Compatibility on real data in minutes: how the gap of two halves of a digit grows as their pairing is corrupted."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...reductions import torch_threads
from ..runs import Part, RunFolder
from .control import MEASURES, interval, score
from .halves import load_halves
from .stacked import Run, train_stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "caption-corruption"
TEMPERATURE = 0.07

RunScore = dict[str, Any]  # "arm", "swap", "seed", and the measures of `control.score`


@dataclass(frozen=True)
class Arm:
    """One way to train: the divergence weight, and whether exchanged partners are drawn afresh at each epoch."""

    divergence_weight: float = 0.0
    fresh: bool = False

    @property
    def slug(self) -> str:
        """For file names."""
        return f"weight{self.divergence_weight:g}-{'fresh' if self.fresh else 'fixed'}"

    @property
    def label(self) -> str:
        """For tables and legends."""
        return f"lambda = {self.divergence_weight:g}, {'fresh' if self.fresh else 'fixed'} draws"


@dataclass(frozen=True)
class DigitsPlan:
    """Every p with every arm and every seed."""

    swaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    arms: tuple[Arm, ...] = (Arm(0.0, fresh=True), Arm(0.0), Arm(0.75, fresh=True))
    seeds: int = 5
    steps: int = 1500


FULL = DigitsPlan()
FAST = DigitsPlan(arms=(Arm(0.0, fresh=True),), seeds=3, steps=500)


def run_digits_corruption(
    output: Path,
    *,
    plan: DigitsPlan = FULL,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Train a two-tower model for each p, weight and seed, with partners exchanged within their class, and score it.

    The models of an arm and a seed are one stacked program; all of a seed share split, initial weights and batches, so
    that differences over p are paired. What an arm and a seed gave is kept, and an interrupted run goes on after it.

    With fixed draws a wrong partner is wrong in the same way in all 290 epochs: the model can learn it by heart, and
    the law of the partner given a digit stays a point. Fresh draws widen that law, which is what the theory is about.

    Args:
        output: folder for results.json, provenance.json, README.md and the figure.
        plan: what to run.
        seed: the first seed.
        workers: processes; by default one for each core, which take arms and seeds in turn.
        progress: called with shares of the work that sum to 1.

    Returns:
        What results.json holds: "settings", "runs", "summary" (mean and 95% Student interval over seeds for each
        arm and p), "slopes" (of each measure in p, by seed, then an interval over seeds) and "found".
    """
    seeds = list(range(seed, seed + plan.seeds))
    run = RunFolder(
        output, NAME, {"data": "digits", "temperature": TEMPERATURE, "swaps": plan.swaps, "steps": plan.steps}
    )
    # The slowest first, so that the last to finish is a short one.
    arms = sorted(plan.arms, key=lambda arm: -arm.divergence_weight)
    work = {f"{arm.slug}-{s}": (plan, arm, s) for arm in arms for s in seeds}
    parts = run.parts(work, one_part, workers=workers, progress=progress)
    runs: list[RunScore] = [
        {"arm": arm.label, "swap": p, "seed": s} | {name: float(parts[key][name][k]) for name in MEASURES}
        for key, (_, arm, s) in work.items()
        for k, p in enumerate(plan.swaps)
    ]
    order = [arm.label for arm in plan.arms]
    runs.sort(key=lambda r: (r["seed"], order.index(str(r["arm"])), r["swap"]))
    slopes = measure_slopes(runs)
    results: dict[str, Any] = {
        "settings": {"data": "digits", "temperature": TEMPERATURE, **asdict(plan), "seeds": seeds},
        "runs": runs,
        "summary": summarise(runs),
        "slopes": slopes,
        "found": findings(runs, slopes),
    }
    run.write(results, readme=_readme(results), figures={NAME: figure(results["summary"])})
    return results


def one_part(plan: DigitsPlan, arm: Arm, seed: int) -> Part:
    """Train and score one arm's models of one seed, one for each p, as one program: each measure by p."""
    with torch_threads(1):  # a step's matrices are too small to share
        data = load_halves(seed)
        grid = [Run(p, arm.divergence_weight) for p in plan.swaps]
        models = train_stack(data, grid, seed=seed, steps=plan.steps, temperature=TEMPERATURE, redraw=arm.fresh)
        scores = [score(model, data.test_x, data.test_y) for model in models]
    return {name: np.asarray([row[name] for row in scores]) for name in MEASURES}


def summarise(runs: Sequence[RunScore]) -> list[dict[str, Any]]:
    """Mean and 95% interval over seeds for each arm and p, and of the change from the smallest p, paired by seed."""
    cells: dict[tuple[str, float], dict[int, RunScore]] = {}
    for run in runs:
        cells.setdefault((run["arm"], run["swap"]), {})[run["seed"]] = run
    rows = []
    for (arm, swap), by_seed in cells.items():
        start = cells[arm, min(p for a, p in cells if a == arm)]
        row: dict[str, Any] = {"arm": arm, "swap": swap}
        for name in MEASURES:
            row[name] = interval([by_seed[s][name] for s in sorted(by_seed)])
            row[f"change_{name}"] = interval([by_seed[s][name] - start[s][name] for s in sorted(by_seed)])
        rows.append(row)
    return rows


def measure_slopes(runs: Sequence[RunScore]) -> dict[str, dict[str, dict[str, float]]]:
    """Least-squares slope of each measure in p, for each arm: one slope a seed, and a 95% interval over seeds."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for arm in dict.fromkeys(run["arm"] for run in runs):
        of_arm = [run for run in runs if run["arm"] == arm]
        seeds = sorted({run["seed"] for run in of_arm})
        out[arm] = {
            name: interval([_slope([r for r in of_arm if r["seed"] == s], name) for s in seeds]) for name in MEASURES
        }
    return out


def _slope(runs: Sequence[RunScore], name: str) -> float:
    p = torch.tensor([run["swap"] for run in runs], dtype=torch.float64)
    y = torch.tensor([run[name] for run in runs], dtype=torch.float64)
    centred = p - p.mean()
    return float((centred @ (y - y.mean())) / centred.square().sum())


def findings(runs: Sequence[RunScore], slopes: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """What the numbers say, in sentences made of the numbers."""
    rows = {(row["arm"], row["swap"]): row for row in summarise(runs)}
    sentences = []
    for arm in slopes:
        swaps = sorted(p for a, p in rows if a == arm)
        for name, digits in (("energy_distance", 4), ("divergence_sym", 3), ("recall_at_10", 3)):
            values = [rows[arm, p][name]["value"] for p in swaps]
            slope, change = slopes[arm][name], rows[arm, swaps[-1]][f"change_{name}"]
            verdict = "grows" if slope["low"] > 0 else "falls" if slope["high"] < 0 else "does not change significantly"
            sentences.append(
                f"{arm}: {MEASURES[name]} {verdict} with p: {', '.join(f'{v:.{digits}f}' for v in values)} at p = "
                f"{', '.join(f'{p:g}' for p in swaps)}; slope {slope['value']:+.{digits}f} (95% interval "
                f"{slope['low']:+.{digits}f} to {slope['high']:+.{digits}f}), change from p = {swaps[0]:g} to "
                f"{swaps[-1]:g} {change['value']:+.{digits}f} ({change['low']:+.{digits}f} to "
                f"{change['high']:+.{digits}f})."
            )
    return sentences


def _readme(results: dict[str, Any]) -> str:
    settings = results["settings"]
    lines = [
        "# Caption corruption on the halves of handwritten digits",
        "",
        "Left and right halves of scikit-learn's digits are two modalities of one object. With probability p a "
        "training pair's right half is exchanged for that of another digit of its class: fixed by row and seed, or "
        "drawn afresh at each epoch. With fixed draws the model can learn the 1,300 pairs by heart, wrong ones too; "
        "fresh draws widen the law of the partner given a digit, which is what the theory speaks of. "
        f"{settings['steps']} steps, batch 256, tau = {TEMPERATURE}, {len(settings['seeds'])} seeds. Scores are on 497 "
        "digits with their true partners. The models of a seed share split, initial weights and batches: slopes and "
        "changes are paired by seed. Intervals are 95%, Student, over seeds.",
        "",
        *(f"- {sentence}" for sentence in results["found"]),
        "",
        "| arm | p | " + " | ".join(MEASURES.values()) + " |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for row in results["summary"]:
        cells = [f"{row[m]['value']:.4f} ± {row[m]['high'] - row[m]['value']:.4f}" for m in MEASURES]
        lines.append(f"| {row['arm']} | {row['swap']:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![gap and recall against p]({NAME}.png)", ""])


def figure(summary: Sequence[dict[str, Any]]) -> "Figure":
    """Gap and recall against p, a band for each arm."""
    from matplotlib.figure import Figure

    from ...report.drawing import MARKERS, SERIES, bare_axes

    drawn = Figure(figsize=(10, 3.2), layout="constrained")
    panels = {"energy_distance": "energy distance", "divergence_sym": "Dsym (nats)", "recall_at_10": "recall at 10"}
    arms = list(dict.fromkeys(row["arm"] for row in summary))
    for axes, (name, label) in zip(drawn.subplots(1, 3), panels.items(), strict=True):
        for k, arm in enumerate(arms):
            rows = [row for row in summary if row["arm"] == arm]
            p = [row["swap"] for row in rows]
            low, high = ([row[name][end] for row in rows] for end in ("low", "high"))
            axes.fill_between(p, low, high, color=SERIES[k], alpha=0.18, lw=0)
            values = [row[name]["value"] for row in rows]
            words = arm.replace("lambda", r"$\lambda$")
            axes.plot(p, values, marker=MARKERS[k], ms=4.5, lw=1.5, color=SERIES[k], label=words)
        axes.set_xlabel("share p of exchanged partners")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if name != "recall_at_10" else None)
        axes.set_xticks(sorted({row["swap"] for row in summary}))
        bare_axes(axes)
    handles, words = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(handles, words, loc="outside upper center", ncols=len(arms), frameon=False, fontsize=8.5)
    return drawn


__all__ = [
    "FAST",
    "FULL",
    "NAME",
    "Arm",
    "DigitsPlan",
    "figure",
    "findings",
    "measure_slopes",
    "one_part",
    "run_digits_corruption",
    "summarise",
]
