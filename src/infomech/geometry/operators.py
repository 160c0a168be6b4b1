"""Differential operators on the nodes of a quadrature: a spectral basis, and the faces of a conservative scheme."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError
from .._shown import Fields
from .._typing import Rows
from .manifolds import Manifold, Sphere
from .quadrature import Quadrature, manifold_angles


@dataclass(frozen=True, eq=False, repr=False)
class Harmonics(Fields):
    """Real eigenfunctions of the Laplace-Beltrami operator at the nodes, orthonormal under the quadrature.

    Trigonometric functions on circles, their products on T^2, spherical harmonics on S^2.

    Args:
        quadrature: the nodes.
        values: (q, k) eigenfunctions e_j at the nodes; int e_i e_j dmu = delta_ij to rounding.
        eigenvalues: (k,) of -Laplace: n^2 on circles, n_1^2 + n_2^2 on T^2, l (l + 1) on S^2.
        degrees: (k,) n, max(n_1, n_2) or l.
    """

    quadrature: Quadrature
    values: Float[Tensor, "q k"]
    eigenvalues: Float[Tensor, " k"]
    degrees: Int[Tensor, " k"]

    def analyse(self, values: Float[Tensor, "... q"]) -> Float[Tensor, "... k"]:
        """Coefficients int f e_j dmu of f from its values at the nodes."""
        return (values * self.quadrature.weights) @ self.values

    def synthesise(self, coefficients: Float[Tensor, "... k"]) -> Float[Tensor, "... q"]:
        """Values at the nodes of sum_j c_j e_j."""
        return coefficients @ self.values.mT

    def laplacian(self, values: Float[Tensor, "... q"]) -> Float[Tensor, "... q"]:
        """The Laplacian of f at the nodes, exact for f in the span of the basis."""
        return self.synthesise(-self.eigenvalues * self.analyse(values))

    def evaluate(self, coefficients: Float[Tensor, " k"], points: Rows) -> Float[Tensor, " n"]:
        """Values of sum_j c_j e_j at any points of the manifold: spectral interpolation."""
        highest = int(self.degrees.max())
        return _eigenfunctions(self.quadrature.manifold, points, highest)[0] @ coefficients

    def dirichlet(self, values: Float[Tensor, "... q"]) -> Float[Tensor, "..."]:
        """Int |grad f|^2 dmu, exact for f in the span of the basis."""
        return (self.eigenvalues * self.analyse(values).square()).sum(-1)


def harmonics(quadrature: Quadrature, degree: int | None = None) -> Harmonics:
    """The eigenfunctions of degree at most `degree`; by default all whose products the rule integrates exactly.

    Args:
        quadrature: nodes on S^1, S^2, T^1 or T^2.
        degree: the highest degree; at most quadrature.degree // 2.

    Raises:
        InputError: if the degree is negative or too high for the nodes.

    >>> from infomech.geometry import quadrature_rule
    >>> basis = harmonics(quadrature_rule(Sphere(3), 8), 2)
    >>> basis.eigenvalues.tolist()
    [0.0, 2.0, 2.0, 2.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    """
    highest = quadrature.degree // 2
    degree = highest if degree is None else degree
    if not 0 <= degree <= highest:
        raise InputError(f"degree is {degree}; these {len(quadrature)} nodes carry harmonics of degree 0 to {highest}")
    values, degrees, eigenvalues = _eigenfunctions(quadrature.manifold, quadrature.nodes, degree)
    return Harmonics(quadrature, values, eigenvalues.to(values.dtype), degrees)


def _eigenfunctions(manifold: Manifold, points: Tensor, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values at the points, degrees, and eigenvalues of -Laplace."""
    angles = manifold_angles(manifold, points)
    if isinstance(manifold, Sphere) and manifold.ambient_dim == 3:
        values, degrees = _spherical_harmonics(angles, degree)
        return values, degrees, degrees * (degrees + 1)
    values, degrees = _fourier(angles[:, 0], degree)
    if angles.shape[1] == 1:
        return values, degrees, degrees.square()
    second, n2 = _fourier(angles[:, 1], degree)
    values = (values[:, :, None] * second[:, None, :]).flatten(1)
    eigenvalues = (degrees.square()[:, None] + n2.square()[None, :]).flatten()
    return values, torch.maximum(degrees[:, None], n2[None, :]).flatten(), eigenvalues


def _fourier(angle: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    n = torch.arange(1, degree + 1, device=angle.device)
    phase = angle[:, None] * n
    pairs = torch.stack([phase.cos(), phase.sin()], dim=-1).flatten(1) / math.sqrt(math.pi)
    constant = torch.full_like(angle, 1 / math.sqrt(2 * math.pi))[:, None]
    return torch.cat([constant, pairs], dim=1), torch.cat([n.new_zeros(1), n.repeat_interleave(2)])


def _spherical_harmonics(angles: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Columns ordered by l, then m = 0, 1 cos, 1 sin, 2 cos, ..."""
    height, radius, longitude = angles[:, 0].cos(), angles[:, 0].sin(), angles[:, 1]
    columns: dict[tuple[int, int], Tensor] = {}
    sectoral = torch.full_like(height, 1 / math.sqrt(4 * math.pi))
    for m in range(degree + 1):  # normalised associated Legendre functions, upward in l at fixed m: stable
        if m > 0:
            sectoral = sectoral * radius * math.sqrt((2 * m + 1) / (2 * m))
        below, current = torch.zeros_like(sectoral), sectoral
        for ell in range(m, degree + 1):
            columns[ell, m] = current
            up = math.sqrt((4 * (ell + 1) ** 2 - 1) / ((ell + 1) ** 2 - m**2))
            down = math.sqrt(max(ell**2 - m**2, 0) / (4 * ell**2 - 1)) if ell else 0.0
            below, current = current, up * (height * current - down * below)
    out, degrees = [], []
    for ell in range(degree + 1):
        out.append(columns[ell, 0])
        for m in range(1, ell + 1):
            scaled = columns[ell, m] * math.sqrt(2)
            out += [scaled * (m * longitude).cos(), scaled * (m * longitude).sin()]
        degrees += [ell] * (2 * ell + 1)
    return torch.stack(out, dim=1), torch.tensor(degrees, device=angles.device)


@dataclass(frozen=True, eq=False, repr=False)
class Faces(Fields):
    """The faces between the cells of the grid, for schemes that conserve mass exactly.

    With volumes w_i (the quadrature's weights), (Laplace f)_i is approximated to second order by
    (1 / w_i) sum over faces of i of conductance * (f_j - f_i), where conductance = face length / distance of nodes.

    Args:
        first: (e,) index of the node on one side.
        second: (e,) index of the node on the other.
        conductance: (e,) positive; in units of length^(dimension - 2).
    """

    first: Int[Tensor, " e"]
    second: Int[Tensor, " e"]
    conductance: Float[Tensor, " e"]

    def dirichlet(self, values: Float[Tensor, " q"]) -> Float[Tensor, ""]:
        """Sum over faces of conductance * (f_j - f_i)^2, about int |grad f|^2 dmu, to second order."""
        return (self.conductance * (values[self.second] - values[self.first]).square()).sum()


def faces(quadrature: Quadrature) -> Faces:
    """The faces of the cells around the nodes.

    On S^2 the parallels between Gauss-Legendre latitudes lie at the partial sums of the weights, which interlace
    with the nodes (Chebyshev, Markov, Stieltjes): each cell's area is exactly its weight.

    Args:
        quadrature: nodes on S^1, S^2, T^1 or T^2.

    >>> from infomech.geometry import FlatTorus, quadrature_rule
    >>> len(faces(quadrature_rule(FlatTorus(2), 4)).first)
    32
    """
    index = torch.arange(len(quadrature), device=quadrature.nodes.device).reshape(quadrature.shape)
    if isinstance(quadrature.manifold, Sphere) and quadrature.manifold.ambient_dim == 3:
        return _sphere_faces(quadrature, index)
    step = 2 * math.pi / quadrature.shape[0]
    pairs = [(index, index.roll(-1, axis)) for axis in range(index.ndim)]
    first = torch.cat([a.flatten() for a, _ in pairs])
    second = torch.cat([b.flatten() for _, b in pairs])
    conductance = quadrature.weights.new_full((len(first),), step ** (index.ndim - 2))
    return Faces(first, second, conductance)


def _sphere_faces(quadrature: Quadrature, index: Tensor) -> Faces:
    rows, columns = quadrature.shape
    step = 2 * math.pi / columns
    colatitude = quadrature.angles[:, 0].reshape(quadrature.shape)[:, 0]
    band = quadrature.weights.reshape(quadrature.shape)[:, 0] / step  # height of each cell's band
    height = 1 - torch.cumsum(band, 0)[:-1]
    face_radius = (1 - height.square()).sqrt()
    ends = torch.zeros(rows + 1, dtype=height.dtype, device=height.device)
    ends[1:-1] = torch.atan2(face_radius, height)
    ends[-1] = math.pi
    south = face_radius * step / colatitude.diff()
    east = ends.diff() / (colatitude.sin() * step)
    first = torch.cat([index[:-1].flatten(), index.flatten()])
    second = torch.cat([index[1:].flatten(), index.roll(-1, 1).flatten()])
    return Faces(first, second, torch.cat([south.repeat_interleave(columns), east.repeat_interleave(columns)]))


__all__ = ["Faces", "Harmonics", "faces", "harmonics"]
