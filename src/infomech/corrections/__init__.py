"""Fit and transform: corrections of the modality gap after training."""
