"""Consistency of value and gradient with the large-batch limit (Fig. 3)."""
