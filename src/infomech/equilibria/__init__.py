"""Gibbs equilibria, gradient flows, best responses, and their stability.

Here stand the names that the paper's statements ask for. What they are made of is in the modules: encoders of angles
(`encoded_angles`), the energy of a law with its potential held and its variations (`finite_temperature`), projections
and vertices of laws above a floor (`flows`, `responses`), diagnostics of chains (`langevin`), encoders of rank one
(`rank_one`).
"""

from .encoded_angles import encoded_divergence
from .finite_temperature import AtomicEquilibrium, VmfEquilibrium, minimise_measure, vmf_equilibrium
from .flows import Flow, fokker_planck, particle_flow, replicator_flow
from .gibbs import GibbsLaw
from .langevin import LangevinSamples, sample_mala
from .latent_angles import LatentAngles
from .parametric_minimum import ParametricMinimum, minimise_parametric
from .potentials import EmpiricalPotential, LinearPotential, Potential, TwoWellPotential
from .responses import Alternation, BestResponse, alternate_best_responses, best_response
from .stability import (
    MatchedStability,
    critical_divergence_weight,
    kernel_eigenvalues,
    matched_potential,
    matched_stability,
    mode_coefficients,
    stationarity_residual,
)

__all__ = [
    "Alternation",
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
    "Potential",
    "TwoWellPotential",
    "VmfEquilibrium",
    "alternate_best_responses",
    "best_response",
    "critical_divergence_weight",
    "encoded_divergence",
    "fokker_planck",
    "kernel_eigenvalues",
    "matched_potential",
    "matched_stability",
    "minimise_measure",
    "minimise_parametric",
    "mode_coefficients",
    "particle_flow",
    "replicator_flow",
    "sample_mala",
    "stationarity_residual",
    "vmf_equilibrium",
]
