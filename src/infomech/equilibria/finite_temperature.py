"""The equilibrium of one modality at finite temperature: the minimiser of D5 with the potential held (T13).

With S the kernel over its volume, the energy of a law q on the sphere is

    J(q) = (1/tau) int U dq + int log(S q) dq,        first variation  phi = U/tau + log S q + S(q / S q).

It is not F: the entropy of the law is replaced by a cross-entropy against the smoothed density, and J(q) = F(q) -
KL(q || S q) where q has a density. At a fixed law the divergence vanishes with tau (T5). Along the Gibbs laws of
U(z) = -m.z it does not: law and kernel become Gaussian of variance tau on d - 1 tangent directions, and J - F tends
to -KL(N(0, tau) || N(0, 2 tau)) = (d - 1)/2 (1/2 - log 2), which is -0.193 nats on S^2. The minimiser of J is not the
Gibbs law, but sharper:

**The von Mises-Fisher family**, U(z) = -h m.z. As tau -> 0 a law vMF(m, 1 / (tau v)) and the kernel become Gaussian, of
variances tau v and tau on d - 1 tangent directions, and

    J = ((d - 1)/2) (h v - log(1 + v) - v / (1 + v)) + const,     dJ/dv = 0:  h = 1/(1 + v) + 1/(1 + v)^2,

so that 1 + v = (1 + sqrt(1 + 4 h)) / (2 h). For h = 1 this is the golden ratio g = 1.618..., and k tau = 1 / v = g as
well, in every dimension, where the Gibbs law has k tau = 1. The smoothed density has variance tau g, wider than Gibbs.

**Collapse.** For h >= 2 the point mass at m is the global minimiser, at every temperature and dimension. By Jensen
log int exp(z.w / tau) dq(w) >= z.mu / tau with mu the mean of q, hence J + log V >= (-h m.mu + |mu|^2) / tau, and for
h >= 2 the right side is least at mu = m, where the point mass attains it. For h < 2 it is not even stationary:
with x = (1 - m.z) / tau its phi exceeds its level by (h - 1) x + exp(-x) - 1, negative for small x.

**All measures.** J is not convex: at a point mass at 0, the second variation along masses at two points a, b has the
matrix k(a - b) (1/k(a) + 1/k(b)) / 2, whose determinant is negative if k(a) and k(b) differ by enough while k(a - b) is
near k(0). So first-order (KKT) conditions, phi = level on the support and phi >= level elsewhere, are necessary only,
and need not name one measure: on the circle with U = -m.z at tau = 1 two arrangements of seven atoms, one with an atom
at m and one without, are stationary (to gains of 1e-10) and differ by 7.4e-8 nats.
phi is analytic, and where it is not constant it has isolated minima on a circle: the minimisers found are a few atoms.
Where the potential is far above its minimum further atoms carry masses of order exp(-2 / tau) and less; one at a point
where phi lies v below the level would gain about b (exp(v) - 1 - v) nats, b = S q over the kernel's own height.
Descent is over atoms y_i of mass |y_i|^2 at y_i / |y_i|, in which light atoms are as well conditioned as heavy ones;
atoms are added where they gain most until none gains more than a tolerance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .._checks import InputError, check_seed, check_temperature, check_whole
from .._shown import Fields
from .._typing import Rows, Scalar
from ..energies import cross_entropy, log_smoothing_kernel, smoothed_log_density
from ..energies.intrinsic import check_potential
from ..geometry import Cosine, Quadrature, Sphere, log_kernel_volume, mean_resultant
from ..measures import Density, VonMisesFisher
from .gibbs import GibbsLaw
from .potentials import Potential

NodeValues = Float[Tensor, " q"]

_COLLAPSE = 2.0  # slope from which the point mass is the minimiser, in units of the kernel's
_LARGEST_RATIO = 1e6  # of k tau: the search's upper end
_LIGHTEST = 1e-18  # atoms below are dropped
_CLOSE = 1e-3  # atoms nearer than this many kernel widths are one
_HEAVIEST_NEW = 0.05


@dataclass(frozen=True, repr=False)
class VmfEquilibrium(Fields):
    """The minimiser of D5 within the von Mises-Fisher family, for U(z) = -h m.z.

    Args:
        concentration: k; inf if the law collapses to the point m (h >= 2).
        ratio: k tau; the Gibbs law has h.
        energy: J there, in nats.
        gibbs_energy: J at the Gibbs law vMF(m, h / tau).

    Source: T13 (beyond the paper).

    >>> found = vmf_equilibrium(3, temperature=0.1)
    >>> found.energy < found.gibbs_energy  # sharper than Gibbs, and lower
    True
    """

    concentration: float
    ratio: float
    energy: float
    gibbs_energy: float


def vmf_energy(ambient_dim: int, concentration: float, *, temperature: float, slope: float = 1.0) -> float:
    """J of the law vMF(m, k) on S^{d-1} in the potential U(z) = -h m.z: -h A_d(k) / tau - Hx(q, S q), in nats (D5).

    Args:
        ambient_dim: d >= 2.
        concentration: k >= 0, or inf for the point mass.
        temperature: tau > 0.
        slope: h, in units of the critic.

    Returns:
        J, in nats.

    Raises:
        InputError: if the temperature is not positive or the concentration negative.

    Source: D5 (Definition 3.2 of the paper) on laws; T13.

    >>> tau = 1e-6  # against F = -log V of the Gibbs law vMF(m, 1 / tau): (d - 1)/2 (1/2 - log 2), not 0
    >>> round(vmf_energy(3, 1 / tau, temperature=tau) + log_kernel_volume(Sphere(3), Cosine(), tau), 4)
    -0.1931
    """
    return _vmf_excess(ambient_dim, concentration, temperature, slope) - slope / temperature


def _vmf_excess(ambient_dim: int, concentration: float, temperature: float, slope: float) -> float:
    """J + h / tau, h (1 - A) / tau - Hx: of moderate size at any temperature."""
    check_temperature(temperature)
    if math.isinf(concentration):
        return 1 / temperature - log_kernel_volume(Sphere(ambient_dim), Cosine(), temperature)
    mean = torch.zeros(ambient_dim, dtype=torch.float64)
    mean[0] = 1
    law = VonMisesFisher(mean, concentration)
    deficit = mean_resultant(ambient_dim, torch.tensor(concentration, dtype=torch.float64), complement=True)
    return slope * float(deficit) / temperature - float(cross_entropy(law, law, temperature=temperature))


def vmf_equilibrium(ambient_dim: int, *, temperature: float, slope: float = 1.0) -> VmfEquilibrium:
    """The von Mises-Fisher law that minimises D5 with the potential U(z) = -h m.z held (T13).

    Args:
        ambient_dim: d >= 2.
        temperature: tau > 0.
        slope: h > 0, in units of the critic; |E[partner]| <= 1 for a potential of real pairs.

    Returns:
        Its concentration, and the energies of it and of the Gibbs law.

    Raises:
        InputError: if the temperature or the slope is not positive.

    Source: T13; closed form of the field of a von Mises-Fisher law and one-dimensional quadrature.

    >>> round(vmf_equilibrium(3, temperature=0.1).ratio, 3)
    1.659
    """
    check_temperature(temperature)
    check_temperature(slope, "slope")
    check_whole(ambient_dim, "ambient_dim", least=2)
    gibbs = vmf_energy(ambient_dim, slope / temperature, temperature=temperature, slope=slope)
    if slope >= _COLLAPSE:
        point = vmf_energy(ambient_dim, math.inf, temperature=temperature, slope=slope)
        return VmfEquilibrium(math.inf, math.inf, point, gibbs)

    def energy(log_ratio: float) -> float:
        return _vmf_excess(ambient_dim, math.exp(log_ratio) / temperature, temperature, slope)

    fit = scipy.optimize.minimize_scalar(
        energy, bounds=(math.log(slope / 2), math.log(_LARGEST_RATIO)), method="bounded", options={"xatol": 1e-9}
    )
    log_ratio = float(fit.x) - _newton_step(energy, float(fit.x))
    ratio = math.exp(log_ratio)
    return VmfEquilibrium(ratio / temperature, ratio, energy(log_ratio) - slope / temperature, gibbs)


def _newton_step(function: Callable[[float], float], x: float, *, step: float = 0.02) -> float:
    """First over second derivative, by central differences of order 4.

    Values place a minimum to the square root of their rounding only; with their differences it is known to some 1e-7.
    """
    far_low, low, middle, high, far_high = (function(x + i * step) for i in (-2, -1, 0, 1, 2))
    first = (far_low - far_high + 8 * (high - low)) / 12
    second = (16 * (low + high) - 30 * middle - far_low - far_high) / 12
    return first / second * step


def sharp_ratio(slope: float = 1.0) -> float:
    """The limit of k tau as tau -> 0: 1 / v with 1 + v = (1 + sqrt(1 + 4 h)) / (2 h), in every dimension (T13).

    Args:
        slope: h > 0.

    Returns:
        The golden ratio for h = 1; inf from h = 2 on, where the law collapses.

    Raises:
        InputError: if the slope is not positive.

    Source: T13 (beyond the paper); this module's head.

    >>> round(sharp_ratio(), 6)
    1.618034
    """
    check_temperature(slope, "slope")
    if slope >= _COLLAPSE:
        return math.inf
    return 2 * slope / (1 + math.sqrt(1 + 4 * slope) - 2 * slope)


def held_energy(rho: Density, potential: NodeValues, *, temperature: float) -> Scalar:
    """J(rho) = (1/tau) int U rho + int rho log(S rho), the energy D5 with the potential held, on nodes.

    Args:
        rho: the law; the nodes must resolve it, and the kernel.
        potential: (q,) U at the nodes, in units of the critic.
        temperature: tau > 0.

    Returns:
        A scalar, in nats.

    Raises:
        InputError: if the temperature is not positive or the potential not finite.

    Source: D5 (Definition 3.2 of the paper); T13.

    >>> from infomech.geometry import quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> held_energy(Density.uniform(grid), -grid.nodes[:, 0], temperature=0.5)  # -log(2 pi)
    tensor(-1.8379, dtype=torch.float64)
    """
    check_potential(potential, rho.quadrature)
    return rho.mean(potential / temperature + smoothed_log_density(rho, temperature=temperature))


def held_variation(rho: Density, potential: NodeValues, *, temperature: float) -> NodeValues:
    """First variation phi = U/tau + log S rho + S(rho / S rho) at the nodes; constant exactly at stationary laws.

    Args:
        rho: the law.
        potential: (q,) U at the nodes, in units of the critic.
        temperature: tau > 0.

    Returns:
        (q,) phi at the nodes, in nats; its mean under rho is J + 1.

    Raises:
        InputError: if the temperature is not positive.

    Source: the variation of D5 with the potential held; T13.

    >>> from infomech.geometry import quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> flat = Density.uniform(grid)
    >>> bool(held_variation(flat, torch.zeros(64, dtype=torch.float64), temperature=0.5).std() < 1e-12)
    True
    """
    log_kernel = log_smoothing_kernel(rho.quadrature, temperature=temperature)
    log_mass = rho.log_values + rho.quadrature.log_weights
    smooth = torch.logsumexp(log_kernel + log_mass, dim=1)
    return potential / temperature + smooth + torch.logsumexp(log_kernel + log_mass - smooth, dim=1).exp()


def held_second_variation(rho: Density, direction: NodeValues, *, temperature: float) -> Scalar:
    """Second variation 2 int d S d / S rho - int rho (S d)^2 / (S rho)^2; it can be negative: J is not convex.

    Args:
        rho: the law.
        direction: (q,) d at the nodes, with int d dmu = 0.
        temperature: tau > 0.

    Returns:
        A scalar, d^2/de^2 J(rho + e d).

    Raises:
        InputError: if the temperature is not positive.

    Source: T13.

    >>> from infomech.geometry import quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 64)
    >>> d = grid.nodes[:, 0] / (2 * math.pi)  # around the uniform law (2 a - a^2) int d^2 / rho, a = I1(2) / I0(2)
    >>> held_second_variation(Density.uniform(grid), d, temperature=0.5)
    tensor(0.4543, dtype=torch.float64)
    """
    kernel = log_smoothing_kernel(rho.quadrature, temperature=temperature).exp()
    weights = rho.quadrature.weights
    ratio = (kernel @ (weights * direction)) / (kernel @ (weights * rho.values))
    return rho.quadrature.integrate(2 * direction * ratio - rho.values * ratio.square())


@dataclass(frozen=True, eq=False, repr=False)
class AtomicEquilibrium(Fields):
    """A measure of atoms that is stationary for D5 with the potential held, the lowest of several starts.

    Args:
        status: "stationary": no further atom gains more than the tolerance; "atoms used up": one still would.
        atoms: (a, d) positions, heaviest first.
        masses: (a,).
        energy: J, in nats.
        violation: how far phi falls below its level at a node, in nats; far out it may be large where next to no mass
            would mend it.
        gain: the most that a further atom would gain, in nats.
        start_energies: J where each start ended.
        smoothed: the smoothed density S q on the nodes (D3).
        gibbs: the Gibbs law of the same potential and temperature.

    Source: T13 (beyond the paper).

    >>> from infomech.equilibria import LinearPotential
    >>> from infomech.geometry import quadrature_rule
    >>> east = torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> found = minimise_measure(LinearPotential(east), temperature=0.1, quadrature=quadrature_rule(Sphere(2), 512))
    >>> found.status, found.count()
    ('stationary', 3)
    """

    status: Literal["stationary", "atoms used up"]
    atoms: Rows
    masses: Float[Tensor, " a"]
    energy: float
    violation: float
    gain: float
    start_energies: tuple[float, ...]
    smoothed: Density
    gibbs: GibbsLaw

    @property
    def kl_to_gibbs(self) -> float:
        """KL(S q || Gibbs), in nats: what the smoothed density has to do with the Gibbs law."""
        return float(self.smoothed.kl(self.gibbs.density))

    @property
    def energy_distance_to_gibbs(self) -> float:
        """2 E|X - Y| - E|X - X'| - E|Y - Y'|, X of the atoms and Y of the Gibbs law; in units of length."""
        grid = self.gibbs.quadrature
        other = self.gibbs.density.values * grid.weights
        between, own, among = (
            a @ torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") @ b
            for a, x, y, b in (
                (self.masses, self.atoms, grid.nodes, other),
                (self.masses, self.atoms, self.atoms, self.masses),
                (other, grid.nodes, grid.nodes, other),
            )
        )
        return float(2 * between - own - among)

    def count(self, *, share: float = 1e-6) -> int:
        """The least number of atoms that hold all mass but `share`."""
        return int((self.masses.cumsum(0) < 1 - share).sum()) + 1


def minimise_measure(
    potential: Potential,
    *,
    temperature: float,
    quadrature: Quadrature,
    starts: tuple[int, ...] = (1, 3, 6),
    seed: int = 0,
    tolerance: float = 1e-10,
    max_atoms: int = 40,
) -> AtomicEquilibrium:
    """Minimise J(q) = (1/tau) int U dq + int log(S q) dq over all measures on a sphere: atoms, and where they stand.

    Args:
        potential: U, differentiable by torch, on points (..., d).
        temperature: tau > 0.
        quadrature: nodes on S^1 or S^2 at which first-order conditions are checked; spacing well below sqrt(tau).
        starts: numbers of atoms of the starts, each at random places.
        seed: of the starts.
        tolerance: nats that a further atom must gain to be added.
        max_atoms: of any start.

    Returns:
        The lowest stationary measure found, with first-order certificates. J is not convex: `start_energies` says
        whether the starts agree.

    Raises:
        InputError: if the manifold is no sphere, or an argument is out of range.

    Source: T13; this module's head.

    >>> from infomech.equilibria import LinearPotential
    >>> from infomech.geometry import quadrature_rule
    >>> east = torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> found = minimise_measure(LinearPotential(east), temperature=0.1, quadrature=quadrature_rule(Sphere(2), 512))
    >>> found.count(), [round(m, 3) for m in found.masses[:3].tolist()]
    (3, [0.369, 0.316, 0.316])
    """
    check_seed(seed)
    check_temperature(temperature)
    if not isinstance(quadrature.manifold, Sphere):
        raise InputError(f"quadrature is on {quadrature.manifold}; atoms are placed on spheres")
    if not starts or min(starts) < 1 or max(starts) > max_atoms:
        raise InputError(f"starts are {starts}; each is a number of atoms from 1 to max_atoms = {max_atoms}")
    check_temperature(tolerance, "tolerance")
    gibbs = GibbsLaw(potential, temperature, quadrature)
    search = _AtomSearch(potential, temperature, gibbs.node_values, quadrature, tolerance, max_atoms)
    generator = torch.Generator().manual_seed(seed)
    ends = [search.run(_random_atoms(n, quadrature, generator)) for n in starts]
    energy, places, masses, violation, gain = min(ends, key=lambda end: end[0])
    order = masses.argsort(descending=True)
    log_field = torch.logsumexp(quadrature.nodes @ places.mT / temperature + masses.log(), dim=1)
    return AtomicEquilibrium(
        "stationary" if gain <= tolerance else "atoms used up",
        places[order],
        masses[order],
        energy,
        violation,
        gain,
        tuple(end[0] for end in ends),
        Density.from_log(log_field, quadrature),
        gibbs,
    )


_End = tuple[float, Tensor, Tensor, float, float]  # energy, places, masses, violation, gain


def _random_atoms(n: int, grid: Quadrature, generator: torch.Generator) -> Tensor:
    """Atoms y of equal mass |y|^2 at uniform places."""
    return grid.manifold.uniform(n, generator=generator).to(grid.nodes) / math.sqrt(n)


@dataclass(frozen=True, eq=False)
class _AtomSearch:
    """Descent over atoms y_i of mass |y_i|^2 at y_i / |y_i|, with atoms added where they gain most."""

    potential: Potential
    temperature: float
    node_values: Tensor
    grid: Quadrature
    tolerance: float
    max_atoms: int

    def run(self, atoms: Tensor) -> _End:
        while True:
            energy, places, masses = self.descend(atoms)
            places, masses = _merge(places, masses, _CLOSE * math.sqrt(self.temperature))
            shortfall, log_share = self.first_order(energy, places, masses)
            gain = log_share.exp() * (torch.expm1(shortfall) - shortfall)
            node = int(gain.argmax())
            if float(gain[node]) <= self.tolerance or len(masses) >= self.max_atoms:
                return energy, places, masses, float(shortfall.max()), float(gain[node])
            added = min(float((log_share[node] + torch.expm1(shortfall[node]).log()).exp()), _HEAVIEST_NEW)
            masses = torch.cat([masses * (1 - added), masses.new_tensor([added])])
            places = torch.cat([places, self.grid.nodes[node][None]])
            atoms = places * masses.sqrt()[:, None]

    def energy(self, atoms: Tensor) -> Tensor:
        places, masses = _split(atoms)
        log_volume = log_kernel_volume(self.grid.manifold, Cosine(), self.temperature)
        field = torch.logsumexp(places @ places.mT / self.temperature + masses.log(), dim=1)
        return masses @ (self.potential(places) / self.temperature + field) - log_volume

    def descend(self, atoms: Tensor) -> tuple[float, Tensor, Tensor]:
        def value_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            leaf = torch.from_numpy(x.reshape(atoms.shape).copy()).to(atoms).requires_grad_()
            value = self.energy(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
            return value.item(), gradient.flatten().double().numpy()

        start = atoms.flatten().double().numpy()
        fit = scipy.optimize.minimize(
            value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 2000}
        )
        places, masses = _split(torch.from_numpy(np.asarray(fit.x)).view(atoms.shape).to(atoms))
        kept = masses > _LIGHTEST
        return float(fit.fun), places[kept], masses[kept] / masses[kept].sum()

    def first_order(self, energy: float, places: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
        """How far phi lies below its level J + 1 at the nodes, and log b, b = S q over the kernel's height."""
        scores = self.grid.nodes @ places.mT / self.temperature
        at_atoms = torch.logsumexp(places @ places.mT / self.temperature + masses.log(), dim=1)
        field = torch.logsumexp(scores + masses.log(), dim=1)
        response = torch.logsumexp(scores + masses.log() - at_atoms, dim=1).exp()
        log_volume = log_kernel_volume(self.grid.manifold, Cosine(), self.temperature)
        phi = self.node_values / self.temperature + field - log_volume + response
        return (energy + 1 - phi).clamp_min(0), field - 1 / self.temperature


def _split(atoms: Tensor) -> tuple[Tensor, Tensor]:
    squares = atoms.square().sum(1)
    return torch.nn.functional.normalize(atoms, dim=1), squares / squares.sum()


def _merge(places: Tensor, masses: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Atoms within a radius of a heavier one joined to it."""
    order = masses.argsort(descending=True).tolist()
    kept_places: list[Tensor] = []
    kept_masses: list[Tensor] = []
    while order:
        near = [i for i in order if float((places[i] - places[order[0]]).norm()) < radius]
        mass = masses[near].sum()
        kept_places.append(torch.nn.functional.normalize(masses[near] @ places[near], dim=0))
        kept_masses.append(mass)
        order = [i for i in order if i not in near]
    return torch.stack(kept_places), torch.stack(kept_masses)


__all__ = [
    "AtomicEquilibrium",
    "VmfEquilibrium",
    "held_energy",
    "held_second_variation",
    "held_variation",
    "minimise_measure",
    "sharp_ratio",
    "vmf_energy",
    "vmf_equilibrium",
]
