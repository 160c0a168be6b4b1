"""How finite batches bend the gap away from the large-batch prediction, over batch size and temperature."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..._checks import InputError
from ..._markdown import bullets, document, table
from ..._typing import Progress
from ..experiment import Experiment, Form, option
from ..runs import Part, RunFolder, scaled, silent
from ..statistics import quartiles
from .misalignment import failures, outcomes, predictions, score
from .training import AngleRun, TrainingPlan, train_angles

NAME = "batch-and-temperature"
TITLE = "The gap over batch size and temperature, against the large-batch prediction (T12)"

BASIN = 0.1  # nats above the predicted minimum within which a run is in its basin; small batches leave it by up to this


@dataclass(frozen=True)
class Plan:
    """The grid; fewer seeds where a batch is large and a run's gap varies less."""

    misalignment: float = option(0.4, "Noise sigma_mis between the two angles.")
    temperatures: tuple[float, ...] = option((0.02, 0.05, 0.07, 0.2, 0.5, 1.0), "Temperatures.")
    batches: tuple[int, ...] = option((16, 64, 256, 1024, 4096), "Batch sizes.")
    seeds: tuple[int, ...] = option((20, 20, 20, 8, 3), "Runs at each batch size.")
    steps: int = option(2000, "Training steps.", at_least=1)

    def __post_init__(self) -> None:
        if len(self.batches) != len(self.seeds):
            raise InputError(f"there are {len(self.batches)} batches and {len(self.seeds)} seeds; give one for each")


FULL = Plan()
FAST = Plan(temperatures=(0.05, 0.2, 1.0), batches=(16, 64, 256), seeds=(5, 5, 5), steps=800)


def run_batch_temperature(
    folder: Path, *, plan: Plan = FULL, seed: int = 0, progress: Progress = silent
) -> dict[str, Any]:
    """Train the grid, one stacked program for each batch size, and set the prediction of each temperature beside."""
    run = RunFolder(folder, NAME, {**asdict(plan), "seed": seed})
    predicted = {
        tau: run.part(f"predicted-{tau:g}", partial(predictions, [plan.misalignment], tau, TrainingPlan().noise))
        for tau in plan.temperatures
    }
    work = [max(b, 64) ** 1.5 * s for b, s in zip(plan.batches, plan.seeds, strict=True)]
    cells = []
    for batch, seeds, share in zip(plan.batches, plan.seeds, work, strict=True):
        runs = [AngleRun(plan.misalignment, tau, s) for tau in plan.temperatures for s in range(seed, seed + seeds)]
        training = TrainingPlan(batch=batch, steps=plan.steps)
        told = scaled(progress, share / sum(work))
        encoders = train_angles(run, f"batch-{batch}", runs, plan=training, progress=told)
        scored = run.part(
            f"scored-{batch}", partial(score, encoders, runs, noise=training.noise, samples=2048, seed=seed)
        )
        cells += [_cell(batch, tau, runs, scored, predicted[tau]) for tau in plan.temperatures]
    results: dict[str, Any] = {"misalignment": plan.misalignment, "cells": cells}
    results["found"] = findings(cells, plan)
    from .figures import grid_figure

    run.write(results, readme=readme(results, plan), figures={"grid": grid_figure(results, plan.batches)})
    return results


def _cell(batch: int, tau: float, runs: list[AngleRun], scored: Part, predicted: Part) -> dict[str, Any]:
    minimum = float(predicted["energy"][0])
    chosen = [i for i, setting in enumerate(runs) if setting.temperature == tau]
    exact = {name: values for name, values in scored.items() if name != "histogram"}
    rows = [r | {"excess": r["energy"] - minimum} for r in outcomes(chosen, runs, exact, minimum, BASIN)]
    settled = [r for r in rows if r["outcome"] == "reached"]
    low, median, high = quartiles([r["gap"] for r in settled])
    return {
        "batch": batch,
        "temperature": tau,
        "predicted": float(predicted["gap"][0]),
        "predicted_is_global": bool(predicted["global"][0]),
        "median": median,
        "low": low,
        "high": high,
        "excess_energy": quartiles([r["excess"] for r in settled])[1],
        "settled": len(settled),
        "failed": failures(rows),
        "runs": rows,
    }


def findings(cells: list[dict[str, Any]], plan: Plan) -> list[str]:
    """Where the prediction holds, in sentences made of the numbers."""
    out = []
    for tau in plan.temperatures:
        here = [c for c in cells if c["temperature"] == tau]
        path = ", ".join(f"{c['median']:.4f} at {c['batch']:,}" for c in here if c["settled"])
        ends = [end for c in here for end in c["failed"].values()]
        text = f"tau = {tau:g}: predicted {here[0]['predicted']:.4f}; median gap {path or 'of no run that got there'}"
        left = f"; left out: {ends.count('singular')} runs with a singular encoder, {ends.count('elsewhere')} elsewhere"
        out.append(text + (left + "." if ends else "."))
    return out


def readme(results: dict[str, Any], plan: Plan) -> str:
    """The folder's README."""
    rows = []
    for tau in plan.temperatures:
        here = [c for c in results["cells"] if c["temperature"] == tau]
        cells = [f"{c['median']:.4f} ({c['low']:.4f} to {c['high']:.4f}; {c['settled']})" for c in here]
        rows.append([f"{tau:g}", f"{here[0]['predicted']:.4f}", *cells])
    return document(
        TITLE,
        f"The misalignment experiment at sigma_mis = {plan.misalignment:g} over batch size and temperature, "
        f"{plan.steps:,} steps of Adam at rate 5e-3. Medians over the runs that ended within {BASIN:g} nats of the "
        "predicted minimum, with quartiles and their number in brackets. The paper trains at batch 256 and tau = 0.07 "
        "alone.",
        "![gap over batch size and temperature](grid.png)",
        table(["tau", "predicted", *(f"batch {b:,}" for b in plan.batches)], rows),
        bullets(results["found"]),
    )


EXPERIMENT = Experiment(NAME, TITLE, (Form(FULL, FAST, run_batch_temperature),))

__all__ = ["EXPERIMENT", "FAST", "FULL", "NAME", "TITLE", "Plan", "run_batch_temperature"]
