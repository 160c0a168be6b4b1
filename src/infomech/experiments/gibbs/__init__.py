"""Particles and Gibbs laws on the sphere (Fig. 2a, 4)."""
