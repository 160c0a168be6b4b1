"""The check of the equilibrium at finite temperature (T13)."""

import math

import torch
from torch import Tensor

from ...energies import smoothed_log_density
from ...equilibria.finite_temperature import (
    AtomicEquilibrium,
    held_energy,
    held_second_variation,
    held_variation,
    minimise_measure,
    sharp_ratio,
    vmf_energy,
    vmf_equilibrium,
)
from ...equilibria.potentials import LinearPotential
from ...geometry import Quadrature, Sphere, quadrature_rule
from ...measures import Density
from .claim import Claim, Evidence, Outcome, Picture, Series
from .landscape import first_order_term, random_smooth, second_order_term
from .written_out import circle_energy, log_cosine_volume

_GOLDEN = (1 + math.sqrt(5)) / 2


def check_t13(
    seed: int,
    *,
    ratio: float = 1.659,
    limit: float = _GOLDEN,
    steeper: float = 3 / (math.sqrt(7) - 2),
    collapse: float = 2.0,
    held_gap: float = 0.5 - math.log(2),
    atoms: int = 3,
    temperatures: tuple[float, ...] = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01),
) -> Outcome:
    """With the potential held the minimiser of D5 is sharper than Gibbs, and over all measures it is a few atoms.

    Args:
        seed: of the atoms' starts.
        ratio: the stated k tau of the best von Mises-Fisher law on S^2 at tau = 0.1.
        limit: the stated limit of k tau as tau -> 0, in every dimension.
        steeper: the same for U = -1.5 m.z: 1/v with 1/(1 + v) + 1/(1 + v)^2 = 1.5.
        collapse: the stated slope h of U = -h m.z from which the point mass is stationary.
        held_gap: the stated limit of J - F along the Gibbs laws on S^{d-1}, nats over (d - 1)/2: it is that on S^2.
        atoms: the stated number of atoms that hold all but 1e-6 of the mass on the circle at tau = 0.1.
        temperatures: at which equilibria are found and drawn, 0.1 among them.
    """
    families = {d: [vmf_equilibrium(d, temperature=t) for t in temperatures] for d in (2, 3, 16)}
    limits = {d: _extrapolated([vmf_equilibrium(d, temperature=t).ratio for t in (8e-3, 4e-3, 2e-3)]) for d in families}
    furthest = max(limits, key=lambda d: abs(limits[d][0] - limit))
    east = torch.tensor([1.0, 0.0], dtype=torch.float64)
    circle = quadrature_rule(Sphere(2), 1024)
    measures = [
        minimise_measure(LinearPotential(east), temperature=t, quadrature=circle, seed=seed) for t in temperatures
    ]
    tenth = measures[temperatures.index(0.1)]
    best = families[3][temperatures.index(0.1)]
    gaps = {d: _gibbs_gap_limit(d) for d in families}
    off = max(gaps, key=lambda d: abs(gaps[d][0] - held_gap))
    steep = _extrapolated([vmf_equilibrium(3, temperature=t, slope=1.5).ratio for t in (8e-3, 4e-3, 2e-3)])
    energies, variations = _off_written_out(tenth, 0.1), _variation_errors(circle, seed)
    threshold, resolution = _collapse_slope(0.1)
    return Outcome(
        (
            Evidence("kτ of the best vMF law on S², τ = 0.1", ratio, best.ratio, 1e-3, source="quadrature"),
            Evidence(f"limit of kτ as τ → 0 on S^{furthest - 1}, furthest of three spheres", limit,
                     *limits[furthest], source="extrapolated to τ = 0; the last refinement is the error"),
            Evidence("slope from which the point mass is stationary", collapse, threshold, resolution,
                     source="the first-order condition at 20,000 colatitudes, τ = 0.1"),
            Evidence("mass beyond the heaviest atoms, circle, τ = 0.1", 1e-6,
                     float(1 - tenth.masses[:atoms].sum()), 0.0, "<=", f"{atoms} atoms; three starts"),
            Evidence("least mass among these atoms", 0.01, float(tenth.masses[:atoms].min()), 0.0, ">=", "the same"),
            Evidence("what a further atom could gain, nats, at most", 1e-9, max(m.gain for m in measures), 0.0, "<=",
                     f"first-order conditions at 1,024 nodes, {len(temperatures)} temperatures"),
            Evidence("spread of the starts' energies, nats, at most", 1e-6,
                     max(max(m.start_energies) - m.energy for m in measures), 0.0, "<=",
                     "three starts each; at τ = 1 two stationary arrangements differ by 7.4e-8"),
            Evidence("J of the Gibbs law above the minimum, circle, τ = 0.1, nats", 0.03,
                     _gibbs_energy(tenth, 0.1) - tenth.energy, 0.0, ">=", "quadrature"),
            Evidence(f"limit of J − F along the Gibbs laws on S^{off - 1}, nats over (d − 1)/2, furthest", held_gap,
                     *gaps[off], source="three spheres, extrapolated to τ = 0; the last refinement is the error"),
            Evidence("limit of kτ on S² in U = −1.5 m·z", steeper, *steep,
                     source="extrapolated to τ = 0; the last refinement is the error"),
            Evidence("the library's limit there", steeper, sharp_ratio(1.5), 1e-12, source="sharp_ratio"),
            Evidence("largest |J − sums written out|, nats: Gibbs, uniform and atoms, circle, τ = 0.1", 1e-9, energies,
                     0.0, "<=", "log V by quadrature"),
            Evidence("variations of J off differences of it, relative, at most", 1e-6, variations, 0.0, "<=",
                     "first and second at a random law, differences of order 4"),
        ),
        _equilibrium_pictures(temperatures, {d: [v.ratio for v in f] for d, f in families.items()}, measures, tenth),
    )  # fmt: skip


def _extrapolated(values: list[float]) -> tuple[float, float]:
    """The limit at 0 from values at 4 h, 2 h, h that differ from it by a power series in h, and its error.

    The error is the last refinement, and ten times the 1e-7 to which the values are known.
    """
    coarse, fine = 2 * values[1] - values[0], 2 * values[2] - values[1]
    return (4 * fine - coarse) / 3, abs(fine - coarse) / 3 + 1e-6


def _gibbs_gap_limit(ambient_dim: int) -> tuple[float, float]:
    """The limit as tau -> 0 of J - F along the Gibbs laws of U = -m.z on S^{d-1}, over (d - 1)/2, and its error.

    F of the Gibbs law vMF(m, 1 / tau) is -log Z, and Z is the kernel's volume.
    """
    gaps = [
        vmf_energy(ambient_dim, 1 / t, temperature=t) + log_cosine_volume(ambient_dim, t) for t in (2e-3, 1e-3, 5e-4)
    ]
    limit, error = _extrapolated(gaps)
    return 2 * limit / (ambient_dim - 1), 2 * error / (ambient_dim - 1)


def _circle_gap(tau: float) -> tuple[float, float]:
    """J - F along the Gibbs law of U = -m.z on the circle, and the bound 2 eps / min rho of T5, by quadrature."""
    grid = quadrature_rule(Sphere(2), 1024)
    rho = Density.from_log(grid.nodes[:, 0] / tau, grid)
    log_smooth = smoothed_log_density(rho, temperature=tau)
    deviation = float((log_smooth.exp() - rho.values).abs().max())
    return float(rho.mean(log_smooth - rho.log_values)), 2 * deviation / float(rho.values.min())


def _off_written_out(found: AtomicEquilibrium, tau: float) -> float:
    """The largest difference of J from sums written out: the Gibbs law, the uniform law, the atoms."""
    grid, u = found.gibbs.quadrature, found.gibbs.node_values
    differences = []
    for rho in (found.gibbs.density, Density.uniform(grid)):
        mass = rho.values * grid.weights
        field = circle_energy(rho.values, rho.values, angles=grid.angles[:, 0], weights=grid.weights, temperature=tau)
        differences.append(float(held_energy(rho, u, temperature=tau) - mass @ u / tau - field))
    masses, scores = found.masses, found.atoms @ found.atoms.mT / tau
    alignment = masses @ -found.atoms[:, 0] / tau  # the potential is that of the first coordinate
    written = alignment + masses @ (scores.exp() @ masses).log() - log_cosine_volume(2, tau)
    differences.append(found.energy - float(written))
    return max(abs(d) for d in differences)


def _variation_errors(grid: Quadrature, seed: int) -> float:
    """Relative differences of the first and second variation of J, closed form against differences of it."""
    generator = torch.Generator().manual_seed(seed)
    tau, step = 0.2, 1e-2
    u = random_smooth(grid, generator)
    rho = Density.from_log(random_smooth(grid, generator), grid)
    f = random_smooth(grid, generator, size=0.3)
    d = rho.values * (f - rho.mean(f))
    path = torch.stack(
        [held_energy(Density.from_values(rho.values + k * step * d, grid), u, temperature=tau) for k in range(-2, 3)]
    )
    first = float(grid.integrate(held_variation(rho, u, temperature=tau) * d))
    second = float(held_second_variation(rho, d, temperature=tau))
    return max(abs(first_order_term(path, step) / first - 1), abs(2 * second_order_term(path, step) / second - 1))


def _gibbs_energy(found: AtomicEquilibrium, tau: float) -> float:
    return float(held_energy(found.gibbs.density, found.gibbs.node_values, temperature=tau))


def _collapse_slope(tau: float) -> tuple[float, float]:
    """The least h at which the point mass at m satisfies the first-order conditions in U = -h m.z, and a resolution.

    phi(z) - level = -h (c - 1)/tau + (c - 1)/tau + exp((c - 1)/tau) - 1, c = m.z; the resolution is that of the nearest
    colatitude, where the condition falls short of its limit by about (1 - c) / (2 tau).
    """
    c = torch.linspace(0, math.pi, 20001, dtype=torch.float64)[1:].cos()
    x = (1 - c) / tau
    needed = 1 - torch.expm1(-x) / x
    return float(needed.max()), float(x[0])


def _equilibrium_pictures(
    temperatures: tuple[float, ...],
    ratios: dict[int, list[float]],
    measures: list[AtomicEquilibrium],
    tenth: AtomicEquilibrium,
) -> tuple[Picture, ...]:
    curves = [Series(f"S^{d - 1}", temperatures, values) for d, values in ratios.items() if d < 16]
    golden = Series("limit (1 + √5)/2", temperatures, [sharp_ratio()] * len(temperatures))
    gaps = [_circle_gap(tau) for tau in temperatures]
    resolved = [i for i, (_, bound) in enumerate(gaps) if math.isfinite(bound) and bound < 1e12]
    angle = tenth.smoothed.quadrature.angles[:, 0]
    order = angle.argsort()[::4]
    x = angle[order].tolist()
    ratio = ratios[2][temperatures.index(0.1)]
    family = Density.from_log(ratio / 0.1 * tenth.smoothed.quadrature.nodes[:, 0], tenth.smoothed.quadrature)
    heavy = tenth.masses > 1e-3
    places = torch.atan2(tenth.atoms[heavy, 1], tenth.atoms[heavy, 0])

    def shown(values: Tensor) -> list[float]:
        return values[order].tolist()

    return (
        Picture(
            "The best vMF law is sharper than Gibbs (kτ = 1)",
            "temperature τ",
            "kτ",
            (*curves, golden, Series("Gibbs", temperatures, [1.0] * len(temperatures))),
            log_x=True,
        ),
        Picture(
            "On the circle at τ = 0.1: atoms, and their smoothed density",
            "angle, radians",
            "density per radian; mass of the atoms",
            (
                Series("Gibbs", x, shown(tenth.gibbs.density.values)),
                Series("best vMF law", x, shown(family.values)),
                Series("smoothed minimiser", x, shown(tenth.smoothed.values)),
                Series("atoms of the minimiser", places.tolist(), tenth.masses[heavy].tolist(), line=False),
            ),
        ),
        Picture(
            "Nothing tends to the Gibbs law as τ falls, circle",
            "temperature τ",
            "nats",
            (
                Series("KL(smoothed minimiser ‖ Gibbs)", temperatures, [m.kl_to_gibbs for m in measures]),
                Series("|J − F| at the Gibbs law", temperatures, [abs(g) for g, _ in gaps]),
                Series("its bound 2 ε/min ρ", [temperatures[i] for i in resolved], [gaps[i][1] for i in resolved]),
            ),
            log_x=True,
            log_y=True,
        ),
    )


CLAIMS = (
    Claim("T13", "at finite τ the equilibrium is sharper than Gibbs: kτ → (1 + √5)/2, or a few atoms", check_t13),
)

__all__ = ["CLAIMS", "check_t13"]
