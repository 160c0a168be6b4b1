"""What is left of a gap after the centroids are aligned: the bias of fitting the centroids to the same rows."""

from jaxtyping import Float
from torch import Tensor

from ..measures import PairedSample

_MOST_ROWS = 600


def centering_bias(sample: PairedSample, shift: Float[Tensor, " d"]) -> float:
    """Bias of the mean cross distance E|x - y - shift| from a shift fitted to the same rows, to order 1/n.

    The shift errs by delta = sum_g e_g / P, e_g the sum over group g's pairs of x - y - shift, P all pairs. With
    u = x_i - y_j - shift, f(u) = |u|, the expansion f(u) - grad f.delta + delta^T H delta / 2 has the mean

        bias = - E[grad f(u_ij).(e_g(i) + e_g(j))] / P + tr(E[H] S) / 2,  S = sum_g e_g e_g^T / P^2,

    grad f = u / |u|, H = (I - u u^T / |u|^2) / |u|. The means over i, j are taken over at most 600 rows of each side:
    the bias is small, so that a few per cent of it do not matter.

    Source: E3, the gap left after aligning centroids.
    """
    pairs = len(sample.pairs)
    errors = sample.group_sums[0] - sample.group_sums[1] - sample.group_pairs[:, None] * shift
    scatter = errors.T @ errors / pairs**2
    sides = []
    for column, rows in ((0, sample.x), (1, sample.y)):
        step = max(1, -(-len(rows) // _MOST_ROWS))  # groups stand in random order: a random subset
        center = sample.group_sums[column].sum(0) / pairs
        sides.append((rows.values[::step].double() - center, rows.groups[::step], rows.weights[::step]))
    (a, groups_a, weights_a), (b, groups_b, weights_b) = sides
    weights = weights_a[:, None] * weights_b[None, :] * (groups_a[:, None] != groups_b[None, :])
    weights /= weights.sum()
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T
    inverse = squared.clamp_min(1e-24).rsqrt()
    error_a, error_b = errors[groups_a], errors[groups_b]
    along = (a * error_a).sum(1)[:, None] - error_a @ b.T + a @ error_b.T - (b * error_b).sum(1)[None, :]
    first = (weights * inverse * along).sum() / pairs
    turned = a @ scatter
    form = (turned * a).sum(1)[:, None] - 2 * turned @ b.T + ((b @ scatter) * b).sum(1)[None, :]
    second = (weights * inverse * (scatter.trace() - form * inverse.square())).sum()
    return float(second / 2 - first)


__all__ = ["centering_bias"]
