"""The Frechet distance of the Gaussians that match both modalities' first two moments."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures import PairedSample
from ..reductions import GroupedRows
from .estimate import Estimate
from .uncertainty import group_totals, influence_stderr, symmetric_interval

_CHUNK = 8192


def frechet_distance(sample: PairedSample) -> Estimate:
    """|m_x - m_y|^2 + tr(Sx + Sy - 2 (Sx^1/2 Sy Sx^1/2)^1/2), less its bias of order 1/n.

    The plain value is biased upwards by the noise of the moments. It is extrapolated: twice the value on all groups
    less the mean of the values on two random halves, which removes the bias of order 1/n and leaves the variance as it
    is to first order (Richardson). With fewer groups than features the bias is not of that order, and some remains.

    The standard error is from the influence function, with A the transport map of N(Sx) to N(Sy):
    psi(x) = 2 (m_x - m_y).(x - m_x) + (x - m_x)^T (I - A) (x - m_x) - its mean; likewise for y.

    Source: E3.
    """
    even = sample.group_blocks % 2 == 0
    moments = {}
    for key, keep in (("even", even), ("odd", ~even)):
        moments[key] = [_moments(rows, keep[rows.groups]) for rows in (sample.x, sample.y)]
    halves = [_distance(*moments[key])[0] for key in ("even", "odd")]
    whole = [_pool(a, b) for a, b in zip(moments["even"], moments["odd"], strict=True)]
    value, inverse_map, forward_map = _distance(*whole)
    influence = torch.zeros(sample.groups, dtype=torch.float64, device=sample.x.values.device)
    pairs = len(sample.pairs)
    sides = ((sample.x, forward_map, 1.0), (sample.y, inverse_map, -1.0))
    drift = whole[0][1] - whole[1][1]
    dtype = sample.x.values.dtype  # is precise enough for a standard error
    for (rows, transport, sign), (_, mean, cov) in zip(sides, whole, strict=True):
        shape = torch.eye(len(mean), dtype=torch.float64, device=mean.device) - transport
        center = (shape * cov).sum()
        for at in torch.arange(len(rows), device=mean.device).split(_CHUNK):
            z = rows.values[at] - mean.to(dtype)
            psi = 2 * sign * (z @ drift.to(dtype)) + ((z @ shape.to(dtype)) * z).sum(1) - center.to(dtype)
            influence += group_totals(rows.weights[at] * psi.double() / pairs, rows.groups[at], sample.groups)
    corrected = 2 * value - (halves[0] + halves[1]) / 2
    return symmetric_interval(float(corrected), influence_stderr(influence), sample.groups - 1)


Moments = tuple[Float[Tensor, ""], Float[Tensor, " d"], Float[Tensor, "d d"]]


def _moments(rows: GroupedRows, keep: Tensor) -> Moments:
    """Total weight, mean and covariance (divisor: the weight) of some rows; float32 products, float64 sums."""
    d = rows.values.shape[1]
    first = torch.zeros(d, dtype=torch.float64, device=rows.values.device)
    weight, second = first.new_zeros(()), first.new_zeros(d, d)
    origin = rows.values[: 4 * d].mean(0)  # near the mean: the subtraction below then loses no digits
    for at in torch.nonzero(keep).flatten().split(_CHUNK):
        w = rows.tile_weights[at]
        z = rows.values[at] - origin
        weighted = z if rows.uniform else z * w[:, None]
        weight += w.double().sum()
        first += weighted.sum(0, dtype=torch.float64)
        second += (weighted.T @ z).double()
    mean = first / weight
    return weight, mean + origin.double(), second / weight - torch.outer(mean, mean)


def _pool(a: Moments, b: Moments) -> Moments:
    weight = a[0] + b[0]
    share = b[0] / weight
    difference = b[1] - a[1]
    mean = a[1] + share * difference
    cov = (1 - share) * a[2] + share * b[2] + share * (1 - share) * torch.outer(difference, difference)
    return weight, mean, cov


def _distance(x: Moments, y: Moments) -> tuple[Float[Tensor, ""], Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """The distance, and the transport maps of y to x and of x to y (on the span of the covariances)."""
    _, mean_x, cov_x = x
    _, mean_y, cov_y = y
    values, vectors = torch.linalg.eigh(cov_x)
    root = values.clamp_min(0).sqrt()
    half = (vectors * root) @ vectors.T
    middle_values, middle_vectors = torch.linalg.eigh(half @ cov_y @ half)
    middle_root = middle_values.clamp_min(0).sqrt()
    distance = (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * middle_root.sum()
    floor = 1e-7 * values.max().sqrt()
    inverse_root = torch.where(root > floor, 1 / root.clamp_min(floor), 0.0)
    half_inverse = (vectors * inverse_root) @ vectors.T
    middle = (middle_vectors * middle_root) @ middle_vectors.T
    forward = half_inverse @ middle @ half_inverse  # x to y
    floor = 1e-7 * middle_root.max()
    inverse_middle = torch.where(middle_root > floor, 1 / middle_root.clamp_min(floor), 0.0)
    backward = half @ ((middle_vectors * inverse_middle) @ middle_vectors.T) @ half  # y to x
    return distance, backward, forward


__all__ = ["frechet_distance"]
