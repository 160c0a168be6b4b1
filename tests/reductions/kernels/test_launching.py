"""How kernels are launched: in one context with an allocator, and as they were compiled for a call like this one."""

from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.runtime import _allocation

from infomech.reductions.kernels import launch
from infomech.reductions.kernels.launch import CachedKernel, cached, launched

CPU = torch.device("cpu")


class Compiled:
    """In place of what Triton compiles."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *values: self.calls.append((grid, *values))


class Kernel:
    """In place of a kernel: compiles anew whenever it is asked."""

    arg_names = ("X", "n", "TERMS", "BLOCK")

    def __init__(self) -> None:
        self.asked: list[Compiled] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*args: Any, **kwargs: Any) -> Compiled:
            self.asked.append(Compiled())
            return self.asked[-1]

        return run


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(launch, "CompiledKernel", Compiled)
    return Kernel()


def rows(offset: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(64, dtype=dtype)[offset : offset + 16]


def test_a_kernel_is_asked_once_for_calls_that_are_alike(kernel: Kernel) -> None:
    known, x = CachedKernel(kernel), rows()
    calls: list[dict[str, Any]] = [
        {"X": x},
        {"X": rows(1)},
        {"X": rows(dtype=torch.float64)},
        {"X": None},
        {"n": 32},
        {"TERMS": True},
        {"BLOCK": 128},
        {"num_warps": 8},
        {"num_stages": 2},
    ]

    def call(changes: dict[str, Any]) -> None:
        known[7,](**{"X": x, "n": 16, "TERMS": False, "BLOCK": 64} | changes)

    for device in (CPU, torch.device("meta")):
        before = len(kernel.asked)
        for changes in calls:
            launched(device, lambda changes=changes: call(changes))
        assert len(kernel.asked) == before + len(calls)  # each asked for itself
        for changes in (*calls, {"X": rows(4)}, {"X": rows(20)}):
            launched(device, lambda changes=changes: call(changes))
        assert len(kernel.asked) == before + len(calls)
    first = kernel.asked[0].calls
    assert [line[:1] + line[2:] for line in first] == [((7, 1, 1), 16, False, 64)] * 3
    assert first[0][1] is x


def test_arguments_by_place_and_by_name_are_the_same_call(kernel: Kernel) -> None:
    known, x = CachedKernel(kernel), rows()
    launched(CPU, lambda: known[2, 3](x, 16, TERMS=False, BLOCK=64))
    launched(CPU, lambda: known[2, 3](X=x, BLOCK=64, n=16, TERMS=False))
    (compiled,) = kernel.asked
    assert compiled.calls == [((2, 3, 1, 1), x, 16, False, 64)]


def test_what_is_remembered_is_bounded(kernel: Kernel) -> None:
    known, x = CachedKernel(kernel), rows()
    for n in range(3 * launch._MOST_CALLS):
        launched(CPU, lambda n=n: known[1,](x, n, False, 64))
        assert len(known._compiled) <= launch._MOST_CALLS


def test_interpreted_kernels_are_launched_as_they_are() -> None:
    @triton.jit
    def kernel(X) -> None:
        pass

    assert cached(kernel) is kernel


@pytest.mark.parametrize(
    ("version", "remembers"), [("3.6.0", True), ("3.9.1+git", True), ("3.10.0", False), ("4.0", False)]
)
def test_only_a_triton_that_was_looked_at_is_not_asked_again(
    version: str, remembers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(triton, "JITFunction", Kernel)
    monkeypatch.setattr(launch, "_CACHED", {})
    one = Kernel()
    assert isinstance(cached(one), CachedKernel) is remembers
    assert cached(one) is cached(one)


def test_work_has_one_allocator_of_its_own() -> None:
    """Work within work keeps it; the caller's stays what it was."""
    given = _allocation._allocator.get()
    found: list[Any] = []

    def inner() -> int:
        found.append(_allocation._allocator.get())
        return 3

    def outer() -> int:
        found.append(_allocation._allocator.get())
        return launched(CPU, inner) + 1

    assert launched(CPU, outer) == 4
    assert found[0] is found[1]
    assert found[0] is not given
    assert found[0](24, 16, None).numel() == 24
    assert _allocation._allocator.get() is given
