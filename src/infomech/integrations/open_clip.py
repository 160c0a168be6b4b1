"""Losses that are called as open_clip calls its own."""

from typing import Literal, overload

from torch import Tensor, nn

from .._typing import Rows, Scalar
from ..losses import Ranks, symmetric_infonce
from ..losses._inputs import NoNegativesError
from ..losses.sigmoid import SigmoidRequest, sigmoid_of
from ._single import loss_of_one_pair


class OpenClipLoss(nn.Module):
    """A drop-in for ``open_clip.ClipLoss`` with a divergence weight, and memory that grows with n, not n^2.

    open_clip's model holds the temperature: its training loop passes ``logit_scale``, exponentiated already, and clamps
    the parameter by itself. The model's features are unit rows. A batch of one pair is 0, as there, with one warning.

    Args:
        divergence_weight: lambda of `infomech.losses.symmetric_infonce`; 0 is open_clip's own loss.
        ranks: ``Ranks()`` if the batch is sharded over processes; what ``gather_with_grad=True`` with
            ``local_loss=False`` does, at O(n d) memory and with gradients of the right size.

    Source: D7, T11, C1.

    >>> import torch
    >>> x = torch.eye(3)
    >>> losses = OpenClipLoss()(x, x, torch.tensor(1.0), output_dict=True)
    >>> {name: round(value.item(), 4) for name, value in losses.items()}
    {'contrastive_loss': 0.5514}
    """

    def __init__(self, divergence_weight: float = 0.0, *, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.divergence_weight = divergence_weight
        self.ranks = ranks

    @overload
    def forward(
        self,
        image_features: Rows,
        text_features: Rows,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = ...,
        output_dict: Literal[False] = ...,
    ) -> Scalar: ...
    @overload
    def forward(
        self,
        image_features: Rows,
        text_features: Rows,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = ...,
        *,
        output_dict: Literal[True],
    ) -> dict[str, Scalar]: ...
    def forward(
        self,
        image_features: Rows,
        text_features: Rows,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Scalar | dict[str, Scalar]:
        """The loss, alone or in a dictionary of losses, whose values open_clip adds up.

        A bias that all logits share leaves a softmax as it is: its gradient is 0, and it is there, since
        DistributedDataParallel stops at a parameter that got none (a model that was built for SigLIP).
        """
        try:
            loss = symmetric_infonce(
                image_features,
                text_features,
                logit_scale=logit_scale,
                divergence_weight=self.divergence_weight,
                ranks=self.ranks,
            )
        except NoNegativesError:
            loss = loss_of_one_pair(self, image_features, text_features, logit_scale)
        if isinstance(logit_bias, Tensor) and logit_bias.requires_grad:
            loss = loss + (logit_bias.sum() * 0.0).to(loss.dtype)
        return {"contrastive_loss": loss} if output_dict else loss


class OpenClipSigmoidLoss(nn.Module):
    """A drop-in for ``open_clip.SigLipLoss`` with memory that grows with n, not n^2; one pair has its own question.

    Args:
        ranks: ``Ranks()`` if the batch is sharded over processes.

    >>> import torch
    >>> x = torch.eye(2)
    >>> round(OpenClipSigmoidLoss()(x, x, 1.0, 0.0).item(), 4)
    1.0064
    """

    def __init__(self, *, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.ranks = ranks

    def forward(
        self,
        image_features: Rows,
        text_features: Rows,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor,
        output_dict: bool = False,
    ) -> Scalar | dict[str, Scalar]:
        """The loss, alone or in a dictionary of losses."""
        request = SigmoidRequest(None, logit_scale, logit_bias, fewest=1)
        loss = sigmoid_of(image_features, text_features, request, self.ranks)
        return {"contrastive_loss": loss} if output_dict else loss


__all__ = ["OpenClipLoss", "OpenClipSigmoidLoss"]
