"""The InfoNCE family: function and module side by side."""

from .schedules import ConstantWeight, DivergenceController, LinearWarmup, WeightSchedule
from .symmetric import SymmetricInfoNCE, SymmetricTerms, symmetric_infonce, symmetric_terms

__all__ = [
    "ConstantWeight",
    "DivergenceController",
    "LinearWarmup",
    "SymmetricInfoNCE",
    "SymmetricTerms",
    "WeightSchedule",
    "symmetric_infonce",
    "symmetric_terms",
]
