"""At what batch does a model's softmax see the population? Budget, effective negatives and consistency over tau, N."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError, check_temperature
from .._typing import Progress
from ..measures import PairedSample
from ..reductions import GroupedRows
from .energy_limit import corrected_budget
from .estimate import Estimate
from .gram_statistics import run_sweeps
from .uncertainty import block_jackknife, symmetric_interval

TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
BATCH_SIZES = tuple(2**k for k in range(3, 15))
SEEN_AT = 0.1  # relative error of the gradient at which a batch is said to see the population
BUDGET_PARTS = ("alignment", "dispersion_x_relative", "dispersion_y_relative", "divergence_sym", "infonce_sym")
_BLOCKS, _ANCHORS = 16, 32  # sixteen batches of 32 anchors each, in both directions
_BUDGET_GROUPS = 1500  # the budget is swept at every temperature: a random part of the groups is enough for a curve


@dataclass(frozen=True)
class Curves:
    """Curves over temperature and batch size; rows of the tables are temperatures, columns are batch sizes.

    ``value_bias`` is E L_N - (J + log(N V)) in nats, ``gradient_error`` the relative error of the gradient of L_N and
    ``gradient_cosine`` its cosine with that of J, both at the anchors' embeddings, tangent to the sphere.
    ``effective_negatives`` is the mean over batches of the median anchor's. ``seen_at`` is, for each temperature, the
    N at which the gradient's relative error falls to 10%, interpolated; infinity where it lies above the largest N.
    """

    temperatures: list[float]
    batch_sizes: list[int]
    budget: dict[str, list[Estimate]]
    resolved: list[bool]  # whether the data support the smoothed densities at that temperature
    effective_negatives: list[list[Estimate]]
    value_bias: list[list[Estimate]]
    gradient_error: list[list[Estimate]]
    gradient_cosine: list[list[Estimate]]
    seen_at: list[float]
    anchors: int
    population: int  # pairs that stand for the population


def population_curves(
    sample: PairedSample,
    *,
    temperature: float,
    temperatures: Sequence[float] = TEMPERATURES,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curves:
    """Budget over tau, and the consistency of InfoNCE with its large-batch limit over tau and N, on these embeddings.

    A part of the groups gives anchors; the pairs of all other groups are the population q. An anchor x with partner y
    meets N independent draws from q, with replacement, as in D7:

        L_N = -s(x, y)/tau + log(exp(s(x, y)/tau) + sum_i exp(s(x, w_i)/tau)),   J + log(N V) = its limit in N.

    So the population is known exactly, N may exceed it, and no draw is the anchor's own partner. The gradient is that
    with respect to the anchor's embedding, projected on the sphere's tangent space: minus the partner plus the mean of
    the negatives under the softmax, over tau. Both directions are averaged. Its relative error is
    sqrt(E |grad L_N - grad J|^2 / E |grad J|^2), which falls as N^(-1/2) (T2); the value's bias falls as 1/N (T1).

    Sixteen batches of up to 32 anchors meet draws of their own; intervals are the jackknife's over batches, for the
    population held. The budget is that of `decompose` on at most 1,500 groups at random.

    Args:
        sample: the paired embeddings.
        temperature: the model's own; put among the others.
        temperatures: the grid.
        batch_sizes: the grid of N.
        seed: of the draws.
        progress: called with shares of the work that sum to 1.

    Returns:
        The curves.

    Raises:
        InputError: for temperatures or batch sizes that cannot be used, or fewer than 32 groups.

    Source: T1, T2, T6; D6, D7; E1, E2.
    """
    check_temperature(temperature)
    for value in temperatures:
        check_temperature(value)
    if min(batch_sizes, default=0) < 1:
        raise InputError(f"batch_sizes is {list(batch_sizes)}; each must be at least 1")
    if sample.groups < 2 * _BLOCKS:
        raise InputError(f"there are {sample.groups} groups; curves over the batch size need at least {2 * _BLOCKS}")
    taus = sorted({*(float(t) for t in temperatures), float(temperature)})
    sizes = sorted({int(n) for n in batch_sizes})
    tables = _consistency(sample, taus, sizes, seed, None if progress is None else lambda s: progress(s / 2))
    budget, resolved = _budgets(sample, taus, None if progress is None else lambda s: progress(s / 2))
    return Curves(
        temperatures=taus,
        batch_sizes=sizes,
        budget=budget,
        resolved=resolved,
        effective_negatives=tables["effective_negatives"],
        value_bias=tables["value_bias"],
        gradient_error=tables["gradient_error"],
        gradient_cosine=tables["gradient_cosine"],
        seen_at=[_seen_at(sizes, [e.value for e in row]) for row in tables["gradient_error"]],
        anchors=_anchor_groups(sample),
        population=int((sample.pair_groups >= _anchor_groups(sample)).sum()),
    )


def _anchor_groups(sample: PairedSample) -> int:
    """Groups (the first ones: they stand in random order) that give an anchor each; a quarter of all at most."""
    each = min(_ANCHORS, max(1, sample.groups // (4 * _BLOCKS)))
    return each * _BLOCKS


def _seen_at(sizes: Sequence[int], errors: Sequence[float]) -> float:
    """The N at which a falling curve crosses SEEN_AT, on logarithmic axes."""
    if errors[0] <= SEEN_AT:
        return float(sizes[0])
    for k in range(1, len(sizes)):
        if errors[k] <= SEEN_AT:
            share = math.log(errors[k - 1] / SEEN_AT) / math.log(errors[k - 1] / errors[k])
            return float(sizes[k - 1] * (sizes[k] / sizes[k - 1]) ** share)
    return math.inf


def _consistency(
    sample: PairedSample, taus: Sequence[float], sizes: Sequence[int], seed: int, progress: Progress | None
) -> dict[str, list[list[Estimate]]]:
    """The four tables: moments by (temperature, size, batch), then ratios with the jackknife over batches."""
    count = _anchor_groups(sample)
    anchor_pairs = _one_pair_each(sample, count)
    pool = sample.pairs[sample.pair_groups >= count]
    shape = (len(taus), len(sizes), _BLOCKS)
    moments = {name: torch.zeros(shape, dtype=torch.float64) for name in ("bias", "gap", "own", "sq", "dot", "seen")}
    generator = torch.Generator().manual_seed(seed)
    for anchors, others, column in ((sample.x, sample.y, 0), (sample.y, sample.x, 1)):
        for block, pairs in enumerate(anchor_pairs.chunk(_BLOCKS)):
            task = _Batch.of(anchors, others, pairs if column == 0 else pairs.flip(1), pool[:, 1 - column])
            _one_batch(task, taus, sizes, generator, {name: m[:, :, block] for name, m in moments.items()})
            if progress is not None:
                progress(1 / (2 * _BLOCKS))
    values: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
        "effective_negatives": lambda m: m["seen"] / 2,
        "value_bias": lambda m: m["bias"] / 2,
        "gradient_error": lambda m: (m["gap"] / m["sq"]).sqrt(),
        "gradient_cosine": lambda m: m["dot"] / (m["sq"] * m["own"]).sqrt(),
    }
    groups = torch.ones(_BLOCKS, dtype=torch.float64)
    out: dict[str, list[list[Estimate]]] = {}
    for name, function in values.items():
        full = function({k: m.mean(2) for k, m in moments.items()})
        without = [
            function({k: (m.sum(2) - m[:, :, b]) / (_BLOCKS - 1) for k, m in moments.items()}) for b in range(_BLOCKS)
        ]
        replicates = torch.stack(without).flatten(1)
        _, stderr = block_jackknife(full.flatten(), replicates, groups)
        found = [
            symmetric_interval(v, s, _BLOCKS - 1) for v, s in zip(full.flatten().tolist(), stderr.tolist(), strict=True)
        ]
        out[name] = [found[t * len(sizes) : (t + 1) * len(sizes)] for t in range(len(taus))]
    return out


def _one_pair_each(sample: PairedSample, count: int) -> Int[Tensor, "g 2"]:
    """The first pair of each of the first groups."""
    groups = sample.pair_groups
    first = torch.searchsorted(groups.contiguous(), torch.arange(count, device=groups.device))
    return sample.pairs[first]


@dataclass(frozen=True)
class _Batch:
    """Anchors with their partners, and the population of the other modality."""

    anchors: Tensor  # (a, d)
    partners: Tensor
    population: Tensor  # (p, d), a row for each pair

    @classmethod
    def of(cls, rows: GroupedRows, others: GroupedRows, pairs: Tensor, pool: Tensor) -> "_Batch":
        return cls(rows.values[pairs[:, 0]], others.values[pairs[:, 1]], others.values[pool])

    @property
    def scores(self) -> Tensor:
        return (self.anchors * self.partners).sum(1)


def _one_batch(
    task: _Batch, taus: Sequence[float], sizes: Sequence[int], generator: torch.Generator, into: dict[str, Tensor]
) -> None:
    """Add one batch of anchors to the moments, (temperatures, sizes) each."""
    device = task.population.device
    every = task.anchors @ task.population.T
    limits = [_softmax_mean(every, task.population, tau) for tau in taus]
    draw = torch.randint(len(task.population), (max(sizes),), generator=generator).to(device)
    for k, size in enumerate(sizes):
        # A smaller batch is the start of a larger one: the curves over N are smooth, their points not independent.
        scores, rows = every[:, draw[:size]], task.population[draw[:size]]
        for t, tau in enumerate(taus):
            log_mean, mean, seen = _softmax_mean(scores, rows, tau)
            own = task.scores.double() / tau - math.log(size)  # the positive's share of the denominator
            total = torch.logaddexp(log_mean, own)
            share = (own - total).exp()[:, None].to(mean)
            found = _tangent((1 - share) * mean + share * task.partners - task.partners, task.anchors)
            truth = _tangent(limits[t][1] - task.partners, task.anchors)
            into["bias"][t, k] += (total - limits[t][0]).mean().cpu()
            into["gap"][t, k] += (found - truth).double().square().sum(1).mean().cpu()
            into["own"][t, k] += found.double().square().sum(1).mean().cpu()
            into["sq"][t, k] += truth.double().square().sum(1).mean().cpu()
            into["dot"][t, k] += (found * truth).double().sum(1).mean().cpu()
            into["seen"][t, k] += seen.median().double().cpu()


def _softmax_mean(
    scores: Float[Tensor, "a n"], rows: Float[Tensor, "n d"], tau: float
) -> tuple[Float[Tensor, " a"], Float[Tensor, "a d"], Float[Tensor, " a"]]:
    """Log of the mean kernel, mean of the rows under the softmax, and the effective number of rows."""
    top = scores.amax(1, keepdim=True)
    kernel = ((scores - top) / tau).exp()
    total = kernel.sum(1)
    log_mean = total.double().log() + top[:, 0].double() / tau - math.log(scores.shape[1])
    return log_mean, kernel @ rows / total[:, None], total.square() / kernel.square().sum(1)


def _tangent(vectors: Float[Tensor, "a d"], at: Float[Tensor, "a d"]) -> Float[Tensor, "a d"]:
    return vectors - (vectors * at).sum(1, keepdim=True) * at


def _budgets(
    sample: PairedSample, taus: Sequence[float], progress: Progress | None
) -> tuple[dict[str, list[Estimate]], list[bool]]:
    """The energy budget at each temperature, of a random part of the groups where there are many."""
    part = sample
    if sample.groups > _BUDGET_GROUPS:
        kept = sample.pairs[sample.pair_groups < _BUDGET_GROUPS]
        pairs = torch.stack([sample.order_x[kept[:, 0]], sample.order_y[kept[:, 1]]], 1)
        part = PairedSample.from_embeddings(sample.given_x, sample.given_y, pairs=pairs)
    parts: dict[str, list[Estimate]] = {name: [] for name in BUDGET_PARTS}
    resolved = []
    for tau in taus:
        shares = None if progress is None else lambda share: progress(share / len(taus))
        kernels = run_sweeps(part, temperature=tau, progress=shares).kernels
        assert kernels is not None
        budget = corrected_budget(part, kernels, temperature=tau)
        resolved.append(budget.resolved)
        for name, estimates in parts.items():
            estimates.append(getattr(budget, name))
    return parts, resolved


__all__ = ["BATCH_SIZES", "SEEN_AT", "TEMPERATURES", "Curves", "population_curves"]
