"""The symmetric InfoNCE loss (CLIP's), with a weight on the batch's cross-modal divergence."""

import math

import torch
from torch import Tensor, nn

from .._checks import InputError, check_rows, check_same_width, check_temperature
from .._typing import Rows, Scalar


def symmetric_infonce(
    x: Rows, y: Rows, *, temperature: float | Tensor, divergence_weight: float | Tensor = 0.0
) -> Scalar:
    """InfoNCE in both directions, plus lambda times the batch's symmetric divergence.

        L = (L_xy + L_yx) / 2 + lambda Dsym,   L_xy = -mean_i log softmax_j(x_i.y_j / tau)[i]
        Dsym = (D_XY + D_YX) / 2
        D_XY = mean_i [log mean_{j != i} exp(x_i.x_j / tau) - log mean_{j != i} exp(x_i.y_j / tau)]

    Row i of ``x`` is paired with row i of ``y``; all other rows are negatives. **Rows are used as they are**: pass
    unit rows, as CLIP does, for the cosine critic.

    Args:
        x: (n, d) embeddings of one modality, n >= 2.
        y: (n, d) embeddings of the other.
        temperature: tau > 0, a number or a tensor that may need a gradient.
        divergence_weight: lambda; 0 is CLIP's loss, 3/4 is critical (T11), 1 replaces the cross-modal negatives of the
            energy by within-modality ones.

    Returns:
        The loss in nats, a scalar.

    Raises:
        InputError: for anything but two equal-sized, finite, floating-point matrices of two rows or more.

    Source: D7, E1, T11, C1.

    >>> x = torch.eye(3)
    >>> round(symmetric_infonce(x, x, temperature=1.0).item(), 4)  # log(1 + 2 exp(-1))
    0.5514
    """
    check_rows(x, "x")
    check_rows(y, "y")
    check_same_width(x, y)
    check_temperature(temperature)
    if x.shape[0] != y.shape[0]:
        raise InputError(f"x has {x.shape[0]} rows and y has {y.shape[0]}; row i of x is paired with row i of y")
    if x.shape[0] < 2:
        raise InputError("the batch holds one pair only; a contrastive loss needs negatives: two pairs or more")
    cross = x @ y.mT / temperature
    infonce = (cross.logsumexp(1) + cross.logsumexp(0)).mean() / 2 - cross.diagonal().mean()
    if isinstance(divergence_weight, float | int) and divergence_weight == 0:
        return infonce
    own = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)

    def others(logits: Tensor) -> Tensor:
        return logits.masked_fill(own, -math.inf)

    between = others(cross)
    within = others(x @ x.mT / temperature).logsumexp(1) + others(y @ y.mT / temperature).logsumexp(1)
    divergence = (within - between.logsumexp(1) - between.logsumexp(0)).mean() / 2
    return infonce + divergence_weight * divergence


class SymmetricInfoNCE(nn.Module):
    """CLIP's loss with a knob for the modality gap: `symmetric_infonce` with its temperature and weight.

    Args:
        temperature: tau, or its initial value when learned.
        divergence_weight: lambda; see `symmetric_infonce`.
        learn_temperature: learn log(1/tau), clamped to [0, log 100] as CLIP does: tau stays within [0.01, 1].

    >>> loss = SymmetricInfoNCE(temperature=0.07, divergence_weight=0.75)
    >>> x = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> bool(loss(x, x) > 0)
    True
    """

    def __init__(
        self, temperature: float = 0.07, divergence_weight: float = 0.0, learn_temperature: bool = False
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.divergence_weight = divergence_weight
        log_scale = torch.tensor(-math.log(temperature))
        self.log_scale: Tensor
        if learn_temperature:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
        self.learn_temperature = learn_temperature

    @property
    def temperature(self) -> Tensor:
        """Tau as it is used now."""
        scale = self.log_scale.clamp(0.0, math.log(100.0)) if self.learn_temperature else self.log_scale
        return torch.exp(-scale)

    def forward(self, x: Rows, y: Rows) -> Scalar:
        """The loss of one batch: (n, d), (n, d) -> scalar."""
        return symmetric_infonce(x, y, temperature=self.temperature, divergence_weight=self.divergence_weight)


__all__ = ["SymmetricInfoNCE", "symmetric_infonce"]
