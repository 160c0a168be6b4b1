"""Experiments of the paper, and ours."""
