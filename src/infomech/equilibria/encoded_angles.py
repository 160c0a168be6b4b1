"""Energies of encoders of an observed angle, by quadrature, and the exact laws of linear encoders (D5, D6, T12).

Everything is an integral over the observed angles, at n equispaced nodes t_i: with images z_i = f(t_i), w_j = g(t_j),

    J12 = -(1/tau) sum_ij P_ij z_i.w_j + sum_i p_i log( sum_j q_j exp(z_i.w_j / tau) / V ),

P the joint law of the two angles and p, q its marginals (`LatentAngles`); spectrally accurate while f and g are smooth
on the spacing of the nodes.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_temperature
from .._shown import Fields
from .._typing import Rows, Scalar
from ..geometry import Cosine, Quadrature, Sphere, log_kernel_volume
from ..measures import Density
from .latent_angles import LatentAngles

Encoder = Float[Tensor, "2 2"]
Encoders = Float[Tensor, "2 2 2"]


@dataclass(frozen=True, repr=False)
class AngularEnergy(Fields):
    """The terms of the energies D5 and D6 of two encoders of observed angles, each a scalar in nats.

    Args:
        alignment: -E s(z, w) / tau over positive pairs.
        cross_xy: E log rho~2(z) = -Hx(q1, rho~2).
        cross_yx: E log rho~1(w).
        own_x: E log rho~1(z) = -Hx(q1, rho~1).
        own_y: E log rho~2(w).

    Source: D5, D6 (Definitions 3.2 and 4.2 of the paper).

    >>> t = torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)
    >>> z = torch.stack([t.cos(), t.sin()], dim=1)
    >>> energy = angular_energy(LatentAngles(), (z, z), temperature=0.07)
    >>> bool((energy.cross_xy - energy.own_x).abs() < 1e-12)  # no misalignment, no gap
    True
    """

    alignment: Scalar
    cross_xy: Scalar
    cross_yx: Scalar
    own_x: Scalar
    own_y: Scalar

    @property
    def single(self) -> Scalar:
        """J of one modality (D5): anchors and negatives from the first law, partners from the second."""
        return self.alignment + self.own_x

    @property
    def xy(self) -> Scalar:
        """J12 (D6)."""
        return self.alignment + self.cross_xy

    @property
    def yx(self) -> Scalar:
        """J21 (D6)."""
        return self.alignment + self.cross_yx

    @property
    def sym(self) -> Scalar:
        """Jsym = (J12 + J21) / 2 (D6)."""
        return self.alignment + (self.cross_xy + self.cross_yx) / 2

    @property
    def divergence(self) -> Scalar:
        """Dsym of the smoothed densities, as the loss and `infomech.decompose` measure it (E1)."""
        return (self.own_x + self.own_y - self.cross_xy - self.cross_yx) / 2

    def controlled(self, divergence_weight: float) -> Scalar:
        """Jsym + lambda Dsym, Dsym of the smoothed densities: the population limit of the controlled loss (C1)."""
        return self.sym + divergence_weight * self.divergence


def angular_energy(
    problem: LatentAngles, images: tuple[Rows, Float[Tensor, "n d"]], *, temperature: float
) -> AngularEnergy:
    """The energies D5 and D6 of any two encoders of the angles, by quadrature; differentiable in the images.

    Args:
        problem: the joint law of the observed angles.
        images: (z, w), each (n, d) unit rows: the representations of the observed angles 2 pi i / n by the two
            encoders. The nodes must resolve both encoders, and the kernel: n of at least 60 / sqrt(tau) for maps that
            stretch by no more than 4.
        temperature: tau > 0; the critic is the cosine.

    Returns:
        The terms, in nats, from which all energies are read off.

    Raises:
        InputError: if the temperature is not positive or the images do not match.

    Source: D5, D6 (Definitions 3.2 and 4.2 of the paper).

    >>> t = torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)
    >>> z = torch.stack([t.cos(), t.sin()], dim=1)
    >>> angular_energy(LatentAngles(misalignment=0.4), (z, z), temperature=0.07).sym
    tensor(-14.5896, dtype=torch.float64)
    """
    check_temperature(temperature)
    first, second = images
    if first.shape != second.shape:
        raise InputError(f"images have shapes {tuple(first.shape)} and {tuple(second.shape)}; give one row per node")
    return AngleTables(problem, len(first)).energy(first, second, temperature)


class AngleTables:
    """What a problem is on n nodes of the observed angle: the circle, the joint law, log masses of the marginals.

    Args:
        problem: the joint law of the observed angles.
        nodes: n, even, at least 64.

    Source: T12.
    """

    def __init__(self, problem: LatentAngles, nodes: int) -> None:
        self.joint = problem.joint(nodes)
        self.angles = 2 * math.pi * torch.arange(nodes, dtype=torch.float64) / nodes
        self.circle = torch.stack([self.angles.cos(), self.angles.sin()], dim=1)
        spacing = math.log(2 * math.pi / nodes)
        self.log_first, self.log_second = (problem.log_density(m, self.angles) + spacing for m in (0, 1))

    def energy(self, z: Tensor, w: Tensor, temperature: float, *, own: bool = True) -> AngularEnergy:
        """The energies of images z and w, (n, d) each; without `own`, own_x and own_y are NaN."""
        log_volume = log_kernel_volume(Sphere(z.shape[1]), Cosine(), temperature)
        first, second = self.log_first.exp(), self.log_second.exp()
        scores = z @ w.mT / temperature

        def field(logits: Tensor, weights: Tensor, dim: int) -> Tensor:
            out: Tensor = torch.logsumexp(logits + weights, dim=dim) - log_volume
            return out

        alignment = -(self.joint * scores).sum()
        cross_xy = first @ field(scores, self.log_second, 1)
        cross_yx = second @ field(scores, self.log_first[:, None], 0)
        if not own:
            return AngularEnergy(alignment, cross_xy, cross_yx, alignment * torch.nan, alignment * torch.nan)
        own_x = first @ field(z @ z.mT / temperature, self.log_first, 1)
        own_y = second @ field(w @ w.mT / temperature, self.log_second, 1)
        return AngularEnergy(alignment, cross_xy, cross_yx, own_x, own_y)

    def of_encoders(self, encoders: Encoders, temperature: float, *, own: bool = True) -> AngularEnergy:
        """The energies of a pair of linear encoders."""
        z, w = (torch.nn.functional.normalize(self.circle @ a.mT, dim=1) for a in encoders)
        return self.energy(z, w, temperature, own=own)

    def value(self, flat: Tensor, temperature: float, weight: float) -> Tensor:
        """Jsym + lambda Dsym~ of encoders as eight numbers; without the terms that lambda = 0 does not need."""
        terms = self.of_encoders(flat.view(2, 2, 2), temperature, own=weight != 0)
        return terms.controlled(weight) if weight != 0 else terms.sym


def encoded_log_density(problem: LatentAngles, modality: int, encoder: Encoder, *, z: Rows) -> Float[Tensor, " n"]:
    """Log density of A x / |A x| at points z of the circle, x the observation of modality 0 or 1: exact.

    The angle of x has density p; that of z has p(angle of A^-1 z) |det A^-1| / |A^-1 z|^2.

    Args:
        problem: the law of the observed angles.
        modality: 0 or 1.
        encoder: (2, 2) matrix A, invertible.
        z: (n, 2) unit rows.

    Returns:
        (n,) log densities, per radian; differentiable.

    Source: T12; change of variables.

    >>> eye, east = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> encoded_log_density(LatentAngles(), 0, eye, z=east)  # the identity keeps the law of the angle
    tensor([-0.4027], dtype=torch.float64)
    """
    inverse = torch.linalg.inv(encoder)
    source = z @ inverse.mT
    slope = torch.linalg.det(inverse).abs() / source.square().sum(1)
    angle = torch.atan2(source[:, 1], source[:, 0])
    log_density: Tensor = problem.log_density(modality, angle) + slope.log()
    return log_density


def encoded_law(problem: LatentAngles, modality: int, encoder: Encoder, *, quadrature: Quadrature) -> Density:
    """The exact pushforward law of one modality through a linear encoder, on nodes of the circle.

    Args:
        problem: the law of the observed angles.
        modality: 0 or 1.
        encoder: (2, 2) matrix A, invertible.
        quadrature: nodes on Sphere(2).

    Returns:
        The law of A x / |A x|.

    Raises:
        InputError: if the encoder is singular, or the manifold no circle.

    Source: T12; `encoded_log_density`.

    >>> from infomech.geometry import quadrature_rule
    >>> encoder = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> law = encoded_law(LatentAngles(), 0, encoder, quadrature=quadrature_rule(Sphere(2), 256))
    >>> law.mass
    tensor(1.0000, dtype=torch.float64)
    """
    if quadrature.manifold != Sphere(2):
        raise InputError(f"quadrature is on {quadrature.manifold}; linear encoders of angles map to Sphere(2)")
    _check_regular(encoder)
    return Density.from_log(encoded_log_density(problem, modality, encoder, z=quadrature.nodes), quadrature)


def encoded_divergence(problem: LatentAngles, encoders: Encoders, *, nodes: int = 1024) -> Scalar:
    """Dsym of the two exact pushforward laws, (KL(q1||q2) + KL(q2||q1))/2 with q_m the law of A_m x / |A_m x|, in nats.

    Differentiable, and spectrally accurate in the observed angles.

    Args:
        problem: the law of the observed angles.
        encoders: (2, 2, 2), one invertible matrix per modality.
        nodes: of the quadrature in the observed angle.

    Returns:
        A scalar >= 0, of the encoders' dtype and device.

    Raises:
        InputError: for encoders of another shape, or a singular one.

    Source: T12; D9 (Definition 4.3 of the paper) of the laws.

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> encoded_divergence(LatentAngles(misalignment=0.4), torch.stack([eye, eye]))
    tensor(0.0923, dtype=torch.float64)
    """
    if encoders.shape != (2, 2, 2):
        raise InputError(f"encoders have shape {tuple(encoders.shape)}; give two matrices of 2 x 2")
    for encoder in encoders.detach():
        _check_regular(encoder)
    angles = 2 * math.pi * torch.arange(nodes, dtype=torch.float64, device=encoders.device) / nodes
    circle = torch.stack([angles.cos(), angles.sin()], dim=1).to(encoders)
    total = torch.zeros((), dtype=encoders.dtype, device=encoders.device)
    for modality in (0, 1):
        z = torch.nn.functional.normalize(circle @ encoders[modality].mT, dim=1)
        own, other = (encoded_log_density(problem, m, encoders[m], z=z) for m in (modality, 1 - modality))
        weight = problem.log_density(modality, angles).exp() * (2 * math.pi / nodes)
        total = total + weight @ (own - other) / 2
    return total


def _check_regular(encoder: Encoder) -> None:
    if not float(torch.linalg.cond(encoder)) <= 1e8:  # NaN for a matrix of zeros
        raise InputError("encoder is singular; its law is two atoms and has no density")


__all__ = [
    "AngleTables",
    "AngularEnergy",
    "Encoder",
    "Encoders",
    "angular_energy",
    "encoded_divergence",
    "encoded_law",
    "encoded_log_density",
]
