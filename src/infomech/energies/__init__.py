"""Energies of representation measures: fields, parametric and intrinsic energies, divergences."""
