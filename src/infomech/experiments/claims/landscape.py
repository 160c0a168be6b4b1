"""Checks of the landscape of one modality and of its sharp limit: T3, T4, T5, T7."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...energies import (
    fisher_information,
    intrinsic_energy,
    intrinsic_energy_sym,
    kl_divergence,
    smoothed_log_density,
    symmetric_divergence,
)
from ...equilibria.flows import fokker_planck
from ...equilibria.gibbs import GibbsLaw
from ...equilibria.langevin import sample_mala
from ...equilibria.potentials import LinearPotential, TwoWellPotential
from ...geometry import Quadrature, Sphere, harmonics, quadrature_rule
from ...measures import Density
from .claim import Claim, Evidence, Outcome, Picture, Series

PAPER_TEMPERATURES = (10.0, 5.0, 2.5, 1.0, 0.5, 0.2, 0.1)


def random_smooth(grid: Quadrature, generator: torch.Generator, *, degree: int = 4, size: float = 1.0) -> Tensor:
    """A random function on the nodes with harmonics up to a degree and a root mean square of `size`."""
    basis = harmonics(grid, degree)
    coefficients = torch.randn(basis.values.shape[1], generator=generator, dtype=torch.float64)
    coefficients[0] = 0
    volume = float(grid.weights.sum())
    return basis.synthesise(coefficients * (size * math.sqrt(volume) / float(coefficients.norm())))


def first_order_term(energy: Tensor, step: float) -> float:
    """The derivative at 0, from values at -2h, -h, 0, h, 2h: fourth-order central differences."""
    stencil = torch.tensor([1.0, -8.0, 0.0, 8.0, -1.0], dtype=torch.float64)
    return float(stencil @ energy) / (12 * step)


def second_order_term(energy: Tensor, step: float) -> float:
    """Half the second derivative at 0, from values at -2h, -h, 0, h, 2h: fourth-order central differences."""
    stencil = torch.tensor([-1.0, 16.0, -30.0, 16.0, -1.0], dtype=torch.float64)
    return float(stencil @ energy) / (24 * step * step)


@dataclass(frozen=True, eq=False)
class UnequalPath:
    """Energies D9 along a straight path through two unequal laws.

    Args:
        potentials: (U12, U21) at the nodes.
        temperature: tau.
        laws: (rho1, rho2) at its middle.
        directions: (d1, d2), each (q,) with int d dmu = 0.
        energies: (5,) at -2h, -h, 0, h, 2h.
        step: h.
    """

    potentials: tuple[Tensor, Tensor]
    temperature: float
    laws: tuple[Density, Density]
    directions: tuple[Tensor, Tensor]
    energies: Tensor
    step: float


def unequal_path(grid: Quadrature, generator: torch.Generator, weight: float, *, step: float = 1e-2) -> UnequalPath:
    """Draw potentials, laws and directions at random, and follow D9 with control lambda = weight."""
    tau = 0.5
    u = random_smooth(grid, generator), random_smooth(grid, generator)
    first, second = (Density.from_log(random_smooth(grid, generator, size=0.7), grid) for _ in range(2))
    d1, d2 = (_direction(rho, random_smooth(grid, generator, size=0.3)) for rho in (first, second))
    energies = [
        intrinsic_energy_sym(
            Density.from_values(first.values + k * step * d1, grid),
            Density.from_values(second.values + k * step * d2, grid),
            u,
            temperature=tau,
            divergence_weight=weight,
        )
        for k in range(-2, 3)
    ]
    return UnequalPath(u, tau, (first, second), (d1, d2), torch.stack(energies), step)


def _direction(rho: Density, f: Tensor) -> Tensor:
    return rho.values * (f - rho.mean(f))


def furthest(values: list[float], predicted: float) -> float:
    """The value furthest from the prediction: the one that a claim about all of them must answer for."""
    return max(values, key=lambda value: abs(value - predicted))


def order_at_zero(x: list[float], y: list[float]) -> tuple[float, float]:
    """The order p of y ~ x^p as x -> 0 and its error, from the three smallest x, each half of the next.

    The local slope of log y between neighbours is off by a term of order x; it is extrapolated to 0, and the step of
    the extrapolation is the error.
    """
    (x0, y0), (x1, y1), (x2, y2) = sorted(zip(x, y, strict=True))[:3]
    fine, coarse = math.log(y1 / y0) / math.log(x1 / x0), math.log(y2 / y1) / math.log(x2 / x1)
    return 2 * fine - coarse, abs(fine - coarse)


def check_t3(seed: int, *, minimiser_exponent: float = -1.0, curvature: float = 1.0, draws: int = 20) -> Outcome:
    """F(rho) - F(rho*) = KL(rho || rho*), F(rho*) = -log Z and d^2 F = int d^2/rho, at random on S^1 and S^2.

    Args:
        seed: of the random potentials, densities and perturbations.
        minimiser_exponent: s in the stated minimiser exp(s U / tau) / Z.
        curvature: the stated ratio of the second variation to int d^2 / rho.
        draws: settings on each manifold.
    """
    generator = torch.Generator().manual_seed(seed)
    excesses: list[float] = []
    divergences: list[float] = []
    minima: list[float] = []
    curvatures: list[float] = []
    for grid in (quadrature_rule(Sphere(2), 96), quadrature_rule(Sphere(3), 24)):
        for _ in range(draws):
            u, size = random_smooth(grid, generator), random_smooth(grid, generator)
            tau = 0.3 + 2 * float(torch.rand((), generator=generator))
            rho = Density.from_log(random_smooth(grid, generator), grid)
            stated = Density.from_log(minimiser_exponent * u / tau, grid)
            lowest = float(intrinsic_energy(stated, u, temperature=tau))
            excesses.append(float(intrinsic_energy(rho, u, temperature=tau)) - lowest)
            divergences.append(float(kl_divergence(rho, stated)))
            minima.append(abs(lowest + float(GibbsLaw(u, tau, grid).log_partition)))
            d = rho.values * (size - rho.mean(size))
            path = [Density.from_values(rho.values + k * 1e-2 * d, grid) for k in range(-2, 3)]
            energies = torch.stack([intrinsic_energy(r, u, temperature=tau) for r in path])
            curvatures.append(2 * second_order_term(energies, 1e-2) / float(fisher_information(rho, d)))
    mismatch = max(abs(a - b) for a, b in zip(excesses, divergences, strict=True))
    worst = furthest(curvatures, curvature)
    top = max(divergences)
    ends = [_flow_end(dim, n, generator) for dim, n in ((2, 96), (2, 96), (3, 16), (3, 16))]
    return Outcome(
        (
            Evidence("largest |F(ρ) − F(ρ*) − KL(ρ‖ρ*)|", 1e-10, mismatch, 0.0, "<=", f"{2 * draws} random settings"),
            Evidence("largest |F(ρ*) + log Z|", 1e-10, max(minima), 0.0, "<=", f"{2 * draws} random settings"),
            Evidence("d²F over ∫d²/ρ, furthest", curvature, worst, 1e-6, source="differences of order 4, h = 0.01"),
            Evidence(
                "largest KL to the Gibbs law where flows from random starts end",
                1e-8,
                max(ends),
                0.0,
                "<=",
                "Fokker-Planck, four runs",
            ),
        ),
        (
            Picture(
                "Excess energy is a divergence",
                "KL(ρ‖ρ*), nats",
                "F(ρ) − F(ρ*), nats",
                (
                    Series("predicted", [0.0, top], [0.0, top]),
                    Series("measured", divergences, excesses, line=False),
                ),
            ),
        ),
    )


def _flow_end(dim: int, n: int, generator: torch.Generator) -> float:
    """KL to the Gibbs law where the gradient flow of D8 ends, from a random start in a random potential."""
    grid = quadrature_rule(Sphere(dim), n)
    u, start = random_smooth(grid, generator), Density.from_log(random_smooth(grid, generator), grid)
    flow = fokker_planck(start, u, temperature=0.5)
    falls = bool((flow.energies.diff() <= 0).all()) and flow.mass_error < 1e-12
    return float(kl_divergence(flow.density, GibbsLaw(u, 0.5, grid).density)) if falls else math.inf


def check_t4(seed: int, *, rate: float = 1.0, excess: float = 0.3, cap_exponent: float = -1.0) -> Outcome:
    """The Gibbs mass of {U > min U + eps} falls to 0 as tau falls, at the rate -d log mass / d(1/tau) = eps.

    Args:
        seed: of the particles.
        rate: the stated rate, in units of eps.
        excess: eps.
        cap_exponent: s in the stated law exp(s U / tau) whose mass in the caps the particles must have.
    """
    north = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    grid = quadrature_rule(Sphere(3), 64)
    radius = math.acos(1 - excess)

    def outside(tau: float) -> float:  # the sublevel set of a linear potential is a cap
        return 1 - float(GibbsLaw(LinearPotential(north), tau, grid).cap_mass(north[None], radius))

    high, low = 0.05, 0.04
    measured = -math.log(outside(low) / outside(high)) / (1 / low - 1 / high)
    fine = quadrature_rule(Sphere(3), 128)
    wells = TwoWellPotential.paper()
    temperatures = [*PAPER_TEMPERATURES, 0.05, 0.025]
    masses = [1 - float(GibbsLaw(wells, t, fine).sublevel_mass(excess)) for t in temperatures]
    rise = max(b - a for a, b in pairwise(masses))
    # For any 0 < delta < eps: mass <= exp(-(eps - delta)/tau) mu(Z) / mu({U <= min U + delta}), here delta = eps / 2.
    law = GibbsLaw(wells, temperatures[-1], fine)
    flat = Density.uniform(fine)
    core = float(flat.mean((law.node_values <= law.node_values.min() + excess / 2).double()))
    bound = math.exp(-rate * excess / 2 / temperatures[-1]) / core
    caps, particles = _cap_masses(wells, cap_exponent, torch.Generator().manual_seed(seed))
    off_caps, off_sets = _one_well_errors(fine, excess)
    curve = [10 ** (1 - k / 16) for k in range(33)]  # of temperatures, dense enough to be seen as a line
    coarse = quadrature_rule(Sphere(3), 48)
    laws = [GibbsLaw(wells, t, coarse) for t in curve]
    scores = [abs(value - cap) / error for cap, (value, error) in zip(caps, particles, strict=True)]
    return Outcome(
        (
            Evidence(
                "rate −d log mass / d(1/τ) over ε, one well",
                rate,
                measured / excess,
                1e-6,
                source="quadrature of the cap; corrections are of order exp(−2/τ)",
            ),
            Evidence(
                "mass of a cap, one well: relative error of the mass outside, at most",
                1e-6,
                off_caps,
                0.0,
                "<=",
                "closed form of the von Mises-Fisher law at τ = 1, 0.2 and 0.05",
            ),
            Evidence(
                "mass of {U ≤ min U + ε}, one well, off the closed form, at most",
                0.01,
                off_sets,
                0.0,
                "<=",
                "the set's edge is resolved to the spacing of 128 latitudes",
            ),
            Evidence("largest rise of the mass as τ falls, two wells", 0.0, rise, 0.0, "<=", "quadrature"),
            Evidence(
                "mass at τ = 0.025 against its Laplace bound, two wells", bound, masses[-1], 0.0, "<=", "quadrature"
            ),
            Evidence(
                "particles' mass in the caps: furthest from quadrature, in standard errors",
                4.0,
                max(scores),
                0.0,
                "<=",
                "512 chains at each of the paper's seven temperatures; 4 leaves one false alarm in 2,000",
            ),
        ),
        (
            Picture(
                f"Gibbs mass of U > min U + {excess}",
                "temperature τ",
                "mass",
                (Series("two wells of the paper, quadrature", temperatures, masses, [0.0] * len(masses)),),
                log_x=True,
                log_y=True,
            ),
            Picture(
                "Mass within 0.5 rad of the two wells",
                "temperature τ",
                "mass",
                (
                    Series("Gibbs, quadrature", curve, [float(g.cap_mass(wells.wells, 0.5)) for g in laws]),
                    Series(
                        "particles (MALA), ± 1 standard error",
                        PAPER_TEMPERATURES,
                        [v for v, _ in particles],
                        [e for _, e in particles],
                        line=False,
                    ),
                ),
                log_x=True,
            ),
        ),
    )


def _one_well_errors(grid: Quadrature, excess: float) -> tuple[float, float]:
    """Masses of U = -m.z on S^2, m off the axes, against the closed form: of caps (outside, relative), and of sets.

    The mass outside of the cap {m.z >= 1 - eps} is (exp(-eps / tau) - exp(-2 / tau)) / (1 - exp(-2 / tau)).
    """
    m = torch.tensor([0.48, 0.36, 0.8], dtype=torch.float64)
    off_caps, off_sets = 0.0, 0.0
    for tau in (1.0, 0.2, 0.05):
        law = GibbsLaw(LinearPotential(m), tau, grid)
        outside = (math.exp(-excess / tau) - math.exp(-2 / tau)) / -math.expm1(-2 / tau)
        cap = float(law.cap_mass(m[None], math.acos(1 - excess)))
        off_caps = max(off_caps, abs((1 - cap) / outside - 1))
        off_sets = max(off_sets, abs(1 - float(law.sublevel_mass(excess)) - outside))
    return off_caps, off_sets


def _cap_masses(
    wells: TwoWellPotential, exponent: float, generator: torch.Generator
) -> tuple[list[float], list[tuple[float, float]]]:
    """Mass in the caps of 0.5 rad around the wells, by quadrature of exp(s U / tau) and of Langevin particles."""
    radius, grid = 0.5, quadrature_rule(Sphere(3), 48)
    caps, particles = [], []
    for tau in PAPER_TEMPERATURES:
        law = GibbsLaw(lambda z: -exponent * wells(z), tau, grid)
        caps.append(float(law.cap_mass(wells.wells, radius)))
        draws = sample_mala(wells, tau, Sphere(3), generator=generator, chains=512, steps=100, warmup=150)
        particles.append(draws.mean(lambda z: ((z @ wells.wells.mT).amax(1) >= math.cos(radius)).double()))
    return caps, particles


def check_t5(seed: int, *, bound_factor: float = 2.0, leading: float = -1 / 8, order: float = 2.0) -> Outcome:
    """|J - F| <= 2 eps_kde / min rho with the law held; in fact J - F = -KL(rho || rho~), of order tau^2.

    Args:
        seed: of the law and the potential.
        bound_factor: the stated factor of the bound.
        leading: the stated coefficient of tau^2 int (Laplace rho)^2 / rho.
        order: the stated power of tau with which J - F falls.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = quadrature_rule(Sphere(2), 512)
    rho = Density.from_log(random_smooth(grid, generator, size=0.7), grid)
    u = random_smooth(grid, generator)
    temperatures = [0.64, 0.32, 0.16, 0.08, 0.04, 0.02, 0.01, 0.005, 0.0025]
    gaps, bounds, identity = [], [], 0.0
    for tau in temperatures:
        log_smooth = smoothed_log_density(rho, temperature=tau)
        parametric = rho.mean(u) / tau + rho.mean(log_smooth)
        gap = float(parametric - intrinsic_energy(rho, u, temperature=tau))
        gaps.append(gap)
        deviation = float((log_smooth.exp() - rho.values).abs().max())
        bounds.append(bound_factor * deviation / float(rho.values.min()))
        identity = max(identity, abs(gap + float(kl_divergence(rho, Density.from_log(log_smooth, grid)))))
    ratio = max(abs(g) / b for g, b in zip(gaps, bounds, strict=True))
    curvature = harmonics(grid).laplacian(rho.values)
    scale = float(grid.integrate(curvature.square() / rho.values))
    constants = [g / t**2 / scale for g, t in zip(gaps, temperatures, strict=True)]
    limit = 2 * constants[-1] - constants[-2]  # the last two temperatures differ by a factor of two
    return Outcome(
        (
            Evidence("largest |J − F| over the bound", 1.0, ratio, 0.0, "<=", "nine temperatures, quadrature"),
            Evidence("largest |J − F + KL(ρ‖ρ~)|", 1e-10, identity, 0.0, "<=", "quadrature"),
            Evidence(
                "order of |J − F| in τ",
                order,
                *order_at_zero(temperatures, [abs(g) for g in gaps]),
                source="slopes extrapolated to τ = 0; the step is the error",
            ),
            Evidence(
                "(J − F) / (τ² ∫(Δρ)²/ρ) as τ → 0",
                leading,
                limit,
                abs(limit - constants[-1]),
                source="linear extrapolation; its step is the error",
            ),
        ),
        (
            Picture(
                "A law held while the kernel sharpens",
                "temperature τ",
                "nats",
                (
                    Series("|J − F|", temperatures, [abs(g) for g in gaps], line=False),
                    Series("bound 2 ε / min ρ", temperatures, bounds),
                    Series("τ²/8 ∫(Δρ)²/ρ", temperatures, [t * t / 8 * scale for t in temperatures]),
                ),
                log_x=True,
                log_y=True,
            ),
        ),
    )


def check_t7(seed: int, *, divergence_coefficient: float = -1.0, order: float = 1.0) -> Outcome:
    """Jsym -> (F12 + F21)/2 - Dsym as the kernel sharpens, with the laws held.

    Args:
        seed: of the two laws.
        divergence_coefficient: the stated coefficient of Dsym in the limit.
        order: the stated power of tau with which the limit is approached.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = quadrature_rule(Sphere(2), 512)
    rho1, rho2 = (Density.from_log(random_smooth(grid, generator, size=0.7), grid) for _ in range(2))
    temperatures = [0.64, 0.32, 0.16, 0.08, 0.04, 0.02, 0.01, 0.005, 0.0025]
    # The alignment terms are the same on both sides; what remains of Jsym is minus the mean cross-entropy.
    values = []
    for tau in temperatures:
        smooth1, smooth2 = (smoothed_log_density(r, temperature=tau) for r in (rho1, rho2))
        values.append(float(rho1.mean(smooth2) + rho2.mean(smooth1)) / 2)
    dsym = float(symmetric_divergence(rho1, rho2))
    entropies = float(rho1.entropy() + rho2.entropy()) / 2
    # Quadratic extrapolation to tau = 0 from the three sharpest kernels, tau in the ratio 4 : 2 : 1.
    limit = (8 * values[-1] - 6 * values[-2] + values[-3]) / 3
    coarser = 2 * values[-1] - values[-2]
    predicted = -entropies + divergence_coefficient * dsym
    distances = [abs(v - limit) for v in values]
    return Outcome(
        (
            Evidence(
                "coefficient of Dsym in the limit of Jsym",
                divergence_coefficient,
                (limit + entropies) / dsym,
                abs(limit - coarser) / dsym,
                source="extrapolated to τ = 0; the last refinement is the error",
            ),
            Evidence("limit of Jsym less alignment, nats", predicted, limit, abs(limit - coarser), source="the same"),
            Evidence(
                "order of |Jsym − limit| in τ",
                order,
                *order_at_zero(temperatures, distances),
                source="slopes extrapolated to τ = 0; the step is the error",
            ),
        ),
        (
            Picture(
                "The divergence survives the sharp limit",
                "temperature τ",
                "Jsym less alignment, nats",
                (
                    Series("measured", temperatures, values, line=False),
                    Series("−(H1 + H2)/2 − Dsym", temperatures, [predicted] * len(values)),
                    Series("without Dsym", temperatures, [-entropies] * len(values)),
                ),
                log_x=True,
            ),
        ),
    )


CLAIMS = (
    Claim("T3", "one modality: F is strictly convex, and its unique minimiser is the Gibbs law", check_t3),
    Claim("T4", "as τ falls the Gibbs law concentrates on the minimisers of U", check_t4),
    Claim("T5", "with the law held, J tends to F as the kernel sharpens, within 2 ε/min ρ", check_t5),
    Claim("T7", "two modalities: the negative divergence −Dsym survives the sharp limit", check_t7),
)

__all__ = [
    "CLAIMS",
    "UnequalPath",
    "check_t3",
    "check_t4",
    "check_t5",
    "check_t7",
    "first_order_term",
    "furthest",
    "order_at_zero",
    "random_smooth",
    "second_order_term",
    "unequal_path",
]
