"""Manifolds, critics, the volume of a kernel, and quadrature where the manifold is small enough.

A public name stands in one list, the ``__all__`` of its module.
"""

from .critics import *
from .geodesics import *
from .manifolds import *
from .operators import *
from .quadrature import *
from .special import *
from .volume import *
