"""The check of the equilibrium at finite temperature (T13)."""

import math

import torch
from torch import Tensor

from ...energies import smoothed_log_density
from ...equilibria.finite_temperature import (
    AtomicEquilibrium,
    held_energy,
    minimise_measure,
    sharp_ratio,
    vmf_equilibrium,
)
from ...equilibria.potentials import LinearPotential
from ...geometry import Sphere, quadrature_rule
from ...measures import Density
from .claim import Claim, Evidence, Outcome, Picture, Series

_GOLDEN = (1 + math.sqrt(5)) / 2


def check_t13(
    seed: int,
    *,
    ratio: float = 1.659,
    limit: float = _GOLDEN,
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
        collapse: the stated slope h of U = -h m.z from which the point mass is stationary.
        held_gap: the stated limit of J - F along the Gibbs laws on S^2, nats.
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
    best, sphere = families[3][temperatures.index(0.1)], (0.02, 0.01, 0.005)
    gaps = [_gibbs_gap(3, tau) for tau in sphere]
    gap, gap_error = _extrapolated([g for g, _ in gaps])
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
            Evidence("limit of J − F along the Gibbs laws on S², nats", held_gap, gap, gap_error,
                     source="extrapolated to τ = 0; the last refinement is the error"),
        ),
        _equilibrium_pictures(temperatures, {d: [v.ratio for v in f] for d, f in families.items()}, measures, tenth),
    )  # fmt: skip


def _extrapolated(values: list[float]) -> tuple[float, float]:
    """The limit at 0 from values at 4 h, 2 h, h that differ from it by a power series in h, and its error.

    The error is the last refinement, and ten times the 1e-7 to which the values are known.
    """
    coarse, fine = 2 * values[1] - values[0], 2 * values[2] - values[1]
    return (4 * fine - coarse) / 3, abs(fine - coarse) / 3 + 1e-6


def _gibbs_gap(ambient_dim: int, tau: float) -> tuple[float, float]:
    """J - F along the Gibbs law of U = -m.z, and the bound 2 eps / min rho of T5, by quadrature."""
    dim_grid = quadrature_rule(Sphere(ambient_dim), 1024 if ambient_dim == 2 else 24)
    if ambient_dim == 2:
        rho = Density.from_log(dim_grid.nodes[:, 0] / tau, dim_grid)
        log_smooth = smoothed_log_density(rho, temperature=tau)
        deviation = float((log_smooth.exp() - rho.values).abs().max())
        return float(rho.mean(log_smooth - rho.log_values)), 2 * deviation / float(rho.values.min())
    gibbs = vmf_equilibrium(ambient_dim, temperature=tau).gibbs_energy
    # F of the Gibbs law vMF(m, 1 / tau) is -log Z, with Z = 2 pi tau (exp(1 / tau) - exp(-1 / tau)) on S^2
    log_partition = 1 / tau + math.log(2 * math.pi * tau) + math.log1p(-math.exp(-2 / tau))
    return gibbs + log_partition, math.inf


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
    gaps = [_gibbs_gap(2, tau) for tau in temperatures]
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
