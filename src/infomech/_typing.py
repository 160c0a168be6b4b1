"""Shape aliases: the letters that the signatures of the package use for its arrays.

``n`` and ``m`` count rows, ``d`` the ambient dimension, ``p`` pairs, ``...`` any batch of leading axes.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "n d"]
OtherRows = Float[Tensor, "m d"]
Points = Float[Tensor, "... d"]
Scalars = Float[Tensor, "..."]
Scalar = Float[Tensor, ""]

RowsLike = Any  # (rows, features) in any container that `infomech.io.as_rows` takes: tensor, NumPy, list, pandas, Arrow
PointsLike = Any  # (..., d), likewise, in their graph where they are tensors
PairsLike = Any  # (p, 2) row numbers, likewise
DeviceLike = str | torch.device | None  # where work is done; None is where its rows are

Progress = Callable[[float], None]  # told the share of the work done since the last call; the shares sum to 1

__all__ = ["OtherRows", "Points", "Progress", "Rows", "Scalar", "Scalars"]
