"""Latent-angle misalignment (Fig. 2b, 5)."""
