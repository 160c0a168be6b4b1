"""The calls of a loss that a backward may still compute again, and what the loss's state has yet to take in of them."""

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Seen = Tensor | tuple[Any, ...] | None  # of one call, without a graph


def inside_backward() -> bool:
    """Whether autograd is at work on this thread: a call is then one that checkpointing repeats."""
    return bool(torch._C._current_graph_task_id() != -1)


def at_the_end_of_backward(call: Callable[[], None]) -> None:
    """Have something done when the backward at work is done with everything."""
    torch.autograd.Variable._execution_engine.queue_callback(call)


class _Mark:
    """Hangs on the value of a call, and goes with its graph; a backward that passes it marks it."""

    def __init__(self, at_end: Callable[[], None]) -> None:
        self.passed = False
        self._at_end = at_end

    def __call__(self, gradient: Tensor | None) -> None:
        self.passed = True
        at_the_end_of_backward(self._at_end)


@dataclass
class _Call:
    seen: Seen
    counts: bool  # whether the state moves by it
    mark: Callable[[], _Mark | None] | None = None  # a weak reference; None: no graph
    held: bool = False  # the first pass of a reentrant checkpoint, which leaves no graph

    @property
    def open(self) -> bool:
        mark = None if self.mark is None else self.mark()
        return self.held or (mark is not None and not mark.passed)


class Calls:
    """What a loss remembers of its calls.

    A call is open while a backward through it may come: until it came, or its graph is gone. Nothing is taken in while
    any call is open, so that all open calls were made with the state as it stands.
    """

    def __init__(self, left: tuple[Seen, ...] = ()) -> None:
        self._calls = [_Call(seen, counts=True) for seen in left]
        self.by_step = False

    def add(self, value: Tensor, seen: Seen, *, counts: bool, at_end: Callable[[], None]) -> None:
        """Remember a call that returned this value."""
        self._calls = [call for call in self._calls if call.counts or call.open]
        if value.requires_grad:
            mark = _Mark(at_end)
            value.register_hook(mark)
            self._calls.append(_Call(seen, counts, weakref.ref(mark)))
        elif counts:
            self._calls.append(_Call(seen, counts, held=not torch.is_grad_enabled() and _inside_checkpoint()))

    def release(self) -> None:
        """A backward has passed: what reentrant checkpointing held has been computed again."""
        for call in self._calls:
            call.held = False

    def waiting(self) -> bool:
        """Whether a call is open."""
        return any(call.open for call in self._calls)

    def settled(self) -> list[Seen]:
        """Take what the state can take in now, in the order of the calls."""
        return [] if self.by_step or self.waiting() else self._taken()

    def all(self) -> list[list[Seen]]:
        """Take what was seen up to a step of the optimizer, as one step; nothing if there were no calls."""
        seen = self._taken()
        return [seen] if seen else []

    def _taken(self) -> list[Seen]:
        seen = [call.seen for call in self._calls if call.counts]
        self._calls = []
        return seen

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has no graphs, and follows no optimizer: it keeps what is still to be taken in."""
        return Calls, (tuple(call.seen for call in self._calls if call.counts),)


def _inside_checkpoint() -> bool:
    """Whether this runs within the first pass of a reentrant checkpoint, whose calls will be repeated."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward" and "checkpoint" in frame.f_code.co_filename:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


__all__ = ["Calls", "at_the_end_of_backward", "inside_backward"]
