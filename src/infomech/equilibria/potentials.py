"""Alignment potentials (D4): the paper's examples, any callable, and the potential of real embeddings."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_between, check_rows, check_same_width, check_temperature, shown
from .._typing import Points, PointsLike, Rows, RowsLike, Scalars
from ..energies.intrinsic import check_potential
from ..geometry import Critic, Quadrature, as_critic
from ..io.rows import as_floats, as_points

Potential = Callable[[Points], Scalars]
"""A potential is any differentiable function of points (..., d) -> (...,); those below know more about themselves."""

_BLOCK = 1 << 22  # entries of a kernel matrix held at once


@dataclass(frozen=True, eq=False)
class LinearPotential:
    """U(z) = -m.z, whose Gibbs law on a sphere is vMF(m, 1 / tau).

    Args:
        direction: (d,) unit vector m.

    Source: D4 (Definition 3.1 of the paper), for a partner of mean m whatever z.

    >>> LinearPotential(torch.tensor([0.0, 1.0]))(torch.tensor([0.6, 0.8]))
    tensor(-0.8000)
    """

    direction: Float[Tensor, " d"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", _unit_vector(self.direction, "direction"))

    def __call__(self, z: PointsLike) -> Scalars:  # noqa: D102
        points, direction = _of_one_type(z, self.direction)
        return -(points @ direction)


@dataclass(frozen=True, eq=False)
class TwoWellPotential:
    """The paper's two wells: U(z) = -(1/k) log(w exp(k z.m1) + (1 - w) exp(k z.m2)).

    Args:
        first: (d,) unit vector m1.
        second: (d,) unit vector m2.
        sharpness: k > 0; the paper takes 12.
        weight: w in (0, 1); the paper takes 1/2.

    Source: the paper's experiment on low temperatures (Fig. 4, 2a).

    >>> u = TwoWellPotential.paper()
    >>> bool((u(u.wells).diff().abs() < 1e-12).all())  # two wells of one depth
    True
    """

    first: Float[Tensor, " d"]
    second: Float[Tensor, " d"]
    sharpness: float = 12.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", _unit_vector(self.first, "first well"))
        object.__setattr__(self, "second", _unit_vector(self.second, "second well"))
        check_temperature(self.sharpness, "sharpness")
        check_between(self.weight, "weight", "the share of the first well")

    @classmethod
    def paper(cls, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> "TwoWellPotential":
        """The wells of the paper's experiment on S^2: (0, 0, 1) and (0.85, 0.15, -0.5) / norm, 120 degrees apart.

        >>> TwoWellPotential.paper().wells.shape
        torch.Size([2, 3])
        """
        wells = torch.tensor([[0.0, 0.0, 1.0], [0.85, 0.15, -0.5]], dtype=dtype, device=device)
        wells = torch.nn.functional.normalize(wells, dim=1)
        return cls(wells[0], wells[1])

    @property
    def wells(self) -> Float[Tensor, "2 d"]:
        """Both wells, (2, d)."""
        return torch.stack([self.first, self.second])

    def __call__(self, z: PointsLike) -> Scalars:  # noqa: D102
        z, wells = _of_one_type(z, self.wells)
        prior = torch.tensor([self.weight, 1 - self.weight], dtype=z.dtype, device=z.device).log()
        return -torch.logsumexp(self.sharpness * (z @ wells.mT) + prior, dim=-1) / self.sharpness


class EmpiricalPotential:
    """The alignment potential of paired embeddings by kernel regression (D4).

    U(z) = -sum_i a_i(z) s(z, y_i), a_i(z) proportional to exp(s(z, x_i) / h): the law nu_z of the partner of z is
    estimated from the partners of the rows x_i near z (Nadaraya and Watson).

    Args:
        x: (n, d) representations of the anchor's modality.
        y: (n, d) their partners, row by row.
        bandwidth: h > 0, in units of the critic: the temperature of the regression's own kernel.
        critic: the score s; the cosine by default.

    Raises:
        InputError: if rows are not finite or do not match, or the bandwidth is not positive.

    Source: D4 (Definitions 3.1 and 4.1 of the paper); Nadaraya (1964), Watson (1964).

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> EmpiricalPotential(eye, eye, bandwidth=0.01)(eye)  # each its own partner
    tensor([-1., -1.], dtype=torch.float64)
    """

    def __init__(self, x: RowsLike, y: RowsLike, *, bandwidth: float, critic: Critic | None = None) -> None:
        x, y = as_points(x, "x"), as_points(y, "y")
        check_rows(x, "x")
        check_rows(y, "y")
        check_same_width(x, y)
        if len(x) != len(y):
            raise InputError(f"x has {len(x)} rows and y has {len(y)}; row i of y must be the partner of row i of x")
        check_temperature(bandwidth, "bandwidth")
        self.x, self.y, self.bandwidth = x, y, bandwidth
        self.critic = as_critic(critic)

    def __call__(self, z: PointsLike) -> Scalars:  # noqa: D102
        z, _ = _of_one_type(z, self.x)
        rows = z.reshape(-1, z.shape[-1])
        blocks = [self._block(block, None) for block in rows.split(max(1, _BLOCK // len(self.x)))]
        return torch.cat(blocks).reshape(z.shape[:-1])

    def leave_one_out(self) -> Float[Tensor, " n"]:
        """U at each row of x, its own partner left out: the score of the other rows' partners alone."""
        size = max(1, _BLOCK // len(self.x))
        own = torch.arange(len(self.x), device=self.x.device)
        return torch.cat([self._block(self.x[part], part) for part in own.split(size)])

    def _block(self, rows: Rows, own: Tensor | None) -> Scalars:
        log_weight = self.critic.pairwise(rows, self.x) / self.bandwidth
        if own is not None:
            log_weight = log_weight.scatter(1, own[:, None], float("-inf"))
        return -(torch.softmax(log_weight, dim=1) * self.critic.pairwise(rows, self.y)).sum(1)


def potential_at_nodes(
    potential: Potential | Float[Tensor, " q"], quadrature: Quadrature, name: str = "potential"
) -> Float[Tensor, " q"]:
    """Values (q,) of a potential at the nodes, from a callable or as they are.

    Args:
        potential: U, a function of points (..., d) -> (...,) or its values (q,).
        quadrature: the nodes.
        name: what a message calls it.

    Returns:
        (q,) values, in units of the critic.

    Raises:
        InputError: if a value is not finite, or their number is not that of the nodes; the message names the argument.

    Source: D4.

    >>> from infomech.geometry import Sphere, quadrature_rule
    >>> grid = quadrature_rule(Sphere(2), 4)
    >>> potential_at_nodes(LinearPotential(grid.nodes[0]), grid)[0]
    tensor(-1., dtype=torch.float64)
    """
    if not isinstance(potential, Tensor) and not callable(potential):
        raise InputError(f"{name} is {shown(potential)}; give a function of points, or its values at the nodes")
    values = potential if isinstance(potential, Tensor) else potential(quadrature.nodes)
    check_potential(values, quadrature, name)
    return values


def _of_one_type(z: PointsLike, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Points and the vectors that they are set against, as tensors of one type."""
    points = as_floats(z, "z")
    if not points.ndim or points.shape[-1] != vectors.shape[-1]:
        raise InputError(f"z has shape {tuple(points.shape)}; expected points (..., {vectors.shape[-1]})")
    dtype = torch.promote_types(points.dtype, vectors.dtype)
    return points.to(dtype), vectors.to(dtype)


def _unit_vector(vector: PointsLike, name: str) -> Tensor:
    vector = as_floats(vector, name)
    norm = float(vector.detach().double().norm())
    if vector.ndim != 1 or not abs(norm - 1) < 1e-3:
        raise InputError(f"{name} has shape {tuple(vector.shape)} and length {norm:.4g}; give one unit vector")
    checked: Tensor = vector
    return checked


__all__ = ["EmpiricalPotential", "LinearPotential", "Potential", "TwoWellPotential", "potential_at_nodes"]
