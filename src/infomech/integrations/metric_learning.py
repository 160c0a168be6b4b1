"""A loss that is called as pytorch-metric-learning calls its own."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .._checks import InputError, check_rows, check_same_width, check_temperature
from .._typing import Scalar
from ..reductions.exclusion import Exclusion, Only, SameGroup
from ..reductions.losses.infonce import row_log_sums, row_scores, score_bound

Mined = tuple[Tensor, ...]


class LabelledInfoNCE(nn.Module):
    """NT-Xent from class labels, as ``pytorch_metric_learning.losses.NTXentLoss``, in log domain and O(n d) memory.

        L = mean over positive pairs (a, p) of -log [e^s_ap / (e^s_ap + sum_n e^s_an)],   s = cosine / tau

    with n over the rows of another label.

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
        check_rows(embeddings, "embeddings")
        reference = embeddings if ref_emb is None else ref_emb
        check_rows(reference, "ref_emb")
        check_same_width(embeddings, reference)
        x, y = (torch.nn.functional.normalize(rows, dim=1) for rows in (embeddings, reference))
        pairs, exclusion = self._pairs_and_negatives(
            labels, labels if ref_emb is None else ref_labels, indices_tuple, same_set=ref_emb is None
        )
        if len(pairs) == 0:
            return (embeddings.sum() + reference.sum()) * 0.0  # no positive pair: 0, as in that library
        scale = torch.tensor(1.0 / self.temperature, dtype=torch.float64, device=x.device)
        negatives = row_log_sums(x, y, scale=scale, score_bound=score_bound(x, y, scale), exclusion=exclusion)
        score = row_scores(x[pairs[:, 0]], y[pairs[:, 1]], scale)
        losses = torch.logaddexp(negatives[pairs[:, 0]] - score, torch.zeros_like(score))
        return losses.mean().to(torch.float64 if x.dtype == torch.float64 else torch.float32)

    def _pairs_and_negatives(
        self, labels: Tensor | None, ref_labels: Tensor | None, mined: Mined | None, *, same_set: bool
    ) -> tuple[Int[Tensor, "p 2"], Exclusion]:
        if mined is not None:
            if len(mined) not in (3, 4):
                raise InputError(f"indices_tuple has {len(mined)} parts; expected 3 (triplets) or 4 (pairs)")
            anchors, positives, others, negatives = mined if len(mined) == 4 else (*mined[:2], mined[0], mined[2])
            return torch.stack([anchors, positives], 1), Only(torch.stack([others, negatives], 1))
        if labels is None or ref_labels is None:
            raise InputError("labels are missing (ref_labels too, if ref_emb is given); or pass indices_tuple")
        positive = labels[:, None] == ref_labels[None, :]
        if same_set:
            positive.fill_diagonal_(False)
        return torch.nonzero(positive), SameGroup(labels, ref_labels)


__all__ = ["LabelledInfoNCE"]
