"""Energies of representation measures: fields, parametric and intrinsic energies, divergences."""

from .divergences import fisher_information, kl_divergence, symmetric_divergence, symmetric_divergence_variation
from .fields import (
    alignment_potential,
    log_partition_field,
    log_smoothed_density,
    log_smoothing_kernel,
    smoothed_log_density,
)
from .intrinsic import (
    effective_potential,
    intrinsic_energy,
    intrinsic_energy_sym,
    intrinsic_second_variation,
    intrinsic_second_variation_sym,
    intrinsic_variation,
    intrinsic_variation_sym,
)
from .pairwise import pairwise_divergence, pairwise_energy, pairwise_intrinsic_energy
from .parametric import SymmetricEnergy, cross_entropy, energy, independent_energy, symmetric_energy
from .population_limits import SigmoidLimit, cauchy_schwarz_divergence, directed_limit, sigmoid_limit

__all__ = [
    "SigmoidLimit",
    "SymmetricEnergy",
    "alignment_potential",
    "cauchy_schwarz_divergence",
    "cross_entropy",
    "directed_limit",
    "effective_potential",
    "energy",
    "fisher_information",
    "independent_energy",
    "intrinsic_energy",
    "intrinsic_energy_sym",
    "intrinsic_second_variation",
    "intrinsic_second_variation_sym",
    "intrinsic_variation",
    "intrinsic_variation_sym",
    "kl_divergence",
    "log_partition_field",
    "log_smoothed_density",
    "log_smoothing_kernel",
    "pairwise_divergence",
    "pairwise_energy",
    "pairwise_intrinsic_energy",
    "sigmoid_limit",
    "smoothed_log_density",
    "symmetric_divergence",
    "symmetric_divergence_variation",
    "symmetric_energy",
]
