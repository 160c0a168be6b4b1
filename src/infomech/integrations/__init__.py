"""Adapters to the libraries that people train with."""
