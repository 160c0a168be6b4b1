"""The energy of two encoders of an angle as both tend to rank one (T12): what is left of a law is a bit.

As an encoder tends to rank one, z(t) = e sign(cos(t - a)): the law becomes two atoms, and what
is left of the angle is a bit. With both of rank one and axes at a cosine c, the energy depends on the joint law of two
bits and on b = c / tau alone,

    J = -b E[s1 s2] + (1/2) sum_i P1(i) log sum_j P2(j) e^{b i j} + (1/2) sum_j P2(j) log sum_i P1(i) e^{b i j} - log V,

which is at best about minus their mutual information, less log V (exactly, if the bits are even). It hardly rises with
the misalignment, while the energy of a smooth pair does. For the paper's toy the regular minimum is the lower one up to
a misalignment of 0.52; beyond, it is a local minimum only, the one that descent from most starts reaches, and the
infimum lies at singular encoders, whose axes are nearly orthogonal. The result says which.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from .._checks import check_temperature
from .._shown import Fields
from ..geometry import Cosine, Sphere, log_kernel_volume
from .latent_angles import LatentAngles


class _Bits:
    """Joint laws of the signs of cos(t - a) and cos(t' - b), by the Fourier series of the sign."""

    def __init__(self, problem: LatentAngles, nodes: int = 512) -> None:
        k = np.arange(nodes // 2)
        angle = 2 * np.pi * np.arange(nodes) / nodes
        series = np.where(k % 2 == 1, 4 / np.pi * (2.0 - k % 4) / np.maximum(k, 1), 0.0)
        self.k, self.cos, self.sin = k, np.cos(angle[:, None] * k), np.sin(angle[:, None] * k)
        self.series = [series * problem.attenuation(m, len(k)).numpy() for m in (0, 1)]
        self.latent = problem.latent_masses(nodes).numpy()

    def joint(self, cut: float, other_cut: float) -> NDArray[np.float64]:
        first, second = (
            self.cos @ (c * np.cos(self.k * a)) + self.sin @ (c * np.sin(self.k * a))
            for c, a in zip(self.series, (cut, other_cut), strict=True)
        )
        m1, m2, both = self.latent @ first, self.latent @ second, self.latent @ (first * second)
        cells = np.array([[1 + m1 + m2 + both, 1 + m1 - m2 - both], [1 - m1 + m2 - both, 1 - m1 - m2 + both]]) / 4
        cells = np.maximum(cells, 1e-15)  # without noise the truncated series may fall below zero
        return np.asarray(cells / cells.sum())


@dataclass(frozen=True, repr=False)
class RankOneLimit(Fields):
    """The lowest energy of two encoders of rank one: a law of two atoms each.

    Args:
        energy: Jsym + lambda Dsym~, in nats.
        cuts: angles a of the half circles {cos(t - a) > 0} that map to the first atom, one per modality.
        cosine: of the angle between the two modalities' axes.
        bits: (2, 2) joint probabilities of the two bits.

    Source: T12 (beyond the paper).

    >>> limit = rank_one_limit(LatentAngles(misalignment=0.7), temperature=0.07)
    >>> tuple(len(row) for row in limit.bits)
    (2, 2)
    """

    energy: float
    cuts: tuple[float, float]
    cosine: float
    bits: tuple[tuple[float, float], tuple[float, float]]


def rank_one_limit(problem: LatentAngles, *, temperature: float, divergence_weight: float = 0.0) -> RankOneLimit:
    """The lowest energy that two encoders of rank one reach (in closed form but for two angles and a cosine).

    Args:
        problem: the joint law of the observed angles.
        temperature: tau > 0.
        divergence_weight: lambda.

    Returns:
        The energy in nats, where both encoders cut the circle, and the law of their bits.

    Raises:
        InputError: if the temperature is not positive.

    Source: T12; the formula at this module's head.

    >>> limit = rank_one_limit(LatentAngles(misalignment=0.7), temperature=0.07)
    >>> round(sum(map(sum, limit.bits)), 12)
    1.0
    """
    check_temperature(temperature)
    bits = _Bits(problem)
    evaluate = partial(_rank_one_energy, bits, temperature, divergence_weight)
    bound = [(-math.pi, math.pi)] * 2 + [(-1 / temperature, 1 / temperature)]
    fits = [
        scipy.optimize.minimize(evaluate, start, method="L-BFGS-B", bounds=bound)
        for start in ([0.0, 0.0, 1.0], [0.3, 0.2, 1.0], [1.5, 1.5, 2.0])
    ]
    best = min(fits, key=lambda fit: float(fit.fun))
    a, b, slope = (float(v) for v in best.x)
    joint = bits.joint(a, b)
    return RankOneLimit(
        float(best.fun),
        (a, b),
        slope * temperature,
        ((float(joint[0, 0]), float(joint[0, 1])), (float(joint[1, 0]), float(joint[1, 1]))),
    )


def _rank_one_energy(bits: _Bits, temperature: float, weight: float, x: NDArray[np.float64]) -> float:
    joint = bits.joint(float(x[0]), float(x[1]))
    sign = np.array([[1.0, -1.0], [-1.0, 1.0]])
    first, second = joint.sum(1), joint.sum(0)

    def field(law: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
        top = abs(slope)
        return np.asarray(np.log(np.exp(slope * sign - top) @ law) + top)

    cross = (first @ field(second, x[2]) + second @ field(first, x[2])) / 2
    own = (first @ field(first, 1 / temperature) + second @ field(second, 1 / temperature)) / 2
    log_volume = log_kernel_volume(Sphere(2), Cosine(), temperature)
    return float(-x[2] * (joint * sign).sum() + cross + weight * (own - cross) - log_volume)


__all__ = ["RankOneLimit", "rank_one_limit"]
