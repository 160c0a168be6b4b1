"""Ensembles of particles on S^2 that descend a kernel energy, all runs of all temperatures as one program."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...equilibria import Potential
from ...reductions import cpu_threads, side_by_side

Ensembles = Float[Tensor, "r n 3"]


@runtime_checkable
class PairKernel(Protocol):
    """A kernel of two points of the sphere, as a function of u = 1 - z.w."""

    def evaluate(self, u: Tensor, kernel: Tensor, slope: Tensor, *, run: int) -> None:
        """Write k(u) and -dk/du into the two buffers; u may be overwritten."""

    def own(self, run: int) -> float:
        """What a particle's own place adds to its sum; taken out where it is its own negative."""


@dataclass(frozen=True)
class GeodesicGaussian:
    """exp(-angle^2 / (2 h^2)), by exp of a polynomial in u = 1 - cos(angle).

    angle^2 is an analytic function of u up to the antipode, where the kernel is nothing: a cubic stands for it, whose
    error in the kernel (`exact_error`) is at most 1.5e-5 of its height at h = 0.35. The slope is that of the cubic, so
    that gradient and energy belong together. An arc cosine would cost more than all the rest.
    """

    coefficients: tuple[float, float, float]

    @classmethod
    def of_bandwidth(cls, bandwidth: float) -> "GeodesicGaussian":
        """Fitted by reweighted least squares, which evens the error of the kernel out."""
        u = np.linspace(0, 1.75, 4001)
        target = -(np.arccos(1 - u) ** 2) / (2 * bandwidth**2)
        powers = np.stack([u, u**2, u**3], axis=1)
        weight = np.exp(target) + 1e-6
        best: NDArray[Any] = np.zeros(3)
        least = math.inf
        for _ in range(200):
            found = np.linalg.lstsq(powers * weight[:, None], target * weight, rcond=None)[0]
            error = np.abs(np.exp(powers @ found) - np.exp(target))
            if error.max() < least:
                best, least = found, float(error.max())
            weight = weight * np.sqrt(1 + error / error.max())
            weight /= weight.max()
        a, b, c = (float(v) for v in best)
        return cls((a, b, c))

    def exact_error(self, bandwidth: float) -> NDArray[np.float64]:
        """The kernel less exp(-angle^2 / (2 h^2)) on a fine grid of [0, 2]."""
        u = np.linspace(0, 2, 20_001)
        a, b, c = self.coefficients
        exact = np.exp(-(np.arccos(1 - u) ** 2) / (2 * bandwidth**2))
        return np.asarray(np.exp(u * (a + u * (b + u * c))) - exact)

    def evaluate(self, u: Tensor, kernel: Tensor, slope: Tensor, *, run: int) -> None:  # noqa: D102
        a, b, c = (torch.tensor(v, dtype=u.dtype) for v in self.coefficients)
        log2_e = math.log2(math.e)
        torch.add(b * log2_e, u, alpha=float(c) * log2_e, out=kernel)
        torch.addcmul(a * log2_e, kernel, u, out=kernel)
        kernel.mul_(u).exp2_()
        torch.add(-2 * b, u, alpha=-3 * float(c), out=slope)
        torch.addcmul(-a, slope, u, out=slope)
        slope.mul_(kernel)

    def own(self, run: int) -> float:  # noqa: D102
        return 0.0


@dataclass(frozen=True)
class InfoNCEKernel:
    """exp((z.w - 1) / tau), each run at its own temperature: the kernel of D5, a particle not its own negative."""

    temperatures: tuple[float, ...]

    def evaluate(self, u: Tensor, kernel: Tensor, slope: Tensor, *, run: int) -> None:  # noqa: D102
        rate = 1 / self.temperatures[run]
        torch.mul(u, -rate * math.log2(math.e), out=kernel).exp2_()
        torch.mul(kernel, rate, out=slope)

    def own(self, run: int) -> float:  # noqa: D102
        return 1.0


@dataclass(frozen=True)
class KernelEnergy:
    """mean_i U(z_i) / tau + mean_i log mean_j k(z_i, z_j), of each run.

    Args:
        potential: U.
        temperatures: tau of each run.
        kernel: k.
    """

    potential: Potential
    temperatures: Float[Tensor, " r"]
    kernel: PairKernel

    def gradient(self, z: Ensembles) -> Ensembles:
        """Gradient in the particles times their number, in the ambient space; exact for the kernel as evaluated."""
        leaf = z.detach().requires_grad_()
        pull = torch.autograd.grad((self.potential(leaf) / self.temperatures[:, None]).sum(), leaf)[0]
        threads = cpu_threads(z.device)
        runs = torch.arange(len(z)).chunk(threads)
        out = torch.empty_like(z)
        side_by_side([partial(self._spread, z, out, part.tolist()) for part in runs], threads=threads)
        return out.add_(pull)

    def _spread(self, z: Ensembles, out: Ensembles, runs: list[int]) -> None:
        """The second term's gradient: sum_j (1/S_i + 1/S_j) (dk/dc)_ij z_j, in buffers that stay in the cache."""
        n = z.shape[1]
        u, kernel, slope = (torch.empty(n, n, dtype=z.dtype) for _ in range(3))
        ones = torch.ones(n, 1, dtype=z.dtype)
        for run in runs:
            points = z[run]
            torch.mm(torch.cat([points, ones], 1), torch.cat([-points, ones], 1).T, out=u)
            self.kernel.evaluate(u, kernel, slope, run=run)
            sums = kernel.sum(0).sub_(self.kernel.own(run)).clamp_min_(1e-30)
            both = torch.cat([points.T, points.T / sums])
            moved = both @ slope
            out[run] = (moved[:3] / sums + moved[3:]).T


class SphereAdam:
    """Adam in the ambient space on the tangent part of the gradient, each step followed by a return to the sphere.

    Args:
        z: the particles; moved in place, as are the moments.
        rate: the step.
        noise: standard deviation of a tangent Gaussian added after each step, in radians.
        betas: decay of the moments.
    """

    def __init__(self, z: Ensembles, *, rate: float, noise: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.z, self.rate, self.noise, self.betas = z, rate, noise, betas
        self.first, self.second = torch.zeros_like(z), torch.zeros_like(z)

    def step(self, gradient: Ensembles, number: int, *, generator: torch.Generator, rate: float | None = None) -> None:
        """Move by the gradient of step `number` (from 0 on)."""
        z = self.z
        tangent = gradient - (gradient * z).sum(2, keepdim=True) * z
        a, b = self.betas
        self.first.mul_(a).add_(tangent, alpha=1 - a)
        self.second.mul_(b).addcmul_(tangent, tangent, value=1 - b)
        scale = (self.second / (1 - b ** (number + 1))).sqrt_().add_(1e-8)
        rate = self.rate if rate is None else rate
        z.addcdiv_(self.first, scale, value=-rate / (1 - a ** (number + 1)))
        if self.noise:
            z.add_(torch.randn(z.shape, generator=generator, dtype=z.dtype), alpha=self.noise * rate / self.rate)
        z.copy_(torch.nn.functional.normalize(z, dim=2))


__all__ = ["GeodesicGaussian", "InfoNCEKernel", "KernelEnergy", "PairKernel", "SphereAdam"]
