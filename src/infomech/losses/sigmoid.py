"""The sigmoid loss (SigLIP): every pair of the batch is a yes-or-no question of its own."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .._checks import InputError
from .._typing import Rows, Scalar
from ..reductions.losses.infonce import row_scores
from ..reductions.losses.sigmoid import softplus_sum
from ..reductions.losses.tiles import OwnRow
from ._inputs import (
    check_has_negatives,
    check_paired,
    check_shapes,
    checked_bound,
    checked_inverse_temperature,
    result_dtype,
)
from .distributed import Ranks, Shards, agree, check_ranks_alike, replicated, sum_over_ranks
from .sharded import sharded_softplus_sum
from .temperature import TemperedLoss


def sigmoid_loss(
    x: Rows, y: Rows, *, temperature: float | Tensor, bias: float | Tensor, ranks: Ranks | None = None
) -> Scalar:
    """The sigmoid loss of Zhai et al. 2023, in memory O(n d).

        L = -(1/n) sum_ij log sigmoid(z_ij (x_i.y_j / tau + b)),   z_ij = 1 if i = j, and -1 otherwise

    Rows are used as they are: pass unit rows for the cosine critic. Logits and sums are float32 (float64 for float64
    rows), one derivative, as in `symmetric_infonce`.

    Args:
        x: (n, d) embeddings of one modality, n >= 2.
        y: (n, d) embeddings of the other; row i belongs to row i of x.
        temperature: tau > 0, a number or a tensor that may need a gradient (SigLIP starts at 0.1).
        bias: b, a number or a tensor that may need a gradient (SigLIP starts at -10).
        ranks: the processes over which the batch is sharded; see `symmetric_infonce`.

    Returns:
        The loss in nats, a scalar: the sum over all n^2 questions, divided by n.

    Raises:
        InputError: for anything but two equal-sized, finite, floating-point matrices of two rows or more.

    >>> x = torch.eye(2)
    >>> round(sigmoid_loss(x, x, temperature=1.0, bias=0.0).item(), 4)  # log(1 + exp(-1)) + log 2
    1.0064
    """
    if ranks is not None:
        return _sharded_loss(x, y, temperature, bias, ranks)
    scale, offset, _ = _checked(x, y, temperature, bias)
    check_has_negatives(len(x))
    rest = softplus_sum(x, y, inverse_temperature=scale, bias=offset, exclusion=OwnRow())
    return ((_own_pairs(x, y, scale, offset) + rest) / len(x)).to(result_dtype(x, y))


def _checked(x: Tensor, y: Tensor, temperature: float | Tensor, bias: float | Tensor) -> tuple[Tensor, Tensor, float]:
    check_shapes(x, y)
    check_paired(x, y)
    scale = checked_inverse_temperature(temperature, x.device)
    return scale, checked_bias(bias, x.device), checked_bound(x, y, scale)


def _own_pairs(x: Tensor, y: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """What the true pairs contribute: the sum of -log sigmoid(score)."""
    return softplus(-(row_scores(x, y, scale) + offset), threshold=40.0).sum()


def _sharded_loss(x: Tensor, y: Tensor, temperature: float | Tensor, bias: float | Tensor, ranks: Ranks) -> Tensor:
    """The loss of the whole batch, of which this rank holds a shard: the same value on every rank."""
    ready: list[tuple[Tensor, Tensor, float]] = []

    def check() -> tuple[Any, ...]:
        ready.append(_checked(x, y, temperature, bias))
        scale, offset, bound = ready[0]
        needs = (torch.is_grad_enabled(), *(t.requires_grad for t in (x, y, scale, offset)))
        settings = {"temperature": 1 / scale.item(), "bias": offset.item(), "exchange": ranks.exchange}
        return bound, *check_ranks_alike(x, **settings, gradients=needs)

    bounds, sizes = agree(ranks, check, lambda: len(x))
    check_has_negatives(sum(sizes))
    scale, offset = (replicated(t, ranks) for t in ready[0][:2])
    shards = Shards(ranks, sizes, max(bounds))
    rest = sharded_softplus_sum(x, y, inverse_temperature=scale, bias=offset, shards=shards)
    total = sum_over_ranks(_own_pairs(x, y, scale, offset) + rest, ranks)
    return (total / shards.total).to(result_dtype(x, y))


def checked_bias(bias: float | Tensor, device: torch.device) -> Scalar:
    """The bias in double precision on the rows' device; raises InputError unless it is one finite number."""
    value = bias if isinstance(bias, Tensor) else torch.tensor(bias, dtype=torch.float64)
    if value.numel() != 1 or not math.isfinite(float(value.detach())):
        raise InputError("bias must be a single finite number (SigLIP starts at -10)")
    return value.to(device=device, dtype=torch.float64).reshape(())


class SigmoidLoss(TemperedLoss):
    """SigLIP's loss with its temperature and bias, both learned by default and neither clamped, as in the paper.

    Args:
        temperature: tau, or where it starts.
        bias: b, or where it starts.
        learn_temperature: learn log(1/tau).
        learn_bias: learn b.
        ranks: the processes over which a batch is sharded; see `symmetric_infonce`.

    >>> loss = SigmoidLoss()
    >>> sorted(name for name, _ in loss.named_parameters())
    ['bias', 'log_scale']
    """

    def __init__(
        self,
        temperature: float = 0.1,
        bias: float = -10.0,
        *,
        learn_temperature: bool = True,
        learn_bias: bool = True,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(temperature, learn_temperature=learn_temperature, limits=None)
        self.ranks = ranks
        value = checked_bias(bias, torch.device("cpu")).to(torch.get_default_dtype())
        self.bias: Tensor
        if learn_bias:
            self.bias = nn.Parameter(value)
        else:
            self.register_buffer("bias", value)

    def forward(self, x: Rows, y: Rows) -> Scalar:
        """The loss of one batch: (n, d), (n, d) -> scalar."""
        return sigmoid_loss(x, y, temperature=self.temperature, bias=self.bias, ranks=self.ranks)


__all__ = ["SigmoidLoss", "sigmoid_loss"]
