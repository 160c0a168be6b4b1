"""Launching kernels: with memory for descriptors that are made on the device, on any thread."""

import contextvars
import threading
from collections.abc import Callable

import torch
import triton

_INTERPRETER = threading.RLock()  # it keeps which program runs in one place for all threads


def launched(device: torch.device, work: Callable[[], None]) -> None:
    """Run what launches kernels, in a context with an allocator of its own.

    Triton keeps its allocator in a context variable: autograd's backward runs on another thread, which has none. A copy
    of the context leaves what a caller may have set alone.
    """
    context = contextvars.copy_context()
    context.run(_with_allocator, device, work)


def _with_allocator(device: torch.device, work: Callable[[], None]) -> None:
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))
    if device.type == "cuda":
        with torch.cuda.device(device):
            work()
    else:
        with _INTERPRETER:
            work()


__all__ = ["launched"]
