"""InfoNCE in one direction: in-batch, explicit or queued negatives, one positive for an anchor or several."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalar
from ..geometry import Critic
from ..reductions.exclusion import Both, Exclusion, Listed, Nothing, OwnRow
from ..reductions.losses.backends import Backend
from ..reductions.losses.infonce import row_log_sums, row_scores
from ._inputs import (
    Check,
    NoNegativesError,
    check_gradients_fit,
    check_negative_rows,
    check_shapes,
    checked_backend,
    checked_extent,
    checked_inverse_temperature,
    checked_weights,
    finished,
    looks,
    result_dtype,
    unit_rows,
    weighted_mean,
    widened,
    without_values,
)
from .distributed import Ranks
from .negatives import FalseNegatives, Hardness
from .one_way import Guide, OneWay, Reduction, SameGroupIs, Terms, one_way
from .positives import NamedPairs, Several, named_pairs
from .scores import PairScores, added, pair_scores
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
    groups: Int[Tensor, " n"] | None = None,
    candidate_groups: Int[Tensor, " m"] | None = None,
    same_group: SameGroupIs = "exclude",
    several: Several = "mean_log",
    share_negatives: bool = False,
    negative_groups: Int[Tensor, " k"] | None = None,
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
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`. Listed pairs go to the tiles.

    Returns:
        The loss in nats, a scalar.

    Raises:
        InputError: for inputs that cannot be used, an anchor without a positive, or no negatives at all.

    Source: D7.

    >>> x = torch.eye(3)
    >>> round(infonce(x, x, temperature=1.0).item(), 4)  # log(1 + 2 exp(-1))
    0.5514
    >>> views = torch.cat([x, x])  # SimCLR: the other view of a row is its positive
    >>> round(infonce(views, views, temperature=1.0, positives=torch.arange(6).roll(3), exclude_own=True).item(), 4)
    0.9048
    """
    checked_backend(backend, anchors, ranks=ranks is not None)
    asked = (groups, candidate_groups, negative_groups, hardness, false_negatives, guide, ranks)
    general = any(part is not None for part in asked) or share_negatives or label_smoothing != 0
    if general or several != "mean_log" or same_group != "exclude" or reduction != "mean":
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
            backend=backend,
        )
        return one_way(anchors, candidates, request, ranks)[0]
    check_shapes(anchors, candidates, ("anchors", "candidates"))
    look = looks(check, anchors, candidates)
    inverse_temperature = checked_inverse_temperature(temperature, anchors.device, logit_scale, look=look)
    if negatives is not None:
        check_negative_rows(anchors, negatives, negative_log_weights, look=look)
    elif negative_log_weights is not None:
        raise InputError("negative_log_weights needs negatives; log_weights are those of the candidates")
    if normalize:
        anchors, candidates = unit_rows(anchors), unit_rows(candidates)
        if negatives is not None:
            negatives = unit_rows(negatives.flatten(0, -2)).view(negatives.shape)
    dtype = result_dtype(anchors, candidates)
    scale = inverse_temperature if critic is None else critic.slope * inverse_temperature
    extents = [checked_extent(anchors, candidates, scale, ("anchors", "candidates"), look=look)]
    if negatives is not None:
        names = ("anchors", "negatives")
        extents.append(checked_extent(anchors, negatives.flatten(0, -2), scale, names, look=look))
    wide = any(extent.wide for extent in extents)
    if wide:
        for extent in extents:
            given = temperature if logit_scale is None else logit_scale
            check_gradients_fit(extent, (anchors, candidates), given)
        anchors, candidates = widened(wide, anchors, candidates)
        negatives = None if negatives is None else negatives.double()
    anchor_weights = checked_weights(weights, anchors.shape[0], anchors.device, look=look)
    scores = pair_scores(
        anchors,
        candidates,
        critic=critic,
        inverse_temperature=inverse_temperature,
        log_weights=(None, log_weights),
        names=("log_weights", "log_weights"),
        finite=weigh_positive,
        look=look,
    )
    of_positive, _ = scores.positives(weigh=weigh_positive)
    n, m = anchors.shape[0], candidates.shape[0]
    if exclude_own and n != m:
        raise InputError(f"exclude_own needs one set against itself; got {n} anchors, {m} candidates")
    found = named_pairs(positives, n, m, anchors.device, look=look)
    pairs, single = found.pairs, found.single
    if exclude_own and (positives is None or (look and bool((pairs[:, 0] == pairs[:, 1]).any()))):
        raise InputError(
            "exclude_own leaves row i out of anchor i's candidates, but positives names it; mend positives"
        )
    own: Exclusion = OwnRow() if exclude_own else Nothing()
    sums = []
    if in_batch:
        exclusion = Both(own, OwnRow() if positives is None else Listed(pairs)) if single else own
        sums.append(_log_sums(anchors, candidates, extents[0].score_bound, scores, exclusion, backend))
    elif not single:
        raise InputError("several positives for an anchor need in_batch=True: they are part of the sum")
    if negatives is not None:
        further = negative_log_weights
        bound = extents[1].score_bound
        sums.append(_against(anchors, negatives, further, critic, inverse_temperature, bound, backend, look=look))
    if not sums or (look and bool((torch.stack(sums).detach().amax(0) == -math.inf).any())):
        raise NoNegativesError(
            "an anchor has no negatives: pass more candidates, or negatives, or fewer log-weights of -inf"
        )
    total = sums[0] if len(sums) == 1 else torch.logaddexp(sums[0], sums[1])
    if single:
        at = pairs.select(1, 1)
        partner = candidates if positives is None else candidates.index_select(0, at)
        # log(1 + negatives / positive) keeps its digits when the loss is small.
        score = row_scores(anchors, partner, scores.scale, backend)
        if of_positive is not None:
            score = score + of_positive.index_select(0, at)
        losses = torch.logaddexp(total - score, torch.zeros_like(score))
    else:
        score = row_scores(anchors, _mean_positives(candidates, found, anchors.shape[0]), scores.scale, backend)
        if of_positive is not None:
            terms = of_positive.index_select(0, pairs.select(1, 1)) * found.shares
            score = score + score.new_zeros(anchors.shape[0]).index_add(0, pairs.select(1, 0), terms)
        losses = total - score
    return finished(weighted_mean(losses, anchor_weights), dtype, look=wide)


def _log_sums(
    anchors: Tensor, others: Tensor, bound: float | None, scores: PairScores, exclusion: Exclusion, backend: Backend
) -> Tensor:
    return row_log_sums(
        anchors,
        others,
        scale=scores.scale,
        y_terms=scores.negative_y,
        score_bound=bound,
        exclusion=exclusion,
        backend=backend,
    )


def _against(
    anchors: Rows,
    negatives: Tensor,
    log_weights: Tensor | None,
    critic: Critic | None,
    inverse_temperature: Tensor,
    bound: float | None,
    backend: Backend,
    *,
    look: bool,
) -> Float[Tensor, " n"]:
    """Log-sums over further negatives: shared rows, or k rows for each anchor."""
    scores = pair_scores(
        anchors,
        negatives.flatten(0, -2),
        critic=critic,
        inverse_temperature=inverse_temperature,
        log_weights=(None, None if log_weights is None else log_weights.flatten()),
        names=("negative_log_weights", "negative_log_weights"),
        look=look,
    )
    if negatives.ndim == 2:
        return _log_sums(anchors, negatives, bound, scores, Nothing(), backend)
    return _own_negatives(anchors, negatives, scores)


def _own_negatives(anchors: Rows, negatives: Float[Tensor, "n k d"], scores: PairScores) -> Float[Tensor, " n"]:
    """Log-sums of every anchor over k negatives of its own."""
    dtype = result_dtype(anchors, negatives)
    with torch.autocast(anchors.device.type, enabled=False):
        inner = torch.einsum("nd,nkd->nk", anchors.to(dtype), negatives.to(dtype)).to(torch.float64)
    terms = None if scores.negative_y is None else scores.negative_y.view(inner.shape)
    total = added(inner * scores.scale, terms)
    assert total is not None
    return total.logsumexp(1)


def _mean_positives(candidates: Tensor, positives: NamedPairs, anchors: int) -> Float[Tensor, "n d"]:
    """The mean of every anchor's positives, without holding a row for each pair."""
    dtype = result_dtype(candidates)
    of, at = (part.clone(memory_format=torch.contiguous_format) for part in positives.pairs.long().unbind(1))
    starts = torch.searchsorted(of, torch.arange(anchors, device=of.device))
    with torch.autocast(candidates.device.type, enabled=False):
        return embedding_bag(
            at,
            candidates.to(dtype),
            starts,
            mode="sum",
            per_sample_weights=positives.shares.to(dtype),
        )


class InfoNCE(TemperedLoss):
    """One-directional InfoNCE with its temperature, and a queue of past candidates as negatives if wanted (MoCo).

    Args:
        temperature: tau, or where it starts when learned; 0.07 unless `logit_scale` is given.
        learn_temperature: learn log(1/tau), tau within [0.01, 1]; see `TemperedLoss`.
        logit_scale: 1/tau, in place of `temperature`.
        in_batch: use the other candidates of the batch as negatives.
        queue_size: rows that the queue holds; 0 for none. In training mode every call puts its candidates, detached,
            into the queue once its backward is done (at once if it has none); the oldest leave. After
            `follow(optimizer)` they enter with the optimizer's step. Until it has been filled, only what is there is
            used.
        dim: number of features d; needed for a queue.
        critic: s(x, y); see `infonce`.
        weigh_positive: whether the positive's score carries its log-weight too.
        normalize: bring the rows to unit length first. Without it rows of another length are said once.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.

    Source: D7; He et al. 2020 for the queue.

    >>> loss = InfoNCE(temperature=0.5, queue_size=4, dim=3)
    >>> value = loss(torch.eye(3), torch.eye(3))
    >>> loss.queued().shape
    torch.Size([3, 3])
    """

    queue: Tensor
    queue_count: Tensor

    def __init__(
        self,
        temperature: float | None = None,
        *,
        learn_temperature: bool = False,
        logit_scale: float | None = None,
        in_batch: bool = True,
        queue_size: int = 0,
        dim: int | None = None,
        critic: Critic | None = None,
        weigh_positive: bool = False,
        normalize: bool = False,
        check: Check = "first",
        backend: Backend = "auto",
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.07)
        settings: dict[str, Any] = {"critic": critic, "normalize": normalize, "check": check, "backend": backend}
        super().__init__(start, learn_temperature=learn_temperature, **settings)
        self.weigh_positive = weigh_positive
        if queue_size < 0 or (queue_size > 0 and (dim is None or dim < 1)):
            raise InputError(f"queue_size is {queue_size} and dim is {dim}; a queue needs a size and dim, both above 0")
        self.in_batch = in_batch
        self.register_buffer("queue", torch.zeros(queue_size, dim or 0))
        self.register_buffer("queue_count", torch.zeros((), dtype=torch.int64))

    def queued(self) -> Float[Tensor, "k d"]:
        """The rows in the queue, in no particular order."""
        return self.queue[: min(int(self.queue_count), len(self.queue))]

    @torch.no_grad()
    def enqueue(self, rows: Rows) -> None:
        """Put rows into the queue, over the oldest ones."""
        size = len(self.queue)
        if rows.shape[1] != self.queue.shape[1]:
            raise InputError(f"the queue holds rows of {self.queue.shape[1]} features; got {rows.shape[1]}")
        rows = rows[-size:]
        places = (self.queue_count + torch.arange(len(rows), device=self.queue.device)) % size
        self.queue[places] = rows.detach().to(self.queue)
        self.queue_count += len(rows)

    def forward(
        self,
        anchors: Rows,
        candidates: OtherRows,
        *,
        positives: Int[Tensor, "..."] | None = None,
        negatives: Float[Tensor, "... d"] | None = None,
        exclude_own: bool = False,
        weights: Float[Tensor, " n"] | None = None,
        log_weights: Float[Tensor, " m"] | None = None,
        negative_log_weights: Float[Tensor, "..."] | None = None,
    ) -> Scalar:
        """The loss of one batch; the arguments are those of `infonce`."""
        self._begin(anchors, candidates)
        if len(self.queue):
            queued, there = self._copy_of_queue()
            if len(queued):
                if negatives is not None:
                    raise InputError("pass explicit negatives or use a queue, not both")
                negatives = queued.to(anchors.dtype)
                negative_log_weights = there if negative_log_weights is None else negative_log_weights

        def loss(check: Check) -> tuple[Scalar, None]:
            value = infonce(
                anchors,
                candidates,
                temperature=self.temperature,
                positives=positives,
                negatives=negatives,
                in_batch=self.in_batch,
                exclude_own=exclude_own,
                critic=self.critic,
                weights=weights,
                log_weights=log_weights,
                negative_log_weights=negative_log_weights,
                weigh_positive=self.weigh_positive,
                normalize=self.normalize,
                check=check,
                backend=self.backend,
            )
            return value, None

        return self._end(self._looked_after(loss, anchors, candidates)[0], candidates)

    def _copy_of_queue(self) -> tuple[Tensor, Tensor | None]:
        """What is in the queue, which may move on before a second backward; log-weights that leave out what is not.

        How much there is can be read on a CPU only; elsewhere, and in compiled code, all places go along.
        """
        if self.queue.device.type == "cpu" and not without_values(self.queue):
            return self.queued().clone(), None
        places = torch.arange(len(self.queue), device=self.queue.device)
        there = torch.zeros(len(self.queue), dtype=torch.float64, device=self.queue.device)
        return self.queue.clone(), there.masked_fill(places >= self.queue_count, -math.inf)

    @property
    def _moves(self) -> bool:
        return len(self.queue) > 0

    def _advance(self, seen: list[Tensor | None]) -> None:
        for candidates in seen:
            if candidates is not None:
                self.enqueue(unit_rows(candidates) if self.normalize else candidates)


__all__ = ["InfoNCE", "infonce"]
