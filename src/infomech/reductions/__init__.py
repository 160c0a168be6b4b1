"""Tiled kernel reductions: everything that walks a Gram matrix, without ever holding it."""

from .gram import Progress, Reduction, sweep
from .kernel_sums import BlockedLogSums, KernelSums
from .neighbours import NearestNeighbours
from .pair_sums import Distance, Gaussian, PairFunction, PairSums, ShiftedDistances
from .ranks import TIE, Queries, RankCounts, expected_hits
from .rows import GroupedRows, Span
from .threads import cpu_threads, side_by_side, torch_threads

__all__ = [
    "TIE",
    "BlockedLogSums",
    "Distance",
    "Gaussian",
    "GroupedRows",
    "KernelSums",
    "NearestNeighbours",
    "PairFunction",
    "PairSums",
    "Progress",
    "Queries",
    "RankCounts",
    "Reduction",
    "ShiftedDistances",
    "Span",
    "cpu_threads",
    "expected_hits",
    "side_by_side",
    "sweep",
    "torch_threads",
]
