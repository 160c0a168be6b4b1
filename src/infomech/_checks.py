"""Argument checks, all in one voice: what was found, and what to do about it, in one line."""

import math

import torch
from torch import Tensor


class InfomechError(Exception):
    """Anything that a caller can mend; its message is one line. The command line exits with 2 on it."""


class InputError(InfomechError, ValueError):
    """An argument, file or array that cannot be used as it is."""


def check_temperature(temperature: float | Tensor, name: str = "temperature") -> None:
    """Raise InputError unless the temperature is finite and above zero.

    >>> check_temperature(0.07)
    >>> check_temperature(0.0)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: temperature is 0.0; it must be a finite number above 0 (CLIP uses 0.01 to 0.07)
    """
    if isinstance(temperature, Tensor):
        good = bool((torch.isfinite(temperature) & (temperature > 0)).all())
        shown = temperature.item() if temperature.numel() == 1 else f"a tensor with minimum {temperature.min().item()}"
    else:
        good = math.isfinite(temperature) and temperature > 0
        shown = float(temperature) + 0.0  # minus zero is zero
    if not good:
        raise InputError(f"{name} is {shown}; it must be a finite number above 0 (CLIP uses 0.01 to 0.07)")


def check_loss_temperature(temperature: float, name: str = "temperature") -> None:
    """Raise InputError unless it is a temperature that a loss of unit rows can have; a logit scale is told apart.

    >>> check_loss_temperature(100.0)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: temperature is 100: is that a logit scale? 0.01 is its temperature
    """
    check_temperature(temperature, name)
    if temperature >= _LOGIT_SCALE:
        raise InputError(f"{name} is {temperature:g}: is that a logit scale? {1 / temperature:.4g} is its temperature")
    if temperature < _COLDEST:
        raise InputError(
            f"{name} is {temperature:g}; below {_COLDEST:g} a score over it is lost in its own rounding: contrastive "
            "temperatures lie between 0.005 and 1"
        )


_COLDEST = 1e-6  # float32 rows have cosines to 6e-8
_LOGIT_SCALE = 5.0  # cosines over such a temperature differ by 0.4 at most; SigLIP's scale starts at 10, CLIP's at 14


def check_rows(rows: Tensor, name: str) -> None:
    """Raise InputError unless `rows` is a non-empty matrix of finite floating-point numbers, stored as such."""
    check_storage(rows, name)
    if rows.ndim != 2:
        raise InputError(f"{name} has {rows.ndim} dimensions, shape {tuple(rows.shape)}; expected 2: (rows, features)")
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        raise InputError(f"{name} is empty, shape {tuple(rows.shape)}; expected at least two rows and one feature")
    if not rows.is_floating_point():
        raise InputError(f"{name} holds {rows.dtype}; expected floating-point embeddings: convert them first")
    if rows.dtype not in _FLOATS:
        raise InputError(f"{name} holds {rows.dtype}, which torch cannot compute with; convert it: rows.float()")
    step = max(1, _AT_ONCE // rows.shape[1])
    if len(rows) <= step:
        finite = torch.isfinite(rows).all(dim=1)
    else:
        finite = torch.cat([torch.isfinite(part).all(dim=1) for part in rows.split(step)])
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten()
        raise InputError(
            f"{name} has NaN or infinity in {len(bad)} of {rows.shape[0]} rows, the first at row {int(bad[0])}; "
            "remove or recompute those rows"
        )


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_AT_ONCE = 2**24  # numbers that are looked at at once: no table as large as the rows


def check_storage(tensor: Tensor, name: str) -> None:
    """Raise InputError unless a tensor is stored as a plain array of numbers."""
    unusual = None
    if tensor.is_nested:
        unusual = "is a nested tensor; pad it to a matrix"
    elif tensor.layout is not torch.strided:
        unusual = f"is a sparse tensor ({tensor.layout}); make it dense: rows.to_dense()"
    elif tensor.is_quantized:
        unusual = "is a quantised tensor; convert it: rows.dequantize()"
    elif tensor.device.type == "meta":
        unusual = "is on the meta device and holds no numbers; save the real tensor"
    if unusual is not None:
        raise InputError(f"{name} {unusual}")


def check_same_width(x: Tensor, y: Tensor) -> None:
    """Raise InputError unless x and y have the same number of columns."""
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"x has {x.shape[1]} features and y has {y.shape[1]}; the two modalities must share one embedding space"
        )


def check_partners(x: Tensor, y: Tensor) -> None:
    """Raise InputError unless row i of x can have row i of y as its partner."""
    check_same_width(x, y)
    if len(x) != len(y):
        raise InputError(f"there are {len(x)} rows and {len(y)} partners; row i belongs to row i")


__all__ = [
    "InfomechError",
    "InputError",
    "check_loss_temperature",
    "check_partners",
    "check_rows",
    "check_same_width",
    "check_storage",
    "check_temperature",
]
