"""Divergences between densities on nodes, in nats, with their variations."""

from jaxtyping import Float
from torch import Tensor

from .._typing import Scalar
from ..measures import Density, check_same_nodes


def kl_divergence(rho: Density, other: Density) -> Scalar:
    """Kullback-Leibler divergence KL(rho || other) = int rho log(rho / other) dmu, in nats.

    Raises:
        InputError: if the densities stand on different nodes.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(3), 16)
    >>> north, south = (Density.from_log(k * grid.nodes[:, 2], grid) for k in (2.0, -2.0))
    >>> kl_divergence(north, south)  # 4 (coth 2 - 1/2)
    tensor(2.1493, dtype=torch.float64)
    """
    return rho.kl(other)


def symmetric_divergence(rho1: Density, rho2: Density) -> Scalar:
    """Dsym = (KL(rho1 || rho2) + KL(rho2 || rho1)) / 2, in nats (D9); half of Jeffreys' divergence."""
    return (rho1.kl(rho2) + rho2.kl(rho1)) / 2


def symmetric_divergence_variation(rho1: Density, rho2: Density) -> Float[Tensor, " q"]:
    """First variation of Dsym in rho1: (log(rho1 / rho2) + 1 - rho2 / rho1) / 2, at the nodes."""
    check_same_nodes(rho1, rho2)
    log_ratio = rho1.log_values - rho2.log_values
    return (log_ratio + 1 - (-log_ratio).exp()) / 2


def fisher_information(rho: Density, direction: Float[Tensor, " q"]) -> Scalar:
    """Int d^2 / rho dmu for a perturbation d with int d dmu = 0: the second variation of KL at its minimum."""
    return rho.quadrature.integrate(direction.square() / rho.values)


__all__ = ["fisher_information", "kl_divergence", "symmetric_divergence", "symmetric_divergence_variation"]
