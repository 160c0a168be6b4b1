"""Special functions of the sphere, in the log domain and differentiable: everything rests on one of them.

``log_sphere_mgf(d, kappa)`` is the log moment generating function of the uniform law on S^{d-1} (D1),

    M(kappa) = E[exp(kappa m.z)] = 0F1(; d/2; kappa^2 / 4) = Gamma(d/2) (2/kappa)^{d/2-1} I_{d/2-1}(kappa),

and its derivative is the mean resultant length A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa).
Both are evaluated in float64 on the CPU by three expansions that overlap to rounding error:

- the power series of 0F1, where kappa^2 <= 8 d;
- Debye's uniform expansion of I_v(kappa) in 1/v, for orders v >= 24 (DLMF 10.41.3);
- the scaled Bessel function of scipy, for lower orders.
"""

import math
from fractions import Fraction
from functools import cache
from typing import Any, cast

import numpy as np
import scipy.special
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_DEBYE_FROM = 24.0  # order from which 14 terms of Debye's expansion are below 1e-15
_DEBYE_TERMS = 14
_SERIES_TERMS = 80

_Array = NDArray[np.float64]


@cache
def _debye_polynomials() -> tuple[tuple[float, ...], ...]:
    """Coefficients of U_k(p), lowest power first, by the recurrence DLMF 10.41.9 in exact arithmetic."""
    polys = [[Fraction(1)]]
    for _ in range(_DEBYE_TERMS):
        u = polys[-1]
        out = [Fraction(0)] * (len(u) + 3)
        for power, c in enumerate(u):  # (p^2 (1 - p^2) / 2) U' + (1/8) int_0^p (1 - 5 t^2) U dt
            out[power + 1] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            out[power + 3] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        polys.append(out)
    return tuple(tuple(float(c) for c in u) for u in polys)


def _log_mgf_series(order: float, kappa: _Array) -> _Array:
    ratio = kappa**2 / 4
    term = np.ones_like(kappa)
    total = np.zeros_like(kappa)
    for k in range(1, _SERIES_TERMS):
        term = term * ratio / (k * (order + k))
        total += term
    return np.log1p(total)


def _log_mgf_debye(order: float, kappa: _Array) -> _Array:
    # Written so that what vanishes with kappa stays a small number: no difference of v log v terms.
    z = kappa / order
    root = np.sqrt(1 + z * z)
    p = 1 / root
    series = np.zeros_like(p)
    for k, coefficients in reversed(list(enumerate(_debye_polynomials()))):
        if k:
            series += np.polynomial.polynomial.polyval(p, coefficients) / order**k
    excess = z * z / (1 + root)  # root - 1
    # log[Gamma(v+1) e^v / (sqrt(2 pi v) v^v)] is Stirling's remainder, a small number too.
    gamma_remainder = _stirling_remainder(order)
    out: _Array = order * (excess - np.log1p(excess / 2)) - np.log1p(z * z) / 4 + np.log1p(series) + gamma_remainder
    return out


def _stirling_remainder(v: float) -> float:
    """Log Gamma(v + 1) - (v + 1/2) log v + v - log(2 pi) / 2, by its asymptotic series (v >= 24)."""
    bernoulli = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    return math.fsum(c / v ** (2 * k + 1) for k, c in enumerate(bernoulli))


def _log_mgf_scipy(order: float, kappa: _Array) -> _Array:
    log_bessel = np.log(scipy.special.ive(order, kappa)) + kappa
    return math.lgamma(order + 1) - order * np.log(kappa / 2) + log_bessel


def _log_mgf(dim: int, kappa: _Array) -> _Array:
    order = dim / 2 - 1
    out = np.empty_like(kappa)
    series = kappa * kappa <= 8 * dim
    out[series] = _log_mgf_series(order, kappa[series])
    rest = _log_mgf_debye if order >= _DEBYE_FROM else _log_mgf_scipy
    out[~series] = rest(order, kappa[~series])
    return out


def _resultant(dim: int, kappa: _Array) -> _Array:
    # A_d(kappa) = (kappa / d) M_{d+2}(kappa) / M_d(kappa): the ratio of neighbouring orders.
    series = kappa * kappa <= 8 * dim
    out = np.empty_like(kappa)
    small, large = kappa[series], kappa[~series]
    order = dim / 2 - 1
    out[series] = small / dim * np.exp(_log_mgf_series(order + 1, small) - _log_mgf_series(order, small))
    if order >= _DEBYE_FROM:
        log_ratio = _log_mgf_debye(order + 1, large) - _log_mgf_debye(order, large)
        out[~series] = large / dim * np.exp(log_ratio)
    else:
        out[~series] = scipy.special.ive(order + 1, large) / scipy.special.ive(order, large)
    return out


def _apply(kappa: Tensor, values: Any) -> Tensor:
    flat = kappa.detach().to("cpu", torch.float64).reshape(-1).numpy()
    out = torch.from_numpy(values(np.asarray(flat, dtype=np.float64)))
    return out.reshape(kappa.shape).to(kappa)


class _LogSphereMgf(Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(kappa)
        ctx.dim = dim
        return _apply(kappa, lambda k: _log_mgf(dim, k))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kappa,) = ctx.saved_tensors
        return grads[0] * mean_resultant(ctx.dim, kappa), None


class _MeanResultant(Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dim: int) -> Tensor:
        out = _apply(kappa, lambda k: _resultant(dim, k))
        ctx.save_for_backward(kappa, out)
        ctx.dim = dim
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        kappa, a = ctx.saved_tensors
        slope = torch.where(kappa > 0, a / kappa.clamp_min(torch.finfo(kappa.dtype).tiny), 1 / ctx.dim)
        return grads[0] * (1 - a * a - (ctx.dim - 1) * slope), None


def log_sphere_mgf(dim: int, kappa: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log moment generating function of the uniform law on S^{dim-1}: log E[exp(kappa m.z)].

    Args:
        dim: ambient dimension d >= 2.
        kappa: concentrations >= 0, any shape; float64 for full precision.

    Returns:
        Values of the same shape, dtype and device; twice differentiable. 0 at kappa = 0.

    Source: D1; DLMF 10.41.3 for large orders.

    >>> log_sphere_mgf(3, torch.tensor(2.0, dtype=torch.float64))  # log(sinh 2 / 2)
    tensor(0.5952, dtype=torch.float64)
    """
    return cast(Tensor, _LogSphereMgf.apply(kappa, dim))  # type: ignore[no-untyped-call]


def mean_resultant(dim: int, kappa: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Mean resultant length A_d(kappa) = E[m.z] under vMF(m, kappa) on S^{dim-1}, in [0, 1).

    Args:
        dim: ambient dimension d >= 2.
        kappa: concentrations >= 0, any shape.

    Returns:
        Values of the same shape, dtype and device; differentiable once.

    Source: D1 (derivative of `log_sphere_mgf`).

    >>> mean_resultant(3, torch.tensor(10.0, dtype=torch.float64))  # coth 10 - 1/10
    tensor(0.9000, dtype=torch.float64)
    """
    return cast(Tensor, _MeanResultant.apply(kappa, dim))  # type: ignore[no-untyped-call]


def log_sphere_area(dim: int) -> float:
    """Log of the surface area of S^{dim-1} in R^dim: log 2 + (d/2) log pi - log Gamma(d/2).

    >>> round(log_sphere_area(3), 6)  # log(4 pi)
    2.531024
    """
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


__all__ = ["log_sphere_area", "log_sphere_mgf", "mean_resultant"]
