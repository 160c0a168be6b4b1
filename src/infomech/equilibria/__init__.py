"""Gibbs equilibria, gradient flows, best responses, and their stability."""

from .gibbs import GibbsLaw, sample_gibbs_exact
from .langevin import LangevinSamples, effective_sample_size, langevin_step, sample_mala, split_rhat
from .potentials import EmpiricalPotential, LinearPotential, Potential, TwoWellPotential, potential_at_nodes

__all__ = [
    "EmpiricalPotential",
    "GibbsLaw",
    "LangevinSamples",
    "LinearPotential",
    "Potential",
    "TwoWellPotential",
    "effective_sample_size",
    "langevin_step",
    "potential_at_nodes",
    "sample_gibbs_exact",
    "sample_mala",
    "split_rhat",
]
