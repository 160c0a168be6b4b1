"""What the gradient of a batch of N negatives is worth: error and cosine against that with all the data (E8)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._shown import Fields
from ..reductions import RowTerms, few_launches
from .batch_tables import Batches
from .estimate import Estimate
from .uncertainty import block_jackknife, symmetric_interval

_ANCHORS, _SETS, _BATCHES = 256, 32, 4  # anchors, in sets of equal size; random batches that each set meets


@dataclass(frozen=True, repr=False)
class BatchGradient(Fields):
    """The gradient at the embeddings with N random negatives, against that with all other groups as negatives.

    ``error`` is sqrt(E |g_N - g|^2 / E |g|^2), ``cosine`` E g_N.g / sqrt(E |g_N|^2 E |g|^2), over anchors, batches and
    both directions; above an error of 1 the gradient is mostly noise. As N reaches the groups of the data the error
    falls to 0 whatever the law: the data cannot say what they do not hold.
    """

    negatives: int
    error: Estimate
    cosine: Estimate


def batch_gradients(
    batches: Batches, *, temperature: float, negatives: Sequence[int], seed: int = 0
) -> list[BatchGradient]:
    """Gradient of each anchor's loss with respect to its own embedding, at each N; on the sphere its tangent part.

    Up to 256 groups lend an anchor each. Negatives are other groups' lent pairs, the positive stands in the
    denominator, and the gradient is minus the partner plus the mean under the softmax, over tau; what a critic adds to
    the anchor alone cancels in it. The interval is the jackknife's over 32 sets of anchors, each of which meets four
    random batches of its own.

    Source: E8, T2.
    """
    sample = batches.sample
    pairs = sample.pairs[batches.lent]
    generator = torch.Generator().manual_seed(seed)
    x, y = sample.x.values[pairs[:, 0]], sample.y.values[pairs[:, 1]]
    sides = (
        _Side.of(x, y, sample.row_terms(0, 1), pairs[:, 1], unit=sample.unit),
        _Side.of(y, x, sample.row_terms(1, 0), pairs[:, 0], unit=sample.unit),
    )
    anchors = torch.arange(min(_ANCHORS, sample.groups), device=pairs.device)
    sets = anchors.chunk(min(_SETS, len(anchors)))
    truths = [_gradients(side, anchors, None, temperature).split(len(sets[0])) for side in sides]
    most = min(max(negatives) + 1, sample.groups)
    orders = [  # of each set, side and batch: the drawn groups, of which every N takes the first
        torch.stack([torch.randperm(sample.groups, generator=generator)[:most] for _ in range(_BATCHES)])
        for _ in range(len(sets) * len(sides))
    ]
    drawn = torch.stack(orders).to(anchors.device)
    gathered = []
    for at_once in _sets_at_once(sets):  # sets of one size, side by side
        chosen = torch.stack([sets[k] for k in at_once])
        sums = torch.zeros(len(negatives), len(at_once), 4, dtype=torch.float64, device=anchors.device)
        for s, side in enumerate(sides):
            truth = torch.stack([truths[s][k] for k in at_once])
            for batch in range(_BATCHES):
                order = drawn[[len(sides) * k + s for k in at_once], batch]
                for at, count in enumerate(negatives):
                    sums[at] += _moments(_gradients(side, chosen, order[:, : count + 1], temperature), truth)
        gathered.append(sums)
    moments = torch.cat(gathered, 1).cpu()
    groups = torch.tensor([len(c) for c in sets], dtype=torch.float64)
    every = sample.groups - 1  # there both gradients are one, and what they differ by is rounding
    return [
        BatchGradient(count, Estimate.exact(0.0), Estimate.exact(1.0))
        if count >= every
        else _estimate(count, moments[at], groups)
        for at, count in enumerate(negatives)
    ]


@dataclass(frozen=True)
class _Side:
    """One direction: the groups' lent rows, and the critic's scores slope x.y + terms, up to terms of the anchor."""

    anchors: Float[Tensor, "g d"]
    others: Float[Tensor, "g d"]
    slope: float
    terms: Float[Tensor, " g"]
    unit: bool

    @classmethod
    def of(cls, anchors: Tensor, others: Tensor, terms: RowTerms, at: Tensor, *, unit: bool) -> "_Side":
        added = torch.zeros(len(others), dtype=torch.float64, device=others.device)
        return cls(anchors, others, terms.slope, added if terms.y is None else terms.y[at].double(), unit)


def _sets_at_once(sets: Sequence[Tensor]) -> list[list[int]]:
    """Places of the sets that are done side by side: one on a CPU, elsewhere all of one size."""
    if not few_launches(sets[0].device):
        return [[k] for k in range(len(sets))]
    sizes = [len(chosen) for chosen in sets]
    return [[k for k, size in enumerate(sizes) if size == wanted] for wanted in dict.fromkeys(sizes)]


def _gradients(
    side: _Side, anchors: Int[Tensor, "... a"], drawn: Int[Tensor, "... m"] | None, tau: float
) -> Float[Tensor, "... a d"]:
    """Gradient of each anchor's loss up to a factor; of the drawn groups its own is left out, or else the last one.

    With none drawn, against all other groups.
    """
    rows, terms = (side.others, side.terms) if drawn is None else (side.others[drawn], side.terms[drawn])
    own, partners = side.anchors[anchors], side.others[anchors]
    logits = (side.slope * (own @ rows.mT).double() + terms[..., None, :]) / tau
    among = torch.arange(len(rows), device=rows.device) if drawn is None else drawn
    mine = anchors[..., :, None] == among[..., None, :]
    mine[..., -1] |= ~mine.any(-1)
    logits.masked_fill_(mine, -torch.inf)
    positive = (side.slope * (own * partners).sum(-1).double() + side.terms[anchors]) / tau
    shares = torch.cat([positive[..., None], logits], -1).softmax(-1)
    negatives = shares[..., 1:].to(rows.dtype) @ rows
    gradient = negatives.double() - (1 - shares[..., :1]) * partners.double()
    if not side.unit:
        return gradient
    at = own.double()
    return gradient - (gradient * at).sum(-1, keepdim=True) * at


def _moments(found: Float[Tensor, "s a d"], truth: Float[Tensor, "s a d"]) -> Float[Tensor, "s 4"]:
    """Sums over anchors of |g_N - g|^2, |g|^2, |g_N|^2 and g_N.g."""
    pairs = ((found - truth, found - truth), (truth, truth), (found, found), (found, truth))
    return torch.stack([(a * b).sum((1, 2)) for a, b in pairs], 1)


def _estimate(negatives: int, moments: Float[Tensor, "s 4"], sizes: Float[Tensor, " s"]) -> BatchGradient:
    def measures(m: Tensor) -> Tensor:
        m = m.clamp_min(1e-300)
        cosine = m[..., 3] / (m[..., 1] * m[..., 2]).sqrt()
        return torch.stack([(m[..., 0] / m[..., 1]).sqrt(), cosine], -1)

    total = moments.sum(0)
    full, replicates = measures(total), measures(total - moments)
    _, stderr = block_jackknife(full, replicates, sizes)
    error, cosine = (symmetric_interval(float(v), float(e), len(sizes) - 1) for v, e in zip(full, stderr, strict=True))
    return BatchGradient(negatives, error, cosine)


__all__ = ["BatchGradient", "batch_gradients"]
