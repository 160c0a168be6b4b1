"""Divergences between densities on nodes, in nats, with their variations."""

from jaxtyping import Float
from torch import Tensor

from .._checks import InputError
from .._typing import Scalar
from ..geometry import Quadrature
from ..measures import Density, check_same_nodes


def kl_divergence(rho: Density, other: Density) -> Scalar:
    """Kullback-Leibler divergence KL(rho || other) = int rho log(rho / other) dmu, in nats.

    Args:
        rho: the law that is averaged over.
        other: a law on the same nodes.

    Returns:
        A scalar >= 0; inf where other vanishes and rho does not.

    Raises:
        InputError: if the densities stand on different nodes.

    Source: D9 (Definition 4.3 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(3), 16)
    >>> north, south = (Density.from_log(k * grid.nodes[:, 2], grid) for k in (2.0, -2.0))
    >>> kl_divergence(north, south)  # 4 (coth 2 - 1/2)
    tensor(2.1493, dtype=torch.float64)
    """
    check_same_nodes(rho, other)
    return rho.kl(other)


def symmetric_divergence(rho1: Density, rho2: Density) -> Scalar:
    """Dsym = (KL(rho1 || rho2) + KL(rho2 || rho1)) / 2, in nats; half of Jeffreys' divergence.

    Args:
        rho1: the law of modality 1.
        rho2: the law of modality 2, on the same nodes.

    Returns:
        A scalar >= 0, 0 for equal laws only.

    Raises:
        InputError: if the densities stand on different nodes.

    Source: D9 (Definition 4.3 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(3), 16)
    >>> north, flat = Density.from_log(2.0 * grid.nodes[:, 2], grid), Density.uniform(grid)
    >>> symmetric_divergence(north, flat)  # coth 2 - 1/2
    tensor(0.5373, dtype=torch.float64)
    """
    check_same_nodes(rho1, rho2)
    return (rho1.kl(rho2) + rho2.kl(rho1)) / 2


def symmetric_divergence_variation(rho1: Density, rho2: Density) -> Float[Tensor, " q"]:
    """First variation of Dsym in rho1: (log(rho1 / rho2) + 1 - rho2 / rho1) / 2, at the nodes.

    Args:
        rho1: the law that varies.
        rho2: the law that is held, on the same nodes.

    Returns:
        (q,) values, 0 for equal laws; defined up to a constant.

    Raises:
        InputError: if the densities stand on different nodes.

    Source: D9, T10.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> flat = Density.uniform(quadrature_rule(Sphere(2), 16))
    >>> float(symmetric_divergence_variation(flat, flat).abs().max())
    0.0
    """
    check_same_nodes(rho1, rho2)
    log_ratio = rho1.log_values - rho2.log_values
    return (log_ratio + 1 - (-log_ratio).exp()) / 2


def fisher_information(rho: Density, direction: Float[Tensor, " q"]) -> Scalar:
    """Int d^2 / rho dmu for a perturbation d with int d dmu = 0: the second variation of KL at its minimum.

    Args:
        rho: the law, positive where d is not 0.
        direction: (q,) d at the nodes, in inverse volume.

    Returns:
        A scalar >= 0: the squared length of d in the Fisher-Rao metric.

    Raises:
        InputError: unless the direction has one value for each node.

    Source: T3, T10.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> flat = Density.uniform(grid)
    >>> fisher_information(flat, grid.nodes[:, 0] * flat.values)  # the mean of x^2
    tensor(0.5000, dtype=torch.float64)
    """
    check_on_nodes(direction, rho.quadrature, "direction")
    return rho.quadrature.integrate(direction.square() / rho.values)


def check_on_nodes(values: Tensor, quadrature: Quadrature, name: str) -> None:
    """Raise InputError unless there is one value for each node; `name` is what the message calls them."""
    if values.shape != quadrature.weights.shape:
        raise InputError(f"{name} has {tuple(values.shape)} values for {len(quadrature)} nodes; give one per node")


__all__ = [
    "check_on_nodes",
    "fisher_information",
    "kl_divergence",
    "symmetric_divergence",
    "symmetric_divergence_variation",
]
