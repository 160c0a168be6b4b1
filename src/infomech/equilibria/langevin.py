"""Langevin particles on spheres and tori, with the Metropolis correction (MALA), and diagnostics of the chains.

The law of dz = -grad U / tau dt + sqrt(2) dB on the manifold follows the Wasserstein gradient flow of the intrinsic
energy D8, and its equilibrium is the Gibbs law. A discretised step is proposed along a geodesic and accepted by the
rule of Metropolis and Hastings, so that the equilibrium is exact at any step size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._checks import InputError, check_temperature
from .._shown import Fields
from .._typing import Rows, Scalars
from ..geometry import Manifold, geodesic_step, to_tangent
from .potentials import Potential

Paths = Float[Tensor, "steps chains"]

_TARGET_ACCEPTANCE = 0.574  # optimal for MALA in high dimension (Roberts and Rosenthal, 1998)
_RHAT_LIMIT = 1.01


@dataclass(frozen=True, eq=False, repr=False)
class LangevinSamples(Fields):
    """Draws of Langevin chains, with how far they can be trusted.

    Args:
        samples: (steps, chains, d) kept draws.
        acceptance: mean acceptance rate after the warm-up.
        step: h, the step in time of the chains after the warm-up.
        effective_sample_size: the least over the coordinates of z and U(z).
        split_rhat: the largest over the same functions; 1 when chains and their halves agree.
        status: "mixed" if split R-hat is at most 1.01 and the effective sample size at least 400.

    Source: T3, T4; the paper's particles (Fig. 4).

    >>> from infomech.equilibria import LinearPotential
    >>> from infomech.geometry import Sphere
    >>> east = LinearPotential(torch.tensor([1.0, 0.0], dtype=torch.float64))
    >>> seeded = torch.Generator().manual_seed(0)
    >>> draws = sample_mala(east, 0.5, Sphere(2), generator=seeded, chains=64, steps=200)
    >>> tuple(draws.samples.shape), draws.split_rhat < 1.01
    ((200, 64, 2), True)
    """

    samples: Float[Tensor, "steps chains d"]
    acceptance: float
    step: float
    effective_sample_size: float
    split_rhat: float
    status: Literal["mixed", "not mixed"]

    @property
    def points(self) -> Rows:
        """All draws as rows, (steps * chains, d)."""
        return self.samples.flatten(0, 1)

    @property
    def remedy(self) -> str:
        """What to do, in a line; empty if the chains have mixed."""
        if self.status == "mixed":
            return ""
        return (
            f"split R-hat {self.split_rhat:.3g}, effective sample size {self.effective_sample_size:.3g}: run longer, "
            "or raise the temperature if wells are too far apart to cross"
        )

    def mean(self, function: Callable[[Rows], Scalars]) -> tuple[float, float]:
        """Mean of a function of points over all draws, and its standard error from the independent chains' means."""
        steps, chains = self.samples.shape[:2]
        per_chain = function(self.points).double().reshape(steps, chains).mean(0)
        return float(per_chain.mean()), float(per_chain.std() / chains**0.5)


def langevin_step(
    potential: Potential, z: Rows, *, temperature: float, step: float, manifold: Manifold, generator: torch.Generator
) -> tuple[Rows, Bool[Tensor, " n"]]:
    """One Metropolis-adjusted Langevin step of n independent particles.

    Proposal: the geodesic from z with velocity v ~ N(-h grad U / tau, 2 h) in the tangent space. The reverse velocity
    has the same length, so that the Jacobians of both exponential maps cancel; proposals beyond the injectivity radius
    are refused, which keeps the rule reversible.

    Args:
        potential: U, differentiable by torch.
        z: (n, d) particles.
        temperature: tau > 0.
        step: h > 0, the step in time.
        manifold: `Sphere` or `FlatTorus`, of any dimension.
        generator: source of randomness, on the particles' device.

    Returns:
        The particles after the step, (n, d), and which of them moved, (n,).

    Source: D8; Roberts and Rosenthal (1998) for the rule.

    >>> from infomech.geometry import Sphere
    >>> seeded = torch.Generator().manual_seed(0)
    >>> z = Sphere(3).uniform(5, generator=seeded)
    >>> setting = {"temperature": 0.5, "step": 1e-4, "manifold": Sphere(3), "generator": seeded}
    >>> end, moved = langevin_step(lambda z: z[:, 2], z, **setting)
    >>> moved.tolist()  # short steps are accepted
    [True, True, True, True, True]
    """
    moved = _Ensemble.at(z, _Target(potential, temperature, manifold)).step(step, generator)
    return moved.z, moved.accepted


@dataclass(frozen=True, eq=False)
class _Target:
    """What the particles follow."""

    potential: Potential
    temperature: float
    manifold: Manifold


@dataclass(frozen=True, eq=False)
class _Ensemble:
    """Particles with their energies U / tau and forces, so that no step evaluates the potential twice."""

    z: Rows
    energy: Float[Tensor, " n"]
    force: Rows
    accepted: Bool[Tensor, " n"]
    target: _Target

    @classmethod
    def at(cls, z: Rows, target: _Target) -> "_Ensemble":
        energy, force = _energy_and_force(z, target)
        return cls(z, energy, force, torch.ones(len(z), dtype=torch.bool, device=z.device), target)

    def step(self, step: float, generator: torch.Generator) -> "_Ensemble":
        z, manifold = self.z, self.target.manifold
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        velocity = step * self.force + (2 * step) ** 0.5 * to_tangent(manifold, z, noise)
        end, arrival, unique = geodesic_step(manifold, z, velocity)
        end_energy, end_force = _energy_and_force(end, self.target)
        forward = (velocity - step * self.force).square().sum(-1)
        backward = (-arrival - step * end_force).square().sum(-1)
        log_ratio = self.energy - end_energy + (forward - backward) / (4 * step)
        log_u = torch.rand(len(z), generator=generator, dtype=z.dtype, device=z.device).log()
        accepted = unique & (log_u < log_ratio)  # a ratio that is NaN is refused
        rows = accepted[:, None]
        return _Ensemble(
            torch.where(rows, end, z),
            torch.where(accepted, end_energy, self.energy),
            torch.where(rows, end_force, self.force),
            accepted,
            self.target,
        )


def sample_mala(
    potential: Potential,
    temperature: float,
    manifold: Manifold,
    *,
    generator: torch.Generator,
    chains: int = 512,
    steps: int = 400,
    warmup: int = 400,
    start: Rows | None = None,
) -> LangevinSamples:
    """Draws from the Gibbs law exp(-U / tau) / Z of any differentiable potential, by many MALA chains.

        z' = exp_z(-h grad U(z) + sqrt(2 tau h) xi),   taken with the probability of Metropolis and Hastings

    The step size is tuned in the warm-up only, towards an acceptance of 0.574; then it stays, so that the chains'
    equilibrium is exact.

    Args:
        potential: U, a function of points (n, d) -> (n,) that torch can differentiate.
        temperature: tau > 0.
        manifold: `Sphere` or `FlatTorus`, of any dimension.
        generator: source of randomness.
        chains: independent chains, at least 4.
        steps: kept steps of each, at least 8.
        warmup: steps before those.
        start: (chains, d) starting points; uniform by default. Wells that are not crossed keep their
            shares of it.

    Returns:
        All kept draws, and whether the chains have mixed.

    Raises:
        InputError: for a temperature or a count out of range, or a potential that is not finite at the start.

    Source: T3, T4 (Propositions 3.1 and 3.2 of the paper).

    >>> from infomech.equilibria import LinearPotential
    >>> from infomech.geometry import Sphere
    >>> north = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    >>> seeded = torch.Generator().manual_seed(0)
    >>> draws = sample_mala(LinearPotential(north), 0.5, Sphere(3), generator=seeded, chains=64, steps=200)
    >>> draws.status, round(draws.mean(lambda z: z[:, 2])[0], 1)  # coth 2 - 1/2 = 0.537
    ('mixed', 0.5)
    """
    check_temperature(temperature)
    for name, count, least in (("chains", chains, 4), ("steps", steps, 8), ("warmup", warmup, 0)):
        if count < least:
            raise InputError(f"{name} is {count}; it must be at least {least}")
    z = manifold.uniform(chains, generator=generator) if start is None else start
    if z.shape != (chains, manifold.ambient_dim):
        raise InputError(f"start has shape {tuple(z.shape)}; expected ({chains}, {manifold.ambient_dim})")
    if not bool(torch.isfinite(potential(z)).all()):
        raise InputError("potential is not finite at the starting points; it must be finite on the whole manifold")
    step = min(0.2, temperature / manifold.ambient_dim)
    ensemble = _Ensemble.at(z, _Target(potential, temperature, manifold))
    for t in range(warmup):
        ensemble = ensemble.step(step, generator)
        step *= float(torch.exp((ensemble.accepted.double().mean() - _TARGET_ACCEPTANCE) * 2 / (t + 1) ** 0.6))
        step = min(step, 1.0)
    kept, energies, accepted = [], [], 0.0
    for _ in range(steps):
        ensemble = ensemble.step(step, generator)
        kept.append(ensemble.z)
        energies.append(ensemble.energy)
        accepted += float(ensemble.accepted.double().mean()) / steps
    samples = torch.stack(kept)
    watched = torch.cat([samples, torch.stack(energies)[..., None]], dim=-1).double().unbind(-1)
    size = min(effective_sample_size(path) for path in watched)
    rhat = max(split_rhat(path) for path in watched)
    good = rhat <= _RHAT_LIMIT and size >= 400
    return LangevinSamples(samples, accepted, step, size, rhat, "mixed" if good else "not mixed")


def split_rhat(paths: Paths) -> float:
    """Split R-hat of a function along chains: sqrt of total over within-chain variance of the half chains.

    Args:
        paths: (steps, chains) values, at least 4 steps.

    Returns:
        A number near 1 if chains and their halves agree; inf if they stand still apart.

    Source: Gelman et al., Bayesian Data Analysis, 3rd ed., section 11.4.

    >>> split_rhat(torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]))
    inf
    """
    halves = _halves(paths)
    n = halves.shape[0]
    within = halves.var(0).mean()
    between = halves.mean(0).var()
    if float(within) == 0:
        return 1.0 if float(between) == 0 else float("inf")
    return float(((n - 1) / n + between / within).sqrt())


def effective_sample_size(paths: Paths) -> float:
    """Number of independent draws worth as much as the chains together, for the mean of a function along them.

    Autocorrelations come from all half chains, with the variance between chains in the denominator, and are summed
    over Geyer's initial monotone positive sequence.

    Args:
        paths: (steps, chains) values, at least 8 steps.

    Returns:
        A number of draws; more than there are if they alternate.

    Source: Gelman et al., section 11.5; Geyer (1992).

    >>> noise = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> 3000 < effective_sample_size(noise) < 5000  # of 4,000 independent ones
    True
    """
    halves = _halves(paths)
    n, chains = halves.shape
    centred = halves - halves.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)
    autocovariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(1) / n
    within = autocovariance[0] * n / (n - 1)
    total = within * (n - 1) / n + halves.mean(0).var()
    if float(total) == 0:
        return float(n * chains)
    correlation = 1 - (within - autocovariance) / total
    correlation[0] = 1
    pairs = correlation[: n - n % 2].reshape(-1, 2).sum(1)
    negative = torch.nonzero(pairs < 0)
    pairs = pairs[: int(negative[0])] if len(negative) else pairs
    pairs = torch.cummin(pairs, 0).values
    time = max(2 * float(pairs.sum()) - 1, 1 / torch.log10(torch.tensor(float(n * chains))).item())
    return n * chains / time


def _halves(paths: Paths) -> Float[Tensor, "half doubled"]:
    n = paths.shape[0] // 2
    return torch.cat([paths[:n], paths[-n:]], dim=1)


def _energy_and_force(z: Rows, target: _Target) -> tuple[Scalars, Rows]:
    """U / tau at the particles, and its negative gradient in the tangent space."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        energy = target.potential(leaf) / target.temperature
        if not energy.requires_grad:  # a constant potential
            return energy, torch.zeros_like(z)
        (gradient,) = torch.autograd.grad(energy.sum(), leaf, allow_unused=True)
    gradient = torch.zeros_like(z) if gradient is None else gradient
    return energy.detach(), -to_tangent(target.manifold, z, gradient)


__all__ = ["LangevinSamples", "effective_sample_size", "langevin_step", "sample_mala", "split_rhat"]
