"""One training step on a batch whose encoders do not fit in memory: embeddings first, gradients chunk by chunk."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import InputError
from .._typing import Scalar
from ._inputs import kind_of

Encoder = Callable[[Any], Tensor]


def cached_step(
    loss: Callable[..., Scalar],
    encoders: Encoder | Sequence[Encoder | None],
    inputs: Sequence[Any],
    *,
    chunk: int,
    scaler: Any = None,
) -> Scalar:
    """The backward of loss(encoder(input), ...) on a whole batch, with the activations of one chunk in memory.

    Three sweeps (Gao et al. 2021, GradCache): all inputs are embedded in chunks without a graph; the loss of all
    embeddings gives the gradient of each; every chunk is embedded once more, with a graph, and takes its rows' part of
    that gradient on to the parameters,

        dL/dtheta = sum over chunks c of (dz_c / dtheta)^T dL/dz_c,

    which is the gradient of the whole batch, not an approximation to it. It costs one forward more, and is added to
    the parameters' ``.grad``, those of the loss too; the optimizer's step is the caller's. The second forward of a
    chunk meets the random numbers (dropout) and buffers of its first. Autocast around the call holds for all of it.

    What is computed over the rows of a batch is computed over the rows of a chunk: batch normalisation in training
    mode, with a warning; its running statistics move once for each chunk. An encoder in ``DistributedDataParallel`` (or
    anything with ``no_sync``) sends its gradients with its last chunk only, and may be called for several inputs;
    every rank needs rows of its own. With ``Ranks`` in the loss the batch is that of all ranks.

    Args:
        loss: called with one matrix of embeddings for each input; gives a scalar.
        encoders: what makes embeddings of a chunk of an input: one for all inputs or one for each (the same one again,
            where they share it). None for an input that is embeddings already and gets no gradient.
        inputs: one for each argument of the loss, n rows each (the loss says whether they must match): a tensor, a
            list of n items, a dictionary or tuple of such, which is cut in all its entries; anything else in a
            dictionary is passed to every chunk.
        chunk: rows that an encoder is given at once.
        scaler: a ``torch.amp.GradScaler``, or anything with ``scale(loss)``, by which the gradients are then scaled.

    Returns:
        The loss in nats, without a graph.

    Raises:
        InputError: for a chunk below 1, inputs that cannot be cut, or encoders whose embeddings have no graph.

    Source: D7; Gao et al. 2021 (arXiv:2101.06983).

    >>> from infomech.losses import SymmetricInfoNCE
    >>> tower = torch.nn.Linear(3, 2)
    >>> x, y = torch.randn(2, 8, 3).unbind()
    >>> value = cached_step(SymmetricInfoNCE(normalize=True), tower, [x, y], chunk=2)
    >>> gradient = tower.weight.grad.clone()
    >>> tower.zero_grad()
    >>> SymmetricInfoNCE(normalize=True)(tower(x), tower(y)).backward()
    >>> torch.allclose(tower.weight.grad, gradient, atol=1e-6)
    True
    """
    columns = _columns(encoders, inputs, chunk)
    leaves = [column.embed() for column in columns]
    torch.clear_autocast_cache()  # weights that autocast has cast without a graph would stay without one
    value = loss(*leaves)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        got = kind_of(value)
        if isinstance(value, Tensor):
            got = "a number without a graph" if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"
        raise InputError(f"the loss gave {got}; expected a scalar that depends on the embeddings")
    (value if scaler is None else scaler.scale(value)).backward()
    last = {id(column.encoder): column for column in columns}  # by encoder, the column that uses it last
    for column, leaf in zip(columns, leaves, strict=True):
        column.backward(leaf, closes=last[id(column.encoder)] is column)
    for column in last.values():
        column.buffers.settle()
    return value.detach()


@dataclass
class _Column:
    """One input, its encoder, and what the first sweep found."""

    encoder: Encoder | None
    parts: list[Any]
    number: int
    buffers: "_Buffers"
    states: list["_Random"] = field(default_factory=list)
    befores: list[dict[str, Tensor]] = field(default_factory=list)

    @torch.no_grad()
    def embed(self) -> Tensor:
        """The embeddings of all chunks, a leaf of the loss's graph."""
        rows = []
        for part in self.parts:
            if self.encoder is None:
                rows.append(part)
                continue
            self.states.append(_Random.now(part))
            self.befores.append(self.buffers.snapshot())
            rows.append(self._checked(self.encoder(part), part))
        self.buffers.snapshot()
        return torch.cat(rows).detach().requires_grad_(self.encoder is not None)

    def backward(self, leaf: Tensor, *, closes: bool) -> None:
        """Carry the leaf's gradient on to the parameters; `closes`: with the last chunk the encoder may sync."""
        if self.encoder is None or _is_frozen(self.encoder):
            return
        gradient = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        pieces = gradient.split([_rows_of(part) or 0 for part in self.parts])
        for k, part in enumerate(self.parts):
            synced = closes and k == len(self.parts) - 1
            with self.states[k].again(), nullcontext() if synced else _without_sync(self.encoder):
                self.buffers.restore(self.befores[k])
                rows = self.encoder(part)
                if not rows.requires_grad:
                    raise InputError(
                        f"encoder {self.number} gave embeddings without a graph (torch.no_grad or detach inside it); "
                        "if it is to stay as it is, pass None in its place, and its embeddings as the input"
                    )
                torch.autograd.backward(rows, pieces[k])

    def _checked(self, rows: Any, part: Any) -> Tensor:
        if not isinstance(rows, Tensor) or not rows.is_floating_point():
            raise InputError(
                f"encoder {self.number} gave {kind_of(rows)}; expected a floating-point tensor: wrap it, as in "
                'lambda part: model(part)["sentence_embedding"]'
            )
        if len(rows) != _rows_of(part):
            raise InputError(f"encoder {self.number} gave {len(rows)} embeddings for {_rows_of(part)} rows")
        return rows


def _columns(encoders: Encoder | Sequence[Encoder | None], inputs: Sequence[Any], chunk: int) -> list[_Column]:
    """The inputs, cut, each with its encoder."""
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise InputError(f"chunk is {chunk!r}; expected the number of rows that an encoder takes at once, 1 or more")
    if not torch.is_grad_enabled():
        raise InputError("cached_step computes gradients; call it outside of torch.no_grad()")
    if isinstance(inputs, Tensor | Mapping) or not isinstance(inputs, Sequence):
        raise InputError(f"inputs is {kind_of(inputs)}; expected a list with one input for each argument of the loss")
    many = isinstance(encoders, Sequence | nn.ModuleList)
    each: list[Encoder | None] = list(encoders) if many else [encoders] * len(inputs)  # type: ignore[arg-type, list-item]
    if len(each) != len(inputs):
        raise InputError(f"there are {len(each)} encoders for {len(inputs)} inputs; pass one for all, or one for each")
    for k, encoder in enumerate(each):
        if encoder is not None and not callable(encoder):
            raise InputError(f"encoder {k} is {kind_of(encoder)}; expected a module or a function of a chunk")
    if all(encoder is None or _is_frozen(encoder) for encoder in each):
        raise InputError("no encoder has a parameter that needs a gradient; there is nothing to train")
    held: dict[int, _Buffers] = {}
    columns = []
    for k, (encoder, given) in enumerate(zip(each, inputs, strict=True)):
        parts = list(_cut(given, chunk, f"input {k}"))
        if encoder is None and not isinstance(given, Tensor):
            raise InputError(f"input {k} has no encoder and is {kind_of(given)}; expected a tensor of embeddings")
        if id(encoder) not in held:
            held[id(encoder)] = _Buffers(encoder)
            _say_batch_norm(encoder, k, parts)
        columns.append(_Column(encoder, parts, k, held[id(encoder)]))
    return columns


def _module_of(encoder: object) -> nn.Module | None:
    """The module that an encoder is, or is a method of."""
    owner = encoder if isinstance(encoder, nn.Module) else getattr(encoder, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _is_frozen(encoder: object) -> bool:
    """Whether a module has nothing to train; of a function that is not known."""
    return isinstance(encoder, nn.Module) and not any(p.requires_grad for p in encoder.parameters())


def _without_sync(encoder: object) -> AbstractContextManager[Any]:
    module = _module_of(encoder)
    context: AbstractContextManager[Any] = module.no_sync() if hasattr(module, "no_sync") else nullcontext()  # type: ignore[union-attr, operator]
    return context


def _say_batch_norm(encoder: object, number: int, parts: list[Any]) -> None:
    module = _module_of(encoder)
    norms = nn.modules.batchnorm._BatchNorm
    if module is not None and len(parts) > 1 and any(isinstance(m, norms) and m.training for m in module.modules()):
        warnings.warn(
            f"encoder {number} normalises over the rows it is given (batch norm in training mode): over a chunk, not "
            "the batch; use eval() for those layers, layer norm, or a chunk as large as the batch",
            stacklevel=4,
        )


def _rows_of(given: Any) -> int | None:
    """How many rows an input has; None for what is not cut."""
    if isinstance(given, Tensor):
        return len(given) if given.ndim else None
    if isinstance(given, list):
        return len(given)
    if isinstance(given, Mapping | tuple):
        entries = given.values() if isinstance(given, Mapping) else given
        return next((rows for rows in map(_rows_of, entries) if rows is not None), None)
    return None


def _cut(given: Any, chunk: int, name: str) -> Iterator[Any]:
    rows = _rows_of(given)
    if rows is None or rows == 0:
        found = "has no rows" if rows == 0 else f"is {kind_of(given)}"
        raise InputError(f"{name} {found}; expected rows to cut: a tensor, a list, or a dictionary or tuple of those")
    for start in range(0, rows, chunk):
        yield _part(given, slice(start, start + chunk), rows, name)


def _part(given: Any, rows: slice, total: int, name: str) -> Any:
    if isinstance(given, Mapping):
        return {key: _part(entry, rows, total, f"{name}[{key!r}]") for key, entry in given.items()}
    if isinstance(given, tuple):
        return tuple(_part(entry, rows, total, f"{name}[{k}]") for k, entry in enumerate(given))
    found = _rows_of(given)
    if found is None:
        return given
    if found != total:
        raise InputError(f"{name} has {found} rows where the first of its input has {total}; all are cut alike")
    return given[rows]


@dataclass(frozen=True)
class _Random:
    """The states of the random number generators that an encoder may draw from."""

    cpu: Tensor
    devices: list[torch.device]
    states: list[Tensor]

    @classmethod
    def now(cls, part: Any) -> "_Random":
        """The states, of the CPU's and of the chunk's devices."""
        devices = sorted(set(_devices(part)), key=str)
        return cls(torch.get_rng_state(), devices, [_generators(d).get_rng_state(d) for d in devices])

    def again(self) -> AbstractContextManager[None]:
        """Draw these numbers again, and go on afterwards as if they had not been drawn."""
        return _Drawn(self)


class _Drawn(AbstractContextManager[None]):
    def __init__(self, random: _Random) -> None:
        self._random = random

    def __enter__(self) -> None:
        random = self._random
        self._after = _Random(
            torch.get_rng_state(), random.devices, [_generators(d).get_rng_state(d) for d in random.devices]
        )
        _set(random)

    def __exit__(self, *_: object) -> None:
        _set(self._after)


def _set(random: _Random) -> None:
    torch.set_rng_state(random.cpu)
    for device, state in zip(random.devices, random.states, strict=True):
        _generators(device).set_rng_state(state, device)


def _generators(device: torch.device) -> Any:
    return getattr(torch, device.type)


def _devices(part: Any) -> Iterator[torch.device]:
    """The devices of a chunk's tensors that have a generator of their own."""
    if isinstance(part, Tensor):
        if part.device.type != "cpu" and hasattr(_generators(part.device), "get_rng_state"):
            yield part.device
    elif isinstance(part, Mapping | tuple | list):
        for entry in part.values() if isinstance(part, Mapping) else part:
            yield from _devices(entry)


class _Buffers:
    """The buffers of an encoder as they were before each chunk; one copy of those that do not move."""

    def __init__(self, encoder: object) -> None:
        self._module = _module_of(encoder)
        self._latest: dict[str, Tensor] = {}
        self._versions: dict[str, tuple[int, int]] = {}

    def snapshot(self) -> dict[str, Tensor]:
        """The buffers as they are; what has not moved since the last time is not copied again."""
        for name, buffer in () if self._module is None else self._module.named_buffers():
            version = (id(buffer), buffer._version)
            if self._versions.get(name) != version:
                self._latest[name] = buffer.detach().clone()
                self._versions[name] = version
        return dict(self._latest)

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Bring back the buffers that have moved."""
        for name, buffer in () if self._module is None else self._module.named_buffers():
            moved = (id(buffer), buffer._version) != self._versions.get(name)
            if name in state and (moved or state[name] is not self._latest[name]):
                buffer.copy_(state[name])

    def settle(self) -> None:
        """Bring back the buffers as the first sweep left them."""
        self.restore(self._latest)


__all__ = ["cached_step"]
