"""The setting of the two-well experiment: the potential, the caps, the ways to its law, and how much of each."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...equilibria import TwoWellPotential
from ..experiment import option

BANDWIDTH = 0.35  # radians, of the paper's kernel density
CAP = 0.5  # radians about the wells
WAYS = {
    "kde": "trained, geodesic kernel of 0.35 rad",
    "infonce": "trained, InfoNCE's own kernel (D5)",
    "mala": "Langevin (MALA)",
    "flow": "Fokker-Planck flow",
}


@dataclass(frozen=True)
class Plan:
    """The paper's settings, and what it leaves open: the rate of Adam and the noise a step."""

    temperatures: tuple[float, ...] = option((10.0, 5.0, 2.5, 1.0, 0.5, 0.2, 0.1), "Temperatures, falling.")
    particles: int = option(768, "Particles of a run.", at_least=2)
    seeds: int = option(20, "Runs at each temperature.", at_least=2)
    steps: int = option(5000, "Steps of Adam.", at_least=1)
    rate: float = option(0.01, "Step of Adam.")
    noise: float = option(0.005, "Noise added at each step, in radians.")
    degree: int = 48  # of the quadrature for flow and density
    chains: int = option(2048, "Chains of Langevin.", at_least=2)
    frames: int = 60


FULL = Plan()
FAST = Plan(particles=192, seeds=4, steps=1000, degree=32, chains=512, frames=40)


def potential(dtype: torch.dtype = torch.float64) -> TwoWellPotential:
    """U(z) = -(1/k) log((e^{k z.m1} + e^{k z.m2}) / 2), k = 12."""
    return TwoWellPotential.paper(dtype=dtype)


def in_caps(z: Tensor) -> Tensor:
    """Whether points (..., 3) lie within 0.5 rad of a well."""
    wells = potential(z.dtype).wells
    return (z @ wells.mT > math.cos(CAP)).any(-1)


__all__ = ["BANDWIDTH", "CAP", "FAST", "FULL", "WAYS", "Plan", "in_caps", "potential"]
