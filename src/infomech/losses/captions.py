"""Both directions at once with several positives: m images and n captions, or rows of one group."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalar
from ..reductions.losses.infonce import row_scores
from ._inputs import check_shapes, check_tensor, checked_inverse_temperature, result_dtype, unit_rows, weighted_mean
from .directed import infonce

Several = Literal["mean_log", "log_mean"]


def captioned_infonce(
    x: Rows,
    y: OtherRows,
    *,
    pairs: Int[Tensor, "p 2"] | None = None,
    groups: Int[Tensor, " n"] | None = None,
    several: Several = "mean_log",
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    weights_x: Float[Tensor, " n"] | None = None,
    weights_y: Float[Tensor, " m"] | None = None,
    normalize: bool = False,
) -> Scalar:
    """Symmetric InfoNCE of rows with several positives each.

    The mean of both directions; for x to y, with P_i the rows of y that belong to row i of x,

        mean_log:  L_i = -mean_{p in P_i} log [exp(x_i.y_p / tau) / sum_j exp(x_i.y_j / tau)]
        log_mean:  L_i = -log mean_{p in P_i} [exp(x_i.y_p / tau) / sum_j exp(x_i.y_j / tau)]

    with j over all rows of y, positives too. The first asks every positive to score (supervised contrastive learning's
    L_out, Khosla et al. 2020), the second is content with one (their L_in; MIL-NCE, Miech et al. 2020, but
    for log |P_i|), and is never larger. With one positive each both are `symmetric_infonce` at lambda = 0. Rows
    that should be neither wanted nor feared are its ``groups=`` instead.

    One sweep for each direction, memory O((n + m + p) d) for p pairs. One process.

    Args:
        x: (n, d) rows, of images say.
        y: (m, d) rows, of captions.
        pairs: (p, 2) integers, row i of x with row j of y; every row of either side in one pair or more.
        groups: (n,) integers, in place of `pairs` where n = m: rows of equal number belong together.
        several: which of the two.
        temperature: tau > 0, a number or a tensor that may need a gradient.
        logit_scale: 1/tau, in its place.
        weights_x: (n,) non-negative weights of the rows of x as anchors.
        weights_y: (m,) those of y.
        normalize: bring the rows to unit length first.

    Returns:
        The loss in nats, a scalar.

    Raises:
        InputError: for inputs that cannot be used, pairs outside of the rows, or a row without a partner.

    Source: D7.

    >>> images, captions = torch.eye(2), torch.eye(2).repeat(2, 1)
    >>> pairs = torch.tensor([[0, 0], [1, 1], [0, 2], [1, 3]])
    >>> round(captioned_infonce(images, captions, pairs=pairs, temperature=1.0).item(), 4)  # log(1 + 1/e) + log(2)/2
    0.6598
    """
    if several not in ("mean_log", "log_mean"):
        raise InputError(f"several is {several!r}; expected 'mean_log' or 'log_mean'")
    check_shapes(x, y)
    found = _pairs(pairs, groups, x, y)
    if normalize:
        x, y = unit_rows(x), unit_rows(y)
    losses = []
    for rows, others, at, weights in ((x, y, found, weights_x), (y, x, found.flip(1), weights_y)):
        loss = infonce(rows, others, temperature=temperature, logit_scale=logit_scale, positives=at, weights=weights)
        if several == "log_mean":
            scale = checked_inverse_temperature(temperature, x.device, logit_scale)
            rest = _log_mean_less_mean(rows, others, at, scale)
            loss = loss - weighted_mean(rest, None if weights is None else weights.double()).to(loss.dtype)
        losses.append(loss)
    return ((losses[0] + losses[1]) / 2).to(result_dtype(x, y))


def _pairs(pairs: Tensor | None, groups: Tensor | None, x: Tensor, y: Tensor) -> Int[Tensor, "p 2"]:
    """Distinct pairs, from either."""
    if (pairs is None) == (groups is None):
        raise InputError("pass either pairs=, rows of x with rows of y, or groups=, a number for each row of both")
    if groups is not None:
        check_tensor(groups, "groups")
        if len(x) != len(y) or tuple(groups.shape) != (len(x),):
            raise InputError(
                f"groups has shape {tuple(groups.shape)} for {len(x)} and {len(y)} rows; expected one number a row of "
                "both, or pass pairs="
            )
        groups = groups.to(x.device)
        order = groups.argsort(stable=True)
        _, counts = torch.unique_consecutive(groups[order], return_counts=True)
        blocks = [torch.cartesian_prod(part, part).view(-1, 2) for part in order.split(counts.tolist())]
        return torch.cat(blocks)
    check_tensor(pairs, "pairs")
    assert pairs is not None
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point() or not len(pairs):
        raise InputError(f"pairs is {pairs.dtype} of shape {tuple(pairs.shape)}; expected integers (pairs, 2)")
    distinct: Tensor = torch.unique(pairs.to(x.device).long(), dim=0)
    limits = torch.tensor([len(x), len(y)], device=x.device)
    if bool(((distinct < 0) | (distinct >= limits)).any()):
        raise InputError(f"pairs points outside the {len(x)} rows of x and {len(y)} of y")
    for side, name in enumerate("xy"):
        named = torch.zeros(int(limits[side]), dtype=torch.bool, device=x.device)
        named[distinct[:, side]] = True
        if not bool(named.all()):
            first = int(torch.nonzero(~named)[0])
            raise InputError(f"row {first} of {name} has no partner in pairs; drop it or name one")
    return distinct


def _log_mean_less_mean(rows: Rows, others: OtherRows, pairs: Tensor, scale: Scalar) -> Float[Tensor, " n"]:
    """For every row, log mean exp of its positives' scores less their mean: what tells the two losses apart."""
    of, at = pairs.unbind(1)
    scores = row_scores(rows[of], others[at], scale)
    zeros = scores.new_zeros(len(rows))
    counts = zeros.index_add(0, of, torch.ones_like(scores))
    top = torch.full_like(zeros, -torch.inf).scatter_reduce(0, of, scores.detach(), "amax")
    above = zeros.index_add(0, of, torch.exp(scores - top[of]))
    return torch.log(above / counts) + top - zeros.index_add(0, of, scores) / counts


__all__ = ["Several", "captioned_infonce"]
