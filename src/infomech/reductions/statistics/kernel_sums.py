"""Sums of the kernel exp(s / tau) along the rows and columns of a Gram matrix, in the log domain, by block."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .gram import Reduction, Tile
from .rows import GroupedRows, Span

# One exponential serves rows and columns, the kernel and its square, if both stay normal numbers: with no shift while
# 2 / tau is below the first bound, otherwise with a tile's largest entry at e^(second / 2) if the largest entry of each
# row and column lies within the second bound of it (in s / tau). Squares that are lost are then below e^-47 of a row's
# largest. Where that does not hold each row of each block is shifted by its own maximum.
_UNSHIFTED_TO = {torch.float32: 50.0, torch.float64: 600.0}
_COMMON_SHIFT_TO = {torch.float32: 40.0, torch.float64: 300.0}
_EXP_RANGE = 600.0  # exp(-600) is a normal number in float64
_LOG2_E = math.log2(math.e)  # powers of two are four times as fast as powers of e here, and as accurate
_NOTHING = -2.0  # stands for an entry that is left out: below every cosine, yet finite


class BlockedLogSums:
    """For each row, the log of the sum of weighted kernels over each block of the columns. float64.

    ``log_sums[i, b] = log sum over j in block b, outside i's group, of w_j exp(s_ij / tau)``.
    """

    def __init__(self, rows: int, blocks: int, device: torch.device) -> None:
        self.log_sums = torch.full((rows, blocks), -torch.inf, dtype=torch.float64, device=device)
        self.log_squares = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)

    def add(self, span: Span, block: int, log_sum: Tensor, log_square: Tensor) -> None:
        """Add logs of sums and of sums of squares over (a part of) one block, for the rows of a span."""
        here = self.log_sums[span.slice, block]
        self.log_sums[span.slice, block] = torch.logaddexp(here, log_sum)
        self.log_squares[span.slice] = torch.logaddexp(self.log_squares[span.slice], log_square)

    def merge(self, other: "BlockedLogSums") -> None:
        """Add another table of the same shape."""
        torch.logaddexp(self.log_sums, other.log_sums, out=self.log_sums)
        torch.logaddexp(self.log_squares, other.log_squares, out=self.log_squares)

    def log_total(self) -> Float[Tensor, " n"]:
        """The log of the sum over all blocks."""
        return self.log_sums.logsumexp(1)

    def log_without_blocks(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n b"]:
        """The same for some rows, each block left out in turn; by sums from both ends, so that nothing cancels."""
        sums = self.log_sums[rows]
        top = sums.amax(1, keepdim=True)
        if float((top - sums.where(sums.isfinite(), top)).amax()) < _EXP_RANGE:  # 20 times as fast as in the log domain
            terms = (sums - top).exp_()
            before = torch.nn.functional.pad(terms[:, :-1].cumsum(1), (1, 0))
            after = torch.nn.functional.pad(terms[:, 1:].flip(1).cumsum(1).flip(1), (0, 1))
            return before.add_(after).log_().add_(top)
        nothing = sums.new_full((len(sums), 1), -torch.inf)
        before = torch.cat([nothing, sums[:, :-1].logcumsumexp(1)], 1)
        after = torch.cat([sums[:, 1:].flip(1).logcumsumexp(1).flip(1), nothing], 1)
        return torch.logaddexp(before, after)

    def effective_count(self) -> Float[Tensor, " n"]:
        """(sum w kappa)^2 / sum (w kappa)^2: how many columns a row's softmax really sees (E2)."""
        return torch.exp(2 * self.log_total() - self.log_squares)


class KernelSums(Reduction):
    """Kernel sums at one temperature over the columns outside each row's group, and over the rows for each column.

    The square of the kernel, which is the kernel at tau / 2, is summed alongside for the effective count.

    Args:
        x: the rows of the sweep.
        y: its columns, or None for a symmetric sweep; then ``by_column`` is ``by_row``.
        temperature: tau > 0.

    Source: D3, E1, E2.
    """

    def __init__(self, x: GroupedRows, y: GroupedRows | None, *, temperature: float) -> None:
        self._x, self._y = x, x if y is None else y
        self._temperature, self._scale = temperature, 1 / temperature
        device = x.values.device
        self.by_row = BlockedLogSums(len(x), self._y.blocks, device)
        self.by_column = self.by_row if y is None else BlockedLogSums(len(self._y), x.blocks, device)
        self._symmetric = y is None
        self._unshifted = 2 * self._scale <= _UNSHIFTED_TO[x.values.dtype]
        self._reach = _COMMON_SHIFT_TO[x.values.dtype]

    def fork(self) -> "KernelSums":  # noqa: D102
        return KernelSums(self._x, None if self._symmetric else self._y, temperature=self._temperature)

    def merge(self, other: "KernelSums") -> None:  # noqa: D102
        self.by_row.merge(other.by_row)
        if not self._symmetric:
            self.by_column.merge(other.by_column)

    def update(self, tile: Tile) -> None:  # noqa: D102
        want_columns = tile.mirrored or not self._symmetric
        if self._unshifted:
            self._update_with_one_shift(tile, 0.0, want_columns)
            return
        source = tile.similarity
        if tile.own is not None:
            source = source.masked_fill(tile.own, _NOTHING)
        tops = torch.stack([torch.stack(source.amax(dim).aminmax()) for dim in ((1, 0) if want_columns else (1,))])
        lowest, highest = float(tops[:, 0].min()), float(tops[:, 1].max())
        if (highest - lowest) * self._scale <= self._reach:
            self._update_with_one_shift(tile, highest * self._scale - self._reach / 2, want_columns)
            return
        for block, cut in tile.cols.blocks:
            self._add_shifted(self.by_row, tile.rows, block, source[:, cut], self._weights(self._y, tile.cols, cut))
        if want_columns:
            for block, cut in tile.rows.blocks:
                part = source[cut].T
                self._add_shifted(self.by_column, tile.cols, block, part, self._weights(self._x, tile.rows, cut))

    def _update_with_one_shift(self, tile: Tile, shift: float, want_columns: bool) -> None:
        kernel, square = tile.buffer("kernel"), tile.buffer("square")
        torch.mul(tile.similarity, self._scale * _LOG2_E, out=kernel)
        if shift:
            kernel.sub_(shift * _LOG2_E)
        kernel.exp2_()
        if tile.own is not None:
            kernel.masked_fill_(tile.own, 0.0)
        torch.mul(kernel, kernel, out=square)
        for block, cut in tile.cols.blocks:
            weights = self._weights(self._y, tile.cols, cut)
            self._add_logs(self.by_row, tile.rows, block, (kernel[:, cut], square[:, cut]), shift, weights)
        if want_columns:
            for block, cut in tile.rows.blocks:
                weights = self._weights(self._x, tile.rows, cut)
                self._add_logs(self.by_column, tile.cols, block, (kernel[cut].T, square[cut].T), shift, weights)

    @staticmethod
    def _weights(rows: GroupedRows, span: Span, cut: slice) -> Tensor | None:
        return None if rows.uniform else rows.tile_weights[span.start + cut.start : span.start + cut.stop]

    def _add_shifted(
        self, table: BlockedLogSums, span: Span, block: int, similarity: Tensor, weights: Tensor | None
    ) -> None:
        top = similarity.amax(1)
        kernel = torch.sub(similarity, top[:, None]).mul_(self._scale * _LOG2_E).exp2_()
        kernel.masked_fill_(similarity == _NOTHING, 0.0)
        self._add_logs(table, span, block, (kernel, kernel.square()), top.double() * self._scale, weights)

    @staticmethod
    def _add_logs(
        table: BlockedLogSums,
        span: Span,
        block: int,
        kernels: tuple[Tensor, Tensor],
        shift: Tensor | float,
        weights: Tensor | None,
    ) -> None:
        kernel, square = kernels
        if weights is None:
            total, squares = kernel.sum(1), square.sum(1)
        else:
            total, squares = torch.mv(kernel, weights), torch.mv(square, weights.square())
        table.add(span, block, total.double().log_().add_(shift), squares.double().log_().add_(2 * shift))


__all__ = ["BlockedLogSums", "KernelSums"]
