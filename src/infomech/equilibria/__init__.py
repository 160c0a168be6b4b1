"""Gibbs equilibria, gradient flows, best responses, and their stability."""
