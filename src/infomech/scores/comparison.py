"""What the density ratio buys on your own data: retrieval and rates beside other scores, with paired intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError, check_between, check_distinct, check_loss_temperature, check_progress, shown
from .._shown import Brief, Shown, data_frame
from .._typing import PairsLike, RowsLike
from .._words import with_error
from ..diagnosis.differences import Difference, paired_recall
from ..diagnosis.estimate import Estimate
from ..diagnosis.information.dense import DenseInformation, dense_information
from ..diagnosis.information.shared import FEWEST_GROUPS
from ..diagnosis.retrieval import expected_rank
from ..diagnosis.uncertainty import effective_number, influence_estimate, jackknife_estimate, unless_few
from ..geometry import Cosine
from ..io import as_rows
from ..reductions import expected_hits, full_precision
from .baselines import BASELINES, Fold
from .reference import Reference

MEASURES = ("information", "recall_at_1", "recall_at_10", "mean_reciprocal_rank", "true_positive_rate", "hubness")
DIRECTIONS = ("x_to_y", "y_to_x")
RATIO = "density ratio"  # as the table names it
FALSE_POSITIVE_RATE = 1e-3
BLOCKS = 50
_MOST_GROUPS = 4000  # in each fold: a score matrix of 64 MB
_HUB_NEIGHBOURS = 10
_LEAST_GROUPS = 40


@dataclass
class _Tally:
    """What a method did in one direction, by group and by block; sums over both folds."""

    hits: dict[str, Float[Tensor, " g"]]
    rates: list[Tensor] = field(default_factory=list)  # of each fold: full and without each block
    hubs: list[Tensor] = field(default_factory=list)
    information: list[DenseInformation] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class ScoreComparison(Shown):
    """Several scores on the same pairs, each learned on the other half of the groups.

    Args:
        estimates: direction -> method -> measure.
        differences: direction -> method -> measure, less that of the cosine, paired.
        temperature: of the density ratio.
        groups: that were scored.
        candidates: in each gallery, on the average.
        false_positive_rate: at which true positives are counted.
        above_ratio: direction -> method -> recall at 1 less that of the density ratio, paired.
    """

    estimates: dict[str, dict[str, dict[str, Estimate]]]
    differences: dict[str, dict[str, dict[str, Difference]]]
    temperature: float
    groups: int
    candidates: int
    false_positive_rate: float
    above_ratio: dict[str, dict[str, Difference]] = field(default_factory=dict)

    def hubness_of(self, direction: str) -> tuple[float, float]:
        """Hubness of the candidates by the cosine and by the density ratio."""
        cosine, ratio = (
            self.estimates[direction][name]["hubness"].value if name in self.estimates[direction] else math.nan
            for name in ("cosine", RATIO)
        )
        return cosine, ratio

    @property
    def methods(self) -> list[str]:
        """In the order of the table: what shares most first, the mean of both directions; as they came if unknown."""
        names = list(self.estimates[DIRECTIONS[0]])

        def shared(name: str) -> float:
            return sum(self.estimates[side][name]["information"].value for side in DIRECTIONS)

        if any(math.isnan(shared(name)) for name in names):
            return names
        return sorted(names, key=lambda name: -shared(name))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "temperature": self.temperature,
            "groups": self.groups,
            "candidates": self.candidates,
            "false_positive_rate": self.false_positive_rate,
            "estimates": {
                side: {m: {key: e.to_dict() for key, e in found.items()} for m, found in methods.items()}
                for side, methods in self.estimates.items()
            },
            "differences": {
                side: {
                    m: {key: {**d.estimate.to_dict(), "apart": d.apart} for key, d in found.items()}
                    for m, found in methods.items()
                }
                for side, methods in self.differences.items()
            },
        }

    def to_pandas(self) -> Any:
        """All estimates, by direction, method and measure.

        Raises:
            InputError: if pandas is not installed.
        """
        rows = [
            {"direction": side, "method": method, "measure": key, **e.to_dict()}
            for side, methods in self.estimates.items()
            for method, found in methods.items()
            for key, e in found.items()
        ]
        return data_frame(rows, index=["direction", "method", "measure"])

    def _brief(self) -> Brief:
        header = ["score", *(f"{word} {arrow}" for arrow in ("x→y", "y→x") for word in ("R@1", "R@10"))]
        rows = [
            [
                method,
                *(
                    with_error(self.estimates[side][method][key])
                    for side in DIRECTIONS
                    for key in ("recall_at_1", "recall_at_10")
                ),
            ]
            for method in self.methods
        ]
        title = f"Scores of {self.groups:,} groups, about {self.candidates:,} candidates, each learned on the others"
        return Brief(title, header, rows, "to_dict(), to_pandas()")


@full_precision()
def compare_scores(
    x: RowsLike,
    y: RowsLike,
    *,
    temperature: float,
    pairs: PairsLike | None = None,
    methods: Sequence[str] | None = None,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> ScoreComparison:
    """Retrieval and rates of the density ratio beside other scores, cross-fitted by group.

    Each half of the groups is scored by what was learned on the other half: fields, banks of queries, weights and
    corrections. One query finds a pair if any of its partners stands first; the others do not count as wrong.

    Args:
        x: (n, d) embeddings of the first modality.
        y: (m, d) embeddings of the second.
        temperature: tau of the loss.
        pairs: (p, 2) rows that belong together; row i with row i by default.
        methods: names in `BASELINES`, the cosine first; all by default.
        false_positive_rate: at which true positives are counted.
        seed: of the order of the groups.
        progress: called with shares of the work that sum to 1.

    Returns:
        The table with intervals by group, and paired differences from the cosine.

    Raises:
        InputError: for data that cannot be used, or too few groups.

    Source: E5, E9.
    """
    check_loss_temperature(temperature)
    check_between(false_positive_rate, "false_positive_rate", "a share (0.001)")
    check_progress(progress)
    if methods is not None and not isinstance(methods, list | tuple):
        raise InputError(f"methods is {shown(methods)}; give a list of {', '.join(BASELINES)}")
    chosen = list(BASELINES) if methods is None else ["cosine", *(m for m in methods if m != "cosine")]
    unknown = [name for name in chosen if not isinstance(name, str) or name not in BASELINES]
    if unknown:
        raise InputError(f"{shown(unknown[0])} is no score to compare with; there are: {', '.join(BASELINES)}")
    x, y = (as_rows(rows, side).cpu() for rows, side in ((x, "x"), (y, "y")))
    check_distinct(x, y)
    reference = Reference.of(x, y, pairs=pairs, critic=Cosine(), normalize=None, seed=seed)
    if reference.groups < _LEAST_GROUPS:
        raise InputError(
            f"there are {reference.groups} groups; at least {_LEAST_GROUPS} are needed to learn a score on one half "
            "and to look at it on the other"
        )
    halves = _halves(reference)
    tallies: dict[str, dict[str, _Tally]] = {side: {} for side in DIRECTIONS}
    queries: dict[str, list[Tensor]] = {side: [] for side in DIRECTIONS}
    for side in DIRECTIONS:
        cases = [_Case.of(reference, *half, turned=side == "y_to_x") for half in halves]
        queries[side] = [case.group_queries for case in cases]
        for name in chosen:
            parts = [_tally(name, case, temperature, false_positive_rate) for case in cases]
            tallies[side][name] = _merged(parts)
            if progress is not None:
                progress(1 / (len(DIRECTIONS) * len(chosen)))
    estimates, differences, above_ratio = {}, {}, {}
    for side in DIRECTIONS:
        share = torch.cat(queries[side])
        blocks = [len(q) for q in queries[side]]
        estimates[side] = {
            name: _estimates(t, share, blocks, pooled=BASELINES[name]().pooled) for name, t in tallies[side].items()
        }
        first = tallies[side]["cosine"]
        differences[side] = {
            name: _differences(first, t, share, blocks) for name, t in tallies[side].items() if name != "cosine"
        }
        if (ratio := tallies[side].get(RATIO)) is not None:
            others = {name: t for name, t in tallies[side].items() if name not in ("cosine", RATIO)}
            above_ratio[side] = {name: _recall_difference(ratio, t, share, "recall_at_1") for name, t in others.items()}
    scored = sum(len(q) for q in queries["x_to_y"])
    candidates = round(sum(int(q.sum()) for q in queries["y_to_x"]) / len(halves))
    return ScoreComparison(estimates, differences, temperature, scored, candidates, false_positive_rate, above_ratio)


def _halves(reference: Reference) -> list[tuple[range, range]]:
    """Groups to learn on and groups to score, both ways; at most some thousand are scored."""
    middle = reference.groups // 2
    first, second = range(middle), range(middle, reference.groups)
    return [(bank, scored[:_MOST_GROUPS]) for bank, scored in ((second, first), (first, second))]


@dataclass(frozen=True)
class _Case:
    """One half's queries and candidates with what is learned on the other half."""

    fold: Fold
    groups: Int[Tensor, " n"]  # of the queries, from 0
    candidate_groups: Int[Tensor, " m"]
    positives: Int[Tensor, "p 2"]  # (query, candidate)
    drawn: Int[Tensor, "g 2"]  # one of them for each group

    @classmethod
    def of(cls, reference: Reference, bank: range, scored: range, *, turned: bool) -> "_Case":
        """Direction x to y, or y to x if turned."""
        sides = (reference.y, reference.x) if turned else (reference.x, reference.y)
        pairs = reference.pairs.flip(1) if turned else reference.pairs
        groups = sides[0].groups[pairs[:, 0]]
        one = torch.full((reference.groups,), -1, dtype=torch.int64)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1))
        one[groups[order]] = order  # one pair a group, at random
        taught = pairs[one[bank.start : bank.stop]]
        first, last = scored.start, scored.stop
        places, rows = [], []
        for side in sides:
            here = torch.nonzero((side.groups >= first) & (side.groups < last)).flatten()
            place = torch.full((len(side),), -1, dtype=torch.int64)
            place[here] = torch.arange(len(here))
            places.append(place)
            rows.append(here)
        own = pairs[(groups >= first) & (groups < last)]
        drawn = pairs[one[first:last]]
        fold = Fold(
            sides[0].values[taught[:, 0]],
            sides[1].values[taught[:, 1]],
            sides[0].values[rows[0]],
            sides[1].values[rows[1]],
            0.0,
        )
        mapped = [torch.stack([places[0][p[:, 0]], places[1][p[:, 1]]], 1) for p in (own, drawn)]
        return cls(fold, sides[0].groups[rows[0]] - first, sides[1].groups[rows[1]] - first, *mapped)

    @property
    def count(self) -> int:
        """Groups."""
        return len(self.drawn)

    @property
    def group_queries(self) -> Float[Tensor, " g"]:
        """Queries of each group."""
        return torch.bincount(self.groups, minlength=self.count).double()

    @property
    def block_of_group(self) -> Int[Tensor, " g"]:
        """Block of the jackknife."""
        blocks = min(BLOCKS, self.count)
        return torch.arange(self.count) * blocks // self.count


def _tally(name: str, case: _Case, temperature: float, rate: float) -> _Tally:
    fold = case.fold
    method = BASELINES[name]()
    scores = method.scores(Fold(fold.bank_x, fold.bank_y, fold.x, fold.y, temperature))
    hits = _hits(scores, case)
    rates = _true_positive_rates(scores, case, rate) if method.pooled else None
    tally = _Tally(hits, hubs=[_hubness(scores, case)], information=_information(scores, case))
    if rates is not None:
        tally.rates.append(rates)
    return tally


def _information(scores: Tensor, case: _Case) -> list[DenseInformation]:
    """Shared information of one pair a group in this direction, in nats; nothing where there are too few groups."""
    if case.count < FEWEST_GROUPS:
        return []
    return [dense_information(scores[case.drawn[:, 0]][:, case.drawn[:, 1]])]


def _hits(scores: Tensor, case: _Case) -> dict[str, Tensor]:
    """Hits and reciprocal ranks, summed over the queries of each group; scores are equal if they are, to the bit."""
    query, candidate = case.positives.T
    positive = scores[query, candidate]
    best = torch.full((len(scores),), -torch.inf, dtype=scores.dtype)
    best.scatter_reduce_(0, query, positive, reduce="amax")
    level = (positive >= best[query]).double()
    tied_positives = torch.zeros(len(scores), dtype=torch.float64).index_add_(0, query, level)
    above = (scores > best[:, None]).sum(1).double()
    tied = (scores == best[:, None]).sum(1).double() - tied_positives
    found = {
        "recall_at_1": expected_hits(above, tied, tied_positives, 1),
        "recall_at_10": expected_hits(above, tied, tied_positives, 10),
        "mean_reciprocal_rank": 1 / expected_rank(above, tied, tied_positives),
    }
    zero = torch.zeros(case.count, dtype=torch.float64)
    return {key: zero.index_add(0, case.groups, values) for key, values in found.items()}


def _true_positive_rates(scores: Tensor, case: _Case, rate: float) -> Tensor | None:
    """True positives at the rate, of one pair a group: of all, then without each block; None if it is too fine."""
    table = scores[case.drawn[:, 0]][:, case.drawn[:, 1]]
    count, block = case.count, case.block_of_group
    if rate * count * (count - 1) < 10:
        return None
    true = table.diagonal().clone()
    wrong = table.masked_fill(torch.eye(count, dtype=torch.bool), -torch.inf)
    kept = min(math.ceil(4 * rate * count * (count - 1)) + 1, count * (count - 1))
    top, at = wrong.flatten().topk(kept)
    i, j = block[at // count], block[at % count]
    out = []
    for left_out in (-1, *range(int(block[-1]) + 1)):
        left = (block != left_out).nonzero().flatten()
        allowed = round(rate * len(left) * (len(left) - 1))
        stay = top[(i != left_out) & (j != left_out)]
        if allowed >= len(stay):
            return None
        out.append((true[left] > stay[allowed]).double().mean())
    return torch.stack(out)


def _hubness(scores: Tensor, case: _Case) -> Tensor:
    """Skewness of how often a candidate is among the first ten: of all queries, then without each block of them."""
    near = scores.topk(min(_HUB_NEIGHBOURS, scores.shape[1]), dim=1).indices
    block = case.block_of_group[case.groups]
    blocks = int(block[-1]) + 1
    counts = torch.zeros(blocks, scores.shape[1], dtype=torch.float64)
    counts.index_put_((block[:, None].expand_as(near), near), torch.ones((), dtype=torch.float64), accumulate=True)
    total = counts.sum(0)
    return _skewness(torch.cat([total[None], total - counts]))


def _skewness(counts: Float[Tensor, "k m"]) -> Float[Tensor, " k"]:
    off = counts - counts.mean(1, keepdim=True)
    return off.pow(3).mean(1) / off.square().mean(1).clamp_min(1e-12).pow(1.5)


def skewness_of_hits(scores: Float[Tensor, "n m"]) -> float:
    """Hubness of the candidates: skewness of how often one is among the first ten of a query."""
    near = scores.topk(min(_HUB_NEIGHBOURS, scores.shape[1]), dim=1).indices.flatten()
    return float(_skewness(torch.bincount(near, minlength=scores.shape[1]).double()[None]))


def _merged(parts: list[_Tally]) -> _Tally:
    hits = {key: torch.cat([part.hits[key] for part in parts]) for key in parts[0].hits}
    rates = [r for part in parts for r in part.rates]
    rates = rates if len(rates) == len(parts) else []
    information = [i for part in parts for i in part.information]
    information = information if len(information) == len(parts) else []
    return _Tally(hits, rates, [h for part in parts for h in part.hubs], information)


def _estimates(tally: _Tally, queries: Tensor, groups: list[int], *, pooled: bool) -> dict[str, Estimate]:
    out = {key: _mean(hits, queries) for key, hits in tally.hits.items()}
    out |= _jackknifed(tally.rates, tally.hubs, groups)
    if tally.information:
        out["information"] = _over_halves([found.information for found in tally.information])
    return {key: out.get(key, _nothing(key, pooled)) for key in MEASURES}


def _nothing(key: str, pooled: bool) -> Estimate:
    """No number, and why in the few words that a table has room for."""
    why = "too few groups" if key == "information" else "too few pairs" if pooled else "no common scale"
    return Estimate(math.nan, math.nan, math.nan, math.nan, why)


def _mean(hits: Tensor, queries: Tensor) -> Estimate:
    """Mean over queries, by group: a ratio of sums."""
    value = float(hits.sum() / queries.sum())
    influence = (hits - value * queries) / queries.sum()
    found = influence_estimate(value, influence, queries)
    clipped = Estimate(value, found.stderr, max(found.low, 0.0), min(found.high, 1.0))
    return unless_few(clipped, effective_number(queries))


def _jackknifed(rates: list[Tensor], hubs: list[Tensor], groups: list[int]) -> dict[str, Estimate]:
    """Means over both halves of what is measured in each, with the delete-a-block errors added."""
    out = {}
    for key, parts in (("true_positive_rate", rates), ("hubness", hubs)):
        if not parts:
            continue
        found = []
        for part, count in zip(parts, groups, strict=True):
            blocks = len(part) - 1
            sizes = torch.bincount(torch.arange(count) * blocks // count, minlength=blocks).double()
            found.append(jackknife_estimate(part[0], part[1:], sizes, float(blocks - 1)))
        out[key] = _over_halves(found)
    return out


def _over_halves(found: Sequence[Estimate]) -> Estimate:
    """Mean over both halves, the errors added."""
    value = sum(e.value for e in found) / len(found)
    stderr = math.hypot(*(e.stderr for e in found)) / len(found)
    reach = sum(e.high - e.value for e in found) / max(sum(e.stderr for e in found), 1e-300) * stderr
    return Estimate(value, stderr, value - reach, value + reach)


def _recall_difference(first: _Tally, other: _Tally, queries: Tensor, key: str) -> Difference:
    changed = np.asarray((other.hits[key] - first.hits[key]).numpy(), dtype=np.float64)
    return Difference.of(paired_recall([changed], [queries.numpy()]), paired=True)


def _differences(first: _Tally, other: _Tally, queries: Tensor, groups: list[int]) -> dict[str, Difference]:
    out = {}
    for key in ("recall_at_1", "recall_at_10"):
        out[key] = _recall_difference(first, other, queries, key)
    change = other.hits["mean_reciprocal_rank"] - first.hits["mean_reciprocal_rank"]
    value = float(change.sum() / queries.sum())
    ranks = influence_estimate(value, (change - value * queries) / queries.sum(), queries)
    out["mean_reciprocal_rank"] = Difference.of(ranks, paired=True)
    if first.information and other.information:
        paired = [b.less(a) for a, b in zip(first.information, other.information, strict=True)]
        out["information"] = Difference.of(_over_halves(paired), paired=True)
    rates = [b - a for a, b in zip(first.rates, other.rates, strict=False)]
    hubs = [b - a for a, b in zip(first.hubs, other.hubs, strict=True)]
    for key, estimate in _jackknifed(rates, hubs, groups).items():
        out[key] = Difference.of(estimate, paired=True)
    return out


__all__ = ["DIRECTIONS", "MEASURES", "ScoreComparison", "compare_scores", "skewness_of_hits"]
