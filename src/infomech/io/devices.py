"""Which device work is done on, and how rows get there."""

import logging

import torch
from torch import Tensor

from .._checks import InputError, check_storage, shown
from .._typing import DeviceLike, RowsLike
from .rows import as_rows

_log = logging.getLogger(__name__)

BUFFER = 2**26  # bytes of each of the two buffers through which rows travel
WORKSPACE = 2**31  # bytes that a diagnosis takes beside the rows: tiles of some thousand rows, sums by row and block


def resolve_device(name: str) -> str:
    """A device that works here: "auto" is the first CUDA device if there is one, and the CPU otherwise.

    Raises:
        InputError: torch cannot put a tensor on the device of that name.

    >>> resolve_device("cpu")
    'cpu'
    >>> resolve_device("gpu")
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: device is 'gpu', which torch cannot use here; pass cpu, cuda, mps or auto
    """
    if not isinstance(name, str):
        raise InputError(f"device is {shown(name)}; pass cpu, cuda, mps or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"device is {name!r}, which torch cannot use here; pass cpu, cuda, mps or auto") from None
    return name


def rows_on(device: DeviceLike, x: RowsLike, y: RowsLike) -> tuple[Tensor, Tensor]:
    """Both modalities as tensors, on the device that the work is to be done on.

    Args:
        device: None leaves the rows where they are; "auto" takes the CUDA device that x or y is on, or the first one,
            if there is one with memory enough, and says so where there is not; otherwise a name, or a `torch.device`.
        x: (n, d) rows in any container that `as_rows` takes. Rows of the CPU that fill more than a buffer, those of a
            memory-mapped file say, travel through two pinned buffers: one is filled while the other is on its way.
        y: (m, d) rows, likewise.

    Raises:
        InputError: for a device that cannot be used, or too little memory on it.

    >>> [rows.device.type for rows in rows_on("cpu", [[1.0, 0.0]], torch.eye(2))]
    ['cpu', 'cpu']
    """
    x, y = as_rows(x, "x"), as_rows(y, "y")
    if device is None:
        return x, y
    check_storage(x, "x")
    check_storage(y, "y")
    chosen = _chosen(device, x, y)
    needed, free = _needed(chosen, x, y), _free_memory(chosen)
    if free is not None and needed > free:
        lack = f"the rows need about {_gib(needed)} on {chosen}, and {_gib(free)} are free"
        if device != "auto":
            raise InputError(f"{lack}; pass device='cpu', fewer rows, or stop what else runs there")
        _log.warning("%s: the work is done on the CPU", lack)
        chosen = torch.device("cpu")
    return moved(x, chosen), moved(y, chosen)


def moved(rows: Tensor, device: torch.device) -> Tensor:
    """The rows on a device, equal bit for bit; those of the CPU that fill more than a buffer by way of two.

    Raises:
        InputError: if the device has no memory left for them.

    >>> moved(torch.eye(3), torch.device("cpu")).device.type
    'cpu'
    """
    if rows.device == device:
        return rows
    try:
        if rows.device.type != "cpu" or rows.numel() * rows.element_size() <= BUFFER:
            return rows.to(device)
        return _through_buffers(rows, device)
    except torch.OutOfMemoryError:
        size = _gib(rows.numel() * rows.element_size())
        raise InputError(f"{device} has no memory left for rows of {size}; pass device='cpu', or fewer rows") from None


def _through_buffers(rows: Tensor, device: torch.device) -> Tensor:
    """One buffer is filled, from disk perhaps, while the other travels; no second copy of the rows in memory."""
    pinned = device.type == "cuda" and torch.cuda.is_available()
    step = max(1, BUFFER * len(rows) // (rows.numel() * rows.element_size()))
    out = torch.empty(rows.shape, dtype=rows.dtype, device=device)
    buffers = [torch.empty((step, *rows.shape[1:]), dtype=rows.dtype, pin_memory=pinned) for _ in range(2)]
    arrived: list[torch.cuda.Event | None] = [None, None]
    for number, start in enumerate(range(0, len(rows), step)):
        slot = number % 2
        before = arrived[slot]
        if before is not None:
            before.synchronize()  # what the buffer held has left it
        part = rows[start : start + step]
        held = buffers[slot][: len(part)]
        held.copy_(part)
        out[start : start + step].copy_(held, non_blocking=pinned)
        if pinned:
            arrived[slot] = torch.cuda.current_stream(device).record_event()
    return out


def _chosen(device: DeviceLike, x: Tensor, y: Tensor) -> torch.device:
    if not isinstance(device, str | torch.device):
        raise InputError(f"device is a {type(device).__name__}; pass a name (cpu, cuda, cuda:1, auto) or None")
    if device == "auto":
        cards = [rows.device for rows in (x, y) if rows.device.type == "cuda"]
        return cards[0] if cards else torch.device(resolve_device("auto"))
    name = resolve_device(str(device))
    try:
        return torch.zeros(1, dtype=torch.float64, device=name).device  # "cuda" is the current one of several
    except (RuntimeError, TypeError):
        raise InputError(f"device is {name!r}, which has no double precision; pass cpu or cuda") from None


def _needed(device: torch.device, x: Tensor, y: Tensor) -> int:
    """Bytes: the rows that are not there yet, a working copy of all in float32 or better, and the workspace."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    arriving = sum(rows.numel() * rows.element_size() for rows in (x, y) if rows.device != device)
    return arriving + (x.numel() + y.numel()) * dtype.itemsize + WORKSPACE


def _free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a card, those that torch holds and does not use included; None where nobody knows."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


__all__ = ["moved", "resolve_device", "rows_on"]
