"""Tiled kernel reductions: everything that walks a Gram matrix, without ever holding it."""
