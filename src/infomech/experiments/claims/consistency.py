"""Checks of the large-batch limit: T1, T2 (one modality) and T6 (two), in value and gradient.

The reference is exact. Inputs take three values in each modality, so that the law of N negatives is multinomial: the
expectation of any function of a batch is a finite sum over the (N + 1)(N + 2) / 2 ways in which N draws fall on three
values. Neither side of a comparison is then a simulation, and a rate is limited by N alone. Batches drawn at random and
put through `infomech.losses.infonce` are set beside, so that it is the library's loss that the rates speak of.

By the delta method, with e = exp(s / tau), G(z) its mean over the negatives' law q and V its variance,

    N (E L_N - log N - limit)  ->  E[e(z, v) / G(z)] - E[V(z) / (2 G(z)^2)],
    N E|grad L_N - grad J|^2   ->  the trace of the covariance over w ~ q of h(w) = E_z grad [e(z, w) / G(z)]:

the positive's own term raises the loss, the curvature of the logarithm lowers it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...geometry import Cosine, Sphere, log_kernel_volume
from ...losses import infonce
from .claim import Claim, Evidence, Outcome, Picture, Series

DIM = 3
TEMPERATURE = 0.7
NEGATIVES = (16, 32, 64, 128, 256, 512)
_EXTRAPOLATED = "exact expectations at N = 128, 256, 512, extrapolated; the step is the error"

Square = Float[Tensor, "k k"]


@dataclass(frozen=True)
class FiniteWorld:
    """Three inputs in each modality, the law of their pairs, and a linear encoder for each onto the sphere.

    Args:
        x: (3, d) inputs of the first modality.
        y: (3, d) inputs of the second.
        pairs: (3, 3) probabilities of (x, y).
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
        z, w = (torch.nn.functional.normalize(a @ m.mT, dim=1) for a, m in ((self.x, own), (self.y, other)))
        return z @ w.mT / TEMPERATURE

    @property
    def negatives_law(self) -> Float[Tensor, " k"]:
        """Q of the candidates."""
        return self.pairs.sum(0)

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
        pairs = pairs + pairs.mT
        return FiniteWorld(x, x, pairs / pairs.sum(), (own, own))
    return FiniteWorld(x, normal(3, DIM), pairs / pairs.sum(), (own, normal(DIM, DIM)))


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


def draw_batches(
    world: FiniteWorld, counts: Sequence[int], reference: Tensor, *, symmetric: bool, draws: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Batches drawn at random through `infomech.losses.infonce`: the anchors' law exact by weights, autograd.

    Returns:
        (N, draws) losses less log N, and (N, draws, p) of (grad L_N - reference)^2, entry by entry.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(len(counts), draws, dtype=torch.float64)
    squares = torch.empty(len(counts), draws, len(reference), dtype=torch.float64)
    for i, count in enumerate(counts):
        for k in range(draws):
            own = world.encoders[0].detach().requires_grad_()
            other = own if world.shared else world.encoders[1].detach().requires_grad_()
            loss = _drawn_loss(world, (own, other), count, generator)
            if symmetric:
                loss = (loss + _drawn_loss(world.swapped(), (other, own), count, generator)) / 2
            found = torch.autograd.grad(loss, (own,) if world.shared else (own, other))
            values[i, k] = loss.detach() - math.log(count)
            squares[i, k] = (torch.cat([g.reshape(-1) for g in found]) - reference).square()
    return values, squares


def _drawn_loss(
    world: FiniteWorld, encoders: tuple[Tensor, Tensor], count: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    z, w = (torch.nn.functional.normalize(a @ m.mT, dim=1) for a, m in zip((world.x, world.y), encoders, strict=True))
    chosen = torch.multinomial(world.negatives_law, count, replacement=True, generator=generator)
    anchor, partner = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unbind(1)
    return infonce(
        z[anchor],
        w[partner],
        temperature=TEMPERATURE,
        negatives=w[chosen],
        in_batch=False,
        weights=world.pairs.reshape(-1),
    )


def fitted_rate(counts: Sequence[int], squares: Float[Tensor, "m r"]) -> tuple[float, float]:
    """Slope of the log root mean square over draws against log N, and four standard errors of it.

    Draws at different N are independent, so that the variances of the logarithms (delta method) add up in the slope.
    """
    x = torch.tensor(counts, dtype=torch.float64).log()
    mean = squares.mean(1)
    weight = (x - x.mean()) / (x - x.mean()).square().sum()
    stderr = squares.std(1) / (2 * mean * math.sqrt(squares.shape[1]))
    return float(weight @ (mean.log() / 2)), 4 * float((weight * stderr).norm())


def _limit_of(values: Sequence[float]) -> tuple[float, float]:
    """Quadratic extrapolation in 1/N to 0 from the last three N, each half of the next.

    The error is the step from linear extrapolation and the change since the N before.
    """
    (_, before), (coarse, fine) = ((2 * c - b, (8 * c - 6 * b + a) / 3) for a, b, c in (values[-4:-1], values[-3:]))
    return fine, abs(fine - coarse) + abs(fine - before)


def _exponent(quantity: str, rate: float, values: Sequence[float]) -> Evidence:
    """The local slope in log N, extrapolated in 1/N; the error is the last step and the change of the extrapolation."""
    logs = torch.tensor(values, dtype=torch.float64).abs().log()
    slopes = (logs.diff() / torch.tensor(NEGATIVES, dtype=torch.float64).log().diff())[-3:].tolist()
    before, end = 2 * slopes[1] - slopes[0], 2 * slopes[2] - slopes[1]
    return Evidence(quantity, rate, end, abs(end - slopes[2]) + abs(end - before), source=_EXTRAPOLATED)


def _agreement(quantity: str, expected: Sequence[float], drawn: Float[Tensor, "m r"]) -> Evidence:
    """Draws over their exact expectation, pooled over all N."""
    ratio = (drawn / torch.tensor(expected, dtype=torch.float64)[:, None]).reshape(-1)
    stderr = float(ratio.std()) / math.sqrt(len(ratio))
    return Evidence(quantity, 1.0, float(ratio.mean()), 4 * stderr, source=f"{len(ratio):,} batches, 4 standard errors")


def check_t1(
    seed: int,
    *,
    rate: float = -1.0,
    offset: float = 0.0,
    positive_share: float = 1.0,
    curvature_share: float = 1.0,
    draws: int = 200,
) -> Outcome:
    """L_N - J - log(N V) falls as 1/N, with the coefficient of the delta method.

    Args:
        seed: of the inputs, the encoder and the drawn batches.
        rate: the stated exponent of N.
        offset: the stated limit of L_N - J - log(N V), in nats.
        positive_share: the stated weight of the positive's own term in the coefficient.
        curvature_share: the stated weight of the logarithm's curvature.
        draws: batches drawn at each N.
    """
    world = random_world(seed, modalities=1)
    exact = measure_direction(world)
    kernel = world.scores(*world.encoders).exp()
    positive = float((world.pairs * kernel / (kernel @ world.negatives_law)[:, None]).sum())
    stated = positive_share * positive + curvature_share * (exact.bias_coefficient - positive)
    drawn, _ = draw_batches(world, NEGATIVES, exact.gradient, symmetric=False, draws=draws, seed=seed)
    volume = float(log_kernel_volume(Sphere(DIM), Cosine(), TEMPERATURE))
    energy = exact.limit - volume  # J of D5
    end = _limit_of([float(loss) - energy - volume for loss in exact.losses])
    counts = [float(n) for n in NEGATIVES]
    coefficient = _limit_of([n * b for n, b in zip(NEGATIVES, exact.bias, strict=True)])
    return Outcome(
        (
            _exponent("exponent of the bias in N", rate, exact.bias),
            Evidence("limit of L_N − J − log(N V), nats", offset, *end, source=_EXTRAPOLATED),
            Evidence("limit of N × bias, nats", stated, *coefficient, source=_EXTRAPOLATED),
            _agreement("drawn losses over their expectation", exact.losses.tolist(), drawn),
        ),
        (
            Picture(
                "The loss's bias falls as 1/N",
                "negatives N",
                "|L_N − J − log(N V)|, nats",
                (
                    Series("exact expectation", counts, [abs(b) for b in exact.bias], line=False),
                    Series("coefficient / N", counts, [abs(exact.bias_coefficient) / n for n in NEGATIVES]),
                ),
                log_x=True,
                log_y=True,
            ),
        ),
    )


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


def check_t2(seed: int, *, rate: float = -0.5, noise: float = 1.0, draws: int = 200) -> Outcome:
    """|grad L_N - grad J| / |grad J| falls as N^-1/2, in the root mean square over batches.

    Measured on the `noisiest_world`, for which the N at hand are large.

    Args:
        seed: of the inputs, the encoder and the drawn batches.
        rate: the stated exponent of N.
        noise: the stated limit of N E|grad L_N - grad J|^2, in units of the delta method's.
        draws: batches drawn at each N.
    """
    world = noisiest_world(seed)
    exact = measure_direction(world)
    _, drawn = draw_batches(world, NEGATIVES, exact.gradient, symmetric=False, draws=draws, seed=seed + 1)
    return _gradient_outcome(exact, {"": slice(None)}, rate, noise, drawn, ())


def check_t6(
    seed: int, *, rate: float = -0.5, value_rate: float = -1.0, noise: float = 1.0, draws: int = 150
) -> Outcome:
    """Two modalities: the symmetric loss tends to Jsym in value as 1/N and in both gradients as N^-1/2.

    Args:
        seed: of the inputs, the encoders and the drawn batches.
        rate: the stated exponent of N in the gradients' relative error.
        value_rate: the stated exponent of N in the value's bias.
        noise: the stated limit of N E|grad L_N - grad Jsym|^2, in units of the delta method's.
        draws: batches drawn at each N.
    """
    world = random_world(seed, modalities=2)
    exact = measure_symmetric(world)
    values, drawn = draw_batches(world, NEGATIVES, exact.gradient, symmetric=True, draws=draws, seed=seed + 2)
    more = (
        _exponent("exponent of the value's bias in N", value_rate, exact.bias),
        _agreement("drawn losses over their expectation", exact.losses.tolist(), values),
    )
    size = DIM**2
    parts = {", first encoder": slice(0, size), ", second encoder": slice(size, 2 * size)}
    return _gradient_outcome(exact, parts, rate, noise, drawn, more)


def _gradient_outcome(
    exact: Consistency,
    parts: dict[str, slice],
    rate: float,
    noise: float,
    drawn: Float[Tensor, "m r p"],
    more: tuple[Evidence, ...],
) -> Outcome:
    evidence: list[Evidence] = []
    series: list[Series] = []
    counts = [float(n) for n in NEGATIVES]
    for name, part in parts.items():
        errors = exact.relative_error(part)
        squares = exact.squares[:, part].sum(1)
        scaled = [n * float(s) for n, s in zip(NEGATIVES, squares, strict=True)]
        value, error = _limit_of(scaled)
        stated = float(exact.square_coefficient[part].sum())
        fit = fitted_rate(NEGATIVES[1:], drawn[1:, :, part].sum(2))
        evidence += [
            _exponent(f"exponent of the gradient's error in N{name}", rate, errors),
            Evidence(f"the same, fitted to drawn batches{name}", rate, *fit, source="4 standard errors"),
            Evidence(
                f"N E|error|² over the delta method's{name}",
                noise,
                value / stated,
                error / stated,
                source=_EXTRAPOLATED,
            ),
            _agreement(
                f"drawn squared errors over their expectation{name}", squares.tolist(), drawn[:, :, part].sum(2)
            ),
        ]
        found = (drawn[:, :, part].sum(2).mean(1).sqrt() / exact.gradient[part].norm()).tolist()
        line = (exact.square_coefficient[part].sum().sqrt() / exact.gradient[part].norm()).item()
        series += [
            Series(f"drawn batches{name}", counts, found, line=False),
            Series(f"limit{name}", counts, [line / math.sqrt(n) for n in NEGATIVES]),
        ]
    picture = Picture(
        "The gradient's error falls as N^(−1/2)",
        "negatives N",
        "|∇L_N − ∇J| / |∇J|, root mean square",
        tuple(series),
        log_x=True,
        log_y=True,
    )
    return Outcome((*evidence, *more), (picture,))


CLAIMS = (
    Claim("T1", "InfoNCE with N negatives tends to J + log(N V); its bias falls as 1/N", check_t1),
    Claim("T2", "its gradient tends to that of J; the relative error falls as N^(−1/2)", check_t2),
    Claim("T6", "two modalities: the symmetric loss tends to Jsym, in value and both gradients", check_t6),
)

__all__ = [
    "CLAIMS",
    "Consistency",
    "FiniteWorld",
    "check_t1",
    "check_t2",
    "check_t6",
    "draw_batches",
    "fitted_rate",
    "measure_direction",
    "measure_symmetric",
    "multinomial_counts",
    "random_world",
]
