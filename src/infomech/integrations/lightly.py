"""A loss that is called as lightly calls its own."""

import torch
from torch import nn

from .._checks import InputError, check_one_device, check_same_width, check_temperature
from .._typing import Rows, Scalar
from ..losses import Ranks, infonce
from ..losses._inputs import NoNegativesError, check_paired, check_tensor
from ..losses.agreement import told
from ..losses.temperature import check_for_cosines
from ._single import loss_of_one_pair


class TwoViewInfoNCE(nn.Module):
    """NT-Xent of two views (SimCLR), as ``lightly.loss.NTXentLoss``, in memory O(n d).

        L = mean over the 2n views z_i of -log [e^s_ip / sum_{j != i} e^s_ij],   s = cosine / tau

    where p is the other view of i and j runs over all other views. For its memory bank see `infomech.losses.InfoNCE`.
    A batch of one pair is 0, with one warning: there is nothing to compare with.

    Args:
        temperature: tau; 0.5 is that library's default.
        ranks: ``Ranks()`` if the batch is sharded over processes, as with its ``gather_distributed=True``.

    Source: D7; Chen et al. 2020.

    >>> import torch
    >>> x = torch.eye(3)
    >>> round(TwoViewInfoNCE(temperature=1.0)(x, x).item(), 4)
    0.9048
    """

    def __init__(self, temperature: float = 0.5, *, ranks: Ranks | None = None) -> None:
        super().__init__()
        check_temperature(temperature)
        check_for_cosines(temperature)
        self.temperature = temperature
        self.ranks = ranks

    def forward(self, out0: Rows, out1: Rows) -> Scalar:
        """The loss of two views of n samples: (n, d), (n, d); row i of each shows the same sample."""
        told(self.ranks, lambda: _check(out0, out1))
        n = len(out0)
        if n == 1 and self.ranks is None:
            return loss_of_one_pair(self, out0, out1)
        views = torch.cat([out0, out1])
        partner = torch.arange(2 * n, device=views.device).roll(n)
        try:
            return infonce(
                views,
                views,
                temperature=self.temperature,
                positives=partner,
                exclude_own=True,
                normalize=True,
                ranks=self.ranks,
            )
        except NoNegativesError:
            return loss_of_one_pair(self, out0, out1)


def _check(out0: Rows, out1: Rows) -> None:
    for rows, name in ((out0, "out0"), (out1, "out1")):
        check_tensor(rows, name)
        if rows.ndim != 2:
            raise InputError(f"{name} has shape {tuple(rows.shape)}; expected a view's embeddings: (n, d)")
    check_paired(out0, out1)
    check_same_width(out0, out1)
    check_one_device(out0, out1, ("out0", "out1"))


__all__ = ["TwoViewInfoNCE"]
