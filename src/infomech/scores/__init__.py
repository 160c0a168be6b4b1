"""What score means a match: the density ratio of a trained critic, calibrated, with thresholds, for an index (E9)."""

from .calibration import Calibration, Reliability
from .comparison import ScoreComparison, compare_scores
from .density_ratio import DensityRatio
from .search import Matches
from .sigmoid import SigmoidFit, best_bias, sigmoid_findings, sigmoid_probability
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
    "SigmoidFit",
    "Threshold",
    "best_bias",
    "compare_scores",
    "score_findings",
    "sigmoid_findings",
    "sigmoid_probability",
    "summarise",
]
