"""Geodesic steps on products of spheres: the sphere itself, and the torus as a product of circles."""

import math

from jaxtyping import Bool
from torch import Tensor

from .._typing import Points, PointsLike
from ..io.rows import as_floats
from .manifolds import FlatTorus, Manifold


def to_tangent(manifold: Manifold, z: PointsLike, v: PointsLike) -> Points:
    """The component of v tangent to the manifold at z: (..., d), (..., d) -> (..., d).

    >>> import torch
    >>> from infomech.geometry import Sphere
    >>> to_tangent(Sphere(2), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 2.0]))
    tensor([0., 2.])
    """
    z, v = as_floats(z, "z"), as_floats(v, "v")
    zf, vf = _factors(manifold, z), _factors(manifold, v)
    return (vf - (vf * zf).sum(-1, keepdim=True) * zf).flatten(-2)


def geodesic_step(manifold: Manifold, z: PointsLike, v: PointsLike) -> tuple[Points, Points, Bool[Tensor, "..."]]:
    """Follow the geodesic from z with initial velocity v for unit time.

    On a sphere z' = cos|v| z + sin|v| v/|v|, and the velocity there is v' = cos|v| v - |v| sin|v| z.

    Args:
        manifold: `Sphere` or `FlatTorus`.
        z: (..., d) points.
        v: (..., d) tangent vectors at z, in radians.

    Returns:
        (z', v', unique): the end points, the velocities there, and whether the geodesic is the only shortest one
        (|v| < pi on each factor), so that v can be told from z and z'.
    """
    z, v = as_floats(z, "z"), as_floats(v, "v")
    zf, vf = _factors(manifold, z), _factors(manifold, v)
    length = vf.norm(dim=-1, keepdim=True)
    sinc = (length / math.pi).sinc()
    end = length.cos() * zf + sinc * vf
    velocity = length.cos() * vf - length.square() * sinc * zf
    end = end / end.norm(dim=-1, keepdim=True)  # rounding would drift off the manifold over many steps
    return end.flatten(-2), velocity.flatten(-2), (length < math.pi).flatten(-2).all(-1)


def _factors(manifold: Manifold, points: Points) -> Tensor:
    """(..., d) as (..., factors, width): circles of a torus, or the one sphere."""
    width = 2 if isinstance(manifold, FlatTorus) else points.shape[-1]
    return points.reshape(*points.shape[:-1], -1, width)


__all__ = ["geodesic_step", "to_tangent"]
