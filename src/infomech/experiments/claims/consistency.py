"""Checks of the large-batch limit: T1, T2 (one modality) and T6 (two), in value and gradient.

Three sides meet: exact expectations over all batches (`finite_world`), the library's losses on batches drawn at random,
and the library's energies less a kernel volume that is not the library's (`written_out`).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ... import energies
from ...geometry import RBF, Cosine, FlatTorus, Sphere, log_kernel_volume
from .. import statistics
from .claim import Claim, Evidence, Outcome, Picture, Series
from .finite_world import (
    DIM,
    NEGATIVES,
    ROWS,
    TEMPERATURE,
    Consistency,
    DrawnBatches,
    SampledEnergy,
    draw_batches,
    limit_at_zero,
    measure_direction,
    measure_symmetric,
    noisiest_world,
    random_world,
    sample_energy,
)
from .written_out import log_cosine_volume, log_sphere_integral

_EXTRAPOLATED = "exact expectations at N = 128, 256, 512, extrapolated; the step is the error"


def _exponent(quantity: str, rate: float, values: Sequence[float]) -> Evidence:
    """The local slope in log N, extrapolated in 1/N; the error is the last step and the change of the extrapolation."""
    logs = torch.tensor(values, dtype=torch.float64).abs().log()
    slopes = (logs.diff() / torch.tensor(NEGATIVES, dtype=torch.float64).log().diff())[-3:].tolist()
    before, end = 2 * slopes[1] - slopes[0], 2 * slopes[2] - slopes[1]
    return Evidence(quantity, rate, end, abs(end - slopes[2]) + abs(end - before), source=_EXTRAPOLATED)


def _agreement(quantity: str, expected: Sequence[float], drawn: Float[Tensor, "m r"]) -> Evidence:
    """Draws over their exact expectation, pooled over all N."""
    found = statistics.interval((drawn / torch.tensor(expected, dtype=torch.float64)[:, None]).reshape(-1).numpy())
    return Evidence(
        quantity, 1.0, found["value"], 4 * found["stderr"], source=f"{drawn.numel():,} batches, 4 standard errors"
    )


def _written_out(drawn: DrawnBatches) -> Evidence:
    return Evidence(
        "largest difference of the library's loss or gradient from sums written out", 1e-10, drawn.mismatch, 0.0, "<=",
        f"{3 * len(NEGATIVES)} of the drawn batches",
    )  # fmt: skip


def _sums(found: SampledEnergy, quantity: str) -> Evidence:
    return Evidence(
        f"largest |{quantity} of the library − sums written out|, nats", 1e-10, found.mismatch, 0.0, "<=",
        f"samples of {ROWS[0]} to {ROWS[-1]:,} rows, log V by quadrature",
    )  # fmt: skip


def _gradient_of_limit(exact: Consistency, found: SampledEnergy) -> Evidence:
    return Evidence(
        "library's gradient of the energy off the exact one, over its length", 1e-4,
        float((found.gradient - exact.gradient).norm() / exact.gradient.norm()), 0.0, "<=",
        f"autograd at {', '.join(str(n) for n in ROWS[1:])} rows, extrapolated",
    )  # fmt: skip


def _excess(exact: Consistency, found: SampledEnergy, log_volume: float) -> tuple[float, float]:
    """The limit of L_N - J - log(N V), with J the library's and log V not, and its error."""
    loss, error = limit_at_zero([float(v) for v in exact.losses])
    return loss - found.limit - log_volume, error + found.error


def _volumes() -> list[tuple[float, float]]:
    """Log V of the library and by quadrature, over manifolds, critics and temperatures (D1)."""
    found = []
    for dim, tau in ((2, 0.07), (2, 2.0), (3, TEMPERATURE), (3, 0.01), (5, 0.3), (16, 0.1), (128, 1.0), (512, 0.07)):
        found.append((log_kernel_volume(Sphere(dim), Cosine(), tau), log_cosine_volume(dim, tau)))
    for dim, tau in ((3, 0.3), (64, 0.05)):
        kernel = partial(_gaussian, scale=1.5, tau=tau)
        found.append((log_kernel_volume(Sphere(dim), RBF(1.5), tau), log_sphere_integral(dim, kernel)))
    found.append((log_kernel_volume(FlatTorus(3), Cosine(), 0.2), 3 * log_cosine_volume(2, 0.2)))
    return found


def _gaussian(angle: float, *, scale: float, tau: float) -> float:
    return -scale * (2 * math.sin(angle / 2)) ** 2 / tau


def check_t1(
    seed: int,
    *,
    rate: float = -1.0,
    offset: float = 0.0,
    positive_share: float = 1.0,
    curvature_share: float = 1.0,
    draws: int = 200,
) -> Outcome:
    """L_N - J - log(N V) falls as 1/N, with the coefficient of the delta method.

    Args:
        seed: of the inputs, the encoder and the drawn batches.
        rate: the stated exponent of N.
        offset: the stated limit of L_N - J - log(N V), in nats.
        positive_share: the stated weight of the positive's own term in the coefficient.
        curvature_share: the stated weight of the logarithm's curvature.
        draws: batches drawn at each N.
    """
    world = random_world(seed, modalities=1)
    exact = measure_direction(world)
    kernel = world.scores(*world.encoders).exp()
    positive = float((world.pairs * kernel / (kernel @ world.negatives_law)[:, None]).sum())
    stated = positive_share * positive + curvature_share * (exact.bias_coefficient - positive)
    drawn = draw_batches(world, NEGATIVES, exact.gradient, symmetric=False, draws=draws, seed=seed)
    volume = log_cosine_volume(DIM, TEMPERATURE)
    library = sample_energy(
        world, lambda x, y: energies.energy(x, y, temperature=TEMPERATURE), log_volume=volume, directions=1
    )
    volumes = _volumes()
    counts = [float(n) for n in NEGATIVES]
    coefficient = limit_at_zero([n * b for n, b in zip(NEGATIVES, exact.bias, strict=True)])
    return Outcome(
        (
            _exponent("exponent of the bias in N", rate, exact.bias),
            Evidence(
                "limit of L_N − J − log(N V), nats",
                offset,
                *_excess(exact, library, volume),
                source="J of the library at up to 1,600 rows, log V by quadrature; both ends extrapolated",
            ),
            Evidence(
                "largest |log V of the library − quadrature|, nats",
                1e-9,
                max(abs(a - b) for a, b in volumes),
                0.0,
                "<=",
                f"{len(volumes)} manifolds, critics and temperatures, d up to 512",
            ),
            _sums(library, "J"),
            Evidence("limit of N × bias, nats", stated, *coefficient, source=_EXTRAPOLATED),
            _agreement("drawn losses over their expectation", exact.losses.tolist(), drawn.values),
            _written_out(drawn),
        ),
        (
            Picture(
                "The loss's bias falls as 1/N",
                "negatives N",
                "|L_N − J − log(N V)|, nats",
                (
                    Series("exact expectation", counts, [abs(b) for b in exact.bias], line=False),
                    Series("coefficient / N", counts, [abs(exact.bias_coefficient) / n for n in NEGATIVES]),
                ),
                log_x=True,
                log_y=True,
            ),
        ),
    )


def check_t2(seed: int, *, rate: float = -0.5, noise: float = 1.0, draws: int = 200) -> Outcome:
    """|grad L_N - grad J| / |grad J| falls as N^-1/2, in the root mean square over batches.

    Measured on the `noisiest_world`, for which the N at hand are large.

    Args:
        seed: of the inputs, the encoder and the drawn batches.
        rate: the stated exponent of N.
        noise: the stated limit of N E|grad L_N - grad J|^2, in units of the delta method's.
        draws: batches drawn at each N.
    """
    world = noisiest_world(seed)
    exact = measure_direction(world)
    drawn = draw_batches(world, NEGATIVES, exact.gradient, symmetric=False, draws=draws, seed=seed + 1)
    library = sample_energy(
        world, lambda x, y: energies.energy(x, y, temperature=TEMPERATURE),
        log_volume=log_cosine_volume(DIM, TEMPERATURE), directions=1,
    )  # fmt: skip
    more = (_gradient_of_limit(exact, library), _written_out(drawn))
    return _gradient_outcome(exact, {"": slice(None)}, rate, noise, drawn, more)


def check_t6(
    seed: int,
    *,
    rate: float = -0.5,
    value_rate: float = -1.0,
    offset: float = 0.0,
    noise: float = 1.0,
    draws: int = 150,
) -> Outcome:
    """Two modalities: the symmetric loss tends to Jsym in value as 1/N and in both gradients as N^-1/2.

    Args:
        seed: of the inputs, the encoders and the drawn batches.
        rate: the stated exponent of N in the gradients' relative error.
        value_rate: the stated exponent of N in the value's bias.
        offset: the stated limit of L_N - Jsym - log(N V), in nats.
        noise: the stated limit of N E|grad L_N - grad Jsym|^2, in units of the delta method's.
        draws: batches drawn at each N.
    """
    world = random_world(seed, modalities=2)
    exact = measure_symmetric(world)
    drawn = draw_batches(world, NEGATIVES, exact.gradient, symmetric=True, draws=draws, seed=seed + 2)
    volume = log_cosine_volume(DIM, TEMPERATURE)

    def of_library(side: str) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: getattr(energies.symmetric_energy(x, y, temperature=TEMPERATURE), side)

    library = sample_energy(world, of_library("sym"), log_volume=volume, directions=2)
    forward = sample_energy(world, of_library("xy"), log_volume=volume, directions=1)
    limit = sample_energy(
        world, lambda x, y: energies.directed_limit(x, y, temperature=TEMPERATURE), log_volume=0.0, directions=1
    )
    more = (
        _exponent("exponent of the value's bias in N", value_rate, exact.bias),
        Evidence(
            "limit of L_N − Jsym − log(N V), nats", offset, *_excess(exact, library, volume),
            source="Jsym of the library at up to 1,600 rows, log V by quadrature; both ends extrapolated",
        ),
        _sums(library, "Jsym"),
        _sums(forward, "J12"),
        _sums(limit, "J12 + log V"),
        _gradient_of_limit(exact, library),
        _agreement("drawn losses over their expectation", exact.losses.tolist(), drawn.values),
        _written_out(drawn),
    )  # fmt: skip
    size = DIM**2
    parts = {", first encoder": slice(0, size), ", second encoder": slice(size, 2 * size)}
    return _gradient_outcome(exact, parts, rate, noise, drawn, more)


def _gradient_outcome(
    exact: Consistency,
    parts: dict[str, slice],
    rate: float,
    noise: float,
    drawn: DrawnBatches,
    more: tuple[Evidence, ...],
) -> Outcome:
    evidence: list[Evidence] = []
    series: list[Series] = []
    counts = [float(n) for n in NEGATIVES]
    for name, part in parts.items():
        errors = exact.relative_error(part)
        squares = exact.squares[:, part].sum(1)
        scaled = [n * float(s) for n, s in zip(NEGATIVES, squares, strict=True)]
        value, error = limit_at_zero(scaled)
        stated = float(exact.square_coefficient[part].sum())
        found = drawn.squares[:, :, part].sum(2)
        fit = statistics.rate(NEGATIVES[1:], found[1:].numpy())  # of squares: twice that of the error
        evidence += [
            _exponent(f"exponent of the gradient's error in N{name}", rate, errors),
            Evidence(
                f"the same, fitted to drawn batches{name}", rate, fit["value"] / 2, 2 * fit["stderr"],
                source="4 standard errors, jackknife over the draws",
            ),
            Evidence(
                f"N E|error|² over the delta method's{name}",
                noise,
                value / stated,
                error / stated,
                source=_EXTRAPOLATED,
            ),
            _agreement(f"drawn squared errors over their expectation{name}", squares.tolist(), found),
        ]  # fmt: skip
        length = exact.gradient[part].norm()
        line = (exact.square_coefficient[part].sum().sqrt() / length).item()
        series += [
            Series(
                f"drawn batches{name}",
                counts,
                (found.mean(1).sqrt() / exact.gradient[part].norm()).tolist(),
                line=False,
            ),
            Series(f"limit{name}", counts, [line / math.sqrt(n) for n in NEGATIVES]),
        ]
    picture = Picture(
        "The gradient's error falls as N^(−1/2)",
        "negatives N",
        "|∇L_N − ∇J| / |∇J|, root mean square",
        tuple(series),
        log_x=True,
        log_y=True,
    )
    return Outcome((*evidence, *more), (picture,))


CLAIMS = (
    Claim("T1", "InfoNCE with N negatives tends to J + log(N V); its bias falls as 1/N", check_t1),
    Claim("T2", "its gradient tends to that of J; the relative error falls as N^(−1/2)", check_t2),
    Claim("T6", "two modalities: the symmetric loss tends to Jsym, in value and both gradients", check_t6),
)

__all__ = ["CLAIMS", "check_t1", "check_t2", "check_t6"]
