"""Critics: the scores s(z, w) whose exponential, at a temperature, is the kernel of a contrastive loss."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_one_device, is_number, shown
from .._typing import PointsLike, RowsLike, Scalars
from ..io.rows import as_floats


class AffineRows(NamedTuple):
    """What a critic adds to inner products: s(z, w) = slope z.w + b(z) + b(w), with b of each given row."""

    slope: float
    terms: Float[Tensor, " n"] | None  # float64, differentiable; None where b is 0


class Critic(ABC):
    """A score s(z, w) that depends on its points through their inner product and their norms.

    Every critic here is affine in z.w, s(z, w) = a z.w + b(z) + b(w), with a term b of each row: that form reaches the
    tiles of losses and statistics, so that one sweep serves them all. On a manifold of constant norm the terms are
    constants, and the kernel volume (D1) has a closed form. A subclass gives the score, and the affine form.
    """

    @property
    @abstractmethod
    def slope(self) -> float:
        """The factor a of z.w."""

    @abstractmethod
    def of_inner(self, inner: Scalars, squared_norms: Scalars) -> Scalars:
        """The score, from z.w and |z|^2 + |w|^2."""

    def row_terms(self, squared_norms: Scalars) -> Scalars | None:
        """The term b of rows, from their |z|^2; None where it is 0, as it is by default."""
        return None

    def affine(self, rows: RowsLike) -> AffineRows:
        """The affine form for given rows, of any norm: (n, d) -> slope, terms (n,) in float64 or None."""
        rows = as_floats(rows, "rows")
        squared = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
        return AffineRows(self.slope, self.row_terms(squared))

    def affine_form(self, squared_radius: float) -> tuple[float, float]:
        """(a, b) such that s(z, w) = a + b z.w for all z, w with |z|^2 = |w|^2 = squared_radius."""
        terms = self.row_terms(torch.tensor(squared_radius, dtype=torch.float64))
        return 0.0 if terms is None else 2 * float(terms), self.slope

    @property
    def integrable(self) -> bool:
        """Whether the kernel has a finite volume on R^d, so that rows of any norm have a smoothed density."""
        return False

    def log_euclidean_volume(self, dim: int, temperature: Scalars) -> Scalars:
        """Log of the integral of exp(s(z, w) / tau) over w in R^dim, the same for every z.

        Raises:
            InputError: for a critic whose kernel does not fall off, as by default.
        """
        raise InputError(
            f"the kernel of {type(self).__name__} has no finite volume on R^{dim}; bring the rows to unit length"
        )

    def pointwise(self, z: PointsLike, w: PointsLike) -> Scalars:
        """s(z_i, w_i) over matching leading axes: (..., d), (..., d) -> (...,).

        Raises:
            InputError: for points that cannot be used, or do not match.
        """
        z, w = _of_one_width(z, w)
        try:
            torch.broadcast_shapes(z.shape, w.shape)
        except RuntimeError:
            raise InputError(
                f"z has shape {tuple(z.shape)} and w {tuple(w.shape)}; point i of z is scored with point i of w: "
                "pairwise scores all with all"
            ) from None
        return self.of_inner((z * w).sum(-1), z.square().sum(-1) + w.square().sum(-1))

    def pairwise(self, z: RowsLike, w: RowsLike) -> Float[Tensor, "n m"]:
        """s(z_i, w_j) for all i, j: (n, d), (m, d) -> (n, m). For large n and m use `infomech.reductions`.

        Raises:
            InputError: for rows that cannot be used, or of two widths.
        """
        z, w = _of_one_width(z, w)
        if z.ndim != 2 or w.ndim != 2:
            raise InputError(f"z has shape {tuple(z.shape)} and w {tuple(w.shape)}; expected rows: (n, d) and (m, d)")
        return self.of_inner(z @ w.mT, z.square().sum(-1)[:, None] + w.square().sum(-1)[None, :])


def _of_one_width(z: PointsLike, w: PointsLike) -> tuple[Tensor, Tensor]:
    """Points of two containers as tensors of one type."""
    z, w = as_floats(z, "z"), as_floats(w, "w")
    if not z.ndim or not w.ndim or z.shape[-1] != w.shape[-1]:
        raise InputError(f"z has shape {tuple(z.shape)} and w {tuple(w.shape)}; points must have the same features")
    check_one_device(z, w, ("z", "w"))
    if z.dtype != w.dtype:
        dtype = torch.promote_types(z.dtype, w.dtype)
        z, w = z.to(dtype), w.to(dtype)
    return z, w


def as_critic(critic: Critic | None) -> Critic:
    """The critic, the cosine where none is given.

    Raises:
        InputError: for anything else.

    >>> as_critic(None)
    Cosine()
    """
    if critic is None:
        return Cosine()
    if not isinstance(critic, Critic):
        raise InputError(f"critic is {shown(critic)}; give Cosine(), RBF(scale), or a Critic of your own")
    return critic


@dataclass(frozen=True)
class Cosine(Critic):
    """The cosine critic s(z, w) = z.w; the cosine of the angle for unit rows (CLIP, SimCLR).

    On the flat torus, whose points are ((cos t_1, sin t_1), ...), it is the sum of cos(t_i - t'_i).

    >>> Cosine().pointwise(torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8]))
    tensor(0.6000)
    """

    @property
    def slope(self) -> float:  # noqa: D102
        return 1.0

    def of_inner(self, inner: Scalars, squared_norms: Scalars) -> Scalars:  # noqa: D102
        return inner

    def affine(self, rows: RowsLike) -> AffineRows:  # noqa: D102 (no norms are needed)
        return AffineRows(1.0, None)


@dataclass(frozen=True)
class RBF(Critic):
    """The Gaussian (radial basis function) critic s(z, w) = -scale |z - w|^2.

    Args:
        scale: g > 0, in inverse squared units of the embedding space.

    Source: D1; on the sphere it is the cosine critic at temperature tau / (2 g), times exp(-2 g / tau). On R^d, for
    rows of any norm, it is 2 g z.w - g |z|^2 - g |w|^2, and V = (pi tau / g)^{d/2}.

    >>> RBF(0.5).pointwise(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(-1.)
    """

    scale: float

    def __post_init__(self) -> None:
        if not is_number(self.scale) or not 0 < self.scale < math.inf:
            raise InputError(f"RBF scale is {shown(self.scale)}; it must be a finite number above 0")

    @property
    def slope(self) -> float:  # noqa: D102
        return 2 * self.scale

    def of_inner(self, inner: Scalars, squared_norms: Scalars) -> Scalars:  # noqa: D102
        return -self.scale * torch.clamp_min(squared_norms - 2 * inner, 0.0)

    def row_terms(self, squared_norms: Scalars) -> Scalars:  # noqa: D102
        return -self.scale * squared_norms

    @property
    def integrable(self) -> bool:  # noqa: D102
        return True

    def log_euclidean_volume(self, dim: int, temperature: Scalars) -> Scalars:  # noqa: D102
        return dim / 2 * (math.log(math.pi / self.scale) + torch.log(temperature))


__all__ = ["RBF", "AffineRows", "Cosine", "Critic", "as_critic"]
