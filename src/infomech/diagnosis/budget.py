"""The energy budget at the batch one trains with: what a contrastive loss is made of, as a batch sees it (E8, E2)."""

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .._checks import (
    check_choice,
    check_distinct,
    check_loss_temperature,
    check_progress,
    check_temperature,
    check_whole,
)
from .._files import plain
from .._shown import Brief, Fields, Shown, data_frame
from .._typing import DeviceLike, PairsLike, Progress, RowsLike
from .._words import interval_text, number, with_error
from ..geometry import Critic
from ..io.devices import rows_on
from ..measures import PairedSample
from ..reductions import full_precision
from ..reductions.losses.backends import BACKENDS, Backend, check_backend
from .batch_budget import PARTS, BatchStatistics, Interpolation, batch_statistics, windowed_error
from .batch_gradient import BatchGradient, batch_gradients
from .batch_tables import Batches, BatchSweeps, kernel_tables, sweep_all
from .batch_windows import BlockLayout
from .continuation import Continuation, continuations, largest_measured
from .estimate import Estimate
from .measures import records
from .near_duplicates import one_of_each, restricted, tying_pairs
from .resolution import Growth, LimitBudget, growth, limit, resolving_temperature
from .uncertainty import symmetric_interval

Direction = Literal["x_to_y", "y_to_x"]

DEFAULT_BATCH = 1024
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_FEWEST_WITHOUT, _MOST_WITHOUT = 8, 2048  # groups that a budget without near-duplicates is measured on


@dataclass(frozen=True, repr=False)
class BudgetCurve(Shown):
    """Every part against N: powers of two, then all other groups."""

    negatives: list[int]
    parts: dict[str, list[Estimate]]

    def to_dict(self) -> dict[str, Any]:
        """As ``report.json`` has it: N, and the numbers of each part at every N."""
        return {"negatives": list(self.negatives), "parts": plain(self.parts)}

    def to_pandas(self) -> Any:
        """A data frame with a row for each part and N.

        Raises:
            InputError: if pandas is not installed.
        """
        rows = [
            {"part": name, "negatives": n, **estimate.to_dict()}
            for name, along in self.parts.items()
            for n, estimate in zip(self.negatives, along, strict=True)
        ]
        return data_frame(rows, index=["part", "negatives"])

    def _brief(self) -> Brief:
        shown = {name: along for name, along in _CURVES.items() if name in self.parts}
        rows = [
            [f"{n:,}", *(with_error(self.parts[name][at]) for name in shown)] for at, n in enumerate(self.negatives)
        ]
        return Brief("The budget against N, in nats", ["negatives", *shown.values()], rows, "to_dict(), to_pandas()")


_CURVES = {
    "dispersion_x": "dispersion of x",
    "dispersion_y": "dispersion of y",
    "divergence_sym": "divergence",
    "infonce_sym": "InfoNCE",
    "effective_negatives": "effective negatives",
}  # the columns that a curve prints


_PRINTED = (
    "alignment", "dispersion_x", "dispersion_y", "divergence_sym", "energy_sym", "infonce_sym", "remainder",
    "effective_negatives",
)  # the parts that fit on ten lines  # fmt: skip


@dataclass(frozen=True, repr=False)
class WithoutDuplicates(Fields):
    """The budget again with one group of each that near-duplicates tie together."""

    groups: int  # that are left; at most 2,048 of them are measured
    negatives: int  # N of the parts
    parts: dict[str, Estimate]
    with_them: dict[str, Estimate]  # the parts of all groups, at the same N
    growth: Growth
    tied: list[list[int]] | None = None  # further pairs, rows of x and y, with which twins form one group

    def _brief(self) -> Brief:
        shown = [name for name in _PRINTED if name in self.parts]
        rows = [
            [name.replace("_", " "), *(with_error(by[name]) for by in (self.parts, self.with_them))] for name in shown
        ]
        title = f"Without near-duplicates: {self.groups:,} groups, N = {self.negatives:,} negatives, nats"
        return Brief(title, ["part", "without", "with them"], rows, "to_dict(), to_pandas()")

    def to_pandas(self) -> Any:
        """A data frame with a row for each part, without near-duplicates and with them.

        Raises:
            InputError: if pandas is not installed.
        """
        both = (("without", self.parts), ("with them", self.with_them))
        rows = [row for words, parts in both for row in records(parts, duplicates=words)]
        return data_frame(rows, index=["duplicates", "name"])


@dataclass(frozen=True, repr=False)
class Beyond(Fields):
    """A batch larger than the data: an extrapolation, see `Continuation`."""

    negatives: int  # N of the batch that was asked for
    measured: int  # the largest N that is measured
    parts: dict[str, Continuation]

    def _brief(self) -> Brief:
        shown = [name for name in _PRINTED if name in self.parts]
        rows = [
            [name.replace("_", " "), number(part.low), number(part.high), with_error(part.per_doubling)]
            for name in shown
            for part in [self.parts[name]]
        ]
        title = f"N = {self.negatives:,} negatives, extrapolated from {self.measured:,} that are measured, nats"
        return Brief(title, ["part", "at least", "at most", "a doubling moves it by"], rows, "to_dict(), to_pandas()")

    def to_pandas(self) -> Any:
        """A data frame with a row for each part: the bracket, and what the last doubling moved it by.

        Raises:
            InputError: if pandas is not installed.
        """
        rows = [
            {"name": name, "low": part.low, "high": part.high, "per_doubling": part.per_doubling.value}
            for name, part in self.parts.items()
        ]
        return data_frame(rows, index="name")


@dataclass(frozen=True, repr=False)
class Contributions(Fields):
    """What a paired comparison of two models needs: the parts of each pair and row at N, and the block replicates.

    Two results may be paired where their digests are equal: the same pairs, dealt to the same blocks.
    """

    pairs: NDArray[np.int64]  # (p, 2) rows of the given x and y
    lent: NDArray[np.int64]  # (g,) which of the pairs each group lends as negative
    blocks: NDArray[np.int64]  # (p,) block of each pair; the number of blocks for those in none
    weights: NDArray[np.float64]  # (p,) of each pair as an anchor; they sum to 1
    by_pair: dict[str, NDArray[np.float64]]  # (p,) alignment, infonce_xy, infonce_yx: averages over random batches
    rows_x: NDArray[np.int64]  # (n,) rows of the given x that pairs name, in the order of `by_row`
    rows_y: NDArray[np.int64]  # (m,)
    by_row: dict[str, NDArray[np.float64]]  # "effective_negatives_xy", "log_kernel_mean_xx", ...; (n,) or (m,) at N
    replicates: dict[str, NDArray[np.float64]]  # part -> (b,) at N without each block
    interactions: dict[str, NDArray[np.float64]]  # part -> (q,) at N, what each pair of blocks adds; {} if not known
    curve: dict[str, NDArray[np.float64]]  # part -> (k,) at each N of the curve
    curve_replicates: dict[str, NDArray[np.float64]]  # part -> (b, k)
    negatives: int  # N
    groups: int
    block_groups: int  # groups in a block

    @property
    def digest(self) -> str:
        """Of pairs, blocks and what is lent: two results with the same one may be paired."""
        sha = hashlib.sha256()
        for array in (self.pairs, self.blocks, self.lent):
            sha.update(str(array.shape).encode() + np.ascontiguousarray(array, dtype="<i8").tobytes())
        return sha.hexdigest()

    def estimate(
        self, value: float, replicates: NDArray[np.float64], interactions: NDArray[np.float64] | None = None
    ) -> Estimate:
        """A value with these replicates and interactions, and its interval: of a difference of two models, say.

        Without interactions the error is the plain jackknife's, up to 1.4 times too large; see `windowed_error`.
        """
        between = None if interactions is None else torch.from_numpy(interactions)
        without, m = torch.from_numpy(replicates), self.block_groups
        return symmetric_interval(value, *windowed_error(without, between, groups=self.groups, block_groups=m))

    def stderr(self, replicates: NDArray[np.float64], interactions: NDArray[np.float64] | None = None) -> float:
        """The error alone."""
        return self.estimate(0.0, replicates, interactions).stderr


@dataclass(frozen=True, repr=False)
class EnergyBudget(Shown):
    """The parts of a symmetric InfoNCE at one temperature and N negatives, in nats, each with its uncertainty.

    Every part is its expectation over random batches: N other groups, one pair from each. Two identities hold, to
    rounding, at every N:

        energy_sym  = alignment - (dispersion_x + dispersion_y) / 2 - divergence_sym
        infonce_sym = energy_sym + log_partition + remainder

    and log_partition = log_negatives + log_kernel_volume. The dispersions relative to the uniform law (0 is uniform)
    come with log_kernel_mean = log_kernel_volume - log_manifold_volume, so that
    infonce_sym = alignment - (dispersion_x_relative + dispersion_y_relative)/2 - divergence_sym + log_negatives
    + log_kernel_mean + remainder: the form of the waterfall, in which no term is large only because d is.

    Dispersions fall with N: where ``limit`` is None they are upper bounds of the limit's, and divergences bound
    nothing. ``print(budget)`` shows a table.
    """

    temperature: float
    batch_size: int  # as asked for, or the default
    negatives: int  # N of all parts: the batch less one, or all other groups where there are fewer
    groups: int
    alignment: Estimate
    dispersion_x: Estimate
    dispersion_y: Estimate
    dispersion_x_relative: Estimate
    dispersion_y_relative: Estimate
    divergence_xy: Estimate
    divergence_yx: Estimate
    divergence_sym: Estimate
    energy_sym: Estimate
    infonce_sym: Estimate
    infonce_xy: Estimate
    infonce_yx: Estimate
    log_partition: Estimate
    log_negatives: Estimate
    remainder: Estimate
    log_kernel_volume: float
    log_manifold_volume: float
    effective_negatives_xy: Estimate  # mean over anchors and batches of (sum k)^2 / sum k^2
    effective_negatives_yx: Estimate
    effective_negatives: Estimate  # their mean
    effective_negatives_quantiles: dict[Direction, dict[str, float]]  # over anchors, each averaged over batches
    above_largest: Estimate  # InfoNCE - log N less the same with all other groups: log(n / N) less the loss's own rise
    off_the_limit: Estimate | None  # InfoNCE - log(N V) less the limit's energy, where there is a limit
    curve: BudgetCurve
    growth: Growth  # of the four log kernel means over the last doubling
    resolved: bool  # whether none moved by more than 0.05 nats
    limit: LimitBudget | None  # the limit's budget, if resolved
    resolves_from: float | None  # the temperature from which the limit is resolved; None if not found
    gradient: BatchGradient  # of a batch of N against all other groups
    without_duplicates: WithoutDuplicates | None  # where there are any
    beyond: Beyond | None  # where the batch is larger than the data
    contributions: Contributions | None = field(repr=False, compare=False)  # None if read without arrays

    @property
    def log_kernel_mean(self) -> float:
        """log(V / vol Z): the log of the kernel's mean under the uniform law, in nats."""
        return self.log_kernel_volume - self.log_manifold_volume

    def to_dict(self) -> dict[str, Any]:
        """Everything but the contributions of pairs, as ``report.json`` has it."""
        kept = [name for field in fields(self) if (name := field.name) != "contributions"]
        return {name: plain(getattr(self, name)) for name in kept} | {"log_kernel_mean": plain(self.log_kernel_mean)}

    def to_pandas(self) -> Any:
        """A data frame with a row for each part.

        Raises:
            InputError: if pandas is not installed.
        """
        return data_frame(records({name: getattr(self, name) for name in PARTS}), index="name")

    def _brief(self) -> Brief:
        most = "" if self.limit is not None else ", at most"
        parts = {
            "alignment": self.alignment,
            f"dispersion of x, relative{most}": self.dispersion_x_relative,
            f"dispersion of y, relative{most}": self.dispersion_y_relative,
            "divergence": self.divergence_sym,
            "remainder": self.remainder,
            "InfoNCE": self.infonce_sym,
            "effective negatives": self.effective_negatives,
            "gradient error": self.gradient.error,
        }
        rows = [[name, with_error(estimate), interval_text(estimate)] for name, estimate in parts.items()]
        batch = f"Batch of {self.batch_size:,}: N = {self.negatives:,} negatives, τ = {self.temperature:g}, nats"
        return Brief(f"{batch}; {self._limit_text()}", ["part", "estimate", "95% interval"], rows)

    def _limit_text(self) -> str:
        if self.limit is not None:
            return f"limit of large batches: energy {with_error(self.limit.energy_sym)}"
        found = "" if self.resolves_from is None else f", from τ = {self.resolves_from:.2g} on"
        return f"no limit{found} (the last doubling: {self.growth.largest:.2g})"


@full_precision()
def decompose(
    x: RowsLike,
    y: RowsLike,
    *,
    temperature: float,
    batch_size: int | None = None,
    pairs: PairsLike | None = None,
    critic: Critic | None = None,
    normalize: bool | None = None,
    device: DeviceLike = None,
    backend: Backend = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> EnergyBudget:
    """Energy budget of the symmetric InfoNCE of paired embeddings, at a batch of B (E8): N = B - 1 negatives.

    With g_ab(N) = E log (1/N) sum over a random batch of exp(a.b_j / tau), N other groups with one pair from each:

        alignment      A       = -mean s(x, y) / tau
        dispersion     H_X(N)  = log V - g_xx(N)
        divergence     D_XY(N) = g_xx(N) - g_xy(N),  Dsym = (D_XY + D_YX) / 2
        energy         Jsym(N) = A - (H_X + H_Y) / 2 - Dsym
        remainder              = InfoNCE(N) - Jsym(N) - log(N V)

    Each is measured, not extrapolated: an average over windows of blocks of a random order of the groups. The law of
    an anchor is a uniform group, then a uniform pair in it; each group lends one drawn pair as negative.

    Uncertainty: delete-a-block jackknife, the windows formed again among the blocks that are left; t intervals.

    The limit of large batches is given only where the last doubling of N that the data hold moved none of the four g
    by more than 0.05 nats; even then neighbours rarer than about 1/n stay invisible to it.

    Args:
        x: (n, d) embeddings of the first modality, in any container that `infomech.io.as_rows` takes.
        y: (m, d) embeddings of the second.
        temperature: tau > 0 of the loss.
        batch_size: B of the training; by default 1,024, or the largest power of two up to a quarter of the groups
            where that is less. Larger than the data: the fields are at all other groups, and ``beyond`` extrapolates.
        pairs: (p, 2) rows of x and y that belong together; row i with row i by default.
        critic: s(x, y) in place of x.y. `infomech.RBF(scale)` takes rows of any norm as they are, unless
            ``normalize=True``: the kernel's volume is then that of R^d, (pi tau / scale)^{d/2}, and the dispersions
            relative to the uniform law, which R^d does not have, are NaN.
        normalize: see `PairedSample.from_embeddings`.
        device: where the work is done: "cpu", "cuda", "cuda:1"; "auto" is a CUDA card if there is one with memory
            enough; None is where the rows of x are.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the random order of the groups and of the pair that each lends.
        progress: called with shares of the work that sum to 1.

    Returns:
        The budget, in nats.

    Raises:
        InputError: for arrays, pairs, temperatures, batches, a device or a backend that cannot be used.

    Source: E8, E2; D3 to D7; Theorem 4.1 of the paper.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(500, 16, generator=g)
    >>> b = decompose(x, x + 0.5 * torch.randn(500, 16, generator=g), temperature=0.5, batch_size=64, normalize=True)
    >>> b.negatives
    63
    >>> parts = b.alignment.value - (b.dispersion_x.value + b.dispersion_y.value) / 2 - b.divergence_sym.value
    >>> abs(parts - b.energy_sym.value) < 1e-9
    True
    """
    (check_loss_temperature if critic is None else check_temperature)(temperature)
    check_batch_size(batch_size)
    check_choice(backend, "backend", BACKENDS)
    check_progress(progress)
    x, y = rows_on(device, x, y)
    check_backend(backend, x)
    check_distinct(x, y)
    sample = PairedSample.from_embeddings(
        x, y, pairs=pairs, normalize=normalize, seed=seed, critic=critic, any_norm=True
    )
    batches = Batches.of(sample, seed=seed, backend=backend)
    sweeps = BatchSweeps.of(batches, [temperature], duplicates=True)
    sweep_all(sweeps, progress=progress)
    return energy_budget(sweeps, batch_size=batch_size, seed=seed)


def check_batch_size(batch_size: int | None) -> None:
    """Raise InputError unless a batch has at least one negative."""
    if batch_size is not None:
        check_whole(batch_size, "batch_size", least=2)


def default_batch(groups: int) -> int:
    """1,024, or the largest power of two up to a quarter of the groups where that is less; at least 2.

    >>> default_batch(1500)
    256
    """
    return max(2, min(DEFAULT_BATCH, 2 ** ((groups // 4).bit_length() - 1) if groups >= 4 else 2))


def chosen_batch(batch_size: int | None, groups: int) -> int:
    """The batch that was asked for, if it can be one; the default of so many groups where none was."""
    check_batch_size(batch_size)
    return default_batch(groups) if batch_size is None else batch_size


def energy_budget(sweeps: BatchSweeps, *, batch_size: int | None = None, seed: int = 0) -> EnergyBudget:
    """The budget from sums that have been swept, at the first of their temperatures; see `decompose`.

    Source: E8, E2.
    """
    batches, statistics = sweeps.batches, batch_statistics(sweeps.tables()[0])
    sample, tau = batches.sample, statistics.temperature
    batch = chosen_batch(batch_size, sample.groups)
    negatives = min(batch, sample.groups) - 1
    at = statistics.at(negatives)
    found = growth(statistics)
    at_limit = limit(statistics)
    beyond = None
    if batch > sample.groups:
        beyond = Beyond(batch - 1, largest_measured(statistics), continuations(statistics, batch - 1))
    (gradient,) = batch_gradients(batches, temperature=tau, negatives=[negatives], seed=seed)
    return EnergyBudget(
        temperature=tau,
        batch_size=batch,
        negatives=negatives,
        groups=sample.groups,
        **{name: at.estimate(name) for name in PARTS},
        log_kernel_volume=statistics.log_volume,
        log_manifold_volume=sample.space.log_volume,
        effective_negatives_quantiles=_quantiles(at, batches),
        above_largest=above_largest(statistics, at),
        off_the_limit=None if at_limit is None else _off_the_limit(statistics, at, at_limit.energy_sym.value),
        curve=_curve(statistics),
        growth=found,
        resolved=found.resolved,
        limit=at_limit,
        resolves_from=tau if found.resolved else resolving_temperature(batches, temperature=tau, seed=seed),
        gradient=gradient,
        without_duplicates=_without_duplicates(statistics, sweeps, negatives=negatives, seed=seed),
        beyond=beyond,
        contributions=_contributions(statistics, at, batches),
    )


def _without_duplicates(
    statistics: BatchStatistics, sweeps: BatchSweeps, *, negatives: int, seed: int
) -> WithoutDuplicates | None:
    """The parts again without near-duplicates, where there are any; one sweep more, of at most 2,048 groups."""
    kept = one_of_each(sweeps.batches.sample.groups, sweeps.duplicates)
    left = int(kept.sum())
    if left == len(kept) or left < _FEWEST_WITHOUT:
        return None
    kept &= kept.cumsum(0) <= _MOST_WITHOUT  # groups stand in random order: the first are as good as any
    again = Batches.of(restricted(sweeps.batches.sample, kept, seed=seed), seed=seed, backend=sweeps.batches.backend)
    found = batch_statistics(kernel_tables(again, [statistics.temperature])[0])
    common = min(negatives, again.sample.groups - 1)
    here, before = found.at(common), statistics.at(common)
    parts, with_them = ({name: at.estimate(name) for name in PARTS} for at in (here, before))
    tied = tying_pairs(sweeps.batches.sample, sweeps.duplicates)
    return WithoutDuplicates(left, common, parts, with_them, growth(found), tied)


def above_largest(statistics: BatchStatistics, at: Interpolation) -> Estimate:
    """InfoNCE - log N, less the same with all other groups; the jackknife of the difference."""
    every = statistics.at(statistics.layout.groups - 1)
    if at.negatives == every.negatives:
        return Estimate.exact(0.0)
    value = [p.value("infonce_sym") - p.value("log_negatives") for p in (at, every)]
    without = [p.replicates("infonce_sym") - p.replicates("log_negatives") for p in (at, every)]
    between = [p.interactions("infonce_sym") for p in (at, every)]
    return statistics.estimate(value[0] - value[1], without[0] - without[1], between[0] - between[1])


def _off_the_limit(statistics: BatchStatistics, at: Interpolation, energy: float) -> Estimate:
    """InfoNCE at N less log(N V) less the energy of the limit; the jackknife of the difference."""
    row = statistics.row("energy_sym")
    without, between = statistics.replicates[:, row, -1], statistics.interactions[:, row, -1]
    value = at.value("infonce_sym") - at.value("log_partition") - energy
    return statistics.estimate(value, at.replicates("infonce_sym") - without, at.interactions("infonce_sym") - between)


def shown_negatives(layout: BlockLayout) -> list[int]:
    """The N of the curve."""
    return [n for n in layout.negatives[:-1] if n & (n - 1) == 0] + [layout.negatives[-1]]


def _curve(statistics: BatchStatistics) -> BudgetCurve:
    shown = shown_negatives(statistics.layout)
    points = [statistics.at(n) for n in shown]
    return BudgetCurve(shown, {name: [p.estimate(name) for p in points] for name in PARTS})


def _quantiles(at: Interpolation, batches: Batches) -> dict[Direction, dict[str, float]]:
    found: dict[Direction, dict[str, float]] = {}
    sides: tuple[tuple[Direction, str, int], ...] = (("x_to_y", "xy", 0), ("y_to_x", "yx", 1))
    for direction, side, column in sides:
        values, order = at.by_row(f"effective_negatives_{side}").sort()
        share = batches.row_weights(column).cpu()[order].cumsum(0)
        places = [int(torch.searchsorted(share, q * float(share[-1]))) for q in QUANTILES]
        found[direction] = {
            str(q): float(values[min(k, len(values) - 1)]) for q, k in zip(QUANTILES, places, strict=True)
        }
    return found


def _contributions(statistics: BatchStatistics, at: Interpolation, batches: Batches) -> Contributions:
    sample, layout = batches.sample, batches.layout
    pairs = torch.stack([sample.order_x[sample.pairs[:, 0]], sample.order_y[sample.pairs[:, 1]]], 1)
    random = [name for name in PARTS if name not in ("log_partition", "log_negatives")]
    points = [statistics.at(n) for n in shown_negatives(layout)]
    return Contributions(
        pairs=pairs.cpu().numpy(),
        lent=batches.lent.cpu().numpy(),
        blocks=layout.block_of(sample.pair_groups).cpu().numpy(),
        weights=batches.pair_weights.cpu().numpy(),
        by_pair={"alignment": (-sample.pair_scores / statistics.temperature).cpu().numpy()}
        | {name: at.by_pair(name).cpu().numpy() for name in statistics.by_pair},
        rows_x=sample.order_x.cpu().numpy(),
        rows_y=sample.order_y.cpu().numpy(),
        by_row={name: at.by_row(name).cpu().numpy() for name in statistics.by_row},
        replicates={name: at.replicates(name).cpu().numpy() for name in random},
        interactions={name: at.interactions(name).cpu().numpy() for name in random if name != "alignment"},
        curve={name: np.array([p.value(name) for p in points]) for name in random},
        curve_replicates={name: torch.stack([p.replicates(name) for p in points], 1).cpu().numpy() for name in random},
        negatives=int(at.negatives),
        groups=sample.groups,
        block_groups=layout.size,
    )


__all__ = [
    "Beyond",
    "BudgetCurve",
    "Contributions",
    "Direction",
    "EnergyBudget",
    "WithoutDuplicates",
    "above_largest",
    "check_batch_size",
    "chosen_batch",
    "decompose",
    "default_batch",
    "energy_budget",
    "shown_negatives",
]
