"""Compression: fewer dimensions and bits for the rows of both modalities, fitted on pairs, applied to new rows."""

from .compression import BITS, Bits, Compression, Dimensions, Plan, load
from .plans import plans

__all__ = ["BITS", "Bits", "Compression", "Dimensions", "Plan", "load", "plans"]
