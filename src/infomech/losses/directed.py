"""InfoNCE in one direction: in-batch, explicit or queued negatives, one positive for an anchor or several."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from .._checks import InputError, check_rows
from .._typing import OtherRows, Rows, Scalar
from ..geometry import Critic
from ..reductions.exclusion import Both, Exclusion, Listed, Nothing, OwnRow
from ..reductions.losses.backends import Backend
from ..reductions.losses.infonce import row_log_sums, row_scores
from ._inputs import (
    Check,
    NoNegativesError,
    check_gradients_fit,
    check_shapes,
    check_tensor,
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
    normalize: bool = False,
    check: Check = "always",
    backend: Backend = "auto",
) -> Scalar:
    """InfoNCE of every anchor against its candidates.

        L = mean_i -log [exp(x_i.y_p / tau) / (exp(x_i.y_p / tau) + sum_{j != p} exp(x_i.y_j / tau))]

    With several positives P_i of an anchor (supervised contrastive, Khosla et al. 2020), the mean over p in P_i of
    -log [exp(x_i.y_p / tau) / sum_j exp(x_i.y_j / tau)], whose sum runs over all candidates, positives too.

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
        normalize: bring all rows to unit length first, those of `negatives` too.
        check: ``"always"`` or ``"never"``, when values are looked at; see `symmetric_infonce`. Without a look as many
            (anchor, candidate) pairs as anchors are taken to be one for each.

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
    check_shapes(anchors, candidates, ("anchors", "candidates"))
    checked_backend(backend, anchors)
    look = looks(check, anchors, candidates)
    inverse_temperature = checked_inverse_temperature(temperature, anchors.device, logit_scale, look=look)
    if negatives is not None:
        _check_negatives(anchors, negatives, negative_log_weights, look=look)
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
    found = _pairs(positives, n, m, anchors.device, look=look)
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


@dataclass(frozen=True)
class _Positives:
    """Every anchor's positives, in the order of the anchors."""

    pairs: Int[Tensor, "p 2"]  # (anchor, candidate)
    single: bool  # one for each anchor
    distinct: Bool[Tensor, " p"] | None = None  # False where a pair is named again; None: every pair is

    @property
    def shares(self) -> Float[Tensor, " p"]:
        """What a pair weighs in the mean over its anchor's positives."""
        anchors = self.pairs.select(1, 0)
        ones = torch.ones(anchors.shape[0], dtype=torch.float64, device=anchors.device)
        ones = ones if self.distinct is None else ones * self.distinct
        counts = ones.new_zeros(anchors.shape[0]).index_add(0, anchors, ones)  # as many anchors as pairs, or fewer
        return ones / counts.index_select(0, anchors)


def _pairs(positives: Tensor | None, anchors: int, candidates: int, device: torch.device, *, look: bool) -> _Positives:
    """The positives as distinct (anchor, candidate) pairs; raises InputError unless every anchor has one.

    Without a `look` no pair can be dropped: one that is named again counts for nothing.
    """
    if positives is None:
        if anchors != candidates:
            raise InputError(
                f"there are {anchors} anchors and {candidates} candidates; name each anchor's positive with positives="
            )
        positives = torch.arange(anchors, device=device)
    check_tensor(positives, "positives")
    positives = positives.to(device)
    one_each = positives.ndim == 1 and positives.shape[0] == anchors
    if one_each:
        positives = torch.stack([torch.arange(anchors, device=device), positives], 1)
    if positives.ndim != 2 or positives.shape[1] != 2:
        raise InputError(f"positives has shape {tuple(positives.shape)}; expected ({anchors},) or (pairs, 2)")
    if not look:
        if positives.shape[0] < anchors:
            raise InputError(f"positives holds {positives.shape[0]} pairs for {anchors} anchors; each needs one")
        return _Positives(positives, True) if one_each else _in_order(positives, anchors, candidates)
    limits = torch.tensor([anchors, candidates], device=device)
    if bool(((positives < 0) | (positives >= limits)).any()):
        raise InputError(f"positives points outside the {anchors} anchors and {candidates} candidates")
    pairs = positives if one_each else torch.unique(positives, dim=0)
    named = torch.zeros(anchors, dtype=torch.bool, device=device).index_fill_(0, pairs[:, 0], True)
    if not bool(named.all()):
        raise InputError(f"anchor {int(torch.nonzero(~named)[0])} has no positive; drop it or name one")
    return _Positives(pairs, pairs.shape[0] == anchors)


def _in_order(pairs: Int[Tensor, "p 2"], anchors: int, candidates: int) -> _Positives:
    """The pairs in order, each as often as it is named."""
    keys = (pairs.select(1, 0).long() * candidates + pairs.select(1, 1)).sort().values
    ordered = torch.stack([keys // candidates, keys % candidates], 1)
    new = torch.nn.functional.pad(keys.diff() != 0, (1, 0), value=True)
    return _Positives(ordered, pairs.shape[0] == anchors, new)


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


def _check_negatives(anchors: Rows, negatives: Tensor, log_weights: Tensor | None, *, look: bool) -> None:
    """Raise InputError unless these are shared rows, or k rows for each anchor."""
    check_tensor(negatives, "negatives")
    if negatives.shape[-1] != anchors.shape[1] or negatives.ndim not in (2, 3) or not negatives.is_floating_point():
        raise InputError(
            f"negatives is {negatives.dtype} of shape {tuple(negatives.shape)}; expected floating-point rows, "
            f"(k, {anchors.shape[1]}) or ({anchors.shape[0]}, k, {anchors.shape[1]})"
        )
    if negatives.device != anchors.device:
        raise InputError(f"negatives is on {negatives.device} and anchors on {anchors.device}; move them to one device")
    if look or not negatives.numel():
        check_rows(negatives.detach().flatten(0, -2), "negatives")
    if negatives.ndim == 3 and negatives.shape[0] != anchors.shape[0]:
        sets, expected = negatives.shape[0], anchors.shape[0]
        raise InputError(f"negatives has {sets} sets for {expected} anchors; expected one for each")
    if log_weights is not None:
        check_tensor(log_weights, "negative_log_weights")
        if log_weights.shape != negatives.shape[:-1]:
            raise InputError(
                f"negative_log_weights has shape {tuple(log_weights.shape)}; expected one number for each of the "
                f"negatives: {tuple(negatives.shape[:-1])}"
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


def _mean_positives(candidates: Tensor, positives: _Positives, anchors: int) -> Float[Tensor, "n d"]:
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
