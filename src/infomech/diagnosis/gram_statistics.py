"""The statistics of the three Gram matrices of a diagnosis, each matrix swept once for all that is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._typing import Progress
from ..measures import PairedSample
from ..reductions import (
    TIE,
    Distance,
    Gaussian,
    GroupedRows,
    NearestNeighbours,
    PairFunction,
    PairSums,
    Queries,
    RankCounts,
    Reduction,
    ShiftedDistances,
    cpu_threads,
    side_by_side,
    sweep,
)
from ..reductions.losses.backends import Backend
from .batch_tables import BatchSweeps

NEIGHBOURS = 10
UNIFORMITY_SCALE = 2.0  # t of Wang and Isola
BANDWIDTHS = {"half": 0.5, "median": 1.0, "double": 2.0}
_MEDIAN_ROWS = 2000
_DOUBT = {torch.float32: 4e-6, torch.float64: TIE}  # bound on the error of a tile's cosines


@dataclass(frozen=True)
class GapSweeps:
    """Sums of functions of the distance, and nearest neighbours."""

    xx: PairSums
    yy: PairSums
    xy: PairSums
    centered: ShiftedDistances
    bandwidth: float
    neighbours_xx: NearestNeighbours
    neighbours_yy: NearestNeighbours
    neighbours_xy: NearestNeighbours


@dataclass(frozen=True)
class RankSweeps:
    """Ranks of the true pairs, and of shuffled ones."""

    true: RankCounts
    shuffled: RankCounts
    tied_positives: tuple[Tensor, Tensor]  # positives tied with the best, by row and by column
    shuffled_tied_positives: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sweeps:
    """What was asked for; None for what was not."""

    gap: GapSweeps | None
    ranks: RankSweeps | None


def run_sweeps(
    sample: PairedSample,
    *,
    batch: BatchSweeps | None = None,
    gap: bool = False,
    ranks: bool = False,
    bandwidth: float | None = None,
    seed: int = 0,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> Sweeps:
    """Sweep x with x, y with y and x with y once each.

    Args:
        sample: the paired embeddings.
        batch: gathers the kernel sums of random batches (E8), if given.
        gap: whether distances and neighbours are asked for.
        ranks: whether the ranks of true pairs are asked for.
        bandwidth: of the middle MMD kernel; None takes the median cross distance.
        seed: of the shuffled control and of the subset for the median.
        backend: of the ranks' counts; see `decompose`. The kernel sums have that of their batches.
        progress: called with shares of the work that sum to 1.
    """
    x, y = sample.x, sample.y
    within_x: list[Reduction] = []
    within_y: list[Reduction] = []
    across: list[Reduction] = []
    gap_sweeps: GapSweeps | None
    rank_sweeps: RankSweeps | None
    if batch is not None:
        within_x += batch.within_x
        within_y += batch.within_y
        across += batch.across
    gap_sweeps, rank_sweeps = side_by_side(
        [
            lambda: _gap_sweeps(sample, bandwidth, seed) if gap else None,
            lambda: _rank_sweeps(sample, seed, backend) if ranks else None,
        ],
        threads=cpu_threads(x.values.device),
    )
    if gap_sweeps is not None:
        within_x += [gap_sweeps.xx, gap_sweeps.neighbours_xx]
        within_y += [gap_sweeps.yy, gap_sweeps.neighbours_yy]
        across += [gap_sweeps.xy, gap_sweeps.centered, gap_sweeps.neighbours_xy]
    if rank_sweeps is not None:
        across += [rank_sweeps.true, rank_sweeps.shuffled]
    works = {"xx": len(x) ** 2 / 2, "yy": len(y) ** 2 / 2, "xy": float(len(x) * len(y))}
    total = sum(works.values())
    for key, other, reductions in (("xx", None, within_x), ("yy", None, within_y), ("xy", y, across)):
        rows = y if key == "yy" else x
        sweep(rows, other, reductions, progress=_scaled(progress, works[key] / total))
    return Sweeps(gap_sweeps, rank_sweeps)


def _scaled(progress: Progress | None, factor: float) -> Callable[[float], None] | None:
    return None if progress is None else lambda share: progress(share * factor)


def _gap_sweeps(sample: PairedSample, bandwidth: float | None, seed: int) -> GapSweeps:
    x, y = sample.x, sample.y
    sigma = median_cross_distance(sample, seed=seed) if bandwidth is None else bandwidth
    functions: dict[str, PairFunction] = {"distance": Distance(), "uniformity": Gaussian(UNIFORMITY_SCALE)}
    functions |= {f"mmd2_{name}": Gaussian(0.5 / (factor * sigma) ** 2) for name, factor in BANDWIDTHS.items()}
    return GapSweeps(
        xx=PairSums(x, None, functions=functions),
        yy=PairSums(y, None, functions=functions),
        xy=PairSums(x, y, functions=functions),
        centered=ShiftedDistances(x, y, shift=_centroid_difference(sample)),
        bandwidth=sigma,
        neighbours_xx=NearestNeighbours(x, None, k=NEIGHBOURS),
        neighbours_yy=NearestNeighbours(y, None, k=NEIGHBOURS),
        neighbours_xy=NearestNeighbours(x, y, k=NEIGHBOURS),
    )


def _centroid_difference(sample: PairedSample) -> Tensor:
    """Mean of x less mean of y over the pairs, (d,) float64."""
    means = [sample.group_sums[column].sum(0) / len(sample.pairs) for column in (0, 1)]
    return means[0] - means[1]


def median_cross_distance(sample: PairedSample, *, seed: int = 0) -> float:
    """Median distance of rows of x and y of different groups; from 2,000 random rows of each where there are more."""
    generator = torch.Generator().manual_seed(seed)

    def some(rows: GroupedRows) -> Tensor:
        keep = torch.randperm(len(rows), generator=generator)[:_MEDIAN_ROWS].to(rows.values.device)
        return keep

    at_x, at_y = some(sample.x), some(sample.y)
    cosine = sample.x.values[at_x] @ sample.y.values[at_y].T
    other = sample.x.groups[at_x][:, None] != sample.y.groups[at_y][None, :]
    middle = cosine.masked_fill(~other, torch.nan).nanmedian().double()
    return float((2 - 2 * middle).clamp_min(1e-24).sqrt())


def _rank_sweeps(sample: PairedSample, seed: int, backend: Backend) -> RankSweeps:
    by_row = sample.pairs
    order = torch.argsort(by_row[:, 1], stable=True)
    by_column = by_row[order].flip(1)
    doubt = _DOUBT[sample.x.values.dtype]
    exact = None if sample.x.values.dtype is torch.float64 else sample.similarity
    rows, tied_rows = _queries(by_row, sample.pair_similarity, len(sample.x), TIE)
    columns, tied_columns = _queries(by_column, sample.pair_similarity[order], len(sample.y), TIE)
    true = RankCounts(rows, columns, exact=exact, doubt=doubt, backend=backend)
    # The control: each query looks for the positives of another query, drawn at random.
    generator = torch.Generator().manual_seed(seed + 1)
    other_rows = _shuffled(by_row, len(sample.x), generator)
    other_columns = _shuffled(by_column, len(sample.y), generator)
    cosines = _tile_cosines(sample, other_rows[:, 0], other_rows[:, 1])
    wrong_rows, wrong_tied_rows = _queries(other_rows, cosines, len(sample.x), doubt)
    cosines = _tile_cosines(sample, other_columns[:, 1], other_columns[:, 0])
    wrong_columns, wrong_tied_columns = _queries(other_columns, cosines, len(sample.y), doubt)
    shuffled = RankCounts(wrong_rows, wrong_columns, exact=None, doubt=doubt, backend=backend)
    return RankSweeps(true, shuffled, (tied_rows, tied_columns), (wrong_tied_rows, wrong_tied_columns))


def _tile_cosines(sample: PairedSample, i: Tensor, j: Tensor) -> Tensor:
    """Cosines in the tiles' precision, which decides the ties of the control."""
    parts = [
        (sample.x.values[a] * sample.y.values[b]).sum(1) for a, b in zip(i.split(1024), j.split(1024), strict=True)
    ]
    return torch.cat(parts).double()


def _queries(positives: Tensor, values: Tensor, count: int, tie: float) -> tuple[Queries, Tensor]:
    """The best positive of each query, and how many positives are tied with it."""
    best = torch.full((count,), -torch.inf, dtype=torch.float64, device=values.device)
    best.scatter_reduce_(0, positives[:, 0], values, reduce="amax")
    tied = (values >= best[positives[:, 0]] - tie).double()
    return Queries(best, positives), best.new_zeros(count).index_add_(0, positives[:, 0], tied)


def _shuffled(positives: Tensor, count: int, generator: torch.Generator) -> Tensor:
    permutation = torch.randperm(count, generator=generator).to(positives.device)
    moved = torch.stack([permutation[positives[:, 0]], positives[:, 1]], 1)
    return moved[torch.argsort(moved[:, 0], stable=True)]


__all__ = [
    "BANDWIDTHS",
    "NEIGHBOURS",
    "UNIFORMITY_SCALE",
    "GapSweeps",
    "RankSweeps",
    "Sweeps",
    "median_cross_distance",
    "run_sweeps",
]
