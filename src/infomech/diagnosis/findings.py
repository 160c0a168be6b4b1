"""Findings (E7): plain sentences, each with the number that led to it, its effect, and the command to try next."""

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from .._files import plain
from .._shown import Brief, Shown, data_frame
from .._words import number, significant, with_interval
from .budget import EnergyBudget
from .estimate import Estimate
from .information.shared import Information
from .information.words import first_line
from .inputs import Inputs
from .thresholds import (
    APART,
    COLLAPSED_COSINE,
    COLLAPSED_TWINS,
    FEW_DIRECTIONS,
    FEW_GROUPS,
    LARGE_TEMPERATURE_COST,
    LARGEST_GROWTH,
    MANY_BELOW_GUESSING,
    MANY_DUPLICATES,
    NEAR_CHANCE,
    NOISE,
    SMALLEST_NATS,
    STRONG_HUBS,
    TEMPERATURE_COST,
)
from .uncertainty import FEW_EFFECTIVE_GROUPS

Severity = Literal["serious", "warning", "note", "good"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note", "good")

CLIP_SCALE = 100.0  # CLIP's clamp of the logit scale 1 / tau


@dataclass(frozen=True, repr=False)
class Finding(Shown):
    """One thing that a person should know about their embeddings.

    Args:
        code: stable identifier, ``loss-near-chance`` say, for scripts.
        severity: ``serious`` makes ``infomech doctor --fail-on serious`` exit with 1.
        title: a few words.
        text: plain sentences: what was found, with its number and what it costs; then the command or the line of code
            to try next, between backticks.
        value: the number that led to it.
    """

    code: str
    severity: Severity
    title: str
    text: str
    value: float

    def _brief(self) -> Brief:
        lines = textwrap.wrap(self.text, 110, break_long_words=False, break_on_hyphens=False)
        return Brief(f"{self.severity.capitalize()}: {self.title}", [self.code], [[line] for line in lines], "text")

    def to_dict(self) -> dict[str, Any]:
        """Plain strings and a number, by field."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}


class Findings(Shown, list[Finding]):
    """Findings in their order, the gravest first: a list that prints as a table."""

    def _brief(self) -> Brief:
        rows = [[each.title, each.severity] for each in self]
        title = f"{len(self)} finding{'s' * (len(self) != 1)}; print one for what to do"
        return Brief(title, ["finding", "severity"], rows, "to_dict(), to_pandas()")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Each finding by its code."""
        return {each.code: each.to_dict() for each in self}

    def to_pandas(self) -> Any:
        """A data frame with a row for each finding.

        Raises:
            InputError: if pandas is not installed.
        """
        return data_frame([each.to_dict() for each in self], index="code")


@dataclass(frozen=True)
class Evidence:
    """What the findings are drawn from."""

    inputs: Inputs
    budget: EnergyBudget
    gap: dict[str, Estimate]
    geometry: dict[str, dict[str, Estimate]]
    retrieval: dict[str, Estimate]
    information: Information | None = None

    def command(self, name: str, more: str = "") -> str:
        """A command on the same files, between backticks."""
        return f"`infomech {name} X Y -t {self.budget.temperature:g}{more and ' ' + more}`"

    @property
    def curves(self) -> str:
        """The command that shows what other temperatures and batches would see."""
        return self.command("report", "--curves -o DIR")


def find(evidence: Evidence) -> list[Finding]:
    """All findings, the most serious first.

    Source: E7.
    """
    found: list[Finding] = []
    for rule in (
        _inputs,
        _loss,
        _pairing,
        _batch,
        _limit,
        _temperature,
        _best_temperature,
        _ceiling,
        _collapse,
        _duplicates,
        _gap,
        _reward,
        _hubs,
    ):
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
            "loss does not, its lengths carry information that is not looked at here; stop on such rows with "
            f"{e.command('doctor', '--no-normalize')}.",
            high,
        )
    unpaired = i.unpaired_x + i.unpaired_y
    if unpaired:
        share = 100 * unpaired / (i.rows_x + i.rows_y)
        yield Finding(
            "unpaired-rows",
            "note",
            "Some rows have no partner",
            f"{i.unpaired_x:,} rows of {i.name_x} and {i.unpaired_y:,} of {i.name_y}, {share:.2g}% of all, stand in no "
            f"pair; they were left out. If that is not meant, name their partners: "
            f"{e.command('doctor', '--pairs pairs.npy')}.",
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
            + (f", and below {FEW_EFFECTIVE_GROUPS:.0f} some do not hold and are withheld." if withheld else ".")
            + f" Embed at least {FEW_GROUPS} and run {e.command('doctor')} again.",
            i.effective_groups,
        )


def _loss(e: Evidence) -> Iterator[Finding]:
    chance = math.log1p(e.budget.negatives)
    loss = e.budget.infonce_sym.value
    ratio = loss / chance
    if ratio >= NEAR_CHANCE:
        yield Finding(
            "loss-near-chance",
            "serious",
            "The loss is at chance",
            f"InfoNCE is {number(loss)} nats and guessing gives log(N + 1) = {number(chance)}: at this temperature the "
            "pairs are hardly told apart. Check the pairing and that training has begun; what other temperatures "
            f"would give: {e.curves}.",
            ratio,
        )


_RECALLS = [f"{d}_recall_at_10" for d in ("x_to_y", "y_to_x")]


def _at_chance(e: Evidence) -> bool:
    return all(e.retrieval[k].low <= e.retrieval[f"shuffled_{k}"].high for k in _RECALLS)


def _pairing(e: Evidence) -> Iterator[Finding]:
    if _at_chance(e):
        worst = max(e.retrieval[k].value for k in _RECALLS)
        yield Finding(
            "retrieval-at-chance",
            "serious",
            "True pairs are found no better than shuffled ones",
            f"Recall at 10 is {worst:.3g}, within the interval of shuffled pairs. The rows of the two files may not "
            f"correspond: check their order, or pass the pair index: {e.command('doctor', '--pairs pairs.npy')}.",
            worst,
        )


def _batch(e: Evidence) -> Iterator[Finding]:
    b = e.budget
    if b.negatives == b.groups - 1:
        yield _all_others(e)
        return
    error, every = b.gradient.error, b.curve.parts["infonce_sym"][-1]
    idle = every.high < SMALLEST_NATS  # the loss is next to 0 against all others: no batch has more to teach
    noise = error.value > NOISE and not idle
    moved = b.above_largest
    rises = moved.value < 0
    by = Estimate(-moved.value, moved.stderr, -moved.high, -moved.low, moved.withheld) if rises else moved
    text = (
        f"In a batch of {b.negatives + 1:,} the loss is {_nats(b.infonce_sym)} nats, with all {b.groups - 1:,} other "
        f"groups as negatives {_nats(every)}: log N grows by {number(math.log((b.groups - 1) / b.negatives))} and the "
        f"loss by {_few(every.value - b.infonce_sym.value)}, so that the loss less log N "
        f"{'rises' if rises else 'falls'} by {_nats(by)}. An anchor sees {with_interval(b.effective_negatives)} "
        f"effective negatives, and the gradient at the embeddings is off by {with_interval(error)} of its length. "
    )
    smaller = f"what a smaller one sees: {e.command('doctor', f'--batch-size {max(2, (b.negatives + 1) // 2)}')}."
    if noise:
        text += f"A larger batch or a higher temperature; what they would give: {e.curves}."
    elif idle:
        text += (
            f"Against all of them the loss stays below {SMALLEST_NATS} nats: a larger batch has nothing to gain on "
            f"these pairs; {smaller}"
        )
    elif moved.high < SMALLEST_NATS:
        text += (
            f"A larger batch would not lower the loss less log N by as much as {SMALLEST_NATS} nats, as far as these "
            f"data can say; {smaller}"
        )
    else:
        text += (
            "A larger batch raises log N less the loss, a lower bound on what the modalities share. "
            f"Twice the batch: {e.command('doctor', f'--batch-size {2 * (b.negatives + 1)}')}."
        )
    yield Finding(
        "batch-gradient-is-noise" if noise else "batch-sees",
        "serious" if noise else "note",
        "A batch's gradient is mostly noise" if noise else "What the batch sees",
        text,
        error.value,
    )


def _all_others(e: Evidence) -> Finding:
    """Where a batch holds all groups: neither what a larger one would change nor its gradient's worth is measured."""
    b = e.budget
    beyond = ""
    if b.beyond is not None:
        part = b.beyond.parts["infonce_sym"]
        beyond = (
            f" For the batch of {b.batch_size:,} the loss is extrapolated, not measured, to between "
            f"{_few(part.low)} and {_few(part.high)} nats."
        )
    return Finding(
        "batch-sees",
        "note",
        "The batch is all of the data",
        f"With all {b.negatives:,} other groups as negatives the loss is {with_interval(b.infonce_sym)} nats, and an "
        f"anchor sees {with_interval(b.effective_negatives)} of them.{beyond} Larger batches need more groups; what "
        f"a smaller one sees: {e.command('doctor', f'--batch-size {max(2, b.groups // 2)}')}.",
        b.effective_negatives.value,
    )


def _limit(e: Evidence) -> Iterator[Finding]:
    b = e.budget
    if b.resolved:
        return
    first, second = b.growth.negatives
    tau = b.resolves_from
    again = "" if tau is None else f", or from a temperature of about {tau:.2g} on: `infomech doctor X Y -t {tau:.2g}`"
    yield Finding(
        "limit-not-resolved",
        "note",
        "There is no number for the limit of large batches",
        f"From {first:,} to {second:,} negatives, the last doubling that the data hold, a log kernel mean moved by "
        f"{number(b.growth.largest, 3)} nats, more than {LARGEST_GROWTH}. So the dispersions at N are upper bounds of "
        "the limit's, the divergences bound nothing, and all numbers are those of the batch. There is one with more "
        + ("groups" + again if tau is not None else f"groups: {e.command('doctor')} on them")
        + ".",
        b.growth.largest,
    )


def _temperature(e: Evidence) -> Iterator[Finding]:
    b = e.budget
    scale = 1 / b.temperature
    if abs(scale - CLIP_SCALE) < 0.5:
        yield Finding(
            "temperature-at-clamp",
            "note",
            "The temperature is at CLIP's clamp",
            f"The logit scale 1 / tau is {scale:.4g}, where CLIP stops it. If it was learned, training may have wanted "
            "it higher; if it was fixed, this says nothing of training. The softmax is as hard as CLIP lets it be: an "
            f"anchor sees {with_interval(b.effective_negatives)} of {b.negatives:,} negatives. "
            f"What other temperatures would see: {e.curves}.",
            scale,
        )


def _best_temperature(e: Evidence) -> Iterator[Finding]:
    """Whether the temperature is the one that these pairs ask for; what it costs decides."""
    found = e.information
    if found is None or found.calibration is None or found.status != "found" or _at_chance(e):
        return
    cost, best, own = found.calibration.cost, found.temperature, found.calibration.temperature
    if cost.low <= 0 or cost.value < TEMPERATURE_COST:
        return
    low = own < best.value
    yield Finding(
        "temperature-does-not-fit",
        "warning" if cost.value >= LARGE_TEMPERATURE_COST else "note",
        "The temperature is not the one that these pairs ask for",
        f"Your temperature is {own:.3g}, these pairs ask for {with_interval(best)}: at {found.negatives:,} negatives "
        f"that costs {with_interval(cost)} nats a pair, and probabilities from the softmax are "
        + (
            f"overconfident. {_below_guessing(found)}If the model has not seen these pairs, its temperature may follow "
            "pairs that it has memorised: stop earlier, or hold the temperature higher while you train. "
            if low
            else "underconfident: a lower temperature would use more of what the scores know. "
        )
        + f"The budget at the temperature that fits: `infomech report X Y -t {best.value:.2g} -o DIR`.",
        cost.value,
    )


def _below_guessing(found: Information) -> str:
    """How many pairs have a loss above that of guessing, at the best temperature; nothing to say of a few."""
    assert found.shares is not None
    share = float(found.shares.weights[found.shares.information < 0].sum())
    if share < MANY_BELOW_GUESSING:
        return ""
    return (
        f"{share:.0%} of the pairs lose more than guessing, log(N + 1), even at the best temperature: wrong pairs do "
        "so, and pairs that the model does not understand; they are the lowest of "
        "`infomech.shared_information(x, y).by_pair`. "
    )


def _ceiling(e: Evidence) -> Iterator[Finding]:
    """Whether shared information can tell models apart at this N."""
    found = e.information
    if found is None or not found.near_ceiling:
        return
    needed, line = found.rows_needed, first_line(found)
    assert needed is not None
    text = f"{line[0].upper()}{line[1:]}"
    if found.twin_groups:
        text += f", and equal rows in different groups leave {number(found.ceiling_left)} of them"
    text += ": within 0.5 nats of the ceiling, where differences between models are understated. "
    larger = e.command("doctor", f"--batch-size {needed}")
    if needed <= found.groups:
        text += f"A larger N: {larger}."
    else:
        text += f"It takes at least {needed:,} groups and a batch of as many"
        if found.saturated:
            text += (
                f", and more will not do alone: with all {found.groups:,} groups as the batch the value is at the "
                "ceiling, too, so nearly every partner scores highest. Embed pairs that are harder to tell apart"
            )
        else:
            text += f" (there are {found.groups:,} groups, and the batch is {found.batch_size:,}). Embed more pairs"
        text += f", then {larger}."
    yield Finding(
        "information-near-ceiling", "note", "Shared information is near its ceiling", text, found.ceiling_left
    )


def _collapse(e: Evidence) -> Iterator[Finding]:
    for side, name in (("x", e.inputs.name_x), ("y", e.inputs.name_y)):
        cosine = e.geometry[side]["mean_cosine"].value
        ratio = e.geometry[side]["participation_ratio"].value
        if _all_equal(e, side):
            yield Finding(
                f"collapse-{side}",
                "serious",
                f"{name} has collapsed to a point",
                f"Two random rows of {name} have a mean cosine of {cosine:.3f}, and "
                f"{100 * e.geometry[side]['duplicates'].value:.1f}% of the rows have a twin (cosine above 0.9999) in "
                "another group: all items look the same, and no correction brings back what the rows do not hold. Fix "
                "the training (a loss without negatives, a learning rate that is too high), or the "
                "extraction, then look again: "
                f"{e.command('doctor', '--fail-on serious')}.",
                cosine,
            )
        elif cosine > COLLAPSED_COSINE:
            yield Finding(
                f"collapse-{side}",
                "serious",
                f"{name} has collapsed to a cone",
                f"Two random rows of {name} have a mean cosine of {cosine:.3f}, so that similarities differ by little. "
                "What removing the mean does to gap and recall: "
                f"{e.command('correct', '--method mean-removal -o DIR')}.",
                cosine,
            )
        elif ratio < min(FEW_DIRECTIONS, e.inputs.dim / 2):
            yield Finding(
                f"few-directions-{side}",
                "warning",
                f"{name} uses few directions",
                f"The variance of {name} lies in about {ratio:.1f} of {e.inputs.dim} directions (participation ratio). "
                "Whether training lost them: report on an earlier checkpoint, too, and "
                "`infomech compare EARLIER NOW -o DIR`.",
                ratio,
            )


def _all_equal(e: Evidence, side: str) -> bool:
    """Whether most rows are next to equal: twins that are no items given twice."""
    found = e.geometry[side]
    return found["mean_cosine"].value > COLLAPSED_COSINE and found["duplicates"].value > COLLAPSED_TWINS


def _duplicates(e: Evidence) -> Iterator[Finding]:
    shares = {side: e.geometry[side]["duplicates"].value for side in ("x", "y")}
    if max(shares.values()) <= MANY_DUPLICATES:
        return
    effect, cost = _cost_of_duplicates(e.budget)
    negligible = abs(effect) < SMALLEST_NATS
    for side, name in (("x", e.inputs.name_x), ("y", e.inputs.name_y)):
        share = shares[side]
        if share > MANY_DUPLICATES and not _all_equal(e, side):
            yield Finding(
                f"duplicates-{side}",
                "note" if negligible else "warning",
                f"{name} has near-duplicates",
                f"{100 * share:.1f}% of the rows of {name} have a twin (cosine above 0.9999) in another group: a false "
                f"negative in the loss, a coin toss in retrieval. {cost} " + _tie(e, negligible=negligible),
                share,
            )


def _tie(e: Evidence, *, negligible: bool) -> str:
    """What to do, with the commands that name the twins, as a report does, and use them."""
    found = e.budget.without_duplicates
    if found is None or not found.tied:
        return f"Embed more rows that differ, then {e.command('doctor')}."
    report = e.command("report", "-o DIR")
    return (
        ("That is too little to act on; to" if negligible else "To")
        + f" tie twins into one group: {report} writes the pairs that do so, then "
        f"{e.command('doctor', '--pairs DIR/pairs-tied.npy')}."
    )


def _cost_of_duplicates(budget: EnergyBudget) -> tuple[float, str]:
    """InfoNCE with them less that without them, and a sentence."""
    found = budget.without_duplicates
    if found is None:
        return math.inf, "The budget without them could not be measured: too few groups would be left."
    effect = found.with_them["infonce_sym"].value - found.parts["infonce_sym"].value
    return effect, (
        f"At {found.negatives:,} negatives InfoNCE is {number(found.with_them['infonce_sym'].value)} nats with them "
        f"and {number(found.parts['infonce_sym'].value)} with one group of each ({found.groups:,} groups)."
    )


def _gap(e: Evidence) -> Iterator[Finding]:
    energy, centroid, apart = e.gap["energy_distance"], e.gap["centroid_gap"], e.gap["separability"]
    if energy.low <= 0:
        if all(e.geometry[side]["mean_cosine"].value > COLLAPSED_COSINE for side in ("x", "y")):
            return  # there is nothing left that could lie apart
        reaches = "reaches 0" if energy.high >= 0 else "lies below 0, which no gap does: it is chance, or few pairs"
        yield Finding(
            "no-gap",
            "good",
            "No modality gap is seen",
            f"The energy distance is {with_interval(energy)}; its interval {reaches}. "
            f"What the loss is made of: {e.command('report', '-o DIR')}.",
            energy.value,
        )
        return
    divergence = e.budget.divergence_sym
    negligible = abs(divergence.value) < SMALLEST_NATS and divergence.high < 2 * SMALLEST_NATS
    is_apart = apart.value >= APART and not negligible
    share = max(e.gap["centered_share"].value, 0.0)
    worth = f"At {e.budget.negatives:,} negatives it enters the loss as minus a divergence of {_nats(divergence)} nats"
    yield Finding(
        "gap",
        "warning" if is_apart else "note",
        "The modalities lie apart" if is_apart else "There is a modality gap",
        f"A linear classifier tells {e.inputs.name_x} from {e.inputs.name_y} with accuracy {apart.value:.3f}; "
        f"the centroids are {with_interval(centroid)} apart and the energy distance is {with_interval(energy)}, of "
        f"which {100 * share:.0f}% would be left with one centroid moved onto the other. {worth}"
        + (", too little to act on; to follow it while" if negligible else ".")
        + (
            " you train: `infomech compare EARLIER NOW -o DIR`."
            if negligible
            else " What removing the mean leaves of every gap measure, and does to recall: "
            f"{e.command('correct', '--method mean-removal -o DIR')}."
        ),
        energy.value,
    )


def _nats(estimate: Estimate) -> str:
    """With its interval; a number far below what is worth an advice in few digits."""
    small = abs(estimate.value) < SMALLEST_NATS / 10
    return significant(estimate.value, 1) if small else with_interval(estimate)


def _few(value: float) -> str:
    """Nats without an interval: three decimals, or a significant digit where they would all be 0."""
    return significant(value, 1) if abs(value) < SMALLEST_NATS / 10 else number(value)


def _reward(e: Evidence) -> Iterator[Finding]:
    divergence = e.budget.divergence_sym
    if e.gap["energy_distance"].low > 0 and divergence.low > SMALLEST_NATS:
        yield Finding(
            "loss-rewards-gap",
            "note",
            "The loss has a term that rewards the gap",
            f"At {e.budget.negatives:,} negatives the cross-modal divergence, {with_interval(divergence)} nats, is "
            "taken off the loss: it rewards a gap as long as alignment and dispersions are held. They move with the "
            "gap, so this is not what closing it would cost: the loss may even fall. A divergence weight of 1 takes "
            "the term away, one of 3/4 leaves a quarter; neither is known to raise recall on unseen pairs, so try the "
            f"temperature first: {e.curves}.",
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
                f"A few rows of {name} are neighbours of very many: the skewness of the 10-occurrence is "
                f"{with_interval(hubness)}, and they crowd retrieval. What removing the mean does to recall: "
                f"{e.command('correct', '--method mean-removal -o DIR')}.",
                hubness.value,
            )


__all__ = ["SEVERITIES", "Evidence", "Finding", "Findings", "Severity", "find"]
