"""The Frechet distance of the Gaussians that match both modalities' first two moments."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures import PairedSample
from .estimate import Estimate
from .moments import HalvedMoments, Moments, row_chunks
from .uncertainty import effective_number, group_totals, influence_estimate, unless_few


@dataclass(frozen=True)
class Roots:
    """S_x^1/2 by its eigenvalues, eigenvectors and whole; and S_x^1/2 S_y S_x^1/2."""

    values: Float[Tensor, " d"]
    vectors: Float[Tensor, "d d"]
    matrix: Float[Tensor, "d d"]
    between: Float[Tensor, "d d"]


def frechet_distance(sample: PairedSample, moments: tuple[HalvedMoments, HalvedMoments]) -> Estimate:
    """|m_x - m_y|^2 + tr(Sx + Sy - 2 (Sx^1/2 Sy Sx^1/2)^1/2), less its bias of order 1/n.

    The plain value is biased upwards by the noise of the moments. It is extrapolated: twice the value on all groups
    less the mean of the values on two random halves, which removes the bias of order 1/n and leaves the variance as it
    is to first order (Richardson). With fewer groups than features the bias is not of that order, and some remains.

    The standard error is from the influence function, with A the transport map of N(Sx) to N(Sy):
    psi(x) = 2 (m_x - m_y).(x - m_x) + (x - m_x)^T (I - A) (x - m_x) - its mean; likewise for y.

    Source: E3.
    """
    of_x, of_y = moments
    halves = [_nuclear(a, b)[0] for a, b in zip(of_x.halves, of_y.halves, strict=True)]
    value, roots = _nuclear(of_x.whole, of_y.whole)
    inverse_map, forward_map = _transports(roots)
    influence = torch.zeros(sample.groups, dtype=torch.float64, device=sample.x.values.device)
    pairs = len(sample.pairs)
    sides = ((sample.x, of_x.whole, forward_map, 1.0), (sample.y, of_y.whole, inverse_map, -1.0))
    drift = of_x.whole.mean - of_y.whole.mean
    dtype = sample.x.values.dtype  # is precise enough for a standard error
    for rows, own, transport, sign in sides:
        shape = torch.eye(len(own.mean), dtype=torch.float64, device=own.mean.device) - transport
        center = (shape * own.cov).sum()
        for at in row_chunks(rows):
            z = rows.values[at] - own.mean.to(dtype)
            psi = 2 * sign * (z @ drift.to(dtype)) + ((z @ shape.to(dtype)) * z).sum(1) - center.to(dtype)
            influence += group_totals(rows.weights[at] * psi.double() / pairs, rows.groups[at], sample.groups)
    corrected = 2 * value - (halves[0] + halves[1]) / 2
    estimate = influence_estimate(float(corrected), influence, sample.group_pairs)
    return unless_few(estimate, effective_number(sample.group_pairs))


def _nuclear(x: Moments, y: Moments) -> tuple[Float[Tensor, ""], Roots]:
    """The distance, and the root of the covariance of x that it was found with."""
    values, vectors = torch.linalg.eigh(x.cov)
    root = values.clamp_min(0).sqrt()
    half = (vectors * root) @ vectors.T
    between = half @ y.cov @ half
    nuclear = torch.linalg.eigvalsh(between).clamp_min(0).sqrt().sum()
    distance = (x.mean - y.mean).square().sum() + x.cov.trace() + y.cov.trace() - 2 * nuclear
    return distance, Roots(root, vectors, half, between)


def _transports(roots: Roots) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """The transport maps of y to x and of x to y, on the span of the covariances."""
    root, vectors, half = roots.values, roots.vectors, roots.matrix
    middle_values, middle_vectors = torch.linalg.eigh(roots.between)
    middle_root = middle_values.clamp_min(0).sqrt()
    floor = 1e-7 * root.max()
    inverse_root = torch.where(root > floor, 1 / root.clamp_min(floor), 0.0)
    half_inverse = (vectors * inverse_root) @ vectors.T
    middle = (middle_vectors * middle_root) @ middle_vectors.T
    forward = half_inverse @ middle @ half_inverse  # x to y
    floor = 1e-7 * middle_root.max()
    inverse_middle = torch.where(middle_root > floor, 1 / middle_root.clamp_min(floor), 0.0)
    backward = half @ ((middle_vectors * inverse_middle) @ middle_vectors.T) @ half  # y to x
    return backward, forward


__all__ = ["frechet_distance"]
