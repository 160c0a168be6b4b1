"""What docs/choose-a-loss.md writes in place of another library's loss is that loss, in value and gradient."""

import pytest
import torch
from torch import nn

from infomech.losses import FalseNegatives, Guide, Hardness, InfoNCE, MatryoshkaInfoNCE, SymmetricInfoNCE

FOUR = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


def same(leaves, found, truth, *, tolerance: float = 1e-10) -> None:
    assert abs(found - truth) < tolerance * abs(truth)
    gradients = (torch.autograd.grad(value, leaves) for value in (found, truth))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() < 10 * tolerance * b.norm()


def texts(naive):
    """Questions, answers near them, and a hard negative each."""
    questions = naive.rows(12, 6, 1)
    answers = naive.unit(questions + 0.7 * naive.rows(12, 6, 2))
    return [z.requires_grad_() for z in (questions, answers, naive.rows(12, 6, 3))]


@pytest.mark.filterwarnings("ignore")
def test_multiple_negatives_ranking_loss(naive) -> None:
    losses = pytest.importorskip("sentence_transformers.losses")
    questions, answers, hard = texts(naive)
    theirs = losses.MultipleNegativesRankingLoss(nn.Identity(), scale=20)
    ours = InfoNCE(temperature=1 / 20, share_negatives=True, normalize=True)
    truth = theirs.compute_loss_from_embeddings([questions, answers, hard], None)
    same([questions, answers, hard], ours(questions, answers, negatives=hard[:, None]), truth)

    theirs = losses.MultipleNegativesRankingLoss(
        nn.Identity(), scale=20, directions=FOUR, hardness_mode="hard_negatives", hardness_strength=5.0
    )
    ours = SymmetricInfoNCE(
        1 / 20, directions=("xy", "xx", "yx", "yy"), partition="joint", share_negatives=True, normalize=True,
        hardness=Hardness(5.0, on="hard_negatives", directions=("xy",)),
    )  # fmt: skip
    truth = theirs.compute_loss_from_embeddings([questions, answers, hard], None)
    same([questions, answers, hard], ours(questions, answers, negatives_y=hard[:, None]), truth)


@pytest.mark.filterwarnings("ignore")
def test_matryoshka(naive) -> None:
    losses = pytest.importorskip("sentence_transformers.losses")
    columns = texts(naive)
    model = Column()
    plain = losses.MultipleNegativesRankingLoss(model, scale=20)
    theirs = losses.MatryoshkaLoss(model, plain, [6, 3, 2], matryoshka_weights=[1, 0.5, 0.25])
    truth = theirs([{"rows": rows} for rows in columns], None)
    ours = MatryoshkaInfoNCE((6, 3, 2), 1 / 20, dim_weights=(1, 0.5, 0.25), directions=("xy",))
    same(columns, ours(columns[0], columns[1], negatives_y=columns[2]), truth)


class Column(nn.Module):
    """A model whose embeddings are its inputs."""

    def forward(self, features):
        return {"sentence_embedding": features["rows"]}

    def get_embedding_dimension(self):
        return 6


class Embedded(nn.Module):
    """A model whose embeddings are at hand."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, features):
        return {"sentence_embedding": features[self.name]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["absolute", "relative"])
def test_gist(naive, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = pytest.importorskip("sentence_transformers.losses")
    questions, answers, _ = texts(naive)
    seen = naive.rows(12, 4, 5)
    guide = Guide(seen, naive.unit(seen + 0.4 * naive.rows(12, 4, 6)))
    theirs = losses.GISTEmbedLoss.__new__(losses.GISTEmbedLoss)  # its constructor wants two models with tokenizers
    nn.Module.__init__(theirs)
    settings = {
        "model": Embedded("ours"), "guide": Embedded("theirs"), "temperature": 0.05, "margin_strategy": strategy,
        "margin": 0.1, "contrast_anchors": True, "contrast_positives": True, "gather_across_devices": False,
        "must_retokenize": False, "similarity_fct": nn.CosineSimilarity(dim=-1),
        "cross_entropy_loss": nn.CrossEntropyLoss(),
    }  # fmt: skip
    for name, value in settings.items():
        setattr(theirs, name, value)
    truth = theirs([{"ours": questions, "theirs": guide.x}, {"ours": answers, "theirs": guide.y}], None)
    cut = FalseNegatives(0.1, relative=strategy == "relative")
    ours = SymmetricInfoNCE(0.05, directions=("xy", "xx", "yy"), partition="joint", false_negatives=cut, normalize=True)
    same([questions, answers], ours(questions, answers, guide=guide), truth)


@pytest.mark.filterwarnings("ignore")
def test_cross_batch_memory(naive) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    theirs = losses.CrossBatchMemory(losses.SupConLoss(0.1), 6, memory_size=50)
    ours = InfoNCE(0.1, same_group="positive", queue_size=50 - 14, dim=6, normalize=True).double()
    for step in range(6):  # their memory holds the batch itself, ours the batches before
        rows = (2.0 * naive.rows(14, 6, 10 + step)).requires_grad_()
        labels = (torch.arange(14) * (step + 1)) % 5 % (4 if step < 2 else 5)
        labels = torch.cat([labels[:7], labels[:7]])  # everyone has a partner
        found = ours(rows, rows.detach(), groups=labels, exclude_own=True)
        truth = theirs(rows, labels)
        same([rows], found, truth)


def test_moco_and_memory_bank(naive) -> None:
    """lightly's loss with a memory bank: the partner against the bank's rows, in one direction."""
    x, y, bank = 2.0 * naive.rows(9, 5, 1), naive.rows(9, 5, 2), naive.rows(20, 5, 3)
    x, y = x.requires_grad_(), y.requires_grad_()
    ours = InfoNCE(0.5, in_batch=False, queue_size=20, dim=5, normalize=True).double()
    ours.enqueue(bank)
    anchors, partners = naive.unit(x), naive.unit(y)
    logits = torch.cat([(anchors * partners).sum(1, keepdim=True), anchors @ bank.mT], 1) / 0.5
    truth = torch.nn.functional.cross_entropy(logits, torch.zeros(9, dtype=torch.int64))
    same([x, y], ours(x, y), truth)
