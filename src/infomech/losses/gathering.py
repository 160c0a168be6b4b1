"""Rows of all ranks on every rank, this rank's own first, with gradients that find their way home."""

from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..reductions.losses.kept import outside_graphs
from .distributed import Shards, all_gather_shards, waiting


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, shards: Shards) -> Tensor:
        ctx.shards = shards
        parts = [tensors[0] for tensors in all_gather_shards(shards, [rows.detach()])]
        return torch.cat([parts[owner] for owner in _order(shards)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        shards, order = ctx.shards, _order(ctx.shards)
        parts = dict(zip(order, cotangents[0].split([shards.sizes[owner] for owner in order]), strict=True))
        whole = torch.cat([parts[owner] for owner in range(len(order))])
        with waiting(shards.ranks):
            dist.all_reduce(whole, group=shards.ranks.group)
        return whole.split(shards.sizes)[shards.ranks.rank], None


def _order(shards: Shards) -> list[int]:
    """The ranks in the order in which their rows stand: this one, the next, and so on around."""
    world, rank = shards.ranks.world, shards.ranks.rank
    return [(rank + k) % world for k in range(world)]


@overload
def gathered(rows: Tensor, shards: Shards | None) -> Tensor: ...
@overload
def gathered(rows: None, shards: Shards | None) -> None: ...
@overload
def gathered(rows: Tensor | None, shards: Shards | None) -> Tensor | None: ...
def gathered(rows: Tensor | None, shards: Shards | None) -> Tensor | None:
    """All ranks' rows, this rank's first, so that row i of a rank stays row i; without ranks the rows themselves.

    A collective call, and its backward another. The gradient of a row is summed over ranks.
    """
    if rows is None or shards is None:
        return rows
    return _gathered(rows, shards)


@outside_graphs
def _gathered(rows: Tensor, shards: Shards) -> Tensor:
    out: Tensor = _GatherRows.apply(rows, shards)  # type: ignore[no-untyped-call]
    return out


def in_rank_order(rows: Tensor, shards: Shards | None) -> Tensor:
    """Gathered rows in the order of the ranks, the same on all of them."""
    if shards is None:
        return rows
    order = _order(shards)
    parts = dict(zip(order, rows.split([shards.sizes[owner] for owner in order]), strict=True))
    return torch.cat([parts[owner] for owner in range(len(order))])


__all__ = ["gathered", "in_rank_order"]
