"""The symmetric InfoNCE loss (CLIP's), with a weight on the batch's cross-modal divergence."""

from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalars
from ..geometry import Critic
from ..reductions.losses.backends import Backend, Precision, coded
from ._inputs import Check, without_values
from .agreement import told
from .both_ways import BothWays, Partition, Weights, both_ways, check_together
from .both_ways import Seen as BothSeen
from .calls import Seen
from .distributed import Ranks
from .memory import Memory, RowQueue, queue_of
from .negatives import FalseNegatives, Hardness
from .paired import PairedNegatives, PairedRequest, SymmetricTerms, combined, paired_terms
from .positives import Several
from .request import Groups, Guide, Reduction, SameGroupIs, Terms
from .schedules import DivergenceController, WeightSchedule
from .temperature import TemperedLoss, starting_temperature


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
    precision: Precision | None = None,
) -> Scalars:
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
        precision: of products of float32 rows. None follows ``torch.set_float32_matmul_precision``, and ``"highest"``,
            ``"high"`` and ``"medium"`` are its values for this loss alone; on kernels they are three bfloat16 products
            (off by 5e-6 of the largest score, 3e-5 at worst), TF32 (1e-3) and one bfloat16 product (4e-3).
            ``"float32"`` is bare float32, without tensor cores, on kernels and tiles alike (1e-7).

    Returns:
        The loss in nats, a scalar; with ``reduction="none"`` one for each pair (anchor).

    Raises:
        InputError: for anything but two equal-sized, finite, floating-point matrices of two rows or more on one
            device, or a group that leaves its members no negative.

    Source: D7, E1, T11, C1.

    >>> import torch
    >>> x = torch.eye(3)
    >>> round(symmetric_infonce(x, x, temperature=1.0).item(), 4)  # log(1 + 2 exp(-1))
    0.5514
    >>> round(symmetric_infonce(x, -x, temperature=1.0, divergence_weight=1.0).item(), 4)  # log(1 + 2 e)
    1.862
    """
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
        backend=coded(backend, precision),
    )
    divergence = not (isinstance(divergence_weight, Real) and divergence_weight == 0)
    terms, _ = _terms_of(x, y, wanted, divergence_weight, ranks, divergence=divergence)
    return combined(terms, divergence_weight)


def _terms_of(
    x: Tensor, y: Tensor, wanted: BothWays, weight: float | Tensor, ranks: Ranks | None, *, divergence: bool
) -> tuple[SymmetricTerms, BothSeen]:
    """Both parts of what is asked for, from one sweep where they can share it, and what a memory is to see."""
    told(ranks, lambda: check_together(wanted, divergence=divergence))
    value, seen = (None, None) if wanted.plain else both_ways(x, y, wanted, ranks)
    if value is not None and not divergence:
        return SymmetricTerms(value, None), seen
    assert not isinstance(wanted.groups, tuple)
    assert not isinstance(wanted.weights, tuple)
    negatives = PairedNegatives(
        wanted.critic, wanted.log_weights_x, wanted.log_weights_y, wanted.weigh_positive, wanted.groups
    )
    given = (wanted.temperature, wanted.logit_scale, divergence, weight, wanted.weights)
    request = PairedRequest(*given, negatives, wanted.normalize, wanted.check, wanted.backend)
    terms = paired_terms(x, y, request, ranks)
    return terms if value is None else SymmetricTerms(value, terms.divergence), seen


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
    groups: Shaped[Tensor, " n"] | None = None,
    normalize: bool = False,
    ranks: Ranks | None = None,
    check: Check = "always",
    backend: Backend = "auto",
    precision: Precision | None = None,
) -> SymmetricTerms:
    """The InfoNCE and the divergence of a batch by themselves; see `symmetric_infonce` for both.

    >>> import torch
    >>> terms = symmetric_terms(torch.eye(3), -torch.eye(3), temperature=1.0)
    >>> round(terms.infonce.item(), 4), terms.divergence.item()
    (1.862, 0.0)
    """
    negatives = PairedNegatives(critic, log_weights_x, log_weights_y, weigh_positive, groups)
    request = PairedRequest(
        temperature, logit_scale, divergence, 0.0, weights, negatives, normalize, check, coded(backend, precision)
    )
    return paired_terms(x, y, request, ranks)


class _Seen(NamedTuple):
    """What the state of a loss is to take in of a call."""

    divergence: Tensor | None
    rows: BothSeen


class SymmetricInfoNCE(TemperedLoss):
    """CLIP's loss with a knob for the modality gap: `symmetric_infonce` with its temperature, weight and settings.

    What a batch has of its own (pairs, groups, weights, explicit negatives, a guide's rows) goes to the call.

    Args:
        temperature: tau, or its initial value when learned; 0.07 unless `logit_scale` is given.
        divergence_weight: lambda, a number or a schedule from `infomech.losses` (`LinearWarmup`,
            `DivergenceController`). A schedule moves by one step for every call in training mode, once the backward of
            that call is done; after `follow(optimizer)`, by one for every step of the optimizer.
        learn_temperature: learn log(1/tau), starting at `temperature`. tau stays within [0.01, 1], as CLIP's does, and
            keeps its gradient at either end; see `TemperedLoss`.
        logit_scale: 1/tau, in place of `temperature`.
        critic: s(x, y); see `symmetric_infonce`, as for all that follow.
        weigh_positive: whether the positives' scores carry the log-weights too.
        same_group: what pairs of one group are to each other, ``"exclude"`` or ``"positive"``.
        several: ``"mean_log"`` or ``"log_mean"`` of several positives.
        directions: what stands in the softmaxes, some of ``"xy"``, ``"yx"``, ``"xx"``, ``"yy"``.
        partition: ``"per_direction"`` or ``"joint"``.
        share_negatives: use every pair's explicit negatives for all pairs, in calls that have some.
        hardness: a weight on hard negatives.
        false_negatives: a filter for negatives that look like positives.
        label_smoothing: the share of the label that is spread over all that stands in a softmax.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        normalize: bring the rows to unit length first. Without it rows of another length give a warning, once.
        queue_size: past rows of either side that are kept as further negatives, as in MoCo and cross-batch memories; 0
            for none. See `InfoNCE`, whose queue has one side. They stand in the InfoNCE part, not in Dsym.
        dim: number of features d; needed for a queue.
        guide_dim: number of features of a guide's rows, to filter the queue by a guide as well; see `InfoNCE`.
        ranks: the processes over which a batch is sharded.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

    A schedule or a queue that moves is a graph break for `torch.compile` in training mode, as a step that follows the
    backward must be; everything else, a learned temperature too, compiles with ``fullgraph=True``.

    Raises:
        InputError: if the temperature cannot be used, or cannot be learned from where it starts, or if settings do not
            go together.

    Source: D7, T11, C1.

    >>> import torch
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
        same_group: SameGroupIs = "exclude",
        several: Several = "mean_log",
        directions: tuple[str, ...] = ("xy", "yx"),
        partition: Partition = "per_direction",
        share_negatives: bool = False,
        hardness: Hardness | None = None,
        false_negatives: FalseNegatives | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        normalize: bool = False,
        queue_size: int = 0,
        dim: int | None = None,
        guide_dim: int | None = None,
        ranks: Ranks | None = None,
        check: Check = "first",
        backend: Backend = "auto",
        precision: Precision | None = None,
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.07)
        of_all: dict[str, Any] = {"critic": critic, "normalize": normalize, "check": check}
        of_all["backend"], of_all["precision"] = backend, precision
        super().__init__(start, learn_temperature=learn_temperature, **of_all)
        self.weigh_positive = weigh_positive
        self.same_group: SameGroupIs = same_group
        self.directions = tuple(directions)
        self.partition: Partition = partition
        self.share_negatives = share_negatives
        self.terms = Terms(several, hardness, false_negatives, label_smoothing, reduction)
        self.ranks = ranks
        self.divergence_weight = divergence_weight
        self.queue_x, self.queue_y = (queue_of(queue_size, dim, guide_dim) for _ in range(2))
        self.terms.check()
        self._wanted().check_settings()

    def _wanted(self) -> BothWays:
        """The settings of every batch."""
        return BothWays(
            critic=self.critic,
            weigh_positive=self.weigh_positive,
            same_group=self.same_group,
            directions=self.directions,
            partition=self.partition,
            share_negatives=self.share_negatives,
            terms=self.terms,
            normalize=self.normalize,
            backend=self._implementation,
        )

    def forward(
        self,
        x: Rows,
        y: OtherRows,
        *,
        temperature: float | Tensor | None = None,
        logit_scale: float | Tensor | None = None,
        weights: Weights | None = None,
        log_weights_x: Float[Tensor, " n"] | None = None,
        log_weights_y: Float[Tensor, " m"] | None = None,
        pairs: Int[Tensor, "p 2"] | None = None,
        groups: Groups | None = None,
        negatives_x: Float[Tensor, "... d"] | None = None,
        negatives_y: Float[Tensor, "... d"] | None = None,
        guide: Guide | None = None,
    ) -> Scalars:
        """The loss of one batch: (n, d), (n, d) -> scalar; the arguments are those of `symmetric_infonce`.

        A temperature, or logit scale, takes the place of the module's for this call; see `TemperedLoss`.
        """
        self._begin(x, y)
        weight, divergence = self._weight_of_now(x, y)
        wanted = replace(
            self._wanted(),
            **self._scale_of(temperature, logit_scale),
            weights=weights,
            log_weights_x=log_weights_x,
            log_weights_y=log_weights_y,
            pairs=pairs,
            groups=groups,
            negatives_x=negatives_x,
            negatives_y=negatives_y,
            share_negatives=self.share_negatives and not (negatives_x is None and negatives_y is None),
            guide=guide,
            memory=told(self.ranks, lambda: self._memory(x, y, guide, groups)),
        )

        def loss(check: Check) -> tuple[Scalars, _Seen]:
            asked = replace(wanted, check=check)
            terms, seen = _terms_of(x, y, asked, weight, self.ranks, divergence=divergence)
            gap = None if terms.divergence is None else terms.divergence.detach()
            return combined(terms, weight), _Seen(gap, seen)

        return self._end(*self._looked_after(loss, x, y, ranks=self.ranks))

    def queued(self) -> tuple[Rows, OtherRows]:
        """The rows of x and of y in the queue, in no particular order."""
        queue_x, queue_y = self._queues
        return queue_x.held().rows, queue_y.held().rows

    def enqueue(self, x: Rows, y: OtherRows, groups: Groups | None = None, guide: Guide | None = None) -> None:
        """Put rows of both sides, their groups and a guide's rows of them into the queue, over the oldest ones."""
        of_x, of_y = groups if isinstance(groups, tuple) else (groups, groups)
        guides = (None, None) if guide is None else (guide.x, guide.y)
        for queue, rows, own, seen in zip(self._queues, (x, y), (of_x, of_y), guides, strict=True):
            queue.put(rows, own, seen)

    @property
    def _queues(self) -> tuple[RowQueue, RowQueue]:
        if self.queue_x is None or self.queue_y is None:
            raise InputError("this loss has no queue; make it with queue_size= and dim=")
        return self.queue_x, self.queue_y

    def _memory(
        self, x: Rows, y: OtherRows, guide: Guide | None, groups: Groups | None
    ) -> tuple[Memory | None, Memory | None] | None:
        """What is in the queue now."""
        if self.queue_x is None or self.queue_y is None:
            return None
        of_x, of_y = (None, None) if guide is None else (guide.x, guide.y)
        groups_x, groups_y = groups if isinstance(groups, tuple) else (groups, groups)
        return self.queue_x.copy(x, of_x, groups_x), self.queue_y.copy(y, of_y, groups_y)

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
        return isinstance(self.divergence_weight, WeightSchedule) or self.queue_x is not None

    def _advance(self, seen: list[Seen]) -> None:
        calls = [call for call in seen if isinstance(call, _Seen)]
        if isinstance(self.divergence_weight, WeightSchedule):
            known = [float(call.divergence) for call in calls if call.divergence is not None]
            self.divergence_weight.advance(sum(known) / len(known) if known else None)
        for call in calls:
            for queue, side in zip(self._queues, call.rows, strict=True) if call.rows is not None else ():
                queue.put(side.rows, side.groups, side.guide)


__all__ = ["SymmetricInfoNCE", "symmetric_infonce", "symmetric_terms"]
