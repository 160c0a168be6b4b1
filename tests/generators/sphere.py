"""Paired laws on the ordinary sphere whose diagnosis is known in closed form.

A latent direction z comes from a mixture of von Mises-Fisher laws; x is von Mises-Fisher around z, each caption y
around the turned latent Q z. Zonal functions of inner products then have exact means (Funk and Hecke): with P_l the
Legendre polynomials and A_l(k) = I_{l + 1/2}(k) / I_{1/2}(k), the mean of P_l(u.v) over u ~ vMF(m, k) is
A_l(k) P_l(m.v), and convolutions multiply. What is left, means of logarithms, is quadrature over the sphere of smooth
functions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from .captions import Draw, pairs_of

Array = NDArray[np.float64]

_DEGREES = 80  # A_l(k) is about exp(-l^2 / 2 k): 1e-14 there for k <= 100
_L = np.arange(_DEGREES + 1)


@dataclass(frozen=True)
class Blob:
    """One von Mises-Fisher component of the latent law."""

    weight: float
    mean: tuple[float, float, float]
    concentration: float


@dataclass(frozen=True)
class _Marginal:
    """A mixture of convolved von Mises-Fisher laws: weights (c,), directions (c, 3), coefficients (c, l)."""

    weights: Array
    means: Array
    coefficients: Array

    def zonal(self, moments: Array, points: Array) -> Array:
        """E f(u.point), u of this law; `moments` are the integrals of f P_l over [-1, 1]."""
        legendre = scipy.special.eval_legendre(_L, np.clip(points @ self.means.T, -1, 1)[..., None])
        terms = (2 * _L + 1) / 2 * moments * self.coefficients
        return np.asarray(((legendre * terms).sum(-1) * self.weights).sum(-1))

    def density(self, points: Array) -> Array:
        """For the area of the sphere, 4 pi."""
        return self.zonal(np.ones_like(_L) / (2 * math.pi), points)  # a delta at 1, seen from the circle around it

    @property
    def mean(self) -> Array:
        return np.asarray((self.weights * self.coefficients[:, 1]) @ self.means)

    @property
    def second_moment(self) -> Array:
        outer = np.einsum("ci,cj->cij", self.means, self.means) - np.eye(3) / 3
        return np.asarray(np.eye(3) / 3 + np.einsum("c,cij->ij", self.weights * self.coefficients[:, 2], outer))


@dataclass(frozen=True)
class SphereLaw:
    """Pairs on the sphere of R^3 with all population values.

    Args:
        blobs: of the latent law.
        concentration_x: of x around the latent z.
        concentration_y: of each caption around Q z.
        turn: angle of the rotation Q about (1, 1, 1), which makes the gap; 0 for none.
    """

    blobs: Sequence[Blob]
    concentration_x: float
    concentration_y: float
    turn: float

    def draw(self, sizes: Sequence[int], generator: torch.Generator) -> Draw:
        """Groups of one row of x and so many rows of y."""
        groups = len(sizes)
        chance = torch.tensor([b.weight for b in self.blobs], dtype=torch.float64)
        which = torch.multinomial(chance, groups, replacement=True, generator=generator)
        means = torch.tensor([b.mean for b in self.blobs], dtype=torch.float64)
        concentrations = torch.tensor([b.concentration for b in self.blobs], dtype=torch.float64)
        latent = _around(torch.nn.functional.normalize(means, dim=1)[which], concentrations[which], generator)
        pairs = pairs_of(sizes)
        turned = latent @ torch.from_numpy(self._rotation).T
        x = _around(latent, torch.full((groups,), self.concentration_x, dtype=torch.float64), generator)
        owners = pairs[:, 0]
        spread = torch.full((len(owners),), self.concentration_y, dtype=torch.float64)
        return Draw(x, _around(turned[owners], spread, generator), pairs)

    @cached_property
    def _rotation(self) -> Array:
        axis = np.ones(3) / math.sqrt(3)
        cross = np.cross(np.eye(3), axis)
        return np.asarray(scipy.linalg.expm(-self.turn * cross))

    @cached_property
    def _latent(self) -> _Marginal:
        means = np.array([b.mean for b in self.blobs], dtype=np.float64)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        weights = np.array([b.weight for b in self.blobs])
        return _Marginal(weights / weights.sum(), means, np.array([_bessel(b.concentration) for b in self.blobs]))

    def _marginal(self, concentration: float, rotation: Array) -> _Marginal:
        latent = self._latent
        return _Marginal(latent.weights, latent.means @ rotation.T, latent.coefficients * _bessel(concentration))

    def population(self, temperature: float, bandwidth: float | None = None) -> dict[str, float]:
        """Every number of a diagnosis that has a population value, under its flat name.

        The bandwidth of the middle MMD is the median cross distance of the law, if none is given.
        """
        laws = {
            "x": self._marginal(self.concentration_x, np.eye(3)),
            "y": self._marginal(self.concentration_y, self._rotation),
        }

        def mean_of(function: Callable[[Array], Array], part: str) -> float:
            u, v = laws[part[0]], laws[part[1]]
            fields = v.weights @ _zonal_pairs(_moments(function), v, u)
            return float(fields @ u.weights)

        out = _gaps(mean_of, laws, bandwidth)
        out |= _budget(laws, temperature)
        paired = self._pairs()
        out["budget.alignment"] = -paired["cosine"] / temperature
        out["budget.energy_sym"] = out["budget.alignment"] - out["budget.divergence_sym"]
        out["budget.energy_sym"] -= (out["budget.dispersion_x"] + out["budget.dispersion_y"]) / 2
        out["gap.smoothed_divergence"] = out["budget.divergence_sym"]
        out["gap.pair_distance"] = paired["distance"]
        out["gap.alignment"] = 2 - 2 * paired["cosine"]
        off = (1 - paired["cosine"]) / 2
        within = sum((1 - float(law.mean @ law.mean)) / 4 for law in laws.values())
        out["gap.relative_modality_gap"] = off / (off + within)
        return out

    def _pairs(self) -> dict[str, float]:
        """Means over true pairs: x.y given z depends on z.Qz alone."""
        nodes, weights = _nodes()
        density = weights * self._latent.density(nodes)
        cosines = np.einsum("ij,ij->i", nodes, nodes @ self._rotation.T)
        legendre = scipy.special.eval_legendre(_L, np.clip(cosines, -1, 1)[:, None])
        both = _bessel(self.concentration_x) * _bessel(self.concentration_y)
        functions = {"distance": _distance, "cosine": lambda t: t}
        return {
            name: float(density @ (legendre * ((2 * _L + 1) / 2 * _moments(f) * both)).sum(1))
            for name, f in functions.items()
        }


def _bessel(concentration: float) -> Array:
    """A_l(k) = I_{l + 1/2}(k) / I_{1/2}(k), all degrees."""
    return np.asarray(scipy.special.ive(_L + 0.5, concentration) / scipy.special.ive(0.5, concentration))


def _moments(function: Callable[[Array], Array]) -> Array:
    """Integrals of f P_l over [-1, 1]; with t = 1 - 2 u^2 a distance is a polynomial of u."""
    u, w = np.polynomial.legendre.leggauss(400)
    u, w = (u + 1) / 2, w / 2
    t = 1 - 2 * u * u
    return np.asarray((w * 4 * u * function(t)) @ scipy.special.eval_legendre(_L, t[:, None]))


def _zonal_pairs(moments: Array, v: _Marginal, u: _Marginal) -> Array:
    """E f between each two components, (v's, u's)."""
    legendre = scipy.special.eval_legendre(_L, np.clip(v.means @ u.means.T, -1, 1)[..., None])
    terms = (2 * _L + 1) / 2 * moments * v.coefficients[:, None] * u.coefficients[None]
    return np.asarray((legendre * terms).sum(-1))


def _nodes() -> tuple[Array, Array]:
    """Product quadrature of the sphere, exact for polynomials of degree 95."""
    height, w = np.polynomial.legendre.leggauss(48)
    angle = 2 * math.pi * (np.arange(96) + 0.5) / 96
    radius = np.sqrt(1 - height**2)
    points = [
        np.outer(radius, np.cos(angle)),
        np.outer(radius, np.sin(angle)),
        np.repeat(height[:, None], len(angle), axis=1),
    ]
    return np.stack([p.ravel() for p in points], 1), np.repeat(w * 2 * math.pi / len(angle), len(angle))


def _distance(t: Array) -> Array:
    return np.asarray(np.sqrt(np.maximum(2 - 2 * t, 0)))


def _gaps(
    mean_of: Callable[[Callable[[Array], Array], str], float], laws: dict[str, _Marginal], bandwidth: float | None
) -> dict[str, float]:
    out: dict[str, float] = {}

    def contrast(function: Callable[[Array], Array]) -> float:
        return mean_of(function, "xx") + mean_of(function, "yy") - 2 * mean_of(function, "xy")

    def gaussian(scale: float) -> Callable[[Array], Array]:
        return lambda t: np.exp(-scale * (2 - 2 * t))

    energy = -contrast(_distance)
    centred = 2 * _shifted_distance(laws) - mean_of(_distance, "xx") - mean_of(_distance, "yy")
    out["gap.energy_distance"], out["gap.centered_energy_distance"] = energy, centred
    if abs(energy) > 1e-9:
        out["gap.centered_share"] = centred / energy
    sigma = _median_distance(laws) if bandwidth is None else bandwidth
    for name, factor in (("half", 0.5), ("median", 1.0), ("double", 2.0)):
        out[f"gap.mmd2_{name}"] = contrast(gaussian(0.5 / (factor * sigma) ** 2))
    out["gap.cross_uniformity"] = math.log(mean_of(gaussian(2.0), "xy"))
    x, y = laws["x"].mean, laws["y"].mean
    out["gap.centroid_gap"] = float(np.linalg.norm(x - y))
    out["gap.centroid_cosine"] = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    covariances = {}
    for side, law in laws.items():
        out[f"gap.centroid_norm_{side}"] = float(np.linalg.norm(law.mean))
        covariances[side] = law.second_moment - np.outer(law.mean, law.mean)
        values = np.linalg.eigvalsh(covariances[side])
        sigma_share = np.sqrt(np.linalg.eigvalsh(law.second_moment))
        sigma_share /= sigma_share.sum()
        out |= {
            f"geometry.{side}.mean_cosine": float(law.mean @ law.mean),
            f"geometry.{side}.uniformity": math.log(mean_of(gaussian(2.0), side * 2)),
            f"geometry.{side}.effective_rank": float(np.exp(-(sigma_share * np.log(sigma_share)).sum())),
            f"geometry.{side}.participation_ratio": float(values.sum() ** 2 / (values**2).sum()),
            f"geometry.{side}.collapse": float(math.sqrt(3) * np.sqrt(np.diag(covariances[side])).mean()),
        }
    root = scipy.linalg.sqrtm(covariances["x"])
    cross = scipy.linalg.sqrtm(root @ covariances["y"] @ root)
    spread = np.trace(covariances["x"] + covariances["y"] - 2 * np.real(cross))
    out["gap.frechet"] = float(((x - y) ** 2).sum() + spread)
    return out


def _shifted_distance(laws: dict[str, _Marginal]) -> float:
    """E |X - shift - Y|, the shift that of the means: |r u - y| has the Legendre series of a generating function."""
    nodes, weights = _nodes()
    moved = nodes - (laws["x"].mean - laws["y"].mean)
    radius = np.linalg.norm(moved, axis=1)
    larger, ratio = np.maximum(radius, 1)[:, None], np.minimum(radius, 1 / radius)[:, None]
    series = larger * (ratio ** (_L + 2) / (2 * _L + 3) - ratio**_L / (2 * _L - 1))
    law = laws["y"]
    legendre = scipy.special.eval_legendre(_L, np.clip(moved / radius[:, None] @ law.means.T, -1, 1)[..., None])
    means = ((legendre * law.coefficients).transpose(1, 0, 2) * series).sum(-1)
    return float((weights * laws["x"].density(nodes)) @ (law.weights @ means))


def _median_distance(laws: dict[str, _Marginal]) -> float:
    def below(cosine: float) -> float:
        beyond = [scipy.special.eval_legendre(_L + step, cosine) for step in (1, -1)]
        moments = (beyond[0] - np.where(_L > 0, beyond[1], -1.0)) / (2 * _L + 1)
        fields = laws["y"].weights @ _zonal_pairs(moments, laws["y"], laws["x"])
        return float(fields @ laws["x"].weights) - 0.5

    cosine = scipy.optimize.brentq(below, -1 + 1e-9, 1 - 1e-9)
    return math.sqrt(2 - 2 * float(cosine))


def _budget(laws: dict[str, _Marginal], temperature: float) -> dict[str, float]:
    nodes, weights = _nodes()
    moments = _moments(lambda t: np.exp((t - 1) / temperature))
    log_volume = math.log(2 * math.pi * temperature * -math.expm1(-2 / temperature))  # less 1 / tau, as the moments

    def density_log(anchors: str, others: str) -> float:
        """Mean over the anchors of log rho~ of the others."""
        field = np.log(laws[others].zonal(moments, nodes)) - log_volume
        return float((weights * laws[anchors].density(nodes)) @ field)

    out = {f"budget.dispersion_{side}": -density_log(side, side) for side in "xy"}
    for side in "xy":
        out[f"budget.dispersion_{side}_relative"] = out[f"budget.dispersion_{side}"] - math.log(4 * math.pi)
    out["budget.divergence_xy"] = density_log("x", "x") - density_log("x", "y")
    out["budget.divergence_yx"] = density_log("y", "y") - density_log("y", "x")
    out["budget.divergence_sym"] = (out["budget.divergence_xy"] + out["budget.divergence_yx"]) / 2
    return out


def _around(means: Tensor, concentrations: Tensor, generator: torch.Generator) -> Tensor:
    """One draw of vMF(mean, k) in three dimensions for each row, by inverting the law of the cosine."""
    k = concentrations
    uniform = torch.rand(len(means), generator=generator, dtype=torch.float64)
    cosine = 1 + torch.log(uniform + (1 - uniform) * torch.exp(-2 * k)) / k
    tangent = torch.randn(len(means), 3, generator=generator, dtype=torch.float64)
    tangent = tangent - (tangent * means).sum(1, keepdim=True) * means
    tangent = torch.nn.functional.normalize(tangent, dim=1)
    return cosine[:, None] * means + (1 - cosine * cosine).clamp_min(0).sqrt()[:, None] * tangent


__all__ = ["Blob", "SphereLaw"]
