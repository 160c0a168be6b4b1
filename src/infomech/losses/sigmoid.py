"""The sigmoid loss (SigLIP): every pair of the batch is a yes-or-no question of its own."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from .._checks import InputError
from .._typing import Rows, Scalar
from ..geometry import Critic
from ..reductions.exclusion import OwnRow
from ..reductions.losses.backends import Backend
from ..reductions.losses.infonce import row_scores
from ..reductions.losses.sigmoid import softplus_sum
from ._inputs import (
    Check,
    Extent,
    check_gradients_fit,
    check_has_negatives,
    check_paired,
    check_shapes,
    check_tensor,
    checked_backend,
    checked_extent,
    checked_inverse_temperature,
    finished,
    looks,
    result_dtype,
    unit_rows,
    widened,
)
from .distributed import Local, Ranks, Shards, agree, check_ranks_alike, replicated, sum_over_ranks
from .scores import PairScores, added, pair_scores
from .sharded import sharded_softplus_sum
from .temperature import TemperedLoss, starting_temperature


def sigmoid_loss(
    x: Rows,
    y: Rows,
    *,
    temperature: float | Tensor | None = None,
    bias: float | Tensor,
    logit_scale: float | Tensor | None = None,
    critic: Critic | None = None,
    log_weights_x: Float[Tensor, " n"] | None = None,
    log_weights_y: Float[Tensor, " n"] | None = None,
    normalize: bool = False,
    ranks: Ranks | None = None,
    check: Check = "always",
    backend: Backend = "auto",
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
        logit_scale: 1/tau, in place of the temperature.
        critic: s(x, y), `infomech.Cosine()` by default.
        log_weights_x: (n,) log-weights u of the rows of x as negatives, in nats; -inf removes a row as a negative. They
            may need a gradient.
        log_weights_y: (n,) log-weights v of the rows of y.
        normalize: bring the rows to unit length first.
        ranks: the processes over which the batch is sharded; see `symmetric_infonce`.
        check: ``"always"`` or ``"never"``, when values are looked at; see `symmetric_infonce`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.

    Returns:
        The loss in nats, a scalar: the sum over all n^2 questions, divided by n.

    Raises:
        InputError: for anything but two equal-sized, finite, floating-point matrices of two rows or more.

    >>> x = torch.eye(2)
    >>> round(sigmoid_loss(x, x, temperature=1.0, bias=0.0).item(), 4)  # log(1 + exp(-1)) + log 2
    1.0064
    """
    weights = (log_weights_x, log_weights_y)
    request = SigmoidRequest(temperature, logit_scale, bias, critic, *weights, normalize, check, backend=backend)
    return sigmoid_of(x, y, request, ranks)


@dataclass(frozen=True)
class SigmoidRequest:
    """What is wanted of a batch besides its rows."""

    temperature: float | Tensor | None
    logit_scale: float | Tensor | None
    bias: float | Tensor
    critic: Critic | None = None
    log_weights_x: Tensor | None = None
    log_weights_y: Tensor | None = None
    normalize: bool = False
    check: Check = "always"
    backend: Backend = "auto"
    fewest: int = 2  # pairs of a batch; one pair alone has its own question


def sigmoid_of(x: Tensor, y: Tensor, request: SigmoidRequest, ranks: Ranks | None) -> Scalar:
    """The loss as it is asked for."""
    if ranks is not None:
        return _sharded_loss(x, y, request, ranks)
    look = looks(request.check, x, y)
    ready = _checked(x, y, request, look=look)
    check_has_negatives(x.shape[0] + 2 - request.fewest)
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(ready.extent.wide, ready.x, ready.y)
    scores, x_terms, y_terms = _terms(x, y, request, ready.inverse_temperature, ready.bias, look=look)
    rest = softplus_sum(
        x, y, scale=scores.scale, x_terms=x_terms, y_terms=y_terms, exclusion=OwnRow(), backend=request.backend
    )
    return finished(
        (_own_pairs(x, y, scores, ready.bias, request.backend) + rest) / x.shape[0], dtype, look=ready.extent.wide
    )


@dataclass(frozen=True)
class _Ready:
    """The rows and what of the rest is one number, checked and converted."""

    x: Tensor
    y: Tensor
    inverse_temperature: Tensor
    bias: Tensor
    extent: Extent


def _checked(x: Tensor, y: Tensor, request: SigmoidRequest, *, of_a_part: bool = False, look: bool = True) -> _Ready:
    check_shapes(x, y, empty=of_a_part)
    checked_backend(request.backend, x, ranks=of_a_part)
    check_paired(x, y)
    if request.normalize:
        x, y = unit_rows(x), unit_rows(y)
    inverse = checked_inverse_temperature(request.temperature, x.device, request.logit_scale, look=look)
    bias = checked_bias(request.bias, x.device, look=look)
    scale = inverse if request.critic is None else request.critic.slope * inverse
    extent = checked_extent(x, y, scale, look=look)
    given = request.temperature if request.logit_scale is None else request.logit_scale
    check_gradients_fit(extent, (x, y), given)
    return _Ready(x, y, inverse, bias, extent)


def _terms(
    x: Tensor, y: Tensor, request: SigmoidRequest, inverse_temperature: Tensor, bias: Tensor, *, look: bool = True
) -> tuple[PairScores, Tensor | None, Tensor]:
    """The scores, and what is added to a negative pair's by its row of x and by its row of y, which has the bias."""
    weights = (request.log_weights_x, request.log_weights_y)
    critic = request.critic
    scores = pair_scores(x, y, critic=critic, inverse_temperature=inverse_temperature, log_weights=weights, look=look)
    y_terms = added(bias.repeat(y.shape[0]), scores.negative_y)
    assert y_terms is not None
    return scores, scores.negative_x, y_terms


def _own_pairs(x: Tensor, y: Tensor, scores: PairScores, bias: Tensor, backend: Backend = "tiles") -> Tensor:
    """What the true pairs contribute: the sum of -log sigmoid(score)."""
    score = added(row_scores(x, y, scores.scale, backend), scores.own_x, scores.own_y, bias)
    assert score is not None
    return softplus(-score, threshold=40.0).sum()


def _sharded_loss(x: Tensor, y: Tensor, request: SigmoidRequest, ranks: Ranks) -> Tensor:
    """The loss of the whole batch, of which this rank holds a shard: the same value on every rank."""

    def check() -> Local[_Ready]:
        ready = _checked(x, y, request, of_a_part=True)
        _, *terms = _terms(ready.x, ready.y, request, ready.inverse_temperature, ready.bias)
        tensors = (ready.x, ready.y, ready.inverse_temperature, *terms)
        shared = check_ranks_alike(
            x,
            y,
            temperature=1 / ready.inverse_temperature.item(),
            bias=ready.bias.item(),
            critic=str(request.critic),
            log_weights=(request.log_weights_x is not None, request.log_weights_y is not None),
            exchange=ranks.exchange,
            gradients=(torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors)),
        )
        return Local(ready, len(x), shared, {"norm": ready.extent.largest})

    agreed = agree(ranks, check)
    ready = agreed.value
    extent = Extent(agreed.largest["norm"], ready.extent.scale)
    check_has_negatives(sum(agreed.sizes) + 2 - request.fewest)
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(extent.wide, ready.x, ready.y)
    scale, bias = (replicated(t, ranks) for t in (ready.inverse_temperature, ready.bias))
    shards = Shards(ranks, agreed.sizes, extent.bound)
    scores, x_terms, y_terms = _terms(x, y, request, scale, bias)
    rest = sharded_softplus_sum(x, y, scale=scores.scale, x_terms=x_terms, y_terms=y_terms, shards=shards)
    total = sum_over_ranks(_own_pairs(x, y, scores, bias) + rest, ranks)
    return finished(total / shards.total, dtype, look=extent.wide)


_LARGEST_BIAS = 1e30  # what float32 tiles can add to scores


def checked_bias(bias: float | Tensor, device: torch.device, *, look: bool = True) -> Scalar:
    """The bias in double precision on the rows' device; raises InputError unless it is one finite number."""
    if not isinstance(bias, Tensor | float | int):
        check_tensor(bias, "bias")
    value = bias if isinstance(bias, Tensor) else torch.full((), bias, dtype=torch.float64, device=device)
    look = look or not (isinstance(bias, Tensor) or torch.compiler.is_compiling())
    number = (bias.detach().item() if isinstance(bias, Tensor) else bias) if look and value.numel() == 1 else 0.0
    if value.numel() != 1 or not abs(number) <= _LARGEST_BIAS:
        raise InputError("bias must be a single finite number (SigLIP starts at -10)")
    return value.to(device=device, dtype=torch.float64).reshape(())


class SigmoidLoss(TemperedLoss):
    """SigLIP's loss with its temperature and bias, both learned by default and neither clamped, as in the paper.

    Args:
        temperature: tau, or where it starts; 0.1 unless `logit_scale` is given.
        bias: b, or where it starts.
        learn_temperature: learn log(1/tau).
        learn_bias: learn b.
        logit_scale: 1/tau, in place of `temperature`.
        critic: s(x, y); see `sigmoid_loss`.
        normalize: bring the rows to unit length first. Without it rows of another length are said once.
        ranks: the processes over which a batch is sharded; see `symmetric_infonce`.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.

    >>> loss = SigmoidLoss()
    >>> sorted(name for name, _ in loss.named_parameters())
    ['bias', 'log_scale']
    """

    def __init__(
        self,
        temperature: float | None = None,
        bias: float = -10.0,
        *,
        learn_temperature: bool = True,
        learn_bias: bool = True,
        logit_scale: float | None = None,
        critic: Critic | None = None,
        normalize: bool = False,
        ranks: Ranks | None = None,
        check: Check = "first",
        backend: Backend = "auto",
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.1)
        settings: dict[str, Any] = {"critic": critic, "normalize": normalize, "check": check, "backend": backend}
        super().__init__(start, learn_temperature=learn_temperature, limits=None, **settings)
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
        self._begin(x, y)

        def loss(check: Check) -> tuple[Scalar, None]:
            value = sigmoid_loss(
                x,
                y,
                temperature=self.temperature,
                bias=self.bias,
                critic=self.critic,
                log_weights_x=log_weights_x,
                log_weights_y=log_weights_y,
                normalize=self.normalize,
                ranks=self.ranks,
                check=check,
                backend=self.backend,
            )
            return value, None

        return self._end(self._looked_after(loss, x, y, ranks=self.ranks)[0])


__all__ = ["SigmoidLoss", "SigmoidRequest", "sigmoid_loss", "sigmoid_of"]
