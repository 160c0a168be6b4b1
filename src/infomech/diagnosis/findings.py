"""Findings (E7): plain sentences, each with the number that led to it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .._words import with_interval
from .budget import EnergyBudget
from .estimate import Estimate
from .inputs import Inputs
from .resolution import LARGEST_GROWTH
from .uncertainty import FEW_EFFECTIVE_GROUPS

Severity = Literal["serious", "warning", "note", "good"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note", "good")

NEAR_CHANCE = 0.95  # loss over log(N + 1) from which training has not begun
CLIP_SCALE = 100.0  # CLIP's clamp of the logit scale 1 / tau
NOISE = 1.0  # relative error of a batch's gradient above which it is mostly noise
SMALLEST_REWARD = 0.01  # nats
COLLAPSED_COSINE = 0.95
FEW_DIRECTIONS = 5.0  # participation ratio
MANY_DUPLICATES = 0.01
STRONG_HUBS = 5.0  # skewness of the k-occurrence
APART = 0.95  # accuracy of a linear classifier
FEW_GROUPS = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should know about their embeddings.

    Args:
        code: stable identifier, ``loss-near-chance`` say, for scripts.
        severity: ``serious`` makes ``infomech doctor --strict`` exit with 1.
        title: a few words.
        text: one or two plain sentences: what was found, with its number, and what to do.
        value: the number that led to it.
    """

    code: str
    severity: Severity
    title: str
    text: str
    value: float


@dataclass(frozen=True)
class Evidence:
    """What the findings are drawn from."""

    inputs: Inputs
    budget: EnergyBudget
    gap: dict[str, Estimate]
    geometry: dict[str, dict[str, Estimate]]
    retrieval: dict[str, Estimate]


def find(evidence: Evidence) -> list[Finding]:
    """All findings, the most serious first.

    Source: E7.
    """
    found: list[Finding] = []
    for rule in (_inputs, _loss, _pairing, _temperature, _negatives, _collapse, _duplicates, _gap, _hubs):
        found += rule(evidence)
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def _inputs(e: Evidence) -> Iterator[Finding]:
    i = e.inputs
    if i.normalized:
        low, high = (f(i.norm_range_x[k], i.norm_range_y[k]) for k, f in ((0, min), (1, max)))
        yield Finding(
            "not-normalized",
            "note",
            "Rows were not of unit length",
            f"Norms ran from {low:.3g} to {high:.3g}; all rows were divided by theirs, as a cosine loss does. If your "
            "model uses plain inner products, its lengths carry information that is not looked at here.",
            high,
        )
    unpaired = i.unpaired_x + i.unpaired_y
    if unpaired:
        yield Finding(
            "unpaired-rows",
            "note",
            "Some rows have no partner",
            f"{i.unpaired_x:,} rows of {i.name_x} and {i.unpaired_y:,} of {i.name_y} stand in no pair; they were left "
            "out.",
            float(unpaired),
        )
    if i.effective_groups < FEW_GROUPS:
        uneven = i.effective_groups < 0.9 * i.groups
        worth = f" of uneven size, which tell as much as {i.effective_groups:.3g} of equal size" if uneven else ""
        withheld = i.effective_groups < FEW_EFFECTIVE_GROUPS
        yield Finding(
            "few-groups",
            "warning" if withheld else "note",
            "Few independent groups",
            f"The pairs form {i.groups} independent groups{worth}; with fewer than {FEW_GROUPS} the intervals are rough"
            + (f", and below {FEW_EFFECTIVE_GROUPS:.0f} some do not hold and are withheld." if withheld else "."),
            i.effective_groups,
        )


def _loss(e: Evidence) -> Iterator[Finding]:
    chance = math.log1p(e.budget.negatives)
    ratio = e.budget.infonce_sym.value / chance
    if ratio >= NEAR_CHANCE:
        yield Finding(
            "loss-near-chance",
            "serious",
            "The loss is at chance",
            f"InfoNCE is {e.budget.infonce_sym.value:.3f} nats and guessing gives log(N + 1) = {chance:.3f}: at this "
            "temperature the pairs are hardly told apart. Check the pairing, the temperature, and that training has "
            "begun.",
            ratio,
        )


def _pairing(e: Evidence) -> Iterator[Finding]:
    keys = [f"{d}_recall_at_10" for d in ("x_to_y", "y_to_x")]
    if all(e.retrieval[k].low <= e.retrieval[f"shuffled_{k}"].high for k in keys):
        worst = max(e.retrieval[k].value for k in keys)
        yield Finding(
            "retrieval-at-chance",
            "serious",
            "True pairs are found no better than shuffled ones",
            f"Recall at 10 is {worst:.3g}, within the interval of shuffled pairs. The rows of the two files may not "
            "correspond: check their order, or pass the pair index.",
            worst,
        )


def _temperature(e: Evidence) -> Iterator[Finding]:
    scale = 1 / e.budget.temperature
    if abs(scale - CLIP_SCALE) < 0.5:
        yield Finding(
            "temperature-at-clamp",
            "note",
            "The temperature is at CLIP's clamp",
            f"The logit scale 1 / tau is {scale:.4g}, where CLIP stops it. Training wanted it higher: the softmax is "
            "as hard as it may be, and the effective negatives below say what that means for your batch.",
            scale,
        )


def _negatives(e: Evidence) -> Iterator[Finding]:
    b = e.budget
    error, noise = b.gradient.error, b.gradient.error.value > NOISE
    if not b.resolved:
        first, second = b.growth.negatives
        yield Finding(
            "limit-not-resolved",
            "note",
            "Larger batches would still change the budget",
            f"From {first:,} to {second:,} negatives, the last doubling that the data hold, a log kernel mean moved by "
            f"{b.growth.largest:.2g} nats, more than {LARGEST_GROWTH}: there is no number for the limit of large "
            f"batches. At N the dispersions are upper bounds of it, divergences bound nothing.{_resolves_from(b)}",
            b.growth.largest,
        )
    yield Finding(
        "batch-gradient-is-noise" if noise else "batch-sees",
        "serious" if noise else "note",
        "A batch's gradient is mostly noise" if noise else "What the batch sees",
        f"In a batch of {b.negatives + 1:,} the loss is {with_interval(b.above_largest)} nats above that with all "
        f"{b.groups - 1:,} other groups as negatives (less the logarithms of their numbers), an anchor sees "
        f"{with_interval(b.effective_negatives)} effective negatives, and the gradient at the embeddings is off by "
        f"{with_interval(error)} of its length. "
        + ("Train with a larger batch or a higher temperature: " if noise else "For another batch: ")
        + f"`infomech doctor X Y -t {b.temperature:g} --batch-size {2 * (b.negatives + 1)}`.",
        error.value,
    )


def _resolves_from(budget: EnergyBudget) -> str:
    tau = budget.resolves_from
    return "" if tau is None else f" From a temperature of {tau:.2g} on they have one: `-t {tau:.2g}`."


def _collapse(e: Evidence) -> Iterator[Finding]:
    for side, name in (("x", e.inputs.name_x), ("y", e.inputs.name_y)):
        cosine = e.geometry[side]["mean_cosine"].value
        ratio = e.geometry[side]["participation_ratio"].value
        if cosine > COLLAPSED_COSINE:
            yield Finding(
                f"collapse-{side}",
                "serious",
                f"{name} has collapsed to a cone",
                f"Two random rows of {name} have a mean cosine of {cosine:.3f}. Similarities say little before the "
                "mean is removed.",
                cosine,
            )
        elif ratio < min(FEW_DIRECTIONS, e.inputs.dim / 2):
            yield Finding(
                f"few-directions-{side}",
                "warning",
                f"{name} uses few directions",
                f"The variance of {name} lies in about {ratio:.1f} of {e.inputs.dim} directions (participation ratio).",
                ratio,
            )


def _duplicates(e: Evidence) -> Iterator[Finding]:
    for side, name in (("x", e.inputs.name_x), ("y", e.inputs.name_y)):
        share = e.geometry[side]["duplicates"].value
        if share > MANY_DUPLICATES:
            yield Finding(
                f"duplicates-{side}",
                "warning",
                f"{name} has near-duplicates",
                f"{100 * share:.1f}% of the rows of {name} have a twin (cosine above 0.9999) in another group. Each is "
                "a false negative in the loss and a coin toss in retrieval: remove them, or tie them into one group.",
                share,
            )


def _gap(e: Evidence) -> Iterator[Finding]:
    energy, centroid, apart = e.gap["energy_distance"], e.gap["centroid_gap"], e.gap["separability"]
    if energy.low <= 0:
        yield Finding(
            "no-gap",
            "good",
            "No modality gap is seen",
            f"The energy distance is {with_interval(energy)}; its interval reaches 0.",
            energy.value,
        )
        return
    share = e.gap["centered_share"].value
    where = f"Moving one centroid onto the other would leave {100 * max(share, 0):.0f}% of it" + (
        ": mean removal after training closes most of the gap." if share < 0.2 else ", so that shape differs, too."
    )
    yield Finding(
        "gap",
        "warning" if apart.value >= APART else "note",
        "The modalities lie apart" if apart.value >= APART else "There is a modality gap",
        f"A linear classifier tells {e.inputs.name_x} from {e.inputs.name_y} with accuracy {apart.value:.3f}; "
        f"the centroids are {with_interval(centroid)} apart and the energy distance is {with_interval(energy)}. "
        + where,
        energy.value,
    )
    divergence = e.budget.divergence_sym
    if divergence.low > SMALLEST_REWARD:
        yield Finding(
            "loss-rewards-gap",
            "note",
            "The loss rewards the gap",
            f"At {e.budget.negatives:,} negatives the cross-modal divergence lowers the loss by "
            f"{with_interval(divergence)} nats: it pays for keeping the modalities apart. A divergence weight of 1 in "
            "training takes the reward away, one of 3/4 leaves a quarter of it.",
            divergence.value,
        )


def _hubs(e: Evidence) -> Iterator[Finding]:
    for side, name in (("x", e.inputs.name_x), ("y", e.inputs.name_y)):
        hubness = e.geometry[side]["hubness"]
        if hubness.low > STRONG_HUBS:
            yield Finding(
                f"hubs-{side}",
                "warning",
                f"{name} has hubs",
                f"A few rows of {name} are neighbours of very many (skewness of the 10-occurrence "
                f"{hubness.value:.1f}); they crowd retrieval. Centring, or rescaling similarities per query, helps.",
                hubness.value,
            )


__all__ = ["SEVERITIES", "Evidence", "Finding", "Severity", "find"]
