"""Random batches as windows of blocks of groups: averages over them, and the same when each block is left out (E8).

Groups stand in random order and are dealt to blocks of equal size, a power of two. A window of w consecutive blocks,
cyclic and without the anchor's own block, is a random batch of w times as many groups. Smaller batches are parts of
blocks. Everything here is a function of a table: for each anchor, sums of kernels over the segments of the blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

FEWEST_BLOCKS = 32  # of the jackknife, where there are as many groups: at least 31 degrees of freedom
_LINEAR_RANGE = 600.0  # exp(-600) is a normal number in float64
_CHUNK = 1024  # anchors at a time

Statistic = Literal["log", "count"]


@dataclass(frozen=True)
class BlockLayout:
    """How groups in random order are dealt to blocks, and how each block is cut into segments.

    Block b holds the groups b * size to (b + 1) * size; the groups after the last block are anchors only, except where
    all other groups are negatives. A block is cut so that it holds `parts` (or, where that is more than there are,
    all) sub-blocks of every size 1, 2, 4, ..., size that are unions of neighbouring segments.
    """

    groups: int
    size: int  # groups in a block, a power of two
    blocks: int
    parts: int  # sub-blocks of each size that a block offers at most, a power of two

    @classmethod
    def of(cls, groups: int, *, parts: int = 4, fewest: int = FEWEST_BLOCKS) -> "BlockLayout":
        """The largest blocks of which there are at least `fewest`; single groups where there are too few groups."""
        size = 1
        while groups // (2 * size) >= fewest:
            size *= 2
        return cls(groups, size, groups // size, min(max(parts, 2), size))

    @property
    def widths(self) -> tuple[int, ...]:
        """Groups in each segment of a block."""
        if self.parts < 2:
            return (1,) * self.size
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
        return tuple(sorted({*powers, *self.last_doubling}))

    @property
    def last_doubling(self) -> tuple[int, int]:
        """Blocks in the two windows of the last doubling: a replicate has lost the anchor's block and one more."""
        half = max((self.blocks - 2) // 2, 1)
        return half, 2 * half

    @property
    def negatives(self) -> tuple[int, ...]:
        """The N of every column of the averages: parts of blocks, windows, and all other groups."""
        parts = [2**k for k in range(self.size.bit_length() - 1)]
        return (*parts, *(w * self.size for w in self.windows), self.groups - 1)


@dataclass(frozen=True)
class AnchorSums:
    """Logs of the sums of kernels, and of their squares, over the segments of a layout; some anchors' rows.

    ``extra`` is the log of a term that every window's sum gains, the positive's own kernel say.
    """

    log_sums: Float[Tensor, "n s"]
    log_squares: Float[Tensor, "n s"] | None
    blocks: Int[Tensor, " n"]  # block of each anchor; the number of blocks for anchors in none
    weights: Float[Tensor, " n"]
    extra: Float[Tensor, " n"] | None = None


@dataclass(frozen=True)
class WindowAverages:
    """Averages over anchors and windows at each N of a layout, and what they are made of.

    ``replicates[b]`` leaves the groups of block b out, as anchors and as negatives, and forms the windows again.
    """

    values: Float[Tensor, " k"]
    replicates: Float[Tensor, "b k"]
    by_anchor: Float[Tensor, "n k"]

    def __add__(self, other: "WindowAverages") -> "WindowAverages":
        return WindowAverages(
            self.values + other.values, self.replicates + other.replicates, self.by_anchor + other.by_anchor
        )


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
    without = sums.log_sums.new_zeros(b, len(layout.negatives))
    inside = torch.nonzero(sums.blocks < b).flatten()
    outside = torch.nonzero(sums.blocks >= b).flatten()
    for rows in (*inside.split(_CHUNK), *outside.split(_CHUNK)):
        if len(rows):
            by_anchor[rows] = _chunk(sums, rows, layout, statistic, without)
    weight = sums.weights.sum()
    lost = sums.weights.new_zeros(b + 1).index_add_(0, sums.blocks, sums.weights)[:b]
    values = (sums.weights[:, None] * by_anchor).sum(0) / weight
    return WindowAverages(values, without / (weight - lost)[:, None], by_anchor)


def _chunk(
    sums: AnchorSums, rows: Tensor, layout: BlockLayout, statistic: Statistic, without: Tensor
) -> Float[Tensor, "n k"]:
    """Averages of some anchors, all of them in blocks or none; adds their weighted replicates to `without`."""
    channels = _Channels.of(sums, rows, statistic)
    own, weights = sums.blocks[rows], sums.weights[rows]
    b, owned = layout.blocks, int(own[0]) < layout.blocks
    length = b - 1 if owned else b
    start = own + 1 if owned else torch.zeros_like(own)
    cycle = (start[:, None] + torch.arange(length, device=own.device)) % b  # blocks in their order, without the own
    columns, replicates = [], []
    body = channels.values[..., : b * len(layout.widths)].unflatten(-1, (b, -1))
    level = body
    for parts in _levels(body, layout, channels.add):
        level = parts
        if parts.shape[-1] == 1:
            break
        block_means = channels.finish(parts).mean(-1).gather(1, cycle)
        total = block_means.sum(1, keepdim=True)
        columns.append(total / length)
        replicates.append((total - block_means) / (length - 1))
    whole = level[..., 0]
    ring = whole.gather(-1, cycle.expand(*whole.shape[:-1], length))
    for value, replicate in _cyclic(ring, channels, layout.windows):
        columns.append(value)
        replicates.append(replicate)
    value, every = _all_others(whole, channels, sums, rows, layout)
    columns.append(value)
    replicates.append(every.gather(1, cycle))
    for k, replicate in enumerate(replicates):
        without[:, k] += replicate.new_zeros(b).index_add_(0, cycle.flatten(), (weights[:, None] * replicate).flatten())
    return torch.cat(columns, 1)


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
        reach = float((top - logs.where(logs.isfinite(), top)).amax())
        counted = statistic == "count"
        linear = reach < _LINEAR_RANGE / (2 if counted else 1)
        stack = [logs - top]
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


def _levels(body: Tensor, layout: BlockLayout, add: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Sums over sub-blocks of 1, 2, 4, ..., size groups, (..., b, sub-blocks) each, from the segments (..., b, s)."""
    widths = torch.tensor(layout.widths)
    level = body[..., : int((widths == 1).sum())]
    out, width = [level], 1
    while width < layout.size:
        width *= 2
        merged = add(level[..., 0::2], level[..., 1::2])
        at = torch.nonzero(widths == width).flatten()
        level = merged if len(at) == 0 else torch.cat([merged, body[..., int(at[0]) : int(at[-1]) + 1]], -1)
        out.append(level)
    return out


def _cyclic(ring: Tensor, channels: _Channels, windows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """For each window size the average over cyclic windows, (n, 1), and without each block of the ring, (n, l).

    A block that leaves takes its w windows along; w - 1 new ones close over the gap, a blocks from before it and w - a
    from behind. Sums of runs are built up by adding, never by subtracting, so that nothing cancels.
    """
    length = ring.shape[-1]
    runs = [torch.cat([ring, ring], -1)]  # runs[a - 1][..., i]: blocks i to i + a - 1; twice around
    for a in range(1, max(windows)):
        runs.append(channels.add(runs[-1], runs[0].roll(-a, -1)))
    out = []
    for w in windows:
        values = channels.finish(runs[w - 1][..., :length])
        total = values.sum(1, keepdim=True)
        twice = torch.cat([values, values], 1)
        kept = total.expand(-1, length).clone()
        for k in range(w):  # windows that start at q - k hold block q
            kept -= twice[:, length - k : 2 * length - k]
        if w > 1:
            pieces = []
            for a in range(1, w):
                before = runs[a - 1][..., length - a : 2 * length - a]  # ends just before q
                after = runs[w - a - 1][..., 1 : length + 1]  # starts just behind q
                pieces.append((before, after))
            kept += channels.sum_of_finished(pieces)
        out.append((total / length, kept / (length - 1)))
    return out


def _all_others(
    whole: Tensor, channels: _Channels, sums: AnchorSums, rows: Tensor, layout: BlockLayout
) -> tuple[Tensor, Tensor]:
    """With all other groups as negatives, (n, 1), and without each block, (n, b)."""
    if layout.left_over:
        whole = torch.cat([whole, channels.values[..., -1:]], -1)
    empty = torch.zeros_like(whole[..., :1]) if channels.linear else torch.full_like(whole[..., :1], -torch.inf)
    before, after = [empty], [empty]
    for k in range(whole.shape[-1]):
        before.append(channels.add(before[-1], whole[..., k : k + 1]))
        after.append(channels.add(after[-1], whole[..., whole.shape[-1] - 1 - k :][..., :1]))
    total = channels.finish(before[-1])
    left = torch.cat(before[: layout.blocks], -1)
    right = torch.cat(after[::-1][1 : layout.blocks + 1], -1)
    return total, channels.finish(channels.add(left, right))


__all__ = ["FEWEST_BLOCKS", "AnchorSums", "BlockLayout", "Statistic", "WindowAverages", "window_averages"]
