"""Small problems that the tests share."""

import torch
from torch import Tensor

from infomech.diagnosis.energy_limit import CorrectedBudget, corrected_budget
from infomech.diagnosis.gram_statistics import run_sweeps
from infomech.geometry import Critic
from infomech.measures import PairedSample


def corrected(
    x: Tensor, y: Tensor, *, temperature: float, pairs: Tensor | None = None, critic: Critic | None = None
) -> CorrectedBudget:
    """E1 of two sets of embeddings."""
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, critic=critic, any_norm=True)
    kernels = run_sweeps(sample, temperature=temperature).kernels
    assert kernels is not None
    return corrected_budget(sample, kernels, temperature=temperature)


def captions(groups: int = 30, dim: int = 6, *, seed: int = 0, most: int = 4) -> tuple[Tensor, Tensor, Tensor]:
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
    return x[to_x], y[to_y], pairs


def image_text(
    groups: int, per_group: int, *, generator: torch.Generator, dim: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of a law with a gap: x and y share a latent vector, x is shifted; `per_group` rows of y to one of x."""
    latent = torch.randn(groups, dim, generator=generator, dtype=torch.float64)
    x = latent + 0.6 * torch.randn(groups, dim, generator=generator, dtype=torch.float64)
    x[:, 0] += 1.0
    y = latent.repeat_interleave(per_group, 0)
    y = y + 0.6 * torch.randn(groups * per_group, dim, generator=generator, dtype=torch.float64)
    y[:, 1] += 0.5
    pairs = torch.stack([torch.arange(groups).repeat_interleave(per_group), torch.arange(groups * per_group)], 1)
    normalize = torch.nn.functional.normalize
    return normalize(x, dim=1), normalize(y, dim=1), pairs
