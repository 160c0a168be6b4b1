"""What every operator of this folder has in common: none can be differentiated twice, none reads a traced value."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from .kept import Size, without_autocast

P = ParamSpec("P")
T = TypeVar("T")


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Make a function of tensors the operator ``infomech::name``, opaque to `torch.compile` and `torch.export`.

    Its body runs on real tensors only, with autocast off; it may read what lies on a CPU, and reads nothing of what
    lies elsewhere. Every device has the one body: it is the place where another implementation takes over.
    """

    def make(function: Callable[..., Any]) -> CustomOpDef:
        return torch.library.custom_op(f"infomech::{name}", without_autocast(function), mutates_args=(), schema=schema)

    return make


def once_only(backward: CustomOpDef) -> None:
    """Let the operator that computes a gradient say that this gradient has none."""
    backward.register_autograd(_refuse)


def _refuse(ctx: Any, *cotangents: Tensor) -> None:
    raise RuntimeError(
        "trying to differentiate twice: the losses of infomech have one derivative; for a penalty on a gradient use "
        "the plain formula"
    )


def any_gradient(*tensors: Tensor | None) -> bool:
    """Whether a backward may come, so that a forward keeps what that needs."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def doubled(tensor: Tensor | None) -> Tensor | None:
    """In double precision, None for None."""
    return None if tensor is None else tensor.double()


def or_zeros(cotangent: Tensor | None, shape: tuple[Size, ...], scale: Tensor) -> Tensor:
    """A cotangent of that shape, zeros where nothing depends on its value."""
    return scale.new_zeros(shape) if cotangent is None else cotangent


def nothing(like: Tensor) -> Tensor:
    """What stands for a tensor that is not wanted: operators return tensors only."""
    return like.new_empty(0)


def empty_like_wanted(like: Tensor, wanted: bool, dtype: torch.dtype | None = None) -> Tensor:
    """A gradient as a fake kernel returns it."""
    return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format) if wanted else nothing(like)


__all__ = ["any_gradient", "doubled", "empty_like_wanted", "nothing", "once_only", "operator", "or_zeros"]
