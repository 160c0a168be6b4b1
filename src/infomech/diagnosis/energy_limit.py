"""The energy budget with all other rows as negatives (E1), corrected towards its limit; of pairs, each weighing one."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError
from ..geometry import log_kernel_volume
from ..measures import PairedSample
from ..reductions import BlockedLogSums
from .batch_budget import PARTS
from .estimate import Estimate
from .gram_statistics import KernelSweeps
from .replicates import degrees_of_freedom
from .uncertainty import block_jackknife, effective_number, quantile_estimate, symmetric_interval, unless_few

Direction = Literal["x_to_y", "y_to_x"]

QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")
RESOLVED_FROM = 10.0  # effective neighbours of the median anchor: there the logarithm's bias is about 0.05 nats
_FIXED = "the negatives are held as they are, and both directions are pooled by group"
_CORRECTED = "it is of the size of the logarithm's corrected bias, whose own noise is not known"
_CHUNK = 2048


@dataclass(frozen=True)
class CorrectedBudget:
    """The parts of a symmetric InfoNCE at one temperature, in nats, each with its uncertainty.

    Two identities hold, to rounding, for the fields and for the uncorrected ``plain`` values alike:

        energy_sym  = alignment - (dispersion_x + dispersion_y) / 2 - divergence_sym
        infonce_sym = energy_sym + log_partition + remainder

    and log_partition = log_negatives + log_kernel_volume. The dispersions relative to the uniform law (0 is uniform)
    come with log_kernel_mean = log_kernel_volume - log_manifold_volume, so that
    infonce_sym = alignment - (dispersion_x_relative + dispersion_y_relative)/2 - divergence_sym + log_negatives
    + log_kernel_mean + remainder: the form of the waterfall, in which no term is large only because d is.
    """

    temperature: float
    alignment: Estimate
    dispersion_x: Estimate
    dispersion_y: Estimate
    dispersion_x_relative: Estimate
    dispersion_y_relative: Estimate
    divergence_xy: Estimate
    divergence_yx: Estimate
    divergence_sym: Estimate
    energy_sym: Estimate
    infonce_sym: Estimate
    infonce_xy: Estimate
    infonce_yx: Estimate
    log_partition: Estimate
    log_negatives: Estimate
    log_kernel_volume: float
    log_manifold_volume: float
    remainder: Estimate
    effective_negatives: Estimate  # median over the anchors of both directions
    effective_negatives_quantiles: dict[Direction, dict[str, Estimate]]  # keys "0.05", "0.25", "0.5", "0.75", "0.95"
    negatives: float  # N: mean number of negatives of an anchor
    plain: dict[str, Estimate]  # the same parts without the correction of the logarithm's bias
    support: float  # effective neighbours behind the median anchor's density, for the worst of the four densities
    resolved: bool  # whether `support` is at least 10

    @property
    def log_kernel_mean(self) -> float:
        """log(V / vol Z): the log of the kernel's mean under the uniform law, in nats."""
        return self.log_kernel_volume - self.log_manifold_volume


@dataclass(frozen=True)
class _Means:
    """A mean over pairs, of the whole sample and without each block in turn: (), (b,)."""

    full: Float[Tensor, ""]
    replicates: Float[Tensor, " b"]


def corrected_budget(sample: PairedSample, kernels: KernelSweeps, *, temperature: float) -> CorrectedBudget:
    """The budget from kernel sums that have been swept.

    With log rho~_Y(x) = log mean over y outside x's group of exp(x.y / tau) - log V, means over pairs:

        alignment      A    = -mean s(x, y) / tau
        dispersion     H_X  = -mean log rho~_X(x)
        divergence     D_XY = mean[log rho~_X(x) - log rho~_Y(x)],  Dsym = (D_XY + D_YX) / 2
        energy         Jsym = A - (H_X + H_Y) / 2 - Dsym
        remainder           = InfoNCE - Jsym - log(N V)

    The logarithm of a mean of m kernels is biased by about -1 / (2 n_eff). The fields carry the block jackknife's
    correction, which knows that the captions of one image are not independent; ``plain`` holds the uncorrected parts.

    Uncertainty: block jackknife over groups, t intervals. InfoNCE itself is that of the data with all other groups as
    negatives; its interval, too, is for N negatives. No interval is known to hold for the remainder and for effective
    negatives: theirs are withheld, and those of the limit's parts below 15 effective groups (E11).

    Source: E1, E2; D3 to D7; Theorem 4.1 of the paper.
    """
    if sample.dim < 2:
        raise InputError("embeddings have one feature; the sphere they should live on needs at least 2")
    log_volume = log_kernel_volume(sample.space, sample.critic, temperature)
    full, replicates = _parts(sample, kernels, log_volume, 1 / temperature)
    corrected, stderr = block_jackknife(full, replicates, sample.block_groups)
    degrees = degrees_of_freedom(sample)
    plain = {n: symmetric_interval(float(v), float(e), degrees) for n, v, e in zip(_NAMES, full, stderr, strict=True)}
    exact = {"infonce_xy", "infonce_yx", "infonce_sym", "alignment", "log_negatives"}  # not estimates of a limit
    values = {n: float(f if n in exact else c) for n, f, c in zip(_NAMES, full, corrected, strict=True)}
    values["energy_sym"] = (
        values["alignment"] - (values["dispersion_x"] + values["dispersion_y"]) / 2 - values["divergence_sym"]
    )
    values["log_partition"] = values["log_negatives"] + log_volume
    values["remainder"] = values["infonce_sym"] - values["energy_sym"] - values["log_partition"]
    for name in ("log_partition", "log_negatives"):
        plain[name] = Estimate.exact(plain[name].value)
    exact |= {"log_partition"}
    fields = {n: symmetric_interval(values[n], plain[n].stderr, degrees) for n in _NAMES}
    effective = effective_number(sample.group_pairs)
    for name in _NAMES:
        if name not in exact:  # with few groups the correction's own noise is no longer small
            fields[name] = unless_few(fields[name], effective)
    fields["remainder"] = fields["remainder"].without_interval(_CORRECTED)
    counts = {"x_to_y": kernels.xy.by_row.effective_count(), "y_to_x": kernels.xy.by_column.effective_count()}
    anchors = {"x_to_y": sample.x, "y_to_x": sample.y}
    quantiles: dict[Direction, dict[str, Estimate]] = {}
    directions: tuple[Direction, Direction] = ("x_to_y", "y_to_x")
    for key in directions:
        rows = anchors[key]
        quantiles[key] = {
            q: quantile_estimate(
                counts[key], float(q), rows.groups, sample.groups, weights=rows.weights
            ).without_interval(_FIXED)
            for q in QUANTILES
        }
    median = quantile_estimate(
        torch.cat([counts["x_to_y"], counts["y_to_x"]]),
        0.5,
        torch.cat([sample.x.groups, sample.y.groups]),
        sample.groups,
        weights=torch.cat([sample.x.weights, sample.y.weights]),
    )
    across = [quantiles[key]["0.5"].value for key in directions]
    within = [float(k.by_row.effective_count().median()) for k in (kernels.xx, kernels.yy)]
    support = min(*across, *within)
    return CorrectedBudget(
        temperature=temperature,
        **fields,
        log_kernel_volume=log_volume,
        log_manifold_volume=sample.space.log_volume,
        effective_negatives=median.without_interval(_FIXED),
        effective_negatives_quantiles=quantiles,
        negatives=math.exp(fields["log_negatives"].value),
        plain=plain,
        support=support,
        resolved=support >= RESOLVED_FROM,
    )


_NAMES = tuple(part for part in PARTS if not part.startswith("effective_negatives"))


def _parts(
    sample: PairedSample, kernels: KernelSweeps, log_volume: float, scale: float
) -> tuple[Float[Tensor, " k"], Float[Tensor, "b k"]]:
    """The parts in the order of _NAMES, of the whole sample and without each block."""
    xy, excess_xy = _log_means(sample, kernels.xy.by_row, column=0, scale=scale)
    yx, excess_yx = _log_means(sample, kernels.xy.by_column, column=1, scale=scale)
    means = {
        "xx": _log_means(sample, kernels.xx.by_row, column=0)[0],
        "xy": xy,
        "yy": _log_means(sample, kernels.yy.by_row, column=1)[0],
        "yx": yx,
        "excess_xy": excess_xy,
        "excess_yx": excess_yx,
        "log_n": _log_negatives(sample),
        "a": _pair_mean(sample, -scale * sample.pair_scores),
    }

    def combine(part: dict[str, Tensor]) -> Tensor:
        xx, xy, yy, yx, a, log_n = (part[k] for k in ("xx", "xy", "yy", "yx", "a", "log_n"))
        h_x, h_y = log_volume - xx, log_volume - yy
        d_xy, d_yx = xx - xy, yy - yx
        d_sym = (d_xy + d_yx) / 2
        energy = a - (h_x + h_y) / 2 - d_sym
        infonce_xy = a + xy + log_n + part["excess_xy"]
        infonce_yx = a + yx + log_n + part["excess_yx"]
        infonce = (infonce_xy + infonce_yx) / 2
        log_partition = log_n + log_volume
        relative = sample.space.log_volume
        return torch.stack(
            [
                a,
                h_x,
                h_y,
                h_x - relative,
                h_y - relative,
                d_xy,
                d_yx,
                d_sym,
                energy,
                infonce,
                infonce_xy,
                infonce_yx,
                log_partition,
                log_n,
                infonce - energy - log_partition,
            ],
            dim=-1,
        )

    return combine({k: m.full for k, m in means.items()}), combine({k: m.replicates for k, m in means.items()})


def _pair_mean(sample: PairedSample, values: Float[Tensor, " p"]) -> _Means:
    sums = values.new_zeros(sample.blocks).index_add_(0, sample.pair_blocks, values)
    counts = torch.bincount(sample.pair_blocks, minlength=sample.blocks).double()
    return _Means(sums.sum() / counts.sum(), (sums.sum() - sums) / (counts.sum() - counts))


def _other_pairs(sample: PairedSample) -> tuple[Float[Tensor, " p"], Float[Tensor, " b"]]:
    """Pairs outside each pair's group, N; and pairs of each block."""
    others = len(sample.pairs) - sample.group_pairs[sample.pair_groups]
    return others, torch.bincount(sample.pair_blocks, minlength=sample.blocks).double()


def _log_negatives(sample: PairedSample) -> _Means:
    others, by_block = _other_pairs(sample)
    total = others.new_zeros(sample.blocks)
    for at in torch.arange(len(others), device=others.device).split(_CHUNK):
        logs = (others[at, None] - by_block[None, :]).clamp_min(1e-300).log()
        logs.scatter_(1, sample.pair_blocks[at, None], 0.0)
        total += logs.sum(0)
    return _Means(others.log().mean(), total / (len(others) - by_block))


def _log_means(
    sample: PairedSample, sums: BlockedLogSums, *, column: int, scale: float | None = None
) -> tuple[_Means, _Means]:
    """Means over pairs of log mean_j kappa_ij, i the pair's row in `column`, and of log(1 + positive / negatives).

    The second, with `scale` = 1 / tau, is the mean of log(1 + exp(s / tau) / sum_j kappa_ij): what the positive adds to
    the denominator. It is 0 without a scale.
    """
    others, by_block = _other_pairs(sample)
    log_total = sums.log_total()
    full, replicates = others.new_zeros(2), others.new_zeros(2, sample.blocks)
    for at in torch.arange(len(others), device=others.device).split(_CHUNK):
        rows = sample.pairs[at, column]
        unique, back = torch.unique(rows, return_inverse=True)
        without = _rows_without_blocks(sums, unique)[back]
        own = sample.pair_blocks[at, None]
        if scale is not None:
            logit = scale * sample.pair_scores[at]
            full[1] += torch.nn.functional.softplus(logit - log_total[rows]).sum()
            replicates[1] += torch.nn.functional.softplus(logit[:, None] - without).scatter_(1, own, 0.0).sum(0)
        full[0] += (log_total[rows] - others[at].log()).sum()
        without -= (others[at, None] - by_block[None, :]).clamp_min(1e-300).log()
        replicates[0] += without.scatter_(1, own, 0.0).sum(0)
    counts = len(others) - by_block
    return _Means(full[0] / len(others), replicates[0] / counts), _Means(full[1] / len(others), replicates[1] / counts)


def _rows_without_blocks(sums: BlockedLogSums, rows: Int[Tensor, " k"]) -> Float[Tensor, "k b"]:
    return torch.cat([sums.log_without_blocks(part) for part in rows.split(_CHUNK)])


__all__ = ["RESOLVED_FROM", "CorrectedBudget", "Direction", "corrected_budget"]
