"""Log-sums of paired rows, differentiable, in memory O(n d): what every InfoNCE of the package is made of.

The work is done by operators (`paired`, `directed`) that `torch.compile` and `torch.export` take as they are.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..._typing import OtherRows, Rows
from ..exclusion import Exclusion, Nothing, OwnRow
from . import directed, paired
from .levels import score_bound, score_extent
from .operators import any_gradient, doubled


class PairedLogSums(NamedTuple):
    """Scores of the pairs and log-sum-exps over everything outside an anchor's own pair (or group), in float64."""

    positive: Float[Tensor, " n"]  # s_ii, without any term
    across: Float[Tensor, "2 n"]  # over j of s(x_i, y_j) + the term of y_j; over i of s(x_i, y_j) + the term of x_i
    within: Float[Tensor, "2 n"] | None  # over j of s(x_i, x_j) + the term of x_j; the same for y

    def one_by_one(self) -> tuple[Float[Tensor, " n"], ...]:
        """The positives' scores, x to y, y to x and, where they are there, x to x and y to y."""
        return self.positive, *self.across.unbind(), *(() if self.within is None else self.within.unbind())


def paired_log_sums(
    x: Rows,
    y: Rows,
    *,
    scale: Tensor,
    score_bound: float | None = None,
    x_terms: Float[Tensor, " n"] | None = None,
    y_terms: Float[Tensor, " n"] | None = None,
    within: bool = False,
    exclusion: Exclusion | None = None,
    backend: str = "auto",
) -> PairedLogSums:
    """The log-sums of the scores s_ij = scale x_i.y_j over the negatives of every pair, both ways.

    Two matrix products forward and backward each for the cross-modal sums, together with their gradients' two; within
    modalities, half of that for each. Differentiable once in x, y, the scale and the terms. Every score of the package
    is of this form: the anchor's own row term is one number for its whole sum, and is added outside.

    Args:
        x: (n, d) rows; row i is paired with row i of y.
        y: (n, d) rows.
        scale: what the inner products are multiplied by, 1/tau for the cosine critic; a scalar tensor.
        score_bound: a bound on every |s|, as `score_bound` gives it; infinity is always right, and slower. None: it is
            found where it is needed, on a CPU.
        x_terms: (n,) what is added to the score of x_i wherever it is a negative, in nats; -inf removes it. None: 0.
        y_terms: (n,) the same for y_j.
        within: also return the sums of x against x and of y against y.
        exclusion: the entries that are nobody's negative; by default (i, i).
        backend: which implementation; see `backends`.
    """
    code, tensors = (exclusion if exclusion is not None else OwnRow()).coded()
    u, t, factor = doubled(x_terms), doubled(y_terms), scale.double()
    keep = not backend.startswith("triton") and any_gradient(x, y, factor, u, t)
    out = paired.forward(x, y, factor, u, t, code, tensors, score_bound, within, keep, backend)
    return PairedLogSums(out[0], out[1], out[2] if within else None)


def row_log_sums(
    x: Rows,
    y: OtherRows,
    *,
    scale: Tensor,
    score_bound: float | None = None,
    y_terms: Float[Tensor, " m"] | None = None,
    exclusion: Exclusion | None = None,
    backend: str = "auto",
) -> Float[Tensor, " n"]:
    """The sums log sum_j exp(scale x_i.y_j + t_j) for every row of x, over what is not excluded; float64."""
    code, tensors = (exclusion if exclusion is not None else Nothing()).coded()
    t, factor = doubled(y_terms), scale.double()
    keep = not backend.startswith("triton") and any_gradient(x, y, factor, t)
    out: Tensor = directed.forward(x, y, factor, t, code, tensors, score_bound, keep, backend)[0]
    return out


def row_scores(x: Rows, y: Rows, scale: Tensor, backend: str = "auto") -> Float[Tensor, " n"]:
    """The scores scale x_i.y_i of matching rows, float64; differentiable once, and no n x d temporary is kept."""
    out: Tensor = directed.scores_forward(x, y, scale.double(), backend)[0]
    return out


__all__ = ["PairedLogSums", "paired_log_sums", "row_log_sums", "row_scores", "score_bound", "score_extent"]
