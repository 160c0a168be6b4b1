"""The ring on kernels, block by block, with transfers under the work: two processes and Triton's interpreter."""

from pathlib import Path

import pytest

from rank_processes import load_worker, run_ranks

pytest.importorskip("triton")
WORKER = Path(__file__).with_name("kernel_rank_worker.py")
CASES = ["cold control", "groups and log-weights", "sigmoid", "bfloat16", "one direction"]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)], ids=lambda w: f"world{w}")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return request.param, run_ranks(WORKER, request.param, tmp_path_factory.mktemp("ranks"), timeout=150)


@pytest.mark.parametrize("name", CASES)
def test_the_ring_on_kernels_is_one_process_on_tiles(world, name: str) -> None:
    """Bare float32 to 1e-6 of the largest score; bfloat16 weights are cut off at 2^-7 by the interpreter."""
    size, ranks = world
    truth = load_worker(WORKER).run_case(name, 0, size, backend="tiles", whole=True)
    tolerance = {"bfloat16": 2.0**-7, "cold control": 2e-4}.get(name, 1e-5)
    start = 0
    for said in ranks:
        found = said["found"][name]
        assert abs(found["value"] - truth["value"]) <= min(tolerance, 2e-5) * max(1.0, abs(truth["value"]))
        rows = slice(start, start + len(found["x"]))
        for key in "xy":
            ours, theirs = found[key].float() / size, truth[key].float()  # every rank's own loss is differentiated
            assert (ours - theirs[rows]).norm() <= 2 * tolerance * theirs.norm(), key
        assert abs(found["scale"] - truth["scale"]) <= tolerance * max(abs(truth["scale"]), 1e-3)
        start = rows.stop


def test_transfers_start_before_the_work_and_end_after_it(world) -> None:
    size, ranks = world
    # The rows of the next shard; from the second visit on the sums of the one before as well; then these go home.
    middle = [event for k in range(1, size - 1) for event in ("start", "start", f"visit {k}", "arrive")]
    wanted = ["start", "visit 0", "arrive", *middle, "start", f"visit {size - 1}", "arrive", "start", "arrive"]
    for rank, said in enumerate(ranks):
        assert said["events"] == wanted
        assert said["home"].item() == 10 * size * rank + sum(range(size))


def test_every_block_was_met_by_kernels(world) -> None:
    """Across from every shard, and within each modality from half of the others."""
    size, ranks = world
    assert list(load_worker(WORKER).CASES) == CASES
    for said in ranks:
        assert said["blocks"] >= size * (len(CASES) - 2)  # the sigmoid loss has no log-sums, one direction gathers
