"""What is added to a row's score wherever it is a negative: a critic's row term, a bias, a log-weight."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class NegativeTerms:
    """Terms t_j of the scores s_ij + t_j, in the two forms that tiles use; -inf removes a row as a negative.

    With one shift for all scores they are weights, exp(t_j - top), of sums of exponentials; with running maxima they
    are added to the scores.
    """

    terms: Float[Tensor, " k"]
    weights: Float[Tensor, " k"]
    top: float  # the largest term
    spread: float  # between the largest and the smallest finite one

    @classmethod
    def of(cls, terms: Float[Tensor, " k"] | None, dtype: torch.dtype) -> "NegativeTerms | None":
        """The forms in a tile's dtype, from double precision; None for None.

        On an accelerator, whose sweeps keep running maxima, without a look at the values: top and spread are 0.
        """
        if terms is None:
            return None
        if terms.device.type != "cpu":
            return cls.between(terms, dtype, low=0.0, top=0.0)
        finite = terms[torch.isfinite(terms)]
        low, top = finite.aminmax() if len(finite) else (terms.new_zeros(()), terms.new_zeros(()))
        return cls.between(terms, dtype, low=float(low), top=float(top))

    @classmethod
    def between(cls, terms: Float[Tensor, " k"], dtype: torch.dtype, *, low: float, top: float) -> "NegativeTerms":
        """The forms, given the smallest and largest finite term."""
        return cls(terms.to(dtype), torch.exp(terms - top).to(dtype), top, top - low)


def top_of(terms: NegativeTerms | None) -> float:
    """The largest term; 0 where there are none."""
    return 0.0 if terms is None else terms.top


def spread_of(*terms: NegativeTerms | None) -> float:
    """The largest spread of several sets of terms."""
    return max(0.0 if t is None else t.spread for t in terms)


__all__ = ["NegativeTerms", "spread_of", "top_of"]
