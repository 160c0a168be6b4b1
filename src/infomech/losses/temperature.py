"""The temperature of a loss module, and the state that a loss carries from step to step."""

import math
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import InputError, check_temperature, is_number
from .._typing import Scalars
from ..geometry import Cosine, Critic
from ..reductions.losses.backends import Backend, Precision, check_name, coded
from ..reductions.losses.kept import outside_graphs
from ..reductions.losses.operators import refuse_transforms
from ._inputs import Check, without_values
from .agreement import told
from .calls import Calls, Seen, at_the_end_of_backward, inside_backward
from .distributed import Ranks

CLIP_RANGE = (0.01, 1.0)  # of tau: CLIP clamps log(1/tau) to [0, log 100]
Evaluation = Callable[[Check], tuple[Tensor, Seen]]
_UNIT = 0.02  # how far from 1 the length of a row may be; half precision rounds it by 0.004
_LOGIT_SCALE = 10.0  # cosines over such a temperature differ by 0.2 at most; SigLIP's scale starts at 10, CLIP's at 14


class TemperedLoss(nn.Module):
    """A loss module with a temperature; the base of the losses of this package.

    **A call changes nothing that a backward may compute again.** A learned temperature is clamped where it is used,
    with the gradient that it has at the limit; the parameter itself is brought back within its limits at the end of the
    backward, before the optimizer's step, as CLIP has it. A queue or a schedule moves once the backward of a call is
    done, or at once where there is none to come; never for a call that checkpointing repeats. Calls whose backward is
    still to come see the same state, and so do all calls between two steps after `follow(optimizer)`.

    **A call may bring its own temperature**, as `temperature` or as `logit_scale` = 1/tau, a number or a tensor that
    gets a gradient: a model's parameter, say. It takes the place of the module's for that call. A module that learns
    its own is given none.

    Args:
        temperature: tau, or where a learned one starts. More than 10 is refused for cosines, as what is a logit scale
            most likely: at once with ``normalize=True``, otherwise when the rows are seen to be of unit length.
        learn_temperature: learn ``log_scale`` = log(1/tau).
        limits: smallest and largest tau of a learned temperature, None for no limits.
        critic: s(x, y) of the loss.
        normalize: whether the loss brings its rows to unit length.
        check: when the values of an input are looked at, for which a GPU has to be waited: at the ``"first"`` call in
            training mode and the first in evaluation mode, ``"always"`` or ``"never"``. On a CPU, where a look at one
            number costs nothing, a later call is checked as well if its value is not finite. Shapes are always checked,
            compiled code looks at no value, and ranks always check everything.
        backend: which implementation; see `symmetric_infonce`.
        precision: of products of float32 rows; see there, too.
    """

    ranks: Ranks | None = None

    def __init__(
        self,
        temperature: float,
        *,
        learn_temperature: bool,
        limits: tuple[float, float] | None = CLIP_RANGE,
        critic: Critic | None = None,
        normalize: bool = False,
        check: Check = "first",
        backend: Backend = "auto",
        precision: Precision | None = None,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if check not in ("always", "first", "never"):
            raise InputError(f"check is {check!r}; expected 'first', 'always' or 'never'")
        if learn_temperature and limits is not None and not limits[0] <= temperature <= limits[1]:
            raise InputError(
                f"temperature is {temperature}; a learned one is kept within [{limits[0]}, {limits[1]}]: start it there"
            )
        self.initial_temperature = float(temperature)
        self.limits = limits
        self.critic = critic
        self.normalize = normalize
        if normalize and self._of_products:
            check_for_cosines(temperature)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None
        self.check: Check = check
        self.backend: Backend = backend
        self.precision: Precision | None = precision
        self._implementation = coded(backend, precision)
        check_name(self._implementation)
        self._calls = Calls()
        self._saw_lengths = self._unit_rows = False
        self._looked_in: set[bool] = set()  # the modes, training or not, in which a call was checked
        self._compiled = False
        self._bring_back_after_backward()

    @property
    def temperature(self) -> float | Tensor:
        """The tau as it is used now: a number, or a tensor with a gradient if it is learned."""
        if self.log_scale is None:
            return self.initial_temperature
        if self.limits is None:
            return torch.exp(-self.log_scale)
        low, high = -math.log(self.limits[1]), -math.log(self.limits[0])
        fixed = self.log_scale.detach()
        return torch.exp(-(fixed.clamp(low, high) + (self.log_scale - fixed)))  # the gradient passes the clamp

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Let a queue or a schedule move with the steps of an optimizer, not with every call.

        A schedule then moves by one step for however many batches were accumulated, with the mean of their divergences,
        and the candidates of all of them enter a queue together.
        """
        loss = weakref.ref(self)

        def stepped(*_: object) -> None:
            found = loss()
            if found is not None:
                found._take_in(found._calls.all())

        self._calls.by_step = True
        optimizer.register_step_post_hook(stepped)

    def _begin(self, *rows: Tensor) -> None:
        """What comes before the loss of a call: settle what earlier calls left, and look at the rows once."""
        if self._moves and (self.training or not torch.compiler.is_compiling()):
            self._settle()
        if without_values(*rows):  # first: compiled code must not depend on what was seen
            return
        refuse_transforms()
        if not (self._saw_lengths or self.normalize or self.check == "never"):
            unit = say_other_lengths(rows, type(self).__name__) if self._of_products else None
            if unit:
                told(self.ranks, lambda: check_for_cosines(self.initial_temperature))
            self._saw_lengths, self._unit_rows = unit is not None, bool(unit)

    def _scale_of(self, temperature: float | Tensor | None, logit_scale: float | Tensor | None) -> dict[str, Any]:
        """The temperature of a call, as functions take it: what the call was given, or the module's own."""
        if temperature is None and logit_scale is None:
            return {"temperature": self.temperature, "logit_scale": None}
        told(self.ranks, lambda: self._check_given(temperature, logit_scale))
        return {"temperature": temperature, "logit_scale": logit_scale}

    def check_not_learned(self, *, temperature: bool = False, bias: bool = False) -> None:
        """Raise InputError if the module learns what its calls are given."""
        for given, own, name in (
            (temperature, self.log_scale, "temperature"),
            (bias, getattr(self, "bias", None), "bias"),
        ):
            if given and isinstance(own, nn.Parameter):
                raise InputError(
                    f"this {type(self).__name__} learns its own {name}, and is given one: make it with "
                    f"learn_{name}=False"
                )

    def _check_given(self, temperature: float | Tensor | None, logit_scale: float | Tensor | None) -> None:
        self.check_not_learned(temperature=True)
        given = temperature if logit_scale is None else logit_scale
        if temperature is not None and logit_scale is not None:
            raise InputError("pass either temperature= or logit_scale=, which is 1/temperature, not both")
        if without_values(given) or not (self._of_products and (self.normalize or self._unit_rows)):
            return
        if self.check != "never" and (not isinstance(given, Tensor) or given.device.type == "cpu") and is_number(given):
            number = float(given.detach() if isinstance(given, Tensor) else given)  # type: ignore[arg-type]
            check_for_cosines(1 / number if logit_scale is not None and number else number)

    @property
    def _of_products(self) -> bool:
        """Whether scores are inner products: cosines, of unit rows."""
        return self.critic is None or isinstance(self.critic, Cosine)

    def _looked_after(self, loss: Evaluation, *rows: Tensor, ranks: object = None) -> tuple[Tensor, Seen]:
        """The loss and what its state is to see, with the values of the input looked at when it is time to.

        `loss` evaluates with ``check="always"`` or ``"never"``.
        """
        if without_values(*rows):
            return loss("never")
        if self.check == "always" or ranks is not None or (self.check == "first" and self._unseen):
            found = loss("always")
            self._looked_in.add(self.training)
            return found
        found = loss("never")
        value = found[0]
        if self.check == "first" and value.device.type == "cpu" and not bool(torch.isfinite(value.detach()).all()):
            return loss("always")  # which knows why, or what to do
        return found

    @property
    def _unseen(self) -> bool:
        """Whether no call in this mode has been checked."""
        return self.training not in self._looked_in

    def _end(self, value: Scalars, seen: Seen = None) -> Scalars:
        """What comes after it: remember what the state has yet to take in, until no backward needs the old one."""
        if torch.compiler.is_compiling() and not (self._moves and self.training):
            if torch.compiler.is_dynamo_compiling() and not _exporting():
                self._compiled = True
            return value  # the parameter's own hook brings it back
        if self._moves or (self.log_scale is not None and self.limits is not None):
            self._remember(value, seen)
        return value

    @outside_graphs
    def _remember(self, value: Tensor, seen: Seen) -> None:
        if inside_backward():  # a call that is computed again
            at_the_end_of_backward(self._passed)
            return
        self._calls.add(value, seen, counts=self.training and self._moves, at_end=self._passed)
        if self._moves:
            self._settle()

    @outside_graphs
    def _settle(self) -> None:
        if not inside_backward():
            self._take_in([[seen] for seen in self._calls.settled()])

    def _passed(self) -> None:
        """A backward through this loss is done."""
        self._calls.release()
        if self.log_scale is not None:
            with torch.no_grad():
                self._bring_back(self.log_scale)
        self._take_in([[seen] for seen in self._calls.settled()])

    def _bring_back(self, scale: Tensor) -> None:
        """Bring the parameter within its limits, unless a call is open that may have kept it."""
        if self.limits is None or self._calls.waiting():
            return
        low, high = -math.log(self.limits[1]), -math.log(self.limits[0])
        if scale.device.type != "cpu" or not low <= float(scale.detach()) <= high:
            scale.clamp_(low, high)

    def _bring_back_after_backward(self) -> None:
        """Have a backward that reaches the parameter do so after compiled code, which knows no calls.

        What that code kept of the parameter it clamps where it uses it, so that it need not know of the change.
        """
        if self.log_scale is None or self.limits is None or not self.log_scale.requires_grad:
            return
        loss = weakref.ref(self)

        def reached(_: Tensor) -> None:
            found = loss()
            if found is not None and found._compiled and found.log_scale is not None:
                at_the_end_of_backward(partial(found._bring_back, found.log_scale.data))

        self.log_scale.register_post_accumulate_grad_hook(reached)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._bring_back_after_backward()  # a copy's parameter has lost its hooks

    def _take_in(self, steps: list[list[Seen]]) -> None:
        for seen in steps:
            self._advance(seen)

    @property
    def _moves(self) -> bool:
        """Whether this loss has a state that moves."""
        return False

    def _advance(self, seen: list[Seen]) -> None:
        """Move the state by one step, on what the calls of that step saw."""

    def _save_to_state_dict(self, destination: dict[str, object], prefix: str, keep_vars: bool) -> None:
        self._settle()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        """The temperature, for the printed form of the module."""
        if self.log_scale is None:
            return f"temperature={self.initial_temperature:.4g}"
        return f"temperature={float(torch.exp(-self.log_scale.detach())):.4g}, learned"


def _exporting() -> bool:
    """Whether this is exported, not compiled; torch before 2.7 cannot tell."""
    return bool(torch.compiler.is_exporting()) if hasattr(torch.compiler, "is_exporting") else False


def starting_temperature(temperature: float | None, logit_scale: float | None, default: float) -> float:
    """The tau of a module that was given tau, or 1/tau, or neither."""
    if temperature is not None and logit_scale is not None:
        raise InputError("pass either temperature= or logit_scale=, which is 1/temperature, not both")
    if logit_scale is None:
        return default if temperature is None else temperature
    check_temperature(logit_scale, "logit_scale")
    return 1.0 / logit_scale


def check_for_cosines(temperature: float) -> None:
    """Raise InputError if a loss of cosines is never meant to have this temperature: it is a logit scale, most likely.

    >>> check_for_cosines(100.0)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: the temperature is 100, the logit scale 0.01: is one given as the other? CLIP starts...
    """
    if temperature > _LOGIT_SCALE:
        raise InputError(
            f"the temperature is {temperature:.4g}, the logit scale {1 / temperature:.4g}: is one given as the other? "
            "CLIP starts at 0.07 and 14"
        )


def say_other_lengths(rows: tuple[Tensor, ...], name: str) -> bool | None:
    """Warn if rows that the cosine critic is to compare are not of unit length; whether they are, None for no rows."""
    unit = None
    for part in rows:
        if not (isinstance(part, Tensor) and part.is_floating_point() and part.ndim == 2 and part.numel()):
            continue  # the checks have the words
        low, high = torch.linalg.vector_norm(part.detach(), dim=1, dtype=torch.float64).aminmax()
        if float(low) < 1 - _UNIT or float(high) > 1 + _UNIT:
            warnings.warn(
                f"{name} was given rows of length {float(low):.3g} to {float(high):.3g}: it multiplies rows as they "
                "are; for cosines pass normalize=True (shown once)",
                stacklevel=4,
            )
            return False
        unit = True
    return unit


__all__ = ["CLIP_RANGE", "TemperedLoss", "check_for_cosines", "say_other_lengths", "starting_temperature"]
