"""Fit/transform corrections of the gap after training (C2), each scored before and after on groups it has not seen."""

from .base import Correction
from .scoring import METHODS, Score, Scored, make_correction, score_corrections
from .shifts import CentroidShift, MeanAndScale, MeanRemoval
from .transports import GaussianTransport, OrthogonalProcrustes, Whitening

__all__ = [
    "METHODS",
    "CentroidShift",
    "Correction",
    "GaussianTransport",
    "MeanAndScale",
    "MeanRemoval",
    "OrthogonalProcrustes",
    "Score",
    "Scored",
    "Whitening",
    "make_correction",
    "score_corrections",
]
