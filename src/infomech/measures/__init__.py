"""Laws of representations: paired samples, densities on quadrature nodes, and closed-form families."""

from .density import Density, check_same_nodes
from .paired import BLOCKS, PairedSample
from .von_mises_fisher import VonMisesFisher

__all__ = ["BLOCKS", "Density", "PairedSample", "VonMisesFisher", "check_same_nodes"]
