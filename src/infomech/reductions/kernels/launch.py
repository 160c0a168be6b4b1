"""Launching kernels: with memory for descriptors that are made on the device, on any thread."""

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TypeVar

import torch
import triton

Found = TypeVar("Found")
_READY_FOR: ContextVar[torch.device | None] = ContextVar("infomech device of kernels", default=None)


def launched(device: torch.device, work: Callable[[], Found]) -> Found:
    """What work gives that launches kernels, done in a context with an allocator of its own.

    Triton keeps its allocator in a context variable: autograd's backward runs on another thread, which has none. A copy
    of the context leaves what a caller may have set alone. Work within work for one device has the context already.
    """
    if _READY_FOR.get() == device:
        return work()
    return copy_context().run(_with_allocator, device, work)


def _with_allocator(device: torch.device, work: Callable[[], Found]) -> Found:
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))
    _READY_FOR.set(device)
    if device.type != "cuda":
        return work()
    with torch.cuda.device(device):
        return work()


__all__ = ["launched"]
