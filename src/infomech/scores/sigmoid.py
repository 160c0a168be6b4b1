"""The sigmoid loss (SigLIP) on frozen embeddings: the bias that fits, and what a pair's probability then is."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from .._checks import InputError, check_distinct, check_kind, check_loss_temperature, check_number, check_whole, shown
from .._shown import Brief, Shown
from .._typing import PairsLike, RowsLike
from .._words import interval_text, with_error
from ..diagnosis.estimate import Estimate
from ..diagnosis.findings import Finding
from ..diagnosis.uncertainty import symmetric_interval
from ..geometry import Cosine
from ..io import as_rows
from ..reductions import full_precision
from .reference import MOST_GROUPS, Reference
from .thresholds import check_prior

_STEPS = 100
_COSTS = 0.02  # nats a row, from which a wrong bias is worth a warning
_NEAR_ZERO = 1e-9


@dataclass(frozen=True, repr=False)
class SigmoidFit(Shown):
    """The bias of least sigmoid loss at a temperature and a batch size, the embeddings as they are.

    Args:
        bias: with its interval, by group.
        loss: per row, at that bias.
        given: the bias that was asked about; None for none.
        given_loss: the loss at it.
        temperature: tau.
        batch_size: B; a random pair of the batch is true with probability 1 / B.
        groups: that it was measured on.
    """

    bias: Estimate
    loss: float
    given: float | None
    given_loss: float | None
    temperature: float
    batch_size: int
    groups: int

    @property
    def cost(self) -> float | None:
        """What the given bias costs, in nats a row."""
        return None if self.given_loss is None else max(self.given_loss - self.loss, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {**vars(self), "bias": self.bias.to_dict()}

    def _brief(self) -> Brief:
        rows = [["best bias", with_error(self.bias), interval_text(self.bias)], ["loss there", f"{self.loss:.4g}", ""]]
        if self.given is not None:
            rows += [["bias given", f"{self.given:g}", ""], ["loss there", f"{self.given_loss:.4g}", ""]]
        title = f"Sigmoid loss at τ = {self.temperature:g}, batch {self.batch_size:,}, from {self.groups:,} groups"
        return Brief(title, ["", "estimate", "95% interval"], rows)


@full_precision()
def best_bias(
    x: RowsLike,
    y: RowsLike,
    *,
    temperature: float,
    batch_size: int,
    bias: float | None = None,
    pairs: PairsLike | None = None,
    seed: int = 0,
) -> SigmoidFit:
    """The bias b that minimises the sigmoid loss of frozen embeddings, expected over random batches.

        L(b) = E softplus(-(s/tau + b)) over true pairs + (B - 1) E softplus(s/tau + b) over random ones

    It is convex in b. One pair of each group counts, as in a batch; the interval is by group, with the variance of
    random pairs that share a row.

    Args:
        x: (n, d) embeddings of the first modality.
        y: (m, d) embeddings of the second.
        temperature: tau.
        batch_size: B of the training.
        bias: one to compare it with.
        pairs: (p, 2) rows that belong together; row i with row i by default.
        seed: of the pairs that are drawn where a group has several.

    Raises:
        InputError: for data or numbers that cannot be used.

    Source: E9; Zhai et al. 2023 (arXiv:2303.15343).

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(300, 8, generator=g)
    >>> best_bias(x, x + 0.5 * torch.randn(300, 8, generator=g), temperature=0.1, batch_size=64).bias.value < -5
    True
    """
    check_loss_temperature(temperature)
    check_whole(batch_size, "batch_size", least=2)
    batch_size = min(int(batch_size), 2**62)
    if bias is not None:
        check_number(bias, "bias", "a finite number (SigLIP starts at -10)")
    x, y = as_rows(x, "x"), as_rows(y, "y")
    check_distinct(x, y)
    reference = Reference.of(x, y, pairs=pairs, critic=Cosine(), normalize=None, seed=seed)
    bias = None if bias is None else float(bias)
    i, j = reference.one_pair_a_group(MOST_GROUPS, seed=seed).T
    logits = reference.x.values[i] @ reference.y.values[j].T / temperature
    found = _solve(logits, batch_size)
    return SigmoidFit(
        _with_error(logits, found, batch_size),
        _loss(logits, found, batch_size),
        bias,
        None if bias is None else _loss(logits, bias, batch_size),
        temperature,
        batch_size,
        len(logits),
    )


def _mean_of_random(values: Float[Tensor, "g g"]) -> float:
    count = len(values)
    return float(values.sum(dtype=torch.float64) - values.diagonal().sum(dtype=torch.float64)) / (count * (count - 1))


def _loss(logits: Tensor, bias: float, batch_size: int) -> float:
    """Expected loss of a row of a batch."""
    true = softplus(-(logits.diagonal().double() + bias)).mean()
    return float(true) + (batch_size - 1) * _mean_of_random(softplus(logits + bias))


def _slope(logits: Tensor, bias: float, batch_size: int) -> float:
    """Derivative of the loss; it rises with the bias."""
    true = torch.sigmoid(-(logits.diagonal().double() + bias)).mean()
    return (batch_size - 1) * _mean_of_random(torch.sigmoid(logits + bias)) - float(true)


def _solve(logits: Tensor, batch_size: int) -> float:
    """Where the derivative is 0, by bisection from ends that hold it."""
    top = float(logits.abs().max()) + math.log(batch_size) + 1.0
    low, high = -top, top
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _slope(logits, middle, batch_size) > 0:
            high = middle
        else:
            low = middle
        if high - low < _NEAR_ZERO:
            break
    return (low + high) / 2


def _with_error(logits: Tensor, bias: float, batch_size: int) -> Estimate:
    """The root of an estimating equation: its error is that of the equation over its slope."""
    count = len(logits)
    size = float(count * (count - 1))
    chance = torch.sigmoid(logits.double() + bias)
    true = 1 - chance.diagonal()
    off = chance - torch.diag(chance.diagonal())
    mean = float(off.sum()) / size
    wrong = off.sum(0) + off.sum(1) - 2 * (count - 1) * mean
    influence = (batch_size - 1) * wrong / size - (true - true.mean()) / count
    centred = off - mean
    centred.diagonal().zero_()
    twice = float(centred.square().sum() + (centred * centred.T).sum()) * ((batch_size - 1) / size) ** 2
    variance = max(float(influence.square().sum()) - twice, twice)
    steep = chance * (1 - chance)
    curvature = (batch_size - 1) * _mean_of_random(steep) + float(steep.diagonal().mean())
    return symmetric_interval(bias, math.sqrt(variance) / curvature, count - 1)


def sigmoid_probability(
    scores: Float[Tensor, " n"], *, temperature: float, bias: float, batch_size: int, prior: float
) -> Float[Tensor, " n"]:
    """Probability of a match under the sigmoid loss: sigmoid(s / tau + b), moved from the batch's prior to yours.

    In a batch of B a random pair is true with probability 1 / B, which a bias that fits has taken in.

    Args:
        scores: (n,) cosines.
        temperature: tau.
        bias: b, the model's or `best_bias`.
        batch_size: B that the bias belongs to.
        prior: share of true pairs among those that you ask about.

    >>> one = torch.tensor([0.5], dtype=torch.float64)
    >>> sigmoid_probability(one, temperature=0.1, bias=-5.0, batch_size=2, prior=0.5)
    tensor([0.5000], dtype=torch.float64)
    """
    check_loss_temperature(temperature)
    check_prior(prior)
    check_whole(batch_size, "batch_size", least=2)
    check_number(bias, "bias")
    scores = as_scores(scores)
    shift = math.log(prior) - math.log1p(-prior) + math.log(batch_size - 1)
    return torch.sigmoid(scores / temperature + float(bias) + shift)


def as_scores(scores: Any) -> Tensor:
    """Scores of any container as a tensor, in their own type.

    Raises:
        InputError: for anything but numbers.
    """
    try:
        found = scores if isinstance(scores, Tensor) else torch.from_numpy(np.array(scores))
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(0, dtype=torch.bool)
    if found.dtype is torch.bool or found.is_complex():
        raise InputError(f"scores is {shown(scores)}; give numbers: the cosines of the pairs")
    return found.detach()


def sigmoid_findings(fit: SigmoidFit) -> list[Finding]:
    """Whether the bias fits, and what it costs."""
    check_kind(fit, "fit", SigmoidFit, "what best_bias returns")
    if fit.given is None or fit.cost is None:
        return []
    off = fit.given - fit.bias.value
    inside = fit.bias.low <= fit.given <= fit.bias.high
    where = f"The bias of least loss at τ = {fit.temperature:g} and batch {fit.batch_size:,} is {with_error(fit.bias)}"
    if inside or fit.cost < _COSTS:
        text = (
            f"{where}; yours, {fit.given:g}, costs {fit.cost:.2g} nats a row. A pair's probability is then "
            "`infomech.scores.sigmoid.sigmoid_probability`."
        )
        return [Finding("sigmoid-bias", "good", "The bias fits", text, fit.given)]
    side = "high: random pairs are taken for matches" if off > 0 else "low: true pairs are taken for random ones"
    text = (
        f"{where}; yours, {fit.given:g}, is too {side}, and costs {fit.cost:.2g} nats a row of {fit.given_loss:.3g}. "
        f"Set it, or let it learn at a larger rate: `bias={fit.bias.value:.2f}`."
    )
    return [Finding("sigmoid-bias", "warning", "The bias does not fit", text, fit.given)]


__all__ = ["SigmoidFit", "best_bias", "sigmoid_findings", "sigmoid_probability"]
