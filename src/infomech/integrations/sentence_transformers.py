"""A loss that is called as sentence-transformers calls its own."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._checks import InputError, check_temperature
from .._typing import Rows, Scalar
from ..losses import Ranks, infonce, symmetric_infonce, symmetric_terms
from ..losses._inputs import NoNegativesError
from ..losses.agreement import told
from ..losses.temperature import check_for_cosines
from ._single import loss_of_one_pair


class SentenceSymmetricInfoNCE(nn.Module):
    """The symmetric in-batch loss of sentence-transformers, with a divergence weight and memory O(n d).

    With ``divergence_weight=0`` it is ``MultipleNegativesSymmetricRankingLoss(model, scale)`` on cosine similarities,
    ``MultipleNegativesRankingLoss`` with ``directions=("query_to_doc", "doc_to_query")`` and
    ``partition_mode="per_direction"``. Columns beyond the second are hard negatives, as there: they join the candidates
    of every anchor. A batch of one pair without hard negatives is 0, as there, with one warning. Prompts, Matryoshka's
    wrapper (``MatryoshkaLoss(model, loss, dims)``) and one forward for columns of like width are that library's, and
    work as with its own losses.

    Args:
        model: a ``SentenceTransformer``, or any module that returns ``{"sentence_embedding": (n, d)}``.
        scale: 1/tau; 20 is that library's default.
        divergence_weight: lambda of `infomech.losses.symmetric_infonce`, of the first two columns.
        ranks: ``Ranks()`` if the batch is sharded over processes; every rank needs as many columns.
        gather_across_devices: that library's word for it: ``Ranks()`` where a process group is at work, nothing
            elsewhere.

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
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        check_temperature(1.0 / scale if scale else 0.0, "1 / scale")
        check_for_cosines(1.0 / scale)
        self.model = model
        self.scale = scale
        self.divergence_weight = divergence_weight
        self.ranks = ranks
        self.gather_across_devices = gather_across_devices

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Scalar:
        """Embed the columns of a batch (anchors, positives, hard negatives) and return their loss, without labels."""
        return self.compute_loss_from_embeddings(_embedded(self.model, list(sentence_features)), labels)

    def compute_loss_from_embeddings(self, embeddings: Sequence[Rows], labels: Tensor | None = None) -> Scalar:
        """The loss of embeddings that are at hand."""
        ranks = self.ranks
        if ranks is None and self.gather_across_devices and dist.is_available() and dist.is_initialized():
            ranks = Ranks()
        x, y, *hard = told(ranks, lambda: _columns(embeddings))
        try:
            if hard:
                return self._with_hard_negatives(x, y, hard, ranks)
            return symmetric_infonce(
                x,
                y,
                logit_scale=self.scale,
                divergence_weight=self.divergence_weight,
                normalize=True,
                ranks=ranks,
            )
        except NoNegativesError:
            return loss_of_one_pair(self, x, y)

    def _with_hard_negatives(self, x: Rows, y: Rows, hard: Sequence[Rows], ranks: Ranks | None) -> Scalar:
        """Anchors against all positives and hard negatives, positives against all anchors."""
        call: dict[str, Any] = {"logit_scale": self.scale, "normalize": True, "ranks": ranks}
        if ranks is None:
            to_documents = infonce(x, y, negatives=torch.cat(list(hard)), **call)
        else:  # sets of each pair's own: ranks may have other numbers of pairs
            sets = told(ranks, lambda: torch.stack(list(hard), 1))
            to_documents = infonce(x, y, negatives=sets, share_negatives=True, **call)
        try:
            loss = (to_documents + infonce(y, x, **call)) / 2
        except NoNegativesError:  # one pair: the other direction is 0
            return to_documents / 2
        if self.divergence_weight:
            divergence = symmetric_terms(x, y, **call).divergence
            assert divergence is not None
            loss = loss + self.divergence_weight * divergence
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that a model card shows."""
        return {
            "scale": self.scale,
            "divergence_weight": self.divergence_weight,
            "gather_across_devices": self.gather_across_devices or self.ranks is not None,
        }

    @property
    def temperature(self) -> float:
        """The temperature tau, 1 / scale."""
        return 1.0 / self.scale

    @property
    def citation(self) -> str:
        """The papers behind it, in BibTeX: a model card shows them."""
        return _CITATION


_CITATION = """
@inproceedings{radford2021learning,
    title={Learning Transferable Visual Models From Natural Language Supervision},
    author={Radford, Alec and Kim, Jong Wook and Hallacy, Chris and others},
    booktitle={International Conference on Machine Learning},
    year={2021},
}
@misc{cai2026geometric,
    title={The Geometric Mechanics of Contrastive Representation Learning: Alignment Potentials, Entropic Dispersion,
        and Cross-modal Divergence},
    author={Cai and Zhang and Liu and Shi},
    year={2026},
    eprint={2601.19597},
    archivePrefix={arXiv},
}
"""


def _columns(embeddings: Sequence[Rows]) -> Sequence[Rows]:
    if len(embeddings) < 2:
        raise InputError(f"a batch has {len(embeddings)} columns; expected anchors and positives, or more")
    return embeddings


def _embedded(model: nn.Module, columns: list[dict[str, Any]]) -> list[Tensor]:
    """Every column's embeddings; by that library's merged forward of like columns, where it is there and has one."""
    merged = getattr(sys.modules.get("sentence_transformers.base.losses.merged_forward"), "embed_columns", None)
    if merged is not None:
        found: list[Tensor] = merged(model, columns)
        return found
    return [model(features)["sentence_embedding"] for features in columns]


__all__ = ["SentenceSymmetricInfoNCE"]
