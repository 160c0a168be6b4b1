"""Stability of matched marginals (T9, T10, T11): the Hessian of the energy of two or more modalities.

Around rho_1 = .. = rho_k = rho with potentials held, let d_i be the perturbations, sum = sum_i d_i the common mode and
d_i - d_j the difference modes. In the sharp limit the second-order term of the energy with control lambda (D9; for k
modalities `infomech.energies.pairwise`) is

    1/(2 k^2) int sum^2 / rho  +  (2 k lambda - (k + 1)) / (2 k^2 (k - 1)) int sum_{i < j} (d_i - d_j)^2 / rho.

With two modalities these are 1/8 and (4 lambda - 3)/8. Matched marginals are stable from

    lambda_c(k) = (k + 1) / (2 k):    3/4, 2/3, 5/8 for k = 2, 3, 4, and towards 1/2

on: every further modality pulls on each of the others, and less control is needed. The reward for a gap is not gone
there. The energy holds -(1 - lambda) Dsym, so that at 3/4 a quarter of it is left, which the entropy just balances in
small differences; at lambda = 1 none is left.

(For the term of second order of F_i is int d_i^2 / (2 rho), that of KL(rho_i || rho_j) is int (d_i - d_j)^2 / (2 rho),
and with d = sum / k, e_i = d_i - d,  sum_i d_i^2 = k d^2 + sum_i e_i^2  and  sum_{i<j} (d_i - d_j)^2 = k sum_i e_i^2.)

At finite temperature the energy of the training loss is D6 with control: the mean over ordered pairs of

    (1/tau) int U_i q_i + (1 - lambda) int q_i log S q_j + lambda int q_i log S q_i,

with S the kernel divided by its volume. Around q_i = q, with r = S q, A(d) = int d S d / r (symmetrised) and
B(d) = int q (S d)^2 / r^2, the integral of q_i log S q_j contributes A(d_i, d_j) - B(d_j)/2, and the term is

    (A(sum) - B(sum)/2) / k^2  +  (1/k^2) sum_{i < j} [(lambda k - 1)/(k - 1) A(d_i - d_j) - B(d_i - d_j)/2].

At the uniform law the modes are harmonics of degree l, on which S acts as a number a_l (Funk and Hecke), so that in
units of int d^2 / q the coefficients are (a - a^2/2)/k^2 and (a/k^2) ((lambda k - 1)/(k - 1) - a/2), and a mode is
stable above

    lambda_c(l) = (2 + (k - 1) a_l) / (2 k),

which at k = 2 is (2 + a_l)/4: 3/4 where the kernel resolves the mode (a = 1), towards 1/2 where it does not. The
largest is that of l = 1, where a_1 is the mean resultant length A_d(1 / tau). Around other laws it is another:
with two clusters 3/4 removes most of the growth and not all of it, and around laws about as narrow as the kernel no
weight removes all (`MatchedStability.critical_weight` is then infinite).
"""

from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_kind, check_number, check_temperature, check_whole
from .._shown import Fields
from .._typing import Scalar
from ..energies import intrinsic_variation_sym, log_smoothing_kernel
from ..geometry import Critic, Harmonics, as_critic, harmonics, mean_resultant
from ..measures import Density, check_same_nodes

_VISIBLE = 1e-9  # modes that the kernel damps below this carry rounding, not information


@dataclass(frozen=True, eq=False, repr=False)
class MatchedStability(Fields):
    """Second-order coefficients of the energy around matched marginals, mode by mode.

    Coefficients are per unit of int sum^2 / rho for the common modes, and of int sum_{i<j} (d_i - d_j)^2 / rho for the
    difference modes, (d_1 - d_2)^2 with two modalities; negative means unstable.

    Args:
        common: (j,) coefficients of the common modes, ascending.
        difference: (j,) coefficients of the difference modes, ascending; each belongs to k - 1 modes.
        divergence_weight: lambda.
        critical_weight: the smallest lambda at which no difference mode is unstable; inf if there is none.
        modalities: k.

    Source: T10, T11 (beyond the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> found = matched_stability(Density.uniform(quadrature_rule(Sphere(3), 12)), temperature=0.1)
    >>> found.modalities, bool(found.difference[0] < 0 < found.common[0])  # CLIP's loss: unstable
    (2, True)
    """

    common: Float[Tensor, " j"]
    difference: Float[Tensor, " j"]
    divergence_weight: float
    critical_weight: float
    modalities: int = 2

    @property
    def stable(self) -> bool:
        """Whether no mode is unstable."""
        lowest = torch.minimum(self.common.min(), self.difference.min())
        return bool(lowest >= -_VISIBLE)

    @property
    def growth_rates(self) -> Float[Tensor, " j"]:
        """Growth rates of the difference modes under the Fisher-Rao flow, per unit of time, descending: -2 k times."""
        return -2 * self.modalities * self.difference


def stationarity_residual(
    rho1: Density,
    rho2: Density,
    potentials: tuple[Float[Tensor, " q"], Float[Tensor, " q"]],
    *,
    temperature: float,
    divergence_weight: float = 0.0,
) -> Scalar:
    """Length of the gradient of D9 in the Fisher-Rao metric: zero exactly at stationary states (T9).

    At rho1 = rho2 = rho the gradients are those of F12 / 2 and F21 / 2, whatever lambda: both vanish only if rho is
    proportional to exp(-U12 / tau) and to exp(-U21 / tau), hence only if U12 - U21 is constant.

    Args:
        rho1: the law of modality 1.
        rho2: the law of modality 2, on the same nodes.
        potentials: (U12, U21) at the nodes, each (q,), in units of the critic.
        temperature: tau > 0.
        divergence_weight: lambda.

    Returns:
        A scalar, (sum_i int rho_i (phi_i - mean phi_i)^2)^(1/2) of the first variations phi_i.

    Raises:
        InputError: if the laws stand on different nodes.

    Source: T9 (Remark 4.5 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 32)
    >>> u = grid.nodes[:, 0]
    >>> rho = Density.from_log(-u / 0.5, grid)
    >>> bool(stationarity_residual(rho, rho, (u, u + 3), temperature=0.5) < 1e-14)
    True
    """
    check_same_nodes(rho1, rho2)
    variations = intrinsic_variation_sym(
        rho1, rho2, potentials, temperature=temperature, divergence_weight=divergence_weight
    )
    squares = [r.mean((v - r.mean(v)).square()) for r, v in zip((rho1, rho2), variations, strict=True)]
    return (squares[0] + squares[1]).sqrt()


def kernel_eigenvalues(
    ambient_dim: int, degrees: int, *, temperature: float, critic: Critic | None = None
) -> Float[Tensor, " l"]:
    """What the normalised kernel does to harmonics of degree l = 0..degrees on S^{d-1} (Funk and Hecke).

    For the cosine critic a_l = I_{d/2-1+l}(1/tau) / I_{d/2-1}(1/tau), the product of mean resultant lengths
    A_d A_{d+2} ... A_{d+2l-2}; other critics have an equivalent temperature.

    Args:
        ambient_dim: d >= 2, any width of embeddings.
        degrees: the highest degree.
        temperature: tau > 0.
        critic: the cosine by default.

    Returns:
        (degrees + 1,) numbers in [0, 1], descending from a_0 = 1; float64.

    Raises:
        InputError: if the temperature is not positive.

    Source: D1, D3; for T11.

    >>> kernel_eigenvalues(3, 2, temperature=0.1)
    tensor([1.0000, 0.9000, 0.7300], dtype=torch.float64)
    """
    check_temperature(temperature)
    check_whole(ambient_dim, "ambient_dim", least=2)
    check_whole(degrees, "degrees", least=0)
    slope = as_critic(critic).affine_form(1.0)[1]
    kappa = torch.tensor(slope / temperature, dtype=torch.float64)
    ratios = [mean_resultant(ambient_dim + 2 * j, kappa) for j in range(degrees)]
    return torch.cat([kappa.new_ones(1), torch.stack(ratios).cumprod(0)]) if degrees else kappa.new_ones(1)


@overload
def mode_coefficients(
    eigenvalues: float = 1.0, *, divergence_weight: float = 0.0, modalities: int = 2
) -> tuple[float, float]: ...
@overload
def mode_coefficients(
    eigenvalues: Float[Tensor, " l"], *, divergence_weight: float = 0.0, modalities: int = 2
) -> tuple[Float[Tensor, " l"], Float[Tensor, " l"]]: ...
def mode_coefficients(
    eigenvalues: float | Tensor = 1.0, *, divergence_weight: float = 0.0, modalities: int = 2
) -> tuple[float | Tensor, float | Tensor]:
    """Coefficients (common, difference) of modes that the kernel multiplies by a, around uniform laws (T10, T11).

    (a - a^2/2)/k^2 and (a/k^2) ((lambda k - 1)/(k - 1) - a/2), per unit of int sum^2 / rho and int sum_{i<j}
    (d_i - d_j)^2 / rho. At a = 1 they are those of the sharp limit, of all modes around any law: 1/8 and
    (4 lambda - 3)/8 with two modalities.

    Args:
        eigenvalues: a, a number or (l,) as `kernel_eigenvalues` gives them; 1 is the sharp limit.
        divergence_weight: lambda.
        modalities: k >= 2.

    Returns:
        Two numbers, or two (l,) tensors.

    Raises:
        InputError: if there are fewer than two modalities.

    Source: T10, T11 (beyond the paper); this module's head.

    >>> mode_coefficients()
    (0.125, -0.375)
    >>> mode_coefficients(divergence_weight=0.75)
    (0.125, 0.0)
    """
    _check_count(modalities)
    check_number(divergence_weight, "divergence_weight")
    if not isinstance(eigenvalues, Tensor):
        check_number(eigenvalues, "eigenvalues", "a finite number, or a tensor of them")
    a, k = eigenvalues, modalities
    return (a - a * a / 2) / k**2, a / k**2 * ((divergence_weight * k - 1) / (k - 1) - a / 2)


def critical_divergence_weight(
    ambient_dim: int | None = None,
    temperature: float | None = None,
    *,
    modalities: int = 2,
    critic: Critic | None = None,
) -> float:
    """The weight lambda_c above which matched marginals are stable, potentials held: (2 + (k - 1) a) / (2 k) (T11).

    Without arguments the sharp limit, at any law: a = 1, (k + 1) / (2 k), 3/4 with two modalities. On S^{d-1} at a
    temperature, around the uniform law: a = A_d(1 / tau), the kernel's eigenvalue on first harmonics. It tends to the
    sharp limit as tau falls, and to 1/k where the kernel is much wider than the first harmonics: in high dimension at
    ordinary temperatures.

    Args:
        ambient_dim: d >= 2.
        temperature: tau > 0.
        modalities: k >= 2.
        critic: the cosine by default.

    Returns:
        lambda_c. At lambda_c a share 1 - lambda_c of the reward for a gap is left; at 1 none.

    Raises:
        InputError: if only one of dimension and temperature is given, or one cannot be used.

    Source: T11 (beyond the paper).

    >>> round(critical_divergence_weight(3, 0.1), 6)  # (2 + coth 10 - 1/10) / 4
    0.725
    >>> round(critical_divergence_weight(512, 0.07), 4)
    0.507
    >>> [round(critical_divergence_weight(modalities=k), 4) for k in (2, 3, 4)]
    [0.75, 0.6667, 0.625]
    """
    _check_count(modalities)
    if (ambient_dim is None) != (temperature is None):
        raise InputError("ambient_dim and temperature go together: give both, or neither for the sharp limit")
    a = 1.0
    if ambient_dim is not None and temperature is not None:
        a = float(kernel_eigenvalues(ambient_dim, 1, temperature=temperature, critic=critic)[1])
    return (2 + (modalities - 1) * a) / (2 * modalities)


def matched_potential(rho: Density, *, temperature: float, critic: Critic | None = None) -> Float[Tensor, " q"]:
    """The potential that makes rho1 = rho2 = rho stationary at finite temperature, for every lambda.

    U = -tau (log S rho + S(rho / S rho)), up to a constant; -tau log rho in the sharp limit.

    Args:
        rho: the matched law.
        temperature: tau > 0, of the kernel too.
        critic: of the kernel; the cosine by default.

    Returns:
        (q,) U at the nodes, in units of the critic.

    Raises:
        InputError: if the temperature is not positive.

    Source: T9 at finite temperature (beyond the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> flat = Density.uniform(quadrature_rule(Sphere(2), 64))
    >>> u = matched_potential(flat, temperature=0.5)  # of the uniform law: constant
    >>> bool(u.std() < 1e-14)
    True
    """
    kernel = log_smoothing_kernel(rho.quadrature, temperature=temperature, critic=critic).exp()
    smooth = kernel @ (rho.values * rho.quadrature.weights)
    return -temperature * (smooth.log() + kernel @ (rho.values / smooth * rho.quadrature.weights))


def matched_stability(
    rho: Density,
    *,
    modalities: int = 2,
    divergence_weight: float = 0.0,
    temperature: float | None = None,
    critic: Critic | None = None,
    degree: int | None = None,
) -> MatchedStability:
    """The Hessian of the energy around rho_1 = .. = rho_k = rho, split into common and difference modes.

    Args:
        rho: the matched law; a potential is taken to hold it stationary (`matched_potential`).
        modalities: k >= 2.
        divergence_weight: lambda.
        temperature: tau of the kernel that smooths the densities; None is the sharp limit.
        critic: of that kernel; the cosine by default.
        degree: perturbations are rho times harmonics up to this degree; by default as many as the nodes carry, at
            most 12.

    Returns:
        The coefficients of all modes, eigenvalues of the two quadratic forms of this module's head, and the critical
        weight.

    Raises:
        InputError: if the temperature is not positive or the density vanishes at a node.

    Source: T10, T11 (beyond the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> flat = Density.uniform(quadrature_rule(Sphere(3), 12))
    >>> round(matched_stability(flat, temperature=0.1).critical_weight, 6)  # (2 + coth 10 - 1/10) / 4
    0.725
    >>> round(matched_stability(flat, modalities=3, temperature=0.1).critical_weight, 6)  # (1 + coth 10 - 1/10) / 3
    0.633333
    """
    _check_count(modalities)
    check_kind(rho, "rho", Density, "a Density")
    a_form, b_form = _second_order_forms(rho, temperature=temperature, critic=critic, degree=degree)
    k, lam = modalities, divergence_weight
    common = torch.linalg.eigvalsh(a_form - b_form / 2) / k**2
    difference = torch.linalg.eigvalsh((lam * k - 1) / (k - 1) * a_form - b_form / 2) / k**2
    critical = (2 + (k - 1) * _largest_ratio(a_form, b_form)) / (2 * k)
    return MatchedStability(common, difference, lam, critical, k)


def _check_count(modalities: int) -> None:
    check_whole(modalities, "modalities", least=2)


def _second_order_forms(
    rho: Density, *, temperature: float | None, critic: Critic | None, degree: int | None
) -> tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]:
    """The forms A and B of this module's head, as matrices on an orthonormal basis of perturbations of rho."""
    grid = rho.quadrature
    if bool(torch.isneginf(rho.log_values).any()):
        raise InputError("density is zero at a node; its modes have infinite stiffness there: give it a floor first")
    basis = harmonics(grid, min(12, grid.degree // 2) if degree is None else degree)
    directions = _orthonormal_directions(rho, basis)
    if temperature is None:
        identity = torch.eye(directions.shape[1], dtype=directions.dtype, device=directions.device)
        return identity, identity
    log_kernel = log_smoothing_kernel(grid, temperature=temperature, critic=critic)
    return _finite_temperature_forms(rho, directions, log_kernel.exp())


def _largest_ratio(a_form: Float[Tensor, "k k"], b_form: Float[Tensor, "k k"]) -> float:
    """The largest B(d) / A(d) over the modes that the kernel lets through; inf if A is negative somewhere."""
    values, vectors = torch.linalg.eigh(a_form)
    visible = values > _VISIBLE
    if bool((values < -_VISIBLE).any()):
        return float("inf")
    scaled = vectors[:, visible] / values[visible].sqrt()
    return float(torch.linalg.eigvalsh(scaled.mT @ b_form @ scaled).max())


def _orthonormal_directions(rho: Density, basis: Harmonics) -> Tensor:
    """Perturbations d (q, k) of mass 0 with int d_i d_j / rho = delta_ij: rho times polynomials."""
    weight = (rho.values * rho.quadrature.weights).sqrt()
    centred = basis.values[:, 1:] - rho.mean(basis.values[:, 1:].mT)
    orthonormal, _ = torch.linalg.qr(weight[:, None] * centred)
    scale = (rho.values / rho.quadrature.weights).sqrt()
    return torch.mul(orthonormal, scale[:, None])


def _finite_temperature_forms(rho: Density, directions: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    weights = rho.quadrature.weights[:, None]
    smooth_rho = kernel @ (rho.values * rho.quadrature.weights)
    smooth = kernel @ (weights * directions)
    a_form = directions.mT @ (weights * smooth / smooth_rho[:, None])
    ratio = smooth / smooth_rho[:, None]
    b_form = ratio.mT @ (weights * rho.values[:, None] * ratio)
    return (a_form + a_form.mT) / 2, b_form


__all__ = [
    "MatchedStability",
    "critical_divergence_weight",
    "kernel_eigenvalues",
    "matched_potential",
    "matched_stability",
    "mode_coefficients",
    "stationarity_residual",
]
