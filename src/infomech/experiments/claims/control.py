"""Checks of the stability of matched marginals (T10), and of the control that makes them stable (T11)."""

import math
from collections.abc import Callable

import scipy.linalg
import torch
from torch import Tensor

from ...energies import (
    fisher_information,
    intrinsic_energy_sym,
    intrinsic_second_variation_sym,
    pairwise_intrinsic_energy,
    smoothed_log_density,
    symmetric_divergence,
)
from ...equilibria.flows import Flow, replicator_flow
from ...equilibria.gibbs import GibbsLaw
from ...equilibria.stability import critical_divergence_weight, matched_potential, matched_stability
from ...geometry import Quadrature, Sphere, quadrature_rule
from ...measures import Density
from .claim import Claim, Evidence, Outcome, Picture, Series
from .landscape import first_order_term, furthest, random_smooth, second_order_term, unequal_path
from .written_out import circle_energy

Pair = tuple[Density, Density]

_STEP = 1e-2  # of the finite differences: of order 4, so that truncation and rounding are near 1e-8


def check_t10(
    seed: int,
    *,
    common: float = 1 / 8,
    difference: float = -3 / 8,
    growth_per_coefficient: float = -4.0,
    draws: int = 10,
) -> Outcome:
    """Around matched laws the second-order term is common * int sum^2/rho + difference * int m^2/rho.

    Args:
        seed: of laws, potentials and perturbations.
        common: the stated coefficient of the common mode.
        difference: the stated coefficient of the difference mode.
        growth_per_coefficient: the stated growth rate of the flow per unit of the coefficient.
        draws: settings on each of S^1 and S^2.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, list[float]] = {1: [], -1: []}
    for grid in (quadrature_rule(Sphere(2), 64), quadrature_rule(Sphere(3), 16)):
        for _ in range(draws):
            for sign, values in found.items():
                values.append(_measured_coefficient(grid, generator, sign, 0.0))
    unequal = max(_second_variation_error(quadrature_rule(Sphere(2), 64), generator, w) for w in (0.0, 0.4, 1.0))
    rates = [_growth_rate(quadrature_rule(Sphere(2), 48), frequency, 0.0) for frequency in (1, 2, 4)]
    predicted = growth_per_coefficient * difference
    return Outcome(
        (
            Evidence(
                "coefficient of ∫m²/ρ, furthest of all", difference, furthest(found[-1], difference), 1e-6,
                source=f"differences of order 4, {2 * draws} settings",
            ),
            Evidence(
                "coefficient of ∫sum²/ρ, furthest of all", common, furthest(found[1], common), 1e-6,
                source=f"differences of order 4, {2 * draws} settings",
            ),
            Evidence(
                "growth rate of the difference mode, furthest of three frequencies", predicted,
                furthest(rates, predicted), 0.01, source="Fisher-Rao flow, step 0.005: r² h / 2 is 0.006",
            ),
            Evidence(
                "second variation of Fsym at unequal laws off differences of it, relative", 1e-6, unequal, 0.0, "<=",
                "differences of order 4, λ = 0, 0.4 and 1",
            ),
        ),
        (_separation_picture({weight: _separation(weight, 12.0) for weight in (0.0, 0.5, 1.0)}),),
    )  # fmt: skip


def check_t11(
    seed: int,
    *,
    critical: float = 0.75,
    sharp_share: float = 0.25,
    over_modalities: float = 0.5,
    reward_left: float = 0.25,
    growth_left: tuple[float, float] = (1e-4, 0.05),
) -> Outcome:
    """With lambda Dsym added the difference mode turns stable at lambda_c = 3/4; at finite tau at (2 + A_d(1/tau))/4.

    The first holds with potentials held, at any law, in the sharp limit; the second around the uniform law. Around
    others 3/4 removes most of the growth, and need not remove all. A reward for a gap is left until lambda = 1.

    Args:
        seed: of laws, potentials and perturbations.
        critical: the stated lambda_c in the sharp limit; the flows are run 0.05 below and above it.
        sharp_share: c in the stated lambda_c = 1/2 + c A_d(1/tau) at finite temperature.
        over_modalities: c in the stated lambda_c = 1/2 + c / k of k modalities, in the sharp limit.
        reward_left: the stated share of the reward -Dsym that is left at lambda = 3/4.
        growth_left: between which the growth at lambda = 3/4 lies, over that at 0, around a law that is not uniform.
    """
    generator = torch.Generator().manual_seed(seed)
    roots = []
    for grid in (quadrature_rule(Sphere(2), 64), quadrature_rule(Sphere(3), 16)):
        for _ in range(5):
            state = generator.get_state()
            free = _measured_coefficient(grid, generator, -1, 0.0)
            generator.set_state(state)  # the same setting at full control: the coefficient is linear in lambda
            full = _measured_coefficient(grid, generator, -1, 1.0)
            roots.append(free / (free - full))
    weights = (critical - 0.05, critical, critical + 0.05)
    flows = {weight: _separation(weight) for weight in weights}
    below, above = flows[weights[0]], flows[weights[2]]
    finite: list[Evidence] = []
    temperatures = [2.0, 0.5, 0.2, 0.1]
    curves = []
    for dim, n in ((2, 64), (3, 18)):
        found = [_finite_root(quadrature_rule(Sphere(dim), n), tau) for tau in temperatures]
        stated = [0.5 + sharp_share * (4 * critical_divergence_weight(dim, t) - 2) for t in temperatures]
        worst = max(range(len(found)), key=lambda i: abs(found[i] - stated[i]))
        finite.append(
            Evidence(
                f"λ_c on S^{dim - 1} at τ = {temperatures[worst]}, furthest", stated[worst], found[worst], 1e-6,
                source="differences of order 4 of the energy at finite temperature",
            )
        )  # fmt: skip
        curves += [
            Series(f"S^{dim - 1} measured", temperatures, found, line=False),
            Series(f"S^{dim - 1}: (2 + A(1/τ))/4", temperatures, stated),
        ]
    counts = (3, 4)
    several = [k * (_root_of_several(quadrature_rule(Sphere(2), 64), generator, k) - 0.5) for k in counts]
    ours = [k * (critical_divergence_weight(modalities=k) - 0.5) for k in counts]
    rewards = [_reward_left(quadrature_rule(Sphere(2), 64), generator, w) for w in (0.75, 1.0)]
    peak = Density.from_log(10 * quadrature_rule(Sphere(2), 128).nodes[:, 0], quadrature_rule(Sphere(2), 128))
    growth = {weight: _fastest_growth(peak, 0.1, weight) for weight in (0.0, 0.75)}
    library = {weight: matched_stability(peak, divergence_weight=weight, temperature=0.1) for weight in growth}
    differences = [abs(float(library[w].growth_rates.max()) - growth[w]) for w in growth]
    share = growth[0.75] / growth[0.0]
    return Outcome(
        (
            Evidence("λ_c in the sharp limit, furthest of ten settings", critical, furthest(roots, critical), 1e-6,
                     source="differences of order 4 at λ = 0 and 1"),
            Evidence(f"Dsym at the end over the start, λ = {critical - 0.05:.2f}", 10.0,
                     float(below.divergences[-1] / below.divergences[0]), 0.0, ">=", "flow to time 40"),
            Evidence(f"Dsym at the end over the start, λ = {critical + 0.05:.2f}", 0.1,
                     float(above.divergences[-1] / above.divergences[0]), 0.0, "<=", "flow to time 40"),
            *finite,
            Evidence("k (λ_c − 1/2) of 3 and 4 modalities, furthest", over_modalities,
                     furthest(several, over_modalities), 1e-5, source="differences of order 4 of the pairwise energy"),
            Evidence("the same of the library", over_modalities, furthest(ours, over_modalities), 1e-12,
                     source="critical_divergence_weight"),
            Evidence("share of the reward −Dsym that is left at λ = 3/4", reward_left, rewards[0], 1e-9,
                     source="energies at unequal laws"),
            Evidence("the same at λ = 1", 0.0, rewards[1], 1e-9, source="energies at unequal laws"),
            Evidence("growth at λ = 3/4 over that at 0, vMF(10) on the circle, τ = 0.1", growth_left[1], share, 0.0,
                     "<=", "Hessian of the energy written out, on 24 modes: most of the growth is gone"),
            Evidence("the same", growth_left[0], share, 0.0, ">=", "not all of it"),
            Evidence("growth rates of the library there off the Hessian written out", 1e-6, max(differences), 0.0, "<=",
                     "matched_stability at λ = 0 and 3/4"),
            Evidence("slope of D6 there in the potential that is to hold it stationary", 1e-6, _pull(peak, 0.1), 0.0,
                     "<=", "matched_potential; differences of order 4"),
        ),
        (
            _separation_picture(flows),
            Picture("Critical control at finite temperature", "temperature τ", "λ_c", tuple(curves), log_x=True),
        ),
    )  # fmt: skip


def _differences(energy: Callable[[Density, Density], Tensor], rho: Density, d: Tensor, sign: int) -> float:
    """The coefficient of a mode (sum, sign 1, or difference, sign -1) from values of an energy, over int d^2/rho."""
    values = []
    for k in range(-2, 3):
        shift = k * _STEP * d / 2  # so that the sum, or the difference, of both shifts is k h d
        pair = (
            Density.from_values(rho.values + shift, rho.quadrature),
            Density.from_values(rho.values + sign * shift, rho.quadrature),
        )
        values.append(energy(*pair))
    return second_order_term(torch.stack(values), _STEP) / float(fisher_information(rho, d))


def _measured_coefficient(grid: Quadrature, generator: torch.Generator, sign: int, weight: float) -> float:
    """At a random potential and perturbation, around the matched Gibbs law."""
    u, tau = random_smooth(grid, generator, size=0.5), 0.5
    rho = GibbsLaw(u, tau, grid).density
    f = random_smooth(grid, generator)

    def energy(first: Density, second: Density) -> Tensor:
        return intrinsic_energy_sym(first, second, (u, u), temperature=tau, divergence_weight=weight)

    return _differences(energy, rho, rho.values * (f - rho.mean(f)), sign)


def _root_of_several(grid: Quadrature, generator: torch.Generator, modalities: int) -> float:
    """lambda_c of a random perturbation of k matched laws, its mean over the modalities zero, from energies."""
    u, tau = random_smooth(grid, generator, size=0.5), 0.5
    rho = GibbsLaw(u, tau, grid).density
    shares = torch.randn(modalities, generator=generator, dtype=torch.float64)
    f = random_smooth(grid, generator, size=0.3)
    directions = (shares - shares.mean())[:, None] * rho.values * (f - rho.mean(f))
    potentials = u.expand(modalities, -1)
    terms = []
    for weight in (0.0, 1.0):
        path = [
            pairwise_intrinsic_energy(
                [Density.from_values(rho.values + k * _STEP * d, grid) for d in directions],
                potentials,
                temperature=tau,
                divergence_weight=weight,
            )
            for k in range(-2, 3)
        ]
        terms.append(second_order_term(torch.stack(path), _STEP))
    free, full = terms
    return free / (free - full)


def _finite_root(grid: Quadrature, tau: float) -> float:
    """lambda_c of the first harmonic around the uniform law, from values of D6 with control at finite temperature."""
    rho = Density.uniform(grid)
    d = rho.values * grid.nodes[:, -1]

    def energy_at(weight: float) -> Callable[[Density, Density], Tensor]:
        def energy(first: Density, second: Density) -> Tensor:
            smooth = [smoothed_log_density(r, temperature=tau) for r in (first, second)]
            cross = first.mean(smooth[1]) + second.mean(smooth[0])
            own = first.mean(smooth[0]) + second.mean(smooth[1])
            return ((1 - weight) * cross + weight * own) / 2

        return energy

    free, full = (_differences(energy_at(w), rho, d, -1) for w in (0.0, 1.0))
    return free / (free - full)


def _reward_left(grid: Quadrature, generator: torch.Generator, weight: float) -> float:
    """What the energy pays for Dsym of two unequal laws at a weight, over Dsym."""
    u = (random_smooth(grid, generator), random_smooth(grid, generator))
    first, second = (Density.from_log(random_smooth(grid, generator, size=0.7), grid) for _ in range(2))
    free, held = (intrinsic_energy_sym(first, second, u, temperature=0.5, divergence_weight=w) for w in (0.0, weight))
    dsym = symmetric_divergence(first, second)
    return 1 - float((held - free) / dsym)


def _second_variation_error(grid: Quadrature, generator: torch.Generator, weight: float) -> float:
    """Relative difference of the second variation of D9 at unequal laws, closed form against differences."""
    path = unequal_path(grid, generator, weight)
    stated = intrinsic_second_variation_sym(*path.laws, path.directions, divergence_weight=weight)
    return abs(2 * second_order_term(path.energies, path.step) / float(stated) - 1)


def _fastest_growth(rho: Density, tau: float, weight: float) -> float:
    """The largest rate at which a difference mode with up to 12 waves grows around matched laws under Fisher-Rao.

    The amplitude of m = d1 - d2 grows at -4 times its coefficient, and coefficients are half the generalised
    eigenvalues of the Hessian against int m^2 / rho.
    """
    grid = rho.quadrature
    angles, values = grid.angles[:, 0], rho.values
    waves = torch.arange(1, 13, dtype=torch.float64)
    modes = torch.cat([(angles[:, None] * waves).cos(), (angles[:, None] * waves).sin()], 1)
    modes = values[:, None] * (modes - (values * grid.weights) @ modes)

    def energy(amplitudes: Tensor) -> Tensor:
        shift = modes @ amplitudes / 2
        pair = values + shift, values - shift
        return circle_energy(*pair, angles=angles, weights=grid.weights, temperature=tau, divergence_weight=weight)

    hessian = torch.autograd.functional.hessian(energy, torch.zeros(modes.shape[1], dtype=torch.float64))
    metric = modes.mT @ (modes * (grid.weights / values)[:, None])
    lowest = scipy.linalg.eigh(hessian.numpy(), metric.numpy(), eigvals_only=True)[0]
    return -4 * float(lowest) / 2


def _pull(rho: Density, tau: float) -> float:
    """The largest slope of D6 in one of 24 modes at matched laws, in the potential of the library that stops it."""
    grid = rho.quadrature
    angles = grid.angles[:, 0]
    u = matched_potential(rho, temperature=tau)
    worst = 0.0
    for wave in range(1, 13):
        for f in ((wave * angles).cos(), (wave * angles).sin()):
            d = rho.values * (f - rho.mean(f))
            path = []
            for k in range(-2, 3):
                moved = rho.values + k * 1e-2 * d
                energy = circle_energy(moved, rho.values, angles=angles, weights=grid.weights, temperature=tau)
                path.append(energy + float(grid.integrate(u * moved)) / (2 * tau))
            worst = max(worst, abs(first_order_term(torch.stack(path), 1e-2)))
    return worst


def _pushed(grid: Quadrature, mode: Tensor, size: float) -> tuple[Pair, tuple[Tensor, Tensor], float]:
    """A matched start with a small difference mode, its potentials and its temperature."""
    tau = 0.1
    u = 0.05 * (grid.nodes[:, 0] + 0.5 * grid.nodes[:, 1])
    matched = GibbsLaw(u, tau, grid).density
    tilt = size / 2 * (mode - matched.mean(mode))
    pair = (
        Density.from_values(matched.values * (1 + tilt), grid),
        Density.from_values(matched.values * (1 - tilt), grid),
    )
    return pair, (u, u), tau


def _growth_rate(grid: Quadrature, frequency: int, weight: float) -> float:
    """Rate of log amplitude of a difference mode over one unit of time."""
    mode = (frequency * grid.angles[:, 0]).cos()
    start, u, tau = _pushed(grid, mode, 1e-4)
    flow = replicator_flow(start, u, temperature=tau, divergence_weight=weight, max_time=1.0, step=0.005, tolerance=0.0)
    before, after = (float(a.mean(mode) - b.mean(mode)) for a, b in (start, flow.densities))
    return math.log(after / before)


def _separation(weight: float, max_time: float = 40.0) -> Flow:
    """The flow at one lambda from a matched start with a small push, under a floor."""
    grid = quadrature_rule(Sphere(2), 48)
    start, u, tau = _pushed(grid, grid.nodes[:, 1], 1e-2)
    return replicator_flow(
        start, u, temperature=tau, divergence_weight=weight, floor=1e-3, max_time=max_time, tolerance=0.0
    )


def _separation_picture(flows: dict[float, Flow]) -> Picture:
    curves = []
    for weight, flow in flows.items():
        kept = flow.divergences > 1e-12
        curves.append(Series(f"λ = {weight:g}", flow.times[kept].tolist(), flow.divergences[kept].tolist()))
    return Picture("From a small push at a matched state", "time", "Dsym, nats", tuple(curves), log_y=True)


CLAIMS = (
    Claim("T10", "matched marginals: stable in the common mode (1/8), unstable in the difference (−3/8)", check_t10),
    Claim(
        "T11",
        "control λ Dsym: with potentials held, matched marginals are stable from λ_c = 3/4 on (sharp limit)",
        check_t11,
    ),
)

__all__ = ["CLAIMS", "check_t10", "check_t11"]
