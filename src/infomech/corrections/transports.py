"""Corrections by second moments: whitening, Gaussian optimal transport, orthogonal Procrustes."""

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import check_flag
from .base import AffineMap, Correction, check_shrinkage, covariance

_SHRINKAGE = 0.01  # of a covariance: 512 features from some thousand rows leave the small eigenvalues unknown


class Whitening(Correction):
    """Take each modality's mean and covariance away: (z - mean) S^(-1/2), the symmetric root (ZCA).

    The symmetric root turns the space as little as whitening can, so that the two modalities stay comparable.

    Args:
        shrinkage: a in S = (1 - a) S + a tr(S)/d I.

    Source: C2.
    """

    name = "whitening"
    one_sided = True

    def __init__(self, shrinkage: float = _SHRINKAGE) -> None:
        check_shrinkage(shrinkage)
        self.shrinkage = shrinkage

    def _fitted(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> tuple[AffineMap, AffineMap]:
        maps = []
        for rows in (x, y):
            mean, spread = covariance(rows, self.shrinkage)
            maps.append(AffineMap(mean, torch.zeros_like(mean), _power(spread, -0.5)))
        return maps[0], maps[1]


class GaussianTransport(Correction):
    """Move x onto y by the optimal transport of their Gaussians; y stays.

        T(x) = m_y + (x - m_x) A,   A = Sx^(-1/2) (Sx^(1/2) Sy Sx^(1/2))^(1/2) Sx^(-1/2)

    The map of least mean squared length that carries N(m_x, Sx) to N(m_y, Sy). Rows are brought to unit length after.

    Args:
        shrinkage: of both covariances, see `Whitening`.

    Source: C2; Dowson and Landau, J. Multivariate Analysis 12 (1982); Knott and Smith, JOTA 43 (1984).
    """

    name = "gaussian-transport"

    def __init__(self, shrinkage: float = _SHRINKAGE) -> None:
        check_shrinkage(shrinkage)
        self.shrinkage = shrinkage

    def _fitted(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> tuple[AffineMap, AffineMap]:
        (mean_x, spread_x), (mean_y, spread_y) = (covariance(rows, self.shrinkage) for rows in (x, y))
        root, inverse = _power(spread_x, 0.5), _power(spread_x, -0.5)
        matrix = inverse @ _power(root @ spread_y @ root, 0.5) @ inverse
        zero = torch.zeros_like(mean_y)
        return AffineMap(mean_x, mean_y, matrix), AffineMap(zero, zero)


class OrthogonalProcrustes(Correction):
    """Turn x so that partners meet: (x - m_x) R + m_y, with R = argmin over rotations and reflections of the residual.

    R = U V^T from the singular value decomposition of (x - m_x)^T (y - m_y) over pairs. The only correction here that
    looks at who belongs to whom; lengths and angles within x stay, up to the shift.

    Args:
        center: whether the means are taken away and exchanged; without, R alone.

    Source: C2; Schönemann, Psychometrika 31 (1966).
    """

    name = "procrustes"

    def __init__(self, center: bool = True) -> None:
        check_flag(center, "center")
        self.center = center

    def _fitted(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> tuple[AffineMap, AffineMap]:
        zero = torch.zeros_like(x[0])
        mean_x, mean_y = (x.mean(0), y.mean(0)) if self.center else (zero, zero)
        left, _, right = torch.linalg.svd((x - mean_x).T @ (y - mean_y))
        return AffineMap(mean_x, mean_y, left @ right), AffineMap(zero, zero)


def _power(matrix: Float[Tensor, "d d"], exponent: float) -> Float[Tensor, "d d"]:
    """A power of a symmetric positive matrix; directions without variance (below 1e-12 of the top) are left out."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > 1e-12 * values[-1]
    powers = torch.where(kept, torch.where(kept, values, torch.ones_like(values)) ** exponent, 0.0)
    out: Tensor = (vectors * powers) @ vectors.T
    return out


__all__ = ["GaussianTransport", "OrthogonalProcrustes", "Whitening"]
