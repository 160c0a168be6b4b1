"""Shared information at N (E12): log(N + 1) less the lowest InfoNCE over the temperature, of unseen pairs."""

import hashlib
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..._checks import InputError, check_whole
from ..._files import plain
from ..._shown import Fields
from ..._typing import Progress
from ...measures import PairedSample
from ...reductions.losses.backends import Backend
from ..batch_budget import column_weights, windowed_error
from ..batch_tables import Batches
from ..batch_windows import BlockShares
from ..budget import chosen_batch
from ..estimate import Estimate
from ..uncertainty import symmetric_interval, t_quantile
from .anchors import BOTH, Anchors, LossTable, Offsets, Side, loss_table
from .search import Grid, Where, pilot_temperature
from .twins import ceiling_with_twins

FEWEST_GROUPS = 100
NEAR_CEILING = 0.5  # nats below log(N + 1) from which on a value tells models apart
_SATURATED = 0.05  # nats below it within which a value is the ceiling
_SWEEPS = 3  # at most, each around the end of the one before

Status = Literal["found", "no_information", "no_errors", "undefined"]
_STATUS: dict[Where, Status] = {"inside": "found", "highest": "no_information", "lowest": "no_errors"}


@dataclass(frozen=True, repr=False)
class OverTemperature(Fields):
    """InfoNCE at N against the temperature; nats."""

    temperatures: list[float]
    infonce: list[Estimate]


@dataclass(frozen=True, repr=False)
class OverNegatives(Fields):
    """Shared information against N, each at its own best temperature."""

    negatives: list[int]
    information: list[Estimate]
    temperatures: list[float]


@dataclass(frozen=True, repr=False)
class Calibration(Fields):
    """What a model's own temperature costs."""

    temperature: float
    infonce: Estimate  # at the model's temperature
    cost: Estimate  # that, less InfoNCE at the best temperature; at least 0 but for its error


@dataclass(frozen=True, repr=False)
class PairShares(Fields):
    """What a paired comparison of two models takes: each pair's share, and the replicates without each block.

    Two results may be paired where their digests are equal: the same pairs, dealt to the same blocks.
    """

    pairs: NDArray[np.int64]  # (p, 2) rows of the given x and y that are anchors
    lent: NDArray[np.int64]  # (g, 2) rows that each group lends as negatives
    blocks: NDArray[np.int64]  # (p,) block of each pair; the number of blocks for those in none
    weights: NDArray[np.float64]  # (p,) they sum to 1
    information: NDArray[np.float64]  # (p,) log(N + 1) less the pair's loss: their weighted mean is the estimate
    replicates: NDArray[np.float64]  # (b,) the estimate without each block
    interactions: NDArray[np.float64]  # (q,) what each pair of blocks adds
    curve_replicates: NDArray[np.float64]  # (b, k) the same at each N of the curve
    curve_interactions: NDArray[np.float64]  # (q, k)

    @property
    def digest(self) -> str:
        """Of pairs, blocks and what is lent."""
        sha = hashlib.sha256()
        for array in (self.pairs, self.blocks, self.lent):
            sha.update(str(array.shape).encode() + np.ascontiguousarray(array, dtype="<i8").tobytes())
        return sha.hexdigest()


@dataclass(frozen=True, repr=False)
class Information(Fields):
    """Shared information of paired embeddings at N negatives, and all that was measured with it; nats."""

    information: Estimate
    temperature: Estimate  # tau*, at which InfoNCE is lowest
    status: Status  # of the temperature
    ceiling: float  # log(N + 1): no value lies above it
    ceiling_left: float  # what twins across groups leave of it at the best temperature
    twin_groups: int  # groups that have a twin in another group: a row equal to one of theirs, or nearly
    negatives: int  # N
    batch_size: int
    groups: int
    anchor_groups: int  # that the losses are averaged over; all groups lend negatives
    block_groups: int  # groups in a block of the jackknife
    over_temperature: OverTemperature | None
    over_negatives: OverNegatives | None
    calibration: Calibration | None  # of the model's own temperature, where it is given
    shares: PairShares | None = field(repr=False, compare=False, default=None)  # None if read without arrays

    def to_dict(self) -> dict[str, Any]:
        """Everything but what pairing takes, as ``report.json`` has it."""
        return {name: plain(value) for name, value in vars(self).items() if name != "shares"}

    @property
    def near_ceiling(self) -> bool:
        """Whether the value lies within 0.5 nats of the ceiling that is left, so that it does not tell models apart."""
        return self.information.value > self.ceiling_left - NEAR_CEILING

    @property
    def rows_needed(self) -> int | None:
        """Groups from which on the ceiling is 0.5 nats above the value; a lower bound: the value rises with N.

        None where the value is not near the ceiling, or twins lower it more than any N would raise it.
        """
        if not self.near_ceiling:
            return None
        largest = max((estimate.value for _, estimate in self._by_negatives), default=self.information.value)
        lost = self.ceiling - self.ceiling_left
        return math.ceil(math.exp(max(largest, self.information.value) + NEAR_CEILING + lost))

    @property
    def saturated(self) -> bool:
        """Whether the value lies within 0.05 nats of what is left of the ceiling at the largest N measured, too.

        Then it grows as the ceiling does: more pairs of the same kind never part the two.
        """
        negatives, value = max(self._by_negatives, default=(self.negatives, self.information))[:2]
        return math.log1p(negatives) - (self.ceiling - self.ceiling_left) - value.value < _SATURATED

    @property
    def _by_negatives(self) -> "list[tuple[int, Estimate]]":
        if self.over_negatives is None:
            return []
        return list(zip(self.over_negatives.negatives, self.over_negatives.information, strict=True))


def check_groups(groups: int) -> None:
    """Raise InputError where there are too few groups for an interval."""
    if groups < FEWEST_GROUPS:
        raise InputError(
            f"the pairs form {groups} independent groups; shared information needs at least {FEWEST_GROUPS}: "
            "embed more pairs"
        )


@dataclass(frozen=True)
class Asked:
    """How shared information is measured.

    Args:
        negatives: N.
        batch_size: as it was asked for.
        temperature: of the model, whose cost is asked for.
        sides: the directions that the model was trained in.
        anchor_groups: at most so many groups give anchors, one pair each; all pairs by default.
        offsets: what a critic adds to the scores, for the sample's rows of x and of y.
    """

    negatives: int
    batch_size: int
    temperature: float | None = None
    sides: tuple[Side, ...] = BOTH
    anchor_groups: int | None = None
    offsets: Offsets = (None, None)


def asked_of(
    sample: PairedSample,
    batch_size: int | None,
    *,
    temperature: float | None = None,
    sides: tuple[Side, ...] = BOTH,
    anchors: int | None = None,
) -> Asked:
    """What is asked of a sample, its groups and N checked."""
    check_groups(sample.groups)
    if anchors is not None:
        check_whole(anchors, "anchors", least=2, what=" (groups)")
    batch = chosen_batch(batch_size, sample.groups)
    if batch > sample.groups:
        raise InputError(
            f"batch_size is {batch:,} and the pairs form {sample.groups:,} groups; N cannot go beyond them: choose at "
            f"most {sample.groups:,}, or embed more pairs"
        )
    return Asked(batch - 1, batch, temperature=temperature, sides=sides, anchor_groups=anchors)


def batches_for(sample: PairedSample, negatives: int, *, seed: int = 0, backend: Backend = "auto") -> Batches:
    """Batches of whole blocks, a 32nd to a 64th of the groups; where fewer negatives are asked for, down to one."""
    of = partial(Batches.of, sample, seed=seed, doubling=False, backend=backend)
    whole = of(parts=1)
    return whole if negatives >= whole.layout.size else of(parts=2)


def measure(batches: Batches, asked: Asked, *, progress: Progress | None = None) -> Information:
    """Shared information at N of a sample: one pilot, one sweep of eight temperatures, and what follows from it.

    Source: E12, E8.
    """
    check_groups(batches.sample.groups)
    anchors = Anchors.of(batches, groups=asked.anchor_groups, offsets=asked.offsets)
    at = column_weights(batches.layout, asked.negatives)
    temperature, where = pilot_temperature(anchors, asked.negatives, sides=asked.sides)
    for attempt in range(_SWEEPS):
        grid = Grid.around(temperature, aligned=asked.temperature)
        extra = () if asked.temperature is None or _among(grid, asked.temperature) else (asked.temperature,)
        table = loss_table(
            anchors, grid.temperatures + extra, at, sides=asked.sides, progress=None if attempt else progress
        )
        losses = Losses(table, grid)
        best = losses.lowest(at)
        if grid.inside(best) or where != "inside":
            break
        temperature = math.exp(best)
    status = _STATUS[where] if grid.inside(best) or where != "inside" else _end(best, grid)
    return _information(losses, anchors, at, asked, status)


def nothing_shared(groups: int, batch_size: int) -> Information:
    """Of rows that are all equal: no nats, and no temperature is better than another."""
    check_groups(groups)
    undefined = Estimate(math.nan, math.nan, math.nan, math.nan, "all rows are equal")
    ceiling = math.log(batch_size)
    return Information(
        information=Estimate.exact(0.0),
        temperature=undefined,
        status="undefined",
        ceiling=ceiling,
        ceiling_left=0.0,
        twin_groups=groups,
        negatives=batch_size - 1,
        batch_size=batch_size,
        groups=groups,
        anchor_groups=groups,
        block_groups=1,
        over_temperature=None,
        over_negatives=None,
        calibration=None,
    )


def _among(grid: Grid, temperature: float) -> bool:
    return any(math.isclose(node, temperature, rel_tol=1e-9) for node in grid.temperatures)


def _end(best: float, grid: Grid) -> Status:
    return "no_information" if best > float(grid.logs.mean()) else "no_errors"


@dataclass(frozen=True)
class Losses:
    """A table of losses with its temperatures: losses at any of them, by halves of the blocks."""

    table: LossTable
    grid: Grid

    @property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Blocks of each half of the anchors."""
        even = torch.arange(len(self.table.weights), device=self.table.weights.device) % 2 == 0
        return even, ~even

    def lowest(self, at: Float[Tensor, " k"], blocks: Tensor | None = None) -> float:
        """Log tau of the lowest loss of the anchors in some blocks, at the N that the columns' weights stand for."""
        return self.grid.lowest((self.table.means(blocks) @ at)[: len(self.grid.temperatures)])

    def weights(self, log_tau: float, derivative: int = 0) -> Float[Tensor, " t"]:
        """Weights of the table's temperatures."""
        weights = self.table.sums.new_zeros(len(self.table.temperatures))
        found = self.grid.weights(log_tau, derivative)
        weights[: len(found)] = found.to(weights)
        return weights

    def at_node(self, node: int) -> BlockShares:
        """The loss of all anchors at one of the table's temperatures."""
        weights = self.table.sums.new_zeros(len(self.table.temperatures))
        weights[node] = 1.0
        return self.constant(weights)

    def constant(self, weights: Float[Tensor, " t"]) -> BlockShares:
        """The loss with the same weights for all anchors."""
        return self.table.combined(weights[:, None].expand(-1, len(self.table.weights)))

    def crossed(self, at: Float[Tensor, " k"]) -> Float[Tensor, "t c"]:
        """Coefficients for which each half of the anchors has the temperature that is best for the other."""
        found = [self.weights(self.lowest(at, half)) for half in self.halves]
        even, _ = self.halves
        return torch.where(even, found[1][:, None], found[0][:, None])

    def replicates(self, shares: BlockShares, *, loss: bool = True) -> Float[Tensor, "b k"]:
        """Without each block, at the same N: with all others as negatives a replicate has fewer of them.

        The loss then rises by the difference of the logarithms, which a derivative of it does not.
        """
        found = shares.replicates()
        if loss:
            groups, size = self.table.layout.groups, self.table.layout.size
            found[:, -1] += math.log(groups / (groups - size))
        return found

    def estimate(self, value: float, replicates: Tensor, interactions: Tensor) -> Estimate:
        """With the jackknife's interval."""
        return symmetric_interval(value, *self.error(replicates, interactions))

    def error(self, replicates: Tensor, interactions: Tensor) -> tuple[float, float]:
        """Standard error and degrees of freedom."""
        layout = self.table.layout
        return windowed_error(replicates, interactions, groups=layout.groups, block_groups=layout.size)


def _information(losses: Losses, anchors: Anchors, at: Tensor, asked: Asked, status: Status) -> Information:
    table, layout = losses.table, losses.table.layout
    ceiling = math.log1p(asked.negatives)
    coefficients = losses.crossed(at)
    shares = table.combined(coefficients)
    value = ceiling - float(shares.values() @ at)
    replicates = ceiling - losses.replicates(shares) @ at
    interactions = -shares.interactions() @ at
    curve, curve_replicates, curve_interactions = _over_negatives(losses)
    by_block = coefficients[:, anchors.blocks.cpu()]
    kept = PairShares(
        pairs=_given(anchors, anchors.pairs),
        lent=_given(anchors, anchors.batches.lent),
        blocks=anchors.blocks.cpu().numpy(),
        weights=anchors.weights.cpu().numpy(),
        information=(ceiling - (by_block * table.by_pair).sum(0)).numpy(),
        replicates=replicates.numpy(),
        interactions=interactions.numpy(),
        curve_replicates=curve_replicates.numpy(),
        curve_interactions=curve_interactions.numpy(),
    )
    left, twins = ceiling_with_twins(anchors, asked.negatives, math.exp(losses.lowest(at)), sides=asked.sides)
    information = losses.estimate(value, replicates, interactions)
    return Information(
        information=information,
        temperature=_best_temperature(losses, at, status),
        status=status,
        ceiling=ceiling,
        ceiling_left=left,
        twin_groups=twins,
        negatives=asked.negatives,
        batch_size=asked.batch_size,
        groups=layout.groups,
        anchor_groups=anchors.groups,
        block_groups=layout.size,
        over_temperature=_over_temperature(losses, at),
        over_negatives=curve,
        calibration=_calibration(losses, at, asked.temperature, information=kept, ceiling=ceiling),
        shares=kept,
    )


def _given(anchors: Anchors, pairs: Tensor) -> NDArray[np.int64]:
    """Rows of the given arrays."""
    sample = anchors.batches.sample
    ends = sample.pairs[pairs]
    rows = torch.stack([sample.order_x[ends[:, 0]], sample.order_y[ends[:, 1]]], 1)
    return np.asarray(rows.cpu().numpy(), dtype=np.int64)


def _best_temperature(losses: Losses, at: Tensor, status: Status) -> Estimate:
    """tau* of all anchors; its replicates by one step of Newton's method in log tau."""
    best = losses.lowest(at)
    if status != "found":
        why = "it is at the end of its search"
        return Estimate.exact(math.exp(best)).without_interval(why)
    slope, bend = (losses.constant(losses.weights(best, k)) for k in (1, 2))
    curvature = float(bend.values() @ at)
    if curvature <= 0:
        return Estimate.exact(math.exp(best)).without_interval("the loss does not bend there")
    replicates = best - losses.replicates(slope, loss=False) @ at / curvature
    stderr, degrees = losses.error(replicates, -(slope.interactions() @ at) / curvature)
    reach = t_quantile(degrees) * stderr
    tau = math.exp(best)
    return Estimate(tau, tau * stderr, tau * math.exp(-reach), tau * math.exp(reach))


def _over_temperature(losses: Losses, at: Tensor) -> OverTemperature:
    temperatures = list(losses.grid.temperatures)
    return OverTemperature(temperatures, [_loss(losses, losses.at_node(t), at) for t in range(len(temperatures))])


def _loss(losses: Losses, shares: BlockShares, at: Tensor) -> Estimate:
    return losses.estimate(float(shares.values() @ at), losses.replicates(shares) @ at, shares.interactions() @ at)


def _over_negatives(losses: Losses) -> tuple[OverNegatives, Tensor, Tensor]:
    layout = losses.table.layout
    negatives, found, temperatures, replicates, interactions = list(layout.negatives), [], [], [], []
    for k, n in enumerate(negatives):
        at = losses.table.sums.new_zeros(len(negatives))
        at[k] = 1.0
        shares = losses.table.combined(losses.crossed(at))
        without, between = math.log1p(n) - losses.replicates(shares)[:, k], -shares.interactions()[:, k]
        found.append(losses.estimate(math.log1p(n) - float(shares.values()[k]), without, between))
        temperatures.append(math.exp(losses.lowest(at)))
        replicates.append(without)
        interactions.append(between)
    return OverNegatives(negatives, found, temperatures), torch.stack(replicates, 1), torch.stack(interactions, 1)


def _calibration(
    losses: Losses, at: Tensor, temperature: float | None, *, information: PairShares, ceiling: float
) -> Calibration | None:
    if temperature is None:
        return None
    nodes = enumerate(losses.table.temperatures)
    shares = losses.at_node(next(k for k, tau in nodes if math.isclose(tau, temperature, rel_tol=1e-9)))
    loss, replicates, interactions = shares.values() @ at, losses.replicates(shares) @ at, shares.interactions() @ at
    best = ceiling - float(information.information @ information.weights)
    without = replicates - ceiling + torch.from_numpy(information.replicates)
    between = interactions + torch.from_numpy(information.interactions)
    return Calibration(
        temperature,
        losses.estimate(float(loss), replicates, interactions),
        losses.estimate(float(loss) - best, without, between),
    )


__all__ = [
    "FEWEST_GROUPS",
    "NEAR_CEILING",
    "Asked",
    "Calibration",
    "Information",
    "Losses",
    "OverNegatives",
    "OverTemperature",
    "PairShares",
    "Status",
    "asked_of",
    "batches_for",
    "check_groups",
    "measure",
    "nothing_shared",
]
