"""The minimum of the deterministic energy of two linear encoders on the circle: the gap to be expected (T12)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray

from .._checks import InputError, check_seed, check_temperature
from .._shown import Fields
from ..geometry import Sphere, quadrature_rule
from ..measures import Density
from .encoded_angles import AngleTables, AngularEnergy, Encoders, encoded_divergence, encoded_law
from .latent_angles import LatentAngles
from .rank_one import RankOneLimit, rank_one_limit

Outcome = Literal["minimum", "another minimum", "saddle", "singular", "not converged"]

_SAME = 1e-6  # nats; ends of starts whose energies agree to this are one minimum
_FLAT = 1e-6  # a negative curvature beyond this, at encoders of unit norm, makes a saddle
_GRADIENT = 1e-6  # length of the gradient, in nats per unit of encoders of unit norm, that counts as zero
_SINGULAR = 50.0  # condition number from which an encoder counts as on its way to rank one


@dataclass(frozen=True, eq=False, repr=False)
class ParametricStart(Fields):
    """Where one start ended.

    Args:
        encoders: (2, 2, 2) of unit norm each, turned as `ParametricMinimum.encoders`.
        energy: Jsym + lambda Dsym~ there, in nats.
        gradient: length of the gradient.
        curvature: the smallest eigenvalue of the Hessian, 0 (scale and rotation are free) unless negative.
        condition: the larger condition number of the two encoders.
        outcome: "minimum": the lowest regular one, within 1e-6 nats; "another minimum": a higher one; "saddle";
            "singular": an encoder runs towards rank one, beyond what the nodes resolve, so that the energy here is that
            of the nodes only; "not converged".
        steps: iterations.

    Source: T12 (beyond the paper).

    >>> found = minimise_parametric(LatentAngles(misalignment=0.4), starts=1)
    >>> [start.outcome for start in found.starts]
    ['minimum']
    """

    encoders: Encoders
    energy: float
    gradient: float
    curvature: float
    condition: float
    outcome: Outcome
    steps: int


@dataclass(frozen=True, eq=False, repr=False)
class ParametricMinimum(Fields):
    """The lowest regular minimum of the deterministic energy, and all that was found beside it.

    Args:
        status: "global": no start and no pair of rank-one encoders lies lower; "local": singular encoders lie lower
            (`rank_one`); "not converged": no start reached a regular minimum, the fields describe the lowest end.
        reason: why, with numbers, and what to do.
        encoders: (2, 2, 2), of unit norm, the first with a positive determinant, turned so that the mean of all
            representations points along (1, 0).
        energy: Jsym + lambda Dsym~, in nats.
        terms: its parts.
        laws: the exact laws of both modalities' representations, on nodes of the circle.
        dsym: Dsym of these laws, in nats: the predicted gap (T12).
        error: change of the energy when the nodes are doubled, in nats.
        starts: where every start ended.
        rank_one: the lowest energy of rank-one encoders.

    Source: T12 (beyond the paper).

    >>> found = minimise_parametric(LatentAngles(misalignment=0.4), starts=1)
    >>> tuple(found.encoders.shape), round(found.dsym, 4)
    ((2, 2, 2), 0.0243)
    """

    status: Literal["global", "local", "not converged"]
    reason: str
    encoders: Encoders
    energy: float
    terms: AngularEnergy
    laws: tuple[Density, Density]
    dsym: float
    error: float
    starts: tuple[ParametricStart, ...]
    rank_one: RankOneLimit

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many starts ended how."""
        names = [start.outcome for start in self.starts]
        return {name: names.count(name) for name in dict.fromkeys(names)}


def minimise_parametric(
    problem: LatentAngles,
    *,
    temperature: float = 0.07,
    divergence_weight: float = 0.0,
    starts: int | Sequence[Encoders] = 8,
    seed: int = 0,
    nodes: int = 256,
) -> ParametricMinimum:
    """Minimise Jsym + lambda Dsym~ over two linear encoders x -> A x / |A x| of the circle, by quasi-Newton descent.

    Each start is brought down by BFGS on half of the nodes, then on all of them; a pair of scales and a common rotation
    leave the energy as it is.

    Args:
        problem: the joint law of the observed angles.
        temperature: tau > 0.
        divergence_weight: lambda, of the smoothed densities as in the loss (C1).
        starts: how many, the first being the identity and the others Gaussian matrices; or the encoders themselves,
            (2, 2, 2) each.
        seed: of the random starts.
        nodes: of the quadrature, even, at least 128.

    Returns:
        The lowest regular minimum with its exact laws and their divergence, where every start ended, and how it
        compares with encoders of rank one.

    Raises:
        InputError: if an argument is out of range.

    Source: T12.

    >>> found = minimise_parametric(LatentAngles(misalignment=0.4), starts=3)
    >>> found.status, round(found.dsym, 4)
    ('global', 0.0243)
    """
    check_seed(seed)
    check_temperature(temperature)
    if nodes < 128 or nodes % 4:
        raise InputError(f"nodes is {nodes}; take a multiple of 4, at least 128")
    coarse, fine = AngleTables(problem, nodes // 2), AngleTables(problem, nodes)
    ends = [
        _descend(_descend(start, coarse, temperature, divergence_weight)[0], fine, temperature, divergence_weight)
        for start in _starts(starts, seed)
    ]
    described = [_describe(*end, (coarse, fine), temperature, divergence_weight) for end in ends]
    lowest = min((s.energy for s in described if s.outcome == "minimum"), default=math.nan)
    ranked = tuple(
        ParametricStart(s.encoders, s.energy, s.gradient, s.curvature, s.condition, _rank(s, lowest), s.steps)
        for s in described
    )
    good = [s for s in ranked if s.outcome == "minimum"] or list(ranked)
    best = min(good, key=lambda s: s.energy)
    limit = rank_one_limit(problem, temperature=temperature, divergence_weight=divergence_weight)
    terms = fine.of_encoders(best.encoders, temperature)
    energy = float(terms.controlled(divergence_weight))
    doubled = float(
        AngleTables(problem, 2 * nodes).of_encoders(best.encoders, temperature).controlled(divergence_weight)
    )
    status, reason = _verdict(best, ranked, limit)
    grid = quadrature_rule(Sphere(2), 1024)
    first, second = (encoded_law(problem, m, best.encoders[m], quadrature=grid) for m in (0, 1))
    dsym = float(encoded_divergence(problem, best.encoders))
    return ParametricMinimum(
        status, reason, best.encoders, energy, terms, (first, second), dsym, abs(doubled - energy), ranked, limit
    )


def _starts(starts: int | Sequence[Encoders], seed: int) -> list[Encoders]:
    if not isinstance(starts, int):
        given = list(starts)
        if not given or any(s.shape != (2, 2, 2) or not bool(torch.isfinite(s).all()) for s in given):
            raise InputError("starts must be finite encoders of shape (2, 2, 2), at least one; or a number of starts")
        return [s.double() for s in given]
    if starts < 1:
        raise InputError(f"starts is {starts}; at least 1 is needed")
    generator = torch.Generator().manual_seed(seed)
    eye = torch.eye(2, dtype=torch.float64)
    draws = torch.randn(starts - 1, 2, 2, 2, generator=generator, dtype=torch.float64)
    return [torch.stack([eye, eye]), *draws]


def _descend(start: Encoders, tables: AngleTables, temperature: float, weight: float) -> tuple[Encoders, int]:
    """BFGS from a start: the end, of unit norms, and the iterations."""

    def value_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        leaf = torch.from_numpy(x.copy()).requires_grad_()
        value = tables.value(leaf, temperature, weight)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    unit = start / start.flatten(1).norm(dim=1)[:, None, None]
    fit = scipy.optimize.minimize(
        value_and_gradient, unit.flatten().numpy(), jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 500}
    )
    end = torch.from_numpy(np.asarray(fit.x)).view(2, 2, 2)
    return end / end.flatten(1).norm(dim=1)[:, None, None], int(fit.nit)


def _describe(
    encoders: Encoders, steps: int, tables: tuple[AngleTables, AngleTables], temperature: float, weight: float
) -> ParametricStart:
    """Energy, gradient, curvature and condition at an end; the outcome is "minimum" for any regular minimum."""
    coarse, fine = tables
    encoders = _turned(encoders, fine)
    leaf = encoders.flatten().requires_grad_()
    energy = fine.value(leaf, temperature, weight)
    (gradient,) = torch.autograd.grad(energy, leaf)
    condition = float(torch.linalg.cond(encoders).max())
    length = float(gradient.norm())
    curvature = 0.0
    outcome: Outcome
    if condition > _SINGULAR:
        outcome = "singular"
    elif length > _GRADIENT:
        outcome = "not converged"
    else:
        on_coarse = partial(coarse.value, temperature=temperature, weight=weight)  # a sign needs no finer nodes
        hessian = torch.autograd.functional.hessian(on_coarse, leaf.detach())
        curvature = float(torch.linalg.eigvalsh(hessian)[0])
        outcome = "saddle" if curvature < -_FLAT else "minimum"
    return ParametricStart(encoders.detach(), energy.item(), length, curvature, condition, outcome, steps)


def _turned(encoders: Encoders, tables: AngleTables) -> Encoders:
    """The same energy with the mean of all representations along (1, 0), and a first encoder that keeps orientation."""
    z, w = (torch.nn.functional.normalize(tables.circle @ a.mT, dim=1) for a in encoders)
    mean = tables.log_first.exp() @ z + tables.log_second.exp() @ w
    if float(mean.norm()) > 1e-6:
        c, s = (mean / mean.norm()).tolist()
        encoders = torch.tensor([[c, s], [-s, c]], dtype=encoders.dtype) @ encoders
    if float(torch.linalg.det(encoders[0])) < 0:
        encoders = torch.tensor([[1.0], [-1.0]], dtype=encoders.dtype) * encoders
    return encoders


def _rank(start: ParametricStart, lowest: float) -> Outcome:
    return "another minimum" if start.outcome == "minimum" and start.energy > lowest + _SAME else start.outcome


def _verdict(
    best: ParametricStart, starts: tuple[ParametricStart, ...], limit: RankOneLimit
) -> tuple[Literal["global", "local", "not converged"], str]:
    ended = ", ".join(f"{sum(s.outcome == o for s in starts)} {o}" for o in dict.fromkeys(s.outcome for s in starts))
    if best.outcome != "minimum":
        return "not converged", f"no start reached a regular minimum ({ended}); give more starts, or more nodes"
    if limit.energy < best.energy:
        return "local", (
            f"a local minimum: encoders of rank one reach {limit.energy:.6f}, below {best.energy:.6f} nats; "
            f"starts: {ended}"
        )
    return "global", f"the lowest of all starts, and below encoders of rank one ({limit.energy:.6f}); starts: {ended}"


__all__ = ["ParametricMinimum", "ParametricStart", "minimise_parametric"]
