"""Gibbs equilibria, gradient flows, best responses, and their stability."""

from .flows import Flow, check_floor, fokker_planck, particle_flow, project_on_floor, replicator_flow
from .gibbs import GibbsLaw, sample_gibbs_exact
from .langevin import LangevinSamples, effective_sample_size, langevin_step, sample_mala, split_rhat
from .potentials import EmpiricalPotential, LinearPotential, Potential, TwoWellPotential, potential_at_nodes

__all__ = [
    "EmpiricalPotential",
    "Flow",
    "GibbsLaw",
    "LangevinSamples",
    "LinearPotential",
    "Potential",
    "TwoWellPotential",
    "check_floor",
    "effective_sample_size",
    "fokker_planck",
    "langevin_step",
    "particle_flow",
    "potential_at_nodes",
    "project_on_floor",
    "replicator_flow",
    "sample_gibbs_exact",
    "sample_mala",
    "split_rhat",
]
