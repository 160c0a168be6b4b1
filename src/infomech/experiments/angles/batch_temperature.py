"""How finite batches bend the gap away from the large-batch prediction, over batch size and temperature."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runs import Part, RunFolder
from .misalignment import outcome, predictions, score
from .training import AngleRun, TrainingPlan, train_angles

NAME = "batch-and-temperature"
TITLE = "The gap over batch size and temperature, against the large-batch prediction (T12)"

BASIN = 0.1  # nats above the predicted minimum within which a run is in its basin; small batches leave it by up to this


@dataclass(frozen=True)
class Plan:
    """The grid; fewer seeds where a batch is large and a run's gap varies less."""

    misalignment: float = 0.4
    temperatures: tuple[float, ...] = (0.02, 0.05, 0.07, 0.2, 0.5, 1.0)
    batches: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    seeds: tuple[int, ...] = (20, 20, 20, 8, 3)
    steps: int = 2000


FULL = Plan()
FAST = Plan(temperatures=(0.05, 0.2, 1.0), batches=(16, 64, 256), seeds=(5, 5, 5), steps=800)


def run_batch_temperature(
    folder: Path, *, plan: Plan = FULL, seed: int = 0, progress: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Train the grid, one stacked program for each batch size, and set the prediction of each temperature beside.

    Args:
        folder: for results.json, provenance.json, README.md and the figure; made if missing.
        plan: `FULL`, or `FAST`.
        seed: the first seed.
        progress: called with shares of the work that sum to 1.

    Returns:
        What results.json holds.
    """
    run = RunFolder(folder, NAME, {**asdict(plan), "seed": seed})
    training = TrainingPlan(steps=plan.steps)
    predicted = {
        tau: run.part(f"predicted-{tau:g}", lambda t=tau: predictions([plan.misalignment], t, training.noise))  # type: ignore[misc]
        for tau in plan.temperatures
    }
    work = [max(b, 64) ** 1.5 * s for b, s in zip(plan.batches, plan.seeds, strict=True)]
    cells = []
    for batch, seeds, share in zip(plan.batches, plan.seeds, work, strict=True):
        runs = [AngleRun(plan.misalignment, tau, s) for tau in plan.temperatures for s in range(seed, seed + seeds)]
        told = None if progress is None else (lambda part, w=share: progress(part * w / sum(work)))
        encoders = train_angles(run, f"batch-{batch}", runs, plan=replace(training, batch=batch), progress=told)
        scored = run.part(
            f"scored-{batch}",
            lambda e=encoders, r=runs: score(e, r, noise=training.noise, samples=2048, seed=seed),  # type: ignore[misc]
        )
        cells += [_cell(batch, tau, runs, scored, predicted[tau]) for tau in plan.temperatures]
    results: dict[str, Any] = {"misalignment": plan.misalignment, "cells": cells}
    results["found"] = findings(cells, plan)
    from .figures import grid_figure

    run.write(results, readme=readme(results, plan), figures={"grid": grid_figure(results, plan.batches)})
    return results


def _cell(batch: int, tau: float, runs: list[AngleRun], scored: Part, predicted: Part) -> dict[str, Any]:
    minimum = float(predicted["energy"][0])
    rows: list[dict[str, Any]] = []
    for i, setting in enumerate(runs):
        if setting.temperature == tau:
            numbers = {name: float(values[i]) for name, values in scored.items() if name != "histogram"}
            end = outcome(numbers["energy"], numbers["condition"], minimum, BASIN)
            rows.append({"seed": setting.seed, "outcome": end, "excess": numbers["energy"] - minimum, **numbers})
    settled = [r for r in rows if r["outcome"] == "reached"]
    gaps = [r["gap"] for r in settled]
    return {
        "batch": batch,
        "temperature": tau,
        "predicted": float(predicted["gap"][0]),
        "predicted_is_global": bool(predicted["global"][0]),
        "median": float(np.median(gaps)) if gaps else math.nan,
        "low": float(np.quantile(gaps, 0.25)) if gaps else math.nan,
        "high": float(np.quantile(gaps, 0.75)) if gaps else math.nan,
        "excess_energy": float(np.median([r["excess"] for r in settled])) if gaps else math.nan,
        "settled": len(settled),
        "failed": {r["seed"]: r["outcome"] for r in rows if r["outcome"] != "reached"},
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
    lines = [
        f"# {TITLE}",
        "",
        f"The misalignment experiment at sigma_mis = {plan.misalignment:g} over batch size and temperature, "
        f"{plan.steps:,} steps of Adam at rate 5e-3. Medians over the runs that ended within {BASIN:g} nats of the "
        "predicted minimum, with quartiles and their number in brackets. The paper trains at batch 256 and tau = 0.07 "
        "alone.",
        "",
        "![gap over batch size and temperature](grid.png)",
        "",
        "| tau | predicted | " + " | ".join(f"batch {b:,}" for b in plan.batches) + " |",
        "|---|---|" + "---|" * len(plan.batches),
    ]
    for tau in plan.temperatures:
        here = [c for c in results["cells"] if c["temperature"] == tau]
        text = [f"{c['median']:.4f} ({c['low']:.4f} to {c['high']:.4f}; {c['settled']})" for c in here]
        lines.append(f"| {tau:g} | {here[0]['predicted']:.4f} | " + " | ".join(text) + " |")
    return "\n".join([*lines, "", *(f"- {s}" for s in results["found"]), ""])


__all__ = ["FAST", "FULL", "NAME", "TITLE", "Plan", "run_batch_temperature"]
