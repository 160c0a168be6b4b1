"""Which implementation an operator takes: tiles of torch operations, or Triton kernels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ..._checks import InputError
from ..kernels import say_once, usable
from ..tiling import float32_products

Backend = Literal["auto", "tiles", "triton"]
BACKENDS = ("auto", "tiles", "triton")
Precision = Literal["float32", "highest", "high", "medium"]
PRECISIONS = ("float32", "highest", "high", "medium")
_KNOWN = {"", "own_row", "same_group", "other_groups", "listed"}  # exclusions that the kernels have

_Found = TypeVar("_Found")


_REFUSED = "!"  # before the words for a backend or a precision that is none


def coded(backend: str, precision: str | None) -> str:
    """A backend and the precision of float32 rows as one word, as it travels to the operators.

    One that is neither becomes the words for it, which `check_name` raises: where all ranks look at what they got.

    >>> coded("auto", None), coded("triton", "float32")
    ('auto', 'triton/float32')
    >>> coded("auto", "fp32")
    "!precision is 'fp32'; expected None, 'float32', 'highest', 'high' or 'medium'"
    """
    if not isinstance(backend, str) or backend not in BACKENDS:
        return f"{_REFUSED}backend is {backend!r}; expected 'auto', 'tiles' or 'triton'"
    if precision is None:
        return backend
    if not isinstance(precision, str) or precision not in PRECISIONS:
        return f"{_REFUSED}precision is {precision!r}; expected None, 'float32', 'highest', 'high' or 'medium'"
    return f"{backend}/{precision}"


def check_name(code: str) -> None:
    """Raise InputError if what was coded is no backend, or no precision.

    >>> check_name(coded("cuda", None))
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: backend is 'cuda'; expected 'auto', 'tiles' or 'triton'
    """
    if code.startswith(_REFUSED):
        raise InputError(code.removeprefix(_REFUSED))


def decoded_backend(code: str) -> tuple[str, str | None]:
    """The backend and the precision of `coded`.

    >>> decoded_backend("triton/float32"), decoded_backend("auto")
    (('triton', 'float32'), ('auto', None))
    """
    backend, _, precision = code.partition("/")
    return backend, precision or None


@contextmanager
def tiles_precision(code: str) -> Iterator[None]:
    """Within, torch multiplies float32 as the precision of a code asks: bare float32 is what it calls the highest."""
    _, precision = decoded_backend(code)
    if precision is None:
        yield
        return
    with float32_products("highest" if precision == "float32" else precision):
        yield


def check_backend(backend: str, rows: Tensor) -> None:
    """Raise InputError unless it is a backend, and one that can run where the rows are.

    >>> import torch
    >>> check_backend("cuda", torch.eye(2))
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: backend is 'cuda'; expected 'auto', 'tiles' or 'triton'
    """
    check_name(backend)
    name, _ = decoded_backend(backend)
    check_name(coded(name, None))
    if name == "triton":
        _check_triton(rows)


def asks_for_kernels(code: str, device: torch.device) -> bool:
    """Whether a backend of `coded` wants the kernels for rows on a device, if these can."""
    backend, _ = decoded_backend(code)
    return backend == "triton" or (backend == "auto" and device.type == "cuda")


def takes_kernels(backend: str, exclusion: str, *rows: Tensor) -> bool:
    """Whether the kernels do it, for rows of these dtypes and an exclusion's code.

    With ``"auto"`` where they can, on CUDA; what they cannot do where they were to falls to the tiles, said once.
    """
    device = rows[0].device
    if not asks_for_kernels(backend, device):
        return False
    why_not = usable(device, *(z.dtype for z in rows))
    if why_not is not None and backend.startswith("triton"):
        _check_triton(rows[0])
    unknown = _beyond_kernels(exclusion)
    if why_not is None and unknown:
        why_not = f"the Triton kernels have no {unknown!r} among what is left out of a sum or weighed in it"
    if why_not is None and not all(map(len, rows)):
        return False
    if why_not is not None:
        say_once(f"{why_not}; the tiles go on")
    return why_not is None


def say_tiles(backend: str, device: torch.device, what: str) -> None:
    """Say once that something runs on tiles though kernels are asked for, which have none of it."""
    if asks_for_kernels(backend, device):
        say_once(f"{usable(device) or f'the Triton kernels have no {what}'}; the tiles go on")


def _beyond_kernels(exclusion: str) -> str | None:
    """A part of an exclusion's code that the kernels do not have; they take groups once, and one list."""
    parts = exclusion.split(",")
    unknown = next((part for part in parts if part not in _KNOWN), None)
    groups = [part for part in parts if part in ("same_group", "other_groups")]
    again = groups[1:] or ["listed"][: max(0, parts.count("listed") - 1)]
    return unknown or next(iter(again), None)


def attempted(device: torch.device, kernels: Callable[[], _Found]) -> _Found | None:
    """What the kernels give; None where one of them asks for more than the card has, which is said once.

    Then the tiles do it, as they do a forward's backward: both leave the same sums. All of them share one context.
    """
    from triton.runtime.errors import OutOfResources

    from ..kernels.launch import launched  # here: it imports Triton, which need not be there

    try:
        return launched(device, kernels)
    except OutOfResources as error:
        say_once(f"a Triton kernel needs {error.required} of {error.name}, of {error.limit}; the tiles go on")
        return None


def _check_triton(rows: Tensor) -> None:
    why_not = usable(rows.device)
    if why_not is not None:
        raise InputError(f"backend is 'triton', but it cannot be used: {why_not}; or pass backend='auto'")


__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Backend",
    "Precision",
    "asks_for_kernels",
    "attempted",
    "check_backend",
    "check_name",
    "coded",
    "decoded_backend",
    "say_tiles",
    "takes_kernels",
    "tiles_precision",
]
