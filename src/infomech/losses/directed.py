"""InfoNCE in one direction: in-batch, explicit or queued negatives, one positive for an anchor or several."""

from dataclasses import replace
from typing import Any

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalars
from ..geometry import Critic
from ..reductions.losses.backends import Backend, Precision, coded
from ._inputs import Check, unit_rows
from .agreement import told
from .calls import Seen
from .distributed import Ranks
from .memory import Labelled, Memory, RowQueue, queue_of
from .negatives import FalseNegatives, Hardness
from .one_way import one_way
from .plain import plain_infonce
from .positives import Several
from .request import Guide, OneWay, Reduction, SameGroupIs, Terms, check_same_group
from .temperature import TemperedLoss, starting_temperature


def infonce(
    anchors: Rows,
    candidates: OtherRows,
    *,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    positives: Int[Tensor, "..."] | None = None,
    negatives: Float[Tensor, "... d"] | None = None,
    in_batch: bool = True,
    exclude_own: bool = False,
    critic: Critic | None = None,
    weights: Float[Tensor, " n"] | None = None,
    log_weights: Float[Tensor, " m"] | None = None,
    negative_log_weights: Float[Tensor, "..."] | None = None,
    weigh_positive: bool = False,
    groups: Shaped[Tensor, " n"] | None = None,
    candidate_groups: Shaped[Tensor, " m"] | None = None,
    same_group: SameGroupIs = "exclude",
    several: Several = "mean_log",
    share_negatives: bool = False,
    negative_groups: Shaped[Tensor, " k"] | None = None,
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
    """InfoNCE of every anchor against its candidates.

        L = mean_i -log [exp(x_i.y_p / tau) / (exp(x_i.y_p / tau) + sum_{j != p} exp(x_i.y_j / tau))]

    With several positives P_i of an anchor (Khosla et al. 2020) the sum runs over all candidates, positives too, and
    ``several`` says how the positives' shares q_p = exp(x_i.y_p / tau) / sum_j exp(x_i.y_j / tau) make a loss:

        "mean_log":  -mean_{p in P_i} log q_p     (supervised contrastive, L_out)
        "log_mean":  -log mean_{p in P_i} q_p     (L_in; MIL-NCE's up to log |P_i|: one good positive is enough)

    Another critic s(x, y) takes the place of x.y. Log-weights v of the candidates are added to their scores in the sums
    over j, for the positive only with ``weigh_positive=True``:

        L_i = -log [p_i / (p_i + sum_{j != p} exp(s(x_i, y_j) / tau + v_j))],   p_i = exp(s(x_i, y_p) / tau [+ v_p])

    With v_j = -log Q(j), Q the frequency with which an item is drawn as a candidate, ``weigh_positive=True`` is the
    log-Q correction of two-tower recommenders as Yi et al. 2019 have it; False leaves the positive, which is there
    whatever Q is, uncorrected. With several positives every candidate in the sum has its weight, the positives too.

    Rows are used as they are: pass unit rows for the cosine critic. Memory is O((n + m) d). Logits and sums are
    float32 (float64 for float64 rows); one derivative, as in `symmetric_infonce`.

    Args:
        anchors: (n, d) rows.
        candidates: (m, d) rows that hold the positives; the others are in-batch negatives.
        temperature: tau > 0, a number or a tensor that may need a gradient.
        logit_scale: 1/tau, in its place.
        positives: (n,) index of each anchor's positive among the candidates; or (p, 2) pairs (anchor, candidate),
            one or more for each anchor; by default candidate i belongs to anchor i.
        negatives: (k, d) further negatives for every anchor (a queue), or (n, k, d), k of its own for each.
        in_batch: use the other candidates as negatives; with False, only `negatives`.
        exclude_own: candidate i is anchor i itself (one set against itself): it is left out.
        critic: s(x, y), `infomech.Cosine()` by default; `infomech.RBF(scale)` takes rows of any norm.
        weights: (n,) non-negative weights of the anchors; they may need a gradient.
        log_weights: (m,) log-weights v of the candidates as negatives, in nats; -inf removes one. They may need a
            gradient.
        negative_log_weights: the same for `negatives`: (k,), or (n, k).
        weigh_positive: whether the positive's score carries its log-weight too.
        groups: (n,) integers, the anchors' groups (classes, images of captions).
        candidate_groups: (m,) those of the candidates; by default `groups`.
        same_group: ``"exclude"``: candidates of the anchor's group are no negatives of it; ``"positive"``: all of
            them are its positives, in place of `positives`.
        several: ``"mean_log"`` or ``"log_mean"``; see above.
        share_negatives: with (n, k, d) negatives, use every anchor's for all anchors, as sentence-transformers does.
        negative_groups: (k,) groups of shared negatives; those of the anchor's group are left out.
        hardness: a weight on hard negatives, `Hardness`.
        false_negatives: a filter for negatives that look like positives, `FalseNegatives`.
        guide: a guide model's rows for that filter, `Guide`.
        label_smoothing: share eps in [0, 1) of the label that is spread evenly over all that stands in the softmax.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, the (n,) losses, times the weights if there are any.
        normalize: bring all rows to unit length first, those of `negatives` too.
        ranks: the processes over which the batch is sharded, as in `symmetric_infonce`: anchors and candidates are this
            rank's, as many of one as of the other, positives count them, and all ranks' candidates and negatives are
            used. Rows of all ranks are held, O(N d); their scores never.
        check: ``"always"`` or ``"never"``, when values are looked at; see `symmetric_infonce`. Without a look as many
            (anchor, candidate) pairs as anchors are taken to be one for each.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

    Returns:
        The loss in nats, a scalar; with ``reduction="none"`` one for each pair (anchor).

    Raises:
        InputError: for inputs that cannot be used, an anchor without a positive, or no negatives at all.

    Source: D7.

    >>> import torch
    >>> x = torch.eye(3)
    >>> round(infonce(x, x, temperature=1.0).item(), 4)  # log(1 + 2 exp(-1))
    0.5514
    >>> views = torch.cat([x, x])  # SimCLR: the other view of a row is its positive
    >>> round(infonce(views, views, temperature=1.0, positives=torch.arange(6).roll(3), exclude_own=True).item(), 4)
    0.9048
    """
    request = OneWay(
        temperature,
        logit_scale,
        critic,
        positives,
        groups,
        candidate_groups,
        same_group,
        negatives,
        share_negatives=share_negatives,
        negative_groups=negative_groups,
        in_batch=in_batch,
        exclude_own=exclude_own,
        weights=weights,
        log_weights=log_weights,
        negative_log_weights=negative_log_weights,
        weigh_positive=weigh_positive,
        normalize=normalize,
        guide=guide,
        terms=Terms(several, hardness, false_negatives, label_smoothing, reduction),
        check=check,
        backend=coded(backend, precision),
    )
    return _loss_of(anchors, candidates, request, ranks)[0]


def _loss_of(anchors: Tensor, candidates: Tensor, request: OneWay, ranks: Ranks | None) -> tuple[Tensor, Labelled]:
    """The loss of a batch, and the candidates of all ranks."""
    memory = request.memory
    if memory is not None and request.negatives is None and request.negative_log_weights is None and ranks is None:
        rows, weights = memory.rows.to(anchors.dtype), memory.log_weights
        simple = replace(request, memory=None, negatives=rows, negative_log_weights=weights)
        request = simple if simple.plain else request
    if request.plain and ranks is None:
        value, rows = plain_infonce(anchors, candidates, request), candidates.detach()
        return value, Labelled(unit_rows(rows) if request.normalize else rows)
    return one_way(anchors, candidates, request, ranks)


class InfoNCE(TemperedLoss):
    """One-directional InfoNCE with its temperature, and a queue of past candidates as negatives if wanted (MoCo).

    Args:
        temperature: tau, or where it starts when learned; 0.07 unless `logit_scale` is given.
        learn_temperature: learn log(1/tau), tau within [0.01, 1]; see `TemperedLoss`.
        logit_scale: 1/tau, in place of `temperature`.
        in_batch: use the other candidates of the batch as negatives.
        queue_size: rows that the queue holds; 0 for none. In training mode every call puts its candidates, detached,
            into the queue once its backward is done (at once if it has none), those of all ranks in the ranks' order;
            the oldest leave. After `follow(optimizer)` they enter with the optimizer's step. Until it has been filled,
            only what is there is used. Rows enter with their groups, if the call has groups: of a later anchor's group
            they are no negatives, or its positives with ``same_group="positive"``. `hardness` takes them for in-batch
            negatives.
        dim: number of features d; needed for a queue.
        guide_dim: number of features of a guide's rows, to filter the queue by a guide as well: the guide's rows of the
            candidates enter with them, and every call passes `guide`.
        critic: s(x, y); see `infonce`, as for all that follow.
        weigh_positive: whether the positive's score carries its log-weight too.
        same_group: what candidates of the anchor's group are, ``"exclude"`` or ``"positive"``.
        several: ``"mean_log"`` or ``"log_mean"`` of several positives.
        share_negatives: use every anchor's explicit negatives for all anchors, in calls that have sets of them.
        hardness: a weight on hard negatives.
        false_negatives: a filter for negatives that look like positives.
        label_smoothing: the share of the label that is spread over all that stands in the softmax.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        normalize: bring the rows to unit length first. Without it rows of another length give a warning, once.
        ranks: the processes over which a batch is sharded.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

    Source: D7; He et al. 2020 for the queue.

    >>> import torch
    >>> loss = InfoNCE(temperature=0.5, queue_size=4, dim=3)
    >>> value = loss(torch.eye(3), torch.eye(3))
    >>> loss.queued().shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        temperature: float | None = None,
        *,
        learn_temperature: bool = False,
        logit_scale: float | None = None,
        in_batch: bool = True,
        queue_size: int = 0,
        dim: int | None = None,
        guide_dim: int | None = None,
        critic: Critic | None = None,
        weigh_positive: bool = False,
        same_group: SameGroupIs = "exclude",
        several: Several = "mean_log",
        share_negatives: bool = False,
        hardness: Hardness | None = None,
        false_negatives: FalseNegatives | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        normalize: bool = False,
        ranks: Ranks | None = None,
        check: Check = "first",
        backend: Backend = "auto",
        precision: Precision | None = None,
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.07)
        settings: dict[str, Any] = {"critic": critic, "normalize": normalize, "check": check}
        settings["backend"], settings["precision"] = backend, precision
        super().__init__(start, learn_temperature=learn_temperature, **settings)
        self.weigh_positive = weigh_positive
        self.in_batch = in_batch
        self.same_group: SameGroupIs = same_group
        self.share_negatives = share_negatives
        self.terms = Terms(several, hardness, false_negatives, label_smoothing, reduction)
        self.terms.check()
        check_same_group(same_group)
        self.ranks = ranks
        self.queue = queue_of(queue_size, dim, guide_dim)

    def queued(self) -> Float[Tensor, "k d"]:
        """The rows in the queue, in no particular order."""
        return self._queue.held().rows

    def enqueue(
        self, rows: Rows, groups: Shaped[Tensor, " n"] | None = None, guide: Float[Tensor, "n g"] | None = None
    ) -> None:
        """Put rows, their groups and a guide's rows of them into the queue, over the oldest ones."""
        self._queue.put(rows, groups, guide)

    @property
    def _queue(self) -> RowQueue:
        if self.queue is None:
            raise InputError("this loss has no queue; make it with queue_size= and dim=")
        return self.queue

    def forward(
        self,
        anchors: Rows,
        candidates: OtherRows,
        *,
        temperature: float | Tensor | None = None,
        logit_scale: float | Tensor | None = None,
        positives: Int[Tensor, "..."] | None = None,
        negatives: Float[Tensor, "... d"] | None = None,
        exclude_own: bool = False,
        weights: Float[Tensor, " n"] | None = None,
        log_weights: Float[Tensor, " m"] | None = None,
        negative_log_weights: Float[Tensor, "..."] | None = None,
        groups: Shaped[Tensor, " n"] | None = None,
        candidate_groups: Shaped[Tensor, " m"] | None = None,
        negative_groups: Shaped[Tensor, " k"] | None = None,
        guide: Guide | None = None,
    ) -> Scalars:
        """The loss of one batch; the arguments are those of `infonce`.

        A temperature, or logit scale, takes the place of the module's for this call; see `TemperedLoss`.
        """
        self._begin(anchors, candidates)
        of_candidates = groups if candidate_groups is None else candidate_groups
        request = OneWay(
            **self._scale_of(temperature, logit_scale),
            critic=self.critic,
            positives=positives,
            groups=groups,
            candidate_groups=candidate_groups,
            same_group=self.same_group,
            negatives=negatives,
            share_negatives=self.share_negatives and negatives is not None and negatives.ndim == 3,
            negative_groups=negative_groups,
            in_batch=self.in_batch,
            exclude_own=exclude_own,
            weights=weights,
            log_weights=log_weights,
            negative_log_weights=negative_log_weights,
            weigh_positive=self.weigh_positive,
            normalize=self.normalize,
            guide=guide,
            memory=told(self.ranks, lambda: self._memory(candidates, guide, of_candidates)),
            terms=self.terms,
            backend=self._implementation,
        )

        def loss(check: Check) -> tuple[Scalars, Labelled]:
            return _loss_of(anchors, candidates, replace(request, check=check), self.ranks)

        return self._end(*self._looked_after(loss, anchors, candidates, ranks=self.ranks))

    def _memory(self, candidates: Rows, guide: Guide | None, groups: Tensor | None) -> Memory | None:
        """What is in the queue now."""
        return None if self.queue is None else self.queue.copy(candidates, None if guide is None else guide.y, groups)

    @property
    def _moves(self) -> bool:
        return self.queue is not None

    def _advance(self, seen: list[Seen]) -> None:
        for candidates in seen:
            assert isinstance(candidates, Labelled)
            self._queue.put(candidates.rows, candidates.groups, candidates.guide)


__all__ = ["InfoNCE", "infonce"]
