"""Two modalities that see one latent angle (T12): the law of the observed angles, exact, and its draws.

The latent angle t has the law w vM(0, k) + (1 - w) vM(pi, k). The first modality observes (cos t, sin t) and the second
(cos t', sin t'), where t' = t + wrapped normal noise of scale `misalignment`; both carry isotropic Gaussian noise of
scale `observation_noise`.

An encoder z = A x / |A x| depends on the direction of the observation x alone, A (r u) / |A (r u)| = A u / |A u|, so
that the law of the observation's *angle* is all that an energy of the representations needs. The angle of (1, 0) + s n,
n normal, is symmetric (a projected normal law), so that observation noise is a convolution of angles, as misalignment
is: both multiply the Fourier coefficients of the latent law,

    misalignment:       exp(-m^2 k^2 / 2)
    observation noise:  sqrt(pi x / 2) exp(-x) (I_{(k-1)/2}(x) + I_{(k+1)/2}(x)),    x = 1 / (4 s^2).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.special
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .._checks import InputError, check_between, check_number
from .._typing import Rows, Scalars
from ..measures import VonMisesFisher

_FREQUENCIES = 64  # the coefficients of a mixture of concentration 20 are below 1e-18 from 46 on
_SMALL_NOISE = 1e-4  # below, a projected normal angle is normal to rounding
_SHARPEST = 20.0  # above, the density between the modes drowns in the rounding of its Fourier series


@dataclass(frozen=True)
class LatentAngles:
    """The paper's latent-angle toy: what two modalities see of one angle.

    Args:
        weight: w, the share of the mode at 0; the rest is at pi.
        concentration: of both von Mises modes, from 0 to 20.
        misalignment: standard deviation of the wrapped normal noise between the two modalities' angles, radians.
        observation_noise: standard deviation of the Gaussian noise on each coordinate of both observations.

    Raises:
        InputError: if an argument is out of range.

    Source: T12; the paper's experiment on misalignment (Fig. 5, 2b), where the noise is 0.02.

    >>> LatentAngles(misalignment=0.4).log_density(0, torch.zeros(1, dtype=torch.float64))
    tensor([-0.4027], dtype=torch.float64)
    """

    weight: float = 0.7
    concentration: float = 6.0
    misalignment: float = 0.0
    observation_noise: float = 0.0

    def __post_init__(self) -> None:
        check_between(self.weight, "weight", "the share of the first mode", ends=True)
        for name in ("concentration", "misalignment", "observation_noise"):
            check_number(getattr(self, name), name)
        if not 0 <= self.concentration <= _SHARPEST:
            raise InputError(f"concentration is {self.concentration}; it must lie between 0 and {_SHARPEST:g}")
        for name, value in (("misalignment", self.misalignment), ("observation_noise", self.observation_noise)):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}; a standard deviation is a finite number, 0 or above")

    def attenuation(self, modality: int, count: int) -> Float[Tensor, " k"]:
        """What noise multiplies the Fourier coefficients of the latent law with: k = 0..count-1, modality 0 or 1."""
        k = np.arange(count, dtype=np.float64)
        out = _projected_normal(k, self.observation_noise)
        if modality == 1:
            out = out * np.exp(-((self.misalignment * k) ** 2) / 2)
        return torch.from_numpy(out)

    @cached_property
    def latent_coefficients(self) -> Float[Tensor, " k"]:
        """E[cos k t] of the latent angle, k = 0..63; those beyond are below rounding."""
        k = np.arange(_FREQUENCIES, dtype=np.float64)
        bessel = scipy.special.ive(k, self.concentration) / scipy.special.ive(0, self.concentration)
        return torch.from_numpy(bessel * np.where(k % 2 == 0, 1.0, 2 * self.weight - 1))

    def log_density(self, modality: int, angles: Scalars) -> Scalars:
        """Log density of the observed angle of modality 0 or 1, per radian, at any angles; differentiable.

        Args:
            modality: 0 (the latent angle and observation noise) or 1 (misaligned as well).
            angles: radians.
        """
        coefficients = self.latent_coefficients * self.attenuation(modality, _FREQUENCIES)
        last = int((coefficients.abs() > 1e-18).nonzero().max())
        k = torch.arange(1, last + 1, dtype=angles.dtype, device=angles.device)
        series = (angles[..., None] * k).cos() @ coefficients[1 : last + 1].to(angles)
        return (1 + 2 * series).log() - math.log(2 * math.pi)

    def latent_masses(self, nodes: int) -> Float[Tensor, " n"]:
        """Density of the latent angle at n equispaced angles, times their spacing."""
        angle = 2 * math.pi * torch.arange(nodes, dtype=torch.float64) / nodes
        k = torch.arange(_FREQUENCIES, dtype=torch.float64)
        return (angle[:, None] * k).cos() @ (self.latent_coefficients * torch.where(k > 0, 2.0, 1.0)) / nodes

    def joint(self, nodes: int) -> Float[Tensor, "n n"]:
        """Joint probabilities of the two observed angles at n equispaced angles 2 pi i / n.

        Sum_ij P_ij f(t_i) g(t_j) = E f(t) g(t') for smooth f and g, with an error that falls faster than any power of
        n; rows and columns sum to the exact marginals. Without noise P is diagonal. Entries may be negative by
        rounding.

        Args:
            nodes: n, even and at least 64.
        """
        if nodes < 64 or nodes % 2:
            raise InputError(f"nodes is {nodes}; take an even number, at least 64 (256 serve temperature 0.07)")
        latent = self.latent_masses(nodes)
        first, second = (_circulant(self.attenuation(m, nodes // 2 + 1), nodes) for m in (0, 1))
        return first @ (latent[:, None] * second)

    def sample(self, n: int, *, generator: torch.Generator) -> tuple[Rows, Rows]:
        """N independent pairs of observations, (n, 2) each, noise included and not normalised.

        Args:
            n: number of pairs.
            generator: source of randomness, on the CPU.

        >>> x, y = LatentAngles().sample(3, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(x, y)  # aligned, and no noise
        True
        """
        east = torch.tensor([1.0, 0.0], dtype=torch.float64)
        z = VonMisesFisher(east, self.concentration).sample(n, generator=generator)
        sign = torch.rand(n, generator=generator, dtype=torch.float64).lt(self.weight).double() * 2 - 1
        angle = torch.atan2(z[:, 1], z[:, 0] * sign)
        other = angle + self.misalignment * torch.randn(n, generator=generator, dtype=torch.float64)
        x, y = (torch.stack([t.cos(), t.sin()], dim=1) for t in (angle, other))
        if self.observation_noise == 0:
            return x, y
        noise = self.observation_noise * torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
        return x + noise[0], y + noise[1]


def _projected_normal(k: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """E[cos k phi] of the angle phi of (1, 0) + scale * normal noise."""
    if scale < _SMALL_NOISE:
        return np.exp(-((scale * k) ** 2) / 2)
    x = 1 / (4 * scale**2)
    bessel = scipy.special.ive((k - 1) / 2, x) + scipy.special.ive((k + 1) / 2, x)
    return np.asarray(np.sqrt(np.pi * x / 2) * bessel)


def _circulant(coefficients: Tensor, nodes: int) -> Tensor:
    """The convolution with Fourier coefficients c_k, k = 0..n/2, on n nodes: a symmetric matrix, rows sum to 1."""
    index = torch.arange(nodes)
    row: Tensor = torch.fft.irfft(coefficients.to(torch.complex128), n=nodes)
    return row[(index[:, None] - index[None, :]).abs()]


__all__ = ["LatentAngles"]
