"""Checks of the claims about the landscape of the intrinsic energies: T3, T4, T5, T7, T8, T9, T10, T11."""

import torch
from torch import Tensor

from ..energies import intrinsic_energy, kl_divergence
from ..equilibria import GibbsLaw
from ..geometry import Quadrature, Sphere, harmonics, quadrature_rule
from ..measures import Density
from .claims import Claim, Evidence, Outcome


def random_smooth(grid: Quadrature, generator: torch.Generator, *, degree: int = 5, size: float = 1.0) -> Tensor:
    """A random function on the nodes with harmonics up to a degree and a standard deviation of `size`."""
    basis = harmonics(grid, degree)
    coefficients = torch.randn(basis.values.shape[1], generator=generator, dtype=torch.float64)
    coefficients[0] = 0
    volume = float(grid.weights.sum())
    return basis.synthesise(coefficients * (size * volume**0.5 / float(coefficients.norm())))


def check_t3(seed: int, *, minimiser_exponent: float = -1.0, draws: int = 20) -> Outcome:
    """F(rho) - F(rho*) = KL(rho || rho*) and F(rho*) = -log Z for random potentials and densities on S^1 and S^2.

    Args:
        seed: of the random potentials and densities.
        minimiser_exponent: s in the stated minimiser exp(s U / tau) / Z.
        draws: pairs of potential and density on each manifold.
    """
    generator = torch.Generator().manual_seed(seed)
    worst, worst_value = 0.0, 0.0
    for grid in (quadrature_rule(Sphere(2), 96), quadrature_rule(Sphere(3), 24)):
        for _ in range(draws):
            u = random_smooth(grid, generator)
            tau = float(0.3 + 2 * torch.rand((), generator=generator))
            rho = Density.from_log(random_smooth(grid, generator), grid)
            stated = Density.from_log(minimiser_exponent * u / tau, grid)
            excess = intrinsic_energy(rho, u, temperature=tau) - intrinsic_energy(stated, u, temperature=tau)
            worst = max(worst, abs(float(excess - kl_divergence(rho, stated))))
            minimum = intrinsic_energy(stated, u, temperature=tau) + GibbsLaw(u, tau, grid).log_partition
            worst_value = max(worst_value, abs(float(minimum)))
    return Outcome(
        (
            Evidence("largest |F(ρ) − F(ρ*) − KL(ρ‖ρ*)|, nats", 1e-10, worst, 0.0, "<=", f"{2 * draws} random pairs"),
            Evidence("largest |F(ρ*) + log Z|, nats", 1e-10, worst_value, 0.0, "<=", "rounding"),
        )
    )


CLAIMS = (Claim("T3", "one modality: F is strictly convex, and its unique minimiser is Gibbs", check_t3),)

__all__ = ["CLAIMS", "check_t3", "random_smooth"]
