"""The losses across ranks: rows sharded by rank, values and gradients those of one process on the whole batch."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .._checks import InfomechError, InputError
from .._typing import Scalar

Exchange = Literal["ring", "gather"]


@dataclass(frozen=True)
class _Elsewhere:
    """A process group of another process, known by its members: what a copy of a loss on disk holds."""

    members: tuple[int, ...]


@dataclass(frozen=True)
class Ranks:
    """The processes that share a batch, and how their rows travel.

    Made once the process group is there: without one it is an error, not a batch of one process's rows alone, which
    nobody would see. A script that runs with and without ``torchrun`` passes
    ``ranks=Ranks() if torch.distributed.is_initialized() else None``.

    A rank that does not come to a call is waited for as long as the group says: what `timeout` of
    ``torch.distributed.init_process_group`` or ``new_group`` was set to, 30 minutes if it was not (10 for NCCL). Then
    the others raise `RanksError`.

    A copy shares the group. A pickle knows it by its members: opened, a group of all ranks is the default group there,
    and any other has to be set again, ``loss.ranks = Ranks(group)``.

    Args:
        group: a process group; None is the default group, all ranks.
        exchange: ``ring`` passes one shard at a time from rank to rank, so that a rank holds its own rows, one other
            shard and the next one, which comes in under the work; ``gather`` collects all shards first, which may be
            faster where they fit. The numbers are the same.
        timeout: seconds to wait for another rank; sets the limit of the group, for all that uses it. None leaves it.

    Source: D7 over a sharded batch.
    """

    group: dist.ProcessGroup | None = None
    exchange: Exchange = "ring"
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.exchange not in ("ring", "gather"):
            raise InputError(f"exchange is {self.exchange!r}; expected 'ring' or 'gather'")
        _check_started()
        if self.timeout is not None:
            if not 0 < self.timeout < math.inf:
                raise InputError(f"timeout is {self.timeout}; expected seconds, above 0")
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=self.timeout), self.group)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        return self

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.group, _Elsewhere):
            return dict(self.__dict__)
        members = None if self.group is None else tuple(dist.get_process_group_ranks(self.group))
        everyone = members is None or members == tuple(range(dist.get_world_size()))
        return {**self.__dict__, "group": None if everyone or members is None else _Elsewhere(members)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def _here(self) -> dist.ProcessGroup | None:
        """The group; raises InputError where there is none."""
        if isinstance(self.group, _Elsewhere):
            raise InputError(
                f"this loss was saved with a process group of the ranks {list(self.group.members)}; make one with "
                "torch.distributed.new_group and set loss.ranks = Ranks(group)"
            )
        _check_started()
        return self.group

    @property
    def rank(self) -> int:
        """The place of this process among the ranks."""
        return dist.get_rank(self._here())

    def globally(self, rank: int) -> int:
        """The number by which point-to-point calls know one of the ranks."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return dist.get_world_size(self._here())


def _check_started() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "torch.distributed has no process group: call torch.distributed.init_process_group first; in a script that "
            "runs in one process, too: ranks=Ranks() if torch.distributed.is_initialized() else None"
        )


class RanksError(InfomechError, RuntimeError):
    """Another rank did not come to a call, or is gone."""


@contextmanager
def waiting(ranks: Ranks) -> Iterator[None]:
    """Say in one line what became of a call that another rank did not come to."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, InfomechError):
            raise
        said = str(error)
        late = "timed out" in said.lower() or "timeout" in said.lower()
        limit = "the time limit of the process group" if ranks.timeout is None else f"{ranks.timeout:g} s"
        what = (
            f"another rank did not come within {limit} (set it with Ranks(timeout=)): it is frozen, or does not make "
            "this call"
            if late
            else f"the exchange with another rank failed, it may be gone: {' '.join(said.split())[:200]}"
        )
        raise RanksError(f"rank {ranks.rank}: {what}") from error


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


class _SumOverRanks(Function):
    """The sum over ranks, whose gradient is that of the sum of all ranks' results."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        total = value.clone()
        with waiting(ranks):
            dist.all_reduce(total, group=ranks.group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        total = cotangents[0].clone()
        with waiting(ctx.ranks):
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
        with waiting(ctx.ranks):
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
Fresh = Callable[[int], list[Tensor]]


def tour(
    shards: Shards,
    carried: list[Tensor],
    sums: list[Tensor],
    visit: Visit,
    *,
    merge: Merge | None = None,
    fresh: Fresh | None = None,
) -> list[Tensor]:
    """Let every rank see every rank's `carried` tensors, and add to the `sums` that belong to them.

    Args:
        shards: the agreement.
        carried: this rank's tensors; their first axis has one entry a row.
        sums: this rank's accumulators, one entry a row.
        visit: called as visit(owner, carried, sums) once for each rank; changes the sums in place.
        merge: adds a second set of sums to a first in place; plain addition by default.
        fresh: accumulators for a number of rows as they are at the start; zeros by default.

    Returns:
        This rank's sums, with what every rank added.
    """
    merge, fresh = merge or _add, fresh or _zeros_like(sums)
    tour_ = _gather_tour if shards.ranks.exchange == "gather" else _ring_tour
    return tour_(shards, carried, sums, visit, merge, fresh)


def _ring_tour(
    shards: Shards, carried: list[Tensor], sums: list[Tensor], visit: Visit, merge: Merge, fresh: Fresh
) -> list[Tensor]:
    """Each transfer goes on under the visit that does not need it.

    While a rank works on a shard it hands it on and takes in the next one; what the ranks before it made of the sums of
    this shard comes in beside, and its own part is added to it when both are there.
    """
    world, owner = shards.ranks.world, shards.ranks.rank
    done: list[Tensor] = []  # sums of the owner before, with this rank's part
    for step in range(world):
        following = (owner + 1) % world
        moving = _Moving(shards)
        if step < world - 1:
            moving.pass_on(carried, shards.sizes[following])
        if step > 0:
            moving.pass_on(done, shards.sizes[owner])
        part = sums if step == 0 else fresh(shards.sizes[owner])
        visit(owner, carried, part)
        arrived = moving.arrived()
        if step < world - 1:
            carried = arrived[0]
        done = part
        if step > 0:
            done = arrived[-1]
            merge(done, part)
        owner = following
    if world == 1:
        return done
    moving = _Moving(shards)
    moving.pass_on(done, shards.sizes[shards.ranks.rank])
    return moving.arrived()[0]


def _zeros_like(sums: list[Tensor]) -> Fresh:
    return lambda rows: [t.new_zeros(rows, *t.shape[1:]) for t in sums]


class _Moving:
    """Tensors on their way to the previous rank, and what comes from the next one in their place."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._messages: list[tuple[Tensor, list[Tensor], int]] = []
        self._kept: list[Tensor] = []  # until they have left
        self._works: list[Any] = []

    def pass_on(self, held: list[Tensor], rows: int) -> None:
        """Hand tensors to the previous rank and take as many of the next rank, of so many rows; without waiting."""
        ranks = self._shards.ranks
        outgoing = _pack(held)
        incoming = outgoing.new_empty(_bytes_a_row(held) * rows)
        before, after = (ranks.rank - 1) % ranks.world, (ranks.rank + 1) % ranks.world
        peers = [ranks.globally(before), ranks.globally(after)]
        operations = [
            dist.P2POp(call, message, peer, group=ranks.group)
            for call, message, peer in zip((dist.isend, dist.irecv), (outgoing, incoming), peers, strict=True)
            if len(message)  # a rank without rows has nothing to send
        ]
        self._messages.append((incoming, held, rows))
        self._kept.append(outgoing)
        with waiting(ranks):
            self._works += dist.batch_isend_irecv(operations) if operations else []

    def arrived(self) -> list[list[Tensor]]:
        """What was taken in, in the order in which it was asked for; waits for it."""
        with waiting(self._shards.ranks):
            for work in self._works:
                work.wait()
        return [_unpack(message, like, rows) for message, like, rows in self._messages]


def _pack(tensors: list[Tensor]) -> Tensor:
    """One message of bytes: fewer sends, and every dtype can travel."""
    return torch.cat([t.contiguous().view(-1).view(torch.uint8) for t in tensors])


def _bytes_a_row(tensors: list[Tensor]) -> int:
    return sum(math.prod(t.shape[1:]) * t.dtype.itemsize for t in tensors)


def _unpack(message: Tensor, like: list[Tensor], rows: int) -> list[Tensor]:
    parts, start = [], 0
    for t in like:
        shape = (rows, *t.shape[1:])
        length = math.prod(shape) * t.dtype.itemsize
        # A copy: the parts of a message need not lie at multiples of their item size.
        parts.append(message[start : start + length].clone().view(t.dtype).view(shape))
        start += length
    return parts


def _gather_tour(
    shards: Shards, carried: list[Tensor], sums: list[Tensor], visit: Visit, merge: Merge, fresh: Fresh
) -> list[Tensor]:
    everything = all_gather_shards(shards, carried)
    partial = [fresh(rows) for rows in shards.sizes]
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


def all_gather_shards(shards: Shards, tensors: list[Tensor]) -> list[list[Tensor]]:
    """Every rank's tensors, by rank; messages are padded to the longest, as the collective wants."""
    message = torch.zeros(_bytes_a_row(tensors) * max(shards.sizes), dtype=torch.uint8, device=tensors[0].device)
    packed = _pack(tensors)
    message[: len(packed)] = packed
    messages = [torch.empty_like(message) for _ in shards.sizes]
    with waiting(shards.ranks):
        dist.all_gather(messages, message, group=shards.ranks.group)
    return [_unpack(m, tensors, rows) for m, rows in zip(messages, shards.sizes, strict=True)]


def _collect(shards: Shards, owner: int, tensors: list[Tensor]) -> list[list[Tensor]]:
    """All ranks' sums for the rows of `owner`, there; nothing elsewhere."""
    if not shards.sizes[owner]:
        return [tensors for _ in shards.sizes] if owner == shards.ranks.rank else []
    message = _pack(tensors)
    destination = shards.ranks.globally(owner)
    messages = [torch.empty_like(message) for _ in shards.sizes] if owner == shards.ranks.rank else None
    with waiting(shards.ranks):
        dist.gather(message, messages, dst=destination, group=shards.ranks.group)
    return [] if messages is None else [_unpack(m, tensors, shards.sizes[owner]) for m in messages]


def _add(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        a += b


__all__ = [
    "Exchange",
    "Ranks",
    "RanksError",
    "Shards",
    "all_gather_shards",
    "replicated",
    "sum_over_ranks",
    "tour",
    "waiting",
]
