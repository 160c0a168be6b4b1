"""The rows that a sweep visits: unit vectors with weights, groups, and the jackknife's blocks."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """A stripe of consecutive rows, and how the blocks cut it."""

    start: int
    stop: int
    blocks: tuple[tuple[int, slice], ...]  # (block, slice of the stripe that lies in it)
    _indicators: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, compare=False, repr=False)
    _ends: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)
    _widths: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return self.stop - self.start

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """Runs of neighbouring blocks of equal width: the first row of each run, the blocks in it, and their width."""
        found: list[tuple[int, int, int]] = []
        for _, cut in self.blocks:
            width = cut.stop - cut.start
            if found and found[-1][2] == width:
                start, count, _ = found.pop()
                found.append((start, count + 1, width))
            else:
                found.append((cut.start, 1, width))
        return tuple(found)

    @property
    def slice(self) -> "slice":
        """The stripe as a slice of the whole."""
        return slice(self.start, self.stop)

    def widths(self, device: torch.device) -> tuple[Int[Tensor, " k"], Int[Tensor, " a"]]:
        """How many rows each block has in the stripe, and which of these blocks each row lies in."""
        if device not in self._widths:
            widths = torch.tensor([cut.stop - cut.start for _, cut in self.blocks])
            places = torch.repeat_interleave(torch.arange(len(widths)), widths)
            self._widths[device] = widths.to(device), places.to(device)
        return self._widths[device]

    def ends(self, device: torch.device) -> Int[Tensor, " e"]:
        """Where the blocks begin in the stripe, and where the last one ends, as kernels take it."""
        if device not in self._ends:
            bounds = [self.blocks[0][1].start, *(cut.stop for _, cut in self.blocks)]
            self._ends[device] = torch.tensor(bounds, dtype=torch.int32).to(device)
        return self._ends[device]

    def indicator(self, weights: Float[Tensor, " a"] | None, like: Tensor) -> Float[Tensor, "a k"]:
        """Which block each row of the stripe lies in, as a matrix (of zeros and weights) that a product sums by."""
        key = like.dtype, like.device
        if key not in self._indicators:
            ends = torch.tensor([cut.stop for _, cut in self.blocks])
            first = self.blocks[0][1].start
            at = torch.arange(len(self))
            inside = (at >= first) & (at < ends[-1])
            block = torch.bucketize(at, ends, right=True).clamp_max(len(ends) - 1)
            ones = torch.nn.functional.one_hot(block, len(ends)) * inside[:, None]
            self._indicators[key] = ones.to(dtype=like.dtype).to(like.device)
        found = self._indicators[key]
        return found if weights is None else torch.mul(found, weights[:, None])


@dataclass(frozen=True)
class GroupedRows:
    """Unit rows in the order of their groups, with weights, cut into blocks of whole groups.

    Args:
        values: (n, d) unit rows; the dtype of the sweep's tiles.
        weights: (n,) float64, how often a row counts (the number of pairs that name it).
        groups: (n,) group of each row, ascending.
        edges: block b holds the rows edges[b] to edges[b + 1], at least one; groups are never cut.
        negatives: (n,) float64, how often a row counts as somebody's negative in kernel sums, 0 to leave it out there;
            None for `weights`.
    """

    values: Float[Tensor, "n d"]
    weights: Float[Tensor, " n"]
    groups: Int[Tensor, " n"]
    edges: tuple[int, ...]
    negatives: Float[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.edges) - 1

    @cached_property
    def uniform(self) -> bool:
        """Whether every weight is 1, so that a weighted sum is a plain one."""
        return bool((self.weights == 1).all())

    @cached_property
    def tile_weights(self) -> Float[Tensor, " n"]:
        """The weights in the dtype of the tiles (whole numbers: exact in float32)."""
        return self.weights.to(self.values.dtype)

    @cached_property
    def negative_weights(self) -> Float[Tensor, " n"] | None:
        """Weights of the rows as negatives in the dtype of the tiles; None where every one is 1."""
        if self.negatives is None:
            return None if self.uniform else self.tile_weights
        return None if bool((self.negatives == 1).all()) else self.negatives.to(self.values.dtype)

    @cached_property
    def counted(self) -> Bool[Tensor, " n"] | None:
        """Which rows count as negatives at all; None where every one does."""
        weights = self.negative_weights
        if weights is None:
            return None
        return None if bool((weights > 0).all()) else weights > 0

    @cached_property
    def largest_norm(self) -> float:
        """The largest length of a row."""
        return float(torch.linalg.vector_norm(self.values, dim=1).max())

    @cached_property
    def block_of(self) -> Int[Tensor, " n"]:
        """Block of each row."""
        sizes = torch.tensor(self.edges).diff().to(self.groups.device)
        return torch.repeat_interleave(torch.arange(self.blocks, device=self.groups.device), sizes)

    def span(self, start: int, stop: int) -> Span:
        """The stripe of rows from start to stop, at least one, wherever it begins and ends."""
        if (start, stop) in self._known_spans:
            return self._known_spans[start, stop]
        first, last = bisect_right(self.edges, start) - 1, bisect_left(self.edges, stop)
        ends = ((b, max(self.edges[b], start), min(self.edges[b + 1], stop)) for b in range(first, last))
        span = Span(start, stop, tuple((b, slice(low - start, high - start)) for b, low, high in ends))
        self._known_spans[start, stop] = span
        return span

    @cached_property
    def _known_spans(self) -> dict[tuple[int, int], Span]:
        return {}

    def spans(self, longest: int) -> Iterator[Span]:
        """Stripes of at most `longest` rows: several whole blocks each, or a part of one block."""
        first = 0
        while first < self.blocks:
            start, last = self.edges[first], first + 1
            while last < self.blocks and self.edges[last + 1] - start <= longest:
                last += 1
            stop = self.edges[last]
            if stop - start <= longest:
                cuts = [(b, slice(self.edges[b] - start, self.edges[b + 1] - start)) for b in range(first, last)]
                yield Span(start, stop, tuple(cuts))
            else:
                for a in range(start, stop, longest):
                    b = min(a + longest, stop)
                    yield Span(a, b, ((first, slice(0, b - a)),))
            first = last


__all__ = ["GroupedRows", "Span"]
