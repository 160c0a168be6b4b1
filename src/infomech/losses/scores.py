"""The scores of a loss: a critic over a temperature, with log-weights of the negatives, in the form that tiles take."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError
from .._typing import Scalar
from ..geometry import Cosine, Critic
from ..reductions.exclusion import Exclusion
from ..reductions.losses.infonce import row_log_sums
from ._inputs import check_tensor

_LARGEST = 1e30  # a log-weight that float32 tiles can add to scores
XTerms = Float[Tensor, " n"]
YTerms = Float[Tensor, " m"]


@dataclass(frozen=True)
class PairScores:
    """The scores s(x, y) / tau = scale x.y + b(x) + b(y) of two sets of rows, and their rows' log-weights.

    All of them are float64, and differentiable where what they were made of is.
    """

    scale: Scalar
    own_x: XTerms | None  # b(x): the critic's term of each row, over tau; None where it is 0
    own_y: YTerms | None
    log_weights_x: XTerms | None
    log_weights_y: YTerms | None

    @property
    def negative_x(self) -> XTerms | None:
        """What is added to scale x.y where x_i is a negative."""
        return added(self.own_x, self.log_weights_x)

    @property
    def negative_y(self) -> YTerms | None:
        """The same for y_j."""
        return added(self.own_y, self.log_weights_y)

    def positives(self, *, weigh: bool) -> tuple[YTerms | None, XTerms | None]:
        """What is added to scale x.y of a positive, by y's row for x to y, by x's row for y to x."""
        if weigh:
            return self.negative_y, self.negative_x
        return self.own_y, self.own_x

    @property
    def may_remove(self) -> bool:
        """Whether log-weights may leave an anchor without negatives."""
        return self.log_weights_x is not None or self.log_weights_y is not None


def pair_scores(
    x: Tensor,
    y: Tensor,
    *,
    critic: Critic | None,
    inverse_temperature: Scalar,
    log_weights: tuple[Tensor | None, Tensor | None] = (None, None),
    names: tuple[str, str] = ("log_weights_x", "log_weights_y"),
    finite: bool = False,
    look: bool = True,
) -> PairScores:
    """Check the log-weights and bring everything into the form of `PairScores`; `finite` refuses -inf."""
    checked = [
        _checked_log_weights(values, rows, name, finite=finite, look=look)
        for values, rows, name in zip(log_weights, (x, y), names, strict=True)
    ]
    critic = Cosine() if critic is None else critic
    terms = [critic.affine(rows).terms for rows in (x, y)]
    own = [None if t is None else t * inverse_temperature for t in terms]
    scale = inverse_temperature if critic.slope == 1.0 else critic.slope * inverse_temperature
    return PairScores(scale, *own, *checked)


def log_sums_of_rows(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    scale: Scalar,
    y_terms: YTerms | None,
    score_bound: float | None,
    exclusion: Exclusion,
    backend: str = "auto",
) -> XTerms:
    """`row_log_sums`, of no rows too: a rank without rows still takes part in the gradients of the others'."""
    if x.shape[0]:
        options: dict[str, Any] = {"score_bound": score_bound, "exclusion": exclusion, "backend": backend}
        return row_log_sums(x, y, scale=scale, y_terms=y_terms, **options)
    tied = 0.0 * (y.double().sum() + scale.double()) + x.double().sum(1)
    return tied if y_terms is None else tied + 0.0 * torch.where(torch.isfinite(y_terms), y_terms, 0.0).sum()


def log_sum(values: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """`torch.logsumexp`, -inf where all values are that, and then without a gradient in place of NaN.

    >>> values = torch.tensor([[-math.inf, -math.inf], [0.0, -math.inf]], requires_grad=True)
    >>> log_sum(values, 1).tolist(), torch.autograd.grad(log_sum(values, 1).sum(), values)[0].tolist()
    ([-inf, 0.0], [[0.0, 0.0], [1.0, 0.0]])
    """
    none = (values.detach() == -math.inf).all(dim, keepdim=True)
    sums = torch.where(none, 0.0, values).logsumexp(dim)
    return torch.where(none.squeeze(dim), -math.inf, sums)


def added(*parts: Tensor | None) -> Tensor | None:
    """The sum of the parts that are there; None if none is."""
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0]) if there else None


def _checked_log_weights(values: Tensor | None, rows: Tensor, name: str, *, finite: bool, look: bool) -> XTerms | None:
    if values is None:
        return None
    check_tensor(values, name)
    if tuple(values.shape) != (rows.shape[0],) or not values.is_floating_point():
        raise InputError(
            f"{name} is {values.dtype} of shape {tuple(values.shape)}; expected one floating-point number a row: "
            f"({rows.shape[0]},)"
        )
    values = values.to(device=rows.device, dtype=torch.float64)
    if not look:
        return values
    if not bool((values <= _LARGEST).all()):
        raise InputError(f"{name} has NaN or +inf; expected finite numbers, or -inf to remove a row as a negative")
    if finite and bool((values == -math.inf).any()):
        raise InputError(f"{name} has -inf, and weigh_positive would give a positive no weight; drop one of the two")
    return values


__all__ = ["PairScores", "added", "log_sum", "log_sums_of_rows", "pair_scores"]
