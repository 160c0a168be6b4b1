"""What each group and block of groups gives to gap and retrieval, so that two models can be compared by pairs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._shown import Fields


@dataclass(frozen=True, repr=False)
class GroupContributions(Fields):
    """Of gap measures the delete-a-block replicates, of recalls each group's hits.

    They stand beside the budget's `Contributions`, whose digest says of which pairs, in which order of the groups.
    """

    degrees: float  # of freedom of the block jackknife
    block_groups: NDArray[np.float64]  # (b,) groups in each block
    gap: dict[str, NDArray[np.float64]]  # measure -> (b,) without each block
    queries: dict[str, NDArray[np.float64]]  # "x_to_y", "y_to_x" -> (g,) queries of each group
    hits: dict[str, NDArray[np.float64]]  # "x_to_y_recall_at_1", ... -> (g,) hits of each group


__all__ = ["GroupContributions"]
