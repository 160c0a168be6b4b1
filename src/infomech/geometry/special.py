"""Special functions of the sphere, in the log domain and differentiable: everything rests on one of them.

``log_sphere_mgf(d, kappa)`` is the log moment generating function of the uniform law on S^{d-1} (D1),

    M(kappa) = E[exp(kappa m.z)] = 0F1(; d/2; kappa^2 / 4) = Gamma(d/2) (2/kappa)^{d/2-1} I_{d/2-1}(kappa),

its derivative is the mean resultant length A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa), and the derivative of that
the variance of m.z. At large concentration log M is kappa less a logarithm, A is 1 less something of the order of
1/kappa, and A' is of the order of 1/kappa^2, so that none of them may be had as the difference of two others. All five,
log M, log M - kappa, A, 1 - A and A', are evaluated side by side, in float64 on the CPU and rounded last:

- kappa^2 <= 8 d: the power series of 0F1, with A' = (A/kappa) (1 - kappa (A_d - A_{d+2}));
- orders v = d/2 - 1 >= 24: Debye's uniform expansion in 1/v (DLMF 10.41.3), good for every kappa. With z = kappa/v,
  root = sqrt(1 + z^2), p = 1/root and S(p) = sum_k U_k(p)/v^k, the expansion of I_v' (10.41.5) leaves

      A = z/(1 + root) - (z / (v root^2)) (S/2 + p S') / S,

  whose complement and whose derivative in z are sums without cancellation;
- lower orders: the recurrence of I_v downwards from there, which is stable for all five:

      log M_d = log M_{d+2} + log(1 + kappa A_{d+2} / d),        A_d = kappa / (d + kappa A_{d+2}),
      1 - A_d = (d - kappa (1 - A_{d+2})) / (d + kappa A_{d+2}),
      A_d' = (d - kappa^2 A_{d+2}') / (d + kappa A_{d+2})^2.

Against mpmath each is right to 4e-13 of its value, for d from 2 to 4,096 and kappa from 1e-8 to 1e20.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .._checks import InputError, check_whole
from .._typing import PointsLike
from ..io.rows import as_floats

_DEBYE_FROM = 24.0  # order from which the terms of Debye's expansion beyond the last are below rounding
_DEBYE_TERMS = 18
_SERIES_TERMS = 48
_CLOSE = 4.0  # concentrations within this factor of each other: their divergence is an integral of A'
_CLOSE_NODES = 24  # Gauss-Legendre; A' has its poles on the imaginary axis, so that the error is below 3^-48

_Array = NDArray[np.float64]


class _Moments(NamedTuple):
    """What the uniform law tilted by exp(kappa m.z) is, element by element."""

    log_mgf: _Array
    scaled: _Array  # log M - kappa
    resultant: _Array  # A
    deficit: _Array  # 1 - A
    variance: _Array  # A'


@cache
def _debye_polynomials() -> tuple[tuple[Fraction, ...], ...]:
    """Coefficients of U_k(p), lowest power first, by the recurrence DLMF 10.41.9 in exact arithmetic."""
    polys = [[Fraction(1)]]
    for _ in range(_DEBYE_TERMS):
        u = polys[-1]
        out = [Fraction(0)] * (len(u) + 3)
        for power, c in enumerate(u):  # (p^2 (1 - p^2) / 2) U' + (1/8) int_0^p (1 - 5 t^2) U dt
            out[power + 1] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            out[power + 3] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        polys.append(out)
    return tuple(tuple(u) for u in polys)


@lru_cache(maxsize=256)
def _debye_sum(order: float) -> tuple[_Array, _Array]:
    """Coefficients of S(p) - 1 and of W(p) = S/2 + p S', lowest power first, at one order."""
    total = [Fraction(0)] * (3 * _DEBYE_TERMS + 1)
    scale = 1 / Fraction(order)
    for k, coefficients in enumerate(_debye_polynomials()):
        for power, c in enumerate(coefficients):
            total[power] += c * scale**k
    rest = np.array([0.0, *(float(c) for c in total[1:])])
    ratio = np.array([float(c * (Fraction(1, 2) + power)) for power, c in enumerate(total)])
    return rest, ratio


def _stirling_remainder(v: float) -> float:
    """Log Gamma(v + 1) - (v + 1/2) log v + v - log(2 pi) / 2, by its asymptotic series (v >= 24)."""
    bernoulli = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    return math.fsum(c / v ** (2 * k + 1) for k, c in enumerate(bernoulli))


def _log_mgf_series(dim: int, kappa: _Array) -> _Array:
    ratio = kappa**2 / 4
    term = np.ones_like(kappa)
    total = np.zeros_like(kappa)
    for k in range(1, _SERIES_TERMS):
        term = term * ratio / (k * (dim / 2 - 1 + k))
        total += term
    return np.log1p(total)


def _moments_series(dim: int, kappa: _Array) -> _Moments:
    log_mgf, second, third = (_log_mgf_series(dim + more, kappa) for more in (0, 2, 4))
    slope = np.exp(second - log_mgf) / dim  # A / kappa
    resultant = kappa * slope
    beyond = kappa * np.exp(third - second) / (dim + 2)  # A_{d+2}
    variance = slope * (1 - kappa * (resultant - beyond))
    return _Moments(log_mgf, log_mgf - kappa, resultant, 1 - resultant, variance)


def _moments_debye(dim: int, kappa: _Array) -> _Moments:
    v = dim / 2 - 1
    z = kappa / v
    root = np.hypot(1, z)
    p, q = 1 / root, z / root
    leading = z / (1 + root)
    excess = z * leading  # root - 1
    rest, ratio = _debye_sum(v)
    poly, slope = np.polynomial.polynomial.polyval, np.polynomial.polynomial.polyder
    s = 1 + poly(p, rest)
    r = poly(p, ratio) / s
    r_slope = (poly(p, slope(ratio)) - r * poly(p, slope(rest))) / s
    # Written so that what vanishes with kappa stays a small number: no difference of v log v terms.
    shared = np.log1p(poly(p, rest)) - np.log1p(excess) / 2 + _stirling_remainder(v)
    log_mgf = v * (excess - np.log1p(excess / 2)) + shared
    scaled = v * (1 / (root + z) - 1 - np.log1p(excess / 2)) + shared
    correction = q * p * r / v
    deficit = (1 + 1 / (root + z)) / (1 + root) + correction
    variance = (p / (1 + root) - (p * p * (p * p - q * q) * r - q * q * p**3 * r_slope) / v) / v
    return _Moments(log_mgf, scaled, leading - correction, deficit, variance)


def _moments_recurrence(dim: int, kappa: _Array) -> _Moments:
    steps = max(0, math.ceil(_DEBYE_FROM - (dim / 2 - 1)))
    log_mgf, scaled, resultant, deficit, variance = _moments_debye(dim + 2 * steps, kappa)
    for d in range(dim + 2 * (steps - 1), dim - 1, -2):
        tilt = kappa * resultant
        below = d + tilt
        rise = np.log1p(tilt / d)
        log_mgf, scaled = log_mgf + rise, scaled + rise
        variance = (d - kappa * (kappa * variance)) / below / below
        deficit = (d - kappa * deficit) / below
        resultant = kappa / below
    return _Moments(log_mgf, scaled, resultant, deficit, variance)


def _moments(dim: int, kappa: _Array) -> _Moments:
    size = np.abs(kappa)
    out = np.empty((len(_Moments._fields), len(size)))
    small = size <= math.sqrt(8 * dim)
    infinite = np.isinf(size)
    out[:, infinite] = np.array([np.inf, -np.inf, 1.0, 0.0, 0.0])[:, None]
    rest = ~(small | infinite)
    for where, method in ((small, _moments_series), (rest, _moments_recurrence)):
        if where.any():
            out[:, where] = method(dim, size[where])
    log_mgf, scaled, resultant, deficit, variance = out
    turned = kappa < 0  # log M and A' are even, A is odd
    return _Moments(
        log_mgf,
        np.where(turned, log_mgf + size, scaled),
        np.where(turned, -resultant, resultant),
        np.where(turned, 1 + resultant, deficit),
        variance,
    )


def _difference(dim: int, kappa: _Array, other: _Array) -> _Array:
    """B = log M(other) - log M(kappa) - A(kappa) (other - kappa), element by element; never below 0."""
    first, second = _moments(dim, kappa), _moments(dim, other)
    step = other - kappa
    # Two forms of one number; the one with the smaller terms loses less.
    plain = second.log_mgf - first.log_mgf - first.resultant * step
    scaled = second.scaled - first.scaled + first.deficit * step
    plain_size = second.log_mgf + first.log_mgf + first.resultant * np.abs(step)
    scaled_size = -second.scaled - first.scaled + first.deficit * np.abs(step)
    out = np.where(plain_size < scaled_size, plain, scaled)
    close = (other <= _CLOSE * kappa) & (kappa <= _CLOSE * other)
    if close.any():  # int_kappa^other (other - t) A'(t) dt
        nodes, weights = np.polynomial.legendre.leggauss(_CLOSE_NODES)
        share, weights = (1 + nodes[:, None]) / 2, weights[:, None] / 2
        at = kappa[close] + share * step[close]
        variance = _moments(dim, at.reshape(-1)).variance.reshape(at.shape)
        out[close] = step[close] * (step[close] * (weights * (1 - share) * variance).sum(0))
    return np.maximum(out, 0.0)


def _to_numpy(kappa: Tensor) -> _Array:
    flat = kappa.detach().to("cpu", torch.float64).reshape(-1).numpy() + 0.0  # -0 is 0
    if np.isnan(flat).any():
        raise InputError(f"concentration is NaN at {int(np.isnan(flat).sum())} of {flat.size} entries; give numbers")
    return np.asarray(flat, dtype=np.float64)


def _apply(kappa: Tensor, values: Callable[[_Array], _Array]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values(_to_numpy(kappa)))).reshape(kappa.shape).to(kappa)


class _LogSphereMgf(Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dim: int, scaled: bool) -> Tensor:
        ctx.save_for_backward(kappa)
        ctx.dim, ctx.scaled = dim, scaled
        return _apply(kappa, lambda k: _moments(dim, k).scaled if scaled else _moments(dim, k).log_mgf)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (kappa,) = ctx.saved_tensors
        slope = -mean_resultant(ctx.dim, kappa, complement=True) if ctx.scaled else mean_resultant(ctx.dim, kappa)
        return grads[0] * slope, None, None


class _MeanResultant(Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dim: int, complement: bool) -> Tensor:
        ctx.save_for_backward(kappa)
        ctx.dim, ctx.complement = dim, complement
        return _apply(kappa, lambda k: _moments(dim, k).deficit if complement else _moments(dim, k).resultant)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (kappa,) = ctx.saved_tensors
        slope = _apply(kappa, lambda k: _moments(ctx.dim, k).variance)
        return grads[0] * (-slope if ctx.complement else slope), None, None


class _ConcentrationDivergence(Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, other: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(kappa, other)
        ctx.dim = dim
        return _apply(kappa, lambda k: _difference(dim, k, _to_numpy(other)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        kappa, other = ctx.saved_tensors
        k1, k2 = _to_numpy(kappa), _to_numpy(other)
        first, second = _moments(ctx.dim, k1), _moments(ctx.dim, k2)
        by_kappa = torch.from_numpy((k1 - k2) * first.variance).reshape(kappa.shape).to(kappa)
        far_out = (first.deficit < 0.5) & (second.deficit < 0.5)
        rise = np.where(far_out, first.deficit - second.deficit, second.resultant - first.resultant)
        return grads[0] * by_kappa, grads[0] * torch.from_numpy(rise).reshape(other.shape).to(other), None


def log_sphere_mgf(dim: int, kappa: PointsLike, *, scaled: bool = False) -> Float[Tensor, "..."]:
    """Log moment generating function of the uniform law on S^{dim-1}: log E[exp(kappa m.z)].

    Args:
        dim: ambient dimension d >= 2.
        kappa: concentrations, any shape and dtype; even in them; evaluated in float64 and rounded last.
        scaled: return log E[exp(kappa (m.z - 1))], the same less kappa, without the cancellation: what large
            concentrations need, where log E[exp(kappa m.z)] is kappa to all its digits.

    Returns:
        Values of the same shape, dtype and device; twice differentiable. 0 at kappa = 0, and never negative
        (scaled, for kappa >= 0, never positive).

    Raises:
        InputError: if a concentration is NaN.

    Source: D1; DLMF 10.41.3 for large orders, 10.29.1 for the others.

    >>> log_sphere_mgf(3, torch.tensor(2.0, dtype=torch.float64))  # log(sinh 2 / 2)
    tensor(0.5952, dtype=torch.float64)
    >>> log_sphere_mgf(3, torch.tensor(1e10, dtype=torch.float64), scaled=True)  # -log(2e10)
    tensor(-23.7190, dtype=torch.float64)
    """
    check_whole(dim, "dim", least=2)
    kappa = as_floats(kappa, "kappa")
    return cast(Tensor, _LogSphereMgf.apply(kappa, dim, scaled))  # type: ignore[no-untyped-call]


def mean_resultant(dim: int, kappa: PointsLike, *, complement: bool = False) -> Float[Tensor, "..."]:
    """Mean resultant length A_d(kappa) = E[m.z] under vMF(m, kappa) on S^{dim-1}, in [0, 1] for kappa >= 0.

    Args:
        dim: ambient dimension d >= 2.
        kappa: concentrations, any shape and dtype; odd in them; evaluated in float64 and rounded last.
        complement: return 1 - A_d(kappa), about (d - 1) / (2 kappa) at large concentration, without the cancellation.

    Returns:
        Values of the same shape, dtype and device; differentiable once, with the derivative A' = Var[m.z] > 0.

    Raises:
        InputError: if a concentration is NaN.

    Source: D1 (derivative of `log_sphere_mgf`).

    >>> mean_resultant(3, torch.tensor(10.0, dtype=torch.float64))  # coth 10 - 1/10
    tensor(0.9000, dtype=torch.float64)
    """
    check_whole(dim, "dim", least=2)
    kappa = as_floats(kappa, "kappa")
    return cast(Tensor, _MeanResultant.apply(kappa, dim, complement))  # type: ignore[no-untyped-call]


def concentration_divergence(dim: int, kappa: PointsLike, other: PointsLike) -> Float[Tensor, "..."]:
    """KL(vMF(m, kappa) || vMF(m, other)) of two laws on S^{dim-1} with one mean, in nats.

    It is the Bregman divergence of the log moment generating function,

        log M(other) - log M(kappa) - A(kappa) (other - kappa) = int_kappa^other (other - t) A'(t) dt >= 0,

    evaluated as that integral of a positive function where the two are within a factor of four.

    Args:
        dim: ambient dimension d >= 2.
        kappa: concentrations >= 0, any shape; evaluated in float64 and rounded last.
        other: concentrations >= 0 of the same shape.

    Returns:
        Values >= 0 of kappa's shape, dtype and device; differentiable once in both.

    Raises:
        InputError: if a concentration is negative or NaN, or the shapes differ.

    Source: D2.

    >>> a, b = torch.tensor([1e9, 2e9], dtype=torch.float64)
    >>> concentration_divergence(3, a, b)  # 1 - log 2
    tensor(0.3069, dtype=torch.float64)
    """
    check_whole(dim, "dim", least=2)
    kappa, other = as_floats(kappa, "kappa"), as_floats(other, "other")
    if kappa.shape != other.shape:
        raise InputError(f"concentrations have shapes {tuple(kappa.shape)} and {tuple(other.shape)}; give equal shapes")
    lowest = min(float(kappa.detach().amin()), float(other.detach().amin())) if kappa.numel() else 0.0
    if lowest < 0:
        raise InputError(f"concentration is {lowest}; the concentration of a law is at least 0")
    return cast(Tensor, _ConcentrationDivergence.apply(kappa, other, dim))  # type: ignore[no-untyped-call]


def log_sphere_area(dim: int) -> float:
    """Log of the surface area of S^{dim-1} in R^dim: log 2 + (d/2) log pi - log Gamma(d/2).

    Args:
        dim: ambient dimension d >= 1.

    >>> round(log_sphere_area(3), 6)  # log(4 pi)
    2.531024
    """
    check_whole(dim, "dim", least=1)
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


__all__ = ["concentration_divergence", "log_sphere_area", "log_sphere_mgf", "mean_resultant"]
