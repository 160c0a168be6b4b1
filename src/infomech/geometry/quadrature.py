"""Quadrature on the manifolds small enough for it: circles, the two-sphere, and flat tori of one or two angles."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_whole, shown
from .._shown import Fields
from .._typing import PointsLike, Scalars
from ..io.rows import as_floats
from .manifolds import FlatTorus, Manifold, Sphere


@dataclass(frozen=True, eq=False, repr=False)
class Quadrature(Fields):
    """Nodes z_i and weights w_i with sum_i w_i f(z_i) = int f dmu for every f of degree at most `degree`.

    The error for smooth f falls faster than any power of the resolution. The weights are also the volumes of the
    cells of the grid, which the conservative schemes of `infomech.geometry.operators` use.

    Args:
        nodes: (q, d) points of the manifold.
        weights: (q,) positive, in units of volume; they sum to mu(Z).
        manifold: the manifold, `Sphere(2)`, `Sphere(3)`, `FlatTorus(1)` or `FlatTorus(2)`.
        shape: the grid that q flattens (row-major): (n,) angles; (latitudes, longitudes); (n, n) angles.
        degree: the highest degree of trigonometric polynomial (per angle) or spherical harmonic integrated exactly.

    Source: Trefethen and Weideman (2014) for the trapezoid rule; Gauss-Legendre in the height on the sphere.
    """

    nodes: Float[Tensor, "q d"]
    weights: Float[Tensor, " q"]
    manifold: Manifold
    shape: tuple[int, ...]
    degree: int

    def __len__(self) -> int:
        return self.nodes.shape[0]

    def integrate(self, values: Float[Tensor, "... q"]) -> Scalars:
        """Int f dmu from the values of f at the nodes: (..., q) -> (...,).

        >>> grid = quadrature_rule(Sphere(3), 8)
        >>> round(float(grid.integrate(grid.nodes[:, 2] ** 2)) / math.pi, 12)  # 4/3
        1.333333333333
        """
        return values @ self.weights

    def log_integrate(self, log_values: Float[Tensor, "... q"]) -> Scalars:
        """Log int exp(g) dmu from the values of g at the nodes, by logsumexp: (..., q) -> (...,)."""
        return torch.logsumexp(log_values + self.log_weights, dim=-1)

    @cached_property
    def log_weights(self) -> Float[Tensor, " q"]:
        """Logarithms of the weights."""
        return self.weights.log()

    @cached_property
    def angles(self) -> Float[Tensor, "q k"]:
        """Angles of the nodes, radians: (t,) on circles, (colatitude, longitude) on S^2, (t_1, t_2) on T^2."""
        return manifold_angles(self.manifold, self.nodes)


def manifold_angles(manifold: Manifold, points: PointsLike) -> Float[Tensor, "... k"]:
    """Angles (t_1, ...) of points of S^1 or T^k, or (colatitude, longitude) on S^2, radians: (..., d) -> (..., k)."""
    points = as_floats(points, "points")
    if isinstance(manifold, FlatTorus):
        return manifold.angles(points)
    longitude = torch.atan2(points[..., 1], points[..., 0])
    if manifold.ambient_dim == 2:
        return longitude[..., None]
    return torch.stack([torch.atan2(points[..., :2].norm(dim=-1), points[..., 2]), longitude], dim=-1)


def quadrature_rule(
    manifold: Manifold, resolution: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Quadrature:
    """A quadrature rule on S^1, S^2, T^1 or T^2, spectrally accurate for smooth integrands.

    On a circle: n equispaced angles of weight 2 pi / n, exact below frequency n. On T^2: their product. On S^2: n
    Gauss-Legendre heights times 2n equispaced longitudes, exact for spherical harmonics up to degree 2n - 1.

    Args:
        manifold: `Sphere(2)`, `Sphere(3)`, `FlatTorus(1)` or `FlatTorus(2)`.
        resolution: n >= 2; q is n on circles, n^2 on T^2 and 2 n^2 on S^2.
        dtype: of nodes and weights.
        device: of nodes and weights; the default is torch's.

    Raises:
        InputError: for another manifold (sample it instead), or a resolution below 2.

    >>> len(quadrature_rule(Sphere(2), 64)), len(quadrature_rule(Sphere(3), 16)), len(quadrature_rule(FlatTorus(2), 16))
    (64, 512, 256)
    """
    check_whole(resolution, "resolution", least=2, what=" nodes in each direction")
    if isinstance(manifold, FlatTorus) and manifold.dim <= 2:
        nodes, weights, shape = _torus(manifold, resolution)
        degree = resolution - 1
    elif isinstance(manifold, Sphere) and manifold.ambient_dim == 2:
        nodes, weights, shape = _torus(FlatTorus(1), resolution)
        degree = resolution - 1
    elif isinstance(manifold, Sphere) and manifold.ambient_dim == 3:
        nodes, weights, shape = _two_sphere(resolution)
        degree = 2 * resolution - 1
    else:
        raise InputError(
            f"{shown(manifold)} has no quadrature here; use Sphere(2), Sphere(3), FlatTorus(1) or FlatTorus(2), "
            "or sample with manifold.uniform"
        )
    return Quadrature(nodes.to(device, dtype), weights.to(device, dtype), manifold, shape, degree)


def _equispaced_angles(n: int) -> Float[Tensor, " n"]:
    """Angles 2 pi i / n, i = 0..n-1, in float64."""
    return 2 * math.pi * torch.arange(n, dtype=torch.float64) / n


def _torus(manifold: FlatTorus, n: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    axes = [_equispaced_angles(n)] * manifold.dim
    angles = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, manifold.dim)
    weights = torch.full((len(angles),), (2 * math.pi / n) ** manifold.dim, dtype=torch.float64)
    return manifold.embed(angles), weights, (n,) * manifold.dim


def _two_sphere(n: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    heights, height_weights = np.polynomial.legendre.leggauss(n)
    # From the north pole down, so that colatitudes increase along the first axis.
    height = torch.from_numpy(heights[::-1].copy())
    longitude = _equispaced_angles(2 * n)
    radius = (1 - height.square()).sqrt()[:, None]
    nodes = torch.stack(
        [radius * longitude.cos(), radius * longitude.sin(), height[:, None].expand(n, 2 * n)], dim=-1
    ).reshape(-1, 3)
    weights = torch.from_numpy(height_weights[::-1].copy()).repeat_interleave(2 * n) * (math.pi / n)
    return nodes, weights, (n, 2 * n)


__all__ = ["Quadrature", "manifold_angles", "quadrature_rule"]
