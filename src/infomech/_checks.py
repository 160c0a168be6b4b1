"""Argument checks, all in one voice: what was found, and what to do about it, in one line."""

import math
from collections.abc import Collection, Mapping, Set
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


class InfomechError(Exception):
    """Anything that a caller can mend; its message is one line. The command line exits with 2 on it."""


class InputError(InfomechError, ValueError):
    """An argument, file or array that cannot be used as it is."""


def shown(value: object) -> str:
    """A value as messages show it: in one line, and short.

    >>> shown("a"), shown([0] * 1000)
    ("'a'", 'a list of 1000')
    """
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    if len(text) <= 60:
        return text
    if isinstance(value, tuple | list | Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    return text[:55].rstrip() + "..."


def is_number(value: object) -> bool:
    """Whether it is one real number, of Python, NumPy or torch; True and False are none.

    >>> is_number(np.float32(0.5)), is_number(torch.tensor(1.0)), is_number(True), is_number("1")
    (True, True, False, False)
    """
    if isinstance(value, Tensor | np.ndarray):
        there = not isinstance(value, Tensor) or value.device.type != "meta"
        return there and value.ndim == 0 and is_number(value.item())
    return type(value) in (float, int) or (isinstance(value, Real) and not isinstance(value, bool | np.bool_))


def check_whole(value: Any, name: str, *, least: int, what: str = "") -> None:
    """Raise InputError unless it is a whole number of at least `least`.

    >>> check_whole(2.5, "k", least=1)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: k is 2.5; it must be a whole number of at least 1
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {shown(value)}; it must be a whole number of at least {least}{what}")


def check_number(value: Any, name: str, what: str = "a finite number") -> None:
    """Raise InputError unless it is one finite number.

    >>> check_number("b", "bias")
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: bias is 'b'; it must be a finite number
    """
    if not is_number(value) or not math.isfinite(value):
        raise InputError(f"{name} is {shown(value)}; it must be {what}")


def check_between(value: Any, name: str, what: str, *, ends: bool = False) -> None:
    """Raise InputError unless it is a number between 0 and 1, the ends included where they may be.

    >>> check_between(0.0, "prior", "the share of true pairs")
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: prior is 0.0; it is the share of true pairs, between 0 and 1
    """
    if not is_number(value) or not (0.0 <= value <= 1.0 if ends else 0.0 < value < 1.0):
        raise InputError(f"{name} is {shown(value)}; it is {what}, between 0 and 1")


def check_choice(value: object, name: str, choices: Collection[str]) -> None:
    """Raise InputError unless it is one of a few words.

    >>> check_choice("z", "side", ("x", "y"))
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: side is 'z'; it is one of x, y
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {shown(value)}; it is one of {', '.join(choices)}")


def check_flag(value: object, name: str, *, none: bool = False) -> None:
    """Raise InputError unless it is True or False (or None, where that has a meaning): "no" would count as true.

    >>> check_flag("no", "normalize", none=True)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: normalize is 'no'; it must be True, False or None
    """
    if not isinstance(value, bool | np.bool_) and not (none and value is None):
        raise InputError(f"{name} is {shown(value)}; it must be True{', False or None' if none else ' or False'}")


def check_progress(progress: object) -> None:
    """Raise InputError unless it is None or can be called."""
    if progress is not None and not callable(progress):
        raise InputError(f"progress is {shown(progress)}; give a function that takes a share of the work, or None")


def check_each_row(values: object, name: str) -> None:
    """Raise InputError unless it is None or a sequence with something for each row of x: no text, no set."""
    ordered = hasattr(values, "__len__") and hasattr(values, "__iter__") and getattr(values, "ndim", 1) == 1
    if values is not None and (not ordered or isinstance(values, str | bytes | Mapping | Set)):
        raise InputError(f"{name} is {shown(values)}; give a list with one for each row of x")


def check_kind(value: object, name: str, kinds: type | tuple[type, ...], what: str) -> None:
    """Raise InputError unless it is of one of these classes.

    >>> check_kind("law", "rho", (int,), "a Density")
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: rho is 'law'; give a Density
    """
    if not isinstance(value, kinds):
        raise InputError(f"{name} is {shown(value)}; give {what}")


def check_draws(n: object, generator: object) -> None:
    """Raise InputError unless so many draws can be asked of a generator."""
    check_whole(n, "n", least=1)
    if not isinstance(generator, torch.Generator):
        raise InputError(f"generator is {shown(generator)}; give torch.Generator().manual_seed(0), say")


def check_temperature(temperature: float | Tensor, name: str = "temperature") -> None:
    """Raise InputError unless the temperature is finite and above zero.

    >>> check_temperature(0.07)
    >>> check_temperature(0.0)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: temperature is 0.0; it must be a finite number above 0 (CLIP uses 0.01 to 0.07)
    """
    if isinstance(temperature, Tensor):
        check_storage(temperature, name)
        good = bool((torch.isfinite(temperature) & (temperature > 0)).all())
        said = temperature.item() if temperature.numel() == 1 else f"a tensor with minimum {temperature.min().item()}"
    elif not is_number(temperature):
        good, said = False, shown(temperature)
    else:
        good = math.isfinite(temperature) and temperature > 0
        said = float(temperature) + 0.0  # minus zero is zero
    if not good:
        raise InputError(f"{name} is {said}; it must be a finite number above 0{_HINTS.get(name, '')}")


_HINTS = {
    "temperature": " (CLIP uses 0.01 to 0.07)",
    "logit_scale": " (1 / temperature: CLIP's starts at 14 and ends at 100)",
}


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


HIGHEST_SEED = 2**32 - 1  # what NumPy and scikit-learn take; the seeds that are derived from it stay below 2^63


def check_seed(seed: object, name: str = "seed") -> None:
    """Raise InputError unless it is a whole number from 0 to 2^32 - 1.

    >>> check_seed(-1)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: seed is -1; it must be a whole number from 0 to 4,294,967,295
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) <= HIGHEST_SEED:
        raise InputError(f"{name} is {shown(seed)}; it must be a whole number from 0 to {HIGHEST_SEED:,}")


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


def check_one_device(first: Tensor, second: Tensor, names: tuple[str, str] = ("x", "y")) -> None:
    """Raise InputError unless both lie on one device.

    >>> check_one_device(torch.eye(2), torch.empty(2, device="meta"))
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: x is on cpu and y on meta; move them to one device
    """
    if first.device != second.device:
        raise InputError(f"{names[0]} is on {first.device} and {names[1]} on {second.device}; move them to one device")


def same_rows(x: Tensor, y: Tensor) -> bool:
    """Whether two matrices hold equal numbers, whatever their types and devices; -0.0 is 0.0.

    >>> same_rows(torch.tensor([[0.0, 1.0]]), torch.tensor([[-0.0, 1.0]], dtype=torch.float64))
    True
    """
    if x.shape != y.shape or x.ndim != 2 or not x.numel():
        return False
    if any(r.layout is not torch.strided or r.device.type == "meta" or r.dtype not in _FLOATS for r in (x, y)):
        return False  # refused for what they are
    step = max(1, _AT_ONCE // x.shape[1])
    return all(bool((a == b.to(a.device)).all()) for a, b in zip(x.split(step), y.split(step), strict=True))


def check_distinct(x: Tensor, y: Tensor, of: str = "") -> None:
    """Raise InputError if both sides are the same rows: one file given twice, most likely.

    >>> check_distinct(torch.eye(2), torch.eye(2))
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: x and y hold the same rows; give the embeddings of both modalities
    """
    if same_rows(x, y):
        raise InputError(f"x and y{of} hold the same rows; give the embeddings of both modalities")


def check_partners(x: Tensor, y: Tensor) -> None:
    """Raise InputError unless row i of x can have row i of y as its partner."""
    check_same_width(x, y)
    if len(x) != len(y):
        raise InputError(f"there are {len(x)} rows and {len(y)} partners; row i belongs to row i")


__all__ = [
    "HIGHEST_SEED",
    "InfomechError",
    "InputError",
    "check_between",
    "check_choice",
    "check_distinct",
    "check_draws",
    "check_each_row",
    "check_flag",
    "check_kind",
    "check_loss_temperature",
    "check_number",
    "check_one_device",
    "check_partners",
    "check_progress",
    "check_rows",
    "check_same_width",
    "check_seed",
    "check_storage",
    "check_temperature",
    "check_whole",
    "is_number",
    "same_rows",
    "shown",
]
