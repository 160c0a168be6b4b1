"""Launching kernels: with memory for descriptors that are made on the device, on any thread, in little time."""

import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel

from .support import version_of

Found = TypeVar("Found")
_READY_FOR: ContextVar[torch.device | None] = ContextVar("infomech device of kernels", default=None)
_COMPARED_VERSIONS = (3, 6), (3, 9)  # the first and the last of Triton that bench_launches.py --check compared
_MOST_CALLS = 512  # of one kernel that are kept; each new size of a batch is one

_INTERPRETER = threading.RLock()  # it keeps which program runs in one place for all threads


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
        with _INTERPRETER:
            return work()
    with torch.cuda.device(device):
        return work()


class CachedKernel:
    """A kernel whose compiled forms are kept by call, and launched without Triton's own look-up.

    That looks at every argument, at options and at Triton's settings in each launch, which takes four times as long as
    the launch. What is compiled follows from the device, the dtypes of tensors, whether they begin at a multiple of 16
    bytes, and from numbers (whether they are 1, or multiples of 16): calls with all of these alike, numbers wholly,
    share a form. A setting of Triton's that changes after a first call is not seen.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self._names = kernel.arg_names
        self._compiled: dict[tuple[Any, ...], CompiledKernel] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        values = [*args, *[kwargs[name] for name in self._names[len(args) :]]]
        given = [(t.dtype, t.data_ptr() % 16) if isinstance(t, Tensor) else t for t in values]
        key = (_READY_FOR.get(), kwargs.get("num_warps"), kwargs.get("num_stages"), *given)
        compiled = self._compiled.get(key)
        if compiled is not None:
            compiled[(*grid, 1, 1)](*values)
            return
        compiled = self.kernel[grid](*args, **kwargs)
        if isinstance(compiled, CompiledKernel) and key[0] is not None:
            if len(self._compiled) >= _MOST_CALLS:
                self._compiled.clear()
            self._compiled[key] = compiled


_CACHED: dict[int, CachedKernel] = {}  # by identity of the kernel, which it keeps alive; a hash takes longer


def cached(kernel: Any) -> Any:
    """The kernel, to be launched as `cached(kernel)[grid](...)`.

    Itself where it is interpreted, or where this version of Triton was not compared.
    """
    found = _CACHED.get(id(kernel))
    if found is None:
        if not isinstance(kernel, triton.JITFunction):
            return kernel
        if not _COMPARED_VERSIONS[0] <= version_of(str(triton.__version__)) <= _COMPARED_VERSIONS[1]:
            return kernel
        found = _CACHED.setdefault(id(kernel), CachedKernel(kernel))
    return found


__all__ = ["CachedKernel", "cached", "launched"]
