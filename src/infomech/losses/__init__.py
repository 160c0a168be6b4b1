"""The InfoNCE family: function and module side by side."""

from .caching import cached_step
from .directed import InfoNCE, infonce
from .distributed import Ranks, RanksError
from .equivalence import check_equivalent
from .matryoshka import MatryoshkaInfoNCE, matryoshka_infonce
from .negatives import FalseNegatives, Hardness
from .paired import SymmetricTerms
from .pairwise import PairwiseInfoNCE, pairwise_infonce
from .request import Guide
from .schedules import ConstantWeight, DivergenceController, LinearWarmup, WeightSchedule
from .sigmoid import SigmoidLoss, sigmoid_loss
from .symmetric import SymmetricInfoNCE, symmetric_infonce, symmetric_terms

__all__ = [
    "ConstantWeight",
    "DivergenceController",
    "FalseNegatives",
    "Guide",
    "Hardness",
    "InfoNCE",
    "LinearWarmup",
    "MatryoshkaInfoNCE",
    "PairwiseInfoNCE",
    "Ranks",
    "RanksError",
    "SigmoidLoss",
    "SymmetricInfoNCE",
    "SymmetricTerms",
    "WeightSchedule",
    "cached_step",
    "check_equivalent",
    "infonce",
    "matryoshka_infonce",
    "pairwise_infonce",
    "sigmoid_loss",
    "symmetric_infonce",
    "symmetric_terms",
]
