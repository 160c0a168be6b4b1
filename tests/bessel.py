"""The sphere's special functions by mpmath, at any order and concentration."""

import mpmath


def truths(dim: int, kappa: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """log M - kappa, A and A' with 80 digits, of which the differences below lose at most 45."""
    v, k = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(kappa)
    with mpmath.workdps(80):
        if k > 200 * (v + 1) ** 2 + 2000:  # Hankel's expansion, DLMF 10.40.1
            here, above = hankel(v, k), hankel(v + 1, k)
            log_bessel = mpmath.log(here) - mpmath.log(2 * mpmath.pi * k) / 2
        else:
            here, above = (mpmath.besseli(order, k, maxterms=10**6) for order in (v, v + 1))
            log_bessel = mpmath.log(here) - k
        a = above / here
        scaled = mpmath.loggamma(v + 1) - v * mpmath.log(k / 2) + log_bessel
        return scaled, a, 1 - a * a - (dim - 1) * a / k


def hankel(order: mpmath.mpf, k: mpmath.mpf) -> mpmath.mpf:
    total = term = mpmath.mpf(1)
    j = 1
    while abs(term) > mpmath.mpf(10) ** -75:
        term *= -(4 * order * order - (2 * j - 1) ** 2) / (8 * j * k)
        total += term
        j += 1
    return total
