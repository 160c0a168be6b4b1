"""Rows of past batches, kept as negatives of later ones: MoCo's queue, and a memory of both sides with its groups."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .._checks import InputError
from .._typing import Rows
from ._inputs import without_values

UNLABELLED = torch.iinfo(torch.int64).min  # the group of a row that came without one


class Labelled(NamedTuple):
    """Rows without a graph, and their groups if they have any."""

    rows: Tensor
    groups: Tensor | None = None


class Memory(NamedTuple):
    """What a call sees of a queue; over ranks it is the same on all of them."""

    rows: Float[Tensor, "k d"]
    groups: Int[Tensor, " k"]
    log_weights: Float[Tensor, " k"] | None = None  # -inf for places that hold nothing yet


class RowQueue(nn.Module):
    """The latest rows and their groups, the oldest of which leave as new ones come; all of it in the state.

    Args:
        size: rows that it holds.
        dim: number of features d.
    """

    rows: Tensor
    groups: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int | None) -> None:
        super().__init__()
        if size < 1 or dim is None or dim < 1:
            raise InputError(f"queue_size is {size} and dim is {dim}; a queue needs a size and dim, both above 0")
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("groups", torch.full((size,), UNLABELLED))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # rows that ever came

    def held(self) -> Labelled:
        """The rows that are there and their groups, in no particular order."""
        there = min(int(self.count), len(self.rows))
        return Labelled(self.rows[:there], self.groups[:there])

    @torch.no_grad()
    def put(self, rows: Rows, groups: Int[Tensor, " n"] | None = None) -> None:
        """Put rows in, over the oldest ones."""
        size = len(self.rows)
        self.check(rows)
        rows = rows[-size:]
        places = (self.count + torch.arange(len(rows), device=self.rows.device)) % size
        self.rows[places] = rows.detach().to(self.rows)
        self.groups[places] = UNLABELLED if groups is None else groups[-size:].to(self.groups)
        self.count += len(rows)

    def check(self, rows: Rows) -> None:
        """Raise InputError unless the rows are as wide as those that are kept."""
        if rows.ndim == 2 and rows.shape[1] != self.rows.shape[1]:
            raise InputError(f"the queue holds rows of {self.rows.shape[1]} features; got {rows.shape[1]}")

    def copy(self, like: Tensor) -> Memory | None:
        """What is there now for such rows, in a copy that does not move before a second backward; None if nothing is.

        How much there is can be read on a CPU only; elsewhere, and in compiled code, all places go along.
        """
        if not isinstance(like, Tensor):
            return None  # the checks of the loss have the words
        self.check(like)
        dtype = like.dtype
        if self.rows.device.type == "cpu" and not without_values(self.rows):
            held = self.held()
            assert held.groups is not None
            return Memory(held.rows.to(dtype, copy=True), held.groups.clone()) if len(held.rows) else None
        places = torch.arange(len(self.rows), device=self.rows.device)
        there = torch.zeros(len(self.rows), dtype=torch.float64, device=self.rows.device)
        there = there.masked_fill(places >= self.count, -math.inf)
        return Memory(self.rows.to(dtype, copy=True), self.groups.clone(), there)

    def extra_repr(self) -> str:
        """The size, for the printed form of the module."""
        return f"{self.rows.shape[0]}, dim={self.rows.shape[1]}"


def queue_of(size: int, dim: int | None) -> RowQueue | None:
    """A queue, or none for the size 0."""
    return None if size == 0 else RowQueue(size, dim)


__all__ = ["UNLABELLED", "Labelled", "Memory", "RowQueue", "queue_of"]
