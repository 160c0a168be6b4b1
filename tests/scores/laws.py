"""Two laws of pairs whose log density ratio is known, for the tests of scores."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import infomech as im
from infomech._typing import Scalars
from infomech.geometry import Critic


@dataclass(frozen=True)
class NoisyDirections:
    """x uniform on the sphere, y von Mises-Fisher around x: the cosine at 1 / kappa is the ratio up to a constant."""

    dim: int
    concentration: float

    @property
    def temperature(self) -> float:
        return 1 / self.concentration

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.nn.functional.normalize(torch.randn(count, self.dim, generator=generator, dtype=torch.float64), dim=1)
        pole = torch.zeros(self.dim, dtype=torch.float64)
        pole[0] = 1.0
        around_pole = im.VonMisesFisher(pole, self.concentration).sample(count, generator=generator)
        mirror = torch.nn.functional.normalize(pole - x, dim=1)  # the reflection that takes the pole to x
        y = around_pole - 2 * (around_pole * mirror).sum(1, keepdim=True) * mirror
        return x, y

    def log_ratio(self, x: Tensor, y: Tensor) -> Tensor:
        sphere = im.Sphere(self.dim)
        volume = float(im.log_kernel_volume(sphere, im.Cosine(), self.temperature))
        return self.concentration * (x * y).sum(-1) - (volume - float(sphere.log_volume))

    @property
    def kernel_variation(self) -> float:
        """The coefficient of variation of exp(kappa x.w), w uniform: of what a field is the mean."""
        sphere = im.Sphere(self.dim)
        area = float(sphere.log_volume)
        once, twice = (float(im.log_kernel_volume(sphere, im.Cosine(), self.temperature / k)) - area for k in (1, 2))
        return math.sqrt(math.exp(twice - 2 * once) - 1)


@dataclass(frozen=True)
class WithRowTerm(Critic):
    """s(z, w) = z.w - rho |z|^2 / 2 - rho |w|^2 / 2, on R^d."""

    rho: float

    @property
    def slope(self) -> float:
        return 1.0

    def of_inner(self, inner: Scalars, squared_norms: Scalars) -> Scalars:
        return inner - self.rho * squared_norms / 2

    def row_terms(self, squared_norms: Scalars) -> Scalars:
        return -self.rho * squared_norms / 2

    @property
    def integrable(self) -> bool:
        return True


@dataclass(frozen=True)
class GaussianPairs:
    """x and y standard normal on R^d with correlation rho in each coordinate."""

    dim: int
    rho: float

    @property
    def temperature(self) -> float:
        return (1 - self.rho**2) / self.rho

    @property
    def critic(self) -> WithRowTerm:
        return WithRowTerm(self.rho)

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x, noise = torch.randn(2, count, self.dim, generator=generator, dtype=torch.float64)
        return x, self.rho * x + math.sqrt(1 - self.rho**2) * noise

    def log_ratio(self, x: Tensor, y: Tensor) -> Tensor:
        squares = (x.square() + y.square()).sum(-1)
        exponent = (self.rho * (x * y).sum(-1) - self.rho**2 * squares / 2) / (1 - self.rho**2)
        return exponent - self.dim / 2 * math.log(1 - self.rho**2)


@dataclass(frozen=True)
class Hubs:
    """Some rows of y lie near everything, so that random pairs above a threshold share rows."""

    dim: int = 16
    temperature: float = 0.1

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        scale = torch.arange(1, self.dim + 1) ** -0.5
        z, a, b = torch.randn(3, count, self.dim, generator=generator) * scale
        towards = torch.randn(count, 1, generator=generator).clamp_min(0) * 0.5
        x, y = z + 0.3 * a + 0.3, z + 0.3 * b + towards
        return torch.nn.functional.normalize(x, dim=1), torch.nn.functional.normalize(y, dim=1)


__all__ = ["GaussianPairs", "Hubs", "NoisyDirections", "WithRowTerm"]
