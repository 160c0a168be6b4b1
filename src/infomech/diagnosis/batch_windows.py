"""Random batches as windows of blocks of groups: averages over them, and the same when each block is left out (E8).

Groups stand in random order and are dealt to blocks of equal size, a power of two. A window of w consecutive blocks,
cyclic and without the anchor's own block, is a random batch of w times as many groups. Smaller batches are parts of
blocks. Everything here is a function of a table: for each anchor, sums of kernels over the segments of the blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..reductions import few_launches, rows_at_once

FEWEST_INTERACTING = 4  # blocks: with fewer, what two of them do together cannot be told from what each does
FEWEST_BLOCKS = 32  # of the jackknife, where there are as many groups: at least 31 degrees of freedom
_MOST_ANCHORS = 16_384  # at a time, where rows are many: tables of some GB
_LINEAR_RANGE = 600.0  # exp(-600) is a normal number in float64

Statistic = Literal["log", "count"]


@dataclass(frozen=True)
class BlockLayout:
    """How groups in random order are dealt to blocks, and how each block is cut into segments.

    Block b holds the groups b * size to (b + 1) * size; the groups after the last block are anchors only, except where
    all other groups are negatives. A block is cut so that it holds `parts` (or, where that is more than there are,
    all) sub-blocks of every size 1, 2, 4, ..., size that are unions of neighbouring segments. With ``parts`` 1 blocks
    are not cut, and no batch is smaller than one. Without ``doubling`` the two windows of the last doubling are left
    out unless they are powers of two: they cost more than all others.
    """

    groups: int
    size: int  # groups in a block, a power of two
    blocks: int
    parts: int  # sub-blocks of each size that a block offers at most, a power of two
    doubling: bool = True

    @classmethod
    def of(cls, groups: int, *, parts: int = 4, fewest: int = FEWEST_BLOCKS, doubling: bool = True) -> "BlockLayout":
        """The largest blocks of which there are at least `fewest`; single groups where there are too few groups."""
        size = 1
        while groups // (2 * size) >= fewest:
            size *= 2
        return cls(groups, size, groups // size, min(parts, size), doubling)

    @property
    def widths(self) -> tuple[int, ...]:
        """Groups in each segment of a block."""
        if self.parts < 2:
            return (self.size,)
        widths, width = [1] * self.parts, 2
        while width * self.parts <= self.size:
            widths += [width] * (self.parts // 2)
            width *= 2
        return tuple(widths)

    @property
    def edges(self) -> tuple[int, ...]:
        """First group of each segment, of the groups that are left over (if there are any), and the end."""
        out = [0]
        for _ in range(self.blocks):
            for width in self.widths:
                out.append(out[-1] + width)
        return (*out, self.groups) if self.left_over else tuple(out)

    @property
    def left_over(self) -> int:
        """Groups that stand in no block."""
        return self.groups - self.size * self.blocks

    def block_of(self, groups: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Block of each group; `blocks` for those that are left over."""
        return (groups // self.size).clamp_max(self.blocks)

    @property
    def windows(self) -> tuple[int, ...]:
        """Blocks in a window: powers of two, and the two sizes of the last doubling (see `last_doubling`)."""
        powers = [2**k for k in range(self.blocks.bit_length()) if 2**k <= self.blocks - 2]
        return tuple(sorted({*powers, *self.last_doubling} if self.doubling else powers))

    @property
    def last_doubling(self) -> tuple[int, int]:
        """Blocks in the two windows of the last doubling: a replicate has lost the anchor's block and one more."""
        half = max((self.blocks - 2) // 2, 1)
        return half, 2 * half

    @property
    def negatives(self) -> tuple[int, ...]:
        """The N of every column of the averages: parts of blocks, windows, and all other groups."""
        parts = [2**k for k in range(self.size.bit_length() - 1)] if self.parts > 1 else []
        return (*parts, *(w * self.size for w in self.windows), self.groups - 1)


@dataclass(frozen=True)
class AnchorSums:
    """Logs of the sums of kernels, and of their squares, over the segments of a layout; some anchors' rows.

    ``extra`` is the log of a term that every window's sum gains, the positive's own kernel say. ``stands_for``: weight
    of each anchor where the effect of leaving a block out is asked, 0 for those that others of their group stand for;
    the anchors' own weights if None.
    """

    log_sums: Float[Tensor, "n s"]
    log_squares: Float[Tensor, "n s"] | None
    blocks: Int[Tensor, " n"]  # block of each anchor; the number of blocks for anchors in none
    weights: Float[Tensor, " n"]
    extra: Float[Tensor, " n"] | None = None
    stands_for: Float[Tensor, " n"] | None = None


@dataclass(frozen=True)
class WindowAverages:
    """Averages over anchors and windows at each N of a layout, and what they are made of.

    ``replicates[b]`` leaves the groups of block b out, as anchors and as negatives, and forms the windows again.
    ``interactions``: what two blocks, as anchors and negatives of each other, add beyond what each of them adds.
    """

    by_anchor: Float[Tensor, "n k"]
    blocks: "BlockShares"

    @property
    def values(self) -> Float[Tensor, " k"]:
        """Averages over all anchors."""
        return self.blocks.values()

    @property
    def replicates(self) -> Float[Tensor, "b k"]:
        """The same without each block."""
        return self.blocks.replicates()

    @property
    def interactions(self) -> Float[Tensor, "p k"]:
        """Of the p = b (b - 1) / 2 pairs of blocks."""
        return self.blocks.interactions()

    def cpu(self) -> "WindowAverages":
        """The same on the CPU."""
        return WindowAverages(self.by_anchor.cpu(), self.blocks.cpu())


@dataclass(frozen=True)
class BlockShares:
    """What averages over windows are made of; sums over anchors, so that parts of the anchors add up.

    Linear combinations of ``sums`` and ``falls``, which may differ between blocks, are again averages: a statistic
    whose temperature depends on the anchor's block, say.
    """

    sums: Float[Tensor, "c k"]  # over the anchors of each block, weighted; c = b + 1, the last of those in no block
    falls: Float[Tensor, "c b k"]  # by how much each falls when another block is left out of the negatives
    weights: Float[Tensor, " c"]  # of the anchors of each block

    def values(self) -> Float[Tensor, " k"]:
        """Averages over all anchors."""
        return self.sums.sum(0) / self.weights.sum()

    def replicates(self) -> Float[Tensor, "b k"]:
        """The same without each block, as anchors and as negatives."""
        b = self.falls.shape[1]
        without = self.sums.sum(0) - self.sums[:b] - self.falls.sum(0)
        return without / (self.weights.sum() - self.weights[:b])[:, None]

    def interactions(self) -> Float[Tensor, "p k"]:
        """What each pair of blocks adds to an average beyond what its two blocks add."""
        return _interactions(self.falls[: self.falls.shape[1]] / self.weights.sum())

    def __add__(self, other: "BlockShares") -> "BlockShares":
        return BlockShares(self.sums + other.sums, self.falls + other.falls, self.weights + other.weights)

    def cpu(self) -> "BlockShares":
        """The same on the CPU."""
        return BlockShares(self.sums.cpu(), self.falls.cpu(), self.weights.cpu())


def window_averages(sums: AnchorSums, layout: BlockLayout, statistic: Statistic) -> WindowAverages:
    """Weighted averages over anchors of the average over windows of log(sum) or of sum^2 / (sum of squares).

    Args:
        sums: a row for each anchor.
        layout: of the segments.
        statistic: "log" of the sum of a window's kernels, or "count", their effective number (E2).

    Returns:
        Averages at each of ``layout.negatives``; the weights need not sum to 1.

    Source: E8, E2.
    """
    n, b = len(sums.blocks), layout.blocks
    by_anchor = sums.log_sums.new_empty(n, len(layout.negatives))
    falls = sums.log_sums.new_zeros(b + 1, b, len(layout.negatives))  # of a block's anchors when another is left out
    stands_for = sums.weights if sums.stands_for is None else sums.stands_for
    for inside in (sums.blocks < b, sums.blocks >= b):
        for chunk in _chunks(inside & (stands_for > 0)):
            by_anchor[chunk] = _with_replicates(sums, chunk, stands_for[chunk], layout, statistic, falls)
        for chunk in _chunks(inside & (stands_for == 0)):
            by_anchor[chunk] = _values(sums, chunk, layout, statistic)
    weights = sums.weights.new_zeros(b + 1).index_add_(0, sums.blocks, sums.weights)
    own = falls.new_zeros(b + 1, falls.shape[2]).index_add_(0, sums.blocks, sums.weights[:, None] * by_anchor)
    return WindowAverages(by_anchor, BlockShares(own, falls, weights))


def _chunks(chosen: Bool[Tensor, " n"]) -> list[Int[Tensor, " k"]]:
    """Where anchors are chosen, some at a time."""
    at = torch.nonzero(chosen).flatten()
    return list(at.split(min(rows_at_once(at.device), _MOST_ANCHORS))) if len(at) else []


def _interactions(effects: Float[Tensor, "b b k"]) -> Float[Tensor, "p k"]:
    """What each pair of blocks adds to an average beyond what its two blocks add (the second term of Hoeffding).

    ``effects[a, c]``: by how much the share of block a's anchors falls when block c is left out. With a mean over the
    other b - 1 blocks that is (their term of c less its mean) / (b - 2); what a and c add alone is removed by least
    squares over all pairs.
    """
    b = len(effects)
    if b < FEWEST_INTERACTING:
        return effects.new_zeros(b * (b - 1) // 2, effects.shape[2])
    both = (effects + effects.transpose(0, 1)) * ((b - 2) / (b - 1))
    both[torch.arange(b), torch.arange(b)] = 0.0
    rows = both.sum(1)
    alone = (rows - rows.sum(0) / (2 * (b - 1))) / (b - 2)
    one, two = torch.triu_indices(b, b, 1, device=effects.device)
    return both[one, two] - alone[one] - alone[two]


def _values(sums: AnchorSums, rows: Tensor, layout: BlockLayout, statistic: Statistic) -> Float[Tensor, "n k"]:
    """Averages of some anchors, all of them in blocks or none."""
    channels = _Channels.of(sums, rows, statistic)
    cycle = _cycle(sums.blocks[rows], layout.blocks)
    *parts, whole = _levels(channels, layout)
    columns = [_over_parts(channels, level).gather(1, cycle).mean(1, keepdim=True) for level in parts]
    whole = whole[..., 0]
    ring = whole.gather(-1, cycle.expand(*whole.shape[:-1], -1))
    runs = _Runs(ring, channels)
    columns += [channels.finish(runs.of(w)).mean(1, keepdim=True) for w in layout.windows]
    if layout.left_over:
        whole = torch.cat([whole, channels.values[..., -1:]], -1)
    return torch.cat([*columns, channels.finish(channels.total(whole))], 1)


def _with_replicates(
    sums: AnchorSums, rows: Tensor, weights: Tensor, layout: BlockLayout, statistic: Statistic, falls: Tensor
) -> Float[Tensor, "n k"]:
    """The same; adds to `falls` by how much each average falls when a block is left out, weighted."""
    channels = _Channels.of(sums, rows, statistic)
    own, b = sums.blocks[rows], layout.blocks
    cycle = _cycle(own, b)
    length = cycle.shape[1]
    columns, replicates = [], []
    *parts, whole = _levels(channels, layout)
    for level in parts:
        block_means = _over_parts(channels, level).gather(1, cycle)
        total = block_means.sum(1, keepdim=True)
        columns.append(total / length)
        replicates.append((total - block_means) / (length - 1))
    whole = whole[..., 0]
    ring = whole.gather(-1, cycle.expand(*whole.shape[:-1], length))
    for value, replicate in _cyclic(ring, channels, layout.windows):
        columns.append(value)
        replicates.append(replicate)
    value, every = _all_others(whole, channels, layout)
    columns.append(value)
    replicates.append(every.gather(1, cycle))
    places = (own[:, None] * b + cycle).flatten()
    for k, (value, replicate) in enumerate(zip(columns, replicates, strict=True)):
        fall = (value - replicate).mul_(weights[:, None])
        falls.view(-1, falls.shape[2])[:, k].index_add_(0, places, fall.flatten())
    return torch.cat(columns, 1)


def _cycle(own: Int[Tensor, " n"], blocks: int) -> Int[Tensor, "n l"]:
    """The blocks in their order, from the one behind each anchor's own on and without it; all where it is in none."""
    owned = int(own[0]) < blocks
    start = own + 1 if owned else torch.zeros_like(own)
    return (start[:, None] + torch.arange(blocks - owned, device=own.device)) % blocks


def _over_parts(channels: "_Channels", level: Float[Tensor, "c n b p"]) -> Float[Tensor, "n b"]:
    """Mean of the statistic over each block's sub-blocks; a few slices are added faster than a short axis is."""
    found = channels.finish(level)
    return torch.stack(found.unbind(-1)).sum(0).div_(level.shape[-1]) if level.shape[-1] <= 8 else found.mean(-1)


class _Channels:
    """Sums in float64 relative to each anchor's largest, or their logs where the range is too wide for that."""

    def __init__(self, values: Tensor, top: Tensor, extra: Tensor | None, *, linear: bool, products: int) -> None:
        self.values, self.linear, self.products = values, linear, products  # values: (channels, n, s)
        self._top, self._extra = top, extra

    @classmethod
    def of(cls, sums: AnchorSums, rows: Tensor, statistic: Statistic) -> "_Channels":
        logs = sums.log_sums[rows]
        extra = None if sums.extra is None else sums.extra[rows, None]
        top = logs.amax(1, keepdim=True)
        if extra is not None:
            top = torch.maximum(top, extra)  # an extra term far below all sums does no harm
        below = logs - top
        lowest = float(below.amin())
        if lowest == -math.inf:  # an anchor's own group alone in a segment, say
            lowest = float(below.masked_fill(below == -math.inf, 0.0).amin())
        reach, counted = -lowest, statistic == "count"
        linear = reach < _LINEAR_RANGE / (2 if counted else 1)
        stack = [below]
        if counted:
            assert sums.log_squares is not None
            stack.append(sums.log_squares[rows] - 2 * top)
        values = torch.stack(stack)
        if extra is not None:
            extra = extra - top
        if linear:
            values.exp_()
            extra = None if extra is None else extra.exp()
        # so many sums can be multiplied before their logarithm is taken: it costs more than all the rest
        products = max(1, min(16, int(_LINEAR_RANGE / max(reach, 1.0)))) if linear and not counted else 1
        return cls(values, top, extra, linear=linear, products=products)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b if self.linear else torch.logaddexp(a, b)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the last axis, which stays."""
        return values.sum(-1, keepdim=True) if self.linear else values.logsumexp(-1, keepdim=True)

    def running_totals(self, values: Tensor) -> Tensor:
        """Sums of the first 0, 1, ..., all entries along the last axis; in all one more than there are."""
        sums = values.cumsum(-1) if self.linear else values.logcumsumexp(-1)
        return torch.nn.functional.pad(sums, (1, 0), value=0.0 if self.linear else -math.inf)

    def finish(self, window: Tensor) -> Tensor:
        """The statistic of windows, (channels, n, ...) -> (n, ...)."""
        top = self._top.reshape(-1, *[1] * (window.ndim - 2))
        if len(window) == 2:
            one, two = window
            return one.square() / two if self.linear else torch.exp(2 * one - two)
        total = window[0]
        if self._extra is not None:
            total = self.add(total, self._extra.reshape(top.shape))
        return (total.log() if self.linear else total) + top

    def sum_of_finished(self, windows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Sum over windows, each given in two halves, of the statistic; few logarithms."""
        if few_launches(self.values.device):
            before, after = (torch.stack(sides, 2) for sides in zip(*windows, strict=True))  # (c, n, windows, l)
            return self.finish(self.add(before, after)).sum(1)
        if self.products == 1:
            total = self.finish(self.add(*windows[0]))
            for a, b in windows[1:]:
                total = total + self.finish(self.add(a, b))
            return total
        out = self._top * len(windows)
        for at in range(0, len(windows), self.products):
            product: Tensor | None = None
            for a, b in windows[at : at + self.products]:
                factor = a[0] + b[0]
                if self._extra is not None:
                    factor += self._extra
                product = factor if product is None else product.mul_(factor)
            assert product is not None
            out = out + product.log_()
        return out


def _levels(channels: "_Channels", layout: BlockLayout) -> list[Tensor]:
    """Sums over sub-blocks of 1, 2, 4, ..., size groups, (..., b, sub-blocks) each, from the segments (..., b, s)."""
    body = channels.values[..., : layout.blocks * len(layout.widths)].unflatten(-1, (layout.blocks, -1))
    if layout.parts < 2:
        return [body]
    widths = torch.tensor(layout.widths)
    level = body[..., : int((widths == 1).sum())]
    out, width = [level], 1
    while width < layout.size:
        width *= 2
        merged = channels.add(level[..., 0::2], level[..., 1::2])
        at = torch.nonzero(widths == width).flatten()
        level = merged if len(at) == 0 else torch.cat([merged, body[..., int(at[0]) : int(at[-1]) + 1]], -1)
        out.append(level)
    return out


class _Runs:
    """Sums over runs of consecutive blocks of a ring, built up by adding, never by subtracting: nothing cancels."""

    def __init__(self, ring: Float[Tensor, "c n l"], channels: _Channels) -> None:
        self._add, self._known = channels.add, {1: ring}

    def of(self, count: int) -> Float[Tensor, "c n l"]:
        """Blocks i to i + count - 1 for each i, around the ring."""
        if count not in self._known:
            first = 1 << ((count - 1).bit_length() - 1)  # the largest power of two below
            self._known[count] = self._add(self.of(first), self.of(count - first).roll(-first, -1))
        return self._known[count]


def _cyclic(ring: Tensor, channels: _Channels, windows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """For each window size the average over cyclic windows, (n, 1), and without each block of the ring, (n, l).

    A block that leaves takes its w windows along; w - 1 new ones close over the gap, a blocks from before it and w - a
    from behind.
    """
    length = ring.shape[-1]
    runs = _Runs(ring, channels)
    twice = {}  # around the ring twice, so that what lies before and behind a block is a slice
    for a in range(1, max(windows)):
        once = runs.of(a)
        twice[a] = torch.cat([once, once], -1)
    out = []
    for w in windows:
        values = channels.finish(runs.of(w))
        total = values.sum(1, keepdim=True)
        around = torch.cat([values, values], 1)
        kept = total.expand(-1, length).clone()
        if few_launches(kept.device):
            kept -= around[:, length - w + 1 :].unfold(1, w, 1).sum(-1)[:, :length]
        else:
            for k in range(w):  # windows that start at q - k hold block q
                kept -= around[:, length - k : 2 * length - k]
        if w > 1:
            pieces = []
            for a in range(1, w):
                before = twice[a][..., length - a : 2 * length - a]  # ends just before q
                after = twice[w - a][..., 1 : length + 1]  # starts just behind q
                pieces.append((before, after))
            kept += channels.sum_of_finished(pieces)
        out.append((total / length, kept / (length - 1)))
    return out


def _all_others(whole: Tensor, channels: _Channels, layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """With all other groups as negatives, (n, 1), and without each block, (n, b)."""
    if layout.left_over:
        whole = torch.cat([whole, channels.values[..., -1:]], -1)
    before, after = channels.running_totals(whole), channels.running_totals(whole.flip(-1)).flip(-1)
    left, right = before[..., : layout.blocks], after[..., 1 : layout.blocks + 1]
    return channels.finish(before[..., -1:]), channels.finish(channels.add(left, right))


__all__ = [
    "FEWEST_BLOCKS",
    "FEWEST_INTERACTING",
    "AnchorSums",
    "BlockLayout",
    "BlockShares",
    "Statistic",
    "WindowAverages",
    "window_averages",
]
