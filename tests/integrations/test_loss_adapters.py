"""Adapters of the losses: the call conventions of other libraries, and their numbers."""

import math

import pytest
import torch

import infomech as im
from infomech.integrations import (
    LabelledInfoNCE,
    OpenClipLoss,
    OpenClipSigmoidLoss,
    SentenceSymmetricInfoNCE,
    TrainerLoss,
    TwoViewInfoNCE,
)


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(rows(n, d, seed), dim=1)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-11) -> bool:
    return bool((a - b).norm() <= tolerance * max(1.0, b.norm().item()))


class Clip(torch.nn.Module):
    """What open_clip's training loop sees of a model: its output is splatted into the loss."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07), dtype=torch.float64))
        self.logit_bias = torch.nn.Parameter(torch.tensor(-10.0, dtype=torch.float64)) if bias else None

    def forward(self, image, text):
        out = {"image_features": image, "text_features": text, "logit_scale": self.logit_scale.exp()}
        return out if self.logit_bias is None else {**out, "logit_bias": self.logit_bias}


@pytest.mark.parametrize("bias", [False, True])
def test_open_clip_convention(bias: bool) -> None:
    model, x, y = Clip(bias), unit(20, 6, 1).requires_grad_(), unit(20, 6, 2)
    losses = OpenClipLoss()(**model(x, y), output_dict=True)
    assert set(losses) == {"contrastive_loss"}  # 3.3.0 adds up every value
    sum(losses.values()).backward()
    found = x.grad.clone(), model.logit_scale.grad.clone()
    x.grad, model.logit_scale.grad = None, None
    logits = model.logit_scale.exp() * x @ y.T
    target = torch.arange(20)
    cross_entropy = torch.nn.functional.cross_entropy
    truth = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    truth.backward()
    assert close(losses["contrastive_loss"].detach(), truth.detach())
    assert close(found[0], x.grad)
    assert close(found[1], model.logit_scale.grad)
    with_gap = OpenClipLoss(divergence_weight=0.75)(x, y, model.logit_scale.exp())
    expected = im.losses.symmetric_infonce(x, y, temperature=0.07, divergence_weight=0.75)
    assert close(with_gap.detach(), expected.detach())


def test_open_clip_sigmoid() -> None:
    model, x, y = Clip(True), unit(20, 6, 1), unit(20, 6, 2)
    found = OpenClipSigmoidLoss()(**model(x, y), output_dict=True)["contrastive_loss"]
    logits = model.logit_scale.exp() * x @ y.T + model.logit_bias
    truth = -torch.nn.functional.logsigmoid((2 * torch.eye(20, dtype=x.dtype) - 1) * logits).sum() / 20
    assert close(found, truth)


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(5, 4).double()

    def forward(self, features):
        return {**features, "sentence_embedding": self.linear(features["tokens"])}


def test_sentence_transformers_convention() -> None:
    model = Encoder()
    loss = SentenceSymmetricInfoNCE(model, scale=20.0, divergence_weight=0.5)
    batch = [{"tokens": rows(12, 5, 1)}, {"tokens": rows(12, 5, 2)}]
    found = loss(batch, torch.empty(0))
    embedded = [model(features)["sentence_embedding"] for features in batch]
    assert torch.equal(found, loss.compute_loss_from_embeddings(embedded, torch.empty(0)))
    x, y = (torch.nn.functional.normalize(e, dim=1) for e in embedded)
    assert close(found, im.losses.symmetric_infonce(x, y, temperature=0.05, divergence_weight=0.5))
    assert loss.get_config_dict() == {"scale": 20.0, "divergence_weight": 0.5, "gather_across_devices": False}
    found.backward()
    assert model.linear.weight.grad.norm() > 0
    with pytest.raises(im.InputError, match="1 columns"):
        loss.compute_loss_from_embeddings(embedded[:1])
    assert "2601.19597" in loss.citation
    assert loss.temperature == 0.05


@pytest.mark.parametrize("columns", [3, 4])
@pytest.mark.parametrize("n", [1, 11])
def test_hard_negatives(columns: int, n: int) -> None:
    """Columns beyond the second: the formula of sentence-transformers, value and gradients."""
    parts = [rows(n, 4, k).requires_grad_() for k in range(columns)]
    weight = 0.5 if n > 1 else 0.0
    found = SentenceSymmetricInfoNCE(Encoder(), scale=20.0, divergence_weight=weight).compute_loss_from_embeddings(
        parts
    )
    x, y, *hard = (torch.nn.functional.normalize(p, dim=1) for p in parts)
    forward, backward = 20.0 * x @ torch.cat([y, *hard]).T, 20.0 * y @ x.T
    truth = (forward.logsumexp(1) + backward.logsumexp(1) - 2 * forward.diagonal()).mean() / 2
    if n > 1:
        truth = truth + weight * im.losses.symmetric_terms(x, y, temperature=0.05).divergence
    assert close(found, truth)
    for ours, theirs in zip(torch.autograd.grad(found, parts), torch.autograd.grad(truth, parts), strict=True):
        assert close(ours, theirs)


def test_a_siglip_model_keeps_its_bias_in_the_graph() -> None:
    """DistributedDataParallel stops at the second step if a parameter got no gradient."""
    model, x, y = Clip(True), unit(6, 4, 1).requires_grad_(), unit(6, 4, 2)
    OpenClipLoss()(**model(x, y)).backward()
    assert model.logit_bias.grad == 0
    assert model.logit_scale.grad != 0


@pytest.mark.parametrize("n", [2, 17])
def test_two_views(n: int) -> None:
    x, y = rows(n, 5, 1).requires_grad_(), rows(n, 5, 2).requires_grad_()
    found = TwoViewInfoNCE(0.3)(x, y)
    views = torch.nn.functional.normalize(torch.cat([x, y]), dim=1)
    scores = (views @ views.T / 0.3).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    truth = torch.nn.functional.cross_entropy(scores, torch.arange(2 * n).roll(n))
    assert close(found, truth)
    for ours, theirs in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(truth, (x, y)), strict=True):
        assert close(ours, theirs)
    lightly = pytest.importorskip("lightly.loss")
    assert close(found, lightly.NTXentLoss(0.3)(x, y), 1e-6)


@pytest.mark.usefixtures("unchecked")
def test_bad_views_and_outputs() -> None:
    with pytest.raises(im.InputError, match="x has 3 rows and y has 2"):
        TwoViewInfoNCE()(torch.eye(3), torch.eye(3)[:2])
    with pytest.raises(im.InputError, match="out1 is a list"):
        TwoViewInfoNCE()(torch.eye(3), [1.0])
    with pytest.warns(UserWarning, match="holds one pair"):
        assert TwoViewInfoNCE()(torch.ones(1, 3), torch.ones(1, 3)) == 0
    one = torch.ones(1, 3, requires_grad=True)
    scale = torch.zeros((), requires_grad=True)
    trainer = TrainerLoss(im.losses.symmetric_infonce, log_scale=scale, accumulation_steps=2)
    with pytest.warns(UserWarning, match="holds one pair"):
        value = trainer({"image_embeds": one, "text_embeds": one})
    value.backward()
    assert value == 0
    assert one.grad is not None
    assert scale.grad == 0
    assert trainer({"image_embeds": one, "text_embeds": one}) == 0  # said once: a warning fails a test
    with pytest.raises(im.InputError, match="the model's outputs are logits; name the two"):
        TrainerLoss(im.losses.SymmetricInfoNCE())({"logits": torch.eye(3)})
    with pytest.raises(im.InputError, match="accumulation_steps is 0"):
        TrainerLoss(im.losses.SymmetricInfoNCE(), accumulation_steps=0)


@pytest.mark.filterwarnings("ignore:The MultipleNegativesSymmetricRankingLoss is deprecated:DeprecationWarning")
def test_real_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.losses")
    model = Encoder().float()
    batch = [{"tokens": rows(12, 5, k).float()} for k in (1, 2)]
    theirs = losses.MultipleNegativesSymmetricRankingLoss(model, scale=20.0)
    embedded = [model(features)["sentence_embedding"] for features in batch]
    ours = SentenceSymmetricInfoNCE(model, scale=20.0)
    assert close(ours(batch), theirs.compute_loss_from_embeddings(embedded, torch.empty(0)), 1e-5)


def nt_xent(x, y, tau, positive, negative):
    """The definition, pair by pair."""
    scores = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T / tau
    losses = []
    for a, p in torch.nonzero(positive).tolist():
        pool = torch.cat([scores[a, p][None], scores[a][negative[a]]])
        losses.append(pool.logsumexp(0) - scores[a, p])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("with_reference", [False, True])
def test_metric_learning_convention(with_reference: bool) -> None:
    x, labels = rows(15, 6, 1).requires_grad_(), torch.arange(15) % 4
    y, other_labels = (rows(9, 6, 2).requires_grad_(), torch.arange(9) % 5) if with_reference else (x, labels)
    positive = labels[:, None] == other_labels[None, :]
    negative = ~positive
    if not with_reference:
        positive = positive & ~torch.eye(15, dtype=torch.bool)
    kwargs = {"ref_emb": y, "ref_labels": other_labels} if with_reference else {}
    found = LabelledInfoNCE(0.1)(x, labels, None, **kwargs)
    truth = nt_xent(x, y, 0.1, positive, negative)
    assert close(found, truth)
    gradients = [torch.autograd.grad(value, x)[0] for value in (found, truth)]
    assert close(*gradients)


def test_metric_learning_mined_indices() -> None:
    x = rows(10, 6, 1).requires_grad_()
    anchors, positives = torch.tensor([0, 0, 3]), torch.tensor([1, 2, 4])
    others, negatives = torch.tensor([0, 3, 3, 8]), torch.tensor([5, 6, 7, 9])
    positive, negative = torch.zeros(2, 10, 10, dtype=torch.bool)
    positive[anchors, positives], negative[others, negatives] = True, True
    truth = nt_xent(x, x, 0.1, positive, negative)
    assert close(LabelledInfoNCE(0.1)(x, None, (anchors, positives, others, negatives)), truth)
    triplets = (torch.tensor([0, 3]), torch.tensor([1, 4]), torch.tensor([5, 6]))
    positive, negative = torch.zeros(2, 10, 10, dtype=torch.bool)
    positive[[0, 3], [1, 4]], negative[[0, 3], [5, 6]] = True, True
    found = LabelledInfoNCE(0.1)(x, None, triplets)
    assert close(found, nt_xent(x, x, 0.1, positive, negative))
    (gradient,) = torch.autograd.grad(found, x)
    assert bool(torch.isfinite(gradient).all())
    assert gradient[[2, 7, 8, 9]].norm() == 0


def test_metric_learning_without_positives_is_zero() -> None:
    x = rows(4, 3, 1).requires_grad_()
    loss = LabelledInfoNCE(0.1)(x, torch.arange(4))
    loss.backward()
    assert loss == 0
    assert x.grad.norm() == 0
    with pytest.raises(im.InputError, match="labels are missing"):
        LabelledInfoNCE(0.1)(x)


def test_real_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels = rows(15, 6, 1).requires_grad_(), torch.arange(15) % 4
    y, other_labels = rows(9, 6, 2), torch.arange(9) % 5
    for arguments in ((x, labels), (x, labels, None, y, other_labels)):
        ours, theirs = LabelledInfoNCE(0.1)(*arguments), losses.NTXentLoss(0.1)(*arguments)
        assert close(ours, theirs, 1e-9)
        assert close(torch.autograd.grad(ours, x)[0], torch.autograd.grad(theirs, x)[0], 1e-9)
    mined = tuple(torch.tensor(v) for v in ([0, 4], [1, 8], [0, 0, 4], [5, 6, 7]))
    assert close(LabelledInfoNCE(0.1)(x, labels, mined), losses.NTXentLoss(0.1)(x, labels, mined), 1e-9)
