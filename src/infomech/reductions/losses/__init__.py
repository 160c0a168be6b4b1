"""Differentiable log-sums over tiles of a score matrix, never holding n x m entries."""
