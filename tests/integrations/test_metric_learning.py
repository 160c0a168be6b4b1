"""The labelled loss beside pytorch-metric-learning's own, with its miners, in its wrappers and its trainer."""

import copy
import logging
import pickle
import warnings

import pytest
import torch

import infomech as im
from infomech.integrations import LabelledInfoNCE

losses = pytest.importorskip("pytorch_metric_learning.losses")
miners = pytest.importorskip("pytorch_metric_learning.miners")

MINERS = {
    "none": lambda: None,
    "triplets": lambda: miners.TripletMarginMiner(margin=0.3),
    "multi-similarity": lambda: miners.MultiSimilarityMiner(),
    "pairs": lambda: miners.PairMarginMiner(),
    "hard": lambda: miners.BatchHardMiner(),
    "easy and hard": lambda: miners.BatchEasyHardMiner(),
    "by distance": lambda: miners.DistanceWeightedMiner(),
    "histogram": lambda: miners.UniformHistogramMiner(num_bins=5, pos_per_bin=3, neg_per_bin=3),
}


def batch(n: int, dtype: torch.dtype, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(), torch.randint(0, max(2, n // 3), (n,), generator=generator)


def same(ours, theirs, leaf, dtype) -> None:
    """Of half precision that library rounds every score: its own error is the tolerance."""
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    assert abs(ours.double() - theirs.double()) <= tolerance * max(1.0, abs(theirs))
    found, truth = (torch.autograd.grad(value, leaf)[0].double() for value in (ours, theirs))
    assert (found - truth).norm() <= 10 * tolerance * max(0.1, truth.norm())


@pytest.mark.parametrize("name", MINERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mined_batches(name: str, dtype: torch.dtype) -> None:
    miner = MINERS[name]()
    torch.manual_seed(0)  # some miners draw
    compared = 0
    for n in (2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 31, 33):
        x, labels = batch(n, dtype, n)
        try:
            mined = None if miner is None else miner(x.detach(), labels)
        except RuntimeError:
            continue  # a miner of that library that cannot take so small a batch
        same(LabelledInfoNCE(0.2)(x, labels, mined), losses.NTXentLoss(0.2)(x, labels, mined), x, dtype)
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_size_up_to_65(dtype: torch.dtype) -> None:
    for n in range(2, 66):
        x, labels = batch(n, dtype, 100 + n)
        same(LabelledInfoNCE(0.5)(x, labels), losses.NTXentLoss(0.5)(x, labels), x, dtype)


def test_repeated_negatives_count() -> None:
    """The case that was reported: triplets name a negative once for each positive of its anchor."""
    x, labels = batch(20, torch.float64, 3)
    mined = miners.TripletMarginMiner(margin=10.0)(x.detach(), labels)
    entries = mined[0] * 20 + mined[2]
    assert len(entries.unique()) < len(entries)
    same(LabelledInfoNCE(0.07)(x, labels, mined), losses.NTXentLoss(0.07)(x, labels, mined), x, torch.float64)
    single = [part[:1] for part in mined]
    assert losses.NTXentLoss(0.07)(x, labels, single) == LabelledInfoNCE(0.07)(x, labels, single) == 0


def test_random_tuples_and_references() -> None:
    generator = torch.Generator().manual_seed(5)
    for trial in range(40):
        x, labels = batch(9, torch.float64, trial)
        y, other = batch(7, torch.float64, 50 + trial)
        pairs, negatives = torch.randint(0, 12, (2,), generator=generator).tolist()
        draw = lambda high, count: torch.randint(0, high, (count,), generator=generator)  # noqa: E731
        mined = (draw(9, pairs), draw(7, pairs), draw(9, negatives), draw(7, negatives))
        for chosen, at in ((mined, slice(None)), (None, slice(None)), (None, slice(1))):
            arguments = (x, labels, chosen, y[at], other[at])
            ours, theirs = (make(0.2)(*arguments) for make in (LabelledInfoNCE, losses.NTXentLoss))
            same(ours, theirs, x, torch.float64)
    arguments = (x, labels, None, x.detach().flip(0), labels)
    same(LabelledInfoNCE(0.2)(*arguments), losses.NTXentLoss(0.2)(*arguments), x, torch.float64)


def test_one_row_is_zero_and_said_once() -> None:
    x, labels = batch(1, torch.float32, 0)
    loss = LabelledInfoNCE(0.2)
    with pytest.warns(UserWarning, match="holds one pair"):
        value = loss(x, labels)
    value.backward()
    assert value == 0
    assert x.grad.abs().sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(x, labels)


@pytest.mark.parametrize("miner", ["none", "multi-similarity"])
def test_cross_batch_memory(miner: str) -> None:
    memories = [
        losses.CrossBatchMemory(loss, 6, memory_size=24, miner=MINERS[miner]())
        for loss in (LabelledInfoNCE(0.2), losses.NTXentLoss(0.2))
    ]
    for seed in range(5):
        x, labels = batch(10, torch.float64, seed)
        same(*(memory(x, labels) for memory in memories), x, torch.float64)
        mined = miners.TripletMarginMiner(margin=1.0)(x.detach(), labels)
        same(*(memory(x, labels, mined) for memory in memories), x, torch.float64)


@pytest.mark.parametrize("symmetric", [True, False])
def test_self_supervised(symmetric: bool) -> None:
    x, _ = batch(10, torch.float64, 1)
    y, _ = batch(10, torch.float64, 2)
    ours, theirs = (
        losses.SelfSupervisedLoss(loss, symmetric=symmetric)(x, y)
        for loss in (LabelledInfoNCE(0.2), losses.NTXentLoss(0.2))
    )
    same(ours, theirs, x, torch.float64)


@pytest.mark.filterwarnings("ignore:DistributedLossWrapper is being used:UserWarning")
def test_distributed_wrapper() -> None:
    """In one process; with several, rows of the other ranks come as ref_emb or as part of the batch."""
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    x, labels = batch(10, torch.float64, 1)
    ours, theirs = (DistributedLossWrapper(loss)(x, labels) for loss in (LabelledInfoNCE(0.2), losses.NTXentLoss(0.2)))
    same(ours, theirs, x, torch.float64)


def test_copies_and_names() -> None:
    x, labels = batch(10, torch.float64, 1)
    loss = LabelledInfoNCE(0.2)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(x, labels), loss(x, labels))
    assert repr(loss).startswith("LabelledInfoNCE(")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("mined", "words"),
    [
        ((torch.tensor([0]), torch.tensor([1])), "2 parts"),
        ((torch.tensor([0]), torch.tensor([1]), torch.tensor([9])), "points outside the 4 rows"),
        ((torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([2])), "2 anchors for 1 positives"),
        (([0], [1], [2]), "indices_tuple is a list"),
    ],
)
def test_bad_tuples(mined, words: str) -> None:
    with pytest.raises(im.InputError, match=words):
        LabelledInfoNCE(0.2)(torch.eye(4), torch.tensor([0, 0, 1, 1]), mined)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")  # its progress bar
def test_in_its_trainer() -> None:
    """MetricLossOnly for two epochs, mined, with a last batch of one row: the weights are those of its own loss."""
    from pytorch_metric_learning import trainers

    logging.getLogger("PML").setLevel(logging.ERROR)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 8, generator=generator)
    labels = torch.arange(33) % 4
    data = torch.utils.data.TensorDataset(centres[labels] + 0.3 * torch.randn(33, 8, generator=generator), labels)
    found = []
    for loss in (LabelledInfoNCE(0.2), losses.NTXentLoss(0.2)):
        torch.manual_seed(1)
        trunk = torch.nn.Linear(8, 4)
        trainer = trainers.MetricLossOnly(
            models={"trunk": trunk},
            optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
            batch_size=16,
            loss_funcs={"metric_loss": loss},
            dataset=data,
            mining_funcs={"tuple_miner": miners.TripletMarginMiner(margin=0.5)},
            sampler=list(range(33)),
            dataloader_num_workers=0,
            iterations_per_epoch=2,
            data_device=torch.device("cpu"),
        )
        trainer.train(num_epochs=2)
        found.append(trunk.weight.detach().clone())
    torch.manual_seed(1)
    assert not torch.equal(found[0], torch.nn.Linear(8, 4).weight)
    assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm()
