"""What a batch sees over temperature and N: the budget, its gradient and its effective negatives (E8)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .._checks import InputError, check_temperature
from .._shown import Fields
from .._typing import Progress
from ..measures import PairedSample
from ..reductions.losses.backends import Backend
from .batch_budget import BatchStatistics, batch_statistics
from .batch_gradient import batch_gradients
from .batch_tables import Batches, BatchSweeps, sweep_all
from .budget import EnergyBudget, above_largest, shown_negatives
from .estimate import Estimate
from .near_duplicates import restricted
from .resolution import growth

TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
CURVED = (
    "alignment",
    "dispersion_x_relative",
    "dispersion_y_relative",
    "divergence_sym",
    "infonce_sym",
    "effective_negatives",
)
_GROUPS = 2048  # every temperature sweeps the data again: a random part of the groups is enough for a curve
_SWEEPS = 30  # as long as so many sweeps of the same groups: measured with 600
_FEWEST = 8


@dataclass(frozen=True, repr=False)
class Curves(Fields):
    """Parts of the budget at a batch of N negatives, over temperature and N; rows are temperatures, columns are N.

    N stops at the data: at all other groups of those that are looked at. ``budget.curve`` is the same at the model's
    own temperature, of all groups.
    """

    temperatures: list[float]
    negatives: list[int]  # powers of four, that of the report's batch, and all other groups
    groups: int  # looked at
    parts: dict[str, list[list[Estimate]]]  # keys of CURVED
    above_largest: list[list[Estimate]]  # InfoNCE - log N less the same with all other groups
    gradient_error: list[list[Estimate]]  # of a batch's gradient at the embeddings against that of all other groups
    gradient_cosine: list[list[Estimate]]
    growth: list[float]  # largest movement of a log kernel mean over the last doubling
    resolved: list[bool]  # whether that is at most 0.05 nats


def batch_curves(
    sample: PairedSample,
    budget: EnergyBudget,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> Curves:
    """Budget, effective negatives and gradient of random batches over temperature and N, each measured.

    All of it is that of `decompose` on at most 2,048 groups at random, one sweep for each temperature.

    Args:
        sample: the paired embeddings.
        budget: at the model's own temperature and batch, which are put among the others.
        temperatures: the grid.
        seed: of the random batches.
        backend: of the kernel sums; see `decompose`.
        progress: called with shares of the work that sum to 1.

    Raises:
        InputError: for temperatures that cannot be used, or fewer than 8 groups.

    Source: E8, E2; T2, T6.
    """
    for value in temperatures:
        check_temperature(value)
    if sample.groups < _FEWEST:
        raise InputError(f"there are {sample.groups} groups; curves over the batch need at least {_FEWEST}")
    if sample.groups > _GROUPS:
        sample = restricted(sample, torch.arange(sample.groups) < _GROUPS, seed=seed)
    # small tables: the smallest batches are averaged over fewer parts
    batches = Batches.of(sample, seed=seed, parts=2, backend=backend)
    taus = sorted({*(float(t) for t in temperatures), budget.temperature})
    sizes = sorted({*shown_negatives(batches.layout)[::2], min(budget.negatives, sample.groups - 1), sample.groups - 1})
    found = Curves(taus, sizes, sample.groups, {name: [] for name in CURVED}, [], [], [], [], [])
    for tau in taus:
        sweeps = BatchSweeps.of(batches, [tau])
        sweep_all(sweeps)
        _add(found, batch_statistics(sweeps.tables()[0]))
        gradients = batch_gradients(batches, temperature=tau, negatives=sizes, seed=seed)
        found.gradient_error.append([g.error for g in gradients])
        found.gradient_cosine.append([g.cosine for g in gradients])
        if progress is not None:
            progress(1 / len(taus))
    return found


def share_of_time(groups: int) -> float:
    """About what share of a diagnosis the curves take, for a progress bar: nearly all, but for many groups."""
    own = _SWEEPS * min(groups, _GROUPS) ** 2
    return own / (own + groups**2)


def _add(curves: Curves, statistics: BatchStatistics) -> None:
    """One temperature's rows."""
    points = [statistics.at(n) for n in curves.negatives]
    for name, rows in curves.parts.items():
        rows.append([p.estimate(name) for p in points])
    curves.above_largest.append([above_largest(statistics, p) for p in points])
    moved = growth(statistics)
    curves.growth.append(moved.largest)
    curves.resolved.append(moved.resolved)


__all__ = ["CURVED", "TEMPERATURES", "Curves", "batch_curves", "share_of_time"]
