"""What a density ratio is given, checked in one voice, and made ready."""

import math
from typing import Any

import torch
from jaxtyping import Int
from sklearn.base import clone
from torch import Tensor

from .._checks import InputError, check_choice, shown
from .._typing import PairsLike
from ..corrections import Correction
from .fields import NO_GROUP, Field

HELD_OUT = "held-out"


def check_weights(weights: Any) -> tuple[float, float] | None:
    """Two finite numbers that sum to 1; None for those that are to be measured.

    >>> check_weights((0.5, 0.5))
    (0.5, 0.5)
    """
    if isinstance(weights, str):
        if weights == HELD_OUT:
            return None
        raise InputError(f"weights is {weights!r}; give two numbers that sum to 1, or {HELD_OUT!r}")
    try:
        first, second = (float(weight) for weight in weights)
    except (TypeError, ValueError):
        raise InputError(f"weights is {shown(weights)}; give two numbers that sum to 1, or {HELD_OUT!r}") from None
    if not (math.isfinite(first) and math.isfinite(second) and abs(first + second - 1) < 1e-9):
        raise InputError(
            f"weights is ({first:g}, {second:g}); give two finite numbers that sum to 1: (0.5, 0.5) for the symmetric "
            "loss, (1, 0) for x to y alone, (0, 1) for y to x"
        )
    return first, second


def fitted_correction(
    correction: Correction | None, x: Tensor, y: Tensor, pairs: PairsLike | None
) -> Correction | None:
    """The correction, fitted on the reference if it is not yet; what was given stays as it was."""
    if not isinstance(correction, Correction | None):
        raise InputError(f"correction is {shown(correction)}; give one of infomech.corrections, Whitening() say")
    if correction is None or correction.fitted:
        return correction
    fresh: Correction = clone(correction)
    return fresh.fit(x, y, pairs=pairs)


def checked_side(side: str) -> str:
    """The name of a side."""
    check_choice(side, "side", ("x", "y"))
    return side


def checked_groups(groups: Any, count: int, name: str) -> Int[Tensor, " n"]:
    """A group of the reference for each row, -1 for none."""
    if groups is None:
        return torch.full((count,), NO_GROUP, dtype=torch.int64)
    try:
        groups = torch.as_tensor(groups)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(
            f"{name} is {shown(groups)}; give one group of the reference for each row, -1 for none"
        ) from None
    if groups.shape != (count,) or groups.is_floating_point():
        raise InputError(
            f"{name} has shape {tuple(groups.shape)} and {groups.dtype}; give one group of the reference for each of "
            f"the {count} rows, -1 for none"
        )
    numbers: Tensor = groups.long()
    return numbers


def checked_rows(rows: Any, n: int, m: int) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Row numbers of x and of y, one of each for every pair."""
    if not isinstance(rows, tuple | list) or len(rows) != 2:
        raise InputError(f"rows is {shown(rows)}; give row numbers of x and of y, two lists of one length")
    pairs = _numbers_of(rows)
    for side, numbers, count in zip("xy", pairs, (n, m), strict=True):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
            raise InputError(f"rows names a row of {side} that is none; {side} has rows 0 to {count - 1}")
    return pairs


def _numbers_of(rows: Any) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Two lists of whole numbers as tensors."""
    try:
        first, second = (torch.as_tensor(each).cpu() for each in rows)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        first = second = torch.zeros(())
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    if first.ndim != 1 or first.shape != second.shape or first.dtype not in kinds or second.dtype not in kinds:
        raise InputError(f"rows is {shown(rows)}; give row numbers of x and of y, two lists of one length")
    return first.long(), second.long()


def unit_rows(rows: Tensor, name: str) -> Tensor:
    """Rows of unit length, computed in float64."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    if not bool(torch.isfinite(norms).all()):
        raise InputError(f"{name} has rows of a length whose square leaves float64; divide {name} by a constant first")
    if bool((norms == 0).any()):
        raise InputError(f"{name} has zero rows; they have no direction: remove them")
    scaled_rows: Tensor = rows * (1 / norms).to(torch.promote_types(rows.dtype, torch.float32))
    return scaled_rows


def inner_products(x: Tensor, y: Tensor) -> Tensor:
    """Of matching rows, float64."""
    products: Tensor = x.double() * y.double()
    return products.sum(1)


def joined_fields(parts: list[Field]) -> Field:
    """Fields of consecutive rows as one."""
    if len(parts) == 1:
        return parts[0]
    columns = ([part.log_mean for part in parts], [part.effective for part in parts], [part.drawn for part in parts])
    joined = [torch.cat([c for c in column if c is not None]) if column[0] is not None else None for column in columns]
    assert joined[0] is not None
    return Field(joined[0], joined[1], joined[2])


__all__ = [
    "HELD_OUT",
    "check_weights",
    "checked_groups",
    "checked_rows",
    "checked_side",
    "fitted_correction",
    "inner_products",
    "joined_fields",
    "unit_rows",
]
