"""Logs of sums of exponentials, gathered part by part: the accumulator of losses and statistics."""

import math
from typing import Any

import torch
from torch import Tensor

NEGLIGIBLE = -80.0  # exponents below are raised to it: 2e-35 of the largest term, and no slow subnormal numbers


class LogSums:
    """log sum exp of many sums at once; each is total * exp(peak), in double precision.

    With a fixed `shift` the peaks are that shift, and adding is plain addition. With ``shift=None`` each sum keeps the
    largest level that it has met, and any scores are safe.

    Args:
        shape: of the sums.
        shift: that all tiles share, or None.
        device: of the tiles.
        with_squares: keep the sums of squares beside them, at twice the level.

    >>> sums = LogSums(2, shift=None, device=torch.device("cpu"))
    >>> sums.add(slice(0, 1), torch.tensor([1.0]), 5000.0)
    >>> sums.value().tolist()
    [5000.0, -inf]
    """

    def __init__(self, *shape: int, shift: float | None, device: torch.device, with_squares: bool = False) -> None:
        self.shift = shift
        start = torch.full((), -math.inf if shift is None else shift, dtype=torch.float64, device=device)
        self.peak = start.repeat(*shape) if shift is None else start.expand(shape)
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros(shape, dtype=torch.float64, device=device) if with_squares else None

    def add(self, where: Any, totals: Tensor, level: Tensor | float, squares: Tensor | None = None) -> None:
        """Add totals * exp(level) to the sums that an index selects; with a fixed shift the level is one number."""
        if self.shift is None:
            levels = torch.as_tensor(level, dtype=torch.float64, device=totals.device)
            self._combine(where, totals, torch.where(totals > 0, levels, -math.inf), squares)
            return
        if level != self.shift:
            factor = math.exp(float(level) - self.shift)
            totals, squares = totals.double() * factor, None if squares is None else squares.double() * factor**2
        self.total[where] += totals
        if self.squares is not None and squares is not None:
            self.squares[where] += squares

    def absorb_exponentials(self, tile: Tensor, where: slice, dim: int, weights: Tensor | None = None) -> None:
        """Add the (weighted) sums over `dim` of a tile that holds exp(score - shift)."""
        if weights is None:
            self.total[where] += tile.sum(dim)
        else:
            self.total[where] += torch.mv(tile if dim == 1 else tile.mT, weights)

    def absorb_scores(self, tile: Tensor, scratch: Tensor, where: slice, dim: int, terms: Tensor | None = None) -> None:
        """Add the sums over `dim` of the exponentials of a tile that holds scores, which is left as it is.

        `terms` are added to the scores, one for each entry along `dim`.
        """
        scores = tile if terms is None else torch.add(tile, terms.unsqueeze(1 - dim), out=scratch)
        top = torch.maximum(self.peak[where], scores.amax(dim).to(torch.float64))
        level = torch.where(top == -math.inf, 0.0, top)  # nothing but excluded entries so far
        torch.sub(scores, level.to(tile.dtype).unsqueeze(dim), out=scratch).clamp_(min=NEGLIGIBLE).exp_()
        self._combine(where, scratch.sum(dim), top)

    def merge(self, other: "LogSums") -> None:
        """Add sums over further columns of the same rows."""
        if self.shift is None:
            self._combine(..., other.total, other.peak, other.squares)
            return
        self.total += other.total
        if self.squares is not None and other.squares is not None:
            self.squares += other.squares

    def _combine(self, where: Any, totals: Tensor, peaks: Tensor, squares: Tensor | None = None) -> None:
        """Add totals * exp(peaks), at the larger of the two levels."""
        here = self.peak[where]
        top = torch.maximum(here, peaks)
        level = torch.where(top == -math.inf, 0.0, top)
        old, new = torch.exp(here - level), torch.exp(peaks - level)
        self.total[where] = self.total[where] * old + totals * new
        if self.squares is not None and squares is not None:
            self.squares[where] = self.squares[where] * old.square() + squares * new.square()
        self.peak[where] = top

    def value(self, where: Any = ...) -> Tensor:
        """The log-sums, in double precision; -inf for a sum without entries."""
        return self.total[where].log() + self.peak[where]

    def value_of_squares(self, where: Any = ...) -> Tensor:
        """The logs of the sums of squares."""
        assert self.squares is not None
        return self.squares[where].log() + 2 * self.peak[where]


__all__ = ["NEGLIGIBLE", "LogSums"]
