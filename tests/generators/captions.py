"""Images and their captions in groups of any sizes: Gaussian latents, projected on the sphere or not."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """Rows of both modalities and the pairs that tie them together."""

    x: Tensor
    y: Tensor
    pairs: Tensor


def evenly(groups: int, per_group: int = 1) -> tuple[int, ...]:
    """Captions of each image, as many for each."""
    return (per_group,) * groups


def unevenly(groups: int, most: int) -> tuple[int, ...]:
    """From 1 to `most` captions, geometrically, in a fixed order: a few images have most of the captions.

    >>> unevenly(5, 16)
    (1, 2, 4, 8, 16)
    """
    return tuple(round(most ** (k / (groups - 1))) for k in range(groups))


def one_large(groups: int, size: int) -> tuple[int, ...]:
    """One image of `size` captions among others of one."""
    return (size,) + (1,) * (groups - 1)


def pairs_of(sizes: Sequence[int]) -> Tensor:
    """Image g with each of its captions, (p, 2)."""
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.stack([owner, torch.arange(len(owner))], 1)


def gaussian_captions(groups: int = 30, dim: int = 6, *, seed: int = 0, most: int = 4) -> Draw:
    """Images with 1 to `most` captions each, rows and pairs in a mixed order; float64, not normalised."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, most + 1, (groups,), generator=g)
    latent = torch.randn(groups, dim, generator=g, dtype=torch.float64)
    owner = torch.repeat_interleave(torch.arange(groups), counts)
    x = latent + 0.4 * torch.randn(groups, dim, generator=g, dtype=torch.float64)
    y = latent[owner] + 0.4 * torch.randn(len(owner), dim, generator=g, dtype=torch.float64)
    x[:, 0] += 0.7
    to_x, to_y = torch.randperm(groups, generator=g), torch.randperm(len(owner), generator=g)
    pairs = torch.stack([torch.argsort(to_x)[owner], torch.argsort(to_y)], 1)
    pairs = pairs[torch.randperm(len(pairs), generator=g)]
    return Draw(x[to_x], y[to_y], pairs)


def image_text(groups: int, per_group: int, *, generator: torch.Generator, dim: int = 8) -> Draw:
    """Draws of a law with a gap: x and y share a latent vector, x is shifted; `per_group` rows of y to one of x."""
    latent = torch.randn(groups, dim, generator=generator, dtype=torch.float64)
    x = latent + 0.6 * torch.randn(groups, dim, generator=generator, dtype=torch.float64)
    x[:, 0] += 1.0
    y = latent.repeat_interleave(per_group, 0)
    y = y + 0.6 * torch.randn(groups * per_group, dim, generator=generator, dtype=torch.float64)
    y[:, 1] += 0.5
    normalize = torch.nn.functional.normalize
    return Draw(normalize(x, dim=1), normalize(y, dim=1), pairs_of(evenly(groups, per_group)))


__all__ = ["Draw", "evenly", "gaussian_captions", "image_text", "one_large", "pairs_of", "unevenly"]
