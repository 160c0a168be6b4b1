"""Which rows are a reference's own: a row that finds its own partner in its field says nothing of a new one."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .._shown import Fields
from .fields import NO_GROUP

_ROWS = 512  # at once: their bits stay in a processor's cache
_MIXERS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47)  # odd, half of their bits set


def row_digests(rows: Tensor) -> Int[Tensor, " n"]:
    """A number of 64 bits for each row, equal for equal rows whatever their floating-point type.

    Args:
        rows: (n, d) as they were given, before any correction; finite.

    Returns:
        (n,) int64. Two of a million different rows agree with a probability of about 1e-7.

    >>> a = torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 0.5]])
    >>> first, second, third = row_digests(a).tolist()
    >>> first == third, first == second, first == row_digests(a.half())[0].item()
    (True, False, True)
    """
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (rows.shape[1],), generator=generator).to(rows.device) | 1
    found = [_mixed(part.double() + 0.0, factors) for part in rows.split(_ROWS)]  # + 0.0: one zero, not two
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=rows.device)


def _mixed(rows: Tensor, factors: Tensor) -> Tensor:
    """Bits move down, up and down again before columns are added: low bits of short numbers are all 0."""
    bits = rows.view(torch.int64)
    bits = (bits ^ (bits >> 32)).mul_(_MIXERS[0])
    bits ^= bits >> 29
    total: Tensor = bits.mul_(factors).sum(1)
    total = (total ^ (total >> 31)) * _MIXERS[1]
    return total ^ (total >> 33)


@dataclass(frozen=True, repr=False)
class OwnRows(Fields):
    """The given rows of one side of a reference, found by their digests.

    Args:
        digests: (n,) of each given row.
        groups: (n,) group of each, -1 where no pair names it.
    """

    digests: Int[Tensor, " n"]
    groups: Int[Tensor, " n"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sorted", torch.sort(self.digests, stable=True))

    def find(self, rows: Tensor, *, start: int = 0) -> Int[Tensor, " k"]:
        """Group of each row that is one of these, -1 for a new one.

        Args:
            rows: (k, d) as they were given.
            start: place of the first of them. Of equal rows of the reference the one in the same place is meant, or
                else the first: rows of the whole reference get their own groups.
        """
        wanted = row_digests(rows).to(self.digests.device)
        ordered, places = self._sorted  # type: ignore[attr-defined]
        at = torch.searchsorted(ordered, wanted).clamp(max=len(ordered) - 1)
        place = torch.where(ordered[at] == wanted, places[at], -1)
        here = torch.arange(start, start + len(wanted), device=place.device)
        same = here < len(self.digests)
        same &= self.digests[here.clamp(max=len(self.digests) - 1)] == wanted
        place = torch.where(same, here, place)
        return torch.where(place >= 0, self.groups[place.clamp(min=0)], NO_GROUP)


__all__ = ["OwnRows", "row_digests"]
