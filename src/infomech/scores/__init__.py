"""What score means a match: the density ratio of a trained critic, calibrated, with thresholds, for an index (E9)."""

from .calibration import Calibration, Reliability
from .comparison import ScoreComparison, compare_scores
from .density_ratio import DensityRatio
from .search import Matches
from .summary import ScoreSummary, score_findings, summarise
from .thresholds import Cut, Threshold

__all__ = [
    "Calibration",
    "Cut",
    "DensityRatio",
    "Matches",
    "Reliability",
    "ScoreComparison",
    "ScoreSummary",
    "Threshold",
    "compare_scores",
    "score_findings",
    "summarise",
]
