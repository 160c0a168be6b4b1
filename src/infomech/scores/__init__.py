"""Scores that mean something: the density ratio of a trained critic, calibrated, with thresholds, for any index (E9)."""

from .density_ratio import DensityRatio

__all__ = ["DensityRatio"]
