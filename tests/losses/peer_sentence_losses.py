"""Losses of sentence-transformers as `check_equivalent` calls them, on every rank. Not a test by itself."""

from sentence_transformers import losses
from torch import nn

TAU = 0.1


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
        return getattr(losses, name)(model, scale=1 / TAU, **settings)

    return sentence_step(make)


sentence_plain = _sentence("MultipleNegativesRankingLoss")
sentence_gather = _sentence("MultipleNegativesRankingLoss", gather_across_devices=True)
sentence_cached = _sentence("CachedMultipleNegativesRankingLoss", mini_batch_size=2)
sentence_cached_gather = _sentence("CachedMultipleNegativesRankingLoss", mini_batch_size=2, gather_across_devices=True)
