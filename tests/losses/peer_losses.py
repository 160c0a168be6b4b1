"""Losses of other libraries as `check_equivalent` calls them, on every rank. Not a test by itself."""

import torch
import torch.distributed as dist
from torch import nn

from infomech.losses import Ranks, SymmetricInfoNCE, cached_step, symmetric_infonce

TAU = 0.1


def full(x, y):
    """CLIP's loss by its formula."""
    target, scores = torch.arange(len(x)), x @ y.mT / TAU
    return (nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.mT, target)) / 2


def one_way(x, y):
    return nn.functional.cross_entropy(x @ y.mT / TAU, torch.arange(len(x)))


def nt_xent(x, y):
    """SimCLR's loss by its formula: both views against all others."""
    z, n = torch.cat([x, y]), len(x)
    scores = (z @ z.mT / TAU).fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(scores, torch.arange(2 * n).roll(n))


def twice(x, y):
    """Every rank's own rows against those of all, gathered without a gradient."""
    return 2 * symmetric_infonce(x, y, temperature=TAU, ranks=Ranks())


def local(x, y):
    return full(x, y)


def raises(x, y):
    if dist.get_rank() == 0:
        raise ValueError("rows of\nthe first rank")
    return full(x, y)


def ours_cached(left, right, a, b):
    return cached_step(SymmetricInfoNCE(TAU, ranks=Ranks()), [left, right], [a, b], chunk=2)


def without_value(left, right, a, b):
    full(left(a), right(b)).backward()


def twice_without_value(left, right, a, b):
    (2 * full(left(a), right(b))).backward()


def value_of_some(left, right, a, b):
    value = full(left(a), right(b))
    value.backward()
    return value.detach() if dist.get_rank() else None


def accumulated(left, right, a, b):
    """Two half batches, added up: not the batch's loss."""
    values = []
    for k in (slice(0, len(a) // 2), slice(len(a) // 2, None)):
        value = full(left(a[k]), right(b[k])) / 2
        value.backward()
        values.append(value.detach())
    return sum(values)
