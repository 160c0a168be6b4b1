"""Intrinsic energies of one and two modalities (D8, D9) with their first and second variations in closed form.

Potentials enter as values at the nodes. Variations in rho are functions at the nodes, defined up to a constant: only
differences matter, since perturbations d have int d dmu = 0.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_temperature
from .._typing import Scalar
from ..geometry import Quadrature
from ..measures import Density, check_same_nodes
from .divergences import check_on_nodes, fisher_information, symmetric_divergence, symmetric_divergence_variation

NodeValues = Float[Tensor, " q"]


def check_potential(potential: NodeValues, quadrature: Quadrature, name: str = "potential") -> None:
    """Raise InputError unless the potential has one finite value at each node.

    Args:
        potential: values, in units of the critic.
        quadrature: the nodes.
        name: what the message calls it.

    Raises:
        InputError: with the number of values, or of those that are not finite and the first of them.

    Source: D4.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> check_potential(torch.zeros(8), quadrature_rule(Sphere(2), 16), "potential U12")
    Traceback (most recent call last):
    infomech._checks.InputError: potential U12 has (8,) values for 16 nodes; give one per node
    """
    check_on_nodes(potential, quadrature, name)
    bad = ~torch.isfinite(potential)
    if bool(bad.any()):
        raise InputError(
            f"{name} is not finite at {int(bad.sum())} of {len(quadrature)} nodes, the first at node "
            f"{int(torch.nonzero(bad)[0])}; a potential must be finite everywhere on the manifold"
        )


def intrinsic_energy(rho: Density, potential: NodeValues, *, temperature: float) -> Scalar:
    """The intrinsic energy F(rho) = (1/tau) int U rho dmu - H(rho), in nats (D8).

    Args:
        rho: the law.
        potential: (q,) U at the nodes, in units of the critic.
        temperature: tau > 0.

    Returns:
        A scalar. Its minimum is -log Z, at the Gibbs law exp(-U / tau) / Z (T3).

    Raises:
        InputError: if the potential is not finite or the temperature not positive.

    Source: D8, T3 (Proposition 3.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(3), 16)
    >>> intrinsic_energy(Density.uniform(grid), -grid.nodes[:, 2], temperature=0.5)  # -log(4 pi)
    tensor(-2.5310, dtype=torch.float64)
    """
    check_temperature(temperature)
    check_potential(potential, rho.quadrature)
    return rho.mean(potential) / temperature - rho.entropy()


def intrinsic_variation(rho: Density, potential: NodeValues, *, temperature: float) -> NodeValues:
    """First variation of D8 at the nodes: U / tau + log rho + 1; constant exactly at the Gibbs law.

    Args:
        rho: the law.
        potential: (q,) U at the nodes, in units of the critic.
        temperature: tau > 0.

    Returns:
        (q,) values in nats, defined up to a constant.

    Raises:
        InputError: if the temperature is not positive, or the potential has not one value for each node.

    Source: D8, T3 (Proposition 3.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> gibbs = Density.from_log(-grid.nodes[:, 0] / 0.5, grid)
    >>> bool(intrinsic_variation(gibbs, grid.nodes[:, 0], temperature=0.5).std() < 1e-14)
    True
    """
    check_temperature(temperature)
    check_on_nodes(potential, rho.quadrature, "potential")
    return potential / temperature + rho.log_values + 1


def intrinsic_second_variation(rho: Density, direction: NodeValues) -> Scalar:
    """Second variation of D8: d^2/de^2 F(rho + e d) = int d^2 / rho dmu > 0, whatever the potential.

    Args:
        rho: the law.
        direction: (q,) d at the nodes, with int d dmu = 0.

    Returns:
        A scalar >= 0: F is strictly convex.

    Raises:
        InputError: unless the direction has one value for each node.

    Source: D8, T3 (Proposition 3.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> flat = Density.uniform(grid)
    >>> intrinsic_second_variation(flat, grid.nodes[:, 0] * flat.values)
    tensor(0.5000, dtype=torch.float64)
    """
    return fisher_information(rho, direction)


def intrinsic_energy_sym(
    rho1: Density,
    rho2: Density,
    potentials: tuple[NodeValues, NodeValues],
    *,
    temperature: float,
    divergence_weight: float = 0.0,
) -> Scalar:
    """The intrinsic energy of two modalities, with control: Fsym = (F12 + F21)/2 - (1 - lambda) Dsym, in nats.

    F12 = int U12 rho1 dmu / tau - H(rho1), F21 with U21 and rho2; Dsym = (KL(rho1||rho2) + KL(rho2||rho1))/2.

    Args:
        rho1: the law of modality 1.
        rho2: the law of modality 2, on the same nodes.
        potentials: (U12, U21) at the nodes, each (q,), in units of the critic.
        temperature: tau > 0.
        divergence_weight: lambda; 0 is the symmetric loss. From 3/4 on matched marginals are stable, with a quarter of
            the reward for a gap left there; at 1 there is no divergence at all.

    Returns:
        A scalar; for lambda < 1 without a lower bound.

    Raises:
        InputError: if the laws stand on different nodes, a potential is not finite or the temperature not positive.

    Source: D9 (Definition 4.3 of the paper); with control T11 (beyond the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> flat, u = Density.uniform(grid), grid.nodes[:, 0]
    >>> intrinsic_energy_sym(flat, flat, (u, u), temperature=0.1)  # -log(2 pi)
    tensor(-1.8379, dtype=torch.float64)
    """
    check_temperature(temperature)
    check_same_nodes(rho1, rho2)
    for name, u in zip(("U12", "U21"), potentials, strict=True):
        check_potential(u, rho1.quadrature, f"potential {name}")
    f12 = rho1.mean(potentials[0]) / temperature - rho1.entropy()
    f21 = rho2.mean(potentials[1]) / temperature - rho2.entropy()
    if divergence_weight == 1:  # so that an infinite divergence of weight zero counts as nothing
        return (f12 + f21) / 2
    return (f12 + f21) / 2 - (1 - divergence_weight) * symmetric_divergence(rho1, rho2)


def intrinsic_variation_sym(
    rho1: Density,
    rho2: Density,
    potentials: tuple[NodeValues, NodeValues],
    *,
    temperature: float,
    divergence_weight: float = 0.0,
) -> tuple[NodeValues, NodeValues]:
    """First variations of D9 in rho1 and rho2, at the nodes.

    In rho1: (U12 / tau + log rho1 + 1)/2 - (1 - lambda)/2 (log(rho1 / rho2) + 1 - rho2 / rho1); in rho2 likewise.
    At lambda = 0 the entropy cancels: (V_{1|2} + rho2 / rho1)/2, with the effective potential of D10.

    Args:
        rho1: the law of modality 1.
        rho2: the law of modality 2, on the same nodes.
        potentials: (U12, U21) at the nodes, each (q,), in units of the critic.
        temperature: tau > 0.
        divergence_weight: lambda.

    Returns:
        Two (q,) tensors in nats, each defined up to a constant.

    Raises:
        InputError: if the laws stand on different nodes, or as `intrinsic_variation`.

    Source: D9, D10 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> u = grid.nodes[:, 0]
    >>> rho = Density.from_log(-u / 0.5, grid)  # matched and stationary (T9)
    >>> [bool(v.std() < 1e-14) for v in intrinsic_variation_sym(rho, rho, (u, u), temperature=0.5)]
    [True, True]
    """
    weight = 1 - divergence_weight
    first = intrinsic_variation(rho1, potentials[0], temperature=temperature) / 2
    second = intrinsic_variation(rho2, potentials[1], temperature=temperature) / 2
    return (
        first - weight * symmetric_divergence_variation(rho1, rho2),
        second - weight * symmetric_divergence_variation(rho2, rho1),
    )


def intrinsic_second_variation_sym(
    rho1: Density, rho2: Density, directions: tuple[NodeValues, NodeValues], *, divergence_weight: float = 0.0
) -> Scalar:
    """Second variation of D9, d^2/de^2 Fsym(rho1 + e d1, rho2 + e d2); potentials drop out of it.

    It is (1/2) int d1^2/rho1 + d2^2/rho2 - (1 - lambda)/2 int [d1^2/rho1 - 2 d1 d2/rho2 + rho1 d2^2/rho2^2
    + d2^2/rho2 - 2 d1 d2/rho1 + rho2 d1^2/rho1^2]. At rho1 = rho2 = rho, with sum = d1 + d2 and m = d1 - d2, it is
    int sum^2/rho / 4 + (4 lambda - 3)/4 int m^2/rho: twice the second-order term of T10 and T11.

    Args:
        rho1: the law of modality 1.
        rho2: the law of modality 2, on the same nodes.
        directions: (d1, d2) at the nodes, each (q,) with int d dmu = 0.
        divergence_weight: lambda.

    Returns:
        A scalar.

    Raises:
        InputError: if the laws stand on different nodes, or a direction has not one value for each.

    Source: D9, T8, T10, T11.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> flat = Density.uniform(grid)
    >>> d = grid.nodes[:, 0] * flat.values / 2  # m = 2 d, int m^2 / rho = 1/2
    >>> intrinsic_second_variation_sym(flat, flat, (d, -d))  # -3/4 of it
    tensor(-0.3750, dtype=torch.float64)
    """
    check_same_nodes(rho1, rho2)
    d1, d2 = directions
    for name, direction in (("direction 1", d1), ("direction 2", d2)):
        check_on_nodes(direction, rho1.quadrature, name)
    r1, r2 = rho1.values, rho2.values
    own = d1.square() / r1 + d2.square() / r2
    cross = r1 * (d2 / r2).square() + r2 * (d1 / r1).square() - 2 * d1 * d2 * (1 / r1 + 1 / r2)
    return rho1.quadrature.integrate(own / 2 - (1 - divergence_weight) / 2 * (own + cross))


def effective_potential(other: Density, potential: NodeValues, *, temperature: float) -> NodeValues:
    """The effective potential V_{1|2} = U12 / tau + log rho2 at the nodes: modality 2 is a barrier.

    Args:
        other: the law rho2 of the other modality.
        potential: (q,) U12 at the nodes, in units of the critic.
        temperature: tau > 0.

    Returns:
        (q,) values in nats; -inf where the other modality is absent.

    Raises:
        InputError: if the potential is not finite or the temperature not positive.

    Source: D10 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> u = grid.nodes[:, 0]
    >>> gibbs = Density.from_log(-u / 0.5, grid)  # the law that fills the wells of u levels them
    >>> bool(effective_potential(gibbs, u, temperature=0.5).std() < 1e-14)
    True
    """
    check_temperature(temperature)
    check_potential(potential, other.quadrature)
    return potential / temperature + other.log_values


__all__ = [
    "NodeValues",
    "check_potential",
    "effective_potential",
    "intrinsic_energy",
    "intrinsic_energy_sym",
    "intrinsic_second_variation",
    "intrinsic_second_variation_sym",
    "intrinsic_variation",
    "intrinsic_variation_sym",
]
