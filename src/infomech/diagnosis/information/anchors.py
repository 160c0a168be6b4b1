"""InfoNCE of some anchors at several temperatures, by block: what shared information is computed from (E12, E8)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..._typing import Progress
from ...reductions import GroupedRows, KernelSums, RowTerms, TemperatureSums, sweep
from ..batch_tables import Batches
from ..batch_windows import AnchorSums, BlockLayout, BlockShares, some_anchors
from ..joined_windows import all_averages

Side = Literal["xy", "yx"]  # anchor's modality, negatives' modality
BOTH: tuple[Side, ...] = ("xy", "yx")
Offsets = tuple[Tensor | None, Tensor | None]

_ENTRIES = 2**23  # of all tables of a chunk of anchors: 64 MiB
_FEWEST_ROWS = 256
_MANY_ANCHORS = 10_000  # pairs; from here on one stands for its group where the effect of leaving a block out is asked


@dataclass(frozen=True)
class Anchors:
    """The pairs whose losses are asked for; every group lends a negative, whether it gives anchors or not.

    ``offsets`` are what a critic adds to the inner products of the sample's rows of x and of y, besides the sample's
    own critic: a density ratio's log fields times its temperature, say. They are divided by the temperature, too.
    """

    batches: Batches
    pairs: Int[Tensor, " p"]
    offsets: Offsets = (None, None)

    @classmethod
    def of(cls, batches: Batches, *, groups: int | None = None, offsets: Offsets = (None, None)) -> "Anchors":
        """All pairs; or of so many groups, spread evenly over the blocks, the pair that each lends."""
        sample = batches.sample
        count = sample.groups
        if groups is None or groups >= count:
            return cls(batches, torch.arange(len(sample.pairs), device=sample.pairs.device), offsets)
        every = torch.arange(count, device=sample.pairs.device)
        chosen = every * groups // count != (every + 1) * groups // count
        return cls(batches, batches.lent[chosen], offsets)

    @cached_property
    def blocks(self) -> Int[Tensor, " p"]:
        """Block of each anchor; the number of blocks for those in none."""
        return self.batches.layout.block_of(self.batches.sample.pair_groups[self.pairs])

    @cached_property
    def weights(self) -> Float[Tensor, " p"]:
        """Of each anchor: a uniform group among those that give anchors, then a uniform pair; they sum to 1."""
        sample = self.batches.sample
        if len(self.pairs) < len(sample.pairs):
            return torch.full_like(self.scores, 1 / len(self.pairs))
        return self.batches.pair_weights[self.pairs]

    @cached_property
    def groups(self) -> int:
        """Groups that give anchors."""
        return len(torch.unique(self.batches.sample.pair_groups[self.pairs]))

    @cached_property
    def scores(self) -> Float[Tensor, " p"]:
        """Score of each anchor with its partner."""
        sample = self.batches.sample
        scores = sample.pair_scores[self.pairs]
        for column, offset in enumerate(self.offsets):
            if offset is not None:
                scores = scores + offset[sample.pairs[self.pairs, column]]
        return scores

    @cached_property
    def stands_for(self) -> Float[Tensor, " p"]:
        """Weights of the anchors of which one stands for each group; all of them where there are few."""
        if len(self.pairs) <= _MANY_ANCHORS or len(self.pairs) == self.groups:
            return self.weights
        lent = torch.zeros(len(self.batches.sample.pairs), device=self.weights.device, dtype=self.weights.dtype)
        lent[self.batches.lent] = 1 / self.groups
        return lent[self.pairs]

    def terms(self, side: Side, rows: Tensor) -> RowTerms:
        """What is added to the inner products of some anchors' rows with the lent rows."""
        sample, (mine, theirs) = self.batches.sample, _columns(side)
        terms = sample.row_terms(mine, theirs)
        lent = sample.pairs[self.batches.lent, theirs]
        added = []
        for own, offset, at in ((terms.x, self.offsets[mine], rows), (terms.y, self.offsets[theirs], lent)):
            parts = [part[at].double() for part in (own, offset) if part is not None]
            added.append(torch.stack(parts).sum(0) if parts else None)
        return RowTerms(terms.slope, *added)

    def lent_rows(self, side: Side, groups: int | None = None) -> Float[Tensor, "g d"]:
        """What the first groups lend, or all of them."""
        sample, (_, theirs) = self.batches.sample, _columns(side)
        return (sample.x, sample.y)[theirs].values[sample.pairs[self.batches.lent[:groups], theirs]]

    def negatives(self, side: Side) -> GroupedRows:
        """What each group lends, cut into the layout's segments."""
        rows = self.lent_rows(side)
        groups = torch.arange(len(rows), device=rows.device)
        return GroupedRows(rows, torch.ones_like(groups, dtype=torch.float64), groups, self.batches.layout.edges)


@dataclass(frozen=True)
class LossTable:
    """InfoNCE of the anchors at each temperature and each N of the layout, as shares of blocks.

    Losses are linear in the tables: those at a temperature between two, and those whose temperature depends on the
    anchor's block, are combinations of them.
    """

    layout: BlockLayout
    temperatures: tuple[float, ...]
    sums: Float[Tensor, "t c k"]
    falls: Float[Tensor, "t c b k"]
    weights: Float[Tensor, " c"]
    by_pair: Float[Tensor, "t p"]  # at the N asked for

    def combined(self, coefficients: Float[Tensor, "t c"]) -> BlockShares:
        """The loss whose anchors in block c have the temperatures' losses with these coefficients."""
        sums = torch.einsum("tc,tck->ck", coefficients, self.sums)
        return BlockShares(sums, torch.einsum("tc,tcbk->cbk", coefficients, self.falls), self.weights)

    def means(self, blocks: Tensor | None = None) -> Float[Tensor, "t k"]:
        """Averages over the anchors of some blocks, or of all."""
        chosen = torch.ones_like(self.weights) if blocks is None else blocks.to(self.weights.dtype)
        return torch.einsum("tck,c->tk", self.sums, chosen) / (self.weights @ chosen)


def loss_table(
    anchors: Anchors,
    temperatures: Sequence[float],
    at: Float[Tensor, " k"],
    *,
    sides: Sequence[Side] = BOTH,
    progress: Progress | None = None,
) -> LossTable:
    """Sweep the anchors' rows against what the groups lend, once for each direction, for all temperatures.

    Args:
        anchors: whose losses.
        temperatures: each above 0; those in the ratio 2 share an exponential.
        at: weights of the layout's columns at the N of ``by_pair``.
        sides: directions, averaged.
        progress: called with shares of the work that sum to 1.

    Source: E12, E8.
    """
    layout, count = anchors.batches.layout, len(temperatures)
    shares: list[BlockShares | None] = [None] * count
    scores = anchors.scores.cpu()
    by_pair = scores.new_zeros(count, len(anchors.pairs))
    whole = len(sides) * len(anchors.pairs)
    for side in sides:
        for pairs, tables, local in _chunks(anchors, side, temperatures):
            jobs = [partial(_anchor_sums, anchors, pairs, table, local) for table in tables]
            for t, averages in enumerate(all_averages([("log", jobs)], layout, pairs.device)):
                before = shares[t]
                shares[t] = averages.blocks if before is None else before + averages.blocks
                by_pair[t].index_add_(0, pairs.cpu(), averages.by_anchor @ at / len(sides))
            if progress is not None:
                progress(len(pairs) / whole)
    kept = [share for share in shares if share is not None]
    weights = kept[0].weights / len(sides)
    sums = torch.stack([share.sums for share in kept]) / len(sides)
    inverse = torch.tensor([1 / tau for tau in temperatures], dtype=torch.float64, device=sums.device)
    own = weights.new_zeros(len(weights)).index_add_(0, anchors.blocks.cpu(), anchors.weights.cpu() * scores)
    sums -= (inverse[:, None] * own)[:, :, None]
    by_pair -= inverse[:, None] * scores
    falls = torch.stack([share.falls for share in kept]) / len(sides)
    return LossTable(layout, tuple(temperatures), sums, falls, weights, by_pair)


def _chunks(
    anchors: Anchors, side: Side, temperatures: Sequence[float]
) -> Iterator[tuple[Tensor, Sequence[TemperatureSums], Tensor]]:
    """Some anchors, the sums of their rows at each temperature, and which row each anchor has among them."""
    sample, (mine, _) = anchors.batches.sample, _columns(side)
    rows = (sample.x, sample.y)[mine]
    lent = anchors.negatives(side)
    row_of = sample.pairs[anchors.pairs, mine]
    used, local = torch.unique(row_of, return_inverse=True)
    most = max(_FEWEST_ROWS, _ENTRIES // (lent.blocks * len(temperatures)))
    for start in range(0, len(used), most):
        part = used[start : start + most]
        ones = torch.ones(len(part), dtype=torch.float64, device=part.device)
        chunk = GroupedRows(rows.values[part], ones, rows.groups[part], (0, len(part)))
        sums = KernelSums(
            chunk,
            lent,
            temperature=temperatures,
            terms=anchors.terms(side, part),
            each_block=True,
            squares=False,
            columns=False,
            backend=anchors.batches.backend,
        )
        sweep(chunk, lent, [sums])
        pairs = torch.nonzero((local >= start) & (local < start + len(part))).flatten()
        yield pairs, sums.at, local[pairs] - start


def _anchor_sums(anchors: Anchors, pairs: Tensor, table: TemperatureSums, local: Tensor) -> AnchorSums:
    own = anchors.scores[pairs] / table.temperature
    weights, stands_for = anchors.weights[pairs], anchors.stands_for[pairs]
    logs = some_anchors(table.by_row.log_sums, local)
    return AnchorSums(logs, None, anchors.blocks[pairs], weights, own, stands_for)


def _columns(side: Side) -> tuple[Literal[0, 1], Literal[0, 1]]:
    """Modality of the anchors and of the negatives: 0 is x, 1 is y."""
    return (0, 1) if side == "xy" else (1, 0)


__all__ = ["BOTH", "Anchors", "LossTable", "Offsets", "Side", "loss_table"]
