"""Across ranks: values and gradients under DistributedDataParallel are those of one process on the whole batch."""

import re
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech.losses import Ranks
from rank_processes import load_worker, run_ranks

WORKER = Path(__file__).with_name("rank_worker.py")


@pytest.fixture(scope="module", params=[1, 2, 3, pytest.param(4, marks=pytest.mark.slow)], ids=lambda w: f"world{w}")
def world(request, tmp_path_factory: pytest.TempPathFactory):
    """Run all cases on that many processes, once; the ranks' findings."""
    size, folder = request.param, tmp_path_factory.mktemp("ranks")
    return size, run_ranks(WORKER, size, folder, timeout=150)


def same(found, truth) -> None:
    assert abs(found["value"] - truth["value"]) <= 1e-12 * max(1.0, abs(truth["value"]))
    for name, gradient in truth["gradients"].items():
        other = {key.replace(".module", ""): value for key, value in found["gradients"].items()}[name]
        assert (other - gradient).norm() <= 1e-10 * max(gradient.norm(), 1e-3), name


def test_every_case_equals_one_process(world) -> None:
    size, ranks = world
    worker = load_worker(WORKER)
    for name in worker.CASES:
        truth = worker.run_case(name, 0, size, whole=True)
        assert all(g.norm() > 0 for g in truth["gradients"].values()), name
        for said in ranks:
            same(said["found"][name], truth)


def test_a_loss_outside_of_ddp_has_the_whole_temperature_gradient(world) -> None:
    size, ranks = world
    truth = load_worker(WORKER).run_case("uneven ring", 0, size, whole=True)
    for said in ranks:
        same(said["found"]["loss outside DDP"], truth)


@pytest.mark.parametrize("exchange", ["ring", "gather"])
def test_sigmoid(world, exchange: str) -> None:
    size, ranks = world
    truth = load_worker(WORKER).run_sigmoid(0, size, whole=True)
    for said in ranks:
        same(said["found"][f"sigmoid, {exchange}"], truth)


def test_critics_and_log_weights(world) -> None:
    size, ranks = world
    worker = load_worker(WORKER)
    for kind in worker.WEIGHED:
        truth = worker.run_weighed(kind, 0, size, whole=True)
        assert truth["gradients"]["weigh.weight"].norm() > 0, kind
        for said in ranks:
            same(said["found"][f"weighed {kind}"], truth)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("non-finite", "NaN or infinity"),
        ("width", "disagree on the number of features"),
        ("temperature", "disagree on temperature"),
        ("batch sizes", "4 rows and y has 2"),
        ("integers", "holds torch.int64"),
        ("gradients", "disagree on gradients"),
        ("lambda", "divergence_weight is nan"),
        ("different lambda", "disagree on divergence_weight"),
        ("lonely", "has no negative"),
        *(
            (kind + name, words)
            for kind in ("", "one direction, ", "sigmoid, ")
            for name, words in (
                ("backend", "disagree on backend/precision: rank 0 has auto, rank "),
                ("precision", "disagree on backend/precision: rank 0 has auto, rank "),
                ("no backend", "backend is 'cuda'; expected 'auto', 'tiles' or 'triton'"),
                ("no precision", "precision is 'fp32'; expected None, 'float32', 'highest', 'high' or 'medium'"),
            )
        ),
    ],
)
def test_every_rank_gets_the_error(world, name: str, words: str) -> None:
    size, ranks = world
    said = [rank["failures"][name] for rank in ranks]
    if size == 1 and ("disagree" in words):
        assert said == ["no error"]  # nobody to disagree with
        return
    assert len(set(said)) == 1
    assert words in said[0]
    assert "\n" not in said[0]
    if name not in ("lonely",):
        assert f"rank {size - 1}" in said[0]


@pytest.mark.parametrize(
    ("name", "words", "alone"),
    [
        ("dtype of y", "disagree on the dtype of y: rank 0 has torch.float32", "no error"),
        ("list", "x is a list; the losses take torch tensors", None),
        ("string", "x is a str; the losses take torch tensors", None),
        ("array", "x is a numpy.ndarray; the losses take torch tensors", None),
        ("array of lambdas", "divergence_weight is a numpy.ndarray", None),
        ("groups", r"groups has shape \(3,\)", None),
        ("groups list", "groups is a list", None),
        ("weights", "weights must be finite", None),
        ("zero weights everywhere", "weights must be finite", None),
        ("broken critic", "ArithmeticError: this critic is broken", None),
        ("temperature", "temperature is a str", None),
        ("bias", "bias is a list", None),
        ("long rows", "leave double precision", None),
        ("a scale of a call", "this SymmetricInfoNCE learns its own temperature, and is given one", None),
        ("no scale of a call", "the temperature is 14.29, the logit scale 0.07: is one given", None),
        ("a bias of a call", "this SigmoidLoss learns its own bias, and is given one", None),
        ("columns", "a batch has 1 columns", None),
    ],
)
def test_whatever_fails_on_one_rank_reaches_all(world, name: str, words: str, alone: str | None) -> None:
    size, ranks = world
    said = [rank["any failure"][name] for rank in ranks]
    if size == 1 and alone is not None:
        assert said == [alone]
        return
    assert len(set(said)) == 1
    assert re.search(words, said[0])
    assert "\n" not in said[0]
    if name != "zero weights everywhere":
        assert f"rank {size - 1}" in said[0]


def test_one_pair_in_all(world) -> None:
    _, ranks = world
    for said in ranks:
        assert said["last"]["clip"] == said["last"]["sentences"] == [0.0, 0.0]
        assert said["last"]["sigmoid"][0] == pytest.approx(torch.nn.functional.softplus(torch.tensor(-8.0)).item())


def test_weights_of_zero_on_one_rank(world) -> None:
    _, ranks = world
    for said in ranks:
        truth, *found = said["zero weights"]
        assert found == pytest.approx([truth, truth], rel=1e-12)


def test_copies_of_a_loss_with_a_group(world) -> None:
    _, ranks = world
    for said in ranks:
        first, *others = said["copies"]
        assert len(others) == 4
        assert others == pytest.approx([first] * 4, rel=1e-12)


def test_a_pickle_with_a_group_of_some_ranks(world) -> None:
    size, ranks = world
    words = "no error" if size == 1 else "saved with a process group of the ranks [0]; make one with"
    assert words in ranks[0]["elsewhere"]


def test_a_frozen_rank_is_said(world) -> None:
    size, ranks = world
    if size == 1:
        assert ranks[0]["frozen"] is None
        return
    for k, said in enumerate(ranks[:-1]):
        words, seconds = said["frozen"]
        assert words.startswith(f"rank {k}: ")
        assert "\n" not in words
        assert seconds < 3.3
    assert any("did not come within 1 s (set it with Ranks(timeout=))" in said["frozen"][0] for said in ranks)


def test_a_subgroup_of_the_ranks(world) -> None:
    size, ranks = world
    if size == 1:
        assert ranks[0]["subgroup"] is None
        return
    for said in ranks[1:]:
        ring, gather, truth = said["subgroup"]
        assert abs(ring - truth) < 1e-12
        assert abs(gather - truth) < 1e-12


def test_without_a_process_group() -> None:
    with pytest.raises(im.InputError, match="init_process_group") as caught:
        Ranks()
    line = str(caught.value)
    assert "\n" not in line
    assert eval(line.partition("ranks=")[2], {"Ranks": Ranks, "torch": torch}) is None  # what it says to write
