"""The von Mises-Fisher law on the sphere: density, sampling, entropy, divergence and its smoothed field."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_temperature
from .._typing import Points, Scalar, Scalars
from ..geometry import Sphere, log_sphere_mgf, mean_resultant


@dataclass(frozen=True, eq=False)
class VonMisesFisher:
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
        if self.mean.ndim != 1 or self.mean.shape[0] < 2:
            raise InputError(f"vMF mean has shape {tuple(self.mean.shape)}; expected one vector of at least 2 entries")
        norm = float(self.mean.detach().double().norm())
        if not abs(norm - 1) < 1e-3:
            raise InputError(f"vMF mean has length {norm:.4g}; it must be a unit vector: divide it by its length")
        kappa = float(self.concentration)
        if not 0 <= kappa < float("inf"):
            raise InputError(f"vMF concentration is {kappa}; it must be finite and at least 0")

    @property
    def dim(self) -> int:
        """Ambient dimension d."""
        return self.mean.shape[0]

    @cached_property
    def kappa(self) -> Scalar:
        """The concentration as a scalar tensor of the mean's dtype and device."""
        return torch.as_tensor(self.concentration, dtype=self.mean.dtype, device=self.mean.device)

    @cached_property
    def log_normalizer(self) -> Scalar:
        """Log c_d(k), in nats."""
        return -(Sphere(self.dim).log_volume + log_sphere_mgf(self.dim, self.kappa))

    @property
    def mean_resultant_length(self) -> Scalar:
        """A_d(k) = E[m.z]."""
        return mean_resultant(self.dim, self.kappa)

    def log_density(self, z: Points) -> Scalars:
        """Log c_d(k) + k m.z at points z (..., d) of the sphere, in nats."""
        return self.log_normalizer + self.kappa * (z @ self.mean)

    def entropy(self) -> Scalar:
        """Differential entropy -log c_d(k) - k A_d(k), in nats."""
        return -self.log_normalizer - self.kappa * self.mean_resultant_length

    def kl(self, other: "VonMisesFisher") -> Scalar:
        """KL(self || other) = log c(k1) - log c(k2) + A(k1) (k1 - k2 m1.m2), in nats.

        Raises:
            InputError: if the laws live on spheres of different dimension.
        """
        if self.dim != other.dim:
            raise InputError(f"KL between laws on R^{self.dim} and R^{other.dim}; both must have one dimension")
        drift = self.kappa - other.kappa * (self.mean @ other.mean)
        return self.log_normalizer - other.log_normalizer + self.mean_resultant_length * drift

    def log_partition_field(self, z: Points, *, temperature: float) -> Scalars:
        """D3 in closed form, cosine critic: log Gamma(z) = log c(k) - log c(|k m + z / tau|), (..., d) -> (...,)."""
        check_temperature(temperature)
        tilted = (self.kappa * self.mean + z / temperature).norm(dim=-1)
        return self.log_normalizer + Sphere(self.dim).log_linear_integral(tilted)

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """N independent draws, (n, d), by Wood's rejection sampler (1994), exact in any dimension.

        Args:
            n: number of draws.
            generator: source of randomness; it must be on the mean's device.
        """
        cosines = self._sample_cosines(n, generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64, device=self.mean.device)
        mean = torch.nn.functional.normalize(self.mean.detach().double(), dim=0)
        tangent = noise - (noise @ mean)[:, None] * mean
        tangent = torch.nn.functional.normalize(tangent, dim=1)
        sines = (1 - cosines.square()).clamp_min(0).sqrt()
        z = cosines[:, None] * mean + sines[:, None] * tangent
        return torch.nn.functional.normalize(z, dim=1).to(self.mean.dtype)

    def _sample_cosines(self, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Draws of m.z: density proportional to exp(k t) (1 - t^2)^((d-3)/2) on [-1, 1]."""
        k, free = float(self.kappa), self.dim - 1
        root = (4 * k * k + free * free) ** 0.5
        b = free / (2 * k + root)
        t0 = (1 - b) / (1 + b)
        c = k * t0 + free * torch.log1p(torch.tensor(-t0 * t0, dtype=torch.float64)).item()
        kept: list[Tensor] = []
        missing = n
        while missing > 0:
            draws = 2 * missing + 16
            beta = _beta_half(free, draws, generator, self.mean.device)
            t = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
            u = torch.rand(draws, generator=generator, dtype=torch.float64, device=self.mean.device)
            good = t[k * t + free * torch.log1p(-t0 * t) - c >= u.log()][:missing]
            kept.append(good)
            missing -= len(good)
        return torch.cat(kept)


def _beta_half(free: int, n: int, generator: torch.Generator, device: torch.device) -> Float[Tensor, " n"]:
    """N draws of Beta(free / 2, free / 2), from a uniform point on S^{free}: (1 + first coordinate) / 2."""
    # The first coordinate of a uniform point on S^{free} in R^{free+1} has (1 + t)/2 ~ Beta(free/2, free/2).
    first = torch.randn(n, generator=generator, dtype=torch.float64, device=device)
    rest = torch._standard_gamma(torch.full((n,), free / 2, dtype=torch.float64, device=device), generator=generator)
    t = first / (first.square() + 2 * rest).sqrt()
    return (1 + t) / 2


__all__ = ["VonMisesFisher"]
