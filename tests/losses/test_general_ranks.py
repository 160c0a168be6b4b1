"""General losses across ranks: values and gradients are those of one process on the whole batch."""

from pathlib import Path

import pytest
import torch

from rank_processes import load_worker, run_ranks

WORKER = Path(__file__).with_name("general_rank_worker.py")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_equal_one_process(world: int, tmp_path: Path) -> None:
    worker, ranks = load_worker(WORKER), run_ranks(WORKER, world, tmp_path, timeout=120)
    for name, (value, gradients) in worker.outcome(0, world, None).items():
        for found in ranks:
            assert abs(found[name][0] - value) < 1e-12 * max(1.0, abs(value)), name
        for at, truth in enumerate(gradients):
            parts = [found[name][1][at] for found in ranks]
            if truth is None:
                assert all(part is None or not part.any() for part in parts), name
            elif truth.ndim == 0:  # the temperature's is whole on every rank
                assert all(abs(part - truth) < 1e-10 * max(1.0, abs(truth)) for part in parts), name
            else:  # DistributedDataParallel divides by the world size
                whole = torch.cat(parts) / world
                assert (whole - truth).norm() < 1e-10 * max(truth.norm(), 1e-3), name
