"""Densities on the nodes of a quadrature: laws of representations as functions, in the log domain."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_kind
from .._shown import Fields
from .._typing import Points, Rows, Scalar, Scalars
from ..geometry import FlatTorus, Quadrature, Sphere, harmonics, manifold_angles

PointMap = Callable[[Rows], Rows]
PointFunction = Callable[[Rows], Scalars]

_NEWTON_STEPS = 60


@dataclass(frozen=True, eq=False, repr=False)
class Density(Fields):
    """A probability density against the volume measure, known by its logarithm at quadrature nodes.

    Args:
        log_values: (q,) log rho at the nodes, in nats; -inf where the density is zero. Its mass must be 1: build a
            density from an unnormalised function with `Density.from_log`, or from values with `Density.from_values`.
        quadrature: the nodes and weights.

    Raises:
        InputError: if the values are NaN or +inf, do not match the nodes, or do not integrate to 1 (to 1e-8 in
            float64, 1e-4 in float32).

    Source: D2.

    >>> from infomech.geometry import quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> law = Density.from_log(3.0 * grid.nodes[:, 0], grid)  # von Mises
    >>> law.entropy()
    tensor(0.9932, dtype=torch.float64)
    """

    log_values: Float[Tensor, " q"]
    quadrature: Quadrature

    def __post_init__(self) -> None:
        _check_log_values(self.log_values, self.quadrature)
        mass = float(self.mass.detach())
        tolerance = 1e-8 if self.log_values.dtype == torch.float64 else 1e-4
        if not abs(mass - 1) <= tolerance:
            raise InputError(
                f"density integrates to {mass:.6g}, not 1; use Density.from_log or Density.from_values to normalise it"
            )

    @classmethod
    def from_log(cls, log_values: Float[Tensor, " q"], quadrature: Quadrature) -> "Density":
        """The density proportional to exp(log_values)."""
        _check_log_values(log_values, quadrature)
        log_mass = quadrature.log_integrate(log_values)
        if not bool(torch.isfinite(log_mass)):
            raise InputError("log_values are -inf at every node: the density is zero and cannot be normalised")
        return cls(log_values - log_mass, quadrature)

    @classmethod
    def from_values(cls, values: Float[Tensor, " q"], quadrature: Quadrature) -> "Density":
        """The density proportional to values >= 0.

        Raises:
            InputError: if a value is negative or not finite, or all are zero.
        """
        bad = ~(torch.isfinite(values) & (values >= 0))
        if bool(bad.any()):
            first = int(torch.nonzero(bad)[0])
            raise InputError(
                f"density values are negative or not finite at {int(bad.sum())} of {values.numel()} nodes, the first "
                f"{values.flatten()[first].item():.4g} at node {first}; a density is a finite number >= 0"
            )
        return cls.from_log(values.log(), quadrature)

    @classmethod
    def uniform(cls, quadrature: Quadrature) -> "Density":
        """The uniform law."""
        return cls.from_log(torch.zeros_like(quadrature.weights), quadrature)

    @property
    def values(self) -> Float[Tensor, " q"]:
        """Rho at the nodes."""
        return self.log_values.exp()

    @property
    def mass(self) -> Scalar:
        """Int rho dmu, 1 up to rounding."""
        return self.quadrature.log_integrate(self.log_values).exp()

    def mean(self, values: Float[Tensor, "... q"]) -> Scalars:
        """Int f rho dmu from f at the nodes; f may be infinite where rho is zero: (..., q) -> (...,)."""
        zero = torch.isneginf(self.log_values)
        return self.quadrature.integrate(self.values * values.masked_fill(zero, 0.0))

    def entropy(self) -> Scalar:
        """H(rho) = -int rho log rho dmu, in nats; log mu(Z) for the uniform law, its maximum."""
        return -self.mean(self.log_values)

    def kl(self, other: "Density") -> Scalar:
        """KL(self || other) = int rho log(rho / other) dmu, in nats; inf where other vanishes and self does not."""
        check_same_nodes(self, other)
        return self.mean(self.log_values - other.log_values.masked_fill(torch.isneginf(self.log_values), 0.0))

    def log_at(self, points: Rows) -> Float[Tensor, " n"]:
        """Log rho at any points of the manifold, by spectral interpolation of log rho.

        Raises:
            InputError: if the density vanishes at a node, where log rho has no smooth interpolant.
        """
        if bool(torch.isneginf(self.log_values).any()):
            raise InputError("density is zero at a node; its logarithm cannot be interpolated: give it a floor first")
        basis = harmonics(self.quadrature)
        return basis.evaluate(basis.analyse(self.log_values), points)

    def pushforward(
        self,
        mapping: PointMap | None = None,
        *,
        inverse: PointMap | None = None,
        log_jacobian: PointFunction | None = None,
    ) -> "Density":
        """The law of g(z), z ~ rho, by change of variables: log rho(g^-1(y)) + log |det D g^-1(y)| at the nodes y.

        Args:
            mapping: g on a circle, a diffeomorphism (n, 2) -> (n, 2) that torch can differentiate; its inverse is
                found by Newton's method and its Jacobian by differentiation.
            inverse: on any manifold, g^-1 as a map of points; with `log_jacobian`, in place of `mapping`.
            log_jacobian: log |det D g^-1| at points y, (n, d) -> (n,).

        Returns:
            The pushforward, renormalised on the same nodes (its mass is 1 up to the error of the interpolation).

        Raises:
            InputError: if neither form is given in full, or `mapping` is not one-to-one or not on a circle.

        >>> from infomech.geometry import quadrature_rule
        >>> grid = quadrature_rule(Sphere(2), 64)
        >>> law = Density.from_log(3.0 * grid.nodes[:, 0], grid)
        >>> turned = law.pushforward(lambda z: torch.stack([-z[:, 1], z[:, 0]], dim=1))  # by 90 degrees
        >>> torch.allclose(turned.log_values, law.log_values.roll(16))
        True
        """
        nodes = self.quadrature.nodes
        if mapping is not None and inverse is None and log_jacobian is None:
            sources, log_det = _invert_on_circle(mapping, self.quadrature)
        elif mapping is None and inverse is not None and log_jacobian is not None:
            sources, log_det = inverse(nodes), log_jacobian(nodes)
        else:
            raise InputError("pushforward needs either mapping (on a circle), or both inverse and log_jacobian")
        return Density.from_log(self.log_at(sources) + log_det, self.quadrature)

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """N independent draws from the law whose density is constant on each cell of the grid.

        The cells' masses are exact; within a cell the point is uniform, so that means of smooth functions carry an
        error of second order in the spacing.

        Args:
            n: number of draws.
            generator: source of randomness, on the density's device.
        """
        grid = self.quadrature
        mass = (self.log_values + grid.log_weights).exp().double()
        cell = torch.multinomial(mass, n, replacement=True, generator=generator)
        turn = torch.rand(n, len(grid.shape), generator=generator, dtype=torch.float64, device=mass.device) - 0.5
        if isinstance(grid.manifold, Sphere) and grid.manifold.ambient_dim == 3:
            rows, columns = grid.shape
            band = grid.weights.double().reshape(rows, columns)[:, 0] * (columns / (2 * math.pi))
            row = cell // columns
            height = 1 - torch.cumsum(band, 0)[row] + band[row] * (0.5 + turn[:, 0])
            longitude = grid.angles[cell, 1] + 2 * math.pi / columns * turn[:, 1]
            radius = (1 - height.square()).clamp_min(0).sqrt()
            points = torch.stack([radius * longitude.cos(), radius * longitude.sin(), height], dim=1)
        else:
            points = FlatTorus(len(grid.shape)).embed(grid.angles[cell] + 2 * math.pi / grid.shape[0] * turn)
        return points.to(grid.nodes.dtype)


def check_same_nodes(first: Density, second: Density) -> None:
    """Raise InputError unless two densities stand on the same nodes."""
    for each in (first, second):
        check_kind(each, "density", Density, "a Density: Density.from_log, from_values or uniform")
    a, b = first.quadrature, second.quadrature
    if a is not b and (a.manifold != b.manifold or a.shape != b.shape):
        raise InputError(
            f"densities stand on different nodes, {a.shape} of {a.manifold} and {b.shape} of {b.manifold}; "
            "build both on one quadrature"
        )


def _check_log_values(log_values: Tensor, quadrature: Quadrature) -> None:
    check_kind(log_values, "log_values", Tensor, "a tensor with a value for each node")
    check_kind(quadrature, "quadrature", Quadrature, "what quadrature_rule returns")
    if log_values.shape != quadrature.weights.shape:
        raise InputError(f"density has {tuple(log_values.shape)} values for {len(quadrature)} nodes; give one per node")
    bad = torch.isnan(log_values) | torch.isposinf(log_values)
    if bool(bad.any()):
        raise InputError(
            f"density is NaN or infinite at {int(bad.sum())} of {len(quadrature)} nodes, the first at node "
            f"{int(torch.nonzero(bad)[0])}; its logarithm must be a number or -inf"
        )


def _invert_on_circle(mapping: PointMap, grid: Quadrature) -> tuple[Points, Scalars]:
    """Preimages of the nodes under a diffeomorphism of the circle, and log |d g^-1| there."""
    if grid.manifold.ambient_dim != 2:
        raise InputError(f"mapping works on circles only; on {grid.manifold} give inverse and log_jacobian")
    circle = FlatTorus(1)
    n = len(grid)
    source = grid.angles[:, 0]
    image, slope = _circle_map(mapping, source)
    orientation = slope.sign()
    steps = orientation[0] * torch.remainder(orientation[0] * image.roll(-1).sub(image), 2 * math.pi)
    winding = float(steps.sum()) / (2 * math.pi)
    if not (bool((orientation == orientation[0]).all()) and abs(abs(winding) - 1) < 1e-6):
        raise InputError(
            f"mapping is not one-to-one on the circle (it winds {winding:.3g} times, with slopes from "
            f"{float(slope.min()):.3g} to {float(slope.max()):.3g}); sum its branches with inverse and log_jacobian"
        )
    # The lift g(t) is monotone: bracket each node between images of neighbours, then Newton kept inside the bracket.
    lift = image[0] + torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    knots = source[0] + 2 * math.pi * torch.arange(n + 1, dtype=source.dtype, device=source.device) / n
    increasing = bool(orientation[0] > 0)
    ordered, knots = (lift, knots) if increasing else (lift.flip(0), knots.flip(0))
    target = ordered[0] + torch.remainder(grid.angles[:, 0] - ordered[0], 2 * math.pi)
    right = torch.searchsorted(ordered, target, right=True).clamp(1, n)
    low, high = knots[right - 1], knots[right]
    t = (low + high) / 2
    for _ in range(_NEWTON_STEPS):
        image, slope = _circle_map(mapping, t)
        miss = torch.remainder(image - grid.angles[:, 0] + math.pi, 2 * math.pi) - math.pi
        beyond = miss > 0  # g(t) past the target: the root lies towards `low`
        low, high = torch.where(beyond, low, t), torch.where(beyond, t, high)
        step = t - miss / slope
        inside = (step - low) * (step - high) < 0
        t = torch.where(inside, step, (low + high) / 2)
    _, slope = _circle_map(mapping, t)
    return circle.embed(t[:, None]), -slope.abs().log()


def _circle_map(mapping: PointMap, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The angle of g at angles t, and its derivative in t."""
    with torch.enable_grad():
        t = angle.detach().requires_grad_()
        image = mapping(FlatTorus(1).embed(t[:, None]))
        out = manifold_angles(FlatTorus(1), image)[:, 0]
        (slope,) = torch.autograd.grad(out.sum(), t)
    return out.detach(), slope


__all__ = ["Density", "check_same_nodes"]
