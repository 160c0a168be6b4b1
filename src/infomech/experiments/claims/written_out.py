"""Formulas as they stand in the definitions, apart from the library's code: what the checks hold the library against.

Kernel volumes by quadrature (scipy), losses and budgets by dense float64 matrices. Nothing here calls the library.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import scipy.integrate
import scipy.optimize
import torch
from torch import Tensor


def log_sphere_integral(dim: int, log_kernel: Callable[[float], float]) -> float:
    """Log of the integral over S^{dim-1} of exp(log_kernel(angle to a fixed point)), by adaptive quadrature.

    |S^{d-2}| int_0^pi exp(log_kernel(t)) sin(t)^{d-2} dt, the integrand scaled by its largest value.

    >>> round(log_sphere_integral(3, lambda angle: 0.0), 6)  # log(4 pi)
    2.531024
    """

    def log_integrand(angle: float) -> float:
        if dim == 2:
            return log_kernel(angle)
        return log_kernel(angle) + (dim - 2) * math.log(max(math.sin(angle), 1e-300))

    peak = scipy.optimize.minimize_scalar(lambda t: -log_integrand(t), bounds=(0, math.pi), method="bounded")
    top, at = -float(peak.fun), float(peak.x)
    cuts = sorted({0.0, math.pi, *(min(max(at + step, 0.0), math.pi) for step in (-1, -0.3, -0.1, 0.1, 0.3, 1))})
    pieces = (
        scipy.integrate.quad(lambda t: math.exp(log_integrand(t) - top), low, high, epsabs=0, epsrel=1e-12)[0]
        for low, high in pairwise(cuts)
        if high > low
    )
    log_area = math.log(2) + (dim - 1) / 2 * math.log(math.pi) - math.lgamma((dim - 1) / 2)
    return log_area + top + math.log(math.fsum(pieces))


def log_cosine_volume(dim: int, temperature: float) -> float:
    """Log V of the cosine critic on S^{dim-1} (D1)."""
    return log_sphere_integral(dim, lambda angle: math.cos(angle) / temperature)


def loss_parts(
    x: Tensor, y: Tensor, temperature: float | Tensor, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The symmetric InfoNCE of a batch and its Dsym, row i with row i; rows of one group are not negatives."""
    groups = torch.arange(len(x)) if groups is None else groups
    apart = groups[:, None] != groups[None, :]
    own = (x * y).sum(1) / temperature
    infonce, divergence = torch.zeros((), dtype=x.dtype), torch.zeros((), dtype=x.dtype)
    for a, b in ((x, y), (y, x)):
        across = torch.exp(a @ b.mT / temperature) * apart
        within = torch.exp(a @ a.mT / temperature) * apart
        infonce = infonce - (own.exp() / (own.exp() + across.sum(1))).log().mean() / 2
        divergence = divergence + (within.sum(1).log() - across.sum(1).log()).mean() / 2
    return infonce, divergence


def budget_parts(x: Tensor, y: Tensor, pairs: Tensor, lent: Tensor, temperature: float) -> dict[str, float]:
    """The parts of E8 with all other groups as negatives, one pair from each.

    An anchor is a uniform group, then a uniform pair in it; sums run over the pairs that the other groups lend.

    Args:
        x: (n, d) rows of one modality.
        y: (m, d) rows of the other.
        pairs: (p, 2) rows that belong together.
        lent: (g,) the pair that each group lends.
        temperature: tau.
    """
    groups = tied_together(pairs)
    u, v = (torch.nn.functional.normalize(rows[pairs[:, column]].double(), dim=1) for column, rows in enumerate((x, y)))
    sizes = (groups[:, None] == groups[None, :]).sum(1).double()
    weight = 1 / (len(lent) * sizes)
    apart = groups[:, None] != groups[lent][None, :]
    others = len(lent) - 1
    log_volume = log_cosine_volume(u.shape[1], temperature)
    own = (u * v).sum(1) / temperature

    def sums(a: Tensor, b: Tensor) -> Tensor:
        return (torch.exp(a @ b[lent].mT / temperature) * apart).sum(1)

    density = {
        name: weight @ ((sums(a, b) / others).log() - log_volume)
        for name, a, b in (("xx", u, u), ("xy", u, v), ("yy", v, v), ("yx", v, u))
    }
    parts = {
        "alignment": -(weight @ own),
        "dispersion_x": -density["xx"],
        "dispersion_y": -density["yy"],
        "divergence_xy": density["xx"] - density["xy"],
        "divergence_yx": density["yy"] - density["yx"],
        "infonce_xy": -(weight @ (own.exp() / (own.exp() + sums(u, v))).log()),
        "infonce_yx": -(weight @ (own.exp() / (own.exp() + sums(v, u))).log()),
        "log_negatives": torch.tensor(others, dtype=torch.float64).log(),
    }
    parts["divergence_sym"] = (parts["divergence_xy"] + parts["divergence_yx"]) / 2
    parts["infonce_sym"] = (parts["infonce_xy"] + parts["infonce_yx"]) / 2
    parts["energy_sym"] = parts["alignment"] + (density["xy"] + density["yx"]) / 2  # D6
    parts["log_partition"] = parts["log_negatives"] + log_volume
    parts["remainder"] = parts["infonce_sym"] - parts["energy_sym"] - parts["log_partition"]
    return {name: float(value) for name, value in parts.items()}


def circle_energy(
    first: Tensor,
    second: Tensor,
    *,
    angles: Tensor,
    weights: Tensor,
    temperature: float,
    divergence_weight: float = 0.0,
) -> Tensor:
    """D6 with control, less alignment, of densities (q,) at angles of a circle, each side's anchors with weight 1/2.

    (1/2) sum_i int q_i [(1 - lambda) log S q_j + lambda log S q_i], S the kernel over its volume. With the same density
    twice it is int q log S q, D5 less alignment.
    """
    kernel = torch.exp((angles[:, None] - angles[None, :]).cos() / temperature - log_cosine_volume(2, temperature))
    smooth = [(kernel @ (rho * weights)).log() for rho in (first, second)]
    across = (first * weights) @ smooth[1] + (second * weights) @ smooth[0]
    within = (first * weights) @ smooth[0] + (second * weights) @ smooth[1]
    return ((1 - divergence_weight) * across + divergence_weight * within) / 2


def tied_together(pairs: Tensor) -> Tensor:
    """A number for the group of each pair: pairs that share a row of x or of y, and so on, are one group."""
    shared = (pairs[:, None, :] == pairs[None, :, :]).any(2).double()
    for _ in range(len(pairs).bit_length()):
        shared = ((shared @ shared) > 0).double()
    return shared.argmax(1)  # the first pair of the group


__all__ = [
    "budget_parts",
    "circle_energy",
    "log_cosine_volume",
    "log_sphere_integral",
    "loss_parts",
    "tied_together",
]
