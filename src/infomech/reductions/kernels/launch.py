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
_COMPARED = (3, 6), (3, 9)  # from and to which version of Triton launches were compared: bench_launches.py --check
_MOST = 512  # ways of calling one kernel that are remembered; each new size of a batch is one

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


class Remembering:
    """A kernel that is launched as Triton has compiled it, without asking Triton again how that was.

    Triton looks at every argument, at options and at its settings in each launch, which takes four times as long as the
    launch. What it compiles follows from the dtypes of tensors, from whether they begin at a multiple of 16 bytes, and
    from numbers (whether they are 1, or multiples of 16): of a call with these alike, numbers wholly, it is the same.
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
            if len(self._compiled) >= _MOST:
                self._compiled.clear()
            self._compiled[key] = compiled


_REMEMBERING: dict[int, Remembering] = {}  # by the identity of the kernel, which lives as long; its hash takes longer


def ready(kernel: Any) -> Any:
    """The kernel, to be launched as `ready(kernel)[grid](...)`.

    One that is interpreted has nothing to remember, and a Triton that nobody has looked at launches it itself.
    """
    found = _REMEMBERING.get(id(kernel))
    if found is None:
        if not isinstance(kernel, triton.JITFunction):
            return kernel
        if not _COMPARED[0] <= version_of(str(triton.__version__)) <= _COMPARED[1]:
            return kernel
        found = _REMEMBERING.setdefault(id(kernel), Remembering(kernel))
    return found


__all__ = ["Remembering", "launched", "ready"]
