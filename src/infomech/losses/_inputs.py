"""Checks and conversions that the losses share."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .._checks import InputError, check_one_device, check_rows, check_same_width, check_storage, check_temperature
from .._typing import OtherRows, Rows, Scalar
from ..reductions.losses.backends import check_backend, check_name
from ..reductions.losses.infonce import score_extent
from ..reductions.losses.operators import refuse_transforms

FLOAT32_SCORES = 1e30  # beyond it a score, or a sum of some, may leave float32
LARGEST_SCORE = 1e300  # beyond it a sum of scores may leave float64
FLOAT32_NUMBER = 1e37
_LEAST_FLOAT16 = 2.0**-24


Check = Literal["always", "first", "never"]  # when the values of an input are looked at; shapes are always


class NoNegativesError(InputError):
    """A batch of one pair: nothing to compare with."""


def without_values(*tensors: Any) -> bool:
    """Whether there is nothing to look at: compiled and exported code, fake tensors, a CUDA graph being captured."""
    if torch.compiler.is_compiling():
        return True
    if any(isinstance(t, FakeTensor) for t in tensors):
        return True
    on_card = any(isinstance(t, Tensor) and t.is_cuda for t in tensors)
    return on_card and torch.cuda.is_current_stream_capturing()


def looks(check: str, *tensors: Any) -> bool:
    """Whether a function is to look at values: ``"always"`` or ``"never"``, and never where there are none."""
    if check not in ("always", "never"):
        first = "; a function knows no first call" if check == "first" else ""
        raise InputError(f"check is {check!r}{first}; expected 'always' or 'never'")
    return check == "always" and not without_values(*tensors)


def checked_inverse_temperature(
    temperature: float | Tensor | None,
    device: torch.device,
    logit_scale: float | Tensor | None = None,
    *,
    look: bool = True,
) -> Scalar:
    """1/tau in double precision on the rows' device, from tau or from 1/tau; differentiable if that is."""
    if (temperature is None) == (logit_scale is None):
        raise InputError("pass either temperature= or logit_scale=, its inverse (for CLIP exp of its parameter)")
    name = "temperature" if logit_scale is None else "logit_scale"
    given = temperature if logit_scale is None else logit_scale
    if not isinstance(given, Tensor):
        try:
            number = float(given)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise InputError(f"{name} is {kind_of(given)}; expected a number or a tensor that holds one") from None
        if not torch.compiler.is_compiling():
            _check_temperature_value(number, name)
            return torch.full((), 1.0 / number if logit_scale is None else number, dtype=torch.float64, device=device)
        value = torch.ones((), dtype=torch.float64, device=device) * number  # it may change from call to call
        return value.reciprocal() if logit_scale is None else value
    if given.numel() != 1:
        raise InputError(f"{name} is a tensor of shape {tuple(given.shape)}; expected a single number")
    check_tensor(given, name)
    if look:
        _check_temperature_value(given.item(), name)
    value = given.to(device=device, dtype=torch.float64).reshape(())
    return value.reciprocal() if logit_scale is None else value


def _check_temperature_value(value: float, name: str) -> None:
    check_temperature(value, name)
    if not math.isfinite(1.0 / value):
        raise InputError(f"{name} is {value:.3g}, and its inverse leaves double precision")


def check_tensor(values: Any, name: str) -> None:
    """Raise InputError unless it is a tensor, and a real one: the losses differentiate, and convert nothing."""
    if isinstance(values, Tensor):
        check_storage(values, name)
        return
    how = f"torch.from_numpy({name})" if type(values).__module__ == "numpy" else f"torch.tensor({name})"
    raise InputError(f"{name} is {kind_of(values)}; the losses take torch tensors, which carry gradients: {how}")


def kind_of(value: object) -> str:
    """What something is, for a message."""
    kind = type(value)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def check_shapes(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y"), *, empty: bool = False) -> None:
    """Raise InputError unless x and y are floating-point matrices of one width on one device; `empty`: or no rows."""
    refuse_transforms()
    for rows, name in zip((x, y), names, strict=True):
        check_tensor(rows, name)
        none = empty and rows.ndim == 2 and rows.shape[0] == 0 and rows.shape[1] > 0
        plain = rows.layout is torch.strided and rows.device.type != "meta" and rows.dtype.itemsize > 1  # no float8
        if not plain or rows.ndim != 2 or (rows.numel() == 0 and not none) or not rows.is_floating_point():
            check_rows(rows, name)
    check_same_width(x, y)
    check_one_device(x, y, names)


@dataclass(frozen=True)
class Extent:
    """How large rows and their scores are."""

    largest: float  # the largest norm of a row
    scale: float
    known: bool = True  # False: nobody looked

    @property
    def bound(self) -> float:
        """On every score, within modalities too."""
        return self.largest * self.largest * self.scale

    @property
    def score_bound(self) -> float | None:
        """The same as operators take it: None leaves it to them."""
        return self.bound if self.known else None

    @property
    def wide(self) -> bool:
        """Whether float32 may not hold the scores, or what they are made of; unknown rows are taken to be small."""
        if not self.known:
            return False
        size = max(self.bound, self.largest, self.scale)
        return not (size <= FLOAT32_SCORES and self.scale >= 1 / FLOAT32_SCORES)


UNKNOWN = Extent(math.nan, math.nan, known=False)


def checked_extent(
    x: Rows, y: OtherRows, scale: Scalar, names: tuple[str, str] = ("x", "y"), *, look: bool = True
) -> Extent:
    """The extent; raises InputError if a row is not finite, or if its scores leave double precision."""
    if not look:
        return UNKNOWN
    extent = Extent(*score_extent(x, y, scale))
    if not math.isfinite(extent.largest):
        for rows, name in zip((x, y), names, strict=True):
            if len(rows):
                check_rows(rows, name)
    if not extent.bound <= LARGEST_SCORE:
        raise InputError(
            f"rows of length {extent.largest:.3g} over the temperature {1 / extent.scale:.3g} have scores that leave "
            "double precision; bring the rows to unit length (normalize=True), or raise the temperature"
        )
    return extent


def check_gradients_fit(extent: Extent, rows: tuple[Tensor, ...], temperature: object = None) -> None:
    """Raise InputError if gradients will be wanted that a float32 tensor cannot hold."""
    if not (extent.wide and torch.is_grad_enabled()):
        return
    of_rows = any(z.requires_grad and z.dtype != torch.float64 for z in rows)
    of_scale = isinstance(temperature, Tensor) and temperature.requires_grad and temperature.dtype != torch.float64
    if (of_rows and extent.largest * extent.scale > FLOAT32_NUMBER) or (of_scale and extent.bound > FLOAT32_NUMBER):
        raise InputError(
            f"rows of length {extent.largest:.3g} over the temperature {1 / extent.scale:.3g} have gradients that "
            "leave float32; bring the rows to unit length (normalize=True), or pass float64"
        )


def widened(wide: bool, *rows: Tensor) -> tuple[Tensor, ...]:
    """The rows in double precision where float32 does not hold their scores; as they are everywhere else."""
    return tuple(z.to(torch.float64) for z in rows) if wide else rows


def finished(value: Tensor, dtype: torch.dtype, *, look: bool = True) -> Tensor:
    """The value in the dtype of the result; raises InputError if one is looked at and does not fit."""
    result = value.to(dtype)
    if look and value.dtype != dtype and float(value.detach().abs()) > FLOAT32_NUMBER:
        raise InputError(f"the loss is {float(value.detach()):.3g}, which float32 does not hold; pass float64 rows")
    return result


def unit_rows(rows: Rows) -> Rows:
    """The rows at unit length, in their dtype; rows of zeros stay zeros."""
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.ndim != 2:
        return rows  # the checks that follow have the words
    safe = math.sqrt(torch.finfo(rows.dtype).max) / max(1, rows.shape[1]) ** 0.5
    if rows.device.type != "cpu" or without_values(rows):  # no look: rows that need no smaller numbers are divided by 1
        size = rows.detach().abs().amax(1, keepdim=True)
        rows = rows / torch.where(size < safe, 1.0, size.clamp(min=1.0))
    elif rows.numel() and not float(rows.detach().abs().max()) < safe:  # squares would leave the dtype
        rows = rows / rows.detach().abs().amax(1, keepdim=True).clamp(min=1.0)
    # 1e-12, torch's own, is 0 in float16; under autocast CUDA's norms, and with them such rows, are float32.
    least = 1e-12
    if rows.dtype == torch.float16:  # which does not hold the gradient of a row of zeros over the least norm, either
        least, there = _LEAST_FLOAT16, rows.detach().abs().amax(1, keepdim=True) != 0  # NaN is to stay
        rows = torch.where(there, rows, 0.0)
    return torch.nn.functional.normalize(rows, dim=1, eps=least).to(rows.dtype)


def checked_backend(backend: str, rows: Tensor) -> None:
    """Raise InputError unless this is a backend, and one that can run for these rows where they are there."""
    check_name(backend)
    if backend == "auto" or not isinstance(rows, Tensor) or without_values(rows):
        return
    check_backend(backend, rows)


def check_negative_rows(anchors: Rows, negatives: Tensor, log_weights: Tensor | None, *, look: bool) -> None:
    """Raise InputError unless these are shared rows, or k rows for each anchor."""
    check_tensor(negatives, "negatives")
    if negatives.shape[-1] != anchors.shape[1] or negatives.ndim not in (2, 3) or not negatives.is_floating_point():
        raise InputError(
            f"negatives is {negatives.dtype} of shape {tuple(negatives.shape)}; expected floating-point rows, "
            f"(k, {anchors.shape[1]}) or ({anchors.shape[0]}, k, {anchors.shape[1]})"
        )
    check_one_device(negatives, anchors, ("negatives", "anchors"))
    none = negatives.ndim == 3 and negatives.shape[0] == anchors.shape[0] == 0 and negatives.shape[1] > 0
    if not none and (look or not negatives.numel()):  # a rank without anchors has no sets for them
        check_rows(negatives.detach().flatten(0, -2), "negatives")
    if negatives.ndim == 3 and negatives.shape[0] != anchors.shape[0]:
        sets, expected = negatives.shape[0], anchors.shape[0]
        raise InputError(f"negatives has {sets} sets for {expected} anchors; expected one for each")
    if log_weights is not None:
        check_tensor(log_weights, "negative_log_weights")
        if log_weights.shape != negatives.shape[:-1]:
            raise InputError(
                f"negative_log_weights has shape {tuple(log_weights.shape)}; expected one number for each of the "
                f"negatives: {tuple(negatives.shape[:-1])}"
            )


def check_paired(x: Tensor, y: Tensor) -> None:
    """Raise InputError unless row i of x can be paired with row i of y."""
    if x.shape[0] != y.shape[0]:
        raise InputError(f"x has {x.shape[0]} rows and y has {y.shape[0]}; row i of x is paired with row i of y")


def check_has_negatives(pairs: int) -> None:
    """Raise InputError if a batch is a single pair."""
    if pairs < 2:
        raise NoNegativesError("the batch holds one pair only; a contrastive loss needs negatives: two pairs or more")


def checked_pair_groups(groups: Tensor | None, x: Tensor) -> Tensor | None:
    """The groups of pairs, on the rows' device; raise InputError unless there is one number for each pair."""
    if groups is None:
        return None
    check_tensor(groups, "groups")
    if tuple(groups.shape) != (x.shape[0],):
        raise InputError(f"groups has shape {tuple(groups.shape)}; expected one number a pair: ({x.shape[0]},)")
    return groups.to(x.device)


def checked_weights(
    weights: Tensor | None, rows: int, device: torch.device, *, of_a_part: bool = False, look: bool = True
) -> Tensor | None:
    """Weights in double precision on the rows' device, or None; raises InputError unless a mean can be weighted so.

    `of_a_part` allows weights that are all zero: those of one rank.
    """
    if weights is None:
        return None
    check_tensor(weights, "weights")
    if tuple(weights.shape) != (rows,):
        raise InputError(f"weights has shape {tuple(weights.shape)}; expected one weight a pair: ({rows},)")
    values = weights.to(device=device, dtype=torch.float64)
    good = not look or bool((torch.isfinite(values) & (values >= 0)).all())
    if not good or not (of_a_part or not look or bool((values > 0).any())):
        raise InputError(NO_MEAN)
    return values


NO_MEAN = "weights must be finite and not negative, and some of them above 0"


def weighted_mean(values: Tensor, weights: Tensor | None) -> Scalar:
    """The weighted mean, sum w v / sum w, or the plain mean."""
    if weights is None:
        return values.mean()
    weights = weights / weights.detach().max()  # sums of weights near 1e308 would overflow
    return (weights * values).sum() / weights.sum()


def result_dtype(*rows: Tensor) -> torch.dtype:
    """float64 for float64 rows; float32 for all others, half precision too."""
    return torch.float64 if any(r.dtype == torch.float64 for r in rows) else torch.float32


__all__ = [
    "NO_MEAN",
    "UNKNOWN",
    "Check",
    "Extent",
    "NoNegativesError",
    "check_gradients_fit",
    "check_has_negatives",
    "check_negative_rows",
    "check_paired",
    "check_shapes",
    "check_tensor",
    "checked_backend",
    "checked_extent",
    "checked_inverse_temperature",
    "checked_pair_groups",
    "checked_weights",
    "finished",
    "kind_of",
    "looks",
    "result_dtype",
    "unit_rows",
    "weighted_mean",
    "widened",
    "without_values",
]
