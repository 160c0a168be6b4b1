"""Fields from draws of a law: the partition field and the smoothed density (D3), the alignment potential (D4)."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._checks import InputError, check_rows, check_same_width, check_temperature
from .._typing import OtherRows, Rows
from ..geometry import Cosine, Critic, Manifold, Sphere, log_kernel_volume

_CHUNK = 1024


def log_partition_field(
    z: Rows,
    w: OtherRows,
    *,
    temperature: float | Tensor,
    critic: Critic | None = None,
    leave_own_out: bool = False,
) -> Float[Tensor, " n"]:
    """Log of the empirical partition field at each z: log Gamma(z_i) = log mean_j exp(s(z_i, w_j) / tau), in nats.

    Rows of z are taken in chunks that are computed again in the backward pass, so that nothing of size n x m is held,
    with gradients or without.

    Args:
        z: (n, d) points.
        w: (m, d) draws of the law q.
        temperature: tau > 0.
        critic: s; the cosine critic by default.
        leave_own_out: leave w_i out of the mean at z_i, for z and w the same or paired draws; then n = m >= 2.

    Returns:
        (n,) values of the dtype and device of z, differentiable in z, w and the temperature.

    Raises:
        InputError: for arrays or temperatures that cannot be used.

    Source: D3. The logarithm of a mean of m kernels is biased by about -1 / (2 n_eff) (E1).

    >>> log_partition_field(torch.eye(2), torch.eye(2), temperature=1.0)  # log((e + 1) / 2)
    tensor([0.6201, 0.6201])
    """
    check_rows(z, "z")
    check_rows(w, "w")
    check_same_width(z, w)
    check_temperature(temperature)
    if leave_own_out and not len(z) == len(w) >= 2:
        raise InputError(f"leave_own_out needs as many z as w, at least 2; found {len(z)} and {len(w)}")
    critic = Cosine() if critic is None else critic

    def chunk(rows: Tensor, columns: Tensor, first: int) -> Tensor:
        logits = critic.pairwise(rows, columns) / temperature
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
    z: Rows,
    w: OtherRows,
    *,
    temperature: float,
    manifold: Manifold | None = None,
    critic: Critic | None = None,
    leave_own_out: bool = False,
) -> Float[Tensor, " n"]:
    """Log of the smoothed density at each z: log rho~(z) = log Gamma(z) - log V(tau), in nats.

    Args:
        z: (n, d) points.
        w: (m, d) draws of the law.
        temperature: tau > 0.
        manifold: that the points live on; the unit sphere by default.
        critic: s; the cosine critic by default.
        leave_own_out: see `log_partition_field`.

    Source: D3.
    """
    manifold = Sphere(z.shape[1]) if manifold is None else manifold
    volume = log_kernel_volume(manifold, Cosine() if critic is None else critic, temperature)
    field = log_partition_field(z, w, temperature=temperature, critic=critic, leave_own_out=leave_own_out)
    return field - volume


def alignment_potential(
    z: Rows, positives: Float[Tensor, "n k d"], *, critic: Critic | None = None
) -> Float[Tensor, " n"]:
    """Alignment potential at each z from k draws of its partner's law: U(z_i) = -mean_k s(z_i, v_ik).

    Two modalities have two: U12 at points of the first with partners from the second, and U21 the other way round.

    Args:
        z: (n, d) points.
        positives: (n, k, d) draws of the positive partner of each.
        critic: s; the cosine critic by default.

    Source: D4 (Definitions 3.1 and 4.1 of the paper).

    >>> alignment_potential(torch.eye(2), torch.eye(2)[:, None, :])
    tensor([-1., -1.])
    """
    critic = Cosine() if critic is None else critic
    return -critic.pointwise(z[:, None, :].expand_as(positives), positives).mean(1)


__all__ = ["alignment_potential", "log_partition_field", "log_smoothed_density"]
