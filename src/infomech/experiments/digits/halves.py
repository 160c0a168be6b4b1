"""Two modalities of one object: the left and the right half of a handwritten digit, and a small two-tower model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..._checks import InputError
from ...losses import symmetric_infonce

Halves = Float[Tensor, "_ 32"]
Labels = Int[Tensor, "_"]

TRAIN_ROWS = 1300  # of scikit-learn's 1,797 digits; the other 497 are for scoring


@dataclass(frozen=True)
class DigitsHalves:
    """Left halves (x) and right halves (y) of the digits, pixels in [0, 1], split for training and scoring."""

    train_x: Halves
    train_y: Halves
    train_labels: Labels
    test_x: Halves
    test_y: Halves


def load_halves(seed: int = 0) -> DigitsHalves:
    """The digits bundled with scikit-learn, cut into halves of 8 x 4 pixels; the split depends on `seed` only.

    >>> data = load_halves(seed=0)
    >>> tuple(data.train_x.shape), tuple(data.test_y.shape)
    ((1300, 32), (497, 32))
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32) / 16.0
    labels = torch.from_numpy(digits.target).to(torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = images[order][:, :, :4].flatten(1), images[order][:, :, 4:].flatten(1)
    labels, cut = labels[order], TRAIN_ROWS
    return DigitsHalves(x[:cut], y[:cut], labels[:cut], x[cut:], y[cut:])


class TwoTower(nn.Module):
    """Two multilayer perceptrons onto one sphere: 32 pixels, one hidden layer, `dim` coordinates of unit length."""

    def __init__(self, dim: int = 32, *, hidden: int = 128, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.tower_x = _tower(dim, hidden, generator)
        self.tower_y = _tower(dim, hidden, generator)

    def embed_x(self, x: Halves) -> Float[Tensor, "_ d"]:
        """Unit rows for left halves."""
        return nn.functional.normalize(self.tower_x(x), dim=1)

    def embed_y(self, y: Halves) -> Float[Tensor, "_ d"]:
        """Unit rows for right halves."""
        return nn.functional.normalize(self.tower_y(y), dim=1)


def _tower(dim: int, hidden: int, generator: torch.Generator | None) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, dim))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5  # PyTorch's own choice, drawn from the generator
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layers


def swap_within_class(labels: Labels, probability: float, generator: torch.Generator) -> Labels:
    """Partner of every row: itself, or with `probability` a uniformly drawn row of the same label.

    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> partner = swap_within_class(labels, 1.0, torch.Generator().manual_seed(0))
    >>> bool((labels[partner] == labels).all())
    True
    """
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    rank = (torch.rand(len(labels), generator=generator) * counts[labels]).long()
    other = by_class[starts[labels] + rank.minimum(counts[labels] - 1)]
    swapped = torch.rand(len(labels), generator=generator) < probability
    return torch.where(swapped, other, torch.arange(len(labels)))


def train_two_tower(
    data: DigitsHalves,
    *,
    divergence_weight: float = 0.0,
    temperature: float = 0.07,
    batch_size: int = 256,
    steps: int = 1500,
    dim: int = 32,
    seed: int = 0,
    swap: float = 0.0,
    rate: float = 3e-4,
    watch: Callable[[int, TwoTower], None] = lambda done, model: None,
    progress: Callable[[int], None] = lambda done: None,
) -> TwoTower:
    """Train a two-tower model on the halves with the symmetric InfoNCE, and return it ready for use.

    Args:
        data: from `load_halves`.
        divergence_weight: lambda of `infomech.losses.symmetric_infonce`.
        temperature: tau.
        batch_size: pairs a step, drawn without replacement.
        steps: steps of Adam.
        dim: dimension of the embeddings.
        seed: of the initial weights, the batches and the swaps.
        swap: probability that a training pair's partner is exchanged, once and before training, for another digit of
            its class: how loosely the two modalities are tied.
        rate: learning rate of Adam.
        watch: called after every step with the number of steps done and the model.
        progress: called after every step with the number of steps done.

    Raises:
        InputError: if `swap` is no probability, or the batch is larger than the training set.
    """
    if not 0.0 <= swap <= 1.0:
        raise InputError(f"swap is {swap}; it is a probability, between 0 and 1")
    rows = data.train_x.shape[0]
    if not 2 <= batch_size <= rows:
        raise InputError(f"batch_size is {batch_size}; with {rows} training pairs it must lie between 2 and {rows}")
    generator = torch.Generator().manual_seed(seed)
    model = TwoTower(dim, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    partners = data.train_y[swap_within_class(data.train_labels, swap, generator)]
    for step in range(steps):
        batch = torch.randperm(rows, generator=generator)[:batch_size]
        x, y = model.embed_x(data.train_x[batch]), model.embed_y(partners[batch])
        loss = symmetric_infonce(x, y, temperature=temperature, divergence_weight=divergence_weight)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        watch(step + 1, model)
        progress(step + 1)
    return model.eval().requires_grad_(False)


__all__ = ["DigitsHalves", "TwoTower", "load_halves", "swap_within_class", "train_two_tower"]
