"""Stability of matched marginals (T9, T10, T11): the Hessian of the two-modality energy, at any temperature.

Around rho1 = rho2 = rho with potentials held, write sum = d1 + d2 and m = d1 - d2. In the sharp limit (D9) the
second-order term of the energy with control lambda is

    (1/8) int sum^2 / rho dmu + ((4 lambda - 3)/8) int m^2 / rho dmu.

At finite temperature the energy of the training loss is D6 with control,

    J = (1/2) sum_i [ (1/tau) int U_i q_i + (1 - lambda) int q_i log S q_j + lambda int q_i log S q_i ],

with S the kernel divided by its volume. Around q1 = q2 = q, with r = S q, A(d) = int d S d / r (symmetrised) and
B(d) = int q (S d)^2 / r^2, its second-order term is

    (2 A(sum) - B(sum)) / 8 + ((4 lambda - 2) A(m) - B(m)) / 8.

At the uniform law the modes are harmonics of degree l, on which S acts as a number a_l (Funk and Hecke), so that in
units of int d^2 / q the coefficients are (2 a - a^2)/8 and (4 lambda a - 2 a - a^2)/8, and a mode is stable above

    lambda_c(l) = (2 + a_l) / 4:    3/4 where the kernel resolves the mode (a = 1), towards 1/2 where it does not.

The largest is that of l = 1, where a_1 is the mean resultant length A_d(1 / tau).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_temperature
from .._typing import Scalar
from ..energies import intrinsic_variation_sym, log_smoothing_kernel
from ..geometry import Cosine, Critic, Harmonics, harmonics, mean_resultant
from ..measures import Density, check_same_nodes

CRITICAL_WEIGHT = 0.75  # lambda_c in the sharp limit (T11)

_VISIBLE = 1e-9  # modes that the kernel damps below this carry rounding, not information


@dataclass(frozen=True, eq=False)
class MatchedStability:
    """Second-order coefficients of the energy around matched marginals, mode by mode.

    Coefficients are per unit of int d^2 / rho, d the sum or the difference of the two perturbations; negative means
    unstable. Under the Fisher-Rao flow an amplitude grows at the rate -4 times its coefficient.

    Args:
        common: (k,) coefficients of the common modes, ascending.
        difference: (k,) coefficients of the difference modes, ascending.
        divergence_weight: lambda.
        critical_weight: the smallest lambda at which no difference mode is unstable; inf if there is none.
    """

    common: Float[Tensor, " k"]
    difference: Float[Tensor, " k"]
    divergence_weight: float
    critical_weight: float

    @property
    def stable(self) -> bool:
        """Whether no mode is unstable."""
        lowest = torch.minimum(self.common.min(), self.difference.min())
        return bool(lowest >= -_VISIBLE)

    @property
    def growth_rates(self) -> Float[Tensor, " k"]:
        """Growth rates of the difference modes under the Fisher-Rao flow, per unit of time, descending."""
        return -4 * self.difference


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
    """
    check_same_nodes(rho1, rho2)
    variations = intrinsic_variation_sym(
        rho1, rho2, potentials, temperature=temperature, divergence_weight=divergence_weight
    )
    squares = [r.mean((v - r.mean(v)).square()) for r, v in zip((rho1, rho2), variations, strict=True)]
    return (squares[0] + squares[1]).sqrt()


def sharp_coefficients(divergence_weight: float) -> tuple[float, float]:
    """Coefficients (common, difference) in the sharp limit: 1/8 and (4 lambda - 3)/8, at every frequency (T10, T11).

    >>> sharp_coefficients(0.0)
    (0.125, -0.375)
    """
    return 1 / 8, (4 * divergence_weight - 3) / 8


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

    >>> kernel_eigenvalues(3, 2, temperature=0.1)
    tensor([1.0000, 0.9000, 0.7300], dtype=torch.float64)
    """
    check_temperature(temperature)
    slope = (Cosine() if critic is None else critic).affine_form(1.0)[1]
    kappa = torch.tensor(slope / temperature, dtype=torch.float64)
    ratios = [mean_resultant(ambient_dim + 2 * j, kappa) for j in range(degrees)]
    return torch.cat([kappa.new_ones(1), torch.stack(ratios).cumprod(0)]) if degrees else kappa.new_ones(1)


def mode_coefficients(
    eigenvalues: Float[Tensor, " l"], *, divergence_weight: float = 0.0
) -> tuple[Float[Tensor, " l"], Float[Tensor, " l"]]:
    """Coefficients (common, difference) of modes that the kernel multiplies by a, around uniform laws (T10, T11).

    (2 a - a^2)/8 and (4 lambda a - 2 a - a^2)/8; those of the sharp limit at a = 1.
    """
    a = eigenvalues
    return (2 * a - a.square()) / 8, (4 * divergence_weight * a - 2 * a - a.square()) / 8


def critical_divergence_weight(ambient_dim: int, temperature: float, *, critic: Critic | None = None) -> float:
    """The weight lambda_c above which matched uniform laws on S^{d-1} are stable: (2 + A_d(1 / tau)) / 4 (T11).

    It tends to 3/4 in the sharp limit, and to 1/2 where the kernel is much wider than the sphere's first harmonic:
    in high dimension at ordinary temperatures.

    Args:
        ambient_dim: d >= 2.
        temperature: tau > 0.
        critic: the cosine by default.

    >>> round(critical_divergence_weight(3, 0.1), 6)  # (2 + coth 10 - 1/10) / 4
    0.725
    >>> round(critical_divergence_weight(512, 0.07), 4)
    0.507
    """
    first = kernel_eigenvalues(ambient_dim, 1, temperature=temperature, critic=critic)[1]
    return float(2 + first) / 4


def matched_potential(rho: Density, *, temperature: float, critic: Critic | None = None) -> Float[Tensor, " q"]:
    """The potential that makes rho1 = rho2 = rho stationary at finite temperature, for every lambda.

    U = -tau (log S rho + S(rho / S rho)), up to a constant; -tau log rho in the sharp limit.
    """
    kernel = log_smoothing_kernel(rho.quadrature, temperature=temperature, critic=critic).exp()
    smooth = kernel @ (rho.values * rho.quadrature.weights)
    return -temperature * (smooth.log() + kernel @ (rho.values / smooth * rho.quadrature.weights))


def matched_stability(
    rho: Density,
    *,
    divergence_weight: float = 0.0,
    temperature: float | None = None,
    critic: Critic | None = None,
    degree: int | None = None,
) -> MatchedStability:
    """The Hessian of the two-modality energy around rho1 = rho2 = rho, split into common and difference modes.

    Args:
        rho: the matched law; a potential is taken to hold it stationary (`matched_potential`).
        divergence_weight: lambda.
        temperature: tau of the kernel that smooths the densities; None is the sharp limit.
        critic: of that kernel; the cosine by default.
        degree: perturbations are rho times harmonics up to this degree; by default as many as the nodes carry, at
            most 12.

    Returns:
        The coefficients of all modes, eigenvalues of the two quadratic forms of this module's head relative to
        int d^2 / rho, and the critical weight.

    Raises:
        InputError: if the temperature is not positive or the density vanishes at a node.

    Source: T10, T11.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> flat = Density.uniform(quadrature_rule(Sphere(3), 12))
    >>> round(matched_stability(flat, temperature=0.1).critical_weight, 6)  # (2 + coth 10 - 1/10) / 4
    0.725
    """
    a_form, b_form = second_order_forms(rho, temperature=temperature, critic=critic, degree=degree)
    lam = divergence_weight
    common = torch.linalg.eigvalsh((2 * a_form - b_form) / 8)
    difference = torch.linalg.eigvalsh(((4 * lam - 2) * a_form - b_form) / 8)
    return MatchedStability(common, difference, lam, critical_weight_of_forms(a_form, b_form))


def second_order_forms(
    rho: Density, *, temperature: float | None = None, critic: Critic | None = None, degree: int | None = None
) -> tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]:
    """The forms A and B of this module's head, as matrices on an orthonormal basis of perturbations of rho.

    Args:
        rho: the matched law, positive at every node.
        temperature: of the kernel; None is the sharp limit, where both are the identity.
        critic: the cosine by default.
        degree: of the harmonics times rho; by default as many as the nodes carry, at most 12.
    """
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


def critical_weight_of_forms(a_form: Float[Tensor, "k k"], b_form: Float[Tensor, "k k"]) -> float:
    """The smallest lambda with (4 lambda - 2) A - B >= 0 on the modes that the kernel lets through."""
    values, vectors = torch.linalg.eigh(a_form)
    visible = values > _VISIBLE
    if bool((values < -_VISIBLE).any()):
        return float("inf")
    scaled = vectors[:, visible] / values[visible].sqrt()
    return 0.5 + float(torch.linalg.eigvalsh(scaled.mT @ b_form @ scaled).max()) / 4


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
    "CRITICAL_WEIGHT",
    "MatchedStability",
    "critical_divergence_weight",
    "critical_weight_of_forms",
    "kernel_eigenvalues",
    "matched_potential",
    "matched_stability",
    "mode_coefficients",
    "second_order_forms",
    "sharp_coefficients",
    "stationarity_residual",
]
