"""A loss that is called as sentence-transformers calls its own."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from .._checks import InputError, check_temperature
from .._typing import Rows, Scalar
from ..losses import Ranks, symmetric_infonce
from ..losses._inputs import NoNegativesError
from ..losses.distributed import fail_everywhere
from ._single import loss_of_one_pair


class SentenceSymmetricInfoNCE(nn.Module):
    """The symmetric in-batch loss of sentence-transformers, with a divergence weight and memory O(n d).

    With ``divergence_weight=0`` it is ``MultipleNegativesSymmetricRankingLoss(model, scale)`` on cosine similarities. A
    batch of one pair is 0, as there, and said once.

    Args:
        model: a ``SentenceTransformer``, or any module that returns ``{"sentence_embedding": (n, d)}``.
        scale: 1/tau; 20 is that library's default.
        divergence_weight: lambda of `infomech.losses.symmetric_infonce`.
        ranks: ``Ranks()`` if the batch is sharded over processes.

    Source: D7, T11, C1.

    >>> import torch
    >>> loss = SentenceSymmetricInfoNCE(torch.nn.Identity(), scale=1.0)
    >>> x = torch.eye(3)
    >>> round(loss([{"sentence_embedding": x}, {"sentence_embedding": x}], torch.empty(0)).item(), 4)
    0.5514
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        *,
        divergence_weight: float = 0.0,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        check_temperature(1.0 / scale if scale else 0.0, "1 / scale")
        self.model = model
        self.scale = scale
        self.divergence_weight = divergence_weight
        self.ranks = ranks

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Scalar:
        """Embed the two columns of a batch (anchors, positives) and return their loss; labels are not used."""
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: Sequence[Rows], labels: Tensor | None = None) -> Scalar:
        """The loss of embeddings that are there already; rows are brought to unit length."""
        if len(embeddings) != 2:
            wrong = InputError(
                f"a batch has {len(embeddings)} columns of sentences; this loss takes two, anchors and positives "
                "(for explicit negatives use infomech.losses.infonce)"
            )
            if self.ranks is not None:
                fail_everywhere(self.ranks, wrong)
            raise wrong
        x, y = embeddings
        try:
            return symmetric_infonce(
                x,
                y,
                logit_scale=self.scale,
                divergence_weight=self.divergence_weight,
                normalize=True,
                ranks=self.ranks,
            )
        except NoNegativesError:
            return loss_of_one_pair(self, x, y)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that a model card shows."""
        return {"scale": self.scale, "divergence_weight": self.divergence_weight}


__all__ = ["SentenceSymmetricInfoNCE"]
