"""Manifolds, critics, the volume of a kernel, and quadrature where the manifold is small enough."""

from .critics import RBF, AffineRows, Cosine, Critic
from .geodesics import geodesic_step, to_tangent
from .manifolds import FlatTorus, Manifold, Sphere
from .operators import Faces, Harmonics, faces, harmonics
from .quadrature import Quadrature, manifold_angles, quadrature_rule
from .special import concentration_divergence, log_sphere_area, log_sphere_mgf, mean_resultant
from .volume import Euclidean, log_kernel_volume

__all__ = [
    "RBF",
    "AffineRows",
    "Cosine",
    "Critic",
    "Euclidean",
    "Faces",
    "FlatTorus",
    "Harmonics",
    "Manifold",
    "Quadrature",
    "Sphere",
    "concentration_divergence",
    "faces",
    "geodesic_step",
    "harmonics",
    "log_kernel_volume",
    "log_sphere_area",
    "log_sphere_mgf",
    "manifold_angles",
    "mean_resultant",
    "quadrature_rule",
    "to_tangent",
]
