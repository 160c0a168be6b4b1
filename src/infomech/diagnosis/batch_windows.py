"""Random batches as windows of blocks of groups: averages over them, and the same when each block is left out (E8).

Groups stand in random order and are dealt to blocks of equal size, a power of two. A window of w consecutive blocks,
cyclic and without the anchor's own block, is a random batch of w times as many groups. Smaller batches are parts of
blocks. Everything here is a function of a table: for each anchor, sums of kernels over the segments of the blocks; in
many small steps, as a CPU's cache likes it (`joined_windows` has few large ones).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEWEST_INTERACTING = 4  # blocks: with fewer, what two of them do together cannot be told from what each does
FEWEST_BLOCKS = 32  # of the jackknife, where there are as many groups: at least 31 degrees of freedom
_ANCHORS_IN_CACHE = 1024  # at a time
_MOST_FACTORS = 32  # of a product: their rounding adds up
_MOST_CANCELLED = 2.0**10  # times what is left may be taken away: three of sixteen digits
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

    Both are best stored with the anchors of a segment side by side, as the transpose of a table.
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


def some_anchors(table: Float[Tensor, "n s"], rows: Int[Tensor, " k"]) -> Float[Tensor, "k s"]:
    """Some rows of a table, stored as `AnchorSums` takes it best."""
    return table.T.index_select(1, rows).T


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
    n, b, k = len(sums.blocks), layout.blocks, len(layout.negatives)
    by_anchor = sums.log_sums.new_empty(k, n)
    falls = sums.log_sums.new_zeros(k, b + 1, b)  # of a block's anchors when another is left out
    stands_for = sums.weights if sums.stands_for is None else sums.stands_for
    for inside in (sums.blocks < b, sums.blocks >= b):
        for chunk in _chunks(inside & (stands_for > 0)):
            by_anchor[:, chunk] = _with_replicates(sums, chunk, stands_for[chunk], layout, statistic, falls)
        for chunk in _chunks(inside & (stands_for == 0)):
            by_anchor[:, chunk] = _values(sums, chunk, layout, statistic)
    weights = sums.weights.new_zeros(b + 1).index_add_(0, sums.blocks, sums.weights)
    own = by_anchor.new_zeros(k, b + 1).index_add_(1, sums.blocks, sums.weights * by_anchor)
    shares = BlockShares(own.T.contiguous(), falls.permute(1, 2, 0).contiguous(), weights)
    return WindowAverages(by_anchor.T, shares)


def _chunks(chosen: Bool[Tensor, " n"]) -> list[Int[Tensor, " k"]]:
    """Where anchors are chosen, some at a time."""
    at = torch.nonzero(chosen).flatten()
    return list(at.split(_ANCHORS_IN_CACHE)) if len(at) else []


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


def _values(sums: AnchorSums, rows: Tensor, layout: BlockLayout, statistic: Statistic) -> Float[Tensor, "k n"]:
    """Averages of some anchors, all of them in blocks or none."""
    channels = _Channels.of(sums, rows, statistic)
    cycle = _cycle(sums.blocks[rows], layout.blocks)
    *parts, whole = _levels(channels, layout)
    columns = [_over_parts(channels, level).gather(0, cycle).mean(0) for level in parts]
    whole = whole[:, :, 0]
    runs = _Runs(whole.gather(1, cycle.expand(len(whole), -1, -1)), channels.add, dim=1)
    columns += [channels.finish(runs.of(w)).mean(0) for w in layout.windows]
    return torch.stack([*columns, channels.finish(channels.total(channels.with_left_over(whole, layout)))])


def _with_replicates(
    sums: AnchorSums, rows: Tensor, weights: Tensor, layout: BlockLayout, statistic: Statistic, falls: Tensor
) -> Float[Tensor, "k n"]:
    """The same; adds to `falls` by how much each average falls when a block is left out, weighted."""
    channels = _Channels.of(sums, rows, statistic)
    own = sums.blocks[rows]
    cycle = _cycle(own, layout.blocks)
    length = len(cycle)
    found: list[tuple[Tensor, Tensor]] = []  # (n,) and without each block of the ring (l, n)
    *parts, whole = _levels(channels, layout)
    for level in parts:
        block_means = _over_parts(channels, level).gather(0, cycle)
        total = block_means.sum(0)
        found.append((total / length, (total - block_means).div_(length - 1)))
    whole = whole[:, :, 0]
    ring = whole.gather(1, cycle.expand(len(whole), -1, -1))
    alone = _alone(ring, channels) if channels.multiplies else None
    found += _cyclic(ring, channels, layout.windows, alone)
    every = channels.with_left_over(whole, layout)
    if alone is not None and not len(alone):
        total = channels.total(every)
        found.append((channels.finish(total), channels.finish(total - ring)))
    else:
        value, without = _all_others(every, channels, layout)
        found.append((value, without.gather(0, cycle)))
    names, at = torch.unique(own, return_inverse=True)
    shares = torch.zeros(len(rows), len(names), dtype=weights.dtype, device=weights.device)
    shares.scatter_(1, at[:, None], weights[:, None])
    away = _cycle(names, layout.blocks)
    for fall, (value, replicate) in zip(falls, found, strict=True):
        fall[names, away] += torch.sub(value, replicate, out=replicate) @ shares
    return torch.stack([value for value, _ in found])


def _cycle(own: Int[Tensor, " n"], blocks: int) -> Int[Tensor, "l n"]:
    """The blocks in their order, from the one behind each anchor's own on and without it; all where it is in none."""
    owned = int(own[0]) < blocks
    start = own + 1 if owned else torch.zeros_like(own)
    return (start + torch.arange(blocks - owned, device=own.device)[:, None]) % blocks


def _over_parts(channels: "_Channels", level: Float[Tensor, "c b p n"]) -> Float[Tensor, "b n"]:
    """Mean of the statistic over each block's sub-blocks."""
    return channels.finish(level).mean(1)


class _Channels:
    """Sums in float64 relative to each anchor's largest, or their logs where the range is too wide for that.

    Anchors are the last axis: what is done to a block, a run or a window is done to all anchors side by side.
    """

    def __init__(self, values: Tensor, top: Tensor, extra: Tensor | None, *, linear: bool, products: int) -> None:
        self.values, self.linear = values, linear  # values: (channels, s, n)
        self._top, self.extra, self._products = top, extra, products

    @classmethod
    def of(cls, sums: AnchorSums, rows: Tensor, statistic: Statistic) -> "_Channels":
        logs = sums.log_sums.T.index_select(1, rows)
        extra = None if sums.extra is None else sums.extra[rows]
        top = logs.amax(0)
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
            stack.append(sums.log_squares.T.index_select(1, rows) - 2 * top)
        values = torch.stack(stack)
        if extra is not None:
            extra = extra - top
        if linear:
            values.exp_()
            extra = None if extra is None else extra.exp()
        # so many sums can be multiplied before their logarithm is taken: it costs more than all the rest
        products = max(1, min(_MOST_FACTORS, int(_LINEAR_RANGE / max(reach, 1.0)))) if linear and not counted else 1
        return cls(values, top, extra, linear=linear, products=products)

    def add(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.add(a, b, out=out) if self.linear else torch.logaddexp(a, b, out=out)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the blocks."""
        return values.sum(1) if self.linear else values.logsumexp(1)

    def running_totals(self, values: Tensor) -> Tensor:
        """Sums of the first 0, 1, ..., all blocks; in all one more than there are."""
        sums = values.cumsum(1) if self.linear else values.logcumsumexp(1)
        return torch.nn.functional.pad(sums, (0, 0, 1, 0), value=0.0 if self.linear else -math.inf)

    def with_left_over(self, whole: Float[Tensor, "c b n"], layout: BlockLayout) -> Tensor:
        """The blocks' sums, and that of the groups in no block where there are any."""
        return torch.cat([whole, self.values[:, -1:]], 1) if layout.left_over else whole

    def finish(self, window: Float[Tensor, "c ... n"], *, gained: bool = False) -> Float[Tensor, "... n"]:
        """The statistic of windows' sums, which may have gained the extra term already."""
        if len(window) == 2:
            one, two = window
            return one.square() / two if self.linear else torch.exp(2 * one - two)
        total = window[0]
        if self.extra is not None and not gained:
            total = self.add(total, self.extra)
        return (total.log() if self.linear else total) + self._top

    def few(self, chosen: Int[Tensor, " k"]) -> "_Channels":
        """Of some of the anchors."""
        extra = None if self.extra is None else self.extra[chosen]
        values = self.values.index_select(2, chosen)
        return _Channels(values, self._top[chosen], extra, linear=self.linear, products=self._products)

    @property
    def multiplies(self) -> bool:
        """Whether sums are multiplied before their logarithm is taken, one after another."""
        return self._products > 1

    def log_of_products(self, factors: Iterable[Float[Tensor, "l n"]], count: int) -> Float[Tensor, "l n"]:
        """Sum of the statistic over so many windows, given by their sums, which have gained the extra term."""
        out, product, many = None, None, 0
        for many, factor in enumerate(factors, 1):
            if product is None:
                product = factor.clone()
            elif many % self._products == 1:
                out = product.log_() if out is None else out.add_(product.log_())
                product = factor.clone()
            else:
                product.mul_(factor)
        assert product is not None
        assert many == count
        return (product.log_() if out is None else out.add_(product.log_())).add_(self._top, alpha=count)

    def sum_of_finished(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Float[Tensor, "l n"]:
        """Sum of the statistic over windows, each given in two halves, (c, l, n), the second with the extra term."""
        pairs = zip(before, after, strict=True)
        if self.multiplies:
            factor = torch.empty_like(before[0][0])
            return self.log_of_products((torch.add(a[0], b[0], out=factor) for a, b in pairs), len(before))
        return torch.stack([self.finish(self.add(a, b), gained=True) for a, b in pairs]).sum(0)


def _levels(channels: "_Channels", layout: BlockLayout) -> list[Tensor]:
    """Sums over sub-blocks of 1, 2, 4, ..., size groups, (c, b, sub-blocks, n) each, from the segments (c, b, s, n)."""
    body = channels.values[:, : layout.blocks * len(layout.widths)].unflatten(1, (layout.blocks, -1))
    if layout.parts < 2:
        return [body]
    widths = torch.tensor(layout.widths)
    level = body[:, :, : int((widths == 1).sum())]
    out, width = [level], 1
    while width < layout.size:
        width *= 2
        merged = channels.add(level[:, :, 0::2], level[:, :, 1::2])
        at = torch.nonzero(widths == width).flatten()
        level = merged if len(at) == 0 else torch.cat([merged, body[:, :, int(at[0]) : int(at[-1]) + 1]], 2)
        out.append(level)
    return out


class _Runs:
    """Sums over runs of neighbours on a ring, built up by adding: nothing cancels."""

    def __init__(self, ring: Tensor, add: Callable[[Tensor, Tensor], Tensor], *, dim: int) -> None:
        self._add, self._dim, self._known = add, dim, {1: ring}

    def of(self, count: int) -> Tensor:
        """Entries i to i + count - 1 for each i, around the ring."""
        if count not in self._known:
            first = 1 << ((count - 1).bit_length() - 1)  # the largest power of two below
            self._known[count] = self._add(self.of(first), self.of(count - first).roll(-first, self._dim))
        return self._known[count]


def _cyclic(
    ring: Float[Tensor, "c l n"], channels: _Channels, windows: Sequence[int], alone: Int[Tensor, " k"] | None
) -> Iterator[tuple[Float[Tensor, " n"], Float[Tensor, "l n"]]]:
    """For each window size the average over cyclic windows, and without each block of the ring.

    A block that leaves takes its w windows along; w - 1 new ones close over the gap, a blocks from before it and w - a
    from behind.
    """
    length = ring.shape[1]
    runs = _Runs(ring, channels.add, dim=1)
    if alone is None:
        closing = _closing_by_sums(ring, channels, windows)
    else:
        closing = _closing_by_difference(runs, channels, windows)
        if len(alone):
            summed = _closing_by_sums(ring.index_select(2, alone), channels.few(alone), windows)
            for closed, exact in zip(closing, summed, strict=True):
                closed.index_copy_(1, alone, exact)
    for w, closed in zip(windows, closing, strict=True):
        values = channels.finish(runs.of(w))
        total = values.sum(0)
        with_block = _Runs(values, torch.add, dim=0).of(w).roll(w - 1, 0)
        yield total / length, closed.add_(total).sub_(with_block).div_(length - 1)


def _alone(ring: Float[Tensor, "1 l n"], channels: _Channels) -> Int[Tensor, " k"]:
    """Anchors with a block so much above its neighbours that nothing can be taken away from a sum with it."""
    beside = ring.roll(1, 1).add_(ring.roll(-1, 1))  # in every window that closes over the gap
    if channels.extra is not None:
        beside += channels.extra
    return torch.nonzero((ring > _MOST_CANCELLED * beside).any(1)[0]).flatten()


def _closing_by_difference(runs: "_Runs", channels: _Channels, windows: Sequence[int]) -> list[Float[Tensor, "l n"]]:
    """Sums of the statistic over the windows that close over a gap: those of one block more, less the block that left.

    A third of the work of adding the two sides up.
    """
    x = runs.of(1)[0]
    length, factor, found = len(x), torch.empty_like(x), []
    for w in windows:
        if w == 1:
            found.append(torch.zeros_like(x))
            continue
        longer = runs.of(w + 1)[0]
        if channels.extra is not None:
            longer = longer + channels.extra
        twice = torch.cat([longer, longer])
        left = (torch.sub(twice[length - a : 2 * length - a], x, out=factor) for a in range(1, w))
        found.append(channels.log_of_products(left, w - 1))
    return found


def _closing_by_sums(
    ring: Float[Tensor, "c l n"], channels: _Channels, windows: Sequence[int]
) -> list[Float[Tensor, "l n"]]:
    """The same by adding what lies on both sides of the gap: nothing cancels."""
    before, after = _beside(ring, channels, max(windows) - 1)
    return [
        channels.sum_of_finished(before[: w - 1], after[: w - 1][::-1]) if w > 1 else torch.zeros_like(ring[0])
        for w in windows
    ]


def _beside(ring: Float[Tensor, "c l n"], channels: _Channels, most: int) -> tuple[list[Tensor], list[Tensor]]:
    """Sums of the 1, 2, ..., `most` blocks before each block, and behind it; the latter with the extra term."""
    length = ring.shape[1]
    if most < 1:
        return [], []
    around = torch.cat([ring, ring, ring], 1)
    sides = ring.new_empty(2, most, *ring.shape)
    before, after = ([*side] for side in sides)
    before[0].copy_(around[:, length - 1 : 2 * length - 1])
    first = around[:, 1 : length + 1]
    after[0].copy_(first if channels.extra is None else channels.add(first, channels.extra))
    for a in range(1, most):
        channels.add(before[a - 1], around[:, length - a - 1 : 2 * length - a - 1], out=before[a])
        channels.add(after[a - 1], around[:, a + 1 : a + 1 + length], out=after[a])
    return before, after


def _all_others(
    every: Float[Tensor, "c s n"], channels: _Channels, layout: BlockLayout
) -> tuple[Float[Tensor, " n"], Float[Tensor, "b n"]]:
    """With all other groups as negatives, and without each block; by sums from both ends, so that nothing cancels."""
    before, after = channels.running_totals(every), channels.running_totals(every.flip(1)).flip(1)
    left, right = before[:, : layout.blocks], after[:, 1 : layout.blocks + 1]
    return channels.finish(before[:, -1]), channels.finish(channels.add(left, right))


__all__ = [
    "FEWEST_BLOCKS",
    "FEWEST_INTERACTING",
    "AnchorSums",
    "BlockLayout",
    "BlockShares",
    "Statistic",
    "WindowAverages",
    "some_anchors",
    "window_averages",
]
