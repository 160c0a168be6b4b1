"""Compatibility on real data in minutes: how the gap of two halves of a digit grows as their pairing is corrupted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..._markdown import bullets, document
from ..._typing import Progress
from ...reductions import torch_threads
from ..experiment import Form, option
from ..runs import Part, RunFolder, silent
from ..scores import MEASURES, measures_figure, measures_table
from ..statistics import Interval, interval, slopes_by_seed, summarise, verdict
from .control import score
from .halves import load_halves
from .stacked import Run, train_stack

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
    seeds: int = option(5, "Runs of each.", at_least=2)
    steps: int = option(1500, "Training steps.", at_least=1)
    weights: tuple[float, ...] | None = option(None, "Divergence weights, an arm for each.")
    fresh: bool | None = option(
        None, "Draw exchanged partners at each epoch, as --weights alone does, or once.", flag="--fresh/--fixed"
    )

    def chosen(self) -> tuple[Arm, ...]:
        """The arms, or those that weights and draws make."""
        if self.weights is None and self.fresh is None:
            return self.arms
        return tuple(Arm(w, self.fresh is not False) for w in self.weights or (0.0,))


FULL = DigitsPlan()
FAST = DigitsPlan(arms=(Arm(0.0, fresh=True),), seeds=3, steps=500)


def run_digits_corruption(
    output: Path,
    *,
    plan: DigitsPlan = FULL,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a two-tower model for each p, weight and seed, with partners exchanged within their class, and score it.

    The models of an arm and a seed are one stacked program; all of a seed share split, initial weights and batches, so
    that differences over p are paired. What an arm and a seed gave is kept, and an interrupted run goes on after it.

    With fixed draws a wrong partner is wrong in the same way in all 290 epochs: the model can learn it by heart, and
    the law of the partner given a digit stays a point. Fresh draws widen that law, which is what the theory is about.
    """
    seeds = list(range(seed, seed + plan.seeds))
    run = RunFolder(
        output, NAME, {"data": "digits", "temperature": TEMPERATURE, "swaps": plan.swaps, "steps": plan.steps}
    )
    # The slowest first, so that the last to finish is a short one.
    arms = sorted(plan.chosen(), key=lambda arm: -arm.divergence_weight)
    work = {f"{arm.slug}-{s}": (plan, arm, s) for arm in arms for s in seeds}
    parts = run.parts(work, one_part, workers=workers, progress=progress)
    runs: list[RunScore] = [
        {"arm": arm.label, "swap": p, "seed": s} | {name: float(parts[key][name][k]) for name in MEASURES}
        for key, (_, arm, s) in work.items()
        for k, p in enumerate(plan.swaps)
    ]
    order = [arm.label for arm in plan.chosen()]
    runs.sort(key=lambda r: (r["seed"], order.index(str(r["arm"])), r["swap"]))
    slopes = measure_slopes(runs)
    summary = summarise(runs, MEASURES, by=["arm"], along="swap")
    results: dict[str, Any] = {
        "settings": {
            "data": "digits",
            "temperature": TEMPERATURE,
            "swaps": plan.swaps,
            "arms": [asdict(arm) for arm in plan.chosen()],
            "seeds": seeds,
            "steps": plan.steps,
        },
        "runs": runs,
        "summary": summary,
        "slopes": slopes,
        "found": findings(summary, slopes),
    }
    figure = measures_figure(
        [row | {"arm": row["arm"].replace("lambda", r"$\lambda$")} for row in summary],
        panels={name: MEASURES[name] for name in ("energy_distance", "divergence_sym", "recall_at_10")},
        along="swap",
        by="arm",
        axis="share p of exchanged partners",
        words="{}",
    )
    run.write(results, readme=_readme(results), figures={NAME: figure})
    return results


def one_part(plan: DigitsPlan, arm: Arm, seed: int) -> Part:
    """Train and score one arm's models of one seed, one for each p, as one program: each measure by p."""
    with torch_threads(1):  # a step's matrices are too small to share
        data = load_halves(seed)
        grid = [Run(p, arm.divergence_weight) for p in plan.swaps]
        models = train_stack(data, grid, seed=seed, steps=plan.steps, temperature=TEMPERATURE, redraw=arm.fresh)
        scores = [score(model, data.test_x, data.test_y) for model in models]
    return {name: np.asarray([row[name] for row in scores]) for name in MEASURES}


def measure_slopes(runs: Sequence[RunScore]) -> dict[str, dict[str, Interval]]:
    """Least-squares slope of each measure in p, for each arm: one slope a seed, and a 95% interval over seeds."""
    arms: dict[str, list[RunScore]] = {}
    for run in runs:
        arms.setdefault(run["arm"], []).append(run)
    return {
        arm: {name: interval(slopes_by_seed(members, name, "swap")) for name in MEASURES}
        for arm, members in arms.items()
    }


def findings(summary: Sequence[dict[str, Any]], slopes: dict[str, dict[str, Interval]]) -> list[str]:
    """What the numbers say, in sentences made of the numbers."""
    rows = {(row["arm"], row["swap"]): row for row in summary}
    sentences = []
    for arm in slopes:
        swaps = sorted(p for a, p in rows if a == arm)
        for name, digits in (("energy_distance", 4), ("divergence_sym", 3), ("recall_at_10", 3)):
            values = [rows[arm, p][name]["value"] for p in swaps]
            slope, change = slopes[arm][name], rows[arm, swaps[-1]][f"change_{name}"]
            sentences.append(
                f"{arm}: {MEASURES[name]} {verdict(slope)} with p: {', '.join(f'{v:.{digits}f}' for v in values)} at "
                f"p = {', '.join(f'{p:g}' for p in swaps)}; slope {slope['value']:+.{digits}f} (95% interval "
                f"{slope['low']:+.{digits}f} to {slope['high']:+.{digits}f}), change from p = {swaps[0]:g} to "
                f"{swaps[-1]:g} {change['value']:+.{digits}f} ({change['low']:+.{digits}f} to "
                f"{change['high']:+.{digits}f})."
            )
    return sentences


def _readme(results: dict[str, Any]) -> str:
    settings = results["settings"]
    return document(
        "Caption corruption on the halves of handwritten digits",
        "Left and right halves of scikit-learn's digits are two modalities of one object. With probability p a "
        "training pair's right half is exchanged for that of another digit of its class: fixed by row and seed, or "
        "drawn afresh at each epoch. With fixed draws the model can learn the 1,300 pairs by heart, wrong ones too; "
        "fresh draws widen the law of the partner given a digit, which is what the theory speaks of. "
        f"{settings['steps']} steps, batch 256, tau = {TEMPERATURE}, {len(settings['seeds'])} seeds. Scores are on 497 "
        "digits with their true partners. The models of a seed share split, initial weights and batches: slopes and "
        "changes are paired by seed. Intervals are 95%, Student, over seeds.",
        bullets(results["found"]),
        measures_table(results["summary"], {"arm": "arm", "p": "swap"}, MEASURES),
        f"![gap and recall against p]({NAME}.png)",
    )


FORM = Form(FULL, FAST, run_digits_corruption, data="digits")

__all__ = [
    "FAST",
    "FORM",
    "FULL",
    "NAME",
    "Arm",
    "DigitsPlan",
    "findings",
    "measure_slopes",
    "one_part",
    "run_digits_corruption",
]
