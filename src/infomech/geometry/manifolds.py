"""Manifolds on which representations live: the unit sphere and the flat torus, as subsets of a Euclidean space."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import check_draws, check_whole
from .._typing import Points, PointsLike, Scalars
from ..io.rows import as_floats
from .special import log_sphere_area, log_sphere_mgf


class Manifold(ABC):
    """A compact homogeneous manifold of constant norm in R^ambient_dim, with its volume measure mu."""

    ambient_dim: int  # number of coordinates of a point

    @property
    @abstractmethod
    def squared_radius(self) -> float:
        """|z|^2, the same for every point z."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Log of mu(Z), the total volume."""

    @abstractmethod
    def log_linear_integral(self, kappa: Scalars, *, scaled: bool = False) -> Scalars:
        """Log of int exp(kappa z.w) dmu(w), the same for every z on the manifold; differentiable in kappa.

        Scaled: less its largest exponent kappa |z|^2, without the cancellation; for large kappa.
        """

    @abstractmethod
    def uniform(self, n: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Points:
        """N points from the uniform law, (n, ambient_dim), on the generator's device."""


@dataclass(frozen=True)
class Sphere(Manifold):
    """The unit sphere S^{d-1} in R^d, d >= 2.

    Args:
        ambient_dim: d, the width of the embeddings (not the dimension d - 1 of the sphere).

    >>> round(Sphere(3).log_volume, 4)  # log(4 pi)
    2.531
    """

    ambient_dim: int

    def __post_init__(self) -> None:
        check_whole(self.ambient_dim, "Sphere ambient_dim", least=2)

    @property
    def squared_radius(self) -> float:  # noqa: D102
        return 1.0

    @property
    def log_volume(self) -> float:  # noqa: D102
        return log_sphere_area(self.ambient_dim)

    def log_linear_integral(self, kappa: Scalars, *, scaled: bool = False) -> Scalars:  # noqa: D102
        return self.log_volume + log_sphere_mgf(self.ambient_dim, kappa, scaled=scaled)

    def uniform(  # noqa: D102
        self, n: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> Points:
        check_draws(n, generator)
        z = torch.randn(n, self.ambient_dim, generator=generator, dtype=dtype, device=generator.device)
        return torch.nn.functional.normalize(z, dim=-1)


@dataclass(frozen=True)
class FlatTorus(Manifold):
    """The flat torus T^k, embedded in R^{2k} as ((cos t_1, sin t_1), ..., (cos t_k, sin t_k)).

    Args:
        dim: k >= 1, the number of angles.

    >>> round(FlatTorus(2).log_volume, 4)  # 2 log(2 pi)
    3.6758
    """

    dim: int
    ambient_dim: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_whole(self.dim, "FlatTorus dim", least=1)
        object.__setattr__(self, "ambient_dim", 2 * self.dim)

    @property
    def squared_radius(self) -> float:  # noqa: D102
        return float(self.dim)

    @property
    def log_volume(self) -> float:  # noqa: D102
        return self.dim * math.log(2 * math.pi)

    def log_linear_integral(self, kappa: Scalars, *, scaled: bool = False) -> Scalars:  # noqa: D102
        return self.log_volume + self.dim * log_sphere_mgf(2, kappa, scaled=scaled)

    def uniform(  # noqa: D102
        self, n: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> Points:
        check_draws(n, generator)
        turns = torch.rand(n, self.dim, generator=generator, dtype=dtype, device=generator.device)
        return self.embed(2 * math.pi * turns)

    def embed(self, angles: PointsLike) -> Points:
        """Points of the torus from angles in radians: (..., k) -> (..., 2k)."""
        angles = as_floats(angles, "angles")
        return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2)

    def angles(self, points: PointsLike) -> Float[Tensor, "... k"]:
        """Angles in (-pi, pi] of points of the torus: (..., 2k) -> (..., k)."""
        points = as_floats(points, "points")
        pair = points.unflatten(-1, (self.dim, 2))
        return torch.atan2(pair[..., 1], pair[..., 0])


__all__ = ["FlatTorus", "Manifold", "Sphere"]
