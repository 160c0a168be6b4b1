"""Best responses under a density floor (T8), and the alternating dynamics that they lead to.

With rho2 held and lambda = 0 the entropies cancel, and up to a constant

    Fsym(rho1, rho2) = (1/2) int V_{1|2} rho1 + (1/2) int rho2 log rho1,        V_{1|2} = U12 / tau + log rho2,

which is concave in rho1. Over {rho1 >= floor, mass 1} its minimum is at an extreme point: all mass beyond the floor on
one node. As the nodes become dense, the second term vanishes there, and the node is a minimiser of V_{1|2}.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError
from .._shown import Fields
from ..energies import effective_potential, intrinsic_energy_sym, symmetric_divergence
from ..geometry import Quadrature
from ..measures import Density, check_same_nodes
from .flows import check_floor
from .potentials import Potential, potential_at_nodes

NodePotential = Potential | Float[Tensor, " q"]


@dataclass(frozen=True, eq=False, repr=False)
class BestResponse(Fields):
    """The answer of one modality to the other.

    Args:
        density: floor everywhere, and the whole excess mass on one node.
        node: index of that node.
        barrier: (q,) the effective potential V_{1|2} that it answers to (D10).
        excess: the mass beyond the floor.

    Source: T8, D10 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> answer = best_response(-grid.nodes[:, 0], Density.uniform(grid), temperature=0.1, floor=1e-3)
    >>> round(answer.excess, 4)  # 1 - 2 pi floor
    0.9937
    """

    density: Density
    node: int
    barrier: Float[Tensor, " q"]
    excess: float


def best_response(potential: NodePotential, other: Density, *, temperature: float, floor: float) -> BestResponse:
    """The density rho1 >= floor that minimises Fsym(rho1, rho2) at lambda = 0 with rho2 held (T8).

    Args:
        potential: U12, a function of points or its values at the nodes.
        other: rho2.
        temperature: tau > 0.
        floor: smallest density allowed, in inverse volume, above 0: without it the energy is unbounded below.

    Returns:
        The exact minimiser on these nodes, which weighs V_{1|2} against the term (1/2) int rho2 log rho1 of a node of
        finite size.

    Raises:
        InputError: if the floor is not above 0 or leaves no excess mass, or an argument is not finite.

    Source: T8 (Proposition 4.1 of the paper), D10.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> answer = best_response(-grid.nodes[:, 0], Density.uniform(grid), temperature=0.1, floor=1e-3)
    >>> answer.node  # rho2 is no barrier anywhere: the minimum of U12
    0
    """
    grid = other.quadrature
    _check_positive_floor(floor, grid)
    u = potential_at_nodes(potential, grid, "U12")
    barrier = effective_potential(other, u, temperature=temperature)
    excess = 1 - floor * float(grid.weights.double().sum())
    energy = vertex_energies(barrier, other, floor=floor)
    node = int(energy.argmin())
    return BestResponse(vertex_density(node, grid, floor), node, barrier, excess)


def vertex_energies(barrier: Float[Tensor, " q"], other: Density, *, floor: float) -> Float[Tensor, " q"]:
    """Fsym, up to a constant, of the densities whose excess mass stands on one node, for each node.

    (1/2) (M V_i + w_i rho2_i log(1 + M / (w_i floor))), with M the excess mass and w_i the node's weight.

    Args:
        barrier: (q,) V_{1|2} at the nodes.
        other: rho2.
        floor: in inverse volume, above 0.

    Returns:
        (q,) energies in nats.

    Source: T8 (Proposition 4.1 of the paper); this module's head.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> energies = vertex_energies(-grid.nodes[:, 0], Density.uniform(grid), floor=1e-3)
    >>> int(energies.argmin())
    0
    """
    weights = other.quadrature.weights
    excess = 1 - floor * weights.sum()
    return (excess * barrier + weights * other.values * torch.log1p(excess / (weights * floor))) / 2


def vertex_density(node: int, quadrature: Quadrature, floor: float) -> Density:
    """The density with floor everywhere and all other mass on one node.

    Args:
        node: index of the node.
        quadrature: the nodes.
        floor: in inverse volume, feasible.

    Returns:
        The density: an extreme point of {rho >= floor, mass 1}.

    Source: T8 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> rho = vertex_density(3, quadrature_rule(Sphere(2), 64), 0.01)
    >>> int(rho.values.argmax()), round(float(rho.values.min()), 12)
    (3, 0.01)
    """
    values = torch.full_like(quadrature.weights, floor)
    values[node] += (1 - floor * quadrature.weights.sum()) / quadrature.weights[node]
    return Density.from_values(values, quadrature)


@dataclass(frozen=True, eq=False, repr=False)
class Alternation(Fields):
    """Best responses in turn, and how they ended.

    Args:
        densities: the last (rho1, rho2).
        status: "fixed point": neither modality would move; "rounds used up": they still move.
        nodes: (r, 2) the node of each modality after each round.
        barriers: (r, 2, q) V_{1|2} and V_{2|1} as each modality answered, round by round.
        energies: (2 r + 1,) Fsym at the start and after each answer; it never rises.
        divergences: (r + 1,) Dsym at the start and after each round.

    Source: T8 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> flat, u = Density.uniform(grid), -grid.nodes[:, 0]
    >>> end = alternate_best_responses((flat, flat), (u, u), temperature=0.5, floor=1e-3)
    >>> end.status, bool((torch.as_tensor(end.energies).diff() <= 0).all())
    ('fixed point', True)
    """

    densities: tuple[Density, Density]
    status: Literal["fixed point", "rounds used up"]
    nodes: tuple[tuple[int, int], ...]
    barriers: Float[Tensor, "r 2 q"]
    energies: Float[Tensor, " e"]
    divergences: Float[Tensor, " s"]


def alternate_best_responses(
    start: tuple[Density, Density],
    potentials: tuple[NodePotential, NodePotential],
    *,
    temperature: float,
    floor: float,
    max_rounds: int = 50,
) -> Alternation:
    """Let the modalities answer each other in turn, until neither moves (T8): barriers drive them apart.

        rho1 <- argmin Fsym(., rho2),   rho2 <- argmin Fsym(rho1, .)   over densities above the floor

    Every answer minimises the same energy Fsym over its own modality, so the energy falls until a fixed point; the
    answers are vertices, finitely many, so that one is reached.

    Args:
        start: (rho1, rho2), not below the floor.
        potentials: (U12, U21), functions of points or values at the nodes.
        temperature: tau > 0.
        floor: smallest density allowed, above 0.
        max_rounds: stop after so many rounds.

    Returns:
        The last densities and the way there.

    Raises:
        InputError: as `best_response`, and if the start lies below the floor.

    Source: T8 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> flat, u = Density.uniform(grid), -grid.nodes[:, 0]
    >>> end = alternate_best_responses((flat, flat), (u, u), temperature=0.5, floor=1e-3)
    >>> end.status, end.nodes[-1][0] != end.nodes[-1][1]  # one well, and two modalities that part
    ('fixed point', True)
    """
    check_same_nodes(*start)
    grid = start[0].quadrature
    _check_positive_floor(floor, grid)
    check_floor(floor, grid, start)
    if max_rounds < 1:
        raise InputError(f"max_rounds is {max_rounds}; allow at least 1")
    u = (potential_at_nodes(potentials[0], grid, "U12"), potential_at_nodes(potentials[1], grid, "U21"))
    rho = start
    energies = [float(intrinsic_energy_sym(*rho, u, temperature=temperature))]
    divergences = [float(symmetric_divergence(*rho))]
    nodes: list[tuple[int, int]] = []
    barriers = []
    for _ in range(max_rounds):
        first = best_response(u[0], rho[1], temperature=temperature, floor=floor)
        energies.append(float(intrinsic_energy_sym(first.density, rho[1], u, temperature=temperature)))
        second = best_response(u[1], first.density, temperature=temperature, floor=floor)
        rho = (first.density, second.density)
        energies.append(float(intrinsic_energy_sym(*rho, u, temperature=temperature)))
        divergences.append(float(symmetric_divergence(*rho)))
        barriers.append(torch.stack([first.barrier, second.barrier]))
        nodes.append((first.node, second.node))
        if len(nodes) > 1 and nodes[-1] == nodes[-2]:
            break
    settled = len(nodes) > 1 and nodes[-1] == nodes[-2]
    return Alternation(
        rho,
        "fixed point" if settled else "rounds used up",
        tuple(nodes),
        torch.stack(barriers),
        torch.tensor(energies, dtype=torch.float64),
        torch.tensor(divergences, dtype=torch.float64),
    )


def _check_positive_floor(floor: float, grid: Quadrature) -> None:
    check_floor(floor, grid)
    if not (floor > 0 and math.isfinite(floor)):
        raise InputError(f"floor is {floor}; a best response needs one above 0, or its energy has no minimum")


__all__ = [
    "Alternation",
    "BestResponse",
    "alternate_best_responses",
    "best_response",
    "vertex_density",
    "vertex_energies",
]
