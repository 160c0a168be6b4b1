"""Checks of the coupling of two modalities: the barrier that each is to the other (T8), and the knife edge (T9)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...energies import (
    effective_potential,
    intrinsic_energy_sym,
    intrinsic_second_variation_sym,
    intrinsic_variation_sym,
)
from ...equilibria.flows import project_on_floor
from ...equilibria.responses import alternate_best_responses, best_response, vertex_density
from ...equilibria.stability import stationarity_residual
from ...geometry import Quadrature, Sphere, quadrature_rule
from ...measures import Density
from ..statistics import interval, slope
from .claim import Claim, Evidence, Outcome, Picture, Series
from .landscape import first_order_term, furthest, random_smooth, unequal_path

_FLOOR = 0.01
_TEMPERATURE = 0.5
_RIVALS = (0.8, 1.25)  # of the barrier's strength
_MARGIN = 0.01  # nats of V that a rival must lose


@dataclass(frozen=True, eq=False)
class _Setting:
    """A potential and a held law, and the energies of point answers: all mass beyond the floor on one node.

    Args:
        potential: (q,) U12 at the nodes.
        held: rho2.
        nodes: (c,) where answers were tried.
        energies: (c,) Fsym of the answers.
    """

    potential: Tensor
    held: Density
    nodes: Tensor
    energies: Tensor

    @property
    def node_size(self) -> float:
        """The most that the finite weight of a node can be worth, in nats: (1/2) w rho2 log(1 + 1 / (w floor))."""
        weights = self.held.quadrature.weights
        return float((weights * self.held.values * torch.log1p(1 / (weights * _FLOOR))).max()) / 2

    @property
    def barrier(self) -> Tensor:
        """What the energies say of V_{1|2}, up to a constant: twice the energy over the mass, less the node's size."""
        weights, values = self.held.quadrature.weights, self.held.values
        mass = 1 - _FLOOR * weights.sum()
        of_node = weights * values * torch.log1p(mass / (weights * _FLOOR))
        return (2 * self.energies - of_node[self.nodes]) / mass

    def strength(self) -> float:
        """The slope of what is left of V_{1|2} without U12 / tau, in log rho2."""
        left = self.barrier - self.potential[self.nodes] / _TEMPERATURE
        return slope(self.held.log_values[self.nodes].numpy(), left.numpy())

    def lost(self, measure: Tensor, strength: float) -> float:
        """How far a measure of the answers lies above its least where U12 / tau + strength log rho2 is least."""
        stated = self.potential / _TEMPERATURE + strength * self.held.log_values
        return float(measure[stated[self.nodes].argmin()] - measure.min())


def _settings(grid: Quadrature, generator: torch.Generator, draws: int) -> list[_Setting]:
    """Random potentials; in three of four settings modality 2 stands in the wells, so that the barrier decides."""
    flat = torch.zeros(len(grid), dtype=torch.float64)
    nodes = torch.arange(0, len(grid), 4)
    settings = []
    for k in range(draws):
        held = project_on_floor(random_smooth(grid, generator), grid, _FLOOR)
        u = random_smooth(grid, generator, size=0.3)
        if k % 4:
            u = _TEMPERATURE * (u - held.log_values)
        energies = [
            intrinsic_energy_sym(vertex_density(i, grid, _FLOOR), held, (u, flat), temperature=_TEMPERATURE)
            for i in nodes.tolist()
        ]
        settings.append(_Setting(u, held, nodes, torch.stack(energies)))
    return settings


def check_t8(
    seed: int, *, curvature: float = -0.5, barrier_sign: float = 1.0, strength: float = 1.0, draws: int = 32
) -> Outcome:
    """With rho2 held Fsym is concave in rho1, and the best response above a floor stands on the minimiser of V_{1|2}.

    Args:
        seed: of potentials, laws and perturbations.
        curvature: the stated second variation in units of int rho2 d^2 / rho1^2.
        barrier_sign: sign of log rho2 in the stated effective potential.
        strength: the stated weight of log rho2 there; rivals of 0.8 and 1.25 times this weight must do worse.
        draws: settings, at least 4.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = quadrature_rule(Sphere(2), 512)
    flat = torch.zeros(len(grid), dtype=torch.float64)
    weight = barrier_sign * strength
    settings = _settings(grid, generator, draws)
    curvatures, mixtures = [], []
    library, barriers, alternations = 0.0, 0.0, 0.0
    for s in settings:
        own = project_on_floor(random_smooth(grid, generator), grid, _FLOOR)
        f = random_smooth(grid, generator)
        d = own.values * (f - own.mean(f))
        second = float(intrinsic_second_variation_sym(own, s.held, (d, flat)))
        curvatures.append(second / float(grid.integrate(s.held.values * (d / own.values).square())))
        mixed = project_on_floor(random_smooth(grid, generator, size=4.0), grid, _FLOOR)
        smooth = intrinsic_energy_sym(mixed, s.held, (s.potential, flat), temperature=_TEMPERATURE)
        mixtures.append(float(s.energies.min() - smooth))
        answer = best_response(s.potential, s.held, temperature=_TEMPERATURE, floor=_FLOOR)
        reached = intrinsic_energy_sym(answer.density, s.held, (s.potential, flat), temperature=_TEMPERATURE)
        library = max(library, float(reached - s.energies.min()))
        off = s.barrier - effective_potential(s.held, s.potential, temperature=_TEMPERATURE)[s.nodes]
        barriers = max(barriers, float((off - off.mean()).abs().max()))
        turns = alternate_best_responses(
            (own, s.held), (s.potential, s.potential), temperature=_TEMPERATURE, floor=_FLOOR
        )
        rise = float(turns.energies.diff().max())
        alternations = max(alternations, rise if turns.status == "fixed point" else math.inf)
    strengths = [s.strength() for s in settings]
    size = max(s.node_size for s in settings)
    stated = max(s.lost(s.energies, weight) for s in settings)
    return Outcome(
        (
            Evidence("weight of log ρ2 in the energies of point answers, furthest", weight,
                     furthest(strengths, weight), 1e-6, source=f"least squares over 128 nodes, {draws} settings"),
            Evidence("energy of the stated best response above the least, nats, at most", size, stated, 0.0, "<=",
                     f"{draws} settings, 128 point answers each; the bound is the size of a node"),
            Evidence("V of the stated best response above the least, nats, at most", 1e-9,
                     max(s.lost(s.barrier, weight) for s in settings), 0.0, "<=", "the same, less the size of a node"),
            *(
                _rival(rival, [s.lost(s.barrier, rival * weight) for s in settings]) for rival in _RIVALS
            ),
            Evidence("energy of the best point above spread-out answers, nats, at most", 0.0, max(mixtures), 0.0, "<=",
                     f"{draws} random laws"),
            Evidence("energy of the library's best response above the least, nats", 1e-12, library, 0.0, "<=",
                     "best_response"),
            Evidence("largest difference of the library's V from what the energies say, nats", 1e-9, barriers, 0.0,
                     "<=", "effective_potential, up to a constant"),
            Evidence("largest rise of Fsym as both answer in turn until neither moves, nats", 1e-12, alternations, 0.0,
                     "<=", "alternate_best_responses"),
            Evidence("d²Fsym/dρ1² over ∫ρ2 d²/ρ1², furthest", curvature, furthest(curvatures, curvature), 1e-8,
                     source="closed form at random laws"),
        ),
        (_barrier_picture(grid, _FLOOR, _TEMPERATURE),),
    )  # fmt: skip


def _rival(rival: float, losses: list[float]) -> Evidence:
    found = interval(losses)
    return Evidence(
        f"the same where a barrier of {rival} times the weight asks, mean over settings", _MARGIN, found["value"],
        2 * found["stderr"], ">=", "two standard errors",
    )  # fmt: skip


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
    slopes = [_first_variation_error(grid, generator, weight) for weight in (0.0, 0.75, 1.0)]
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
            Evidence(
                "first variations of Fsym at unequal laws off differences of it, relative",
                1e-6,
                max(slopes),
                0.0,
                "<=",
                "differences of order 4, λ = 0, 0.75 and 1",
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


def _first_variation_error(grid: Quadrature, generator: torch.Generator, weight: float) -> float:
    """Relative difference of the slope of D9 along a perturbation of both laws, closed form against differences."""
    path = unequal_path(grid, generator, weight)
    variations = intrinsic_variation_sym(
        *path.laws, path.potentials, temperature=path.temperature, divergence_weight=weight
    )
    stated = sum(float(grid.integrate(v * d)) for v, d in zip(variations, path.directions, strict=True))
    return abs(first_order_term(path.energies, path.step) / stated - 1)


CLAIMS = (
    Claim("T8", "a modality's best response shuns the other: it stands on the minimiser of V = U/τ + log ρ2", check_t8),
    Claim("T9", "matched marginals are stationary only if U12 − U21 is constant: a knife edge", check_t9),
)

__all__ = ["CLAIMS", "check_t8", "check_t9"]
