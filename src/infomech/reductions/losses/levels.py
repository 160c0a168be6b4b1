"""At which level a forward sweep sums its exponentials, and what of it values and gradients need."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..._typing import OtherRows, Rows
from ..exclusion import Exclusion
from ..kernels.configs import extent_programs
from ..log_sums import LogSums
from ..shifts import fixed_shift, underflowed
from ..tiling import compute_dtype
from .terms import NegativeTerms, spread_of

Vector = Float[Tensor, " k"]
Vectors = Float[Tensor, "*many k"]


def score_bound(x: Rows, y: OtherRows, scale: Tensor) -> float:
    """A bound on |scale x_i.y_j| and on the scores within modalities: the larger squared norm, times the scale.

    NaN or infinite if a row is not finite, or if the bound leaves double precision.
    """
    largest, factor = score_extent(x, y, scale)
    return largest * largest * factor


def score_extent(x: Rows, y: OtherRows, scale: Tensor) -> tuple[float, float]:
    """The largest norm of a row and the size of the scale; NaN or infinite if a row is not finite."""
    norms = [
        torch.linalg.vector_norm(z.detach(), dim=1, dtype=compute_dtype(z)).max().to(torch.float64)
        for z in (x, y)
        if len(z)  # a rank may have no rows
    ]
    numbers = torch.stack([*norms, scale.detach().abs().to(torch.float64)]).tolist()
    largest = [_largest_norm(z) for z in (x, y)] if math.inf in numbers[:-1] else numbers[:-1]
    # max() passes NaN over unless it comes first.
    return math.nan if any(math.isnan(v) for v in largest) else max(largest, default=0.0), numbers[-1]


def _largest_norm(rows: Rows) -> float:
    """The largest norm where squares of the rows' numbers leave their precision; infinite if a number is."""
    size = float(rows.detach().abs().max()) if len(rows) else 0.0
    if not 0.0 < size < math.inf:
        return size
    return size * float(torch.linalg.vector_norm(rows.detach().to(torch.float64) / size, dim=1).max())


def shift_for(
    rows: tuple[Rows, OtherRows],
    scale: Tensor,
    *,
    bound: float | None,
    exclusion: Exclusion,
    terms: tuple[NegativeTerms | None, ...],
) -> float | None:
    """The shift that serves all scores; None, for running maxima, where there is none.

    Which shift serves depends on values. A CPU reads them at once. An accelerator is waited for, since running maxima
    take twice the time there, but not while its work is captured in a graph.
    """
    if rows[0].device.type != "cpu" and not may_wait(rows[0].device):
        return None
    bound = score_bound(*rows, scale) if bound is None else bound
    return fixed_shift(bound + exclusion.headroom, compute_dtype(*rows), spread=spread_of(*terms))


def may_wait(device: torch.device) -> bool:
    """Whether a number on an accelerator may be read: not while a CUDA graph is captured, nor of tensors not there."""
    return device.type == "cuda" and torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing()


def with_safe_shift(
    sweep: Callable[[float | None], list[LogSums]], shift: float | None, dtype: torch.dtype, entries: int
) -> tuple[float | None, list[LogSums]]:
    """Sweep with a fixed shift, and again with running maxima in the rare case that the shift lost digits."""
    if shift is not None:
        sums = sweep(shift)
        lost = torch.stack([underflowed(part, entries, dtype) for part in sums]).any()
        if not bool(lost):
            return shift, sums
    return None, sweep(None)


def as_tensor(shift: float | None) -> Tensor:
    """A shift as the backward is handed it, on the CPU, where it is read at no cost: infinity for none."""
    return torch.full((), math.inf if shift is None else shift, dtype=torch.float64)


def as_number(shift: Tensor) -> float | None:
    """The shift of `as_tensor`."""
    value = float(shift)
    return None if value == math.inf else value


def boundless(device: torch.device) -> Tensor:
    """What stands for the extents of rows, (2, 2, k), that kernels find: infinite, so that none takes a level of 0."""
    return torch.full((2, 2, extent_programs(device)), math.inf, dtype=torch.float32, device=device)


def positive_scores(rounded: Vectors, exact: Vectors, negatives: Vectors) -> Vectors:
    """The pairs' scores with the rounding that serves the loss best.

    Where negatives are as near as the positive (duplicates, collapse) their scores carry the same rounding as the
    positive's own tile entry, and it cancels; where the positive stands out, only its exact score keeps the digits.
    """
    rounded = rounded.to(exact.dtype)
    return torch.where(negatives > rounded - 1.0, rounded, exact)


def per_total(cotangent: Vectors, total: Vectors) -> Vectors:
    """The cotangent of a log-sum over its total: what exp(score - peak) is multiplied by; 0 for an empty sum.

    The level of the exponentials is the peak by itself: a log-sum, peak + log(total), rounds the total away where
    scores are large, and with it the softmax of what ties at the top.
    """
    return torch.where(total > 0, cotangent / total, 0.0)


def above_all_scores(levels: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """The same sums at levels that no score exceeds, float32 numbers just above the log-sums, and their totals there.

    Kernels sum scores of moderate size at level 0; tiles take every level that is not a common shift for a largest
    score. The total follows the level in double precision, so that no digit is lost.
    """
    above = (totals.log() + levels).to(torch.float32)
    above = torch.nextafter(above, torch.full_like(above, torch.inf)).to(levels.dtype)
    there = totals > 0
    return torch.where(there, above, -torch.inf), torch.where(there, totals * torch.exp(levels - above), 0.0)


def without_terms(log_sums: Vector, terms: Vector | None) -> Vector:
    """Log-sums to be compared with bare scores: less the own row's term, where that is finite."""
    return log_sums if terms is None else log_sums - torch.where(terms == -torch.inf, 0.0, terms)


__all__ = [
    "above_all_scores",
    "as_number",
    "as_tensor",
    "boundless",
    "per_total",
    "positive_scores",
    "score_bound",
    "score_extent",
    "shift_for",
    "with_safe_shift",
    "without_terms",
]
