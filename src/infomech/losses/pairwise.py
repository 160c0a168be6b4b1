"""The pairwise loss of three or more modalities: the mean of the symmetric loss over pairs of modalities."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .._checks import InputError
from .._typing import Rows, Scalars
from ..geometry import Critic
from ..reductions.losses.backends import Backend, Precision
from ._inputs import Check
from .agreement import Local, agree
from .distributed import Ranks
from .request import Reduction, Terms
from .symmetric import symmetric_infonce
from .temperature import TemperedLoss, starting_temperature


def pairwise_infonce(
    modalities: Sequence[Rows],
    *,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    divergence_weight: float | Tensor = 0.0,
    critic: Critic | None = None,
    weights: Float[Tensor, " n"] | None = None,
    log_weights: Sequence[Float[Tensor, " n"] | None] | None = None,
    weigh_positive: bool = False,
    groups: Shaped[Tensor, " n"] | None = None,
    reduction: Reduction = "mean",
    normalize: bool = False,
    ranks: Ranks | None = None,
    check: Check = "always",
    backend: Backend = "auto",
    precision: Precision | None = None,
) -> Scalars:
    """Symmetric InfoNCE of every two of k modalities, averaged over the k (k - 1) / 2 pairs of modalities.

    The same as the mean over ordered pairs of the one-directional losses, plus lambda times the mean over pairs of the
    batch's Dsym. Memory O(k n d). Control is critical at lambda = (k + 1) / (2 k) in the sharp limit: 3/4, 2/3, 5/8
    (`infomech.equilibria.critical_divergence_weight`).

    Args:
        modalities: k >= 2 embeddings of (n, d); row i of each shows the same object.
        temperature: tau > 0, one for all pairs.
        logit_scale: 1/tau, in its place.
        divergence_weight: lambda; see `symmetric_infonce`.
        critic: s(x, y), one for all pairs; see `symmetric_infonce`.
        weights: (n,) weights of the objects as anchors.
        log_weights: for each modality, (n,) log-weights of its rows as negatives, or None.
        weigh_positive: whether the positives' scores carry them too.
        groups: (n,) integers; objects of equal number are not each other's negatives.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over objects; the mean over pairs of modalities stays.
        normalize: bring the rows to unit length first.
        ranks: the processes over which the batch is sharded; see `symmetric_infonce`.
        check: ``"always"`` or ``"never"``, when values are looked at; see `symmetric_infonce`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

    Returns:
        The loss in nats, a scalar; at k = 2 that of `symmetric_infonce`.

    Raises:
        InputError: for fewer than two modalities, or as `symmetric_infonce`.

    Source: D7, T11, C1 for k modalities.

    >>> x = torch.eye(3)
    >>> round(pairwise_infonce([x, x, x], temperature=1.0).item(), 4)  # log(1 + 2 exp(-1))
    0.5514
    """
    own = _of_each(modalities, log_weights) if ranks is None else _agreed(modalities, log_weights, ranks)
    losses = [
        symmetric_infonce(
            x,
            y,
            temperature=temperature,
            logit_scale=logit_scale,
            divergence_weight=divergence_weight,
            critic=critic,
            weights=weights,
            log_weights_x=u,
            log_weights_y=v,
            weigh_positive=weigh_positive,
            groups=groups,
            reduction=reduction,
            normalize=normalize,
            ranks=ranks,
            check=check,
            backend=backend,
            precision=precision,
        )
        for (x, u), (y, v) in combinations(zip(modalities, own, strict=True), 2)
    ]
    return torch.stack(losses).mean(0)


def _of_each(modalities: Sequence[Rows], log_weights: Sequence[Tensor | None] | None) -> list[Tensor | None]:
    """The log-weights of each modality; raises InputError unless there are two or more."""
    if len(modalities) < 2:
        raise InputError(f"modalities is a sequence of {len(modalities)}; a pairwise loss needs at least 2")
    own: list[Tensor | None] = [None] * len(modalities) if log_weights is None else list(log_weights)
    if len(own) != len(modalities):
        raise InputError(f"log_weights has {len(own)} entries for {len(modalities)} modalities; expected one for each")
    return own


def _agreed(
    modalities: Sequence[Rows], log_weights: Sequence[Tensor | None] | None, ranks: Ranks
) -> list[Tensor | None]:
    """The same on all ranks, or an error on all of them: a pair of modalities is a call of every rank."""

    def check() -> Local[list[Tensor | None]]:
        own = _of_each(modalities, log_weights)
        return Local(own, len(own), [("the number of modalities", len(own))])

    return agree(ranks, check).value


class PairwiseInfoNCE(TemperedLoss):
    """`pairwise_infonce` with its temperature and weight.

    Args:
        temperature: tau, or its initial value when learned; 0.07 unless `logit_scale` is given.
        divergence_weight: lambda.
        learn_temperature: learn log(1/tau); see `SymmetricInfoNCE`.
        logit_scale: 1/tau, in place of `temperature`.
        critic: s(x, y), one for all pairs.
        weigh_positive: whether the positives' scores carry the log-weights too.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over objects.
        normalize: bring the rows to unit length first. Without it rows of another length give a warning, once.
        ranks: the processes over which a batch is sharded.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

    >>> loss = PairwiseInfoNCE(temperature=1.0)
    >>> round(loss([torch.eye(3)] * 3).item(), 4)
    0.5514
    """

    def __init__(
        self,
        temperature: float | None = None,
        divergence_weight: float = 0.0,
        learn_temperature: bool = False,
        *,
        logit_scale: float | None = None,
        critic: Critic | None = None,
        weigh_positive: bool = False,
        reduction: Reduction = "mean",
        normalize: bool = False,
        ranks: Ranks | None = None,
        check: Check = "first",
        backend: Backend = "auto",
        precision: Precision | None = None,
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.07)
        settings: dict[str, Any] = {"critic": critic, "normalize": normalize, "check": check}
        settings["backend"], settings["precision"] = backend, precision
        super().__init__(start, learn_temperature=learn_temperature, **settings)
        self.weigh_positive = weigh_positive
        Terms(reduction=reduction).check()
        self.reduction: Reduction = reduction
        self.ranks = ranks
        self.divergence_weight = divergence_weight

    def forward(
        self,
        modalities: Sequence[Rows],
        *,
        temperature: float | Tensor | None = None,
        logit_scale: float | Tensor | None = None,
        weights: Float[Tensor, " n"] | None = None,
        log_weights: Sequence[Float[Tensor, " n"] | None] | None = None,
        groups: Shaped[Tensor, " n"] | None = None,
    ) -> Scalars:
        """The loss of one batch: k times (n, d) -> scalar; the arguments are those of `pairwise_infonce`.

        A temperature, or logit scale, takes the place of the module's for this call; see `TemperedLoss`.
        """
        self._begin(*modalities)
        scale = self._scale_of(temperature, logit_scale)

        def loss(check: Check) -> tuple[Scalars, None]:
            value = pairwise_infonce(
                modalities,
                **scale,
                divergence_weight=self.divergence_weight,
                critic=self.critic,
                weights=weights,
                log_weights=log_weights,
                weigh_positive=self.weigh_positive,
                groups=groups,
                reduction=self.reduction,
                normalize=self.normalize,
                ranks=self.ranks,
                check=check,
                backend=self.backend,
                precision=self.precision,
            )
            return value, None

        return self._end(self._looked_after(loss, *modalities, ranks=self.ranks)[0])


__all__ = ["PairwiseInfoNCE", "pairwise_infonce"]
