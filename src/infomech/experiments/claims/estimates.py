"""Checks of what users call: the energy budget of paired embeddings (E1), and the loss's divergence weight (C1).

Both are held against their definitions, written out as dense float64 sums (`written_out`), and the loss against the
limit that the theory speaks of.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...diagnosis import decompose
from ...losses import SymmetricInfoNCE, symmetric_infonce
from .claim import Claim, Evidence, Outcome, Picture, Series
from .finite_world import DIM, ROWS, TEMPERATURE, FiniteWorld, limit_at_zero, random_world
from .written_out import budget_parts, log_cosine_volume, loss_parts, tied_together

_WEIGHTS = (0.0, 0.1, 0.75, 1.0, 1.5)


def captioned(seed: int, images: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Images with one to three captions each, two images with one caption between them, all in a mixed order.

    Returns:
        (n, 5) images, (m, 5) captions of which one is named by no pair, (p, 2) pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.arange(images) % 3 + 1
    owner = torch.arange(images).repeat_interleave(counts)
    x = torch.randn(images, 5, generator=generator, dtype=torch.float64)
    y = x[owner] + 0.5 * torch.randn(len(owner), 5, generator=generator, dtype=torch.float64)
    x[:, 0] += 0.7
    y = torch.cat([y, torch.randn(1, 5, generator=generator, dtype=torch.float64)])
    pairs = torch.stack([owner, torch.arange(len(owner))], 1)
    pairs = torch.cat([pairs, torch.tensor([[1, 0]])])  # the second image shares the caption of the first
    to_x, to_y = torch.randperm(len(x), generator=generator), torch.randperm(len(y), generator=generator)
    pairs = torch.stack([to_x.argsort()[pairs[:, 0]], to_y.argsort()[pairs[:, 1]]], 1)
    return x[to_x], y[to_y], pairs[torch.randperm(len(pairs), generator=generator)]


def lendings(pairs: Tensor) -> Iterator[Tensor]:
    """Every way in which each group can lend one of its pairs: (g,) numbers of pairs."""
    groups = tied_together(pairs)
    members = [torch.nonzero(groups == g).flatten().tolist() for g in groups.unique()]
    return (torch.tensor(choice) for choice in product(*members))


def check_e1(seed: int, *, divergence_sign: float = -1.0, tolerance: float = 1e-9) -> Outcome:
    """The budget's parts, with several captions an image, are those of the definition.

    Args:
        seed: of the embeddings.
        divergence_sign: the stated sign of Dsym in Jsym = A - (H_X + H_Y)/2 -+ Dsym.
        tolerance: the largest difference allowed, in nats.
    """
    furthest: dict[str, float] = {}
    for temperature in (0.1, 0.5):
        x, y, pairs = captioned(seed)
        budget = decompose(x, y, temperature=temperature, batch_size=len(x), pairs=pairs, normalize=True, seed=seed)
        differences = (
            {name: abs(getattr(budget, name).value - value) for name, value in stated.items()}
            for stated in (budget_parts(x, y, pairs, lent, temperature) for lent in lendings(pairs))
        )
        nearest = min(differences, key=lambda of: sum(of.values()))  # which pairs were lent is the seed's affair
        for name, value in nearest.items():
            furthest[name] = max(furthest.get(name, 0.0), value)
        parts = budget.alignment.value - (budget.dispersion_x.value + budget.dispersion_y.value) / 2
        off = budget.energy_sym.value - parts - divergence_sign * budget.divergence_sym.value
        whole = budget.energy_sym.value + budget.log_partition.value + budget.remainder.value
        furthest["identity"] = max(furthest.get("identity", 0.0), abs(off), abs(budget.infonce_sym.value - whole))
    identity = furthest.pop("identity")
    places = [float(k) for k in range(len(furthest))]
    worst = max(furthest, key=lambda name: furthest[name])
    return Outcome(
        (
            Evidence(
                "largest |part of the budget − sums written out|, nats", tolerance, furthest[worst], 0.0, "<=",
                f"{len(furthest)} parts at two temperatures, 1 to 3 captions an image; the furthest is {worst}",
            ),
            Evidence(
                "largest error of Jsym = A − (H_X + H_Y)/2 − Dsym and InfoNCE = Jsym + log(N V) + remainder, nats",
                tolerance, identity, 0.0, "<=", "the same budgets",
            ),
        ),
        (
            Picture(
                "The budget against its definition",
                "part",
                "|difference|, nats",
                (Series("", places, [max(v, 1e-17) for v in furthest.values()], line=False),),
                log_y=True,
            ),
        ),
    )  # fmt: skip


def check_c1(seed: int, *, share: float = 1.0, left: float = 0.25, tolerance: float = 1e-10) -> Outcome:
    """The loss with divergence weight lambda is InfoNCE + lambda Dsym of the batch, and tends to Jsym + lambda Dsym~.

    Args:
        seed: of the batches.
        share: the stated coefficient of lambda Dsym.
        left: the stated share of the reward for a gap that is left at lambda = 3/4.
        tolerance: the largest difference allowed of a value in nats, or of an entry of a gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    value_off, gradient_off, module_off = 0.0, 0.0, 0.0
    groups = torch.randint(0, 9, (24,), generator=generator)
    for weight in _WEIGHTS:
        rows = normalize(torch.randn(2, 24, 5, generator=generator, dtype=torch.float64), dim=-1)
        for of in (None, groups):
            found, stated = (
                _value_and_gradients(rows, weight, of, share if written else None) for written in (False, True)
            )
            value_off = max(value_off, abs(float(found[0] - stated[0])))
            gradient_off = max(gradient_off, *(float((a - b).abs().max()) for a, b in zip(found, stated, strict=True)))
        module = SymmetricInfoNCE(temperature=0.4, divergence_weight=weight)
        x, y = torch.nn.functional.normalize(rows, dim=-1)  # the module warns of rows of other lengths
        infonce, divergence = loss_parts(x, y, 0.4)
        module_off = max(module_off, abs(float(module(x, y) - infonce - share * weight * divergence)))
    world = random_world(seed, modalities=2)
    limits = {weight: _limit(world, weight) for weight in _WEIGHTS}
    stated_limits = {weight: _stated_limit(world, share * weight) for weight in _WEIGHTS}
    worst = max(_WEIGHTS, key=lambda w: abs(limits[w][0] - stated_limits[w]) / limits[w][1])
    reward = stated_limits[1.0] - stated_limits[0.0]  # Dsym~ of the two laws
    taken = ((limits[1.0][0] - limits[0.75][0]), (limits[1.0][1] + limits[0.75][1]))  # by the last quarter, and error
    share_left = (taken[0] / reward, taken[1] / reward) if reward else (math.inf, 0.0)
    return Outcome(
        (
            Evidence("largest |loss − InfoNCE − λ Dsym written out|, nats", tolerance, value_off, 0.0, "<=",
                     f"{len(_WEIGHTS)} weights λ, batches with and without groups"),
            Evidence("largest difference of a gradient: rows, temperature and λ", tolerance, gradient_off, 0.0, "<=",
                     "autograd of both"),
            Evidence("the same for the module, nats", tolerance, module_off, 0.0, "<=", "SymmetricInfoNCE"),
            Evidence(f"limit of loss − log N − log V at λ = {worst:g}, nats, furthest", stated_limits[worst],
                     *limits[worst], source=f"Jsym + λ Dsym~ of known laws; up to {ROWS[-1]:,} rows, extrapolated"),
            Evidence("reward for a gap at λ = 3/4 over that at λ = 0", left, *share_left,
                     source="the same limits"),
        ),
        (
            Picture(
                "Control takes the reward for a gap away in proportion",
                "divergence weight λ",
                "loss − log(N V), nats",
                (
                    Series("library's loss, extrapolated", _WEIGHTS, [limits[w][0] for w in _WEIGHTS], line=False),
                    Series("Jsym + λ Dsym~", _WEIGHTS, [stated_limits[w] for w in _WEIGHTS]),
                ),
            ),
        ),
    )  # fmt: skip


def _value_and_gradients(rows: Tensor, weight: float, groups: Tensor | None, share: float | None) -> list[Tensor]:
    """The controlled loss and its derivatives by rows, temperature and weight: written out with a share, else ours."""
    x, y = (side.clone().requires_grad_() for side in rows)
    tau, lam = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, weight))
    if share is None:
        loss = symmetric_infonce(x, y, temperature=tau, divergence_weight=lam, groups=groups)
    else:
        infonce, divergence = loss_parts(x, y, tau, groups)
        loss = infonce + share * lam * divergence
    gradients = torch.autograd.grad(loss, (x, y, tau, lam), allow_unused=True, materialize_grads=True)
    return [loss.detach(), *gradients]


def _limit(world: FiniteWorld, weight: float) -> tuple[float, float]:
    """The library's loss less log n - log V on samples of exactly the world's law, extrapolated, and the error."""
    z, w = world.embed(*world.encoders)
    values = []
    for rows in ROWS:
        at_x, at_y = world.sample(rows)
        loss = symmetric_infonce(z[at_x], w[at_y], temperature=TEMPERATURE, divergence_weight=weight)
        values.append(float(loss) - math.log(rows) - log_cosine_volume(DIM, TEMPERATURE))
    limit, error = limit_at_zero(values)
    return limit, error + 1e-9  # at lambda = 0 such samples have no error but rounding


def _stated_limit(world: FiniteWorld, weight: float) -> float:
    """Jsym + weight Dsym~, by sums over three values."""
    z, w = world.embed(*world.encoders)
    laws = world.pairs.sum(1), world.pairs.sum(0)
    sides: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]] = ((z, w, *laws), (w, z, *laws[::-1]))
    total = -(world.pairs * (z @ w.mT)).sum() / TEMPERATURE
    for own, other, own_law, other_law in sides:
        within = (own @ own.mT / TEMPERATURE).exp() @ own_law
        across = (own @ other.mT / TEMPERATURE).exp() @ other_law
        total = total + own_law @ ((1 - weight) * across.log() + weight * within.log()) / 2
    return float(total) - log_cosine_volume(DIM, TEMPERATURE)


CLAIMS = (
    Claim("C1", "the divergence weight adds λ Dsym to the loss: at 3/4 a quarter of a gap's reward is left", check_c1),
    Claim("E1", "the energy budget, with several captions an image, is that of its definition", check_e1),
)

__all__ = ["CLAIMS", "captioned", "check_c1", "check_e1"]
