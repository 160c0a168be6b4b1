"""Gibbs equilibria, gradient flows, best responses, and their stability."""

from .encoded_angles import AngularEnergy, angular_energy, encoded_divergence, encoded_law, encoded_log_density
from .finite_temperature import (
    AtomicEquilibrium,
    VmfEquilibrium,
    held_energy,
    held_second_variation,
    held_variation,
    minimise_measure,
    sharp_ratio,
    vmf_energy,
    vmf_equilibrium,
)
from .flows import Flow, check_floor, fokker_planck, particle_flow, project_on_floor, replicator_flow
from .gibbs import GibbsLaw, sample_gibbs_exact
from .langevin import LangevinSamples, effective_sample_size, langevin_step, sample_mala, split_rhat
from .latent_angles import LatentAngles
from .parametric_minimum import ParametricMinimum, ParametricStart, minimise_parametric
from .potentials import EmpiricalPotential, LinearPotential, Potential, TwoWellPotential, potential_at_nodes
from .rank_one import RankOneLimit, rank_one_limit
from .responses import (
    Alternation,
    BestResponse,
    alternate_best_responses,
    best_response,
    vertex_density,
    vertex_energies,
)
from .stability import (
    CRITICAL_WEIGHT,
    MatchedStability,
    critical_divergence_weight,
    kernel_eigenvalues,
    matched_potential,
    matched_stability,
    mode_coefficients,
    sharp_coefficients,
    stationarity_residual,
)

__all__ = [
    "CRITICAL_WEIGHT",
    "Alternation",
    "AngularEnergy",
    "AtomicEquilibrium",
    "BestResponse",
    "EmpiricalPotential",
    "Flow",
    "GibbsLaw",
    "LangevinSamples",
    "LatentAngles",
    "LinearPotential",
    "MatchedStability",
    "ParametricMinimum",
    "ParametricStart",
    "Potential",
    "RankOneLimit",
    "TwoWellPotential",
    "VmfEquilibrium",
    "alternate_best_responses",
    "angular_energy",
    "best_response",
    "check_floor",
    "critical_divergence_weight",
    "effective_sample_size",
    "encoded_divergence",
    "encoded_law",
    "encoded_log_density",
    "fokker_planck",
    "held_energy",
    "held_second_variation",
    "held_variation",
    "kernel_eigenvalues",
    "langevin_step",
    "matched_potential",
    "matched_stability",
    "minimise_measure",
    "minimise_parametric",
    "mode_coefficients",
    "particle_flow",
    "potential_at_nodes",
    "project_on_floor",
    "rank_one_limit",
    "replicator_flow",
    "sample_gibbs_exact",
    "sample_mala",
    "sharp_coefficients",
    "sharp_ratio",
    "split_rhat",
    "stationarity_residual",
    "vertex_density",
    "vertex_energies",
    "vmf_energy",
    "vmf_equilibrium",
]
