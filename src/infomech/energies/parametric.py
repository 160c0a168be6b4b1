"""Parametric energies: the large-batch limit of InfoNCE with one modality (D5) and with two (D6)."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from .._checks import InputError, check_partners, check_temperature
from .._shown import Fields
from .._typing import RowsLike, Scalar
from ..geometry import Critic, Manifold, Sphere, as_critic, log_sphere_mgf
from ..io.rows import as_points
from ..measures import VonMisesFisher
from .fields import log_smoothed_density

_NODES = 256
_REACH = 12.0  # standard deviations of the polar angle on each side of its mode


@dataclass(frozen=True, repr=False)
class SymmetricEnergy(Fields):
    """J12, J21 and their mean, each a scalar in nats.

    Args:
        xy: J12: anchors of the first modality against candidates of the second.
        yx: J21.

    Source: D6 (Definition 4.2 of the paper).

    >>> x = torch.eye(3)
    >>> found = symmetric_energy(x, x, temperature=1.0)
    >>> bool(found.xy == found.yx)
    True
    """

    xy: Scalar
    yx: Scalar

    @property
    def sym(self) -> Scalar:
        """Jsym = (J12 + J21) / 2."""
        return (self.xy + self.yx) / 2


def energy(
    x: RowsLike,
    partner: RowsLike,
    *,
    temperature: float,
    manifold: Manifold | None = None,
    critic: Critic | None = None,
) -> Scalar:
    """Parametric energy of one modality, from draws: J = -mean s(x, v) / tau + mean log rho~(x), in nats.

    The smoothed density at x_i leaves x_i itself out. Plain: the logarithm's bias of about -1 / (2 n_eff) is not
    corrected (`infomech.decompose` does).

    Args:
        x: (n, d) draws of q.
        partner: (n, d) the positive partner of each.
        temperature: tau > 0.
        manifold: that the points live on; the unit sphere by default.
        critic: s; the cosine critic by default.

    Returns:
        A scalar, differentiable in x and partner; memory O(n).

    Raises:
        InputError: for arrays or temperatures that cannot be used, or other numbers of partners than of rows.

    Source: D5 (Definition 3.2 of the paper); T1: InfoNCE - J - log(N V) vanishes with the batch.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.nn.functional.normalize(torch.randn(500, 3, generator=g, dtype=torch.float64), dim=1)
    >>> round(float(energy(x, x, temperature=0.5)), 1)  # uniform and aligned: -1 / 0.5 - log(4 pi)
    -4.5
    """
    check_temperature(temperature)
    x, partner = as_points(x, "x"), as_points(partner, "partner")
    check_partners(x, partner)
    score = as_critic(critic).pointwise(x, partner).mean() / temperature
    density = log_smoothed_density(x, x, temperature=temperature, manifold=manifold, critic=critic, leave_own_out=True)
    return density.mean() - score


def symmetric_energy(
    x: RowsLike,
    y: RowsLike,
    *,
    temperature: float,
    manifold: Manifold | None = None,
    critic: Critic | None = None,
) -> SymmetricEnergy:
    """Parametric energies of two modalities, from paired draws: J12 = -mean s / tau + mean log rho~2(x), and J21.

    Args:
        x: (n, d) draws of the first modality.
        y: (n, d) their partners in the second.
        temperature: tau > 0.
        manifold: that the points live on; the unit sphere by default.
        critic: s; the cosine critic by default.

    Returns:
        J12, J21 and their mean; differentiable.

    Raises:
        InputError: for arrays or temperatures that cannot be used, or other numbers of partners than of rows.

    Source: D6 (Definition 4.2 of the paper); T6.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.nn.functional.normalize(torch.randn(64, 3, generator=g), dim=1)
    >>> symmetric_energy(x, x, temperature=0.5).sym < 0
    tensor(True)
    """
    check_temperature(temperature)
    x, y = as_points(x, "x"), as_points(y, "y")
    check_partners(x, y)
    score = as_critic(critic).pointwise(x, y).mean() / temperature
    on_y, on_x = (
        log_smoothed_density(a, b, temperature=temperature, manifold=manifold, critic=critic, leave_own_out=True).mean()
        for a, b in ((x, y), (y, x))
    )
    return SymmetricEnergy(on_y - score, on_x - score)


def cross_entropy(law: VonMisesFisher, other: VonMisesFisher, *, temperature: float) -> Scalar:
    """Cross-entropy against a smoothed von Mises-Fisher law: Hx(q1, rho~2) = -E_{z ~ q1} log rho~2(z), in nats.

    The field of a von Mises-Fisher law is closed, Gamma2(z) = c(k2) / c(|k2 m2 + z / tau|). What is left is an integral
    over the angle to m1 and, if the means differ, over the angle in the tangent plane: Gauss-Legendre with 256 nodes
    each on twelve standard deviations, good to about 1e-12 at any concentration and temperature.

    Args:
        law: q1.
        other: the law whose smoothed density is looked at.
        temperature: tau > 0.

    Returns:
        A float64 scalar.

    Raises:
        InputError: if the laws differ in dimension or the temperature is not positive.

    Source: D5, D6 (Definitions 3.2 and 4.2 of the paper) on laws; cosine critic on the sphere.

    >>> mean = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    >>> law = VonMisesFisher(mean, 20.0)
    >>> cross_entropy(law, law, temperature=0.1)
    tensor(0.2666, dtype=torch.float64)
    """
    check_temperature(temperature)
    if law.dim != other.dim:
        raise InputError(f"laws on R^{law.dim} and R^{other.dim}; both must have one dimension")
    d, k1, k2, pull = law.dim, float(law.concentration), float(other.concentration), 1 / temperature
    first, second = (torch.nn.functional.normalize(m.double(), dim=0) for m in (law.mean, other.mean))
    apart = 2 * math.atan2(float((first - second).norm()), float((first + second).norm()))  # angle of the means
    angle, weight_t = _polar_rule(d - 2, k1)
    if apart == 0:  # the angle in the tangent plane does not matter
        beyond, weight_u = np.zeros(1), np.ones(1)
    else:
        tangent, weight_u = _polar_rule(d - 3, 0.0) if d > 2 else (np.array([0.0, math.pi]), np.array([0.5, 0.5]))
        beyond = 2 * np.sin(tangent / 2) ** 2
    # 1 - m2.z, and k2 + 1/tau less the length of k2 m2 + z / tau: small numbers where both laws are concentrated.
    drop = 2 * np.sin((angle[:, None] - apart) / 2) ** 2 + np.sin(angle[:, None]) * math.sin(apart) * beyond
    radius = np.sqrt((k2 - pull) ** 2 + 2 * k2 * pull * np.maximum(2 - drop, 0.0))
    shorter = 2 * k2 * pull * drop / (k2 + pull + radius)
    weight = torch.from_numpy(weight_t[:, None] * weight_u[None, :])
    at = torch.from_numpy(radius)
    held = torch.tensor([k2, pull], dtype=torch.float64)
    if k2 + pull < d:
        log_ratio = log_sphere_mgf(d, held).sum() - log_sphere_mgf(d, at)
    else:
        log_ratio = log_sphere_mgf(d, held, scaled=True).sum() - log_sphere_mgf(d, at, scaled=True)
        log_ratio = log_ratio + torch.from_numpy(shorter)
    return Sphere(d).log_volume + (weight * log_ratio).sum()


@cache
def _gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights on [-1, 1]; finding them takes longer than using them."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    nodes.flags.writeable = weights.flags.writeable = False
    return nodes, weights


def _polar_rule(power: int, kappa: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles and weights, summing to 1, for the density sin(angle)^power exp(kappa cos(angle))."""
    mode = math.pi / 2
    if kappa > 0:
        half = power / (2 * kappa)
        height = 1 / (math.hypot(half, 1) + half)  # its cosine
        mode = math.atan2(math.sqrt(2 * half * height), height)
    reach = _REACH / math.sqrt(max(power + kappa, 1e-12))
    low, high = max(0.0, mode - reach), min(math.pi, mode + reach)
    nodes, weights = _gauss_legendre(_NODES)
    angle = (low + high) / 2 + (high - low) / 2 * nodes
    logs = power * np.log(np.sin(angle)) - 2 * kappa * np.sin(angle / 2) ** 2
    dense = weights * np.exp(logs - logs.max())
    return angle, dense / dense.sum()


def independent_energy(law: VonMisesFisher, other: VonMisesFisher, *, temperature: float) -> SymmetricEnergy:
    """Population energies of two von Mises-Fisher laws whose pairs are independent: E s(x, y) = A(k1) A(k2) m1.m2.

    Args:
        law: of the first modality.
        other: of the second.
        temperature: tau > 0.

    Returns:
        J12, J21 and their mean, in nats.

    Raises:
        InputError: if the laws differ in dimension or the temperature is not positive.

    Source: D6 (Definition 4.2 of the paper) on laws.

    >>> uniform = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), 0.0)
    >>> independent_energy(uniform, uniform, temperature=0.1).sym  # -log(4 pi)
    tensor(-2.5310, dtype=torch.float64)
    """
    score = law.mean_resultant_length * other.mean_resultant_length * (law.mean @ other.mean) / temperature
    parts = [cross_entropy(a, b, temperature=temperature) for a, b in ((law, other), (other, law))]
    return SymmetricEnergy(-score - parts[0], -score - parts[1])


__all__ = ["SymmetricEnergy", "cross_entropy", "energy", "independent_energy", "symmetric_energy"]
