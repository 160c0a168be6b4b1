"""Manifolds, critics, and the volume of a kernel."""

from .critics import RBF, Cosine, Critic
from .manifolds import FlatTorus, Manifold, Sphere
from .special import log_sphere_area, log_sphere_mgf, mean_resultant
from .volume import log_kernel_volume

__all__ = [
    "RBF",
    "Cosine",
    "Critic",
    "FlatTorus",
    "Manifold",
    "Sphere",
    "log_kernel_volume",
    "log_sphere_area",
    "log_sphere_mgf",
    "mean_resultant",
]
