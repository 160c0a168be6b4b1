"""The von Mises-Fisher law on the sphere: density, sampling, entropy, divergence and its smoothed field."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_draws, check_one_device, check_temperature, is_number, shown
from .._shown import Fields
from .._typing import PointsLike, Scalar, Scalars
from ..geometry import Sphere, concentration_divergence, log_sphere_mgf, mean_resultant
from ..io.rows import as_floats


@dataclass(frozen=True, eq=False, repr=False)
class VonMisesFisher(Fields):
    """The law vMF(m, k) on S^{d-1} with density c_d(k) exp(k m.z) against surface measure.

    Here log c_d(k) = -log|S^{d-1}| - log 0F1(; d/2; k^2/4); k = 0 is the uniform law.

    Args:
        mean: (d,) unit vector m, d >= 2. Its dtype and device are those of all results.
        concentration: k >= 0, a float or a scalar tensor.

    Raises:
        InputError: if the mean is not a unit vector or the concentration is negative or not finite.

    Source: D2; the normaliser is D1 at temperature 1 / k.

    >>> law = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), 20.0)
    >>> law.entropy()
    tensor(-0.1579, dtype=torch.float64)
    """

    mean: Float[Tensor, " d"]
    concentration: float | Scalar

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", as_floats(self.mean, "vMF mean"))
        if self.mean.ndim != 1 or self.mean.shape[0] < 2:
            raise InputError(f"vMF mean has shape {tuple(self.mean.shape)}; expected one vector of at least 2 entries")
        norm = float(self.mean.detach().double().norm())
        if not abs(norm - 1) < 1e-3:
            raise InputError(f"vMF mean has length {norm:.4g}; it must be a unit vector: divide it by its length")
        if not is_number(self.concentration):
            raise InputError(f"vMF concentration is {shown(self.concentration)}; it must be a number of at least 0")
        kappa = self._held_kappa
        if not 0 <= kappa < float("inf"):
            raise InputError(f"vMF concentration is {kappa}; it must be finite and at least 0")

    @property
    def _held_kappa(self) -> float:
        return float(self.concentration.detach() if isinstance(self.concentration, Tensor) else self.concentration)

    @property
    def dim(self) -> int:
        """Ambient dimension d."""
        return self.mean.shape[0]

    @cached_property
    def kappa(self) -> Scalar:
        """The concentration as a scalar tensor of the mean's dtype and device."""
        return torch.as_tensor(self.concentration, dtype=self.mean.dtype, device=self.mean.device)

    @cached_property
    def _kappa(self) -> Scalar:
        return torch.as_tensor(self.concentration, dtype=torch.float64, device=self.mean.device)

    @cached_property
    def _mean(self) -> Float[Tensor, " d"]:
        return torch.nn.functional.normalize(self.mean.double(), dim=0)

    @cached_property
    def log_normalizer(self) -> Scalar:
        """Log c_d(k), in nats; less than -k by a logarithm where k is large."""
        return -Sphere(self.dim).log_linear_integral(self._kappa).to(self.mean)

    @property
    def mean_resultant_length(self) -> Scalar:
        """A_d(k) = E[m.z], in [0, 1]."""
        return mean_resultant(self.dim, self._kappa).to(self.mean)

    def log_density(self, z: PointsLike) -> Scalars:
        """Log c_d(k) + k m.z at points z (..., d) of the sphere, in nats.

        Evaluated as log c_d(k) + k - k |z - m|^2 / 2, which rounding of the length of z hardly touches.
        """
        points = self._points(z)
        peak = -Sphere(self.dim).log_linear_integral(self._kappa, scaled=True)
        return (peak - self._kappa / 2 * (points.double() - self._mean).square().sum(-1)).to(points.dtype)

    def entropy(self) -> Scalar:
        """Differential entropy -log c_d(k) - k A_d(k), in nats."""
        k, d = self._kappa, self.dim
        # Two forms of log M(k) - k A(k); the one with the smaller terms loses less.
        plain = log_sphere_mgf(d, k) - k * mean_resultant(d, k)
        scaled = log_sphere_mgf(d, k, scaled=True) + k * mean_resultant(d, k, complement=True)
        return (Sphere(d).log_volume + torch.where(k < d, plain, scaled)).to(self.mean)

    def kl(self, other: "VonMisesFisher") -> Scalar:
        """KL(self || other) = log c(k1) - log c(k2) + A(k1) (k1 - k2 m1.m2) >= 0, in nats.

        Evaluated as the sum of what the concentrations differ by and what the means do, A(k1) k2 |m1 - m2|^2 / 2.

        Raises:
            InputError: if the laws live on spheres of different dimension.
        """
        if not isinstance(other, VonMisesFisher):
            raise InputError(f"other is {shown(other)}; give another VonMisesFisher")
        if self.dim != other.dim:
            raise InputError(f"KL between laws on R^{self.dim} and R^{other.dim}; both must have one dimension")
        check_one_device(self.mean, other.mean, ("the mean", "the other's"))
        of_means = mean_resultant(self.dim, self._kappa) * other._kappa * (self._mean - other._mean).square().sum() / 2
        return (concentration_divergence(self.dim, self._kappa, other._kappa) + of_means).to(self.mean)

    def _points(self, z: PointsLike) -> Tensor:
        points = as_floats(z, "z")
        if not points.ndim or points.shape[-1] != self.dim:
            raise InputError(
                f"z has shape {tuple(points.shape)}; expected points (..., {self.dim}) of the law's sphere"
            )
        check_one_device(points, self.mean, ("z", "the law's mean"))
        return points

    def log_partition_field(self, z: PointsLike, *, temperature: float | Tensor) -> Scalars:
        """D3 in closed form, cosine critic: log Gamma(z) = log c(k) - log c(|k m + z / tau|), (..., d) -> (...,)."""
        check_temperature(temperature)
        points = self._points(z)
        tau = temperature.to(points.device) if isinstance(temperature, Tensor) else temperature
        pull = points.double() / tau
        tilted = (self._kappa * self._mean + pull).norm(dim=-1)
        # |k m + z / tau| - k by the difference of squares: at large k both round to one number.
        longer = (2 * self._kappa * (pull @ self._mean) + pull.square().sum(-1)) / (tilted + self._kappa)
        plain, scaled = (
            log_sphere_mgf(self.dim, tilted, scaled=s) - log_sphere_mgf(self.dim, self._kappa, scaled=s)
            for s in (False, True)
        )
        return torch.where(tilted < self.dim, plain, scaled + longer).to(points.dtype)

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """N independent draws, (n, d), by Wood's rejection sampler (1994), exact in any dimension.

        Args:
            n: number of draws.
            generator: source of randomness; it must be on the mean's device.
        """
        check_draws(n, generator)
        drops = self._sample_drops(n, generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64, device=self.mean.device)
        mean = self._mean.detach()
        tangent = noise - (noise @ mean)[:, None] * mean
        tangent = torch.nn.functional.normalize(tangent, dim=1)
        sines = (drops * (2 - drops)).sqrt()
        z = (1 - drops)[:, None] * mean + sines[:, None] * tangent
        return torch.nn.functional.normalize(z, dim=1).to(self.mean.dtype)

    def _sample_drops(self, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Draws of s = 1 - m.z, whose density is proportional to exp(-k s) (s (2 - s))^((d-3)/2) on [0, 2].

        Wood's sampler in terms of s, which is of the order of d / k, and not of the cosine, which rounds to 1.
        """
        k, free = self._held_kappa, self.dim - 1
        b = free / (2 * k + math.hypot(2 * k, free))
        mode = 2 * b / (1 + b)
        kept: list[Tensor] = []
        missing = n
        while missing > 0:
            draws = 2 * missing + 16
            beta, rest = _beta_half(free, draws, generator, self.mean.device)
            s = 2 * b * beta / (rest + b * beta)
            u = torch.rand(draws, generator=generator, dtype=torch.float64, device=self.mean.device)
            gain = k * (mode - s) + free * torch.log((mode + s - mode * s) / (mode * (2 - mode)))
            good = s[gain >= u.log()][:missing]
            kept.append(good)
            missing -= len(good)
        return torch.cat(kept)


def _beta_half(
    free: int, n: int, generator: torch.Generator, device: torch.device
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """N draws b of Beta(free / 2, free / 2) and 1 - b, each to full relative precision."""
    # The first coordinate t of a uniform point on S^{free} in R^{free+1} has (1 + t)/2 ~ Beta(free/2, free/2).
    first = torch.randn(n, generator=generator, dtype=torch.float64, device=device)
    rest = torch._standard_gamma(torch.full((n,), free / 2, dtype=torch.float64, device=device), generator=generator)
    norm = (first.square() + 2 * rest).sqrt()
    large = (norm + first.abs()) / (2 * norm)
    small = rest / (norm * (norm + first.abs()))
    up = first > 0
    return torch.where(up, large, small), torch.where(up, small, large)


__all__ = ["VonMisesFisher"]
