"""The sigmoid loss (SigLIP): every pair of the batch is a yes-or-no question of its own."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .._checks import InputError
from .._typing import Rows, Scalar
from ..reductions.tiled_infonce import row_scores
from ..reductions.tiled_sigmoid import softplus_sum
from ..reductions.tiles import OwnRow
from ._inputs import check_paired, check_shapes, checked_bound, checked_inverse_temperature, result_dtype
from .temperature import TemperedLoss


def sigmoid_loss(x: Rows, y: Rows, *, temperature: float | Tensor, bias: float | Tensor) -> Scalar:
    """The sigmoid loss of Zhai et al. 2023, in memory O(n d).

        L = -(1/n) sum_ij log sigmoid(z_ij (x_i.y_j / tau + b)),   z_ij = 1 if i = j, and -1 otherwise

    Rows are used as they are: pass unit rows for the cosine critic. Logits and sums are float32 (float64 for float64
    rows), one derivative, as in `symmetric_infonce`.

    Args:
        x: (n, d) embeddings of one modality, n >= 2.
        y: (n, d) embeddings of the other; row i belongs to row i of x.
        temperature: tau > 0, a number or a tensor that may need a gradient (SigLIP starts at 0.1).
        bias: b, a number or a tensor that may need a gradient (SigLIP starts at -10).

    Returns:
        The loss in nats, a scalar: the sum over all n^2 questions, divided by n.

    Raises:
        InputError: for anything but two equal-sized, finite, floating-point matrices of two rows or more.

    >>> x = torch.eye(2)
    >>> round(sigmoid_loss(x, x, temperature=1.0, bias=0.0).item(), 4)  # log(1 + exp(-1)) + log 2
    1.0064
    """
    check_shapes(x, y)
    check_paired(x, y)
    scale = checked_inverse_temperature(temperature, x.device)
    checked_bound(x, y, scale)
    offset = checked_bias(bias, x.device)
    pairs = softplus(-(row_scores(x, y, scale) + offset), threshold=40.0).sum()
    rest = softplus_sum(x, y, inverse_temperature=scale, bias=offset, exclusion=OwnRow())
    return ((pairs + rest) / len(x)).to(result_dtype(x, y))


def checked_bias(bias: float | Tensor, device: torch.device) -> Scalar:
    """The bias in double precision on the rows' device; raises InputError unless it is one finite number."""
    value = bias if isinstance(bias, Tensor) else torch.tensor(bias, dtype=torch.float64)
    if value.numel() != 1 or not math.isfinite(float(value.detach())):
        raise InputError("bias must be a single finite number (SigLIP starts at -10)")
    return value.to(device=device, dtype=torch.float64).reshape(())


class SigmoidLoss(TemperedLoss):
    """SigLIP's loss with its temperature and bias, both learned by default and neither clamped, as in the paper.

    Args:
        temperature: tau, or where it starts.
        bias: b, or where it starts.
        learn_temperature: learn log(1/tau).
        learn_bias: learn b.

    >>> loss = SigmoidLoss()
    >>> sorted(name for name, _ in loss.named_parameters())
    ['bias', 'log_scale']
    """

    def __init__(
        self,
        temperature: float = 0.1,
        bias: float = -10.0,
        *,
        learn_temperature: bool = True,
        learn_bias: bool = True,
    ) -> None:
        super().__init__(temperature, learn_temperature=learn_temperature, limits=None)
        value = checked_bias(bias, torch.device("cpu")).to(torch.get_default_dtype())
        self.bias: Tensor
        if learn_bias:
            self.bias = nn.Parameter(value)
        else:
            self.register_buffer("bias", value)

    def forward(self, x: Rows, y: Rows) -> Scalar:
        """The loss of one batch: (n, d), (n, d) -> scalar."""
        return sigmoid_loss(x, y, temperature=self.temperature, bias=self.bias)


__all__ = ["SigmoidLoss", "sigmoid_loss"]
