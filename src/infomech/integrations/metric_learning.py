"""A loss that is called as pytorch-metric-learning calls its own."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .._checks import InputError, check_one_device, check_rows, check_same_width, check_temperature
from .._typing import Scalar
from ..losses._inputs import check_tensor, unit_rows
from ..losses.temperature import check_for_cosines
from ..reductions.exclusion import Exclusion, Only, SameGroup
from ..reductions.losses.infonce import row_log_sums, row_scores, score_bound
from ._single import loss_of_one_pair

Base = nn.Module
if not TYPE_CHECKING:
    with suppress(ImportError):  # DistributedLossWrapper takes subclasses of this one only
        from pytorch_metric_learning.losses import BaseMetricLossFunction as Base

Mined = Sequence[Tensor]


class LabelledInfoNCE(Base):
    """NT-Xent from class labels, as ``pytorch_metric_learning.losses.NTXentLoss``, in log domain and O(n d) memory.

        L = mean over positive pairs (a, p) of -log [e^s_ap / (e^s_ap + sum_n e^s_an)],   s = cosine / tau

    with n over the rows of another label, or over the negatives that a miner found for the anchor; a negative that it
    found k times counts k times, as there. That library's wrappers (CrossBatchMemory, SelfSupervisedLoss,
    DistributedLossWrapper) take this loss. As there, the loss is 0 without positives, without negatives, and where
    there is but one of each. Losses are computed in float32 (float64 for float64 rows), in half precision too, and are
    not cut off where the positive's share falls below the smallest number of the dtype (87 nats in float32).

    Args:
        temperature: tau (0.07 is that library's default).

    Source: D7, by labels.

    >>> z, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    >>> round(LabelledInfoNCE(temperature=1.0)(z, labels).item(), 4)  # log(1 + 2)
    1.0986
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        check_temperature(temperature)
        check_for_cosines(temperature)
        self.temperature = temperature

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | None = None,
        indices_tuple: Mined | None = None,
        ref_emb: Float[Tensor, "m d"] | None = None,
        ref_labels: Int[Tensor, " m"] | None = None,
    ) -> Scalar:
        """The loss of a batch.

        Args:
            embeddings: (n, d) rows; brought to unit length here, as that library does.
            labels: (n,) classes; needed unless `indices_tuple` is given.
            indices_tuple: pairs (anchors, positives, anchors, negatives) or triplets (anchors, positives, negatives)
                from a miner; they take the place of the labels.
            ref_emb: (m, d) rows to compare with; by default the embeddings themselves, and no row with itself.
            ref_labels: (m,) their classes.
        """
        reference = embeddings if ref_emb is None else ref_emb
        for rows, name in ((embeddings, "embeddings"), (reference, "ref_emb")):
            check_tensor(rows, name)
            check_rows(rows.detach(), name)
        check_same_width(embeddings, reference)
        check_one_device(embeddings, reference, ("embeddings", "ref_emb"))
        if labels is not None:
            labels = _checked_labels(labels, embeddings, "labels")
        if ref_emb is not None and ref_labels is not None:
            # Labels that are the same object belong to the same rows, as that library has it.
            same_set = ref_labels is labels
            ref_labels = _checked_labels(ref_labels, reference, "ref_labels")
        else:
            same_set = ref_emb is None
            ref_labels = labels if ref_emb is None else None
        if len(embeddings) == 1 and ref_emb is None:
            return loss_of_one_pair(self, embeddings)
        if indices_tuple is None:
            pairs, negatives, exclusion = _by_labels(labels, ref_labels, same_set=same_set)
        else:
            pairs, negatives, exclusion = _mined(indices_tuple, embeddings, reference)
        if len(pairs) == 0 or negatives == 0 or (len(pairs) == 1 and negatives == 1):
            return ((embeddings * 0.0).sum() + (reference * 0.0).sum()).to(_result_dtype(embeddings))
        x, y = unit_rows(embeddings), unit_rows(reference)
        scale = torch.tensor(1.0 / self.temperature, dtype=torch.float64, device=x.device)
        log_sums = row_log_sums(x, y, scale=scale, score_bound=score_bound(x, y, scale), exclusion=exclusion)
        score = row_scores(x[pairs[:, 0]], y[pairs[:, 1]], scale)
        losses = torch.logaddexp(log_sums[pairs[:, 0]] - score, torch.zeros_like(score))
        return losses.mean().to(_result_dtype(embeddings))

    def _get_name(self) -> str:
        return "LabelledInfoNCE"


# CrossBatchMemory and SelfSupervisedLoss go by this name: they take what is called as their NTXentLoss is.
LabelledInfoNCE.__name__ = "NTXentLoss"


def _result_dtype(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def _checked_labels(labels: Tensor, rows: Tensor, name: str) -> Tensor:
    check_tensor(labels, name)
    if tuple(labels.shape) != (len(rows),):
        raise InputError(f"{name} has shape {tuple(labels.shape)}; expected one number a row: ({len(rows)},)")
    return labels.to(rows.device)


def _by_labels(
    labels: Tensor | None, ref_labels: Tensor | None, *, same_set: bool
) -> tuple[Int[Tensor, "p 2"], int, Exclusion]:
    """The positive pairs, the number of negatives, and what is left out of the sums."""
    if labels is None or ref_labels is None:
        raise InputError("labels are missing (ref_labels too, if ref_emb is given); or pass indices_tuple")
    positive = labels[:, None] == ref_labels[None, :]
    negatives = positive.numel() - int(positive.sum())
    if same_set:
        positive.fill_diagonal_(False)
    return torch.nonzero(positive), negatives, SameGroup(labels, ref_labels)


def _mined(mined: Mined, rows: Tensor, reference: Tensor) -> tuple[Int[Tensor, "p 2"], int, Exclusion]:
    """The same from a miner's pairs or triplets."""
    if len(mined) not in (3, 4):
        raise InputError(f"indices_tuple has {len(mined)} parts; expected 3 (triplets) or 4 (pairs)")
    for part in mined:
        check_tensor(part, "indices_tuple")
    anchors, positives, *rest = (part.to(rows.device, torch.int64) for part in mined)
    others, negatives = rest if len(rest) == 2 else (anchors, rest[0])
    for chosen, at, size in ((anchors, positives, "positives"), (others, negatives, "negatives")):
        if chosen.shape != at.shape or chosen.ndim != 1:
            raise InputError(f"indices_tuple has {len(chosen)} anchors for {len(at)} {size}; expected one for each")
        beyond = (chosen < 0) | (chosen >= len(rows)) | (at < 0) | (at >= len(reference))
        if bool(beyond.any()):
            raise InputError(f"indices_tuple points outside the {len(rows)} rows and {len(reference)} to compare with")
    # A miner names a negative once for each triplet that it is part of.
    places, counts = torch.unique(others * len(reference) + negatives, return_counts=True)
    entries = torch.stack([places // len(reference), places % len(reference)], 1)
    log_weights = counts.double().log() if len(places) < len(negatives) else None
    return torch.stack([anchors, positives], 1), len(negatives), Only(entries, log_weights)


__all__ = ["LabelledInfoNCE"]
