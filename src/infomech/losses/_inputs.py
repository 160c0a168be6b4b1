"""Checks and conversions that the losses share."""

import math

import torch
from torch import Tensor

from .._checks import InputError, check_rows, check_same_width, check_temperature
from .._typing import OtherRows, Rows, Scalar
from ..reductions.losses.infonce import score_bound


def checked_inverse_temperature(temperature: float | Tensor, device: torch.device) -> Scalar:
    """1/tau in double precision on the rows' device; differentiable if the temperature is."""
    check_temperature(temperature)
    if not isinstance(temperature, Tensor):
        return torch.tensor(1.0 / temperature, dtype=torch.float64, device=device)
    if temperature.numel() != 1:
        raise InputError(f"temperature is a tensor of shape {tuple(temperature.shape)}; expected a single number")
    return temperature.to(device=device, dtype=torch.float64).reshape(()).reciprocal()


def check_shapes(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")) -> None:
    """Raise InputError unless x and y are floating-point matrices of one width on one device."""
    for rows, name in zip((x, y), names, strict=True):
        if rows.ndim != 2 or rows.numel() == 0 or not rows.is_floating_point():
            check_rows(rows, name)
    check_same_width(x, y)
    if x.device != y.device:
        raise InputError(f"{names[0]} is on {x.device} and {names[1]} on {y.device}; move them to one device")


def checked_bound(x: Rows, y: OtherRows, scale: Scalar, names: tuple[str, str] = ("x", "y")) -> float:
    """A bound on every |scale x.y|; raises InputError if a row is not finite."""
    bound = score_bound(x, y, scale)
    if not math.isfinite(bound):  # a NaN, an infinity, or finite rows whose norm overflows
        check_rows(x, names[0])
        check_rows(y, names[1])
        return math.inf
    return bound


def check_paired(x: Tensor, y: Tensor) -> None:
    """Raise InputError unless row i of x can be paired with row i of y."""
    if x.shape[0] != y.shape[0]:
        raise InputError(f"x has {x.shape[0]} rows and y has {y.shape[0]}; row i of x is paired with row i of y")


def check_has_negatives(pairs: int) -> None:
    """Raise InputError if a batch is a single pair."""
    if pairs < 2:
        raise InputError("the batch holds one pair only; a contrastive loss needs negatives: two pairs or more")


def checked_weights(weights: Tensor | None, rows: int, device: torch.device) -> Tensor | None:
    """Weights in double precision on the rows' device, or None; raises InputError unless a mean can be weighted so."""
    if weights is None:
        return None
    if tuple(weights.shape) != (rows,):
        raise InputError(f"weights has shape {tuple(weights.shape)}; expected one weight a pair: ({rows},)")
    values = weights.to(device=device, dtype=torch.float64)
    if not bool((torch.isfinite(values) & (values >= 0)).all()) or not bool(values.sum() > 0):
        raise InputError("weights must be finite and not negative, and some of them above 0")
    return values


def weighted_mean(values: Tensor, weights: Tensor | None) -> Scalar:
    """The weighted mean, sum w v / sum w, or the plain mean."""
    return values.mean() if weights is None else (weights * values).sum() / weights.sum()


def result_dtype(*rows: Tensor) -> torch.dtype:
    """float64 for float64 rows; float32 for all others, half precision too."""
    return torch.float64 if any(r.dtype == torch.float64 for r in rows) else torch.float32


__all__ = [
    "check_has_negatives",
    "check_paired",
    "check_shapes",
    "checked_bound",
    "checked_inverse_temperature",
    "checked_weights",
    "result_dtype",
    "weighted_mean",
]
