"""Energies of representation measures: fields, parametric and intrinsic energies, divergences."""

from .divergences import fisher_information, kl_divergence, symmetric_divergence, symmetric_divergence_variation
from .fields import log_smoothing_kernel, smoothed_log_density
from .intrinsic import (
    check_potential,
    effective_potential,
    intrinsic_energy,
    intrinsic_energy_sym,
    intrinsic_second_variation,
    intrinsic_second_variation_sym,
    intrinsic_variation,
    intrinsic_variation_sym,
)

__all__ = [
    "check_potential",
    "effective_potential",
    "fisher_information",
    "intrinsic_energy",
    "intrinsic_energy_sym",
    "intrinsic_second_variation",
    "intrinsic_second_variation_sym",
    "intrinsic_variation",
    "intrinsic_variation_sym",
    "kl_divergence",
    "log_smoothing_kernel",
    "smoothed_log_density",
    "symmetric_divergence",
    "symmetric_divergence_variation",
]
