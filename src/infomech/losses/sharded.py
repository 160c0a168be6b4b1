"""Log-sums of a batch that is sharded over ranks: the tiled core, with shards in place of blocks."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .._typing import Rows, Scalar
from ..reductions.losses.infonce import PairedLogSums, positive_scores
from ..reductions.losses.passes import (
    Side,
    add_scaled_rows,
    gather,
    gather_within,
    inner_product,
    paired_scores,
    scatter,
    scatter_within,
)
from ..reductions.losses.sigmoid import accumulate
from ..reductions.losses.tiles import (
    Exclusion,
    LogSums,
    Nothing,
    OwnRow,
    SameGroup,
    compute_dtype,
    fixed_shift,
    outside_graphs,
    underflowed,
    without_autocast,
)
from .distributed import Shards, tour


def sharded_log_sums(
    x: Rows, y: Rows, *, inverse_temperature: Scalar, shards: Shards, within: bool, groups: Tensor | None
) -> PairedLogSums:
    """`paired_log_sums` of this rank's rows against the whole batch; a collective call, forward and backward."""
    out = _apply_log_sums(x, y, inverse_temperature, shards, within, groups)
    return PairedLogSums(out[0], out[1], out[2], *((out[3], out[4]) if within else (None, None)))


def sharded_softplus_sum(x: Rows, y: Rows, *, inverse_temperature: Scalar, bias: Scalar, shards: Shards) -> Scalar:
    """`softplus_sum` of this rank's rows of x against all rows of y but its own partner; a collective call."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, inverse_temperature, bias))
    return _apply_softplus(x, y, inverse_temperature, bias, shards, wanted)


def _counts_here(rank: int, owner: int, world: int) -> bool:
    """Whether this rank handles the pair of shards (rank, owner) within a modality: each pair is met at two ranks."""
    ahead = (owner - rank) % world
    return 2 * ahead < world or (2 * ahead == world and rank < owner)


def _exclusion(rank: int, owner: int, groups: Tensor | None, theirs: Tensor | None) -> Exclusion:
    if groups is not None and theirs is not None:
        return SameGroup(groups, theirs)
    return OwnRow() if rank == owner else Nothing()


def _view(state: Tensor, shift: float | None) -> LogSums:
    """Log-sums that read and write the two columns, peak and total, of a travelling tensor."""
    sums = LogSums(0, shift=shift, device=state.device)
    sums.peak, sums.total = state[:, 0], state[:, 1]
    return sums


def _merge_log_sums(first: list[Tensor], second: list[Tensor], shift: float | None) -> None:
    for a, b in zip(first, second, strict=True):
        merged = _view(a, shift)
        merged.merge(_view(b, shift))
        a[:, 0], a[:, 1] = merged.peak, merged.total


class _ShardedLogSums(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, shards: Shards, within: bool, groups: Tensor | None
    ) -> tuple[Tensor, ...]:
        work = scale.to(compute_dtype(x, y))
        own = torch.empty(len(x), dtype=work.dtype, device=x.device)
        shift = fixed_shift(shards.bound, work.dtype)
        values: list[Tensor] = []
        for attempt in (shift, None):
            sums = _sweep(x, y, work, shards, within, groups, attempt, own)
            values, shift = [part.value() for part in sums], attempt
            if attempt is None:
                break
            lost = torch.stack([underflowed(part, shards.total, work.dtype) for part in sums]).any().to(torch.int32)
            dist.all_reduce(lost, op=dist.ReduceOp.MAX, group=shards.ranks.group)  # all ranks sweep again, or none
            if not bool(lost):
                break
        ctx.save_for_backward(x, y, scale, *values)
        ctx.shards, ctx.shift, ctx.within, ctx.groups = shards, shift, within, groups
        positive = positive_scores(own, paired_scores(x, y, scale), torch.maximum(values[0], values[1]))
        return positive, *values

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, *values = ctx.saved_tensors
        positive, *rest = cotangents
        shards, shift, rank = ctx.shards, ctx.shift, ctx.shards.ranks.rank
        work = scale.to(compute_dtype(x, y))
        size = torch.stack([c.abs().max() for c in cotangents]).max()
        dist.all_reduce(size, op=dist.ReduceOp.MAX, group=shards.ranks.group)
        unit = torch.where(size > 0, size, 1.0)
        rest = [c / unit for c in rest]
        grad_x, grad_y = (torch.zeros_like(z, dtype=work.dtype) for z in (x, y))
        options: dict[str, Any] = {"scale": work, "shift": shift}
        groups = [] if ctx.groups is None else [ctx.groups]

        def visit(owner: int, carried: list[Tensor], sums: list[Tensor]) -> None:
            y_there, c, h = carried[0], carried[1], carried[2]
            exclusion = _exclusion(rank, owner, ctx.groups, carried[-1] if groups else None)
            scatter(
                x,
                y_there,
                row=Side(values[0], rest[0], grad_x),
                col=Side(c, h, sums[0]),
                exclusion=exclusion,
                **options,
            )
            if not ctx.within or not _counts_here(rank, owner, shards.ranks.world):
                return
            x_there, rx, gx, ry, gy = carried[3:8]
            if owner == rank:
                scatter_within(x, row=Side(values[2], rest[2], grad_x), exclusion=exclusion, **options)
                scatter_within(y, row=Side(values[3], rest[3], grad_y), exclusion=exclusion, **options)
                return
            here = (Side(values[2], rest[2], grad_x), Side(values[3], rest[3], grad_y))
            there = (Side(rx, gx, sums[1]), Side(ry, gy, sums[0]))
            for k, (z, z_there) in enumerate(((x, x_there), (y, y_there))):
                scatter(z, z_there, row=here[k], col=there[k], exclusion=exclusion, **options)

        carried = [y, values[1], rest[1]]
        sums = [torch.zeros_like(grad_y)]
        if ctx.within:
            carried += [x, values[2], rest[2], values[3], rest[3]]
            sums.append(torch.zeros_like(grad_x))
        home = tour(shards, carried + groups, sums, visit)
        grad_y += home[0]
        if ctx.within:
            grad_x += home[1]
        add_scaled_rows(grad_x, y, positive / unit)
        add_scaled_rows(grad_y, x, positive / unit)
        # By Euler's theorem both rows' gradients hold each score twice; summed over ranks it is all of it.
        grad_scale = (inner_product(x, grad_x) + inner_product(y, grad_y)) * (unit / 2)
        factor = (unit * scale).to(work.dtype)
        return grad_x.mul_(factor).to(x.dtype), grad_y.mul_(factor).to(y.dtype), grad_scale, None, None, None


def _sweep(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    shards: Shards,
    within: bool,
    groups: Tensor | None,
    shift: float | None,
    own: Tensor,
) -> list[LogSums]:
    """Forward: rows of x and y here against the shards of all ranks; columns' sums travel with their shard."""
    rank, world = shards.ranks.rank, shards.ranks.world
    rows = [LogSums(len(x), shift=shift, device=x.device) for _ in range(3 if within else 1)]
    start = torch.tensor([-math.inf if shift is None else shift, 0.0], dtype=torch.float64, device=x.device)
    states = [start.repeat(len(x), 1) for _ in range(3 if within else 1)]

    def visit(owner: int, carried: list[Tensor], sums: list[Tensor]) -> None:
        y_there = carried[0]
        exclusion = _exclusion(rank, owner, groups, carried[-1] if groups is not None else None)
        cols = [_view(state, shift) for state in sums]
        at_home = own if owner == rank else None
        gather(x, y_there, scale=scale, exclusion=exclusion, rows=rows[0], cols=cols[0], own=at_home)
        if within and _counts_here(rank, owner, world):
            for k, (z, z_there) in enumerate(((x, carried[1]), (y, y_there)), start=1):
                if owner == rank:
                    gather_within(z, scale=scale, exclusion=exclusion, rows=rows[k])
                else:
                    gather(z, z_there, scale=scale, exclusion=exclusion, rows=rows[k], cols=cols[k])

    carried = [y, *([x] if within else []), *([groups] if groups is not None else [])]
    home = tour(shards, carried, states, visit, lambda a, b: _merge_log_sums(a, b, shift))
    arrived = [_view(state, shift) for state in home]
    for part, more in zip(rows[1:], arrived[1:], strict=True):
        part.merge(more)
    return [rows[0], arrived[0], *rows[1:]]


class _ShardedSoftplus(Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, shards: Shards, wanted: bool) -> Tensor:
        dtype = compute_dtype(x, y)
        rank = shards.ranks.rank
        grad_x, grad_y = (torch.zeros_like(z, dtype=dtype) for z in (x, y))
        totals = torch.zeros(2, dtype=torch.float64, device=x.device)

        def visit(owner: int, carried: list[Tensor], sums: list[Tensor]) -> None:
            value, slope = accumulate(
                x,
                carried[0],
                scale=scale,
                bias=bias,
                exclusion=OwnRow() if owner == rank else Nothing(),
                gradients=(grad_x, sums[0]) if wanted else None,
            )
            totals.add_(torch.stack([value, slope]))

        (home,) = tour(shards, [y], [grad_y], visit)
        if wanted:
            ctx.save_for_backward(grad_x, home, inner_product(x, grad_x), totals[1], scale)
            ctx.dtypes = x.dtype, y.dtype
        return totals[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_y, grad_scale, slope, scale = ctx.saved_tensors
        (g,) = cotangents
        factor = (g * scale).to(grad_x.dtype)
        grads = (grad_x * factor).to(ctx.dtypes[0]), (grad_y * factor).to(ctx.dtypes[1])
        return *grads, grad_scale * g, slope * g, None, None


@outside_graphs
def _apply_log_sums(
    x: Tensor, y: Tensor, scale: Tensor, shards: Shards, within: bool, groups: Tensor | None
) -> tuple[Tensor, ...]:
    out: tuple[Tensor, ...] = _ShardedLogSums.apply(x, y, scale, shards, within, groups)  # type: ignore[no-untyped-call]
    return out


@outside_graphs
def _apply_softplus(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, shards: Shards, wanted: bool) -> Tensor:
    out: Tensor = _ShardedSoftplus.apply(x, y, scale, bias, shards, wanted)  # type: ignore[no-untyped-call]
    return out


__all__ = ["sharded_log_sums", "sharded_softplus_sum"]
