"""What score means a match: the density ratio of a trained critic, calibrated, with thresholds, for an index (E9)."""

from .density_ratio import DensityRatio

__all__ = ["DensityRatio"]
