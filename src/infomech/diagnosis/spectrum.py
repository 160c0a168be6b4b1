"""Geometry within one modality (E4): cone, uniformity, rank, collapse, hubness, duplicates."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..measures import PairedSample
from ..reductions import GroupedRows, NearestNeighbours, PairSums, rows_at_once
from .diagnosis import FloatArray
from .estimate import Estimate
from .moments import Moments, row_chunks
from .replicates import cross_group_mean, jackknifed, leave_blocks_out, pair_weights
from .uncertainty import (
    effective_number,
    group_totals,
    influence_estimate,
    mapped,
    mean_estimate,
    symmetric_interval,
    unless_few,
    wilson_estimate,
)

DUPLICATE_FROM = 1 - 1e-4  # cosine from which two rows of different groups count as duplicates


@dataclass(frozen=True)
class Side:
    """One modality's measures, and its spectrum for the figure."""

    measures: dict[str, Estimate]
    spectrum: FloatArray  # (d,) eigenvalues of the centred covariance, descending


def side_geometry(
    sample: PairedSample, column: int, *, moments: Moments, pair_sums: PairSums, neighbours: NearestNeighbours
) -> Side:
    """The measures of one modality, each weighing a pair once.

    ===================== ======================================================================= ===============
    name                  formula                                                                 interval
    ===================== ======================================================================= ===============
    mean_cosine           E[x.x'] over rows of different groups (1: all in one direction)         block jackknife
    uniformity            log E exp(-2 |x - x'|^2) over rows of different groups                  block jackknife
    effective_rank        exp(entropy of sigma / sum sigma), sigma the singular values of the     influence
                          embeddings, not centred (RankMe)
    participation_ratio   (sum l)^2 / sum l^2, l the eigenvalues of the centred covariance        influence
    collapse              sqrt(d) x mean over coordinates of the standard deviation; 1 is ideal   influence
    hubness               skewness of how often a row is among the 10 nearest of another          influence
    duplicates            share of rows with a row of another group at cosine above 0.9999        Wilson
    ===================== ======================================================================= ===============

    The influence of a moment's function is exact to first order; the participation ratio's interval is one for the
    spread of the eigenvalues, whose law is more symmetric. In hubness and duplicates two rows count as dependent if
    they are of one group or stand among each other's nearest. The effective rank is RankMe's plug-in, low by order
    d / n; the sum of l^2 in the participation ratio leaves out products of a group with itself, which would bias it.
    Intervals from moments, and that of hubness, are withheld below 15 effective groups (E11).

    Source: E4; Wang and Isola 2020; RankMe, arXiv:2210.02885; Radovanovic et al. 2010.
    """
    rows = sample.x if column == 0 else sample.y
    means = sample.group_sums[column]
    out = {"mean_cosine": mapped(jackknifed(sample, cross_group_mean(sample, means, means)), -1.0, 1.0)}
    out["uniformity"] = _uniformity(sample, pair_sums)
    spectral, spectrum = _spectral(sample, rows, moments)
    out |= spectral
    out["hubness"] = _hubness(sample, rows, neighbours)
    out["duplicates"] = _duplicates(sample, rows, neighbours)
    return Side(out, spectrum)


def _uniformity(sample: PairedSample, pair_sums: PairSums) -> Estimate:
    full, replicates = leave_blocks_out(pair_sums.sums["uniformity"], pair_weights(sample))
    return jackknifed(sample, (full.log(), replicates.log()))


def _spectral(sample: PairedSample, rows: GroupedRows, moments: Moments) -> tuple[dict[str, Estimate], FloatArray]:
    """Functions of the second moments, with the influence of each group through the eigenvalues.

    An eigenvalue l_k with eigenvector v_k has influence (v_k.z)^2 - l_k at a point z.
    """
    weight, mean, cov = moments.weight, moments.mean, moments.cov
    d = len(mean)
    raw_values, raw_vectors = _eigen(cov + torch.outer(mean, mean))
    values, vectors = _eigen(cov)
    sigma = raw_values.sqrt()
    share = sigma / sigma.sum()
    entropy = torch.special.entr(share).sum()
    rank = entropy.exp()
    # d rank / d l_k = rank (-log p_k - H) / (2 sigma_k sum sigma); where sigma_k = 0 nothing varies
    safe = torch.where(sigma > 1e-9 * sigma.max(), sigma, torch.inf)
    rank_slope = rank * (-share.clamp_min(1e-300).log() - entropy) / (2 * safe * sigma.sum())
    # tr S^2 is the mean of (z.z')^2 over all pairs of rows: over pairs of different groups it is unbiased
    own = _own_products(rows, mean.to(rows.values.dtype), sample.groups)
    own_weights = sample.group_pairs.square().sum()
    squares = (values.square().sum() * weight.square() - own) / (weight.square() - own_weights)
    ratio = values.sum().square() / squares
    ratio_slope = 2 * ratio * (1 / values.sum() - values / squares)
    deviations = (cov.diagonal() * sample.groups / (sample.groups - 1)).clamp_min(1e-300).sqrt()
    collapse = d**0.5 * deviations.mean()
    collapse_slope = d**-0.5 / (2 * deviations)
    influence = torch.zeros(sample.groups, 3, dtype=torch.float64, device=mean.device)
    dtype = rows.values.dtype  # is precise enough for a standard error
    raw_vectors, vectors = raw_vectors.to(dtype), vectors.to(dtype)
    for at in row_chunks(rows):
        z = rows.values[at]
        centred = z - mean.to(dtype)
        psi = torch.stack(
            [
                (z @ raw_vectors).square() @ rank_slope.to(dtype) - raw_values @ rank_slope,
                (centred @ vectors).square() @ ratio_slope.to(dtype) - values @ ratio_slope,
                centred.square() @ collapse_slope.to(dtype) - cov.diagonal() @ collapse_slope,
            ],
            dim=1,
        )
        influence += group_totals(rows.weights[at, None] * psi / weight, rows.groups[at], sample.groups)
    names = {"effective_rank": (rank, d), "participation_ratio": (ratio, d), "collapse": (collapse, d**0.5)}
    out = {}
    for k, (key, (value, most)) in enumerate(names.items()):
        plain = influence_estimate(float(value), influence[:, k], sample.group_pairs)
        plain = unless_few(mapped(plain, 0.0, float(most)), effective_number(sample.group_pairs))
        out[key] = _near_its_end(plain, float(most)) if key == "participation_ratio" else plain
    return out, np.asarray(values.flip(0).cpu().numpy(), dtype=np.float64)


def _near_its_end(ratio: Estimate, most: float) -> Estimate:
    """The participation ratio with an interval for the spread of the eigenvalues, which it is a function of.

    With c their coefficient of variation the ratio is d / (1 + c^2), at most d; c has the more symmetric law.
    """
    if ratio.withheld or not ratio.high > ratio.low:
        return ratio
    t = (ratio.high - ratio.value) / ratio.stderr if ratio.high < most else (ratio.value - ratio.low) / ratio.stderr
    square = max(most / ratio.value - 1, 0.0)
    of_square = most * ratio.stderr / ratio.value**2
    c = math.sqrt(square)
    of_c = min(of_square / (2 * c), math.sqrt(of_square)) if c > 0 else math.sqrt(of_square)
    low, high = (most / (1 + end**2) for end in (c + t * of_c, max(c - t * of_c, 0.0)))
    return Estimate(ratio.value, ratio.stderr, low, high)


def _own_products(rows: GroupedRows, mean: Float[Tensor, " d"], count: int) -> Float[Tensor, ""]:
    """Sum of w_i w_j (z_i.z_j)^2 over pairs of rows of one group, i = j included; z centred."""
    sizes = torch.bincount(rows.groups, minlength=count)
    firsts = sizes.cumsum(0) - sizes
    total = rows.weights.new_zeros(())
    for size in sizes.unique().tolist():
        at_once = max(1, rows_at_once(rows.values.device) // size)
        for starts in firsts[sizes == size].split(at_once):
            at = starts[:, None] + torch.arange(size, device=starts.device)
            z = rows.values[at] - mean
            products = torch.bmm(z, z.mT).square().double()
            weights = rows.weights[at]
            total += (weights[:, :, None] * weights[:, None, :] * products).sum()
    return total


def _eigen(matrix: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0), vectors


def _hubness(sample: PairedSample, rows: GroupedRows, neighbours: NearestNeighbours) -> Estimate:
    """Skewness of how often each row is among another's nearest; influence, mutual neighbours not independent."""
    table = neighbours.of_rows.indices
    counts = torch.bincount(table[table >= 0], minlength=len(rows)).double()
    centred = counts - counts.mean()
    variance = centred.square().mean()
    if float(variance) == 0:
        return Estimate.exact(0.0)
    scaled = centred / variance.sqrt()
    skewness = scaled.pow(3).mean()
    influence = scaled.pow(3) - skewness - 3 * scaled - 1.5 * skewness * (scaled.square() - 1)
    weights = group_totals(torch.ones_like(counts), rows.groups, sample.groups)
    alone = influence_estimate(
        float(skewness), group_totals(influence / len(rows), rows.groups, sample.groups), weights
    )
    stderr = _with_neighbours(alone.stderr, influence / len(rows), table, _mutual(table))
    effective = effective_number(weights)
    return unless_few(symmetric_interval(alone.value, stderr, effective - 1), effective)


def _duplicates(sample: PairedSample, rows: GroupedRows, neighbours: NearestNeighbours) -> Estimate:
    """Share of rows with a twin in another group; twins come in twos, and so do their deviations."""
    twins = neighbours.of_rows.values > DUPLICATE_FROM
    found = twins[:, 0].double()
    plain = mean_estimate(found, rows.groups, sample.groups)
    stderr = _with_neighbours(plain.stderr, (found - plain.value) / len(rows), neighbours.of_rows.indices, twins)
    weights = group_totals(torch.ones_like(found), rows.groups, sample.groups)
    return wilson_estimate(plain.value, stderr, rows=len(rows), groups=effective_number(weights))


def _mutual(table: Int[Tensor, "n k"]) -> Bool[Tensor, "n k"]:
    """Whether each neighbour has the row among its own neighbours."""
    out = torch.zeros_like(table, dtype=torch.bool)
    for at in torch.arange(len(table), device=table.device).split(rows_at_once(table.device)):
        back = table[table[at].clamp_min(0)] == at[:, None, None]
        out[at] = back.any(2) & (table[at] >= 0)
    return out


def _with_neighbours(
    stderr: float, influence: Float[Tensor, " n"], table: Int[Tensor, "n k"], tied: Bool[Tensor, "n k"]
) -> float:
    """A standard error between groups with the covariance of neighbours of different groups that are tied both ways.

    It never falls below the error of independent groups.
    """
    shared = (influence[:, None] * influence[table.clamp_min(0)])[tied].sum()
    return math.sqrt(stderr**2 + max(float(shared), 0.0))


__all__ = ["DUPLICATE_FROM", "Side", "side_geometry"]
