"""Kernel volume (D1, Assumption 2.1): the integral of the kernel exp(s / tau) over the manifold."""

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from .._checks import InputError, check_temperature, shown
from .critics import Critic, as_critic
from .manifolds import Manifold


@dataclass(frozen=True)
class Euclidean:
    """The whole of R^d: rows of any norm. It has no finite volume, and hence no uniform law.

    Args:
        ambient_dim: d, the width of the embeddings.
    """

    ambient_dim: int

    @property
    def log_volume(self) -> float:
        """NaN: there is no uniform law, and nothing is relative to it."""
        return math.nan


@overload
def log_kernel_volume(manifold: Manifold | Euclidean, critic: Critic, temperature: float) -> float: ...
@overload
def log_kernel_volume(manifold: Manifold | Euclidean, critic: Critic, temperature: Tensor) -> Tensor: ...
def log_kernel_volume(manifold: Manifold | Euclidean, critic: Critic, temperature: float | Tensor) -> float | Tensor:
    """Log kernel volume: log V(tau) = log int exp(s(z, w) / tau) dmu(w), in nats.

    Cosine on S^{d-1}: V = (2 pi)^{d/2} tau^{d/2-1} I_{d/2-1}(1/tau). RBF of scale g on the sphere: the cosine's
    volume at temperature tau / (2g), times exp(-2g / tau). Cosine on T^k: (2 pi I_0(1/tau))^k. RBF on R^d:
    (pi tau / g)^{d/2}. Never leaves the log domain, so that d = 4096 and tau = 0.001 are ordinary inputs.

    Args:
        manifold: `Sphere` or `FlatTorus`; `Euclidean` for rows of any norm.
        critic: `Cosine` or `RBF`.
        temperature: tau > 0, a float, or a tensor of any shape through which gradients flow.

    Returns:
        A float for a float; for a tensor, a tensor of its shape, dtype and device.

    Raises:
        InputError: if a temperature is not finite and positive, or the kernel's volume is not finite.

    Source: D1 (Assumption 2.1 of the paper).

    >>> from infomech.geometry import Cosine, Sphere
    >>> round(log_kernel_volume(Sphere(512), Cosine(), 0.07), 6)
    -867.768882
    """
    check_temperature(temperature)
    critic = as_critic(critic)
    if not isinstance(manifold, Manifold | Euclidean):
        raise InputError(f"manifold is {shown(manifold)}; give Sphere(d), FlatTorus(k), or Euclidean(d)")
    tau = temperature if isinstance(temperature, Tensor) else torch.tensor(float(temperature), dtype=torch.float64)
    wide = tau.to(torch.float64)
    if isinstance(manifold, Euclidean):
        value = critic.log_euclidean_volume(manifold.ambient_dim, wide)
    else:
        offset, slope = critic.affine_form(manifold.squared_radius)
        scaled = slope > 0  # then the largest score is that of w = z: exactly 0 for RBF, so that nothing cancels
        top = offset + slope * manifold.squared_radius if scaled else offset
        value = top / wide + manifold.log_linear_integral(slope / wide, scaled=scaled)
    return value.to(tau.dtype) if isinstance(temperature, Tensor) else float(value)


__all__ = ["Euclidean", "log_kernel_volume"]
