"""Compatibility on real data in minutes: how the gap of two halves of a digit grows as their pairing is corrupted."""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from .control import MEASURES, interval, score
from .digits import load_halves
from .files import write_results
from .stacked import Run, train_stack

NAME = "caption-corruption"
TEMPERATURE = 0.07


@dataclass(frozen=True)
class DigitsPlan:
    """Every p with every divergence weight and every seed.

    ``redraw``: the exchanged partners are drawn afresh at each epoch; by default they are fixed by row and seed.
    """

    swaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    weights: tuple[float, ...] = (0.0, 0.75)
    seeds: int = 5
    steps: int = 1500
    redraw: bool = False


FULL = DigitsPlan()
FAST = DigitsPlan(weights=(0.0,), seeds=3, steps=500)


def run_digits_corruption(
    output: Path,
    *,
    plan: DigitsPlan = FULL,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Train a two-tower model for each p, weight and seed, with partners exchanged within their class, and score it.

    All models of a seed are one stacked program and share split, initial weights and batches, so that differences
    over p are paired. What a seed gave is kept, and an interrupted run goes on after it.

    Args:
        output: folder for results.json, provenance.json, README.md and the figure.
        plan: what to run.
        seed: the first seed.
        workers: processes; by default one for each core, and at most one for each seed.
        progress: called with shares of the work that sum to 1.

    Returns:
        What results.json holds: "settings", "runs", "summary" (mean and 95% Student interval over seeds for each
        (weight, p)), "slopes" (of each measure in p, by seed, then an interval over seeds) and "found".
    """
    kept = output / "seeds"
    kept.mkdir(parents=True, exist_ok=True)
    seeds = list(range(seed, seed + plan.seeds))
    runs: list[dict[str, float]] = []
    waiting = []
    for s in seeds:
        found = _read_seed(kept / f"{s}.json", plan)
        if found is None:
            waiting.append(s)
        else:
            runs += found
            _report(progress, 1 / len(seeds))
    for s, found in _all_seeds(plan, waiting, workers):
        (kept / f"{s}.json").write_text(json.dumps({"plan": asdict(plan), "runs": found}))
        runs += found
        _report(progress, 1 / len(seeds))
    runs.sort(key=lambda r: (r["seed"], r["divergence_weight"], r["swap"]))
    slopes = measure_slopes(runs)
    results: dict[str, Any] = {
        "settings": {"data": "digits", "temperature": TEMPERATURE, **asdict(plan), "seeds": seeds},
        "runs": runs,
        "summary": summarise(runs),
        "slopes": slopes,
        "found": findings(runs, slopes),
    }
    write_results(output, NAME, results)
    (output / "README.md").write_text(_readme(results), encoding="utf-8")
    draw(results["summary"], output / NAME)
    return results


def _report(progress: Callable[[float], None] | None, share: float) -> None:
    if progress is not None:
        progress(share)


def _read_seed(file: Path, plan: DigitsPlan) -> list[dict[str, float]] | None:
    """What an earlier run of the same plan kept."""
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):  # not there, or cut off while it was written
        return None
    same = content["plan"] == json.loads(json.dumps(asdict(plan) | {"seeds": content["plan"]["seeds"]}))
    return content["runs"] if same else None


def _all_seeds(
    plan: DigitsPlan, seeds: Sequence[int], workers: int | None
) -> Iterator[tuple[int, list[dict[str, float]]]]:
    if workers == 1 or len(seeds) <= 1:
        for s in seeds:
            yield s, one_seed(plan, s)
        return
    context = multiprocessing.get_context("spawn")  # a forked child of a threaded parent may hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(one_seed, plan, s): s for s in seeds}
        for future in as_completed(futures):
            yield futures[future], future.result()


def one_seed(plan: DigitsPlan, seed: int) -> list[dict[str, float]]:
    """Train and score all models of one seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a step's matrices are too small to share
    try:
        data = load_halves(seed)
        grid = [Run(p, w) for w, p in product(plan.weights, plan.swaps)]
        models = train_stack(data, grid, seed=seed, steps=plan.steps, temperature=TEMPERATURE, redraw=plan.redraw)
        return [
            {**asdict(run), "seed": seed, **score(model, data.test_x, data.test_y)}
            for run, model in zip(grid, models, strict=True)
        ]
    finally:
        torch.set_num_threads(threads)


def summarise(runs: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Mean and 95% interval over seeds for each weight and p, and of the change from the smallest p, paired by seed."""
    cells: dict[tuple[float, float], dict[float, dict[str, float]]] = {}
    for run in runs:
        cells.setdefault((run["divergence_weight"], run["swap"]), {})[run["seed"]] = run
    rows = []
    for (weight, swap), by_seed in sorted(cells.items()):
        start = cells[weight, min(p for w, p in cells if w == weight)]
        row: dict[str, Any] = {"divergence_weight": weight, "swap": swap}
        for name in MEASURES:
            row[name] = interval([by_seed[s][name] for s in sorted(by_seed)])
            row[f"change_{name}"] = interval([by_seed[s][name] - start[s][name] for s in sorted(by_seed)])
        rows.append(row)
    return rows


def measure_slopes(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, dict[str, float]]]:
    """Least-squares slope of each measure in p, for each weight: one slope a seed, and a 95% interval over seeds."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for weight in sorted({run["divergence_weight"] for run in runs}):
        of_weight = [run for run in runs if run["divergence_weight"] == weight]
        seeds = sorted({run["seed"] for run in of_weight})
        out[f"{weight:g}"] = {
            name: interval([_slope([r for r in of_weight if r["seed"] == s], name) for s in seeds]) for name in MEASURES
        }
    return out


def _slope(runs: Sequence[dict[str, float]], name: str) -> float:
    p = torch.tensor([run["swap"] for run in runs], dtype=torch.float64)
    y = torch.tensor([run[name] for run in runs], dtype=torch.float64)
    centred = p - p.mean()
    return float((centred @ (y - y.mean())) / centred.square().sum())


def findings(runs: Sequence[dict[str, float]], slopes: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """What the numbers say, in sentences made of the numbers."""
    rows = {(row["divergence_weight"], row["swap"]): row for row in summarise(runs)}
    sentences = []
    for weight in sorted({w for w, _ in rows}):
        swaps = sorted(p for w, p in rows if w == weight)
        for name, label, digits in (("energy_distance", "energy distance", 4), ("recall_at_10", "R@10", 3)):
            values = [rows[weight, p][name]["value"] for p in swaps]
            slope = slopes[f"{weight:g}"][name]
            change = rows[weight, swaps[-1]][f"change_{name}"]
            verdict = "grows" if slope["low"] > 0 else "falls" if slope["high"] < 0 else "does not change significantly"
            sentences.append(
                f"lambda = {weight:g}: {label} {verdict} with p: "
                f"{', '.join(f'{v:.{digits}f}' for v in values)} at p = {', '.join(f'{p:g}' for p in swaps)}; slope "
                f"{slope['value']:+.{digits}f} (95% interval {slope['low']:+.{digits}f} to "
                f"{slope['high']:+.{digits}f}), change from p = {swaps[0]:g} to {swaps[-1]:g} "
                f"{change['value']:+.{digits}f} ({change['low']:+.{digits}f} to {change['high']:+.{digits}f})."
            )
    return sentences


def _readme(results: dict[str, Any]) -> str:
    settings = results["settings"]
    drawn = "drawn afresh at each epoch" if settings["redraw"] else "fixed by row and seed"
    lines = [
        "# Caption corruption on the halves of handwritten digits",
        "",
        "Left and right halves of scikit-learn's digits are two modalities of one object. With probability p a "
        f"training pair's right half is exchanged for that of another digit of its class ({drawn}); "
        f"{settings['steps']} steps, batch 256, tau = {TEMPERATURE}, {len(settings['seeds'])} seeds. Scores are on 497 "
        "digits with their true partners. The models of a seed share split, initial weights and batches: slopes "
        "and changes are paired by seed. Intervals are 95%, Student, over seeds.",
        "",
        *(f"- {sentence}" for sentence in results["found"]),
        "",
        "| lambda | p | " + " | ".join(MEASURES.values()) + " |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for row in results["summary"]:
        cells = [f"{row[m]['value']:.4f} ± {row[m]['high'] - row[m]['value']:.4f}" for m in MEASURES]
        lines.append(f"| {row['divergence_weight']:g} | {row['swap']:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![gap and recall against p]({NAME}.png)", ""])


def draw(summary: Sequence[dict[str, Any]], target: Path) -> None:
    """Gap and recall against p, a band for each divergence weight; PNG and PDF."""
    from matplotlib.figure import Figure

    from ..report.drawing import MARKERS, SERIES, bare_axes, figure_bytes

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = {"energy_distance": "energy distance", "divergence_sym": "Dsym (nats)", "recall_at_10": "recall at 10"}
    weights = sorted({row["divergence_weight"] for row in summary})
    for axes, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for k, weight in enumerate(weights):
            rows = [row for row in summary if row["divergence_weight"] == weight]
            p = [row["swap"] for row in rows]
            axes.fill_between(
                p, [row[name]["low"] for row in rows], [row[name]["high"] for row in rows],
                color=SERIES[k], alpha=0.18, lw=0,
            )  # fmt: skip
            axes.plot(
                p, [row[name]["value"] for row in rows], marker=MARKERS[k], ms=4.5, lw=1.5,
                color=SERIES[k], label=rf"$\lambda$ = {weight:g}",
            )  # fmt: skip
        axes.set_xlabel("share p of exchanged partners")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if name != "recall_at_10" else None)
        axes.set_xticks(sorted({row["swap"] for row in summary}))
        bare_axes(axes)
    figure.axes[0].legend(frameon=False, fontsize=8.5)
    for kind in ("png", "pdf"):
        target.with_suffix(f".{kind}").write_bytes(figure_bytes(figure, kind))


__all__ = [
    "FAST",
    "FULL",
    "NAME",
    "DigitsPlan",
    "draw",
    "findings",
    "measure_slopes",
    "one_seed",
    "run_digits_corruption",
    "summarise",
]
