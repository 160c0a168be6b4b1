"""Fields of a law (D3, D4): the partition field, the smoothed density, and the alignment potential.

A law is given as it is known: draws (m, d), a density on quadrature nodes, or a von Mises-Fisher law. The field is then
a mean over the draws, a quadrature, or a closed form.
"""

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._checks import InputError, check_flag, check_rows, check_same_width, check_temperature
from .._typing import OtherRows, PointsLike, RowsLike
from ..geometry import Cosine, Critic, Manifold, Quadrature, Sphere, as_critic, log_kernel_volume
from ..io.rows import as_floats, as_points
from ..measures import Density, VonMisesFisher

Law = OtherRows | Density | VonMisesFisher

_CHUNK = 1024


def log_partition_field(
    z: RowsLike,
    law: RowsLike | Law,
    *,
    temperature: float | Tensor,
    critic: Critic | None = None,
    leave_own_out: bool = False,
) -> Float[Tensor, " n"]:
    """Log of the partition field at each z: log Gamma(z) = log int exp(s(z, w) / tau) dq(w), in nats.

    Of draws it is log mean_j exp(s(z_i, w_j) / tau); of a density on nodes a quadrature, exact while the nodes resolve
    the kernel; of a von Mises-Fisher law the closed form. Rows of z are taken in chunks that are computed again in the
    backward pass, so that nothing of size n x m is held, with gradients or without.

    Args:
        z: (n, d) points.
        law: q: (m, d) draws, a `Density`, or a `VonMisesFisher` (cosine critic only).
        temperature: tau > 0.
        critic: s; the cosine critic by default.
        leave_own_out: leave draw w_i out of the mean at z_i, for z and w the same or paired draws; then n = m >= 2.

    Returns:
        (n,) values of the dtype and device of z, differentiable in z, draws and the temperature.

    Raises:
        InputError: for arrays, laws or temperatures that cannot be used.

    Source: D3. The logarithm of a mean of m kernels is biased by about -1 / (2 n_eff) (E1).

    >>> log_partition_field(torch.eye(2), torch.eye(2), temperature=1.0)  # log((e + 1) / 2)
    tensor([0.6201, 0.6201])
    >>> from infomech.geometry import quadrature_rule
    >>> flat = Density.uniform(quadrature_rule(Sphere(3), 32))
    >>> log_partition_field(torch.eye(3, dtype=torch.float64)[:1], flat, temperature=0.5)  # log(sinh(2) / 2)
    tensor([0.5952], dtype=torch.float64)
    """
    z, law, critic = as_points(z, "z"), _law(law), as_critic(critic)
    check_flag(leave_own_out, "leave_own_out")
    check_rows(z, "z")
    check_temperature(temperature)
    if isinstance(law, Tensor):
        check_rows(law, "w")
        check_same_width(z, law)
        dtype = torch.promote_types(z.dtype, law.dtype)
        z, law = z.to(dtype), law.to(dtype)
        if leave_own_out and not len(z) == len(law) >= 2:
            raise InputError(f"leave_own_out needs as many z as w, at least 2; found {len(z)} and {len(law)}")
    elif leave_own_out:
        raise InputError(f"leave_own_out is for draws; a {type(law).__name__} has none")
    if isinstance(temperature, Tensor):
        temperature = temperature.to(z.device)
    if isinstance(law, VonMisesFisher):
        if not isinstance(critic, Cosine):
            raise InputError(f"critic is {critic}; the field of a von Mises-Fisher law is closed for Cosine() only")
        return law.log_partition_field(z, temperature=temperature)
    if isinstance(law, Density):
        nodes, log_weights = law.quadrature.nodes, law.log_values + law.quadrature.log_weights
    else:
        nodes, log_weights = law, None
    return _log_mean_kernel(z, nodes, log_weights, temperature, critic, leave_own_out)


def _law(law: Any) -> Law:
    return law if isinstance(law, Density | VonMisesFisher) else as_points(law, "w")


def _log_mean_kernel(
    z: Tensor, w: Tensor, log_weights: Tensor | None, temperature: float | Tensor, critic: Critic, leave_own_out: bool
) -> Tensor:
    """Log sum_j p_j exp(s(z_i, w_j) / tau), p_j = 1/m without log_weights, chunk by chunk."""

    def chunk(rows: Tensor, columns: Tensor, first: int) -> Tensor:
        logits = critic.pairwise(rows, columns) / temperature
        if log_weights is not None:
            return (logits + log_weights).logsumexp(1)
        if not leave_own_out:
            return logits.logsumexp(1) - math.log(len(columns))
        at = torch.arange(len(rows), device=rows.device)
        own = torch.zeros_like(logits, dtype=torch.bool)
        own[at, at + first] = True
        return logits.masked_fill(own, -torch.inf).logsumexp(1) - math.log(len(columns) - 1)

    tracked = torch.is_grad_enabled()
    parts = []
    for first in range(0, len(z), _CHUNK):
        rows = z[first : first + _CHUNK]
        value = checkpoint(chunk, rows, w, first, use_reentrant=False) if tracked else chunk(rows, w, first)
        parts.append(cast(Tensor, value))
    return torch.cat(parts)


def log_smoothed_density(
    z: RowsLike,
    law: RowsLike | Law,
    *,
    temperature: float,
    manifold: Manifold | None = None,
    critic: Critic | None = None,
    leave_own_out: bool = False,
) -> Float[Tensor, " n"]:
    """Log of the smoothed density at each z: log rho~(z) = log Gamma(z) - log V(tau), in nats.

    Args:
        z: (n, d) points.
        law: (m, d) draws, a `Density`, or a `VonMisesFisher` (cosine critic only).
        temperature: tau > 0.
        manifold: that the points live on; by default that of a density, and the unit sphere for others.
        critic: s; the cosine critic by default.
        leave_own_out: of draws; see `log_partition_field`.

    Returns:
        (n,) values, themselves the logarithm of a density on the manifold.

    Raises:
        InputError: as `log_partition_field`.

    Source: D3.

    >>> from infomech.geometry import quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> east = VonMisesFisher(grid.nodes[0], 2.0)
    >>> on_nodes = Density(east.log_density(grid.nodes), grid)
    >>> log_smoothed_density(grid.nodes[:1], on_nodes, temperature=0.5)  # log(I0(4) / I0(2)) - log(2 pi I0(2))
    tensor([-1.0609], dtype=torch.float64)
    >>> log_smoothed_density(grid.nodes[:1], east, temperature=0.5)
    tensor([-1.0609], dtype=torch.float64)
    """
    z, law = as_points(z, "z"), _law(law)
    check_rows(z, "z")
    if manifold is None:
        manifold = law.quadrature.manifold if isinstance(law, Density) else Sphere(z.shape[1])
    volume = log_kernel_volume(manifold, as_critic(critic), temperature)
    field = log_partition_field(z, law, temperature=temperature, critic=critic, leave_own_out=leave_own_out)
    return field - volume


def smoothed_log_density(rho: Density, *, temperature: float, critic: Critic | None = None) -> Float[Tensor, " q"]:
    """Log of the smoothed density of a law on nodes, at these nodes (D3).

        log rho~(z_i) = log sum_j w_j kappa_tau(z_i, z_j) rho(z_j) - log V(tau),   w the weights of the quadrature

    Args:
        rho: the law.
        temperature: tau > 0.
        critic: the cosine by default.

    Returns:
        (q,) log rho~, itself the logarithm of a density; differentiable in the law.

    Raises:
        InputError: if the temperature is not positive.

    Source: D3.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> smooth = smoothed_log_density(Density.from_log(2 * grid.nodes[:, 0], grid), temperature=0.5)
    >>> round(float(grid.log_integrate(smooth)), 12)
    0.0
    """
    return log_smoothed_density(rho.quadrature.nodes, rho, temperature=temperature, critic=critic)


def log_smoothing_kernel(
    quadrature: Quadrature, *, temperature: float, critic: Critic | None = None
) -> Float[Tensor, "q q"]:
    """Log of kappa_tau(z_i, z_j) / V(tau) at all pairs of nodes; its exponential integrates to 1 in either argument.

    The nodes must resolve the kernel, whose width is sqrt(tau) for the cosine.

    Args:
        quadrature: the nodes.
        temperature: tau > 0.
        critic: the cosine by default.

    Returns:
        (q, q) symmetric values, in log inverse volume.

    Raises:
        InputError: if the temperature is not positive.

    Source: D1, D3.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> bool(grid.log_integrate(log_smoothing_kernel(grid, temperature=0.5)).abs().max() < 1e-12)
    True
    """
    critic = as_critic(critic)
    log_volume = log_kernel_volume(quadrature.manifold, critic, temperature)
    return critic.pairwise(quadrature.nodes, quadrature.nodes) / temperature - log_volume


def alignment_potential(z: RowsLike, positives: PointsLike, *, critic: Critic | None = None) -> Float[Tensor, " n"]:
    """Alignment potential at each z from k draws of its partner's law: U(z_i) = -mean_k s(z_i, v_ik).

    Two modalities have two: U12 at points of the first with partners from the second, and U21 the other way round.

    Args:
        z: (n, d) points.
        positives: (n, k, d) draws of the positive partner of each.
        critic: s; the cosine critic by default.

    Returns:
        (n,) values in units of the critic, differentiable.

    Raises:
        InputError: for points that cannot be used, or positives of another shape.

    Source: D4 (Definitions 3.1 and 4.1 of the paper).

    >>> alignment_potential(torch.eye(2), torch.eye(2)[:, None, :])
    tensor([-1., -1.])
    """
    critic, z, positives = as_critic(critic), as_points(z, "z"), as_floats(positives, "positives")
    check_rows(z, "z")
    if positives.ndim != 3 or (len(positives), positives.shape[2]) != z.shape:
        raise InputError(
            f"positives have shape {tuple(positives.shape)}; for {len(z)} points give (n, k, {z.shape[1]})"
        )
    return -critic.pointwise(z[:, None, :].expand_as(positives), positives).mean(1)


__all__ = [
    "alignment_potential",
    "log_partition_field",
    "log_smoothed_density",
    "log_smoothing_kernel",
    "smoothed_log_density",
]
