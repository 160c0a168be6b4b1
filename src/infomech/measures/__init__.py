"""Laws of representations: paired samples and closed-form families."""

from .paired import BLOCKS, PairedSample
from .von_mises_fisher import VonMisesFisher

__all__ = ["BLOCKS", "PairedSample", "VonMisesFisher"]
