"""Energies of three or more modalities: the mean over pairs of the symmetric energy, intrinsic and with the kernel.

The pairwise loss of k modalities is the mean over the k (k - 1) ordered pairs of one-directional losses, which is the
mean over unordered pairs of symmetric losses, so that k = 2 is the symmetric loss. Its limit is the mean over ordered
pairs of D6, J_ij = (1/tau) int U_ij dq_i + int log(S q_j) dq_i, and in the sharp limit

    F(rho_1..rho_k) = (1/k) sum_i F_i(rho_i) - (1 - lambda) D,
    F_i = (1/tau) int U_i rho_i - H(rho_i),   U_i = mean_{j != i} U_ij,   D = mean_{i != j} KL(rho_i || rho_j),

with control lambda D; at k = 2 it is D9 and D is Dsym. What matched marginals do under it: `matched_stability`.
"""

from collections.abc import Sequence
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_temperature
from .._typing import Scalar
from ..geometry import Critic
from ..measures import Density, check_same_nodes
from .fields import smoothed_log_density
from .intrinsic import check_potential

Laws = Sequence[Density]
NodePotentials = Float[Tensor, "k q"]


def pairwise_divergence(laws: Laws) -> Scalar:
    """D = mean over ordered pairs of KL(rho_i || rho_j) = mean over unordered pairs of Dsym, in nats.

    Args:
        laws: k >= 2 densities on the same nodes.

    Returns:
        A scalar, 0 for equal laws only.

    Raises:
        InputError: if there are fewer than two laws, or they stand on different nodes.

    Source: D9 for k modalities (beyond the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(3), 16)
    >>> north, south = (Density.from_log(k * grid.nodes[:, 2], grid) for k in (2.0, -2.0))
    >>> pairwise_divergence([north, south])  # Dsym
    tensor(2.1493, dtype=torch.float64)
    """
    _check_laws(laws)
    pairs = [a.kl(b) for a, b in permutations(laws, 2)]
    return torch.stack(pairs).mean()


def pairwise_intrinsic_energy(
    laws: Laws, potentials: NodePotentials, *, temperature: float, divergence_weight: float = 0.0
) -> Scalar:
    """The intrinsic energy of k modalities, F = (1/k) sum_i F_i(rho_i) - (1 - lambda) D, in nats.

    Args:
        laws: k >= 2 densities on the same nodes.
        potentials: (k, q) U_i at the nodes, U_i = mean over j != i of U_ij: only these means enter.
        temperature: tau > 0.
        divergence_weight: lambda.

    Returns:
        A scalar; at k = 2 that of `intrinsic_energy_sym`.

    Raises:
        InputError: if the laws, potentials or temperature cannot be used.

    Source: D9 for k modalities (beyond the paper); this module's head.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 16)
    >>> flat, u = Density.uniform(grid), grid.nodes[:, 0].expand(3, -1)
    >>> pairwise_intrinsic_energy([flat, flat, flat], u, temperature=0.1)  # -log(2 pi)
    tensor(-1.8379, dtype=torch.float64)
    """
    _check(laws, potentials, temperature)
    parts = [rho.mean(u) / temperature - rho.entropy() for rho, u in zip(laws, potentials, strict=True)]
    single = torch.stack(parts).mean()
    if divergence_weight == 1:  # so that an infinite divergence of weight zero counts as nothing
        return single
    return single - (1 - divergence_weight) * pairwise_divergence(laws)


def pairwise_energy(
    laws: Laws,
    potentials: NodePotentials,
    *,
    temperature: float,
    divergence_weight: float = 0.0,
    critic: Critic | None = None,
) -> Scalar:
    """The energy of k modalities at finite temperature: the mean of D6 over ordered pairs, and lambda D~, in nats.

    D~ is D with smoothed densities, mean over i != j of int q_i (log S q_i - log S q_j).

    Args:
        laws: k >= 2 densities on the same nodes.
        potentials: (k, q) U_i at the nodes, U_i = mean over j != i of U_ij.
        temperature: tau > 0, of the kernel too.
        divergence_weight: lambda.
        critic: of the kernel; the cosine by default.

    Returns:
        A scalar; at k = 2 that of D6, (J12 + J21) / 2, with control.

    Raises:
        InputError: if the laws, potentials or temperature cannot be used.

    Source: D6 for k modalities (beyond the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> flat, u = Density.uniform(grid), grid.nodes[:, 0].expand(3, -1)
    >>> pairwise_energy([flat, flat, flat], u, temperature=0.1)  # smoothing leaves uniform laws as they are
    tensor(-1.8379, dtype=torch.float64)
    """
    _check(laws, potentials, temperature)
    smooth = [smoothed_log_density(rho, temperature=temperature, critic=critic) for rho in laws]
    alignment = torch.stack([rho.mean(u) / temperature for rho, u in zip(laws, potentials, strict=True)]).mean()
    own = torch.stack([rho.mean(s) for rho, s in zip(laws, smooth, strict=True)]).mean()
    cross = torch.stack([laws[i].mean(smooth[j]) for i, j in permutations(range(len(laws)), 2)]).mean()
    return alignment + (1 - divergence_weight) * cross + divergence_weight * own


def _check_laws(laws: Laws) -> None:
    if len(laws) < 2:
        raise InputError(f"{len(laws)} laws are given; a pairwise energy needs at least 2 modalities")
    for law in laws[1:]:
        check_same_nodes(laws[0], law)


def _check(laws: Laws, potentials: Tensor, temperature: float) -> None:
    check_temperature(temperature)
    _check_laws(laws)
    if len(potentials) != len(laws):
        raise InputError(
            f"{len(potentials)} potentials for {len(laws)} modalities; give U_i, the mean of U_ij, for each"
        )
    for i, u in enumerate(potentials):
        check_potential(u, laws[0].quadrature, f"potential U_{i + 1}")


__all__ = ["pairwise_divergence", "pairwise_energy", "pairwise_intrinsic_energy"]
