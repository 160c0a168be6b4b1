"""An accelerator that is not there: tensors that say they are on a card, hold their numbers on the CPU, and count.

Operators between the card and the CPU fail as they do on a card, so that what would stop a program there stops a test
here; every operator on the card counts as a launch and every number fetched from it as a host read. Autograd is left
out: a build of torch without CUDA has no engine for it.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("cuda", 0)
# Operators that take tensors of both devices on a card as well.
_BETWEEN = ("aten._to_copy", "aten.copy_", "aten.index.", "aten.index_put", "aten._index_put_impl", "aten.lift_fresh")
_VIEWS = ("view", "slice", "select", "expand", "permute", "transpose", "t.", "unsqueeze", "squeeze", "detach", "alias")
_VIEWS += ("as_strided", "split", "unbind", "diagonal", "unfold", "_unsafe_view", "_reshape_alias", "real", "movedim")
_SYNCHRONISING = ("nonzero", "_unique2", "unique_consecutive", "masked_select", "repeat_interleave.Tensor")


class OnCard(Tensor):
    """A tensor that says it is on the card."""

    inner: Tensor
    seen: ClassVar[Counter[str]] = Counter()
    places: ClassVar[Counter[str]] = Counter()  # the same by line of the package
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnCard":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CARD,
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCard({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = str(func)
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    here = [t for t in tensors if isinstance(t, OnCard)]
    if here and not name.startswith(_BETWEEN):
        for other in tensors:
            if not isinstance(other, OnCard) and other.ndim:
                raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got the CPU and a card")
    short = name.removeprefix("aten.")
    if here and short.startswith(("index.", "index_put", "_index_put_impl")) and not isinstance(args[0], OnCard):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if short.startswith("_local_scalar_dense"):
        _note("read: item")
    elif short.startswith(_SYNCHRONISING) or (short.startswith("index") and _has_mask(args)):
        _note(f"read: {short}")
        _note(short)
    elif not short.startswith(_VIEWS):
        _note(short)
    known = {id(t.inner): t for t in here}
    target = kwargs.pop("device", None)
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    if short.startswith("_to_copy"):
        on_card = (here and target is None) or (target is not None and torch.device(target).type == "cuda")
        if here and not on_card:
            _note("read: copy")
    elif short.startswith("copy_") and here and not isinstance(args[0], OnCard):
        _note("read: copy")
        on_card = False
    else:
        on_card = bool(here)
    if target is not None and not short.startswith("_to_copy"):
        on_card = torch.device(target).type == "cuda"
    out = func(*inner_args, **inner_kwargs)
    if not on_card:
        return out
    return tree_map(lambda v: _wrapped(v, known), out)


def _note(what: str) -> None:
    OnCard.seen[what] += 1
    frame = sys._getframe(1)
    while frame is not None and "/infomech/" not in frame.f_code.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is not None:
        kind = "read" if what.startswith("read: ") else "launch"
        OnCard.places[f"{kind} {frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"] += 1


def _has_mask(args: Any) -> bool:
    return len(args) > 1 and any(isinstance(a, Tensor) and a.dtype is torch.bool for a in tree_flatten(args[1])[0])


def _wrapped(value: Any, known: dict[int, OnCard]) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, OnCard):
        return value
    found = known.get(id(value))
    return OnCard(value) if found is None else found


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnCard) else value


class _Card(TorchFunctionMode):
    """Sends what is made on the card, or moved to it, there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.as_tensor, torch.asarray) and set(kwargs) <= {"copy"} and isinstance(args[0], OnCard):
            return args[0]
        if func is Tensor.tolist and isinstance(args[0], OnCard):
            return move(args[0], "cpu").tolist()
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], (str, torch.device)):
            kwargs["device"], args = args[1], (args[0], *args[2:])
            if len(args) > 1 and isinstance(args[1], torch.dtype):
                kwargs["dtype"], args = args[1], (args[0], *args[2:])
        device = kwargs.get("device")
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):  # like another
            other = args[1]
            args, device = (args[0], other.dtype), other.device
        wanted = None if device is None else torch.device(device).type
        if func is Tensor.cuda:
            func, args, wanted = Tensor.to, args[:1], "cuda"
        if wanted is None:
            return _call(func, args, kwargs)
        kwargs.pop("device", None)
        if func is Tensor.to:
            out = func(*args, **kwargs) if len(args) > 1 or kwargs else args[0]
            return move(out, wanted)
        on_card = args and isinstance(args[0], OnCard)
        if on_card and getattr(func, "__name__", "").startswith("new_"):
            args = (args[0].inner, *args[1:])
        elif func in (torch.as_tensor, torch.asarray, torch.tensor) and on_card:
            return move(args[0], wanted)
        elif on_card:  # *_like
            args = (args[0].inner, *args[1:])
        out = func(*args, device="cpu", **kwargs)
        return move(out, wanted)


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """The call; of a function that looks for the card's driver before it is dispatched, on the numbers themselves."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "not linked with support" not in str(error) and not isinstance(error, NotImplementedError):
            raise
    name = getattr(func, "__name__", str(func))
    if name == "__getitem__" and not any(isinstance(t, Tensor) for t in tree_flatten(args[1:])[0]):
        pass  # a view
    else:
        _note(name)
    if name in ("nonzero", "argwhere", "unique", "where", "__float__", "__int__", "__bool__", "item"):
        _note(f"read: {name}")
    known = {id(t.inner): t for t in tree_flatten((args, kwargs))[0] if isinstance(t, OnCard)}
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    return tree_map(lambda v: _wrapped(v, known), out)


def move(value: Tensor, kind: str) -> Tensor:
    """The tensor on "cpu" or on "cuda", counted as a host read where it comes from the card."""
    if kind == "cpu" and isinstance(value, OnCard):
        _note("read: copy")
        return value.inner.clone()
    if kind == "cuda" and not isinstance(value, OnCard):
        _note("copy to the card")
        return OnCard(value.detach().clone())
    return value


@contextmanager
def pretended_card() -> Iterator[Counter[str]]:
    """Within, "cuda" is a place; yields the counts of launches by operator and of host reads ("read: ...").

    >>> with pretended_card() as seen:
    ...     x = torch.eye(3, device="cuda") + 1
    ...     x.device.type, float(x.sum()), reads(seen)
    ('cuda', 12.0, 1)
    """
    OnCard.seen, OnCard.places = Counter(), Counter()
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    old = mock.patch.object(torch.cuda, "get_device_capability", return_value=(7, 0))  # too old for kernels
    eager = mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=False)
    with _Card(), old, eager:
        yield OnCard.seen


def launches(seen: Counter[str]) -> int:
    """How many operators ran on the card."""
    return sum(count for name, count in seen.items() if not name.startswith("read: "))


def reads(seen: Counter[str]) -> int:
    """How many times the host waited for a number."""
    return sum(count for name, count in seen.items() if name.startswith("read: "))
