"""Energies of representation measures: fields, and the parametric energies that InfoNCE tends to."""

from .fields import alignment_potential, effective_potential, log_partition_field, log_smoothed_density
from .parametric import SymmetricEnergy, cross_entropy, energy, independent_energy, symmetric_energy

__all__ = [
    "SymmetricEnergy",
    "alignment_potential",
    "cross_entropy",
    "effective_potential",
    "energy",
    "independent_energy",
    "log_partition_field",
    "log_smoothed_density",
    "symmetric_energy",
]
