"""Which caption an image meets: its own, or with probability p one of another image that shares a COCO category."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..._checks import InputError
from ...embedding.sources import ListedImages

T = TypeVar("T")


@dataclass(frozen=True)
class CaptionDraws:
    """Draws of captions for all images of a source, a function of seed and epoch alone.

    An image whose caption is exchanged gets that of another image: one of its categories at random, then another image
    of that category at random, then one of its captions. An image that shares its categories with no other keeps its
    own captions.

    Args:
        source: COCO, with categories.
        probability: p.
        seed: of all draws.
        fresh: whether the exchange is drawn anew at each epoch; otherwise an image meets the same foreign caption in
            every epoch. Its own captions are drawn anew at each epoch in any case.
    """

    source: ListedImages
    probability: float
    seed: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise InputError(f"p is {self.probability}; it is a probability, between 0 and 1")
        if self.probability > 0 and not self.source.categories:
            raise InputError(
                "captions can only be exchanged within a category, and there is no annotations/instances_*.json beside "
                "the captions; fetch annotations_trainval2017.zip of COCO whole"
            )

    def epoch(self, number: int) -> tuple[list[str], Tensor]:
        """A caption for each image in this epoch, and whether it is another image's."""
        files = self.source.files
        # The exchange has a generator of its own: what is exchanged does not hang on how own captions are drawn.
        exchange = _generator(self.seed, 1 + number if self.fresh else 0)
        own = _generator(self.seed, -1 - number)
        members = _members(self.source)
        chosen: list[str] = []
        foreign = torch.zeros(len(files), dtype=torch.bool)
        uniform = torch.rand(len(files), 4, generator=exchange, dtype=torch.float64).tolist()
        mine = torch.rand(len(files), generator=own, dtype=torch.float64).tolist()
        for i, (key, _, captions) in enumerate(files):
            happens, category, other, caption = uniform[i]
            shared = [c for c in sorted(self.source.categories.get(key, ())) if len(members[c]) > 1]
            if happens < self.probability and shared:
                pool = members[_pick(shared, category)]
                j = _another(pool, i, other)
                chosen.append(_pick(files[j][2], caption))
                foreign[i] = True
            else:
                chosen.append(_pick(captions, mine[i]))
        return chosen, foreign


def _another(pool: Sequence[int], own: int, uniform: float) -> int:
    """A uniform choice among the others, without a copy of a long list: the last stands in for one's own place."""
    found = pool[min(int(uniform * (len(pool) - 1)), len(pool) - 2)]
    return pool[-1] if found == own else found


def _pick(items: Sequence[T], uniform: float) -> T:
    return items[min(int(uniform * len(items)), len(items) - 1)]


def _members(source: ListedImages) -> dict[int, list[int]]:
    """Images of each category, by their place."""
    out: dict[int, list[int]] = {}
    for i, (key, _, _) in enumerate(source.files):
        for category in source.categories.get(key, ()):
            out.setdefault(category, []).append(i)
    return out


def _generator(seed: int, stream: int) -> torch.Generator:
    """Streams of one seed that have nothing to do with each other."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stream * 7_919 + 12_345) % (2**63))


__all__ = ["CaptionDraws"]
