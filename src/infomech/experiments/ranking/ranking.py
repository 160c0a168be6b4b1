"""Does shared information rank models as recall on all pairs does, and with fewer pairs? (E12)."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from ..._markdown import bullets, document, table
from ..._typing import Progress
from ...diagnosis.information.pairing import information_difference
from ...diagnosis.information.shared import Information, asked_of, batches_for, measure
from ...embedding.encoders.sentence_transformers import packaged_model
from ...measures import PairedSample
from ...reductions import torch_threads
from ..digits.halves import TwoTower, load_halves, train_two_tower
from ..digits.selection import STOPS, Checkpoint, best, checkpoint
from ..experiment import Experiment, Form, option
from ..runs import Part, RunFolder, scaled, silent
from .measures import WORDS, all_measures, correlations, mean_square_z, ranks, sign_curve
from .sets import (
    Encoded,
    digits_plans,
    glyph_plans,
    sentence_rows,
    sentence_variants,
    train_digits,
    train_glyphs,
    trained,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "ranking"
TITLE = "What ranks models: shared information, losses and spectra against recall, and how many pairs each takes"
_KEPT = 1000  # pairs of which subsets are drawn
_CONTROLS = ((0.07, 0.0), (0.07, 0.75), (0.25, 0.0), (0.25, 0.75))  # temperatures and divergence weights


@dataclass(frozen=True)
class RankingPlan:
    """What is trained and ranked."""

    trainings: int = option(80, "Random trainings on the halves of digits.", at_least=4)
    steps: int = option(1500, "Most steps of one of them.", at_least=30)
    glyphs: int = option(16, "Trainings on characters and their names; 0 leaves them out.", at_least=0)
    samples: int = option(115_000, "Pairs that the shortest of these sees.", at_least=1000)
    functions: int = option(6000, "Functions of the sentence encoder, half of them to fit on; 0 leaves it out.")
    embeddings: Path | None = option(None, "A folder of infomech embed with docstrings and bodies, not to embed again.")
    draws: int = option(20, "Subsets of each size.", at_least=2)
    seeds: int = option(4, "Runs of each control that are stopped.", at_least=1)


FULL = RankingPlan()
FAST = RankingPlan(trainings=14, steps=300, glyphs=0, functions=0, draws=6, seeds=1)


def run_ranking(
    folder: Path, *, plan: RankingPlan = FULL, seed: int = 0, workers: int | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Rank many encodings of the same held-out pairs by each number, and set the orders against recall at 10.

    Also: how often n pairs give the sign that all pairs give, between neighbours in the order; and two controls,
    divergence weights 0 and 3/4, each stopped where shared information on one half of the unseen pairs is highest and
    scored on the other half. Each training is a part of its own, kept when it is done.
    """
    settings = {**asdict(plan), "embeddings": None if plan.embeddings is None else str(plan.embeddings), "seed": seed}
    run = RunFolder(folder, NAME, settings)
    digits = digits_plans(plan.trainings, steps=plan.steps, seed=seed)
    glyphs = glyph_plans(plan.glyphs, samples=plan.samples, seed=seed)
    work = {key: (drawn, seed, seed + k) for k, (key, drawn) in enumerate(digits.items())}
    towers = run.parts(work, train_digits, workers=workers, progress=scaled(progress, 0.3 if glyphs else 0.7))
    seen = {
        key: (each, seed) for key, each in sorted(glyphs.items(), key=lambda item: -item[1].steps * item[1].batch_size)
    }
    pictures = run.parts(seen, train_glyphs, workers=workers, progress=scaled(progress, 0.4)) if seen else {}
    stops = run.parts(_to_stop(plan, seed), _train_and_watch, workers=workers, progress=scaled(progress, 0.1))
    with torch_threads(1):
        sets = {"digits": _ranked(trained(digits, towers), plan, seed)}
        progress(0.05)
        if glyphs:
            sets["glyphs"] = _ranked(trained(glyphs, pictures), plan, seed)
        if plan.functions and (plan.embeddings is not None or packaged_model() is not None):
            rows = sentence_rows(folder / "embeddings", functions=plan.functions, embeddings=plan.embeddings, seed=seed)
            sets["sentence encoder"] = _ranked(sentence_variants(*rows, seed=seed), plan, seed)
    stopped = _stopped(plan, seed, stops)
    results: dict[str, Any] = {"settings": settings, "sets": sets, "stopped": stopped}
    results["found"] = findings(sets, stopped)
    run.write(results, readme=_readme(results), figures={NAME: _figure(sets)})
    progress(0.15)
    return results


def _ranked(encodings: Iterable[Encoded], plan: RankingPlan, seed: int) -> dict[str, Any]:
    """Every number of every encoding, the correlations, and the curve of signs."""
    rows: list[dict[str, Any]] = []
    informations: list[Information] = []
    kept: list[Tensor] = []
    positions: list[dict[str, Tensor]] = []
    for each in encodings:
        x, y = normalize(each.x.double(), dim=1), normalize(each.y.double(), dim=1)
        sample = PairedSample.from_embeddings(x.float(), y.float(), seed=seed)
        asked = asked_of(sample, None)
        information = measure(batches_for(sample, asked.negatives, seed=seed), asked)
        numbers = all_measures(x, y, temperature=each.temperature, information=information.information.value)
        rows.append({"name": each.name, "temperature": each.temperature, **numbers})
        rows[-1]["stderr"] = information.information.stderr
        rows[-1]["best_temperature"] = information.temperature.value
        informations.append(information)
        scores = x @ y.T
        kept.append(scores[:_KEPT, :_KEPT].float())
        positions.append(_hits(scores))
    count = len(kept[0])
    sizes = [n for n in (50, 100, 200, 400) if n <= count // 2]
    numbers_only = [{name: row[name] for name in WORDS} for row in rows]
    signs = sign_curve(kept, numbers_only, sizes, draws=plan.draws, seed=seed)
    return {
        "pairs": informations[0].groups,
        "negatives": informations[0].negatives,
        "models": rows,
        "spearman": correlations(numbers_only, seed=seed),
        "mean_square_z": _z(rows, informations, positions),
        "signs": {"sizes": sizes, **signs},
    }


def _hits(scores: Tensor) -> dict[str, Tensor]:
    """Of each pair, both directions together: whether it is found first or among ten, and its reciprocal rank."""
    found = ranks(scores).unflatten(0, (2, -1))
    parts = {"recall_at_1": (found <= 1).double(), "recall_at_10": (found <= 10).double(), "mrr": 1 / found}
    return {name: part.mean(0) for name, part in parts.items()}


def _z(
    rows: Sequence[Mapping[str, Any]], informations: Sequence[Information], positions: Sequence[Mapping[str, Tensor]]
) -> dict[str, float]:
    """Mean of the squared paired z between neighbours in the order by shared information; 1 is no difference at all."""
    order = sorted(range(len(rows)), key=lambda k: rows[k]["information"])
    neighbours = list(itertools.pairwise(order))
    changes = [information_difference(informations[a], informations[b], paired=True).estimate for a, b in neighbours]
    found = {"information": mean_square_z([(e.value, e.stderr) for e in changes])}
    for name in ("mrr", "recall_at_10", "recall_at_1"):
        off = [positions[b][name] - positions[a][name] for a, b in neighbours]
        found[name] = mean_square_z([(float(d.mean()), float(d.std()) / math.sqrt(len(d))) for d in off])
    return found


def _to_stop(plan: RankingPlan, seed: int) -> dict[str, tuple[float, float, tuple[int, ...], int]]:
    """Two controls at two temperatures, with every seed."""
    stops = tuple(step for step in STOPS if step <= plan.steps) or (plan.steps,)
    return {
        f"stopped-{tau:g}-{weight:g}-{s}": (tau, weight, stops, s)
        for tau, weight in _CONTROLS
        for s in range(seed, seed + plan.seeds)
    }


def _stopped(plan: RankingPlan, seed: int, parts: Mapping[str, Part]) -> list[dict[str, Any]]:
    """What stopping by shared information on half of the unseen pairs gives on the other half, over seeds."""
    found = []
    for tau, weight in _CONTROLS:
        runs = [parts[f"stopped-{tau:g}-{weight:g}-{s}"] for s in range(seed, seed + plan.seeds)]
        stopped = [float(run["stopped"]) for run in runs]
        found.append(
            {
                "temperature": tau,
                "divergence_weight": weight,
                "steps": [float(run["step"]) for run in runs],
                "recall_at_10_stopped": float(np.mean(stopped)),
                "recall_at_10_last": float(np.mean([run["last"] for run in runs])),
                "stderr": float(np.std(stopped, ddof=1) / math.sqrt(len(runs))) if len(runs) > 1 else math.nan,
            }
        )
    return found


def _train_and_watch(tau: float, weight: float, stops: Sequence[int], seed: int) -> Part:
    with torch_threads(1):
        data = load_halves(seed)
        found: list[Checkpoint] = []

        def watch(step: int, model: TwoTower) -> None:
            if step in stops:
                found.append(checkpoint(step, model, data, seed=seed))

        train_two_tower(data, divergence_weight=weight, temperature=tau, steps=stops[-1], seed=seed, watch=watch)
    chosen = best(found)
    values = {"step": float(chosen.step), "stopped": chosen.recall_at_10, "last": found[-1].recall_at_10}
    return {name: np.asarray(value) for name, value in values.items()}


def findings(sets: Mapping[str, Mapping[str, Any]], stopped: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the numbers say."""
    said = []
    for name, found in sets.items():
        order = found["spearman"]
        own = order["information"]
        others = ", ".join(f"{WORDS[k]} {order[k]['value']:.2f}" for k in order if k != "information")
        said.append(
            f"{name}: {len(found['models'])} models on {found['pairs']:,} pairs, N = {found['negatives']:,}. "
            f"Spearman's correlation with R@10: shared information {own['value']:.3f} "
            f"({own['low']:.2f} to {own['high']:.2f}); {others}."
        )
        z = found["mean_square_z"]
        said.append(
            f"{name}: mean square of the paired z between neighbours: "
            + ", ".join(f"{WORDS[k]} {z[k]:.1f}" for k in z)
            + " (1 is no difference at all)."
        )
        if found["signs"]["sizes"]:
            size = found["signs"]["sizes"][0]
            shares = ", ".join(
                f"{WORDS[k]} {found['signs'][k][0]:.0%}" for k in ("information", "mrr", "recall_at_10", "recall_at_1")
            )
            said.append(f"{name}: {size} pairs give the sign that all pairs give, between neighbours: {shares}.")
    for tau in dict.fromkeys(row["temperature"] for row in stopped):
        plain, control = (row for row in stopped if row["temperature"] == tau)
        said.append(
            f"tau = {tau:g}, stopped by shared information on half of the unseen pairs: R@10 on the other half "
            f"{plain['recall_at_10_stopped']:.3f} without control and {control['recall_at_10_stopped']:.3f} with the "
            f"divergence weight 3/4; at the last step {plain['recall_at_10_last']:.3f} and "
            f"{control['recall_at_10_last']:.3f}."
        )
    return said


def _readme(results: Mapping[str, Any]) -> str:
    names = list(results["sets"])
    measures = [k for k in WORDS if k != "recall_at_10"]
    rows = []
    for key in measures:
        cells = [results["sets"][name]["spearman"][key] for name in names]
        rows.append([WORDS[key], *(f"{c['value']:.3f} ({c['low']:.2f} to {c['high']:.2f})" for c in cells)])
    signs = []
    for name in names:
        found = results["sets"][name]["signs"]
        for at, size in enumerate(found["sizes"]):
            shares = [f"{found[k][at]:.3f}" for k in ("information", "mrr", "recall_at_10", "recall_at_1")]
            signs.append([name, str(size), *shares])
    header = ["", "pairs", *(WORDS[k] for k in ("information", "mrr", "recall_at_10", "recall_at_1"))]
    return document(
        TITLE,
        "Many encodings of the same held-out pairs, each ranked by numbers that need no labels. Spearman's correlation "
        "with recall at 10 (mean of both directions); intervals: bootstrap over the models.",
        bullets(results["found"]),
        table(["Spearman with R@10", *names], rows),
        "How often n pairs give the sign that all pairs give, between neighbours in the order by shared information:",
        table(header, signs),
        "![ranking](ranking.png)",
    )


def _figure(sets: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """R@10 against shared information and against the loss; the curve of signs."""
    from ...report.drawing import MARKERS, SERIES, bare_axes, blank_figure, legend

    drawn = blank_figure(10.0, 3.2 * len(sets))
    grid = drawn.subplots(len(sets), 3, squeeze=False)
    for line, (name, found) in zip(grid, sets.items(), strict=True):
        recalls = [row["recall_at_10"] for row in found["models"]]
        for axes, key, sign in ((line[0], "information", 1), (line[1], "loss", -1)):
            axes.plot([sign * row[key] for row in found["models"]], recalls, "o", ms=3.5, color=SERIES[0])
            rho = found["spearman"][key]["value"]
            axes.set_xlabel(f"{WORDS[key]} (nats); Spearman {rho:.2f}")
            axes.set_ylabel(f"R@10, {name}")
        for at, key in enumerate(("information", "mrr", "recall_at_10", "recall_at_1")):
            style: dict[str, Any] = {"marker": MARKERS[at], "ms": 4, "color": SERIES[at], "lw": 1.4}
            line[2].plot(found["signs"]["sizes"], found["signs"][key], label=WORDS[key], **style)
        line[2].set_xscale("log")
        line[2].minorticks_off()
        line[2].set_xticks(found["signs"]["sizes"], [f"{count:,}" for count in found["signs"]["sizes"]])
        line[2].set_xlabel("pairs")
        line[2].set_ylabel("share with the sign of all pairs")
        for axes in line:
            bare_axes(axes)
    legend(grid[0, 2], columns=2)
    return drawn


EXPERIMENT = Experiment(NAME, TITLE, (Form(FULL, FAST, run_ranking),))

__all__ = ["EXPERIMENT", "FAST", "FULL", "NAME", "TITLE", "RankingPlan", "findings", "run_ranking"]
