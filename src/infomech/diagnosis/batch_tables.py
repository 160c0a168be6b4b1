"""What the budget at N is computed from: each anchor's kernel sums over segments of other groups' drawn pairs (E8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._typing import Progress
from ..measures import PairedSample
from ..reductions import GroupedRows, KernelSums, Reduction, sweep
from ..reductions.losses.backends import Backend
from .batch_windows import FEWEST_BLOCKS, AnchorSums, BlockLayout, some_anchors
from .near_duplicates import NearDuplicates

SIDES = ("xx", "xy", "yy", "yx")  # anchor's modality, negatives' modality
COUNTED = ("xy", "yx")  # whose effective negatives are asked for
_MANY_ROWS = 10_000  # from here on half as many blocks: windows cost the square of their number for every row
_ENTRIES = 2**22  # of a table: smaller batches are averaged over more parts of blocks where the table stays small


@dataclass(frozen=True)
class Batches:
    """The law of a random batch on a sample: its anchors, what each group lends as negative, and the blocks.

    A uniform group, then a uniform pair in it: every pair is an anchor of weight 1 / (G k) in a group of k. Each group
    lends one pair, drawn once, the same in all four kernel sums.
    """

    sample: PairedSample
    layout: BlockLayout
    lent: Int[Tensor, " g"]  # pair that each group lends
    backend: Backend = "auto"  # what sums the kernels

    @classmethod
    def of(
        cls,
        sample: PairedSample,
        *,
        seed: int = 0,
        parts: int | None = None,
        doubling: bool = True,
        backend: Backend = "auto",
    ) -> "Batches":
        """Draw the negatives; `parts` of a block for the smaller batches as many as a table of moderate size holds.

        Args:
            sample: the pairs.
            seed: of the pair that each group lends.
            parts: see `BlockLayout`; 1 for batches of whole blocks only.
            doubling: see `BlockLayout`.
            backend: of all kernel sums of these batches; see `decompose`.
        """
        counts = sample.group_pairs
        draw = torch.rand(len(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        first = counts.cumsum(0) - counts
        lent = (first + (draw.to(counts.device) * counts).floor().clamp_max(counts - 1)).long()
        rows = max(len(sample.x), len(sample.y))
        fewest = FEWEST_BLOCKS if rows <= _MANY_ROWS else FEWEST_BLOCKS // 2
        if parts is None:
            parts = 2
            while parts < sample.groups:
                finer = BlockLayout.of(sample.groups, parts=2 * parts, fewest=fewest)
                if rows * len(finer.edges) >= _ENTRIES:
                    break
                parts *= 2
        layout = BlockLayout.of(sample.groups, parts=parts, fewest=fewest, doubling=doubling)
        return cls(sample, layout, lent, backend)

    @cached_property
    def pair_weights(self) -> Float[Tensor, " p"]:
        """1 / (G k) of each pair."""
        return 1 / (self.sample.groups * self.sample.group_pairs[self.sample.pair_groups])

    def row_weights(self, column: int) -> Float[Tensor, " n"]:
        """Weight of each row as an anchor: that of all pairs that name it."""
        rows = self.sample.x if column == 0 else self.sample.y
        return self.pair_weights.new_zeros(len(rows)).index_add_(0, self.sample.pairs[:, column], self.pair_weights)

    @property
    def thinned(self) -> bool:
        """Whether one anchor stands for all of its group where the effect of leaving a block out is asked."""
        return max(len(self.sample.x), len(self.sample.y)) > _MANY_ROWS

    def stands_for(self, column: int | None = None) -> Float[Tensor, " n"] | None:
        """Weights of the anchors, of pairs or of one modality's rows, of which one stands for each group: 1 / G."""
        if not self.thinned:
            return None
        if column is None:
            at, count = self.lent, len(self.sample.pairs)
        else:
            at, count = self.sample.pairs[self.lent, column], len((self.sample.x, self.sample.y)[column])
        return self.pair_weights.new_zeros(count).index_fill_(0, at, 1 / self.sample.groups)

    def rows(self, column: int) -> GroupedRows:
        """The rows of one modality, cut into the layout's segments; only those that are lent count as negatives."""
        return self._rows[column]

    @cached_property
    def _rows(self) -> tuple[GroupedRows, GroupedRows]:
        bounds = torch.tensor(self.layout.edges, device=self.lent.device)
        found = []
        for column, rows in enumerate((self.sample.x, self.sample.y)):
            edges = torch.searchsorted(rows.groups.contiguous(), bounds).tolist()
            lent = torch.zeros_like(rows.weights)
            lent[self.sample.pairs[self.lent, column]] = 1.0
            found.append(GroupedRows(rows.values, rows.weights, rows.groups, tuple(edges), lent))
        return found[0], found[1]


@dataclass(frozen=True)
class KernelTables:
    """At one temperature: logs of kernel sums, and of their squares, over the segments, for every row of each side."""

    batches: Batches
    temperature: float
    log_sums: dict[str, Float[Tensor, "n s"]]  # keys of SIDES
    log_squares: dict[str, Float[Tensor, "n s"]]

    def by_row(self, side: str) -> AnchorSums:
        """Anchors are the rows of the side's first modality."""
        column = "xy".index(side[0])
        rows = (self.batches.sample.x, self.batches.sample.y)[column]
        blocks = self.batches.layout.block_of(rows.groups)
        weights = self.batches.row_weights(column)
        stands_for = self.batches.stands_for(column)
        return AnchorSums(self.log_sums[side], self.log_squares.get(side), blocks, weights, stands_for=stands_for)

    def by_pair(self, side: str) -> AnchorSums:
        """Anchors are the pairs, and each window's sum gains the positive's own kernel."""
        sample = self.batches.sample
        rows = sample.pairs[:, "xy".index(side[0])]
        blocks = self.batches.layout.block_of(sample.pair_groups)
        own = sample.pair_scores / self.temperature
        weights, stands_for = self.batches.pair_weights, self.batches.stands_for()
        return AnchorSums(some_anchors(self.log_sums[side], rows), None, blocks, weights, own, stands_for)


@dataclass(frozen=True)
class BatchSweeps:
    """What gathers the tables during the sweeps of the three Gram matrices, with whatever else is asked of them."""

    batches: Batches
    temperatures: tuple[float, ...]
    xx: KernelSums
    yy: KernelSums
    xy: KernelSums
    duplicates: tuple[NearDuplicates, ...]  # within x and within y, where they were asked for

    @classmethod
    def of(cls, batches: Batches, temperatures: Sequence[float], *, duplicates: bool = False) -> "BatchSweeps":
        """Nothing seen yet.

        Args:
            batches: the law of a batch.
            temperatures: each above 0; one sweep serves all of them.
            duplicates: also look for near-duplicates within x and within y, where rows are of unit length.
        """
        sample = batches.sample
        x, y = batches.rows(0), batches.rows(1)
        duplicates = duplicates and sample.unit
        sums = partial(KernelSums, temperature=temperatures, each_block=True, backend=batches.backend)
        return cls(
            batches,
            tuple(temperatures),
            # effective negatives are those of the other modality: no squares within one
            sums(x, None, terms=sample.row_terms(0, 0), squares=False),
            sums(y, None, terms=sample.row_terms(1, 1), squares=False),
            sums(x, y, terms=sample.row_terms(0, 1)),
            tuple(NearDuplicates(rows) for rows in ((x, y) if duplicates else ())),
        )

    @property
    def within_x(self) -> list[Reduction]:
        """For the sweep of x with itself."""
        return [self.xx, *self.duplicates[:1]]

    @property
    def within_y(self) -> list[Reduction]:
        """For the sweep of y with itself."""
        return [self.yy, *self.duplicates[1:]]

    @property
    def across(self) -> list[Reduction]:
        """For the sweep of x with y."""
        return [self.xy]

    def tables(self) -> list["KernelTables"]:
        """What was gathered, by temperature."""
        found = []
        for t, tau in enumerate(self.temperatures):
            xx, yy, xy = self.xx.at[t], self.yy.at[t], self.xy.at[t]
            tables = {"xx": xx.by_row, "xy": xy.by_row, "yy": yy.by_row, "yx": xy.by_column}
            log_sums = {side: table.log_sums for side, table in tables.items()}
            log_squares = {side: tables[side].log_squares for side in COUNTED}
            found.append(KernelTables(self.batches, tau, log_sums, log_squares))
        return found


def sweep_all(sweeps: BatchSweeps, *, progress: Progress | None = None) -> list[KernelTables]:
    """Sweep the three Gram matrices once, for all temperatures and nothing else.

    Args:
        sweeps: with nothing seen yet.
        progress: called with shares of the work that sum to 1.

    Source: E8, D3.
    """
    x, y = sweeps.batches.sample.x, sweeps.batches.sample.y
    plan = ((x, None, sweeps.within_x), (y, None, sweeps.within_y), (x, y, sweeps.across))
    work = (len(x) ** 2 / 2, len(y) ** 2 / 2, float(len(x) * len(y)))
    for (rows, others, reductions), entries in zip(plan, work, strict=True):
        sweep(rows, others, reductions, progress=_scaled(progress, entries / sum(work)))
    return sweeps.tables()


def kernel_tables(batches: Batches, temperatures: Sequence[float]) -> list[KernelTables]:
    """The tables at some temperatures; every row an anchor, the lent rows its negatives."""
    return sweep_all(BatchSweeps.of(batches, temperatures))


def _scaled(progress: Progress | None, factor: float) -> Progress | None:
    return None if progress is None else lambda share: progress(share * factor)


__all__ = ["COUNTED", "SIDES", "BatchSweeps", "Batches", "KernelTables", "kernel_tables", "sweep_all"]
