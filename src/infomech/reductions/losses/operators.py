"""What every operator of this folder has in common: none can be differentiated twice, none reads a traced value."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd import forward_ad as fwAD

from .backends import tiles_precision
from .kept import Size, without_autocast

Setup = Callable[[Any, tuple[Any, ...], Any], None]
Backward = Callable[..., Any]


_PLAIN = (Tensor, torch.nn.Parameter)
_TRANSFORMS = (torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Vmap)
_LIBRARY = torch.library.Library("infomech", "FRAGMENT")


class Operator:
    """An operator of torch's dispatcher, called as a function; what `torch.library.custom_op` makes, with less around.

    That flattens and rebuilds all arguments twice in each call, which is a fifth of the time of a small batch's loss.
    Where nobody else listens (no compiler, tracer, transform, mode or dual number, no tensors of another class) a call
    goes to the body without the dispatcher, which would turn some twenty arguments to and fro four times.
    """

    def __init__(self, name: str, schema: str, body: Callable[..., Any]) -> None:
        self.name = f"infomech::{name}"
        self.body = without_autocast(_in_precision(body))
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, self.body, "CompositeExplicitAutograd")
        self.overload = getattr(torch.ops.infomech, name).default
        self.function: type[Function] | None = None
        self.__doc__ = body.__doc__

    def __call__(self, *args: Any) -> Any:  # noqa: D102
        if not _unheard(args):
            refuse_transforms()
            return self.overload(*args)
        if self.function is not None and _needs_gradient(args):
            return super(Function, self.function).apply(*args)  # type: ignore[misc]  # no transforms to look for
        with torch._C._AutoDispatchBelowAutograd():
            return self.body(*args)

    def register_fake(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        """Shapes and dtypes of the outputs, from those of the inputs: what tracing runs."""
        torch.library.register_fake(self.name, fake, lib=_LIBRARY)
        return fake

    def register_autograd(self, backward: Backward, *, setup_context: Setup | None = None) -> None:
        """The gradients of the tensors among the arguments; those in a list are constants, their list has None."""
        overload, body = self.overload, self.body

        class Differentiable(Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                with torch._C._AutoDispatchBelowAutograd():
                    out = body(*args) if _unheard(args) else overload(*args)
                if setup_context is not None:
                    setup_context(ctx, args, out)
                return out

            @staticmethod
            def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
                return backward(ctx, *cotangents)

        def kernel(*args: Any) -> Any:
            if fwAD._current_level >= 0 and any(isinstance(t, Tensor) and _is_dual(t) for t in args):
                raise RuntimeError("the losses of infomech have no forward-mode derivative; use backward()")
            if _needs_gradient(args):
                return Differentiable.apply(*args)  # type: ignore[no-untyped-call]
            with torch._C._AutoDispatchBelowAutograd():
                return overload(*args)

        self.function = Differentiable
        _LIBRARY.impl(self.name.removeprefix("infomech::"), kernel, "Autograd")


def refuse_transforms() -> None:
    """Raise RuntimeError within `torch.func.grad` and `vmap`, and what is made of them: operators have no rules there.

    >>> torch.func.grad(lambda x: refuse_transforms() or x)(torch.ones(()))
    Traceback (most recent call last):
    ...
    RuntimeError: torch.func (grad, vmap, jacrev, ...) does not go through the losses of infomech: use backward() or \
torch.autograd.grad, and a loop over batches
    """
    if torch.compiler.is_compiling():
        return
    top = torch._C._functorch.peek_interpreter_stack()
    if top is not None and top.key() in _TRANSFORMS:
        raise RuntimeError(
            "torch.func (grad, vmap, jacrev, ...) does not go through the losses of infomech: use backward() or "
            "torch.autograd.grad, and a loop over batches"
        )


def _is_dual(tensor: Tensor) -> bool:
    return fwAD.unpack_dual(tensor).tangent is not None


def _needs_gradient(args: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in args)


def _unheard(args: tuple[Any, ...]) -> bool:
    """Whether the dispatcher has nobody to call but the operator's body."""
    if (
        torch.compiler.is_compiling()
        or fwAD._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    ):
        return False
    for arg in args:
        kind = type(arg)
        if kind is list:
            if any(isinstance(part, Tensor) and type(part) not in _PLAIN for part in arg):
                return False
        elif isinstance(arg, Tensor) and kind not in _PLAIN:
            return False
    return True


def _in_precision(body: Callable[..., Any]) -> Callable[..., Any]:
    """Run the body in the precision that its argument `backend` asks for, if it has one."""
    names = list(inspect.signature(body).parameters)
    if "backend" not in names:
        return body
    at = names.index("backend")

    def run(*args: Any) -> Any:
        if "/" not in args[at]:
            return body(*args)
        with tiles_precision(args[at]):
            return body(*args)

    return run


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make a function of tensors the operator ``infomech::name``, opaque to `torch.compile` and `torch.export`.

    Its body runs on real tensors only, with autocast off; it may read what lies on a CPU, and of what lies elsewhere
    only what `levels.may_wait` allows. Every device has the one body: it is the place where another implementation
    takes over.
    """
    return lambda body: Operator(name, schema, body)


def once_only(backward: Operator) -> None:
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


def only_wanted(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradients that were asked for; None in place of the empty others."""
    return [gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)]


def nothing(like: Tensor) -> Tensor:
    """What stands for a tensor that is not wanted: operators return tensors only."""
    return like.new_empty(0)


def empty_like_wanted(like: Tensor, wanted: bool, dtype: torch.dtype | None = None) -> Tensor:
    """A gradient as a fake kernel returns it."""
    return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format) if wanted else nothing(like)


__all__ = [
    "Operator",
    "any_gradient",
    "doubled",
    "empty_like_wanted",
    "nothing",
    "once_only",
    "only_wanted",
    "operator",
    "or_zeros",
    "refuse_transforms",
]
