"""A small image tower and a small text tower onto one sphere, and their training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..._checks import InputError
from ...losses import symmetric_infonce
from .data import BUCKETS, Glyphs, hashed_features

_CHUNK = 1024


class GlyphTowers(nn.Module):
    """Three convolutions for a picture; hashed words and trigrams, averaged, for a name: `dim` coordinates each."""

    def __init__(self, dim: int = 64, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 96, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96 * 16, dim),
        )
        self.words = nn.EmbeddingBag(BUCKETS, dim, mode="mean")
        self.text = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5  # PyTorch's own choice, drawn from the generator
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                if layer.bias is not None:
                    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        nn.init.normal_(self.words.weight, generator=generator)

    def embed_images(self, images: Float[Tensor, "n 32 32"]) -> Float[Tensor, "n d"]:
        """Unit rows for pictures."""
        return nn.functional.normalize(self.image(images[:, None] - 0.15), dim=1)

    def embed_names(self, names: tuple[str, ...]) -> Float[Tensor, "m d"]:
        """Unit rows for names."""
        return nn.functional.normalize(self.text(self.words(*hashed_features(names))), dim=1)


@dataclass(frozen=True)
class GlyphTraining:
    """How the towers are trained.

    Args:
        temperature: tau.
        batch_size: names a step, each with one of its pictures at random.
        steps: steps of Adam, with a cosine schedule.
        dim: coordinates of the embeddings.
        rate: the largest learning rate.
        divergence_weight: lambda of `infomech.losses.symmetric_infonce`.
        seed: of weights and batches.
    """

    temperature: float = 0.07
    batch_size: int = 512
    steps: int = 300
    dim: int = 64
    rate: float = 3e-3
    divergence_weight: float = 0.0
    seed: int = 0


def train_towers(data: Glyphs, plan: GlyphTraining, *, progress: Callable[[int], None] | None = None) -> GlyphTowers:
    """Train both towers with the symmetric InfoNCE; `progress` is called after every step.

    Raises:
        InputError: if the batch is larger than the number of names.
    """
    count = len(data.names)
    if not 2 <= plan.batch_size <= count:
        raise InputError(f"batch_size is {plan.batch_size}; with {count} names it must lie between 2 and {count}")
    generator = torch.Generator().manual_seed(plan.seed)
    model = GlyphTowers(plan.dim, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.rate)
    # Ten steps or less leave no room for a rise of a tenth of them: that scheduler would divide by nothing.
    rise, steps = max(0.1, 2 / max(plan.steps, 3)), max(plan.steps, 3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, total_steps=steps, pct_start=rise)
    pictures = torch.bincount(data.name_of, minlength=count)
    first = pictures.cumsum(0) - pictures
    features, starts = hashed_features(data.names)
    lengths = torch.diff(starts, append=torch.tensor([len(features)]))
    words = features.split(lengths.tolist())
    for step in range(plan.steps):
        names = torch.randperm(count, generator=generator)[: plan.batch_size]
        drawn = first[names] + (torch.rand(len(names), generator=generator) * pictures[names]).long()
        x = model.embed_images(data.images[drawn])
        bag = [words[k] for k in names.tolist()]
        begins = lengths[names].cumsum(0) - lengths[names]
        y = nn.functional.normalize(model.text(model.words(torch.cat(bag), begins)), dim=1)
        loss = symmetric_infonce(x, y, temperature=plan.temperature, divergence_weight=plan.divergence_weight)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1)
    return model.eval().requires_grad_(False)


def embed_glyphs(model: GlyphTowers, data: Glyphs) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Unit rows of all pictures and of all names."""
    rows = torch.cat([model.embed_images(part) for part in data.images.split(_CHUNK)])
    return rows, model.embed_names(data.names)


__all__ = ["GlyphTowers", "GlyphTraining", "embed_glyphs", "train_towers"]
