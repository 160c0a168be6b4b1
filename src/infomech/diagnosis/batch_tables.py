"""What the budget at N is computed from: each anchor's kernel sums over segments of other groups' drawn pairs (E8)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._typing import Progress
from ..measures import PairedSample
from ..reductions import GroupedRows, Reduction, sweep
from ..reductions.statistics.gram import Tile
from .batch_windows import AnchorSums, BlockLayout
from .near_duplicates import NearDuplicates

SIDES = ("xx", "xy", "yy", "yx")  # anchor's modality, negatives' modality
_ENTRIES = 2**22  # of a table: smaller batches are averaged over more parts of blocks where the table stays small
_SINGLE_RANGE, _DOUBLE_RANGE = 50.0, 600.0  # of 2 / tau, up to which the kernel's square is a normal number
_LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Batches:
    """The law of a random batch on a sample: its anchors, what each group lends as negative, and the blocks.

    A uniform group, then a uniform pair in it: every pair is an anchor of weight 1 / (G k) in a group of k. Each group
    lends one pair, drawn once, the same in all four kernel sums.
    """

    sample: PairedSample
    layout: BlockLayout
    lent: Int[Tensor, " g"]  # pair that each group lends

    @classmethod
    def of(cls, sample: PairedSample, *, seed: int = 0, parts: int | None = None) -> "Batches":
        """Draw the negatives; `parts` of a block for the smaller batches as many as a table of moderate size holds."""
        counts = sample.group_pairs
        draw = torch.rand(len(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        first = counts.cumsum(0) - counts
        lent = (first + (draw.to(counts.device) * counts).floor().clamp_max(counts - 1)).long()
        if parts is None:
            parts, rows = 2, max(len(sample.x), len(sample.y))
            while parts < sample.groups and rows * len(BlockLayout.of(sample.groups, parts=2 * parts).edges) < _ENTRIES:
                parts *= 2
        return cls(sample, BlockLayout.of(sample.groups, parts=parts), lent)

    @cached_property
    def pair_weights(self) -> Float[Tensor, " p"]:
        """1 / (G k) of each pair."""
        return 1 / (self.sample.groups * self.sample.group_pairs[self.sample.pair_groups])

    def row_weights(self, column: int) -> Float[Tensor, " n"]:
        """Weight of each row as an anchor: that of all pairs that name it."""
        rows = self.sample.x if column == 0 else self.sample.y
        return self.pair_weights.new_zeros(len(rows)).index_add_(0, self.sample.pairs[:, column], self.pair_weights)

    def negatives(self, column: int) -> GroupedRows:
        """The rows of one modality that the groups lend, in the order of the groups."""
        rows, sample = (self.sample.x, self.sample.y)[column], self.sample
        values = rows.values[sample.pairs[self.lent, column]]
        size, blocks = self.layout.size, self.layout.blocks
        edges = [*range(0, size * blocks + 1, size), *([sample.groups] if self.layout.left_over else [])]
        groups = torch.arange(sample.groups, device=values.device)
        return GroupedRows(values, torch.ones_like(groups, dtype=torch.float64), groups, tuple(edges))


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
        return AnchorSums(self.log_sums[side], self.log_squares.get(side), blocks, weights)

    def by_pair(self, side: str) -> AnchorSums:
        """Anchors are the pairs, and each window's sum gains the positive's own kernel."""
        sample = self.batches.sample
        rows = sample.pairs[:, "xy".index(side[0])]
        blocks = self.batches.layout.block_of(sample.pair_groups)
        own = sample.pair_similarity / self.temperature
        return AnchorSums(self.log_sums[side][rows], None, blocks, self.batches.pair_weights, own)


def kernel_tables(
    batches: Batches,
    temperatures: Sequence[float],
    *,
    duplicates: list[NearDuplicates] | None = None,
    progress: Progress | None = None,
) -> list[KernelTables]:
    """Sweep every row against the lent rows of each modality, once for all temperatures.

    Args:
        batches: the law of a batch.
        temperatures: each above 0.
        duplicates: gains what the two sweeps within a modality found.
        progress: called with shares of the work that sum to 1.

    Source: E8, D3.
    """
    sample = batches.sample
    found: dict[str, SegmentSums] = {}
    for side in SIDES:
        anchors = (sample.x, sample.y)["xy".index(side[0])]
        lent = batches.negatives("xy".index(side[1]))
        found[side] = SegmentSums(len(anchors), batches.layout, temperatures, device=anchors.values.device)
        share = len(anchors) / (2 * (len(sample.x) + len(sample.y)))
        reductions: list[Reduction] = [found[side]]
        if duplicates is not None and side in ("xx", "yy"):
            duplicates.append(NearDuplicates(anchors, lent))
            reductions.append(duplicates[-1])
        sweep(anchors, lent, reductions, progress=_scaled(progress, share))
    return [
        KernelTables(
            batches,
            tau,
            {side: sums.log_sums[t] for side, sums in found.items()},
            {side: sums.log_squares[t] for side, sums in found.items()},
        )
        for t, tau in enumerate(temperatures)
    ]


def _scaled(progress: Progress | None, factor: float) -> Progress | None:
    return None if progress is None else lambda share: progress(share * factor)


class SegmentSums(Reduction):
    """For each row, logs of the sums of the kernel and of its square over segments of columns; several temperatures.

    Args:
        rows: number of rows.
        layout: whose edges cut the columns.
        temperatures: each above 0.
        device: of the tables.
    """

    def __init__(self, rows: int, layout: BlockLayout, temperatures: Sequence[float], *, device: torch.device) -> None:
        self._arguments = (rows, layout, temperatures, device)
        self._scales = [1 / tau for tau in temperatures]
        edges = torch.tensor(layout.edges)
        self._segment_of = torch.repeat_interleave(torch.arange(len(edges) - 1), edges.diff()).to(device)
        shape = (len(temperatures), rows, len(edges) - 1)
        self.log_sums = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self.log_squares = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)

    def fork(self) -> "SegmentSums":  # noqa: D102
        rows, layout, temperatures, device = self._arguments
        return SegmentSums(rows, layout, temperatures, device=device)

    def merge(self, other: "SegmentSums") -> None:  # noqa: D102
        torch.logaddexp(self.log_sums, other.log_sums, out=self.log_sums)
        torch.logaddexp(self.log_squares, other.log_squares, out=self.log_squares)

    def update(self, tile: Tile) -> None:  # noqa: D102
        columns = self._segment_of[tile.cols.slice]
        first, last = int(columns[0]), int(columns[-1])
        local = columns - first
        at = (tile.rows.slice, slice(first, last + 1))
        for t, scale in enumerate(self._scales):
            sums, squares = _segment_logs(tile, local, last - first + 1, scale)
            for table, found in ((self.log_sums[t], sums), (self.log_squares[t], squares)):
                table[at] = torch.logaddexp(table[at], found)


def _segment_logs(tile: Tile, local: Tensor, count: int, scale: float) -> tuple[Tensor, Tensor]:
    """Logs of sums of exp(scale * s), and of its square, over each segment of a tile's columns: (rows, count)."""
    single = tile.similarity.dtype is torch.float32 and 2 * scale <= _SINGLE_RANGE
    if not single and 2 * scale > _DOUBLE_RANGE:
        return _in_the_log_domain(tile, local, count, scale)
    if single:
        kernel = torch.mul(tile.similarity, scale * _LOG2_E, out=tile.buffer("kernel"))
    else:
        kernel = tile.similarity.double() * (scale * _LOG2_E)
    kernel.exp2_()
    if tile.own is not None:
        kernel.masked_fill_(tile.own, 0.0)
    # a product with an indicator sums all segments at once
    indicator = torch.nn.functional.one_hot(local, count).to(kernel.dtype)
    sums = (kernel @ indicator).double().log_()
    return sums, (kernel.square_() @ indicator).double().log_()


def _in_the_log_domain(tile: Tile, local: Tensor, count: int, scale: float) -> tuple[Tensor, Tensor]:
    logits = tile.similarity.double() * scale
    if tile.own is not None:
        logits.masked_fill_(tile.own, -torch.inf)
    parts = [logits[:, local == k] for k in range(count)]
    return tuple(torch.stack([(f * part).logsumexp(1) for part in parts], 1) for f in (1.0, 2.0))  # type: ignore[return-value]


__all__ = ["SIDES", "Batches", "KernelTables", "SegmentSums", "kernel_tables"]
