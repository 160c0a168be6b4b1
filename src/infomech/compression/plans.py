"""Which ways to shorten rows are tried."""

from .._checks import check_whole
from .compression import Plan

SMALLEST = 32  # dimensions


def plans(dim: int) -> list[Plan]:
    """All that `infomech shrink` tries for rows of d features: dimensions, bits, some of both; each without the mean.

    First k and PCA at k = 32, 64, ... below d; int8, int4, signs and product codes of all dimensions; int8 of PCA.

    >>> [plan.name for plan in plans(64)][:4]
    ['first 32', 'PCA 32', 'PCA 32, int8', 'all dimensions, int8']
    """
    check_whole(dim, "dim", least=1)
    widths = []
    width = SMALLEST
    while width < dim:
        widths.append(width)
        width *= 2
    found = []
    for k in widths:
        found += [Plan("first", k), Plan("pca", k), Plan("pca", k, "int8")]
    found += [Plan(bits="int8"), Plan(bits="int4"), Plan(bits="signs"), Plan(bits="pq4"), Plan(bits="pq8")]
    without = [Plan(p.dimensions, p.width, p.bits, mean_removal=True) for p in (Plan(), *found)]
    return [*found, *without]


__all__ = ["plans"]
