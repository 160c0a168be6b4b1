"""Tiled kernel reductions: everything that sweeps a Gram matrix, without ever holding it."""

from .statistics.gram import Reduction, sweep
from .statistics.kernel_sums import BlockedLogSums, KernelSums, RowTerms, TemperatureSums
from .statistics.neighbours import NearestNeighbours
from .statistics.pair_sums import Distance, Gaussian, PairFunction, PairSums, ShiftedDistances
from .statistics.ranks import TIE, Queries, RankCounts, expected_hits
from .statistics.rows import GroupedRows, Span
from .threads import cpu_threads, side_by_side, torch_threads
from .tiling import few_launches, full_precision, rows_at_once

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
    "Queries",
    "RankCounts",
    "Reduction",
    "RowTerms",
    "ShiftedDistances",
    "Span",
    "TemperatureSums",
    "cpu_threads",
    "expected_hits",
    "few_launches",
    "full_precision",
    "rows_at_once",
    "side_by_side",
    "sweep",
    "torch_threads",
]
