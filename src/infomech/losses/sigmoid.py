"""The sigmoid loss (SigLIP): every pair of the batch is a yes-or-no question of its own."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from .._checks import InputError
from .._typing import Rows, Scalar
from ..geometry import Critic
from ..reductions.exclusion import OwnRow
from ..reductions.losses.infonce import row_scores
from ..reductions.losses.sigmoid import softplus_sum
from ._inputs import (
    check_has_negatives,
    check_paired,
    check_shapes,
    checked_bound,
    checked_inverse_temperature,
    result_dtype,
)
from .distributed import Local, Ranks, Shards, agree, check_ranks_alike, replicated, sum_over_ranks
from .scores import PairScores, added, pair_scores
from .sharded import sharded_softplus_sum
from .temperature import TemperedLoss


def sigmoid_loss(
    x: Rows,
    y: Rows,
    *,
    temperature: float | Tensor,
    bias: float | Tensor,
    critic: Critic | None = None,
    log_weights_x: Float[Tensor, " n"] | None = None,
    log_weights_y: Float[Tensor, " n"] | None = None,
    ranks: Ranks | None = None,
) -> Scalar:
    """The sigmoid loss of Zhai et al. 2023, in memory O(n d).

        L = -(1/n) sum_ij log sigmoid(z_ij (x_i.y_j / tau + b)),   z_ij = 1 if i = j, and -1 otherwise

    Another critic s(x, y) takes the place of x.y. With log-weights u of x and v of y the score of every *negative* pair
    (i, j) is s(x_i, y_j) / tau + b + u_i + v_j; true pairs stay as they are. Rows are used as they are: pass unit rows
    for the cosine critic. Logits and sums are float32 (float64 for float64 rows), one derivative, as in
    `symmetric_infonce`.

    Args:
        x: (n, d) embeddings of one modality, n >= 2.
        y: (n, d) embeddings of the other; row i belongs to row i of x.
        temperature: tau > 0, a number or a tensor that may need a gradient (SigLIP starts at 0.1).
        bias: b, a number or a tensor that may need a gradient (SigLIP starts at -10).
        critic: s(x, y), `infomech.Cosine()` by default.
        log_weights_x: (n,) log-weights u of the rows of x as negatives, in nats; -inf removes a row as a negative. They
            may need a gradient.
        log_weights_y: (n,) log-weights v of the rows of y.
        ranks: the processes over which the batch is sharded; see `symmetric_infonce`.

    Returns:
        The loss in nats, a scalar: the sum over all n^2 questions, divided by n.

    Raises:
        InputError: for anything but two equal-sized, finite, floating-point matrices of two rows or more.

    >>> x = torch.eye(2)
    >>> round(sigmoid_loss(x, x, temperature=1.0, bias=0.0).item(), 4)  # log(1 + exp(-1)) + log 2
    1.0064
    """
    request = _Request(temperature, bias, critic, log_weights_x, log_weights_y)
    if ranks is not None:
        return _sharded_loss(x, y, request, ranks)
    ready = _checked(x, y, request)
    check_has_negatives(len(x))
    scores, x_terms, y_terms = _terms(x, y, request, ready.inverse_temperature, ready.bias)
    rest = softplus_sum(x, y, scale=scores.scale, x_terms=x_terms, y_terms=y_terms, exclusion=OwnRow())
    return ((_own_pairs(x, y, scores, ready.bias) + rest) / len(x)).to(result_dtype(x, y))


@dataclass(frozen=True)
class _Request:
    """What is wanted of a batch besides its rows."""

    temperature: float | Tensor
    bias: float | Tensor
    critic: Critic | None
    log_weights_x: Tensor | None
    log_weights_y: Tensor | None


@dataclass(frozen=True)
class _Ready:
    """What of it is one number, checked and converted."""

    inverse_temperature: Tensor
    bias: Tensor
    bound: float


def _checked(x: Tensor, y: Tensor, request: _Request) -> _Ready:
    check_shapes(x, y)
    check_paired(x, y)
    scale = checked_inverse_temperature(request.temperature, x.device)
    return _Ready(scale, checked_bias(request.bias, x.device), checked_bound(x, y, scale))


def _terms(
    x: Tensor, y: Tensor, request: _Request, inverse_temperature: Tensor, bias: Tensor
) -> tuple[PairScores, Tensor | None, Tensor]:
    """The scores, and what is added to a negative pair's by its row of x and by its row of y, which has the bias."""
    weights = (request.log_weights_x, request.log_weights_y)
    scores = pair_scores(x, y, critic=request.critic, inverse_temperature=inverse_temperature, log_weights=weights)
    y_terms = added(bias.repeat(len(y)), scores.negative_y)
    assert y_terms is not None
    return scores, scores.negative_x, y_terms


def _own_pairs(x: Tensor, y: Tensor, scores: PairScores, bias: Tensor) -> Tensor:
    """What the true pairs contribute: the sum of -log sigmoid(score)."""
    score = added(row_scores(x, y, scores.scale), scores.own_x, scores.own_y, bias)
    assert score is not None
    return softplus(-score, threshold=40.0).sum()


def _sharded_loss(x: Tensor, y: Tensor, request: _Request, ranks: Ranks) -> Tensor:
    """The loss of the whole batch, of which this rank holds a shard: the same value on every rank."""

    def check() -> Local[_Ready]:
        ready = _checked(x, y, request)
        _, *terms = _terms(x, y, request, ready.inverse_temperature, ready.bias)
        tensors = (x, y, ready.inverse_temperature, *terms)
        shared = check_ranks_alike(
            x,
            temperature=1 / ready.inverse_temperature.item(),
            bias=ready.bias.item(),
            critic=str(request.critic),
            log_weights=(request.log_weights_x is not None, request.log_weights_y is not None),
            exchange=ranks.exchange,
            gradients=(torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors)),
        )
        return Local(ready, ready.bound, len(x), shared)

    ready, bounds, sizes = agree(ranks, check)
    check_has_negatives(sum(sizes))
    scale, bias = (replicated(t, ranks) for t in (ready.inverse_temperature, ready.bias))
    shards = Shards(ranks, sizes, max(bounds))
    scores, x_terms, y_terms = _terms(x, y, request, scale, bias)
    rest = sharded_softplus_sum(x, y, scale=scores.scale, x_terms=x_terms, y_terms=y_terms, shards=shards)
    total = sum_over_ranks(_own_pairs(x, y, scores, bias) + rest, ranks)
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
        critic: s(x, y); see `sigmoid_loss`.
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
        critic: Critic | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(temperature, learn_temperature=learn_temperature, limits=None)
        self.critic = critic
        self.ranks = ranks
        value = checked_bias(bias, torch.device("cpu")).to(torch.get_default_dtype())
        self.bias: Tensor
        if learn_bias:
            self.bias = nn.Parameter(value)
        else:
            self.register_buffer("bias", value)

    def forward(
        self,
        x: Rows,
        y: Rows,
        *,
        log_weights_x: Float[Tensor, " n"] | None = None,
        log_weights_y: Float[Tensor, " n"] | None = None,
    ) -> Scalar:
        """The loss of one batch: (n, d), (n, d) -> scalar."""
        return sigmoid_loss(
            x,
            y,
            temperature=self.temperature,
            bias=self.bias,
            critic=self.critic,
            log_weights_x=log_weights_x,
            log_weights_y=log_weights_y,
            ranks=self.ranks,
        )


__all__ = ["SigmoidLoss", "sigmoid_loss"]
