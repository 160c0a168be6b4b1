"""Three or more modalities: the pairwise loss, its intrinsic energy, and the stability of matched marginals (T10, T11).

**Normalisation.** The pairwise loss of k modalities is the mean over the k (k - 1) ordered pairs of one-directional
losses, which is the mean over unordered pairs of symmetric losses, so that k = 2 is the symmetric loss. Its limit is
the mean over ordered pairs of D6, J_ij = (1/tau) int U_ij dq_i + int log(S q_j) dq_i, and in the sharp limit

    F(rho_1..rho_k) = (1/k) sum_i F_i(rho_i) - (1 - lambda) D,
    F_i = (1/tau) int U_i rho_i - H(rho_i),   U_i = mean_{j != i} U_ij,   D = mean_{i != j} KL(rho_i || rho_j),

with control lambda D; at k = 2 it is D9 and D is Dsym.

**Stability.** Around rho_i = rho for all i, with perturbations d_i, d = mean_i d_i and e_i = d_i - d, the term of
second order of F_i is int d_i^2 / (2 rho), that of KL(rho_i || rho_j) is int (d_i - d_j)^2 / (2 rho), and

    sum_i d_i^2 = k d^2 + sum_i e_i^2,        sum_{i != j} (d_i - d_j)^2 = 2 k sum_i e_i^2,

so that the common mode and the k - 1 difference modes decouple:

    (1/2) int d^2 / rho  +  (1/(2k) - (1 - lambda)/(k - 1)) int sum_i e_i^2 / rho.

Matched marginals are stable from

    lambda_c(k) = (k + 1) / (2 k):    3/4, 2/3, 5/8 for k = 2, 3, 4, and towards 1/2

on: every further modality pulls on each of the others, and less control is needed. At k = 2, d = sum / 2 and
sum_i e_i^2 = m^2 / 2, and the coefficients are 1/8 of sum^2 and (4 lambda - 3)/8 of m^2 (T10, T11).

**Finite temperature.** With the forms A(d) = int d S d / r and B(d) = int rho (S d)^2 / r^2, r = S rho (symmetrised;
see `infomech.equilibria.stability`), int q_i log S q_j contributes A(d_i, d_j) - B(d_j)/2, and in the same way

    A(d) - B(d)/2  +  (1/k) sum_i [ (lambda k - 1)/(k - 1) A(e_i) - B(e_i)/2 ].

Around the uniform law, where S multiplies a mode by a, lambda_c = (2 + (k - 1) a) / (2 k), which is (2 + a)/4 at k = 2;
where the kernel does not resolve the mode, a = 0, it is 1 / k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_temperature
from .._typing import Scalar
from ..energies import check_potential, smoothed_log_density
from ..geometry import Critic
from ..measures import Density, check_same_nodes
from .stability import critical_weight_of_forms, kernel_eigenvalues, second_order_forms

Laws = Sequence[Density]
NodePotentials = Float[Tensor, "k q"]


@dataclass(frozen=True, eq=False)
class ManyStability:
    """Second-order coefficients of the energy of k modalities around matched marginals, mode by mode.

    Args:
        modalities: k.
        common: (j,) coefficients per unit of int d^2 / rho, d the mean perturbation, ascending.
        difference: (j,) coefficients per unit of int sum_i e_i^2 / rho, ascending; each belongs to k - 1 modes.
        divergence_weight: lambda.
        critical_weight: the smallest lambda at which no difference mode is unstable; inf if there is none.
    """

    modalities: int
    common: Float[Tensor, " j"]
    difference: Float[Tensor, " j"]
    divergence_weight: float
    critical_weight: float


def pairwise_divergence(laws: Laws) -> Scalar:
    """D = mean over ordered pairs of KL(rho_i || rho_j) = mean over unordered pairs of Dsym, in nats.

    Args:
        laws: k >= 2 densities on the same nodes.

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

    Source: D9 for k modalities; this module's head.
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
    """
    _check(laws, potentials, temperature)
    smooth = [smoothed_log_density(rho, temperature=temperature, critic=critic) for rho in laws]
    alignment = torch.stack([rho.mean(u) / temperature for rho, u in zip(laws, potentials, strict=True)]).mean()
    own = torch.stack([rho.mean(s) for rho, s in zip(laws, smooth, strict=True)]).mean()
    cross = torch.stack([laws[i].mean(smooth[j]) for i, j in permutations(range(len(laws)), 2)]).mean()
    return alignment + (1 - divergence_weight) * cross + divergence_weight * own


def modality_coefficients(
    modalities: int, *, divergence_weight: float = 0.0, eigenvalue: float = 1.0
) -> tuple[float, float]:
    """Coefficients of int d^2 / rho (common mode) and of int sum_i e_i^2 / rho (the k - 1 difference modes).

    a - a^2 / 2 and (a / k) ((lambda k - 1) / (k - 1) - a / 2) for modes that the kernel multiplies by a around the
    uniform law; a = 1 is the sharp limit, at any law.

    Args:
        modalities: k >= 2.
        divergence_weight: lambda.
        eigenvalue: a.

    >>> modality_coefficients(2)  # halved again in terms of the sum, and of m^2 / 2: 1/8 and -3/8
    (0.5, -0.75)
    """
    _check_count(modalities)
    a, k = eigenvalue, modalities
    return a - a * a / 2, a / k * ((divergence_weight * k - 1) / (k - 1) - a / 2)


def critical_weight_of_modalities(
    modalities: int,
    *,
    ambient_dim: int | None = None,
    temperature: float | None = None,
    critic: Critic | None = None,
) -> float:
    """The weight lambda_c above which matched marginals of k modalities are stable: (2 + (k - 1) a) / (2 k).

    Args:
        modalities: k >= 2.
        ambient_dim: d of S^{d-1}, with a temperature: a is then the kernel's eigenvalue on first harmonics, at the
            uniform law.
        temperature: tau; both None is the sharp limit, (k + 1) / (2 k) at any law.
        critic: the cosine by default.

    >>> [round(critical_weight_of_modalities(k), 4) for k in (2, 3, 4)]
    [0.75, 0.6667, 0.625]
    """
    _check_count(modalities)
    if (ambient_dim is None) != (temperature is None):
        raise InputError("ambient_dim and temperature go together: give both, or neither for the sharp limit")
    a = 1.0
    if ambient_dim is not None and temperature is not None:
        a = float(kernel_eigenvalues(ambient_dim, 1, temperature=temperature, critic=critic)[1])
    return (2 + (modalities - 1) * a) / (2 * modalities)


def many_stability(
    rho: Density,
    modalities: int,
    *,
    divergence_weight: float = 0.0,
    temperature: float | None = None,
    critic: Critic | None = None,
    degree: int | None = None,
) -> ManyStability:
    """The Hessian of the energy of k modalities around rho_i = rho: a common mode and k - 1 difference modes each.

    Args:
        rho: the matched law, positive; potentials are taken to hold it stationary.
        modalities: k >= 2.
        divergence_weight: lambda.
        temperature: tau of the kernel; None is the sharp limit.
        critic: of the kernel; the cosine by default.
        degree: perturbations are rho times harmonics up to this degree; see `matched_stability`.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> flat = Density.uniform(quadrature_rule(Sphere(3), 12))
    >>> round(many_stability(flat, 3, temperature=0.1).critical_weight, 6)  # (2 + 2 (coth 10 - 1/10)) / 6
    0.633333
    """
    _check_count(modalities)
    a_form, b_form = second_order_forms(rho, temperature=temperature, critic=critic, degree=degree)
    k = modalities
    common = torch.linalg.eigvalsh(a_form - b_form / 2)
    difference = torch.linalg.eigvalsh(((divergence_weight * k - 1) / (k - 1) * a_form - b_form / 2) / k)
    # The largest ratio of B to A is what two modalities give as 4 lambda_c - 2.
    ratio = 4 * critical_weight_of_forms(a_form, b_form) - 2
    return ManyStability(k, common, difference, divergence_weight, (2 + (k - 1) * ratio) / (2 * k))


def _check_count(modalities: int) -> None:
    if modalities < 2:
        raise InputError(f"modalities is {modalities}; a pairwise loss needs at least 2")


def _check_laws(laws: Laws) -> None:
    _check_count(len(laws))
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


__all__ = [
    "ManyStability",
    "critical_weight_of_modalities",
    "many_stability",
    "modality_coefficients",
    "pairwise_divergence",
    "pairwise_energy",
    "pairwise_intrinsic_energy",
]
