"""General losses across ranks: values and gradients are those of one process on the whole batch."""

import re
from pathlib import Path

import pytest
import torch

from rank_processes import load_worker, run_ranks

WORKER = Path(__file__).with_name("general_rank_worker.py")


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda w: f"world{w}")
def world(request, tmp_path_factory: pytest.TempPathFactory):
    """Run everything on that many processes, once; the ranks' findings."""
    size = request.param
    return size, run_ranks(WORKER, size, tmp_path_factory.mktemp("ranks"), timeout=150)


def test_ranks_equal_one_process(world) -> None:
    size, ranks = world
    for name, (value, gradients) in load_worker(WORKER).outcome(0, size, None).items():
        for said in ranks:
            assert abs(said["found"][name][0] - value) < 1e-12 * max(1.0, abs(value)), name
        for at, truth in enumerate(gradients):
            parts = [said["found"][name][1][at] for said in ranks]
            if truth is None:
                assert all(part is None or not part.any() for part in parts), name
            elif truth.ndim == 0:  # the temperature's is whole on every rank
                assert all(abs(part - truth) < 1e-10 * max(1.0, abs(truth)) for part in parts), name
            else:  # DistributedDataParallel divides by the world size
                whole = torch.cat(parts) / size
                assert (whole - truth).norm() < 1e-10 * max(truth.norm(), 1e-3), name


def test_the_losses_of_a_ranks_own_rows(world) -> None:
    size, ranks = world
    for name, truth in load_worker(WORKER).of_each(0, size, None).items():
        found = torch.cat([said["each"][name] for said in ranks])
        torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-13, msg=name)


def test_no_objects_travel(world) -> None:
    """Pickled objects cost two collectives and a copy to the host; they travel only where something is wrong."""
    assert [said["objects"] for said in world[1]] == [0] * world[0]


def test_every_rank_holds_the_same_queue(world) -> None:
    size, ranks = world
    for name, (values, gradients, state) in load_worker(WORKER).queues(0, size, None).items():
        for said in ranks:
            found, _, held = said["queues"][name]
            torch.testing.assert_close(found, values, rtol=1e-12, atol=0)
            assert held.keys() == state.keys()
            for key, tensor in state.items():
                assert torch.equal(held[key], tensor), (name, key)
        for at, truth in enumerate(gradients):
            whole = torch.cat([said["queues"][name][1][at] for said in ranks]) / size
            assert (whole - truth).norm() < 1e-10 * truth.norm(), name


def test_as_many_captions_as_there_are(world) -> None:
    size, ranks = world
    for name, (value, of_x, of_y) in load_worker(WORKER).captions(0, size, None).items():
        for said in ranks:
            assert abs(said["captions"][name][0] - value) < 1e-12 * value, name
        whole = torch.cat([said["captions"][name][1] for said in ranks]) / size
        assert (whole - of_x).norm() < 1e-10 * of_x.norm(), name
        whole = sum(said["captions"][name][2] for said in ranks) / size
        assert (whole - of_y).norm() < 1e-10 * of_y.norm(), name


ELSEWHERE = "disagree on the loss or its options: rank {last} makes another call than rank 0"


@pytest.mark.parametrize(
    ("name", "words", "alone"),
    [
        ("directions", "disagree on loss: rank 0 has yx of", "no error"),
        ("how many directions", "disagree on loss: rank 0 has xy of", "no error"),
        ("setting", r"rank {last}: directions is \('up',\); expected some of", None),
        ("several", "disagree on terms", "no error"),
        ("loss", ELSEWHERE, "no error"),
        ("lengths", r"disagree on dims: rank 0 has \[\(2, 1.0\), \(5, 1.0\)\]", "no error"),
        ("length", "rank {last}: dims holds 6, and the rows have 5 features", None),
        ("log-weights", "rank {last}: log_weights has NaN", None),
        ("negative log-weights", "rank {last}: negative_log_weights has NaN", None),
        ("outside", "rank {last}: positives points outside the 4 anchors and 4 candidates", None),
        ("pairs outside", "rank {last}: pairs points outside the 4 rows of x and 4 rows of y", None),
        ("no pairs", "pairs is a list", None),
        ("no positive", "rank {last}: anchor 0 has no positive", None),
        ("no negative", "rank 0: anchor 0 has no negative left", None),
        ("queue", "the queue holds rows of 3 features; got 5", None),
        ("questions", "rank {last}: pairs points outside the 4 rows of x and 4 rows of y", None),
        ("counted", "disagree on counted_as: rank 0 has each", "no error"),
        ("modalities", "disagree on the number of modalities", "no error"),
        ("one modality", "rank {last}: modalities is a sequence of 1", None),
    ],
)
def test_what_is_wrong_on_one_rank_is_said_by_all(world, name: str, words: str, alone: str | None) -> None:
    size, ranks = world
    said = [rank["said"][name] for rank in ranks]
    assert len(set(said)) == 1
    assert "\n" not in said[0]
    if size == 1 and alone is not None:
        assert said == [alone]
    else:
        assert re.search(words.format(last=size - 1), said[0]), said[0]
