"""The sigmoid loss (SigLIP): every pair of the batch is a yes-or-no question of its own."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalar, Scalars
from ..geometry import Critic
from ..reductions.exclusion import Exclusion, SameGroup
from ..reductions.losses.backends import Backend, Precision, coded
from ..reductions.losses.sigmoid import softplus_row_sums, softplus_sum
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
from .agreement import Local, agree, check_ranks_alike, told
from .distributed import Ranks, Shards, replicated, sum_over_ranks
from .gathering import gathered
from .positives import joined
from .request import Groups, Reduction, SameGroupIs, Terms, check_same_group
from .scores import PairScores, pair_scores
from .sharded import sharded_softplus_sum
from .temperature import TemperedLoss, starting_temperature
from .true_pairs import CountedAs, OwnPairs, PairsOfGroups, TruePairs, check_counted_as, listed_pairs


def sigmoid_loss(
    x: Rows,
    y: OtherRows,
    *,
    temperature: float | Tensor | None = None,
    bias: float | Tensor,
    logit_scale: float | Tensor | None = None,
    critic: Critic | None = None,
    log_weights_x: Float[Tensor, " n"] | None = None,
    log_weights_y: Float[Tensor, " m"] | None = None,
    pairs: Int[Tensor, "p 2"] | None = None,
    groups: Groups | None = None,
    same_group: SameGroupIs = "exclude",
    counted_as: CountedAs = "each",
    reduction: Reduction = "mean",
    normalize: bool = False,
    ranks: Ranks | None = None,
    check: Check = "always",
    backend: Backend = "auto",
    precision: Precision | None = None,
) -> Scalars:
    """The sigmoid loss of Zhai et al. 2023, in memory O(n d).

        L = -(1/n) sum_ij log sigmoid(z_ij (x_i.y_j / tau + b)),   z_ij = 1 if i = j, and -1 otherwise

    Another critic s(x, y) takes the place of x.y. With log-weights u of x and v of y the score of every *negative* pair
    (i, j) is s(x_i, y_j) / tau + b + u_i + v_j; true pairs stay as they are. Rows are used as they are: pass unit rows
    for the cosine critic. Logits and sums are float32 (float64 for float64 rows), one derivative, as in
    `symmetric_infonce`.

    With several true pairs of a row (``pairs=``, or groups with ``same_group="positive"``; n rows of x, m of y)

        L = (1/n) [sum over true ij of w_ij log(1 + e^-z_ij) + sum over all other ij of log(1 + e^z_ij)]

    where z_ij is the score and ``counted_as`` the weight: ``"each"`` asks every true pair once, w = 1, the formula
    above; ``"per_anchor"`` gives a row's true pairs the weight of one between them, w_ij = (1/k_i + 1/k_j) / 2 with k
    the number of a row's true pairs (SigLIP+; siglip-kernel divides by n m where this divides by n). With one true
    pair a row they are the same. A row may have none: it is asked about its negatives only.

    Args:
        x: (n, d) embeddings of one modality, n >= 2.
        y: (n, d) embeddings of the other; row i belongs to row i of x. (m, d) with `pairs` or two `groups`.
        temperature: tau > 0, a number or a tensor that may need a gradient (SigLIP starts at 0.1).
        bias: b, a number or a tensor that may need a gradient (SigLIP starts at -10).
        logit_scale: 1/tau, in place of the temperature.
        critic: s(x, y), `infomech.Cosine()` by default.
        log_weights_x: (n,) log-weights u of the rows of x as negatives, in nats; -inf removes a row as a negative. They
            may need a gradient.
        log_weights_y: (m,) log-weights v of the rows of y.
        pairs: (p, 2) rows (i, j) of x and y that belong together, where they are not row i with row i; over ranks those
            of this rank.
        groups: (n,) integers, or two sets of them, (of_x, of_y): pairs of rows of one group are not asked about, but
            for true ones.
        same_group: ``"positive"`` makes them true pairs instead.
        counted_as: ``"each"`` or ``"per_anchor"``, what a true pair weighs where a row has several.
        reduction: ``"mean"``, over the rows of x, their ``"sum"``, or ``"none"``, what the questions about each row of
            x come to, with one product more.
        normalize: bring the rows to unit length first.
        ranks: the processes over which the batch is sharded; see `symmetric_infonce`. With pairs, groups or
            ``reduction="none"`` all rows of y are held, O(N d).
        check: ``"always"`` or ``"never"``, when values are looked at; see `symmetric_infonce`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

    Returns:
        The loss in nats, a scalar: the sum over all questions, divided by n; with ``reduction="none"`` (n,) of them.

    Raises:
        InputError: for anything but two finite, floating-point matrices of two rows or more, equal-sized unless pairs
            are named, or pairs outside of them.

    Source: Zhai et al. 2023 (2303.15343).

    >>> x = torch.eye(2)
    >>> round(sigmoid_loss(x, x, temperature=1.0, bias=0.0).item(), 4)  # log(1 + exp(-1)) + log 2
    1.0064
    """
    request = SigmoidRequest(
        temperature,
        logit_scale,
        bias,
        critic,
        log_weights_x,
        log_weights_y,
        normalize,
        check,
        pairs=pairs,
        groups=groups,
        same_group=same_group,
        counted_as=counted_as,
        reduction=reduction,
        backend=coded(backend, precision),
    )
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
    fewest: int = 2  # pairs of a batch; one pair alone has its own question
    pairs: Tensor | None = None
    groups: Groups | None = None
    same_group: SameGroupIs = "exclude"
    counted_as: CountedAs = "each"
    reduction: Reduction = "mean"
    backend: str = "auto"

    @property
    def one_to_one(self) -> bool:
        """Whether row i of x belongs to row i of y alone."""
        return self.pairs is None and self.same_group == "exclude"

    @property
    def plain(self) -> bool:
        """Whether all other pairs are negatives, too, and all of them are summed up."""
        return self.one_to_one and self.groups is None and self.reduction != "none"


def sigmoid_of(x: Tensor, y: Tensor, request: SigmoidRequest, ranks: Ranks | None) -> Scalars:
    """The loss as it is asked for."""
    if ranks is not None:
        return _sharded_loss(x, y, request, ranks)
    look = looks(request.check, x, y)
    ready = _checked(x, y, request, look=look)
    check_has_negatives(max(x.shape[0], y.shape[0]) + 2 - request.fewest)
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(ready.extent.wide, ready.x, ready.y)
    scores, x_terms, y_terms = _terms(x, y, request, ready.inverse_temperature, ready.bias, look=look)
    true, left_out = _questions(ready, request, None, look=look)
    of_y = y_terms if scores.log_weights_y is None else _with_bias(ready.bias, y, scores.own_y)
    terms: dict[str, Any] = {"scale": scores.scale, "x_terms": x_terms, "y_terms": y_terms, "exclusion": left_out}
    if request.reduction == "none":
        of_rows = true.of_rows(x, y, scores.scale, scores.own_x, of_y) + softplus_row_sums(
            x, y, backend=request.backend, **terms
        )
        return of_rows.to(dtype)
    total = true.total(x, y, scores.scale, scores.own_x, of_y) + softplus_sum(x, y, backend=request.backend, **terms)
    value = total if request.reduction == "sum" else total / x.shape[0]
    return finished(value, dtype, look=ready.extent.wide)


@dataclass(frozen=True)
class _Ready:
    """The rows and what of the rest is one number, checked and converted."""

    x: Tensor
    y: Tensor
    inverse_temperature: Tensor
    bias: Tensor
    extent: Extent
    groups: tuple[Tensor, Tensor] | None


def _checked(x: Tensor, y: Tensor, request: SigmoidRequest, *, of_a_part: bool = False, look: bool = True) -> _Ready:
    check_shapes(x, y, empty=of_a_part)
    checked_backend(request.backend, x)
    groups = _checked_groups(x, y, request)
    if request.normalize:
        x, y = unit_rows(x), unit_rows(y)
    inverse = checked_inverse_temperature(request.temperature, x.device, request.logit_scale, look=look)
    bias = checked_bias(request.bias, x.device, look=look)
    scale = inverse if request.critic is None else request.critic.slope * inverse
    extent = checked_extent(x, y, scale, look=look)
    given = request.temperature if request.logit_scale is None else request.logit_scale
    check_gradients_fit(extent, (x, y), given)
    return _Ready(x, y, inverse, bias, extent, groups)


def _checked_groups(x: Tensor, y: Tensor, request: SigmoidRequest) -> tuple[Tensor, Tensor] | None:
    """The groups of x and of y; raises InputError unless rows, pairs and groups go together."""
    check_same_group(request.same_group)
    check_counted_as(request.counted_as)
    Terms(reduction=request.reduction).check()
    if request.same_group == "positive" and (request.pairs is not None or request.groups is None):
        raise InputError("same_group='positive' names the true pairs by group: it needs groups, and no pairs")
    if request.one_to_one:
        check_paired(x, y)
    if request.groups is None:
        return None
    both = request.groups if isinstance(request.groups, tuple) else (request.groups, request.groups)
    for values, rows, name in zip(both, (x, y), ("x", "y"), strict=True):
        check_tensor(values, "groups")
        if tuple(values.shape) != (rows.shape[0],):
            raise InputError(
                f"groups of {name} has shape {tuple(values.shape)}; expected one number a row: ({rows.shape[0]},)"
            )
    return both[0].to(x.device), both[1].to(x.device)


def _questions(
    ready: _Ready, request: SigmoidRequest, shards: tuple[Shards, Shards] | None, *, look: bool
) -> tuple[TruePairs, Exclusion]:
    """The true pairs of these rows of x with all rows of y, and what the sweep over the negatives leaves out."""
    of_x, of_y = (None, None) if shards is None else shards
    groups = None if ready.groups is None else (ready.groups[0], gathered(ready.groups[1], of_y))
    true: TruePairs = OwnPairs(request.backend)
    if request.pairs is not None:
        n, m = ready.x.shape[0], ready.y.shape[0]
        true = listed_pairs(request.pairs, n, m, ready.x.device, request.counted_as, look=look)
    elif request.same_group == "positive":
        assert groups is not None
        every_row = gathered(groups[0], of_x) if request.counted_as == "per_anchor" else groups[0]
        found = PairsOfGroups(*groups, every_row, request.counted_as, request.backend)
        return found, found.exclusion()
    return true, true.exclusion() if groups is None else joined(true.exclusion(), SameGroup(*groups))


def _terms(
    x: Tensor, y: Tensor, request: SigmoidRequest, inverse_temperature: Tensor, bias: Tensor, *, look: bool = True
) -> tuple[PairScores, Tensor | None, Tensor]:
    """The scores, and what is added to a negative pair's by its row of x and by its row of y, which has the bias."""
    weights = (request.log_weights_x, request.log_weights_y)
    critic = request.critic
    scores = pair_scores(x, y, critic=critic, inverse_temperature=inverse_temperature, log_weights=weights, look=look)
    return scores, scores.negative_x, _with_bias(bias, y, scores.negative_y)


def _with_bias(bias: Tensor, y: Tensor, terms: Tensor | None) -> Tensor:
    """The bias for each row of y, and what else its scores gain."""
    of_rows = bias.repeat(y.shape[0])
    return of_rows if terms is None else of_rows + terms


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
            pairs=request.pairs is not None,
            groups=None if ready.groups is None else str(ready.groups[0].dtype),
            same_group=request.same_group,
            counted_as=request.counted_as,
            reduction=request.reduction,
            **{"backend/precision": request.backend},
            gradients=(torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors)),
        )
        if request.pairs is not None:
            listed_pairs(request.pairs, len(x), len(y), x.device, request.counted_as, look=True)
        return Local(ready, len(y), shared, {"norm": ready.extent.largest}, anchors=len(x))

    agreed = agree(ranks, check)
    ready = agreed.value
    extent = Extent(agreed.largest["norm"], ready.extent.scale)
    rows = sum(agreed.anchors)
    check_has_negatives(max(rows, sum(agreed.sizes)) + 2 - request.fewest)
    dtype = result_dtype(ready.x, ready.y)
    x, y = widened(extent.wide, ready.x, ready.y)
    scale, bias = (replicated(t, ranks) for t in (ready.inverse_temperature, ready.bias))
    of_x, of_y = (Shards(ranks, sizes, extent.bound) for sizes in (agreed.anchors, agreed.sizes))
    scores, x_terms, y_terms = _terms(x, y, request, scale, bias)
    own_y = _with_bias(bias, y, scores.own_y)
    if request.plain:
        true: TruePairs = OwnPairs(request.backend)
        given = partial(sharded_softplus_sum, x, y, scale=scores.scale, x_terms=x_terms, y_terms=y_terms)
        rest = given(shards=of_y, backend=request.backend)
    else:
        true, left_out = _questions(ready, request, (of_x, of_y), look=True)
        y, own_y, y_terms = (gathered(part, of_y) for part in (y, own_y, y_terms))
        terms: dict[str, Any] = {"scale": scores.scale, "x_terms": x_terms, "y_terms": y_terms, "exclusion": left_out}
        if request.reduction == "none":
            of_rows = true.of_rows(x, y, scores.scale, scores.own_x, own_y) + softplus_row_sums(
                x, y, backend=request.backend, **terms
            )
            return of_rows.to(dtype)
        rest = softplus_sum(x, y, backend=request.backend, **terms)
    total = sum_over_ranks(true.total(x, y, scores.scale, scores.own_x, own_y) + rest, ranks)
    return finished(total if request.reduction == "sum" else total / rows, dtype, look=extent.wide)


_LARGEST_BIAS = 1e30  # what float32 tiles can add to scores


def checked_bias(bias: float | Tensor, device: torch.device, *, look: bool = True) -> Scalar:
    """The bias in double precision on the rows' device; raises InputError unless it is one finite number."""
    if not isinstance(bias, float | int):
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
        same_group: what rows of one group are to each other, ``"exclude"`` or ``"positive"``.
        counted_as: ``"each"`` or ``"per_anchor"``, what a true pair weighs where a row has several.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over the rows of x.
        normalize: bring the rows to unit length first. Without it rows of another length give a warning, once.
        ranks: the processes over which a batch is sharded; see `symmetric_infonce`.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

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
        same_group: SameGroupIs = "exclude",
        counted_as: CountedAs = "each",
        reduction: Reduction = "mean",
        normalize: bool = False,
        ranks: Ranks | None = None,
        check: Check = "first",
        backend: Backend = "auto",
        precision: Precision | None = None,
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.1)
        settings: dict[str, Any] = {"critic": critic, "normalize": normalize, "check": check}
        settings["backend"], settings["precision"] = backend, precision
        super().__init__(start, learn_temperature=learn_temperature, limits=None, **settings)
        check_same_group(same_group)
        check_counted_as(counted_as)
        self.same_group: SameGroupIs = same_group
        self.counted_as: CountedAs = counted_as
        Terms(reduction=reduction).check()
        self.reduction: Reduction = reduction
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
        y: OtherRows,
        *,
        temperature: float | Tensor | None = None,
        logit_scale: float | Tensor | None = None,
        bias: float | Tensor | None = None,
        log_weights_x: Float[Tensor, " n"] | None = None,
        log_weights_y: Float[Tensor, " m"] | None = None,
        pairs: Int[Tensor, "p 2"] | None = None,
        groups: Groups | None = None,
    ) -> Scalars:
        """The loss of one batch: (n, d), (m, d) -> scalar; the arguments are those of `sigmoid_loss`.

        A temperature, or logit scale, and a bias take the place of the module's for this call; see `TemperedLoss`.
        """
        self._begin(x, y)
        scale, bias_of_call = self._scale_of(temperature, logit_scale), self._bias_of(bias)

        def loss(check: Check) -> tuple[Scalars, None]:
            value = sigmoid_loss(
                x,
                y,
                **scale,
                bias=bias_of_call,
                critic=self.critic,
                log_weights_x=log_weights_x,
                log_weights_y=log_weights_y,
                pairs=pairs,
                groups=groups,
                same_group=self.same_group,
                counted_as=self.counted_as,
                reduction=self.reduction,
                normalize=self.normalize,
                ranks=self.ranks,
                check=check,
                backend=self.backend,
                precision=self.precision,
            )
            return value, None

        return self._end(self._looked_after(loss, x, y, ranks=self.ranks)[0])

    def _bias_of(self, bias: float | Tensor | None) -> float | Tensor:
        """The bias that a call was given, or the module's own."""
        if bias is None:
            return self.bias
        told(self.ranks, lambda: self.check_not_learned(bias=True))
        return bias


__all__ = ["SigmoidLoss", "SigmoidRequest", "sigmoid_loss", "sigmoid_of"]
