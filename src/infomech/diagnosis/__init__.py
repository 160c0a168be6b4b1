"""Diagnosis: the energy budget, the gap, retrieval, geometry, and what they mean."""

from .budget import EnergyBudget
from .diagnosis import Diagnosis, Inputs, Pictures
from .estimate import Estimate
from .findings import Finding

__all__ = ["Diagnosis", "EnergyBudget", "Estimate", "Finding", "Inputs", "Pictures"]
