"""The batch that holds one pair: the last of an epoch, often, and no reason to stop a training run."""

import warnings

from torch import Tensor

from .._typing import Scalar
from ..losses._inputs import result_dtype


def loss_of_one_pair(owner: object, *used: float | Tensor) -> Scalar:
    """0 with a graph, as the libraries' own losses return it; a warning, once for each loss."""
    if not getattr(owner, "_said_single", False):
        owner._said_single = True  # type: ignore[attr-defined]
        warnings.warn(
            "a batch holds one pair, which has nothing to be compared with: its loss is 0 (shown once; drop_last=True "
            "of a data loader leaves such a batch out)",
            stacklevel=3,
        )
    tensors = [t for t in used if isinstance(t, Tensor)]
    total = sum((t.double() * 0.0).sum() for t in tensors)
    assert isinstance(total, Tensor)
    return total.to(result_dtype(*(t for t in tensors if t.ndim == 2)))


__all__ = ["loss_of_one_pair"]
