"""The symmetric InfoNCE loss (CLIP's), with a weight on the batch's cross-modal divergence."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError
from .._typing import Rows, Scalar
from ..reductions.losses.infonce import PairedLogSums, paired_log_sums
from ..reductions.losses.tiles import SameGroup
from ._inputs import (
    check_has_negatives,
    check_paired,
    check_shapes,
    checked_bound,
    checked_inverse_temperature,
    checked_weights,
    result_dtype,
    weighted_mean,
)
from .distributed import Ranks, Shards, agree, check_ranks_alike, replicated, sum_over_ranks
from .schedules import DivergenceController, WeightSchedule
from .sharded import sharded_log_sums
from .temperature import TemperedLoss


class SymmetricTerms(NamedTuple):
    """The two parts of the controlled loss, in nats: loss = infonce + lambda divergence."""

    infonce: Scalar
    divergence: Scalar | None  # Dsym of the batch; None if it was not asked for


def symmetric_infonce(
    x: Rows,
    y: Rows,
    *,
    temperature: float | Tensor,
    divergence_weight: float | Tensor = 0.0,
    weights: Float[Tensor, " n"] | None = None,
    groups: Int[Tensor, " n"] | None = None,
    ranks: Ranks | None = None,
) -> Scalar:
    """InfoNCE in both directions, plus lambda times the batch's symmetric divergence.

        L = (L_xy + L_yx) / 2 + lambda Dsym,   L_xy = -mean_i log softmax_j(x_i.y_j / tau)[i]
        Dsym = (D_XY + D_YX) / 2
        D_XY = mean_i [log mean_{j != i} exp(x_i.x_j / tau) - log mean_{j != i} exp(x_i.y_j / tau)]

    Row i of ``x`` is paired with row i of ``y``; all other rows are negatives. **Rows are used as they are**: pass
    unit rows, as CLIP does, for the cosine critic; the value is exact for rows of any norm. Memory is O(n d), forward
    and backward. Logits and sums are float32 (float64 for float64 rows, and log-sums always), also under autocast and
    for half-precision rows, whose loss is returned in float32. One derivative: differentiating the gradient again
    raises an error. Under `torch.compile` the tiles are a graph break.

    Args:
        x: (n, d) embeddings of one modality, n >= 2.
        y: (n, d) embeddings of the other.
        temperature: tau > 0, a number or a tensor that may need a gradient.
        divergence_weight: lambda; 0 is CLIP's loss, 3/4 is critical (T11), 1 replaces the cross-modal negatives of the
            energy by within-modality ones. A tensor may need a gradient.
        weights: (n,) non-negative weights of the pairs as anchors; they may need a gradient. Negatives are unweighted.
        groups: (n,) integers; pairs of equal number (captions of one image, say) are not each other's negatives, in
            all four sums.
        ranks: the processes over which the batch is sharded, `Ranks()` say: x and y are then this rank's rows, as many
            as it has. Every rank must make the call. The loss is that of the whole batch, on every rank, and so are
            the parameters' gradients once they are averaged over ranks, as DistributedDataParallel does; those of the
            temperature and of lambda are whole on every rank.

    Returns:
        The loss in nats, a scalar.

    Raises:
        InputError: for anything but two equal-sized, finite, floating-point matrices of two rows or more on one
            device, or a group that leaves its members no negative.

    Source: D7, E1, T11, C1.

    >>> x = torch.eye(3)
    >>> round(symmetric_infonce(x, x, temperature=1.0).item(), 4)  # log(1 + 2 exp(-1))
    0.5514
    >>> round(symmetric_infonce(x, -x, temperature=1.0, divergence_weight=1.0).item(), 4)  # log(1 + 2 e)
    1.862
    """
    plain = not isinstance(divergence_weight, Tensor) and divergence_weight == 0
    request = _Request(temperature, not plain, divergence_weight, weights, groups)
    return _combine(_terms(x, y, request, ranks), divergence_weight)


@dataclass(frozen=True)
class _Request:
    """What is wanted of a batch besides its rows."""

    temperature: float | Tensor
    divergence: bool
    divergence_weight: float | Tensor
    weights: Tensor | None
    groups: Tensor | None


@dataclass(frozen=True)
class _Checked:
    """The same, checked and converted, and a bound on every score."""

    inverse_temperature: Tensor
    divergence_weight: float
    bound: float
    weights: Tensor | None
    groups: Tensor | None


def _combine(terms: SymmetricTerms, divergence_weight: float | Tensor) -> Scalar:
    """The sum infonce + lambda divergence."""
    if terms.divergence is None:
        return terms.infonce
    if isinstance(divergence_weight, Tensor):
        divergence_weight = divergence_weight.to(terms.divergence).reshape(())
    return terms.infonce + divergence_weight * terms.divergence


def symmetric_terms(
    x: Rows,
    y: Rows,
    *,
    temperature: float | Tensor,
    divergence: bool = True,
    weights: Float[Tensor, " n"] | None = None,
    groups: Int[Tensor, " n"] | None = None,
    ranks: Ranks | None = None,
) -> SymmetricTerms:
    """The InfoNCE and the divergence of a batch by themselves; see `symmetric_infonce` for both.

    >>> terms = symmetric_terms(torch.eye(3), -torch.eye(3), temperature=1.0)
    >>> round(terms.infonce.item(), 4), terms.divergence.item()
    (1.862, 0.0)
    """
    return _terms(x, y, _Request(temperature, divergence, 0.0, weights, groups), ranks)


def _terms(x: Tensor, y: Tensor, request: _Request, ranks: Ranks | None) -> SymmetricTerms:
    if ranks is not None:
        return _sharded_terms(x, y, request, ranks)
    ready = _check(x, y, request)
    check_has_negatives(len(x))
    sums = paired_log_sums(
        x,
        y,
        inverse_temperature=ready.inverse_temperature,
        score_bound=ready.bound,
        within=request.divergence,
        exclusion=None if ready.groups is None else SameGroup(ready.groups, ready.groups),
    )
    if ready.groups is not None:
        check_negatives(sums.x_to_y)
    infonce, gap = pair_terms(sums)
    dtype = result_dtype(x, y)
    return SymmetricTerms(
        weighted_mean(infonce, ready.weights).to(dtype),
        None if gap is None else weighted_mean(gap, ready.weights).to(dtype),
    )


def _check(x: Tensor, y: Tensor, request: _Request) -> _Checked:
    """Raise InputError unless everything can be used."""
    check_shapes(x, y)
    check_paired(x, y)
    inverse_temperature = checked_inverse_temperature(request.temperature, x.device)
    weight, groups = request.divergence_weight, request.groups
    number = weight.item() if isinstance(weight, Tensor) and weight.numel() == 1 else weight
    if isinstance(number, Tensor) or not math.isfinite(number):
        raise InputError(f"divergence_weight is {number}; it must be finite (0 is CLIP, 0.75 is critical)")
    if groups is not None:
        if tuple(groups.shape) != (len(x),):
            raise InputError(f"groups has shape {tuple(groups.shape)}; expected one number a pair: ({len(x)},)")
        groups = groups.to(x.device)
    weights = checked_weights(request.weights, len(x))
    return _Checked(inverse_temperature, number, checked_bound(x, y, inverse_temperature), weights, groups)


def _sharded_terms(x: Tensor, y: Tensor, request: _Request, ranks: Ranks) -> SymmetricTerms:
    """The terms of the whole batch, of which this rank holds a shard: the same value on every rank."""
    checked: list[_Checked] = []

    def check() -> tuple[Any, ...]:
        ready = _check(x, y, request)
        checked.append(ready)
        needs = (torch.is_grad_enabled(), *(t.requires_grad for t in (x, y, ready.inverse_temperature)))
        return ready.bound, *check_ranks_alike(
            x,
            temperature=1 / ready.inverse_temperature.item(),
            divergence_weight=ready.divergence_weight,
            divergence=request.divergence,
            weights=ready.weights is not None,
            groups=None if ready.groups is None else str(ready.groups.dtype),
            exchange=ranks.exchange,
            gradients=needs,
        )

    bounds, sizes = agree(ranks, check, lambda: len(x))
    check_has_negatives(sum(sizes))
    (ready,) = checked
    sums = sharded_log_sums(
        x,
        y,
        inverse_temperature=replicated(ready.inverse_temperature, ranks),
        shards=Shards(ranks, sizes, max(bounds)),
        within=request.divergence,
        groups=ready.groups,
    )
    if ready.groups is not None:

        def check_groups() -> tuple[Any, ...]:
            check_negatives(sums.x_to_y)
            return (0.0,)

        agree(ranks, check_groups, lambda: len(x))
    infonce, gap = pair_terms(sums)
    anchors = torch.ones_like(infonce) if ready.weights is None else ready.weights
    totals = [(anchors * part).sum() for part in (infonce, gap) if part is not None]
    *numerators, weight = sum_over_ranks(torch.stack([*totals, anchors.sum()]), ranks)
    means = [(part / weight).to(result_dtype(x, y)) for part in numerators]
    return SymmetricTerms(means[0], means[1] if request.divergence else None)


def pair_terms(sums: PairedLogSums) -> tuple[Tensor, Tensor | None]:
    """Each pair's InfoNCE and its share of Dsym: the same number of points stands in every sum, so counts cancel."""
    # log(1 + negatives / positive) keeps its digits when the loss is small; log(all) - positive does not.
    one_way = torch.logaddexp(sums.x_to_y - sums.positive, torch.zeros_like(sums.positive))
    other_way = torch.logaddexp(sums.y_to_x - sums.positive, torch.zeros_like(sums.positive))
    infonce = (one_way + other_way) / 2
    if sums.x_to_x is None or sums.y_to_y is None:
        return infonce, None
    return infonce, (sums.x_to_x - sums.x_to_y + sums.y_to_y - sums.y_to_x) / 2


def check_negatives(log_sums: Tensor) -> None:
    """Raise InputError if a row has no negative at all."""
    lonely = torch.nonzero(log_sums.detach() == -math.inf).flatten()
    if len(lonely):
        raise InputError(
            f"pair {int(lonely[0])} has no negative: its group is the whole batch; every batch needs two groups or more"
        )


class SymmetricInfoNCE(TemperedLoss):
    """CLIP's loss with a knob for the modality gap: `symmetric_infonce` with its temperature and weight.

    Args:
        temperature: tau, or its initial value when learned.
        divergence_weight: lambda, a number or a schedule from `infomech.losses` (`LinearWarmup`,
            `DivergenceController`): a schedule moves by one step with every call in training mode.
        learn_temperature: learn log(1/tau), starting at `temperature`. Before every use it is clamped in place to
            [0, log 100], as CLIP does: tau stays within [0.01, 1] and keeps its gradient at either end.
        ranks: the processes over which a batch is sharded; see `symmetric_infonce`.

    Raises:
        InputError: if the temperature cannot be used, or cannot be learned from where it starts.

    Source: D7, T11, C1.

    >>> loss = SymmetricInfoNCE(temperature=0.07, divergence_weight=0.75)
    >>> x = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> bool(loss(x, x) > 0)
    True
    """

    def __init__(
        self,
        temperature: float = 0.07,
        divergence_weight: float | WeightSchedule = 0.0,
        learn_temperature: bool = False,
        *,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(temperature, learn_temperature=learn_temperature)
        self.ranks = ranks
        self.divergence_weight = divergence_weight

    def forward(
        self, x: Rows, y: Rows, *, weights: Float[Tensor, " n"] | None = None, groups: Int[Tensor, " n"] | None = None
    ) -> Scalar:
        """The loss of one batch: (n, d), (n, d) -> scalar."""
        schedule = self.divergence_weight if isinstance(self.divergence_weight, WeightSchedule) else None
        weight = schedule.weight() if schedule is not None else self.divergence_weight
        assert not isinstance(weight, WeightSchedule)
        divergence = weight != 0 or isinstance(schedule, DivergenceController)
        terms = _terms(x, y, _Request(self.temperature, divergence, weight, weights, groups), self.ranks)
        if schedule is not None and self.training:
            schedule.advance(None if terms.divergence is None else float(terms.divergence.detach()))
        return _combine(terms, weight)


__all__ = ["SymmetricInfoNCE", "SymmetricTerms", "symmetric_infonce", "symmetric_terms"]
