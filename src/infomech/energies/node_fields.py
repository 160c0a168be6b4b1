"""Fields of a law on quadrature nodes (D3): the kernel over its volume, and the smoothed density."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import Cosine, Critic, Quadrature, log_kernel_volume
from ..measures import Density


def log_smoothing_kernel(
    quadrature: Quadrature, *, temperature: float, critic: Critic | None = None
) -> Float[Tensor, "q q"]:
    """Log of kappa_tau(z_i, z_j) / V(tau) at all pairs of nodes; its exponential integrates to 1 in either argument.

    The nodes must resolve the kernel, whose width is sqrt(tau) for the cosine.

    Args:
        quadrature: the nodes.
        temperature: tau > 0.
        critic: the cosine by default.

    Raises:
        InputError: if the temperature is not positive.
    """
    critic = Cosine() if critic is None else critic
    log_volume = log_kernel_volume(quadrature.manifold, critic, temperature)
    return critic.pairwise(quadrature.nodes, quadrature.nodes) / temperature - log_volume


def smoothed_log_density(rho: Density, *, temperature: float, critic: Critic | None = None) -> Float[Tensor, " q"]:
    """Log of the smoothed density rho~ = Gamma / V at the nodes, Gamma(z) = int kappa_tau(z, w) rho(w) dmu(w) (D3).

    Args:
        rho: the law.
        temperature: tau > 0.
        critic: the cosine by default.

    Returns:
        (q,) log rho~, itself the logarithm of a density.

    Source: D3.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> smooth = smoothed_log_density(Density.from_log(2 * grid.nodes[:, 0], grid), temperature=0.5)
    >>> round(float(grid.log_integrate(smooth)), 12)
    0.0
    """
    log_kernel = log_smoothing_kernel(rho.quadrature, temperature=temperature, critic=critic)
    return torch.logsumexp(log_kernel + rho.log_values + rho.quadrature.log_weights, dim=1)


__all__ = ["log_smoothing_kernel", "smoothed_log_density"]
