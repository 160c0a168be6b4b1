"""The Gibbs equilibrium of one modality (D8, T3): density, partition function, masses, and exact sampling."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_kind, check_temperature
from .._shown import Fields
from .._typing import Rows, Scalar
from ..geometry import Quadrature, Sphere
from ..measures import Density, VonMisesFisher
from .potentials import LinearPotential, Potential, TwoWellPotential, potential_at_nodes


@dataclass(frozen=True, eq=False, repr=False)
class GibbsLaw(Fields):
    """The law rho* = exp(-U / tau) / Z, the unique minimiser of the intrinsic energy (T3).

    Args:
        potential: U, any function of points (..., d) -> (...,), or its values (q,) at the nodes.
        temperature: tau > 0.
        quadrature: nodes on S^1, S^2, T^1 or T^2; they must resolve wells of width sqrt(tau / curvature of U).

    Raises:
        InputError: if the potential is not finite at a node or the temperature not positive.

    Source: D8, T3 (Proposition 3.1 of the paper).

    >>> from infomech.geometry import quadrature_rule
    >>> north = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    >>> law = GibbsLaw(LinearPotential(north), 0.5, quadrature_rule(Sphere(3), 24))
    >>> law.log_partition  # log(4 pi sinh(2) / 2)
    tensor(3.1262, dtype=torch.float64)
    """

    potential: Potential | Float[Tensor, " q"]
    temperature: float
    quadrature: Quadrature

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_kind(self.quadrature, "quadrature", Quadrature, "what quadrature_rule returns")
        _ = self.node_values

    @cached_property
    def node_values(self) -> Float[Tensor, " q"]:
        """U at the nodes."""
        return potential_at_nodes(self.potential, self.quadrature)

    @cached_property
    def log_partition(self) -> Scalar:
        """Log Z = log int exp(-U / tau) dmu, in nats; the minimum of the energy is -log Z."""
        return self.quadrature.log_integrate(-self.node_values / self.temperature)

    @cached_property
    def density(self) -> Density:
        """Rho* on the nodes."""
        return Density(-self.node_values / self.temperature - self.log_partition, self.quadrature)

    def cap_mass(self, centers: Rows, radius: float, *, resolution: int = 64) -> Scalar:
        """Mass within geodesic distance `radius` of the centers, by a quadrature of the caps themselves.

        Args:
            centers: (c, d) points of S^1 or S^2 whose caps do not overlap.
            radius: in radians, in (0, pi].
            resolution: Gauss-Legendre nodes in each cap's height (and twice as many around it).

        Raises:
            InputError: if caps overlap, the radius is out of range, the manifold is no sphere, or the potential is
                known at the nodes only.
        """
        manifold = self.quadrature.manifold
        if not isinstance(manifold, Sphere):
            raise InputError(f"cap_mass needs a sphere, not {manifold}; use sublevel_mass or density.mean")
        if isinstance(self.potential, Tensor):
            raise InputError("cap_mass needs the potential as a function of points; here are only its values at nodes")
        if not 0 < radius <= math.pi:
            raise InputError(f"radius is {radius}; it must lie in (0, pi] radians")
        _check_apart(centers, radius)
        points, log_weights = _cap_rule(centers, radius, resolution)
        log_mass = torch.logsumexp(log_weights - self.potential(points) / self.temperature, dim=0)
        return (log_mass - self.log_partition).exp()

    def sublevel_mass(self, excess: float) -> Scalar:
        """Mass of {U <= min U + excess} (T4), the minimum being that over the nodes.

        The set's edge is resolved by the nodes, so that the error falls with the spacing only; use a fine rule.
        """
        inside = self.node_values <= self.node_values.min() + excess
        return self.density.mean(inside.to(self.node_values.dtype))

    def sample_exact(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Independent draws; see `sample_gibbs_exact`."""
        if isinstance(self.potential, Tensor):
            raise InputError("exact sampling needs the potential as a function; use density.sample for values at nodes")
        return sample_gibbs_exact(self.potential, self.temperature, n, generator=generator)


def sample_gibbs_exact(
    potential: Potential, temperature: float, n: int, *, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """Independent draws from exp(-U / tau) / Z on a sphere of any dimension, for potentials that allow it.

    Linear: vMF(m, 1 / tau) itself. Two wells of sharpness k: with p = 1 / (k tau) the density is (a + b)^p, where a^p
    and b^p are von Mises-Fisher of concentration 1 / tau. It is at most max(1, 2^(p-1)) (a^p + b^p), so that rejection
    from that mixture is exact, with an acceptance of at least 2^-|p - 1|.

    Args:
        potential: a `LinearPotential` or `TwoWellPotential`; for others use `sample_mala`.
        temperature: tau > 0.
        n: number of draws.
        generator: source of randomness, on the potential's device.

    Returns:
        (n, d) unit rows.

    Raises:
        InputError: for any other potential, or a temperature so low against the wells' sharpness that rejection
            would accept less than one draw in a thousand.

    Source: T3 (Proposition 3.1 of the paper).

    >>> seeded = torch.Generator().manual_seed(0)
    >>> z = sample_gibbs_exact(LinearPotential(torch.tensor([0.0, 0.0, 1.0])), 0.5, 4000, generator=seeded)
    >>> round(float(z[:, 2].mean()), 1)  # coth 2 - 1/2 = 0.537
    0.5
    """
    check_temperature(temperature)
    if isinstance(potential, LinearPotential):
        return VonMisesFisher(potential.direction, 1 / temperature).sample(n, generator=generator)
    if not isinstance(potential, TwoWellPotential):
        raise InputError(
            f"potential {type(potential).__name__} has no exact sampler; use sample_mala, or density.sample on nodes"
        )
    power = 1 / (potential.sharpness * temperature)
    if power > 11:
        raise InputError(
            f"temperature is {temperature:.3g}: rejection from two wells of sharpness {potential.sharpness:.3g} would "
            "accept fewer than one in a thousand; use sample_mala"
        )
    return _sample_two_wells(potential, temperature, n, power, generator)


def _sample_two_wells(
    potential: TwoWellPotential, temperature: float, n: int, power: float, generator: torch.Generator
) -> Tensor:
    wells = [VonMisesFisher(m, 1 / temperature) for m in potential.wells]
    log_prior = torch.tensor(
        [potential.weight, 1 - potential.weight], dtype=torch.float64, device=generator.device
    ).log()
    share = torch.softmax(power * log_prior, dim=0)
    log_bound = max(0.0, power - 1) * math.log(2)
    kept: list[Tensor] = []
    missing = n
    while missing > 0:
        draws = 2 * missing + 16
        which = torch.multinomial(share, draws, replacement=True, generator=generator)
        first, second = (well.sample(draws, generator=generator) for well in wells)
        z = torch.where((which == 0)[:, None], first, second)
        log_terms = potential.sharpness * (z @ potential.wells.mT).double() + log_prior
        log_ratio = power * torch.logsumexp(log_terms, 1) - torch.logsumexp(power * log_terms, 1) - log_bound
        log_u = torch.rand(draws, dtype=torch.float64, device=generator.device, generator=generator).log()
        good = z[log_u <= log_ratio][:missing]
        kept.append(good)
        missing -= len(good)
    return torch.cat(kept)


def _check_apart(centers: Rows, radius: float) -> None:
    cosine = centers @ centers.mT
    sine = (1 - cosine.square()).clamp_min(0).sqrt()
    distance = torch.atan2(sine, cosine).fill_diagonal_(math.inf)
    if bool((distance < 2 * radius).any()):
        raise InputError(
            f"caps of radius {radius:.3g} overlap: their centers are {float(distance.min()):.3g} radians apart; "
            "take a smaller radius, or one cap at a time"
        )


def _cap_rule(centers: Rows, radius: float, n: int) -> tuple[Tensor, Tensor]:
    """Points (p, d) and log weights (p,) of a rule on caps of S^1 or S^2 around the centers."""
    knots, knot_weights = (torch.from_numpy(a).to(centers) for a in np.polynomial.legendre.leggauss(n))
    if centers.shape[1] == 2:
        angle, weight = radius * knots, radius * knot_weights
        side = torch.stack([-centers[:, 1], centers[:, 0]], dim=1)
        points = angle.cos()[None, :, None] * centers[:, None] + angle.sin()[None, :, None] * side[:, None]
        return points.reshape(-1, 2), weight.log().repeat(len(centers))
    half = (1 - math.cos(radius)) / 2
    height, weight = 1 - half * (1 - knots), half * knot_weights
    turn = 2 * math.pi * torch.arange(2 * n, device=centers.device, dtype=centers.dtype) / (2 * n)
    sine = (1 - height.square()).clamp_min(0).sqrt()
    local = torch.stack(
        [sine[:, None] * turn.cos(), sine[:, None] * turn.sin(), height[:, None].expand(n, 2 * n)], dim=-1
    ).reshape(-1, 3)
    frames = torch.stack([_frame(center) for center in centers])
    points = torch.einsum("pk,ckd->cpd", local, frames).reshape(-1, 3)
    log_weights = (weight * (math.pi / n)).log().repeat_interleave(2 * n)
    return points, log_weights.repeat(len(centers))


def _frame(center: Tensor) -> Tensor:
    """An orthonormal basis of R^3, rows, the last one the center."""
    axis = torch.zeros_like(center)
    axis[int(center.abs().argmin())] = 1
    first = torch.nn.functional.normalize(axis - (axis @ center) * center, dim=0)
    return torch.stack([first, torch.linalg.cross(center, first), center])


__all__ = ["GibbsLaw", "sample_gibbs_exact"]
