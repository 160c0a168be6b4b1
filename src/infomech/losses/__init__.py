"""The InfoNCE family: function and module side by side."""

from .distributed import Ranks
from .infonce import InfoNCE, infonce
from .schedules import ConstantWeight, DivergenceController, LinearWarmup, WeightSchedule
from .sigmoid import SigmoidLoss, sigmoid_loss
from .symmetric import SymmetricInfoNCE, SymmetricTerms, symmetric_infonce, symmetric_terms

__all__ = [
    "ConstantWeight",
    "DivergenceController",
    "InfoNCE",
    "LinearWarmup",
    "Ranks",
    "SigmoidLoss",
    "SymmetricInfoNCE",
    "SymmetricTerms",
    "WeightSchedule",
    "infonce",
    "sigmoid_loss",
    "symmetric_infonce",
    "symmetric_terms",
]
