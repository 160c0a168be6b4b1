"""The symmetric InfoNCE loss (CLIP's), with a weight on the batch's cross-modal divergence."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalar
from ..geometry import Critic
from ..reductions.exclusion import SameGroup
from ..reductions.losses.backends import Backend
from ..reductions.losses.infonce import PairedLogSums, paired_log_sums
from ._inputs import (
    NO_MEAN,
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
    checked_weights,
    finished,
    kind_of,
    looks,
    result_dtype,
    unit_rows,
    weighted_mean,
    widened,
    without_values,
)
from .both_ways import BothWays, Groups, Partition, Weights, both_ways, check_divergence
from .distributed import Local, Ranks, Shards, agree, check_ranks_alike, replicated, sum_over_ranks
from .negatives import FalseNegatives, Hardness
from .one_way import Guide, Reduction, SameGroupIs, Terms
from .positives import Several
from .schedules import DivergenceController, WeightSchedule
from .scores import PairScores, pair_scores
from .sharded import sharded_log_sums
from .temperature import TemperedLoss, starting_temperature


class SymmetricTerms(NamedTuple):
    """The two parts of the controlled loss, in nats: loss = infonce + lambda divergence."""

    infonce: Scalar
    divergence: Scalar | None  # Dsym of the batch; None if it was not asked for


def symmetric_infonce(
    x: Rows,
    y: OtherRows,
    *,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    divergence_weight: float | Tensor = 0.0,
    critic: Critic | None = None,
    weights: Weights | None = None,
    log_weights_x: Float[Tensor, " n"] | None = None,
    log_weights_y: Float[Tensor, " m"] | None = None,
    weigh_positive: bool = False,
    pairs: Int[Tensor, "p 2"] | None = None,
    groups: Groups | None = None,
    same_group: SameGroupIs = "exclude",
    several: Several = "mean_log",
    directions: tuple[str, ...] = ("xy", "yx"),
    partition: Partition = "per_direction",
    negatives_x: Float[Tensor, "... d"] | None = None,
    negatives_y: Float[Tensor, "... d"] | None = None,
    share_negatives: bool = False,
    hardness: Hardness | None = None,
    false_negatives: FalseNegatives | None = None,
    guide: Guide | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    normalize: bool = False,
    ranks: Ranks | None = None,
    check: Check = "always",
    backend: Backend = "auto",
) -> Scalar:
    """InfoNCE in both directions, plus lambda times the batch's symmetric divergence.

        L = (L_xy + L_yx) / 2 + lambda Dsym,   L_xy = -mean_i log softmax_j(x_i.y_j / tau)[i]
        Dsym = (D_XY + D_YX) / 2
        D_XY = mean_i [log mean_{j != i} exp(x_i.x_j / tau) - log mean_{j != i} exp(x_i.y_j / tau)]

    Another critic s(x, y) takes the place of x.y in all four sums. Log-weights u of x and v of y count a row exp(u_i)
    and exp(v_j) times wherever it is a *negative*,

        L_xy = -mean_i log [p_i / (p_i + sum_{j != i} exp(s(x_i, y_j) / tau + v_j))],   p_i = exp(s(x_i, y_i) / tau),

    so L_yx with u, and so the sums within modalities (total weights cancel in Dsym). ``weigh_positive=True`` adds v_i
    to the positive's score as well, u_i in L_yx. With v_j = -log Q(j), Q the frequency with which an item enters a
    batch, that is the log-Q correction of two-tower recommenders in its classical form (Yi et al. 2019), a softmax over
    s_ij / tau - log Q(j); without it the positive, which is there whatever Q is, stays as it is.

    Row i of ``x`` is paired with row i of ``y``; all other rows are negatives. **Rows are used as they are**: pass
    unit rows, as CLIP does, for the cosine critic; the value is exact for rows of any norm. Memory is O(n d), forward
    and backward. Logits and sums are float32 (float64 for float64 rows, and log-sums always), also under autocast and
    for half-precision rows, whose loss is returned in float32. One derivative: differentiating the gradient again
    raises an error. `torch.compile(fullgraph=True)` and `torch.export` take it as it is; ranks are a graph break.

    Args:
        x: (n, d) embeddings of one modality, n >= 2.
        y: (n, d) embeddings of the other.
        temperature: tau > 0, a number or a tensor that may need a gradient.
        logit_scale: 1/tau, in its place: what CLIP multiplies cosines by, exp of its parameter.
        divergence_weight: lambda; 0 is CLIP's loss, 3/4 is critical (T11), 1 replaces the cross-modal negatives of the
            energy by within-modality ones. A tensor may need a gradient.
        critic: s(x, y), `infomech.Cosine()` by default; `infomech.RBF(scale)` takes rows of any norm.
        weights: (n,) non-negative weights of the pairs as anchors; they may need a gradient.
        log_weights_x: (n,) log-weights u of the rows of x as negatives, in nats; -inf removes a row as a negative, and
            only as that. They may need a gradient.
        log_weights_y: (n,) log-weights v of the rows of y.
        weigh_positive: whether the positives' scores carry them too.
        pairs: (p, 2) rows (i, j) of x and y that belong together, where they are not row i with row i: m images and n
            captions, say. Each direction is the mean over its own anchors, and `weights` are then two, (of_x, of_y).
        groups: (n,) integers; pairs of equal number (captions of one image, say) are not each other's negatives, in
            all four sums. With `pairs`, or where x and y group differently, two of them, (of_x, of_y).
        same_group: ``"positive"`` makes all rows of one group each other's positives instead.
        several: what several positives of an anchor make of their shares, ``"mean_log"`` or ``"log_mean"``; see
            `infonce`, as for all that follow.
        directions: what stands in the softmaxes, some of ``"xy"`` (an x against all y), ``"yx"``, ``"xx"``, ``"yy"``.
        partition: ``"per_direction"``, a softmax for each, averaged; ``"joint"``, one softmax for a pair over all, as
            GTE's (Li et al. 2023) over four, in which the pair's own score stands in both cross-modal parts.
        negatives_x: explicit negatives of x's kind, which the rows of y meet: (k, d) shared, or (n, k, d).
        negatives_y: those of y's kind, hard negatives of queries, say.
        share_negatives: use every pair's explicit negatives for all pairs; a pair's own are still left out of ``"yy"``.
        hardness: a weight on hard negatives, `Hardness`.
        false_negatives: a filter for negatives that look like positives, `FalseNegatives`.
        guide: a guide model's rows for that filter, `Guide`.
        label_smoothing: the share of the label that is spread over all that stands in a softmax.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, the losses of the n pairs.
        normalize: bring the rows to unit length first.
        ranks: the processes over which the batch is sharded, `Ranks()` say: x and y are then this rank's rows, as many
            as it has, none (0, d) too. Every rank must make the call. The loss is that of the whole batch, on every
            rank, and so are the parameters' gradients once they are averaged over ranks, as DistributedDataParallel
            does; those of the temperature and of lambda are whole on every rank.
        check: when values are looked at, which a GPU must be waited for: ``"always"``, or ``"never"``, for rows known
            to be finite whose scores float32 holds. Compiled, exported and captured code looks at none; shapes are
            always checked, and ranks always check everything.
        backend: ``"auto"`` takes Triton kernels for rows on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.

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
    plain = isinstance(divergence_weight, Real) and divergence_weight == 0
    given = (pairs, negatives_x, negatives_y, hardness, false_negatives, guide)
    general = any(part is not None for part in given) or isinstance(groups, tuple) or label_smoothing != 0
    general = general or same_group != "exclude" or several != "mean_log" or reduction != "mean" or share_negatives
    value = None
    if general or directions != ("xy", "yx") or partition != "per_direction":
        wanted = BothWays(
            temperature,
            logit_scale,
            critic,
            weights,
            log_weights_x,
            log_weights_y,
            weigh_positive,
            pairs,
            groups,
            same_group,
            tuple(directions),
            partition,
            negatives_x,
            negatives_y,
            share_negatives=share_negatives,
            guide=guide,
            terms=Terms(several, hardness, false_negatives, label_smoothing, reduction),
            normalize=normalize,
            check=check,
            backend=backend,
        )
        checked_backend(backend, x, ranks=ranks is not None)
        value = both_ways(x, y, wanted, ranks)[0]
        if plain:
            return value
        check_divergence(wanted)
    assert not isinstance(groups, tuple)
    if isinstance(weights, tuple):
        raise InputError("weights of x and of y, two of them, go with pairs=; row i with row i has one")
    negatives = _Negatives(critic, log_weights_x, log_weights_y, weigh_positive, groups)
    request = _Request(
        temperature, logit_scale, not plain, divergence_weight, weights, negatives, normalize, check, backend
    )
    terms = _terms(x, y, request, ranks)
    return _combine(terms if value is None else SymmetricTerms(value, terms.divergence), divergence_weight)


@dataclass(frozen=True)
class _Negatives:
    """How a row counts as a negative."""

    critic: Critic | None
    log_weights_x: Tensor | None
    log_weights_y: Tensor | None
    weigh_positive: bool
    groups: Tensor | None


@dataclass(frozen=True)
class _Request:
    """What is wanted of a batch besides its rows."""

    temperature: float | Tensor | None
    logit_scale: float | Tensor | None
    divergence: bool
    divergence_weight: float | Tensor
    weights: Tensor | None
    negatives: _Negatives
    normalize: bool
    check: Check
    backend: Backend


@dataclass(frozen=True)
class _Checked:
    """The same and the rows, checked and converted, and how large they are."""

    x: Tensor
    y: Tensor
    inverse_temperature: Tensor
    divergence_weight: float
    extent: Extent
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
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    divergence: bool = True,
    critic: Critic | None = None,
    weights: Float[Tensor, " n"] | None = None,
    log_weights_x: Float[Tensor, " n"] | None = None,
    log_weights_y: Float[Tensor, " n"] | None = None,
    weigh_positive: bool = False,
    groups: Int[Tensor, " n"] | None = None,
    normalize: bool = False,
    ranks: Ranks | None = None,
    check: Check = "always",
    backend: Backend = "auto",
) -> SymmetricTerms:
    """The InfoNCE and the divergence of a batch by themselves; see `symmetric_infonce` for both.

    >>> terms = symmetric_terms(torch.eye(3), -torch.eye(3), temperature=1.0)
    >>> round(terms.infonce.item(), 4), terms.divergence.item()
    (1.862, 0.0)
    """
    negatives = _Negatives(critic, log_weights_x, log_weights_y, weigh_positive, groups)
    request = _Request(temperature, logit_scale, divergence, 0.0, weights, negatives, normalize, check, backend)
    return _terms(x, y, request, ranks)


def _terms(x: Tensor, y: Tensor, request: _Request, ranks: Ranks | None) -> SymmetricTerms:
    if ranks is not None:
        return _sharded_terms(x, y, request, ranks)
    look = looks(request.check, x, y)
    ready = _check(x, y, request, look=look)
    check_has_negatives(x.shape[0])
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(ready.extent.wide, ready.x, ready.y)
    scores = _scores(x, y, request.negatives, ready.inverse_temperature, look=look)
    sums = paired_log_sums(
        x,
        y,
        scale=scores.scale,
        score_bound=ready.extent.score_bound,
        x_terms=scores.negative_x,
        y_terms=scores.negative_y,
        within=request.divergence,
        backend=request.backend,
        exclusion=None if ready.groups is None else SameGroup(ready.groups, ready.groups),
    )
    if look and (ready.groups is not None or scores.may_remove):
        check_negatives(sums)
    infonce, gap = pair_terms(sums, scores.positives(weigh=request.negatives.weigh_positive))
    means = [None if part is None else weighted_mean(part, ready.weights) for part in (infonce, gap)]
    return _finished(means, dtype, wide=ready.extent.wide)


def _finished(means: list[Tensor | None], dtype: torch.dtype, *, wide: bool) -> SymmetricTerms:
    """The terms in the dtype of the result, which is looked at where large rows may leave it."""
    first, second = (None if mean is None else finished(mean, dtype, look=wide) for mean in means)
    assert first is not None
    return SymmetricTerms(first, second)


def _scores(
    x: Tensor, y: Tensor, negatives: _Negatives, inverse_temperature: Tensor, *, look: bool = True
) -> PairScores:
    return pair_scores(
        x,
        y,
        critic=negatives.critic,
        inverse_temperature=inverse_temperature,
        log_weights=(negatives.log_weights_x, negatives.log_weights_y),
        finite=negatives.weigh_positive,
        look=look,
    )


def _check(x: Tensor, y: Tensor, request: _Request, *, of_a_part: bool = False, look: bool = True) -> _Checked:
    """Raise InputError unless everything can be used; `of_a_part`: these are the rows of one rank, perhaps none.

    Without a `look` at values only shapes and kinds are checked.
    """
    check_shapes(x, y, empty=of_a_part)
    checked_backend(request.backend, x, ranks=of_a_part)
    check_paired(x, y)
    if request.normalize:
        x, y = unit_rows(x), unit_rows(y)
    inverse_temperature = checked_inverse_temperature(request.temperature, x.device, request.logit_scale, look=look)
    groups = request.negatives.groups
    weight = _checked_weight(request.divergence_weight, look=look)
    if groups is not None:
        check_tensor(groups, "groups")
        if tuple(groups.shape) != (x.shape[0],):
            raise InputError(f"groups has shape {tuple(groups.shape)}; expected one number a pair: ({x.shape[0]},)")
        groups = groups.to(x.device)
    weights = checked_weights(request.weights, x.shape[0], x.device, of_a_part=of_a_part, look=look)
    critic = request.negatives.critic
    scale = inverse_temperature if critic is None else critic.slope * inverse_temperature
    extent = checked_extent(x, y, scale, look=look)
    given = request.temperature if request.logit_scale is None else request.logit_scale
    check_gradients_fit(extent, (x, y), given)
    return _Checked(x, y, inverse_temperature, weight, extent, weights, groups)


def _checked_weight(weight: float | Tensor, *, look: bool) -> float:
    """Lambda as a number, where one may look; raises InputError unless it is a finite one."""
    one = isinstance(weight, Tensor) and weight.numel() == 1
    if not look and (one or not isinstance(weight, Tensor)):
        return math.nan  # looked at by nobody
    number = weight.item() if isinstance(weight, Tensor) and one else weight
    if not (isinstance(number, Real) and math.isfinite(number)):
        shown = number if isinstance(number, Real) else kind_of(number)
        raise InputError(f"divergence_weight is {shown}; it must be a finite number (0 is CLIP, 0.75 is critical)")
    return float(number)


def _sharded_terms(x: Tensor, y: Tensor, request: _Request, ranks: Ranks) -> SymmetricTerms:
    """The terms of the whole batch, of which this rank holds a shard: the same value on every rank."""
    negatives = request.negatives

    def check() -> Local[_Checked]:
        ready = _check(x, y, request, of_a_part=True)
        scores = _scores(ready.x, ready.y, negatives, ready.inverse_temperature)
        tensors = (ready.x, ready.y, ready.inverse_temperature, scores.negative_x, scores.negative_y)
        needs = (torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors))
        shared = check_ranks_alike(
            x,
            y,
            temperature=1 / ready.inverse_temperature.item(),
            divergence_weight=ready.divergence_weight,
            divergence=request.divergence,
            critic=str(negatives.critic),
            weights=ready.weights is not None,
            log_weights=(negatives.log_weights_x is not None, negatives.log_weights_y is not None),
            weigh_positive=negatives.weigh_positive,
            groups=None if ready.groups is None else str(ready.groups.dtype),
            exchange=ranks.exchange,
            gradients=needs,
        )
        heaviest = 1.0 if ready.weights is None else float(ready.weights.detach().max()) if len(x) else 0.0
        return Local(ready, len(x), shared, {"norm": ready.extent.largest, "weight": heaviest})

    agreed = agree(ranks, check)
    ready, heaviest = agreed.value, agreed.largest["weight"]
    extent = Extent(agreed.largest["norm"], ready.extent.scale)
    check_has_negatives(sum(agreed.sizes))
    if heaviest <= 0:
        raise InputError(NO_MEAN)
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(extent.wide, ready.x, ready.y)
    scores = _scores(x, y, negatives, replicated(ready.inverse_temperature, ranks))
    sums = sharded_log_sums(
        x,
        y,
        scale=scores.scale,
        x_terms=scores.negative_x,
        y_terms=scores.negative_y,
        shards=Shards(ranks, agreed.sizes, extent.bound),
        within=request.divergence,
        groups=ready.groups,
    )
    if ready.groups is not None or scores.may_remove:

        def check_all_have_negatives() -> Local[None]:
            check_negatives(sums)
            return Local(None, len(x), [])

        agree(ranks, check_all_have_negatives)
    infonce, gap = pair_terms(sums, scores.positives(weigh=negatives.weigh_positive))
    anchors = torch.ones_like(infonce) if ready.weights is None else ready.weights / heaviest
    totals = [(anchors * part).sum() for part in (infonce, gap) if part is not None]
    *numerators, weight = sum_over_ranks(torch.stack([*totals, anchors.sum()]), ranks)
    means: list[Tensor | None] = [part / weight for part in numerators]
    return _finished([means[0], means[1] if request.divergence else None], dtype, wide=extent.wide)


def pair_terms(
    sums: PairedLogSums, positive_terms: tuple[Tensor | None, Tensor | None] = (None, None)
) -> tuple[Tensor, Tensor | None]:
    """Each pair's InfoNCE and its share of Dsym: the same points stand in every sum, so counts and weights cancel.

    `positive_terms` are added to the positives' scores, x to y and y to x. An anchor's own term stands on both sides
    of every difference here, and cancels as well.
    """
    # log(1 + negatives / positive) keeps its digits when the loss is small; log(all) - positive does not.
    one_way, other_way = (
        torch.logaddexp(rest - (sums.positive if term is None else sums.positive + term), torch.zeros_like(rest))
        for rest, term in zip((sums.x_to_y, sums.y_to_x), positive_terms, strict=True)
    )
    infonce = (one_way + other_way) / 2
    if sums.x_to_x is None or sums.y_to_y is None:
        return infonce, None
    return infonce, (sums.x_to_x - sums.x_to_y + sums.y_to_y - sums.y_to_x) / 2


def check_negatives(sums: PairedLogSums) -> None:
    """Raise InputError if a row has no negative at all."""
    lonely = torch.nonzero(torch.minimum(sums.x_to_y, sums.y_to_x).detach() == -math.inf).flatten()
    if len(lonely):
        raise InputError(
            f"pair {int(lonely[0])} has no negative: its group is the whole batch, or log-weights of -inf remove the "
            "others; every batch needs two groups or more"
        )


class SymmetricInfoNCE(TemperedLoss):
    """CLIP's loss with a knob for the modality gap: `symmetric_infonce` with its temperature and weight.

    Args:
        temperature: tau, or its initial value when learned; 0.07 unless `logit_scale` is given.
        divergence_weight: lambda, a number or a schedule from `infomech.losses` (`LinearWarmup`,
            `DivergenceController`). A schedule moves by one step for every call in training mode, once the backward of
            that call is done; after `follow(optimizer)`, by one for every step of the optimizer.
        learn_temperature: learn log(1/tau), starting at `temperature`. tau stays within [0.01, 1], as CLIP's does, and
            keeps its gradient at either end; see `TemperedLoss`.
        logit_scale: 1/tau, in place of `temperature`.
        critic: s(x, y); see `symmetric_infonce`, as for the three below.
        weigh_positive: whether the positives' scores carry the log-weights too.
        normalize: bring the rows to unit length first. Without it rows of another length are said once.
        ranks: the processes over which a batch is sharded.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.

    A schedule that moves is a graph break for `torch.compile` in training mode, as a step that follows the backward
    must be; everything else, a learned temperature too, compiles with ``fullgraph=True``.

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
        temperature: float | None = None,
        divergence_weight: float | WeightSchedule = 0.0,
        learn_temperature: bool = False,
        *,
        logit_scale: float | None = None,
        critic: Critic | None = None,
        weigh_positive: bool = False,
        normalize: bool = False,
        ranks: Ranks | None = None,
        check: Check = "first",
        backend: Backend = "auto",
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.07)
        super().__init__(
            start, learn_temperature=learn_temperature, critic=critic, normalize=normalize, check=check, backend=backend
        )
        self.weigh_positive = weigh_positive
        self.ranks = ranks
        self.divergence_weight = divergence_weight

    def forward(
        self,
        x: Rows,
        y: Rows,
        *,
        weights: Float[Tensor, " n"] | None = None,
        log_weights_x: Float[Tensor, " n"] | None = None,
        log_weights_y: Float[Tensor, " n"] | None = None,
        groups: Int[Tensor, " n"] | None = None,
    ) -> Scalar:
        """The loss of one batch: (n, d), (n, d) -> scalar."""
        self._begin(x, y)
        weight, divergence = self._weight_of_now(x, y)
        negatives = _Negatives(self.critic, log_weights_x, log_weights_y, self.weigh_positive, groups)

        def loss(check: Check) -> tuple[Scalar, Scalar | None]:
            request = _Request(
                self.temperature, None, divergence, weight, weights, negatives, self.normalize, check, self.backend
            )
            terms = _terms(x, y, request, self.ranks)
            return _combine(terms, weight), terms.divergence

        return self._end(*self._looked_after(loss, x, y, ranks=self.ranks))

    def _weight_of_now(self, x: Rows, y: Rows) -> tuple[float | Tensor, bool]:
        """Lambda, and whether Dsym is wanted."""
        schedule = self.divergence_weight
        if not isinstance(schedule, WeightSchedule):
            return schedule, schedule != 0
        if without_values(x, y):
            return schedule.weight_tensor(), True
        weight = schedule.weight()
        return weight, weight != 0 or isinstance(schedule, DivergenceController)

    @property
    def _moves(self) -> bool:
        return isinstance(self.divergence_weight, WeightSchedule)

    def _advance(self, seen: list[Tensor | None]) -> None:
        schedule = self.divergence_weight
        assert isinstance(schedule, WeightSchedule)
        known = [float(divergence) for divergence in seen if divergence is not None]
        schedule.advance(sum(known) / len(known) if known else None)


__all__ = ["SymmetricInfoNCE", "SymmetricTerms", "symmetric_infonce", "symmetric_terms"]
