"""Corrections that move and scale: centroid shift, mean removal, mean and scale."""

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, is_number, shown
from .base import AffineMap, Correction


class CentroidShift(Correction):
    """Move both modalities towards each other along the line of their centroids: x - a delta/2, y + a delta/2.

    delta = mean x - mean y over pairs. At ``amount`` a = 1 the centroids coincide before rows are brought back to unit
    length; negative amounts widen the gap (Liang et al. 2022, arXiv:2203.02053, move along the same line).

    Source: C2.

    >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    >>> y = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    >>> a, b = CentroidShift().fit(x, y).transform(x, y)
    >>> gaps = [(u.mean(0) - v.mean(0)).norm().item() for u, v in ((x, y), (a, b))]
    >>> [round(gap, 2) for gap in gaps]
    [0.85, 0.1]
    """

    name = "centroid-shift"

    def __init__(self, amount: float = 1.0) -> None:
        if not is_number(amount) or not -10.0 <= amount <= 10.0:
            raise InputError(f"amount is {shown(amount)}; 1 closes the gap of the centroids, 0 leaves it")
        self.amount = amount

    def _fitted(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> tuple[AffineMap, AffineMap]:
        half = self.amount * (x.mean(0) - y.mean(0)) / 2
        zero = torch.zeros_like(half)
        return AffineMap(half, zero), AffineMap(-half, zero)


class MeanRemoval(Correction):
    """Take each modality's own mean away: x - mean x, y - mean y.

    Both lose their cone, not only the difference of the centroids.

    Source: C2.
    """

    name = "mean-removal"
    one_sided = True

    def _fitted(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> tuple[AffineMap, AffineMap]:
        return tuple(AffineMap(z.mean(0), torch.zeros_like(z[0])) for z in (x, y))  # type: ignore[return-value]


class MeanAndScale(Correction):
    """Bring every coordinate of each modality to mean 0 and standard deviation 1: (z - mean) / std, by coordinate.

    A coordinate whose spread is below 1e-6 of the largest is left unscaled.

    Source: C2.
    """

    name = "mean-and-scale"
    one_sided = True

    def _fitted(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> tuple[AffineMap, AffineMap]:
        maps = []
        for rows in (x, y):
            spread = rows.std(0, correction=0)
            safe = torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread))
            maps.append(AffineMap(rows.mean(0), torch.zeros_like(spread), torch.diag(1 / safe)))
        return maps[0], maps[1]


__all__ = ["CentroidShift", "MeanAndScale", "MeanRemoval"]
