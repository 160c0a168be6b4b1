"""Critics: the scores s(z, w) whose exponential, at a temperature, is the kernel of a contrastive loss."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError
from .._typing import OtherRows, Points, Rows, Scalars


class Critic(ABC):
    """A score s(z, w) that depends on its points through their inner product.

    On a manifold of constant norm, |z|^2 = r2, every critic here is affine in z.w, so that its kernel volume (D1)
    has a closed form. A subclass gives the score, and that affine form.
    """

    @abstractmethod
    def of_inner(self, inner: Scalars, squared_norms: Scalars) -> Scalars:
        """The score, from z.w and |z|^2 + |w|^2."""

    @abstractmethod
    def affine_form(self, squared_radius: float) -> tuple[float, float]:
        """(a, b) such that s(z, w) = a + b z.w for all z, w with |z|^2 = |w|^2 = squared_radius."""

    def pointwise(self, z: Points, w: Points) -> Scalars:
        """s(z_i, w_i) over matching leading axes: (..., d), (..., d) -> (...,)."""
        return self.of_inner((z * w).sum(-1), z.square().sum(-1) + w.square().sum(-1))

    def pairwise(self, z: Rows, w: OtherRows) -> Float[Tensor, "n m"]:
        """s(z_i, w_j) for all i, j: (n, d), (m, d) -> (n, m). For large n and m use `infomech.reductions`."""
        return self.of_inner(z @ w.mT, z.square().sum(-1)[:, None] + w.square().sum(-1)[None, :])


@dataclass(frozen=True)
class Cosine(Critic):
    """The cosine critic s(z, w) = z.w; the cosine of the angle for unit rows (CLIP, SimCLR).

    On the flat torus, whose points are ((cos t_1, sin t_1), ...), it is the sum of cos(t_i - t'_i).

    >>> Cosine().pointwise(torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8]))
    tensor(0.6000)
    """

    def of_inner(self, inner: Scalars, squared_norms: Scalars) -> Scalars:  # noqa: D102
        return inner

    def affine_form(self, squared_radius: float) -> tuple[float, float]:  # noqa: D102
        return 0.0, 1.0


@dataclass(frozen=True)
class RBF(Critic):
    """The Gaussian (radial basis function) critic s(z, w) = -scale |z - w|^2.

    Args:
        scale: g > 0, in inverse squared units of the embedding space.

    Source: D1; on the sphere it is the cosine critic at temperature tau / (2 g), times exp(-2 g / tau).

    >>> RBF(0.5).pointwise(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(-1.)
    """

    scale: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"RBF scale is {self.scale}; it must be a finite number above 0")

    def of_inner(self, inner: Scalars, squared_norms: Scalars) -> Scalars:  # noqa: D102
        return -self.scale * torch.clamp_min(squared_norms - 2 * inner, 0.0)

    def affine_form(self, squared_radius: float) -> tuple[float, float]:  # noqa: D102
        return -2 * self.scale * squared_radius, 2 * self.scale


__all__ = ["RBF", "Cosine", "Critic"]
