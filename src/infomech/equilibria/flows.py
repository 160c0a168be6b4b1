"""Gradient flows of the intrinsic energies (D8, D9): densities on nodes, and particles.

One modality: the Wasserstein gradient flow of D8 is the Fokker-Planck equation d rho/dt = div(rho grad U / tau) +
Laplace rho, and falls to the Gibbs law. Two modalities: below lambda_c the Wasserstein flow of D9 is a backward heat
equation in the difference of the densities, ill posed. `replicator_flow` therefore takes the Fisher-Rao metric, in
which every mode grows at one rate, under a floor on both densities.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from scipy.sparse.linalg import splu
from torch import Tensor

from .._checks import InputError, check_kind, check_temperature
from .._shown import Fields
from .._typing import Rows
from ..energies import intrinsic_energy_sym, intrinsic_variation_sym, symmetric_divergence
from ..geometry import Manifold, Quadrature, faces
from ..measures import Density, check_same_nodes
from .gibbs import GibbsLaw
from .langevin import langevin_step
from .potentials import Potential, potential_at_nodes

Status = Literal["converged", "time reached", "steps used up", "stalled"]
NodePotential = Potential | Float[Tensor, " q"]

_ROUNDING = 1e-13  # relative rise of an energy that is rounding
_SHORTEST = 1e-10  # of the first step: below it a line search gives up


@dataclass(frozen=True, eq=False, repr=False)
class Flow(Fields):
    """A gradient flow of densities, and how it went.

    Args:
        densities: the last state: (rho,) or (rho1, rho2).
        status: "converged"; "time reached" or "steps used up": the limits asked for came first; "stalled": no step
            lowers the energy any more although the flow has not converged.
        reason: why it stopped and what can be done, in a line.
        times: (t,) of the states recorded, the start first.
        energies: (t,) their energies, which never rise by more than rounding, 1e-13.
        residuals: (t,) what is driven to 0: KL to the Gibbs law for one modality, the length of the gradient for two.
        divergences: (t,) Dsym of two modalities along the way; empty for one.
        mass_error: the largest |mass - 1| of any state, before any renormalisation.

    Source: D8, D9.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> flow = fokker_planck(Density.uniform(grid), -grid.nodes[:, 0], temperature=0.5)
    >>> flow.converged, len(flow.densities)
    (True, 1)
    """

    densities: tuple[Density, ...]
    status: Status
    reason: str
    times: Float[Tensor, " t"]
    energies: Float[Tensor, " t"]
    residuals: Float[Tensor, " t"]
    divergences: Float[Tensor, " s"]
    mass_error: float

    @property
    def converged(self) -> bool:
        """Whether the flow came to rest."""
        return self.status == "converged"

    @property
    def density(self) -> Density:
        """The last state of a flow of one modality."""
        if len(self.densities) != 1:
            raise InputError("this flow has two modalities; take flow.densities")
        return self.densities[0]


def fokker_planck(
    start: Density,
    potential: NodePotential,
    *,
    temperature: float,
    max_time: float = math.inf,
    first_step: float = 1e-3,
    growth: float = 1.3,
    tolerance: float = 1e-12,
    max_steps: int = 500,
) -> Flow:
    """The Wasserstein gradient flow of D8 on nodes: Fokker-Planck, by a reversible finite-volume scheme.

    The rate between neighbouring cells is conductance * sqrt(pi_i pi_j), with pi the Gibbs law at the nodes, so that
    pi is stationary exactly; time is stepped implicitly. The scheme is a Markov chain in detailed balance: it keeps
    the mass and the sign at any step, and KL(rho || pi) = F(rho) - F(pi) falls with every step. It is accurate to
    second order in the spacing and first order in the step.

    Args:
        start: rho at time 0.
        potential: U, a function of points or its values at the nodes.
        temperature: tau > 0.
        max_time: stop there; by default only when converged.
        first_step: length of the first step in time.
        growth: factor between steps, at least 1; take 1 where the path matters and not the equilibrium alone.
        tolerance: converged when KL(rho || Gibbs) is at most this, in nats.
        max_steps: stop after so many steps.

    Returns:
        A `Flow`.

    Raises:
        InputError: if an argument is out of range, or the potential not finite.

    Source: D8, T3; Jordan, Kinderlehrer and Otto (1998) for the flow.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> flow = fokker_planck(Density.uniform(grid), -grid.nodes[:, 0], temperature=0.5)
    >>> flow.status, bool((flow.energies.diff() <= 0).all())
    ('converged', True)
    """
    _check_limits(first_step=first_step, max_time=max_time, growth=growth, max_steps=max_steps)
    check_kind(start, "start", Density, "a Density")
    grid = start.quadrature
    law = GibbsLaw(potential, temperature, grid)
    chain = _ReversibleChain(law)
    kl = chain.kl(start)
    floor = float(-law.log_partition)
    times, residuals = [0.0], [kl]
    density, step, mass_error = start, first_step, abs(float(start.mass) - 1)
    status: Status = "steps used up"
    while True:
        if kl <= tolerance:
            status = "converged"
            break
        if times[-1] >= max_time:
            status = "time reached"
            break
        if len(times) > max_steps:
            break
        step = min(step, max_time - times[-1])
        log_values = chain.advance(density.log_values, step)
        mass_error = max(mass_error, abs(float(grid.log_integrate(log_values).exp()) - 1))
        proposal = Density(log_values, grid)
        new = chain.kl(proposal)
        if new > kl:  # only rounding can raise it
            status = "stalled"
            break
        density, kl = proposal, new
        times.append(times[-1] + step)
        residuals.append(kl)
        step *= growth
    reason = {
        "converged": f"KL to the Gibbs law is {kl:.2g}, at most {tolerance:.2g}",
        "time reached": f"time {times[-1]:.4g} was reached at a KL of {kl:.2g} to the Gibbs law",
        "steps used up": f"{max_steps} steps led to a KL of {kl:.2g}; allow more steps or a larger growth",
        "stalled": f"rounding ends the descent at a KL of {kl:.2g}; take a larger tolerance",
    }[status]
    energies = floor + torch.tensor(residuals, dtype=torch.float64)
    path, none = torch.tensor(times, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
    return Flow((density,), status, reason, path, energies, energies - floor, none, mass_error)


class _ReversibleChain:
    """The generator in the symmetric variable g = sqrt(w / pi) rho, where its entries are of moderate size."""

    def __init__(self, law: GibbsLaw) -> None:
        grid = law.quadrature
        skeleton = faces(grid)
        first, second = skeleton.first.cpu().numpy(), skeleton.second.cpu().numpy()
        conductance = skeleton.conductance.double().cpu().numpy()
        half = law.node_values.detach().double().cpu().numpy() / (2 * law.temperature)
        weight = grid.weights.double().cpu().numpy()
        q = len(weight)
        coupling = conductance / np.sqrt(weight[first] * weight[second])
        leave_first = conductance * np.exp(half[first] - half[second]) / weight[first]
        leave_second = conductance * np.exp(half[second] - half[first]) / weight[second]
        diagonal = np.bincount(first, leave_first, q) + np.bincount(second, leave_second, q)
        rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
        values = np.concatenate([coupling, coupling])
        self._generator = scipy.sparse.csc_array((values, (rows, columns)), shape=(q, q)) - scipy.sparse.diags_array(
            diagonal
        )
        self._identity = scipy.sparse.eye_array(q, format="csc")
        self._log_scale = (grid.log_weights - law.density.log_values).double() / 2
        self._log_equilibrium = (grid.log_weights + law.density.log_values).double()
        self._null = (self._log_equilibrium / 2).exp().cpu().numpy()  # of unit length: the square root of a law
        self._step = 0.0
        self._solver: Any = None

    def kl(self, density: Density) -> float:
        """KL(rho || pi) as int pi (x log x - x + 1), x = rho / pi: no cancellation near the equilibrium."""
        log_ratio = (density.log_values + density.quadrature.log_weights).double() - self._log_equilibrium
        entropy = torch.where(torch.isneginf(log_ratio), 0.0, log_ratio.exp() * log_ratio)
        return float(self._log_equilibrium.exp() @ (entropy - torch.expm1(log_ratio)))

    def advance(self, log_values: Tensor, step: float) -> Tensor:
        """Log rho after an implicit step."""
        g = (log_values.double() + self._log_scale).exp().cpu().numpy()
        if step != self._step:
            self._step, self._solver = step, splu((self._identity - step * self._generator).tocsc())
        new = self._solver.solve(g)
        # The mass is the component along the null vector, which the step leaves as it is: at long steps the solver
        # loses digits in just this direction, and here they are put back.
        new += self._null * (self._null @ g - self._null @ new)
        new = torch.from_numpy(np.maximum(new, 0.0)).to(log_values.device)
        return (new.log() - self._log_scale).to(log_values.dtype)


def replicator_flow(
    start: tuple[Density, Density],
    potentials: tuple[NodePotential, NodePotential],
    *,
    temperature: float,
    divergence_weight: float = 0.0,
    floor: float = 0.0,
    step: float = 0.2,
    max_time: float = math.inf,
    tolerance: float = 1e-8,
    max_steps: int = 2000,
) -> Flow:
    """The Fisher-Rao gradient flow of D9 for two densities: d rho_i/dt = -rho_i (dF/drho_i - its mean), on a floor.

    Each step multiplies the densities by exp(-h dF/drho_i), projects them in KL on {rho >= floor, mass 1}, and is
    halved until the energy does not rise. Around a matched state the difference mode grows at the rate
    (3 - 4 lambda)/2 and the common mode decays at the rate 1/2, at every frequency (T10, T11).

    Args:
        start: (rho1, rho2) at time 0, on the same nodes and not below the floor.
        potentials: (U12, U21), functions of points or values at the nodes.
        temperature: tau > 0.
        divergence_weight: lambda; 0 is the symmetric loss, 3/4 critical.
        floor: smallest density allowed, in inverse volume; without one the energy is unbounded below for lambda < 1.
        step: largest step in time; the growth rate is accurate to first order in it.
        max_time: stop there; by default only when at rest.
        tolerance: converged when the gradient's Fisher-Rao length, where the floor does not hold it, is at most this.
        max_steps: stop after so many steps.

    Returns:
        A `Flow`, with Dsym along the way.

    Raises:
        InputError: if the floor is negative or does not fit under a mass of 1, a start lies below it, a potential is
            not finite, or a limit is out of range.

    Source: D9, T10, T11.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 32)
    >>> east, west = (Density.from_log(c * grid.nodes[:, 0], grid) for c in (0.1, -0.1))
    >>> flat = torch.zeros(32, dtype=torch.float64)
    >>> flow = replicator_flow((east, west), (flat, flat), temperature=0.1, divergence_weight=0.8)
    >>> flow.status  # above 3/4 the two come together
    'converged'
    """
    grid = start[0].quadrature
    _check_limits(first_step=step, max_time=max_time, growth=1.0, max_steps=max_steps)
    check_temperature(temperature)
    check_same_nodes(*start)
    check_floor(floor, grid, start)
    u = (potential_at_nodes(potentials[0], grid, "U12"), potential_at_nodes(potentials[1], grid, "U21"))
    energy_of = partial(
        intrinsic_energy_sym, potentials=u, temperature=temperature, divergence_weight=divergence_weight
    )
    rho, time, h, energy = start, 0.0, step, float(energy_of(*start))
    history: list[tuple[float, float, float, float]] = []
    mass_error = 0.0
    while True:
        gradient = intrinsic_variation_sym(*rho, u, temperature=temperature, divergence_weight=divergence_weight)
        length = max(_free_length(r, v, floor) for r, v in zip(rho, gradient, strict=True))
        history.append((time, energy, length, float(symmetric_divergence(*rho))))
        if length <= tolerance or time >= max_time or len(history) > max_steps:
            break
        h = min(step, 2 * h, max_time - time)
        while True:
            proposal = _descend(rho, gradient, h, floor)
            new = float(energy_of(*proposal))
            if new <= energy + _ROUNDING * max(1.0, abs(energy)) or h <= _SHORTEST * step:
                break
            h /= 2
        if h <= _SHORTEST * step or not math.isfinite(new):
            break
        rho, energy, time = proposal, new, time + h
        mass_error = max(mass_error, *(abs(float(r.mass) - 1) for r in rho))
    status, reason = _replicator_end(history, tolerance, max_time, max_steps)
    times, energies, residuals, divergences = torch.tensor(history, dtype=torch.float64).unbind(1)
    return Flow(rho, status, reason, times, energies, residuals, divergences, mass_error)


def particle_flow(
    start: Rows,
    potential: Potential,
    *,
    temperature: float,
    manifold: Manifold,
    time: float,
    steps: int,
    generator: torch.Generator,
) -> tuple[Rows, float]:
    """The flow of D8 as particles: the law of Langevin particles follows the Fokker-Planck equation.

        dz = -grad U(z) dt + sqrt(2 tau) dB   along the manifold, B Brownian motion on it

    Args:
        start: (n, d) particles at time 0.
        potential: U, differentiable by torch.
        temperature: tau > 0.
        manifold: `Sphere` or `FlatTorus`, of any dimension.
        time: how long to follow them, in the units of `fokker_planck`.
        steps: Metropolis-adjusted steps of length time / steps. The equilibrium is exact at any step; the path is
            accurate to first order in it.
        generator: source of randomness.

    Returns:
        The particles at that time, (n, d), and the mean acceptance rate (a path needs it near 1).

    Raises:
        InputError: if the temperature, the time or the number of steps is not positive.

    Source: D8, T3; the paper's particles (Fig. 4).

    >>> from infomech.equilibria import LinearPotential
    >>> from infomech.geometry import Sphere
    >>> seeded = torch.Generator().manual_seed(0)
    >>> start = Sphere(3).uniform(2000, generator=seeded)
    >>> setting = {"temperature": 0.5, "manifold": Sphere(3), "time": 3.0, "steps": 60, "generator": seeded}
    >>> z, _ = particle_flow(start, LinearPotential(torch.eye(3, dtype=torch.float64)[2]), **setting)
    >>> round(float(z[:, 2].mean()), 1)  # coth 2 - 1/2 = 0.537
    0.5
    """
    check_temperature(temperature)
    _check_limits(first_step=time, max_time=time, growth=1.0, max_steps=steps)
    z, accepted = start, 0.0
    for _ in range(steps):
        z, moved = langevin_step(
            potential, z, temperature=temperature, step=time / steps, manifold=manifold, generator=generator
        )
        accepted += float(moved.double().mean()) / steps
    return z, accepted


def check_floor(floor: float, grid: Quadrature, start: tuple[Density, ...] = ()) -> None:
    """Raise InputError unless densities >= floor with mass 1 exist, and the start is among them.

    Args:
        floor: smallest density allowed, in inverse volume.
        grid: the nodes.
        start: densities that must not lie below it.

    Raises:
        InputError: with the largest floor that fits, or the density that lies too low.

    Source: T8 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> check_floor(0.2, quadrature_rule(Sphere(2), 16))
    Traceback (most recent call last):
    infomech._checks.InputError: floor is 0.2; it must be at least 0 and below 1 / volume = 0.1592, or no density fits
    """
    volume = float(grid.weights.double().sum())
    if not (math.isfinite(floor) and floor >= 0 and floor * volume < 1):
        raise InputError(
            f"floor is {floor:.4g}; it must be at least 0 and below 1 / volume = {1 / volume:.4g}, or no density fits"
        )
    for position, density in enumerate(start, 1):
        lowest = float(density.log_values.min().exp())
        if lowest < floor * (1 - 1e-9):
            raise InputError(
                f"start density {position} falls to {lowest:.3g}, below the floor of {floor:.3g}; lower it"
            )


def project_on_floor(log_values: Float[Tensor, " q"], grid: Quadrature, floor: float) -> Density:
    """The density max(floor, c exp(log_values)) with c such that its mass is 1: the projection in KL.

    Args:
        log_values: (q,) log of an unnormalised density.
        grid: the nodes.
        floor: in inverse volume, feasible.

    Returns:
        The density nearest to the normalised one in KL among those that are nowhere below the floor.

    Source: T8 (Proposition 4.1 of the paper).

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> rho = project_on_floor(9 * grid.nodes[:, 0], grid, 0.01)
    >>> round(float(rho.values.min()), 12)
    0.01
    """
    free = torch.ones_like(log_values, dtype=torch.bool)
    if floor == 0:
        return Density.from_log(log_values, grid)
    for _ in range(len(log_values)):  # each round fixes at least one more node on the floor; a few suffice
        held = floor * grid.weights[~free].sum()
        log_mass = torch.logsumexp((log_values + grid.log_weights).masked_fill(~free, -math.inf), 0)
        shifted = log_values + torch.log1p(-held) - log_mass
        below = free & (shifted < math.log(floor))
        if not bool(below.any()):
            break
        free &= ~below
    return Density(torch.where(free, shifted, math.log(floor)), grid)


def _descend(
    rho: tuple[Density, Density], gradient: tuple[Tensor, Tensor], h: float, floor: float
) -> tuple[Density, Density]:
    first, second = (
        project_on_floor(r.log_values - h * (v - v.min()), r.quadrature, floor)
        for r, v in zip(rho, gradient, strict=True)
    )
    return first, second


def _free_length(rho: Density, gradient: Tensor, floor: float) -> float:
    """Fisher-Rao length of the gradient, without what only pushes further into the floor."""
    on_floor = rho.log_values <= math.log(floor) + 1e-9 if floor > 0 else torch.zeros_like(gradient, dtype=torch.bool)
    mass = (rho.values * rho.quadrature.weights).masked_fill(on_floor, 0)
    mean = (mass @ gradient) / mass.sum()
    slope = gradient - mean
    kept = torch.where(on_floor & (slope > 0), torch.zeros_like(slope), slope)
    return float((rho.values * rho.quadrature.weights * kept.square()).sum().sqrt())


def _replicator_end(
    history: list[tuple[float, float, float, float]], tolerance: float, max_time: float, max_steps: int
) -> tuple[Status, str]:
    time, _, length, divergence = history[-1]
    where = f"at time {time:.4g}, gradient {length:.2g}, Dsym {divergence:.4g}"
    if length <= tolerance:
        return "converged", f"the gradient is at most {tolerance:.2g}: {where}"
    if time >= max_time:
        return "time reached", f"the time asked for was reached: {where}"
    if len(history) > max_steps:
        return "steps used up", f"{max_steps} steps were taken: {where}; allow more, or a larger step"
    return "stalled", f"no step lowers the energy any more: {where}; raise the floor or the tolerance"


def _check_limits(*, first_step: float, max_time: float, growth: float, max_steps: int) -> None:
    if not (math.isfinite(first_step) and first_step > 0):
        raise InputError(f"step is {first_step}; a step in time must be a finite number above 0")
    if not max_time > 0:
        raise InputError(f"max_time is {max_time}; it must be above 0")
    if not growth >= 1:
        raise InputError(f"growth is {growth}; it must be at least 1")
    if max_steps < 1:
        raise InputError(f"steps are limited to {max_steps}; allow at least 1")


__all__ = ["Flow", "check_floor", "fokker_planck", "particle_flow", "project_on_floor", "replicator_flow"]
