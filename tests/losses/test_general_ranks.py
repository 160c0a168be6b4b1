"""General losses across ranks: values and gradients are those of one process on the whole batch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("general_rank_worker.py")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_equal_one_process(world: int, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("general_rank_worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(world), str(tmp_path / "init"), str(tmp_path / "out")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-3000:]
    ranks = [torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in range(world)]
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
