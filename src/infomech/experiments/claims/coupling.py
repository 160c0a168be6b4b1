"""Checks of the coupling of two modalities: barriers, the knife edge, and stability under control: T8, T9, T10, T11."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...energies import (
    fisher_information,
    intrinsic_energy_sym,
    intrinsic_second_variation_sym,
    smoothed_log_density,
)
from ...equilibria import Flow, GibbsLaw, critical_divergence_weight, replicator_flow, stationarity_residual
from ...equilibria.flows import project_on_floor
from ...equilibria.responses import vertex_density
from ...geometry import Quadrature, Sphere, quadrature_rule
from ...measures import Density
from .claim import Claim, Evidence, Outcome, Picture, Series
from .landscape import furthest, random_smooth, second_order_term

Pair = tuple[Density, Density]

_STEP = 1e-2  # of the finite differences: of order 4, so that truncation and rounding are near 1e-8


def check_t8(seed: int, *, curvature: float = -0.5, barrier_sign: float = 1.0, draws: int = 20) -> Outcome:
    """With rho2 held Fsym is concave in rho1, and the best response above a floor stands on the minimiser of V_{1|2}.

    Args:
        seed: of potentials, laws and perturbations.
        curvature: the stated second variation in units of int rho2 d^2 / rho1^2.
        barrier_sign: sign of log rho2 in the stated effective potential.
        draws: settings.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = quadrature_rule(Sphere(2), 1024)
    floor, tau = 0.01, 0.5
    curvatures, losses, allowed = [], [], []
    flat = torch.zeros(len(grid), dtype=torch.float64)
    for _ in range(draws):
        u = random_smooth(grid, generator, size=0.3)
        rho1, rho2 = (
            project_on_floor(random_smooth(grid, generator), grid, floor).log_values.detach() for _ in range(2)
        )
        held, own = Density.from_log(rho2, grid), Density.from_log(rho1, grid)
        f = random_smooth(grid, generator)
        d = own.values * (f - own.mean(f))
        second = float(intrinsic_second_variation_sym(own, held, (d, flat)))
        curvatures.append(second / float(grid.integrate(held.values * (d / own.values).square())))

        def energy(rho: Density, other: Density = held, u: Tensor = u) -> float:
            return float(intrinsic_energy_sym(rho, other, (u, flat), temperature=tau))

        stated = u / tau + barrier_sign * held.log_values
        answer = energy(vertex_density(int(stated.argmin()), grid, floor))
        rivals = [energy(vertex_density(node, grid, floor)) for node in range(0, len(grid), 16)]
        rivals += [energy(project_on_floor(random_smooth(grid, generator, size=4.0), grid, floor)) for _ in range(10)]
        losses.append(answer - min(rivals))
        # What a node of finite weight w can gain: (1/2) w rho2 log(1 + 1 / (w floor)).
        allowed.append(float((grid.weights * held.values * torch.log1p(1 / (grid.weights * floor))).max()) / 2)
    worst = max(range(draws), key=lambda i: losses[i] - allowed[i])
    return Outcome(
        (
            Evidence(
                "energy of the stated best response above its rivals', nats",
                allowed[worst],
                losses[worst],
                0.0,
                "<=",
                f"{draws} settings, 74 rivals each; the bound is the size of a node",
            ),
            Evidence(
                "d²Fsym/dρ1² over ∫ρ2 d²/ρ1², furthest",
                curvature,
                furthest(curvatures, curvature),
                1e-8,
                source="closed form at random laws",
            ),
        ),
        (_barrier_picture(grid, floor, tau),),
    )


def _barrier_picture(grid: Quadrature, floor: float, tau: float) -> Picture:
    angle = grid.angles[:, 0]
    order = angle.argsort()[::8]
    u = -0.5 * angle.cos()
    other = project_on_floor(6 * (angle - 0.3).cos(), grid, floor)
    barrier = u / tau + other.log_values
    x = angle[order].tolist()
    return Picture(
        "Where modality 2 is dense, modality 1 meets a barrier",
        "angle, radians",
        "nats",
        (
            Series("U12/τ", x, (u / tau)[order].tolist()),
            Series("log ρ2", x, other.log_values[order].tolist()),
            Series("V of modality 1", x, barrier[order].tolist()),
        ),
    )


def check_t9(seed: int, *, exponent: float = -1.0, bound_factor: float = 1.0, draws: int = 100) -> Outcome:
    """rho1 = rho2 = rho is stationary only if U12 - U21 is constant, and then rho is proportional to exp(-U12/tau).

    With U12 - U21 = D not constant, no matched law has a gradient shorter than sqrt(Var_rho(D) / 8) / tau.

    Args:
        seed: of potentials and laws.
        exponent: s in the stated matched law exp(s U12 / tau).
        bound_factor: the stated least gradient, in units of sqrt(Var(D) / 8) / tau; 0 states that some can vanish.
        draws: random matched laws.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = quadrature_rule(Sphere(3), 16)
    tau = 0.5
    u12, delta = random_smooth(grid, generator), random_smooth(grid, generator)
    stated = Density.from_log(exponent * u12 / tau, grid)
    at_rest = float(stationarity_residual(stated, stated, (u12, u12 + 1.7), temperature=tau))
    u = (u12, u12 - delta)
    ratios = []
    laws = [Density.from_log(random_smooth(grid, generator, size=1.5), grid) for _ in range(draws)]
    laws.append(Density.from_log(-(u[0] + u[1]) / (2 * tau), grid))  # the least of all, relative to its own bound
    for rho in laws:
        variance = rho.mean((delta - rho.mean(delta)).square())
        ratios.append(float(stationarity_residual(rho, rho, u, temperature=tau) / (variance / 8).sqrt()) * tau)
    sizes = [1e-3, 1e-2, 1e-1, 1.0]
    residuals = [float(stationarity_residual(stated, stated, (u12, u12 - s * delta), temperature=tau)) for s in sizes]
    spread = float(stated.mean((delta - stated.mean(delta)).square()).sqrt())
    least = [s * spread / math.sqrt(8) / tau for s in sizes]
    return Outcome(
        (
            Evidence("gradient at the matched law, U12 − U21 constant", 1e-12, at_rest, 0.0, "<=", "quadrature"),
            Evidence(
                "least gradient of a matched law, U12 − U21 not constant, over √(Var/8)/τ",
                bound_factor,
                min(ratios),
                1e-9,
                source=f"{draws} random laws and the geometric mean of the two Gibbs laws",
            ),
        ),
        (
            Picture(
                "The knife edge",
                "size of U12 − U21",
                "length of the gradient",
                (
                    Series("at the matched law exp(−U12/τ)", sizes, residuals, line=False),
                    Series("least of any matched law, √(Var/8)/τ", sizes, least),
                ),
                log_x=True,
                log_y=True,
            ),
        ),
    )


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
        ),
        (_separation_picture({weight: _separation(weight, 12.0) for weight in (0.0, 0.5, 1.0)}),),
    )  # fmt: skip


def check_t11(seed: int, *, critical: float = 0.75, sharp_share: float = 0.25) -> Outcome:
    """With lambda Dsym added the difference mode turns stable at lambda_c = 3/4; at finite tau at (2 + A_d(1/tau))/4.

    Args:
        seed: of laws, potentials and perturbations.
        critical: the stated lambda_c in the sharp limit; the flows are run 0.05 below and above it.
        sharp_share: c in the stated lambda_c = 1/2 + c A_d(1/tau) at finite temperature.
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
    return Outcome(
        (
            Evidence("λ_c in the sharp limit, furthest of ten settings", critical, furthest(roots, critical), 1e-6,
                     source="differences of order 4 at λ = 0 and 1"),
            Evidence(f"Dsym at the end over the start, λ = {critical - 0.05:.2f}", 10.0,
                     float(below.divergences[-1] / below.divergences[0]), 0.0, ">=", "flow to time 40"),
            Evidence(f"Dsym at the end over the start, λ = {critical + 0.05:.2f}", 0.1,
                     float(above.divergences[-1] / above.divergences[0]), 0.0, "<=", "flow to time 40"),
            *finite,
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
    Claim("T8", "a modality's best response shuns the other: it stands on the minimiser of V", check_t8),
    Claim("T9", "matched marginals are stationary only if U12 − U21 is constant: a knife edge", check_t9),
    Claim("T10", "matched marginals: stable in the common mode (1/8), unstable in the difference (−3/8)", check_t10),
    Claim("T11", "control λ Dsym makes matched marginals stable from λ_c = 3/4 on", check_t11),
)

__all__ = ["CLAIMS", "check_t8", "check_t9", "check_t10", "check_t11"]
