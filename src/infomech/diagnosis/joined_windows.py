"""Averages over windows of several tables: each by itself on a CPU, all of them at once where launches are what costs.

On an accelerator the anchors of all tables (temperatures, directions, sides) stand side by side along one axis, and all
sizes of windows along another: some hundred operations for what would else be ten thousand.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..reductions import cpu_threads, few_launches, side_by_side
from .batch_windows import (
    AnchorSums,
    BlockLayout,
    BlockShares,
    Statistic,
    WindowAverages,
    _all_others,
    _Channels,
    _cycle,
    _levels,
    _Runs,
    window_averages,
)

_ENTRIES = 2**26  # of the sums on both sides of all gaps, for the anchors that are taken at a time: half a gigabyte
_FEWEST_ANCHORS = 1024
_JOINED = 2**27  # entries of tables that are joined: one gigabyte

Making = Callable[[], AnchorSums]


def all_averages(
    tables: Sequence[tuple[Statistic, Sequence[Making]]], layout: BlockLayout, device: torch.device
) -> list[WindowAverages]:
    """`window_averages` of several tables, in their order, on the CPU wherever they come from.

    Args:
        tables: for each statistic what makes the sums of some anchors.
        layout: of the segments of all of them.
        device: that the tables are on.

    Source: E8, E2.
    """
    if few_launches(device):
        found: list[WindowAverages] = []
        for statistic, makes in tables:
            for several in _together(makes):
                found += averages_at_once(several, layout, statistic)
        return found
    jobs = [partial(_one, make, layout, statistic) for statistic, makes in tables for make in makes]
    return side_by_side(jobs, threads=cpu_threads(device))


def _together(makes: Sequence[Making]) -> Iterator[list[AnchorSums]]:
    """The tables in their order, as many at a time as may stand twice in memory."""
    held: list[AnchorSums] = []
    entries = 0
    for make in makes:
        table = make()
        if held and entries + table.log_sums.numel() > _JOINED:
            yield held
            held, entries = [], 0
        held.append(table)
        entries += table.log_sums.numel()
    yield held


def _one(make: Making, layout: BlockLayout, statistic: Statistic) -> WindowAverages:
    return window_averages(make(), layout, statistic)


def averages_at_once(tables: Sequence[AnchorSums], layout: BlockLayout, statistic: Statistic) -> list[WindowAverages]:
    """The averages of all tables, computed together; see `window_averages`."""
    sums, of_table = _joined(tables)
    b, k, names = layout.blocks, len(layout.negatives), len(tables) * (layout.blocks + 1)
    owner = of_table * (b + 1) + sums.blocks  # one number for the block of a table
    stands_for = sums.weights if sums.stands_for is None else sums.stands_for
    by_anchor = sums.log_sums.new_empty(k, len(sums.blocks))
    falls = by_anchor.new_zeros(k, names, b)
    channels = 2 if statistic == "count" else 1
    most = max(_FEWEST_ANCHORS, _ENTRIES // (2 * channels * max(layout.windows, default=1) * b))
    for inside in (sums.blocks < b, sums.blocks >= b):
        for chosen, into in ((stands_for > 0, falls), (stands_for <= 0, None)):
            for rows in torch.nonzero(inside & chosen).flatten().split(most):
                if len(rows):
                    ring = _Ring.of(sums, rows, layout, statistic)
                    by_anchor[:, rows] = ring.values
                    if into is not None:
                        _add_falls(into, ring, owner[rows], stands_for[rows])
    weights = sums.weights.new_zeros(names).index_add_(0, owner, sums.weights)
    own = by_anchor.new_zeros(k, names).index_add_(1, owner, sums.weights * by_anchor)
    parts = (
        own.cpu().T.unflatten(0, (len(tables), b + 1)),
        falls.cpu().permute(1, 2, 0).unflatten(0, (len(tables), b + 1)),
        weights.cpu().unflatten(0, (len(tables), b + 1)),
    )
    shares = [BlockShares(*(part.contiguous() for part in three)) for three in zip(*parts, strict=True)]
    anchors = by_anchor.cpu().split([len(table.blocks) for table in tables], 1)
    return [WindowAverages(values.T, share) for values, share in zip(anchors, shares, strict=True)]


def _joined(tables: Sequence[AnchorSums]) -> tuple[AnchorSums, Int[Tensor, " n"]]:
    """The anchors of all tables as one table, and which table each is from; an extra term that is not there adds 0."""
    squares = [table.log_squares for table in tables if table.log_squares is not None]
    extras = [t.weights.new_full(t.weights.shape, -torch.inf) if t.extra is None else t.extra for t in tables]
    stand = [table.weights if table.stands_for is None else table.stands_for for table in tables]
    sums = AnchorSums(
        torch.cat([table.log_sums.T for table in tables], 1).T,
        torch.cat([part.T for part in squares], 1).T if len(squares) == len(tables) else None,
        torch.cat([table.blocks for table in tables]),
        torch.cat([table.weights for table in tables]),
        None if all(table.extra is None for table in tables) else torch.cat(extras),
        None if all(table.stands_for is None for table in tables) else torch.cat(stand),
    )
    sizes = torch.tensor([len(table.blocks) for table in tables])
    return sums, torch.repeat_interleave(torch.arange(len(tables)), sizes).to(sums.blocks.device)


class _Ring:
    """What some anchors, all of them in blocks or none, have at each N: averages, and the same without each block."""

    def __init__(self, values: Float[Tensor, "k n"], cycle: Int[Tensor, "l n"], without: Callable[[], Tensor]) -> None:
        self.values, self.cycle = values, cycle
        self.without = without  # makes (k, l, n)

    @classmethod
    def of(cls, sums: AnchorSums, rows: Tensor, layout: BlockLayout, statistic: Statistic) -> "_Ring":
        """For the anchors at some rows of a table."""
        channels = _Channels.of(sums, rows, statistic)
        cycle = _cycle(sums.blocks[rows], layout.blocks)
        length = len(cycle)
        *parts, whole = _levels(channels, layout)
        whole = whole[:, :, 0]
        ring = whole.gather(1, cycle.expand(len(whole), -1, -1))
        of_parts = _of_parts(channels, parts, cycle)
        part_totals = of_parts.sum(1)
        runs = _Runs(ring, channels.add, dim=1)
        windows = channels.finish(torch.stack([runs.of(w) for w in layout.windows], 1))
        totals = windows.sum(1)
        every = channels.with_left_over(whole, layout)

        def without() -> Tensor:
            small = (part_totals[:, None] - of_parts) / (length - 1)
            left = _around(layout.windows, length, windows) @ windows  # the windows that go with a block
            closed = _closing(ring, channels, layout.windows)
            large = (closed + totals[:, None] - left) / (length - 1)
            _, others = _all_others(every, channels, layout)
            return torch.cat([small, large, others.gather(0, cycle)[None]])

        with_all = channels.finish(channels.total(every))
        return cls(torch.cat([part_totals / length, totals / length, with_all[None]]), cycle, without)


def _of_parts(channels: _Channels, levels: Sequence[Tensor], cycle: Tensor) -> Float[Tensor, "p l n"]:
    """Means of the statistic over each block's sub-blocks of every size, along the ring."""
    if not levels:
        return channels.values.new_empty(0, *cycle.shape)
    counts = [level.shape[2] for level in levels]
    ends = list(accumulate(counts))
    finished = channels.finish(torch.cat(list(levels), 2))  # (b, sub-blocks of all sizes, n)
    means = torch.zeros(len(levels), ends[-1], dtype=finished.dtype)
    for k, (end, count) in enumerate(zip(ends, counts, strict=True)):
        means[k, end - count : end] = 1 / count
    at = cycle[:, None].expand(-1, finished.shape[1], -1)
    return (means.to(finished.device) @ finished.gather(0, at)).transpose(0, 1)  # an anchor's own block has no number


def _around(windows: Sequence[int], length: int, like: Tensor) -> Float[Tensor, "w l l"]:
    """Which windows hold a block: 1 where the block lies within so many behind a window's first."""
    at = torch.arange(length)
    behind = (at[:, None] - at) % length
    return torch.stack([behind < w for w in windows]).to(like.dtype).to(like.device)


def _closing(ring: Float[Tensor, "c l n"], channels: _Channels, windows: Sequence[int]) -> Float[Tensor, "w l n"]:
    """Sums of the statistic over the windows that close over a gap, by adding what lies on both sides of it."""
    most, length = max(windows) - 1, ring.shape[1]
    nothing = torch.zeros_like(ring[0])
    if most < 1:
        return nothing.expand(len(windows), -1, -1)
    steps = torch.arange(1, most + 1)[:, None]
    sides = []
    for way in (-1, 1):
        at = ((torch.arange(length) + way * steps) % length).flatten().to(ring.device)
        neighbours = ring.index_select(1, at).unflatten(1, (most, length))
        sides.append(neighbours.cumsum(1) if channels.linear else neighbours.logcumsumexp(1))
    before, after = sides
    found = []
    for w in windows:
        both = channels.add(before[:, : w - 1], after[:, : w - 1].flip(1)) if w > 1 else None
        found.append(nothing if both is None else channels.finish(both).sum(0))
    return torch.stack(found)


def _add_falls(falls: Tensor, ring: _Ring, owner: Tensor, weights: Tensor) -> None:
    """Add by how much each average falls when a block is left out, weighted, to the blocks of all tables."""
    blocks = falls.shape[2]
    names = torch.unique(owner)
    shares = (owner[:, None] == names) * weights[:, None]
    away = _cycle(names % (blocks + 1), blocks)
    fallen = (ring.values[:, None] - ring.without()) @ shares
    falls[:, names, away] += fallen


__all__ = ["all_averages", "averages_at_once"]
