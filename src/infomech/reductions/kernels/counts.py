"""How many entries of each row or column of a tile of similarities lie above a value of its own, and near it."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import cdiv
from .launch import cached, launched
from .tile import far

_KEPT, _COUNTED = 32, 128


@triton.jit(do_not_specialize=["count", "others"])
@no_type_check
def _counts_above(
    S, HIGH, LOW, ABOVE, NEAR, count, others, kept_stride, counted_stride,
    KEPT: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """Entries above the high bound, and those above the low one that are not: all at once for some rows."""
    r = tl.program_id(0) * KEPT + tl.arange(0, KEPT)
    inside = r < count
    high, low = tl.load(HIGH + r, mask=inside, other=0.0), tl.load(LOW + r, mask=inside, other=0.0)
    above, over = tl.zeros((KEPT,), tl.int32), tl.zeros((KEPT,), tl.int32)
    for start in range(0, others, COUNTED):
        c = start + tl.arange(0, COUNTED)
        at = far(r, kept_stride)[:, None] + far(c, counted_stride)[None, :]
        s = tl.load(S + at, mask=inside[:, None] & (c < others)[None, :], other=float("-inf"))
        above += tl.sum((s > high[:, None]).to(tl.int32), 1)
        over += tl.sum((s > low[:, None]).to(tl.int32), 1)
    tl.store(ABOVE + r, above.to(tl.float64), mask=inside)
    tl.store(NEAR + r, (over - above).to(tl.float64), mask=inside)


def counts_above(similarity: Tensor, high: Tensor, low: Tensor, *, transposed: bool = False) -> tuple[Tensor, Tensor]:
    """Entries of each row (column, if transposed) above `high`, and those between `low` and `high`; (n,) float64.

    Args:
        similarity: (a, b) the tile, float32.
        high: (n,) bounds in the tile's dtype.
        low: (n,) lower bounds.
        transposed: count along the columns.
    """
    (kept_stride, counted_stride), (count, others) = similarity.stride(), similarity.shape
    if transposed:
        kept_stride, counted_stride, count, others = counted_stride, kept_stride, others, count
    above, near = (torch.empty(count, dtype=torch.float64, device=similarity.device) for _ in range(2))
    launched(
        similarity.device,
        lambda: cached(_counts_above)[(cdiv(count, _KEPT),)](
            similarity, high, low, above, near, count, others, kept_stride, counted_stride,
            KEPT=_KEPT, COUNTED=_COUNTED, num_warps=4,
        ),
    )  # fmt: skip
    return above, near


__all__ = ["counts_above"]
