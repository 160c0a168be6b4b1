"""What a fitted density ratio says about its reference, as data: what a page, a report and findings show."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import InputError, check_kind, shown
from .._shown import Brief, Fields, Shown
from .._words import number, with_error
from ..diagnosis.differences import Difference, paired_recall
from ..diagnosis.estimate import Estimate
from ..diagnosis.findings import Finding
from ..diagnosis.thresholds import STRONG_HUBS
from ..diagnosis.uncertainty import proportion_estimate
from ..geometry import Cosine
from .calibration import Reliability
from .comparison import ScoreComparison, skewness_of_hits
from .density_ratio import DensityRatio
from .rates import PairTable
from .thresholds import LEAST_EFFECTIVE, Threshold

RATES = (1e-2, 1e-3, 1e-4)
_BINS = 60
_POINTS = 60  # of a curve
_POOR_CALIBRATION = 0.05  # expected calibration error that a user should know of
FEW = 10.0  # effective groups in a row's field, below which it says little
MANY_SPARSE = 0.1  # share of rows with such fields that a user should know of
_LOOKED_AT = 256  # rows of a side at other temperatures
_MOST_STEPS = 24  # of the root of 2
_DIRECTION = {"y": "x_to_y", "x": "y_to_x"}  # of the search, by the candidates' side
Curve = list[float]


@dataclass(frozen=True, repr=False)
class Look(Fields):
    """How one score tells true pairs from random ones.

    Args:
        edges: (bins + 1,) of the histograms.
        true: (bins,) density of true pairs.
        random: (bins,) of random pairs of different groups.
        false_rates: (k,) false positive rates, ascending, from the finest that the data resolve.
        true_rates: (k,) true positives there.
    """

    edges: Curve
    true: Curve
    random: Curve
    false_rates: Curve
    true_rates: Curve


@dataclass(frozen=True, repr=False)
class Search(Fields):
    """R@1 of one direction among the reference's own rows, fields without the pair's groups."""

    critic: Estimate
    ratio: Estimate
    change: Difference
    weight: float  # of the candidates' field
    hubness: tuple[float, float] = (math.nan, math.nan)  # of the candidates, by the critic alone and by the ratio


@dataclass(frozen=True, repr=False)
class ScoreSummary(Shown):
    """What score means a match, on the reference's own pairs, none of which is in its own fields."""

    temperature: float
    weights: tuple[float, float]
    groups: int
    thresholds: list[Threshold]
    unresolved: str  # why finer rates are not there
    ratio: Look
    critic: Look
    reliability: list[Reliability]
    searches: dict[str, Search]  # by the candidates' side
    sparse: float  # share of the reference's rows whose field rests on fewer than ten groups
    critic_name: str = "cosine"  # what the score alone is called
    more_pairs: float = math.nan  # times as many that it takes, at least, until nine rows in ten are not sparse
    denser_from: float | None = None  # the temperature from which on nine rows in ten are not; None for none

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "temperature": self.temperature,
            "weights": list(self.weights),
            "groups": self.groups,
            "thresholds": [t.to_dict() for t in self.thresholds],
            "unresolved": self.unresolved,
            "ratio": vars(self.ratio),
            "critic": vars(self.critic),
            "reliability": [r.to_dict() for r in self.reliability],
            "searches": {
                side: {
                    "critic": s.critic.to_dict(),
                    "ratio": s.ratio.to_dict(),
                    "change": s.change.estimate.to_dict(),
                    "apart": s.change.apart,
                    "weight": s.weight,
                }
                for side, s in self.searches.items()
            },
            "sparse": self.sparse,
            "critic_name": self.critic_name,
        }

    def _brief(self) -> Brief:
        rows = []
        for found in self.thresholds:
            alone = "n/a" if found.critic is None else with_error(found.critic.score)
            gain = "n/a" if found.critic is None else with_error(found.critic.true_positive_rate)
            rows.append(
                [found.goal, alone, gain, with_error(found.ratio.score), with_error(found.ratio.true_positive_rate)]
            )
        title = f"What score means a match: {self.groups:,} groups at τ = {self.temperature:g}"
        return Brief(title, ["threshold for", "critic", "finds", "ratio", "finds"], rows)


def summarise(ratio: DensityRatio) -> ScoreSummary:
    """Thresholds, curves, reliability and recall of a fitted ratio.

    Source: E9.
    """
    if not isinstance(ratio, DensityRatio):
        raise InputError(f"ratio is {shown(ratio)}; give a fitted DensityRatio")
    scores = ratio.pair_scores()
    thresholds, unresolved = [], ""
    for rate in RATES:
        try:
            thresholds.append(ratio.threshold(false_positive_rate=rate))
        except InputError as error:
            unresolved = str(error)
            break
    effective = _effective(ratio)
    sparse = float((effective < FEW).double().mean())
    many = sparse > MANY_SPARSE
    return ScoreSummary(
        temperature=ratio.temperature,
        weights=ratio.weights_,
        groups=len(scores),
        thresholds=thresholds,
        unresolved=unresolved,
        ratio=_look(ratio.pair_table()),
        critic=_look(ratio.pair_table(critic=True), ratio.temperature),
        reliability=[
            ratio.reliability(prior=0.5),
            ratio.reliability(prior=0.5, calibrated="isotonic"),
            ratio.candidate_reliability(),
        ],
        searches={side: _search(ratio, side) for side in ("y", "x")},
        sparse=sparse,
        critic_name="cosine" if ratio.critic is None or isinstance(ratio.critic, Cosine) else "score",
        more_pairs=FEW / float(effective.sort().values[int(MANY_SPARSE * len(effective))]) if many else math.nan,
        denser_from=_denser_from(ratio) if many else None,
    )


def _look(table: PairTable, factor: float = 1.0) -> Look:
    wrong, true = table.wrong, table.true
    low, high = float(min(wrong[0], true[0])), float(max(wrong[-1], true[-1]))
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    densities = [np.histogram(values, bins=edges, density=True)[0] for values in (true, wrong)]
    finest = min(LEAST_EFFECTIVE / table.random_pairs, 0.1)
    rates = np.geomspace(finest, 0.5, _POINTS)
    cuts = np.array([table.quantile(rate) for rate in rates])
    curves = [edges * factor, densities[0] / factor, densities[1] / factor, rates, table.true_rates(cuts)]
    return Look(*(curve.tolist() for curve in curves))


def _search(ratio: DensityRatio, side: str) -> Search:
    scores = ratio.pair_scores()
    table, field = (scores.scores, scores.field_y) if side == "y" else (scores.scores.T, scores.field_x.T)
    weight = ratio.ranking_weights_[side]
    groups = torch.arange(len(table))
    ratios = table - weight * field
    hits = [_first(each) for each in (table, ratios)]
    recalls = [proportion_estimate(hit, groups, len(groups)) for hit in hits]
    changed = np.asarray((hits[1] - hits[0]).numpy(), dtype=np.float64)
    change = Difference.of(paired_recall([changed], [np.ones(len(changed))]), paired=True)
    return Search(recalls[0], recalls[1], change, weight, (skewness_of_hits(table), skewness_of_hits(ratios)))


def _first(table: Tensor) -> Tensor:
    """Whether the diagonal is first in its row; a tie of t counts 1 / t."""
    true = table.diagonal()[:, None]
    ahead, level = (table > true).any(1), (table == true).sum(1)
    return torch.where(ahead, 0.0, 1.0 / level.double()).cpu()


def _effective(ratio: DensityRatio) -> Tensor:
    """How many rows of the reference the field of each row of both sides rests on."""
    found = [ratio.field_of_reference(side).effective for side in ("x", "y")]
    return torch.cat([each for each in found if each is not None])


def _denser_from(ratio: DensityRatio) -> float | None:
    """The first higher temperature, by steps of the root of 2, at which few rows are sparse; of some rows of each side.

    Rounded as it is shown, then looked at.
    """
    for step in range(1, _MOST_STEPS + 1):
        tau = float(f"{ratio.temperature * 2 ** (step / 2):.2g}")
        fields = [ratio.field_of_reference(side, temperature=tau, most=_LOOKED_AT) for side in ("x", "y")]
        effective = torch.cat([field.at_least() for field in fields])
        if float((effective < FEW).double().mean()) <= MANY_SPARSE:
            return tau
    return None


def score_findings(
    summary: ScoreSummary,
    names: tuple[str, str] = ("x", "y"),
    *,
    fitted: bool = False,
    comparison: ScoreComparison | None = None,
) -> list[Finding]:
    """What a person should know, with its number and what to do (E7).

    Args:
        summary: from `summarise`.
        names: of the two modalities.
        fitted: whether the ratio is saved already, so that the commands need not fit it first.
        comparison: of `compare_scores` on the same pairs, whose table is shown beside: hubs are then said as it has
            them, and a method that ranks above the ratio is named.
    """
    check_kind(summary, "summary", ScoreSummary, "what summarise returns")
    fit = "" if fitted else f"`infomech score X Y -t {summary.temperature:g} -o DIR`, then "
    found: list[Finding] = []
    for threshold in summary.thresholds:
        if threshold.critic is None or not threshold.goal.endswith(" 0.001"):
            continue
        cut, own = threshold.critic, threshold.ratio
        gain = own.true_positive_rate.value - cut.true_positive_rate.value
        better = own.true_positive_rate.low > cut.true_positive_rate.high
        found.append(
            Finding(
                "match-score",
                "good" if better else "note",
                f"A {summary.critic_name} of {number(cut.score.value, 2)} is a match at 1 in 1,000",
                f"One random pair in 1,000 scores above {with_error(cut.score)}, and "
                f"{cut.true_positive_rate.value:.0%} of the true pairs do. At the same rate the density ratio finds "
                f"{own.true_positive_rate.value:.0%} of them, above {number(own.score.value, 2)}"
                + (": use it instead" if better else f" ({gain:+.1%}); to use it")
                + f" on other files: {fit}`infomech score --apply DIR X Y -o scores.parquet`.",
                cut.score.value,
            )
        )
    for side, search in summary.searches.items():
        query, candidate = names if side == "y" else names[::-1]
        if search.change.apart and search.change.estimate.value > 0:
            by_critic, by_ratio = search.hubness if comparison is None else comparison.hubness_of(_DIRECTION[side])
            hubs = by_critic > STRONG_HUBS and by_ratio < by_critic
            found.append(
                Finding(
                    f"hubs-cost-recall-{side}" if hubs else f"ratio-ranks-better-{side}",
                    "warning" if hubs and search.change.estimate.value >= 0.02 else "note",
                    f"Hubs cost recall from {query} to {candidate}: the ratio gives it back"
                    if hubs
                    else f"From {query} to {candidate} the ratio ranks better than the {summary.critic_name} alone",
                    f"The right {candidate} comes first for {search.critic.value:.1%} of the queries by the score "
                    f"alone and for {search.ratio.value:.1%} with the candidates' field taken off at weight "
                    f"{search.weight:g} ({with_error(search.change.estimate)})."
                    + (f" The hubness falls from {by_critic:.1f} to {by_ratio:.1f}." if hubs else "")
                    + _better_still(comparison, _DIRECTION[side], summary.temperature)
                    + f" Write vectors that any inner-product index ranks so: {fit}"
                    "`infomech score --apply DIR --index X Y -o FOLDER`.",
                    search.change.estimate.value,
                )
            )
    as_is, mapped = summary.reliability[0], summary.reliability[1]
    if as_is.error.low > _POOR_CALIBRATION and mapped.error.value < as_is.error.value:
        found.append(
            Finding(
                "uncalibrated",
                "note",
                "The ratio alone is no probability here",
                f"Its probabilities are off by {as_is.error.value:.2f} on the average at even odds; a fitted map "
                f"brings that to {mapped.error.value:.2f} on pairs it has not seen: "
                f"`infomech score X Y -t {summary.temperature:g} -o DIR --calibrate isotonic`.",
                as_is.error.value,
            )
        )
    if math.isfinite(summary.sparse) and summary.sparse > MANY_SPARSE:
        found.append(_sparse_finding(summary))
    return found


def _better_still(comparison: ScoreComparison | None, direction: str, temperature: float) -> str:
    """The method of the table that finds most, if it finds more than the ratio does, and the command that uses it."""
    if comparison is None:
        return ""
    gains = {name: each for name, each in comparison.above_ratio.get(direction, {}).items() if each.apart}
    best = max(gains, key=lambda name: gains[name].estimate.value, default=None)
    if best is None or gains[best].estimate.value <= 0:
        return ""
    commands = {
        "mean removal": f"`infomech correct X Y -t {temperature:g} --method mean-removal -o DIR`",
        "density ratio, means removed": f"`infomech score X Y -t {temperature:g} --method mean-removal -o DIR`",
    }
    use = f": {commands[best]}" if best in commands else ""
    return f" In the table {best} finds more than the ratio ({with_error(gains[best].estimate)}){use}."


def _sparse_finding(summary: ScoreSummary) -> Finding:
    text = (
        f"The field of {summary.sparse:.0%} of the rows rests on fewer than {FEW:.0f} rows of the reference, so that "
        "their ratios are rough. "
    )
    pairs = f"at least {math.ceil(summary.more_pairs):,} times as many pairs"
    if summary.denser_from is None:
        text += f"Fit on {pairs}: `infomech score X Y -t {summary.temperature:g} -o DIR` on them."
    else:
        text += (
            f"At this temperature it takes {pairs}; on these, the fields of nine rows in ten rest on more from a "
            f"temperature of about {summary.denser_from:g} on: `infomech score X Y -t {summary.denser_from:g} -o DIR`."
        )
    return Finding("sparse-fields", "note", "Many rows lie far from the reference", text, summary.sparse)


__all__ = ["FEW", "RATES", "Look", "ScoreSummary", "Search", "score_findings", "summarise"]
