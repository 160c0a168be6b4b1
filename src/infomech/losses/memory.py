"""Rows of past batches, kept as negatives of later ones: MoCo's queue, and a memory of both sides with its groups."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .._checks import InputError
from .._typing import Rows
from ._inputs import without_values

UNLABELLED = torch.iinfo(torch.int64).min  # the group of a row that came without one


class Labelled(NamedTuple):
    """Rows without a graph, and their groups and a guide's rows if they have any."""

    rows: Tensor
    groups: Tensor | None = None
    guide: Tensor | None = None


class Memory(NamedTuple):
    """What a call sees of a queue; over ranks it is the same on all of them."""

    rows: Float[Tensor, "k d"]
    groups: Shaped[Tensor, " k"]
    log_weights: Float[Tensor, " k"] | None = None  # -inf for places that hold nothing yet
    guide: Float[Tensor, "k g"] | None = None


class RowQueue(nn.Module):
    """The latest rows and their groups, whole numbers; the oldest leave as new ones come. All of it is in the state.

    Args:
        size: rows that it holds.
        dim: number of features d.
        guide_dim: number of features of a guide's rows, which are kept beside them; None: there is no guide.
    """

    rows: Tensor
    groups: Tensor
    guides: Tensor | None
    count: Tensor

    def __init__(self, size: int, dim: int | None, guide_dim: int | None = None) -> None:
        super().__init__()
        if size < 1 or dim is None or dim < 1:
            raise InputError(f"queue_size is {size} and dim is {dim}; a queue needs a size and dim, both above 0")
        if guide_dim is not None and guide_dim < 1:
            raise InputError(f"guide_dim is {guide_dim}; expected the number of features of a guide's rows, 1 or more")
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("guides", None if guide_dim is None else torch.zeros(size, guide_dim))
        self.register_buffer("groups", torch.full((size,), UNLABELLED))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # rows that were put in

    def held(self) -> Labelled:
        """The rows that are there and what goes with them, in no particular order."""
        there = min(int(self.count), len(self.rows))
        guides = self.guides
        return Labelled(self.rows[:there], self.groups[:there], None if guides is None else guides[:there])

    @torch.no_grad()
    def put(
        self, rows: Rows, groups: Shaped[Tensor, " n"] | None = None, guide: Float[Tensor, "n g"] | None = None
    ) -> None:
        """Put rows in, over the oldest ones."""
        size, came = len(self.rows), len(rows)
        self.check(rows, guide, groups)
        kept = min(size, came)
        places = (self.count + torch.arange(kept, device=self.rows.device)) % size
        labels = torch.full_like(places, UNLABELLED) if groups is None else groups.narrow(0, came - kept, kept)
        self.rows.index_copy_(0, places, rows.detach().narrow(0, came - kept, kept).to(self.rows))
        self.groups.index_copy_(0, places, labels.to(self.groups))
        if self.guides is not None and guide is not None:
            self.guides.index_copy_(0, places, guide.detach().narrow(0, came - kept, kept).to(self.guides))
        self.count += kept

    def check(self, rows: Rows, guide: Tensor | None = None, groups: Shaped[Tensor, " n"] | None = None) -> None:
        """Raise InputError unless rows, and a guide's, are as wide as those that are kept, and groups whole numbers."""
        if isinstance(groups, Tensor) and groups.is_floating_point():
            raise InputError(
                f"groups is {groups.dtype}, and a queue keeps whole numbers: pass groups.long() or other ids"
            )
        if rows.ndim == 2 and rows.shape[1] != self.rows.shape[1]:
            raise InputError(f"the queue holds rows of {self.rows.shape[1]} features; got {rows.shape[1]}")
        if self.guides is None:
            if guide is not None:
                raise InputError("the queue keeps no guide's rows, so none of it would be filtered; pass guide_dim=")
            return
        width = self.guides.shape[1]
        if not isinstance(guide, Tensor) or guide.ndim != 2 or guide.shape[1] != width:
            got = "none" if not isinstance(guide, Tensor) else f"shape {tuple(guide.shape)}"
            raise InputError(f"the queue keeps a guide's rows of {width} features beside its own; got {got}")

    def copy(
        self, like: Tensor, guide: Tensor | None = None, groups: Shaped[Tensor, " n"] | None = None
    ) -> Memory | None:
        """What is there now for such rows, in a copy that does not move before a second backward; None if nothing is.

        How much there is can be read on a CPU only; elsewhere, and in compiled code, all places go along.
        """
        if not isinstance(like, Tensor):
            return None  # the checks of the loss have the words
        self.check(like, guide, groups)
        if self.rows.device != like.device:
            raise InputError(f"the queue is on {self.rows.device} and the rows on {like.device}; move the loss to them")
        dtype = like.dtype
        guides = None if self.guides is None or guide is None else self.guides.to(guide.dtype, copy=True)
        if self.rows.device.type == "cpu" and not without_values(self.rows):
            held = self.held()
            assert held.groups is not None
            there = len(held.rows)
            guides = None if guides is None else guides[:there]
            return Memory(held.rows.to(dtype, copy=True), held.groups.clone(), None, guides) if there else None
        places = torch.arange(len(self.rows), device=self.rows.device)
        empty = torch.zeros(len(self.rows), dtype=torch.float64, device=self.rows.device)
        empty = empty.masked_fill(places >= self.count, -math.inf)
        return Memory(self.rows.to(dtype, copy=True), self.groups.clone(), empty, guides)

    def extra_repr(self) -> str:
        """The size, for the printed form of the module."""
        return f"{self.rows.shape[0]}, dim={self.rows.shape[1]}"


def queue_of(size: int, dim: int | None, guide_dim: int | None = None) -> RowQueue | None:
    """A queue, or none for the size 0."""
    if size == 0 and guide_dim is not None:
        raise InputError("guide_dim is for the guide's rows beside a queue; it needs queue_size= and dim=")
    return None if size == 0 else RowQueue(size, dim, guide_dim)


__all__ = ["UNLABELLED", "Labelled", "Memory", "RowQueue", "queue_of"]
