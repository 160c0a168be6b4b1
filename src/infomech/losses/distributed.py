"""The losses across ranks: rows sharded by rank, values and gradients those of one process on the whole batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .._checks import InputError
from .._typing import Rows, Scalar

Exchange = Literal["ring", "gather"]
Checked = TypeVar("Checked")


@dataclass(frozen=True)
class Ranks:
    """The processes that share a batch, and how their rows travel.

    Args:
        group: a process group; None is the default group, all ranks.
        exchange: ``ring`` passes one shard at a time from rank to rank, so that a rank holds its own rows and one
            other shard; ``gather`` collects all shards first, which is faster where they fit. The numbers are the same.

    Source: D7 over a sharded batch.
    """

    group: dist.ProcessGroup | None = None
    exchange: Exchange = "ring"

    def __post_init__(self) -> None:
        if self.exchange not in ("ring", "gather"):
            raise InputError(f"exchange is {self.exchange!r}; expected 'ring' or 'gather'")
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError("torch.distributed has no process group; call torch.distributed.init_process_group first")

    @property
    def rank(self) -> int:
        """The place of this process among the ranks."""
        return dist.get_rank(self.group)

    def globally(self, rank: int) -> int:
        """The number by which point-to-point calls know one of the ranks."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return dist.get_world_size(self.group)


@dataclass(frozen=True)
class Shards:
    """What the ranks agreed on before any rows travel."""

    ranks: Ranks
    sizes: list[int]
    bound: float  # on every score of the whole batch

    @property
    def total(self) -> int:
        """Rows of the whole batch."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Local(Generic[Checked]):
    """What the checks of one rank give: a value of its own, and what goes to the others."""

    value: Checked
    bound: float  # on every score of this rank
    size: int  # its rows
    shared: list[tuple[str, Any]]  # by name, what all ranks must have alike


def agree(ranks: Ranks, check: Callable[[], Local[Checked]]) -> tuple[Checked, list[float], list[int]]:
    """Run the local checks, tell all ranks how they went, and fail everywhere if they failed anywhere.

    Args:
        ranks: the ranks.
        check: the checks of this rank; raises InputError.

    Returns:
        This rank's value, the bounds of all ranks, and their row counts.

    Raises:
        InputError: on every rank, naming the first rank whose input cannot be used or differs from rank 0's.
    """
    mine: Local[Checked] | None = None
    said: dict[str, Any]
    try:
        mine = check()
        said = {"error": None, "bound": mine.bound, "size": mine.size, "shared": mine.shared}
    except InputError as error:
        said = {"error": str(error)}
    everyone: list[Any] = [None] * ranks.world
    dist.all_gather_object(everyone, said, group=ranks.group)
    for rank, told in enumerate(everyone):
        if told["error"] is not None:
            raise InputError(f"rank {rank}: {told['error']}")
    for rank, told in enumerate(everyone):
        for (name, first), (_, value) in zip(everyone[0]["shared"], told["shared"], strict=True):
            if value != first:
                raise InputError(f"the ranks disagree on {name}: rank 0 has {first}, rank {rank} has {value}")
    assert mine is not None
    return mine.value, [told["bound"] for told in everyone], [told["size"] for told in everyone]


class _SumOverRanks(Function):
    """The sum over ranks, whose gradient is that of the sum of all ranks' results."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        total = value.clone()
        dist.all_reduce(total, group=ranks.group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        total = cotangents[0].clone()
        dist.all_reduce(total, group=ctx.ranks.group)
        return total, None


def sum_over_ranks(value: Tensor, ranks: Ranks) -> Tensor:
    """The sum of a small tensor over the ranks, on every rank.

    Backward through it on all ranks gives a rank's rows the world size times their gradient, and
    DistributedDataParallel divides by the world size again when it averages: the parameters get the gradient of one
    process on the whole batch.
    """
    out: Tensor = _SumOverRanks.apply(value, ranks)  # type: ignore[no-untyped-call]
    return out


class _WholeGradient(Function):
    """Identity whose gradient is the mean over ranks of a replicated number's gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        total = cotangents[0].clone()
        dist.all_reduce(total, group=ctx.ranks.group)
        return total / ctx.ranks.world, None


def replicated(value: Scalar, ranks: Ranks) -> Scalar:
    """A number that every rank holds (1/tau, a bias): each rank gets its whole gradient, not its own rows' part.

    It is right under DistributedDataParallel, which averages equal gradients, and for a loss module outside of it.
    """
    out: Tensor = _WholeGradient.apply(value, ranks)  # type: ignore[no-untyped-call]
    return out


Visit = Callable[[int, list[Tensor], list[Tensor]], None]
Merge = Callable[[list[Tensor], list[Tensor]], None]


def tour(
    shards: Shards, carried: list[Tensor], sums: list[Tensor], visit: Visit, merge: Merge | None = None
) -> list[Tensor]:
    """Let every rank see every rank's `carried` tensors, and add to the `sums` that belong to them.

    Args:
        shards: the agreement.
        carried: this rank's tensors; their first axis has one entry a row.
        sums: this rank's accumulators, one entry a row, all rows alike at the start.
        visit: called as visit(owner, carried, sums) once for each rank; changes the sums in place.
        merge: adds a second set of sums to a first in place; plain addition by default.

    Returns:
        This rank's sums, with what every rank added.
    """
    if shards.ranks.exchange == "gather":
        return _gather_tour(shards, carried, sums, visit, merge or _add)
    owner = shards.ranks.rank
    for step in range(shards.ranks.world):
        visit(owner, carried, sums)
        if step < shards.ranks.world - 1:
            moved = _pass_on(shards, owner, carried + sums)
            carried, sums = moved[: len(carried)], moved[len(carried) :]
        elif shards.ranks.world > 1:
            sums = _pass_on(shards, owner, sums)
        owner = (owner + 1) % shards.ranks.world
    return sums


def _pass_on(shards: Shards, owner: int, held: list[Tensor]) -> list[Tensor]:
    """Hand the shard of `owner` to the previous rank and take that of the next owner from the next rank."""
    ranks = shards.ranks
    following = (owner + 1) % ranks.world
    outgoing = _pack(held)
    lengths = [t[:1].nbytes for t in held]
    incoming = outgoing.new_empty(sum(lengths) * shards.sizes[following])
    before, after = (ranks.rank - 1) % ranks.world, (ranks.rank + 1) % ranks.world
    peers = [ranks.globally(before), ranks.globally(after)]
    operations = [
        dist.P2POp(dist.isend, outgoing, peers[0], group=ranks.group),
        dist.P2POp(dist.irecv, incoming, peers[1], group=ranks.group),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return _unpack(incoming, held, shards.sizes[following])


def _pack(tensors: list[Tensor]) -> Tensor:
    """One message of bytes: fewer sends, and every dtype can travel."""
    return torch.cat([t.contiguous().view(-1).view(torch.uint8) for t in tensors])


def _unpack(message: Tensor, like: list[Tensor], rows: int) -> list[Tensor]:
    parts, start = [], 0
    for t in like:
        shape = (rows, *t.shape[1:])
        length = math.prod(shape) * t.dtype.itemsize
        # A copy: the parts of a message need not lie at multiples of their item size.
        parts.append(message[start : start + length].clone().view(t.dtype).view(shape))
        start += length
    return parts


def _gather_tour(shards: Shards, carried: list[Tensor], sums: list[Tensor], visit: Visit, merge: Merge) -> list[Tensor]:
    everything = _all_gather(shards, carried)
    partial = [[t[:1].repeat(rows, *[1] * (t.ndim - 1)) for t in sums] for rows in shards.sizes]
    world, rank = shards.ranks.world, shards.ranks.rank
    partial[rank] = sums
    for k in range(world):  # in the order of the ring
        owner = (rank + k) % world
        visit(owner, everything[owner], partial[owner])
    home: list[Tensor] | None = None
    for owner in range(world):
        received = _collect(shards, owner, partial[owner])
        if owner == rank:
            home = received[owner]
            for k in range(1, world):
                merge(home, received[(owner - k) % world])
    assert home is not None
    return home


def _all_gather(shards: Shards, tensors: list[Tensor]) -> list[list[Tensor]]:
    """Every rank's tensors, by rank; messages are padded to the longest, as the collective wants."""
    per_row = sum(t[:1].nbytes for t in tensors)
    message = torch.zeros(per_row * max(shards.sizes), dtype=torch.uint8, device=tensors[0].device)
    packed = _pack(tensors)
    message[: len(packed)] = packed
    messages = [torch.empty_like(message) for _ in shards.sizes]
    dist.all_gather(messages, message, group=shards.ranks.group)
    return [_unpack(m, tensors, rows) for m, rows in zip(messages, shards.sizes, strict=True)]


def _collect(shards: Shards, owner: int, tensors: list[Tensor]) -> list[list[Tensor]]:
    """All ranks' sums for the rows of `owner`, there; nothing elsewhere."""
    message = _pack(tensors)
    destination = shards.ranks.globally(owner)
    messages = [torch.empty_like(message) for _ in shards.sizes] if owner == shards.ranks.rank else None
    dist.gather(message, messages, dst=destination, group=shards.ranks.group)
    return [] if messages is None else [_unpack(m, tensors, shards.sizes[owner]) for m in messages]


def _add(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        a += b


def check_ranks_alike(rows: Rows, **settings: Any) -> list[tuple[str, Any]]:
    """What must be the same on all ranks, by name, for `agree`."""
    return [
        ("the number of features", rows.shape[1]),
        ("the kind of device", rows.device.type),
        ("the dtype", str(rows.dtype)),
        *settings.items(),
    ]


__all__ = ["Exchange", "Local", "Ranks", "Shards", "agree", "check_ranks_alike", "replicated", "sum_over_ranks", "tour"]
