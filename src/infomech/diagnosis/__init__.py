"""Diagnosis: the energy budget, the gap, retrieval, geometry, and what they mean."""

from .budget import EnergyBudget, decompose
from .diagnosis import Diagnosis, Pictures
from .estimate import Estimate
from .examine import examine
from .findings import Finding, Findings
from .gaps import gap
from .inputs import Inputs
from .measures import Measures
from .settings import Settings

__all__ = [
    "Diagnosis",
    "EnergyBudget",
    "Estimate",
    "Finding",
    "Findings",
    "Inputs",
    "Measures",
    "Pictures",
    "Settings",
    "decompose",
    "examine",
    "gap",
]
