"""Shape aliases: the letters that the signatures of the package use for its arrays.

``n`` and ``m`` count rows, ``d`` the ambient dimension, ``p`` pairs, ``...`` any batch of leading axes.
"""

from jaxtyping import Float, Int
from torch import Tensor

Rows = Float[Tensor, "n d"]
OtherRows = Float[Tensor, "m d"]
Points = Float[Tensor, "... d"]
Scalars = Float[Tensor, "..."]
Scalar = Float[Tensor, ""]
PairIndex = Int[Tensor, "p 2"]

__all__ = ["OtherRows", "PairIndex", "Points", "Rows", "Scalar", "Scalars"]
