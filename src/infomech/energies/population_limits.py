"""What other contrastive losses tend to as the batch grows: InfoNCE in one direction, and the sigmoid loss.

**One direction.** The loss of anchors x against candidates y sees the law of y alone in its denominator. With N
negatives

    L_N - log N  ->  E[-s(x, y) / tau] + E_x log E_y exp(s(x, y) / tau)  =  J12 + log V        (one side of D6, T1),

and as the kernel sharpens log rho~2 -> log rho2, so that

    J12  ->  int (U12 / tau) rho1 + int rho1 log rho2  =  [int (U12 / tau) rho1 - H(rho1)] - KL(rho1 || rho2).

The negative divergence is the forward KL of the anchors' law from the candidates': one direction has it as well, once
and not in the mean of both.

**Sigmoid.** Each pair is a question of its own, L = (1/n) [sum_i softplus(-(s_ii/tau + b)) + sum_{i != j}
softplus(s_ij/tau + b)]. With a bias held, the second sum grows as n; write b = beta - log(n - 1). Then softplus(s/tau
+ b) = exp(s/tau + beta) / (n - 1) + O(n^-2), softplus(-(s/tau + b)) = log(n - 1) - beta - s/tau + O(1/n), and

    L - log(n - 1)  ->  E[-s(x, y) / tau] - beta + exp(beta) G,     G = E_x E_y exp(s(x, y) / tau) = V E_x rho~2(x).

The best beta is -log G, so that a learned bias tends to -log((n - 1) G), and what is left is

    K = E[-s(x, y) / tau] + log G + 1.

Where InfoNCE has the mean of a logarithm, the sigmoid loss has the logarithm of a mean: by Jensen K - 1 >= J12 + log
V. In the sharp limit G / V -> int rho1 rho2, the overlap of the laws. With the collision entropy H2(rho) = -log int
rho^2 and the Cauchy-Schwarz divergence D_CS = -log [int rho1 rho2 / sqrt(int rho1^2 int rho2^2)] >= 0, zero for equal
laws only,

    log (G / V)  ->  -(H2(rho1) + H2(rho2)) / 2 - D_CS(rho1, rho2):

two entropies and a *negative* divergence again. The sigmoid loss pays for a modality gap too, in another divergence.
The same holds at every temperature with the kernel in place of the product: exp(s / tau) is positive definite for the
cosine critic, G_xy^2 <= G_xx G_yy, and D_CS of the smoothed laws is log(G_xx G_yy) / 2 - log G_xy.
"""

import math
from dataclasses import dataclass

import torch

from .._checks import InputError, check_partners, check_temperature
from .._shown import Fields
from .._typing import Rows, RowsLike, Scalar
from ..geometry import Critic, as_critic
from ..io.rows import as_points
from ..measures import Density, check_same_nodes
from .fields import log_partition_field


def directed_limit(x: RowsLike, y: RowsLike, *, temperature: float, critic: Critic | None = None) -> Scalar:
    """Limit of one-directional InfoNCE less log N, from paired draws: E[-s / tau] + E_x log E_y exp(s / tau), in nats.

    The field at x_i leaves y_i out. Plain: the logarithm's bias of about -1 / (2 n_eff) is not corrected.

    Args:
        x: (n, d) draws of the anchors' law.
        y: (n, d) their partners; the law of the negatives is theirs.
        temperature: tau > 0.
        critic: s; the cosine critic by default.

    Returns:
        J12 + log V, a scalar, differentiable; memory O(n).

    Raises:
        InputError: for arrays or temperatures that cannot be used.

    Source: one side of D6; this module's head.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.nn.functional.normalize(torch.randn(2, 500, 3, generator=g), dim=2)
    >>> round(directed_limit(x, y, temperature=1.0).item(), 1)  # independent and uniform: log sinh 1
    0.2
    """
    check_temperature(temperature)
    x, y = as_points(x, "x"), as_points(y, "y")
    check_partners(x, y)
    score = as_critic(critic).pointwise(x, y).mean() / temperature
    return log_partition_field(x, y, temperature=temperature, critic=critic, leave_own_out=True).mean() - score


@dataclass(frozen=True, repr=False)
class SigmoidLimit(Fields):
    """The large-batch limit of the sigmoid loss less log(n - 1), with its best bias, in nats.

    Args:
        alignment: E[-s(x, y) / tau].
        log_overlap: log G = log E_x E_y exp(s / tau), pairs apart.
        log_own_x: log E exp(s(x, x') / tau).
        log_own_y: log E exp(s(y, y') / tau).

    Source: this module's head (beyond the paper); the loss is that of Zhai et al. 2023.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.nn.functional.normalize(torch.randn(2, 500, 3, generator=g), dim=2)
    >>> limit = sigmoid_limit(x, y, temperature=1.0)
    >>> round(limit.log_overlap.item(), 1)  # independent and uniform: log sinh 1
    0.2
    """

    alignment: Scalar
    log_overlap: Scalar
    log_own_x: Scalar
    log_own_y: Scalar

    @property
    def value(self) -> Scalar:
        """K = alignment + log G + 1."""
        return self.alignment + self.log_overlap + 1

    @property
    def divergence(self) -> Scalar:
        """Cauchy-Schwarz divergence of the smoothed laws, which K contains with a minus sign."""
        return (self.log_own_x + self.log_own_y) / 2 - self.log_overlap

    def at_offset(self, offset: float | Scalar) -> Scalar:
        """The limit at b = offset - log(n - 1), least at offset = -log G."""
        return self.alignment - offset + torch.exp(offset + self.log_overlap)

    def best_bias(self, batch_size: int) -> Scalar:
        """The bias that a large batch of n pairs asks for: -log((n - 1) G)."""
        if batch_size < 2:
            raise InputError(f"batch_size is {batch_size}; the sigmoid loss needs at least 2 pairs")
        return -self.log_overlap - math.log(batch_size - 1)


def sigmoid_limit(x: RowsLike, y: RowsLike, *, temperature: float, critic: Critic | None = None) -> SigmoidLimit:
    """Limit of the sigmoid loss from paired draws, K = -mean s(x, y) / tau + log G + 1 with G the mean of exp(s / tau).

    Means over distinct rows, whose logarithm has a bias of order 1/n.

    Args:
        x: (n, d) draws of one modality.
        y: (n, d) their partners in the other.
        temperature: tau > 0.
        critic: s; the cosine critic by default.

    Returns:
        Its parts, differentiable; memory O(n).

    Raises:
        InputError: for arrays or temperatures that cannot be used.

    Source: derived in this module's head; the loss is that of Zhai et al. 2023.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.nn.functional.normalize(torch.randn(2, 500, 3, generator=g), dim=2)
    >>> limit = sigmoid_limit(x, y, temperature=1.0)
    >>> bool(abs(limit.divergence) < 0.02), round(limit.best_bias(1000).item(), 1)  # equal laws; -log(999 sinh 1)
    (True, -7.1)
    """

    def log_mean(a: Rows, b: Rows) -> Scalar:
        field = log_partition_field(a, b, temperature=temperature, critic=critic, leave_own_out=True)
        return torch.logsumexp(field, 0) - math.log(len(field))

    check_temperature(temperature)
    x, y = as_points(x, "x"), as_points(y, "y")
    check_partners(x, y)
    score = as_critic(critic).pointwise(x, y).mean() / temperature
    return SigmoidLimit(-score, log_mean(x, y), log_mean(x, x), log_mean(y, y))


def cauchy_schwarz_divergence(rho1: Density, rho2: Density) -> Scalar:
    """D_CS = -log [int rho1 rho2 / sqrt(int rho1^2 int rho2^2)], in nats: what the sigmoid loss has in place of Dsym.

    Args:
        rho1: the law of modality 1.
        rho2: the law of modality 2, on the same nodes.

    Returns:
        A scalar >= 0, 0 for equal laws only.

    Raises:
        InputError: if the densities stand on different nodes.

    Source: this module's head (beyond the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> east, west = (Density.from_log(k * grid.nodes[:, 0], grid) for k in (1.0, -1.0))
    >>> cauchy_schwarz_divergence(east, west)  # log I0(2)
    tensor(0.8240, dtype=torch.float64)
    """
    check_same_nodes(rho1, rho2)
    weights = rho1.quadrature.weights.log()
    own1, own2, cross = (
        torch.logsumexp(a.log_values + b.log_values + weights, 0) for a, b in ((rho1, rho1), (rho2, rho2), (rho1, rho2))
    )
    return (own1 + own2) / 2 - cross


__all__ = ["SigmoidLimit", "cauchy_schwarz_divergence", "directed_limit", "sigmoid_limit"]
