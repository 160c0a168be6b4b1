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


def accumulated(left, right, a, b):
    """Two half batches, added up: not the batch's loss."""
    values = []
    for k in (slice(0, len(a) // 2), slice(len(a) // 2, None)):
        value = full(left(a[k]), right(b[k])) / 2
        value.backward()
        values.append(value.detach())
    return sum(values)


class Columns(nn.Module):
    """Two encoders as the one model of sentence-transformers."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def __getitem__(self, place):
        return self.left  # what that library looks at for layers that it cannot cut

    def forward(self, features):
        encoder = self.left if features["column"] == "anchor" else self.right
        return {"sentence_embedding": encoder(features["rows"])}


def sentence_step(make):
    def step(left, right, a, b):
        model = Columns(left, right)
        features = [{"column": "anchor", "rows": a, "input_ids": a}, {"column": "positive", "rows": b, "input_ids": b}]
        value = make(model)(features, None)
        value.backward()
        return value.detach()

    return step


def _sentence(name, **settings):
    def make(model):
        from sentence_transformers import losses

        return getattr(losses, name)(model, scale=1 / TAU, **settings)

    return sentence_step(make)


sentence_plain = _sentence("MultipleNegativesRankingLoss")
sentence_gather = _sentence("MultipleNegativesRankingLoss", gather_across_devices=True)
sentence_cached = _sentence("CachedMultipleNegativesRankingLoss", mini_batch_size=2)
sentence_cached_gather = _sentence("CachedMultipleNegativesRankingLoss", mini_batch_size=2, gather_across_devices=True)


def _clip(**settings):
    def loss(x, y):
        from open_clip.loss import ClipLoss

        ranks = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
        return ClipLoss(**settings, **ranks)(x, y, 1 / TAU)

    return loss


clip_local_with_grad = _clip(local_loss=True, gather_with_grad=True)
clip_global_with_grad = _clip(local_loss=False, gather_with_grad=True)
clip_local = _clip(local_loss=True, gather_with_grad=False)
clip_global = _clip(local_loss=False, gather_with_grad=False)


def lightly(x, y):
    from lightly.loss import NTXentLoss

    return NTXentLoss(TAU, gather_distributed=dist.get_world_size() > 1)(x, y)
