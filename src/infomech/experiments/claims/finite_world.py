"""Worlds of three inputs a modality, in which the large-batch limit of a loss is a finite sum.

The reference of T1, T2 and T6 is exact. Inputs take three values in each modality, so that the law of N negatives is
multinomial: the expectation of any function of a batch is a finite sum over the (N + 1)(N + 2) / 2 ways in which N
draws fall on three values. Neither side of a comparison is then a simulation, and a rate is limited by N alone. Batches
drawn at random and put through `infomech.losses.infonce` are set beside, so that it is the library's loss that the
rates speak of; and samples whose pairs have exactly the world's law go through the library's energies, so that it is
these that the losses tend to.

By the delta method, with e = exp(s / tau), G(z) its mean over the negatives' law q and V its variance,

    N (E L_N - log N - limit)  ->  E[e(z, v) / G(z)] - E[V(z) / (2 G(z)^2)],
    N E|grad L_N - grad J|^2   ->  the trace of the covariance over w ~ q of h(w) = E_z grad [e(z, w) / G(z)]:

the positive's own term raises the loss, the curvature of the logarithm lowers it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...losses import infonce

DIM = 3
TEMPERATURE = 0.7
NEGATIVES = (16, 32, 64, 128, 256, 512)
ROWS = (200, 400, 800, 1600)  # of the samples whose pairs have exactly the world's law

Square = Float[Tensor, "k k"]


@dataclass(frozen=True)
class FiniteWorld:
    """Three inputs in each modality, the law of their pairs, and a linear encoder for each onto the sphere.

    Args:
        x: (3, d) inputs of the first modality.
        y: (3, d) inputs of the second.
        pairs: (3, 3) probabilities of (x, y), multiples of 1/200.
        encoders: W1, W2, each (d, d); the same object twice for one modality with one encoder.
    """

    x: Float[Tensor, "k d"]
    y: Float[Tensor, "k d"]
    pairs: Square
    encoders: tuple[Tensor, Tensor]

    @property
    def shared(self) -> bool:
        """Whether both modalities have one encoder."""
        return self.encoders[0] is self.encoders[1]

    def swapped(self) -> "FiniteWorld":
        """The other direction: anchors from the second modality."""
        return FiniteWorld(self.y, self.x, self.pairs.mT, (self.encoders[1], self.encoders[0]))

    def scores(self, own: Tensor, other: Tensor) -> Square:
        """S / tau of every anchor with every candidate, for given encoders."""
        z, w = self.embed(own, other)
        return z @ w.mT / TEMPERATURE

    @property
    def negatives_law(self) -> Float[Tensor, " k"]:
        """Q of the candidates."""
        return self.pairs.sum(0)

    def embed(self, own: Tensor, other: Tensor) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k d"]]:
        """The three representations of each modality, for given encoders."""
        z, w = (torch.nn.functional.normalize(a @ m.mT, dim=1) for a, m in ((self.x, own), (self.y, other)))
        return z, w

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs (count,) of each modality, as row numbers, whose pairs have exactly the world's law."""
        repeats = (self.pairs.reshape(-1) * count).round().long()
        at_x, at_y = torch.cartesian_prod(torch.arange(3), torch.arange(3)).repeat_interleave(repeats, 0).unbind(1)
        return at_x, at_y

    def limit(self, scores: Square) -> Float[Tensor, ""]:
        """J + log V = -E s / tau + E log G (D5, D6), exact."""
        fields = torch.logsumexp(scores + self.negatives_law.log(), 1)
        return (self.pairs.sum(1) * fields).sum() - (self.pairs * scores).sum()


def random_world(seed: int, *, modalities: int) -> FiniteWorld:
    """Inputs, pairs and encoders at random, some inputs rarer than others; one modality: one law, one encoder."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common = torch.tensor([6.0, 3.0, 1.0], dtype=torch.float64)
    pairs = torch.rand(3, 3, generator=generator, dtype=torch.float64) + 2 * torch.eye(3, dtype=torch.float64)
    pairs = pairs * common[:, None] * common
    x, own = normal(3, DIM), normal(DIM, DIM)
    if modalities == 1:
        return FiniteWorld(x, x, _rounded(pairs + pairs.mT), (own, own))
    return FiniteWorld(x, normal(3, DIM), _rounded(pairs), (own, normal(DIM, DIM)))


def _rounded(pairs: Square) -> Square:
    """The law rounded to positive multiples of 1/200; what rounding leaves over goes to the commonest pair."""
    counts = (pairs / pairs.sum() * ROWS[0]).round().clamp_min(1)
    counts[0, 0] += ROWS[0] - counts.sum()
    return counts / ROWS[0]


@dataclass(frozen=True)
class Consistency:
    """A loss with N negatives against its limit, over all batches; gradients are flat, in the order of the encoders.

    Args:
        limit: of the loss less log N.
        gradient: of the limit, (p,).
        losses: E L_N - log N for each N.
        errors: E[grad L_N - grad limit], (N, p).
        squares: E of the square of each entry of that difference, (N, p).
        bias_coefficient: lim N (E L_N - log N - limit), by the delta method.
        square_coefficient: lim N `squares`, likewise, (p,).
    """

    limit: float
    gradient: Tensor
    losses: Tensor
    errors: Tensor
    squares: Tensor
    bias_coefficient: float
    square_coefficient: Tensor

    @property
    def bias(self) -> list[float]:
        """E L_N - log N - limit."""
        return [float(loss) - self.limit for loss in self.losses]

    def relative_error(self, part: slice = slice(None)) -> list[float]:
        """Root mean square of |grad L_N - grad limit| / |grad limit|, over some of the parameters."""
        return [float(v) for v in self.squares[:, part].sum(1).sqrt() / self.gradient[part].norm()]


def measure_direction(world: FiniteWorld, counts: Sequence[int] = NEGATIVES) -> Consistency:
    """All expectations of one direction, by sums over multinomial counts."""
    scores = world.scores(*world.encoders)
    jacobians = [j.reshape(9, -1) for j in torch.autograd.functional.jacobian(world.scores, world.encoders)]
    slopes = jacobians[0] + jacobians[1] if world.shared else torch.cat(jacobians, 1)  # (9, p), of each score
    kernel, law, pairs, anchors = scores.exp(), world.negatives_law, world.pairs, world.pairs.sum(1)
    field = kernel @ law
    ratio = kernel / field[:, None]
    of_kernel = ratio[:, :, None] * slopes.view(3, 3, -1)  # grad e_kj / G_k
    of_field = (law[:, None] * of_kernel).sum(1)  # grad log G_k
    h = (anchors[:, None, None] * (of_kernel - ratio[:, :, None] * of_field[:, None, :])).sum(0)
    variance = kernel.square() @ law - field.square()
    gradient = (anchors[:, None] * ratio * law - pairs).reshape(-1) @ slopes
    rows = []
    for count in counts:
        n, weight = multinomial_counts(count, law)
        total = kernel[None] + (n @ kernel.mT)[:, :, None]  # (c, k, l): e_kl + sum_j n_j e_kj
        loss = (pairs * (total.log() - scores)).sum((1, 2)) - math.log(count)
        share = pairs * kernel / total + n[:, None, :] * kernel * (pairs / total).sum(2, keepdim=True) - pairs
        error = share.reshape(len(n), 9) @ slopes - gradient
        rows.append((weight @ loss, weight @ error, weight @ error.square()))
    losses, errors, squares = (torch.stack(column) for column in zip(*rows, strict=True))
    return Consistency(
        limit=float(world.limit(scores)),
        gradient=gradient,
        losses=losses,
        errors=errors,
        squares=squares,
        bias_coefficient=float((pairs * ratio).sum() - (anchors * variance / (2 * field.square())).sum()),
        square_coefficient=(law[:, None] * h.square()).sum(0) - (law @ h).square(),
    )


def measure_symmetric(world: FiniteWorld, counts: Sequence[int] = NEGATIVES) -> Consistency:
    """The mean of both directions, whose negatives are drawn apart from each other."""
    forward, backward = measure_direction(world, counts), measure_direction(world.swapped(), counts)

    def turned(values: Tensor) -> Tensor:  # back into the order of the world's encoders
        first, second = values.chunk(2, -1)
        return torch.cat([second, first], -1)

    crossed = 2 * forward.errors * turned(backward.errors)
    return Consistency(
        limit=(forward.limit + backward.limit) / 2,
        gradient=(forward.gradient + turned(backward.gradient)) / 2,
        losses=(forward.losses + backward.losses) / 2,
        errors=(forward.errors + turned(backward.errors)) / 2,
        squares=(forward.squares + turned(backward.squares) + crossed) / 4,
        bias_coefficient=(forward.bias_coefficient + backward.bias_coefficient) / 2,
        square_coefficient=(forward.square_coefficient + turned(backward.square_coefficient)) / 4,
    )


def multinomial_counts(count: int, law: Float[Tensor, " k"]) -> tuple[Float[Tensor, "c k"], Float[Tensor, " c"]]:
    """All ways in which `count` draws fall on three values, and their probabilities."""
    first = torch.arange(count + 1, dtype=law.dtype)
    a, b = torch.meshgrid(first, first, indexing="ij")
    a, b = a[a + b <= count], b[a + b <= count]
    n = torch.stack([a, b, count - a - b], 1)
    logs = math.lgamma(count + 1) - torch.lgamma(n + 1).sum(1) + n @ law.log()
    return n, logs.exp()


def noisiest_world(seed: int, candidates: int = 5) -> FiniteWorld:
    """Of some one-modality worlds, the one whose gradient's noise stands furthest above its bias at the largest N.

    The error of a gradient is noise of order N^-1/2 and bias of order 1/N. With three inputs the noise is now and then
    so small that the bias rules up to N = 1,000, and N^-1/2 is not reached at any N that can be summed over.
    """
    worlds = [random_world(seed * candidates + k, modalities=1) for k in range(candidates)]

    def ratio(world: FiniteWorld) -> float:
        exact = measure_direction(world, NEGATIVES[-1:])
        return float(exact.squares.sum() / exact.errors.square().sum())

    return max(worlds, key=ratio)


@dataclass(frozen=True)
class DrawnBatches:
    """Batches drawn at random, put through the library's loss.

    Args:
        values: (N, draws) losses less log N.
        squares: (N, draws, p) of (grad L_N - reference)^2, entry by entry.
        mismatch: the largest difference, of value or gradient, from the same batch's loss written out.
    """

    values: Float[Tensor, "m r"]
    squares: Float[Tensor, "m r p"]
    mismatch: float


def draw_batches(
    world: FiniteWorld, counts: Sequence[int], reference: Tensor, *, symmetric: bool, draws: int, seed: int
) -> DrawnBatches:
    """Batches drawn at random through `infomech.losses.infonce`: the anchors' law exact by weights, autograd.

    The first three at each N are also written out, as sums over the nine scores and how often each was drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(len(counts), draws, dtype=torch.float64)
    squares = torch.empty(len(counts), draws, len(reference), dtype=torch.float64)
    mismatch = 0.0
    sides = [(world, False), (world.swapped(), True)] if symmetric else [(world, False)]
    for i, count in enumerate(counts):
        for k in range(draws):
            chosen = [
                torch.multinomial(side.negatives_law, count, replacement=True, generator=generator) for side, _ in sides
            ]

            def mean_over_sides(
                loss: Callable[[FiniteWorld, tuple[Tensor, Tensor], Tensor], Tensor], chosen: list[Tensor] = chosen
            ) -> tuple[Tensor, Tensor]:
                own = world.encoders[0].detach().requires_grad_()
                other = own if world.shared else world.encoders[1].detach().requires_grad_()
                parts = [
                    loss(side, (other, own) if turned else (own, other), negatives)
                    for (side, turned), negatives in zip(sides, chosen, strict=True)
                ]
                value = torch.stack(parts).mean()
                found = torch.autograd.grad(value, (own,) if world.shared else (own, other))
                return value.detach(), torch.cat([g.reshape(-1) for g in found])

            value, gradient = mean_over_sides(_library_loss)
            values[i, k] = value - math.log(count)
            squares[i, k] = (gradient - reference).square()
            if k < 3:
                stated, stated_gradient = mean_over_sides(_written_loss)
                mismatch = max(mismatch, *_distances((value, gradient), (stated, stated_gradient)))
    return DrawnBatches(values, squares, mismatch)


def _distances(found: Sequence[Tensor], stated: Sequence[Tensor]) -> list[float]:
    return [float((a - b).abs().max()) for a, b in zip(found, stated, strict=True)]


def _library_loss(world: FiniteWorld, encoders: tuple[Tensor, Tensor], chosen: Tensor) -> Float[Tensor, ""]:
    z, w = world.embed(*encoders)
    anchor, partner = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unbind(1)
    return infonce(
        z[anchor],
        w[partner],
        temperature=TEMPERATURE,
        negatives=w[chosen],
        in_batch=False,
        weights=world.pairs.reshape(-1),
    )


def _written_loss(world: FiniteWorld, encoders: tuple[Tensor, Tensor], chosen: Tensor) -> Float[Tensor, ""]:
    scores = world.scores(*encoders)
    drawn = torch.bincount(chosen, minlength=3).double()
    total = scores.exp() + (scores.exp() @ drawn)[:, None]  # the positive and the negatives, of every pair
    return (world.pairs * (total.log() - scores)).sum()


@dataclass(frozen=True)
class SampledEnergy:
    """The library's energy, of samples whose pairs have exactly the world's law, as their rows grow in number.

    Args:
        limit: extrapolated to rows without number, in nats.
        error: of that.
        gradient: of the limit, flat, in the order of the encoders.
        mismatch: the largest difference from the same energy written out with three values a modality.
    """

    limit: float
    error: float
    gradient: Tensor
    mismatch: float


def sample_energy(
    world: FiniteWorld, energy: Callable[[Tensor, Tensor], Tensor], *, log_volume: float, directions: int
) -> SampledEnergy:
    """Put samples of the world through an energy of the library that leaves each row out of its own field.

    With e = exp(s / tau) the field at row i of n is (n G - e_i) / (n - 1), an analytic function of 1/n, so that the
    energy can be extrapolated.

    Args:
        world: the laws.
        energy: (x, y) -> J of paired rows.
        log_volume: log V that the energy written out takes.
        directions: 1, anchors of the first modality alone; 2, the mean of both.
    """
    values, gradients, mismatch = [], [], 0.0
    for rows in ROWS:
        at_x, at_y = world.sample(rows)
        own = world.encoders[0].detach().requires_grad_()
        other = own if world.shared else world.encoders[1].detach().requires_grad_()
        z, w = world.embed(own, other)
        value = energy(z[at_x], w[at_y])
        found = torch.autograd.grad(value, (own,) if world.shared else (own, other))
        values.append(float(value.detach()))
        gradients.append(torch.cat([g.reshape(-1) for g in found]))
        sides = [world, world.swapped()][:directions]
        stated = sum(_written_energy(side, rows) for side in sides) / len(sides) - log_volume
        mismatch = max(mismatch, abs(values[-1] - stated))
    limit, error = limit_at_zero(values)
    a, b, c = gradients[-3:]
    return SampledEnergy(limit, error, (8 * c - 6 * b + a) / 3, mismatch)


def _written_energy(world: FiniteWorld, rows: int) -> float:
    scores = world.scores(*world.encoders)
    left_out = scores if not world.shared else torch.diag(scores)[:, None]  # one modality: the anchor itself
    field = (rows * (scores.exp() @ world.negatives_law)[:, None] - left_out.exp()) / (rows - 1)
    return float((world.pairs * (field.log() - scores)).sum())


def limit_at_zero(values: Sequence[float]) -> tuple[float, float]:
    """Quadratic extrapolation in 1/N to 0 from the last four N, each half of the next.

    The error is the step from linear extrapolation and the change since the N before.
    """
    (_, before), (coarse, fine) = ((2 * c - b, (8 * c - 6 * b + a) / 3) for a, b, c in (values[-4:-1], values[-3:]))
    return fine, abs(fine - coarse) + abs(fine - before)


__all__ = [
    "DIM",
    "NEGATIVES",
    "ROWS",
    "TEMPERATURE",
    "Consistency",
    "DrawnBatches",
    "FiniteWorld",
    "SampledEnergy",
    "draw_batches",
    "limit_at_zero",
    "measure_direction",
    "measure_symmetric",
    "multinomial_counts",
    "noisiest_world",
    "random_world",
    "sample_energy",
]
