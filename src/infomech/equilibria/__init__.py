"""Gibbs equilibria, gradient flows, best responses, and their stability."""

from .gibbs import GibbsLaw, sample_gibbs_exact
from .potentials import EmpiricalPotential, LinearPotential, Potential, TwoWellPotential, potential_at_nodes

__all__ = [
    "EmpiricalPotential",
    "GibbsLaw",
    "LinearPotential",
    "Potential",
    "TwoWellPotential",
    "potential_at_nodes",
    "sample_gibbs_exact",
]
