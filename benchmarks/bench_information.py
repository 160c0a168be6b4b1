"""What eight temperatures cost against one: the sweep over the matrix alone, and all that shared information sums up.

    python benchmarks/bench_information.py [--rows 5000 10000] [--dims 384 768] [--repeats 5]

CPU time of one thread, the two in turn; the best of each, and the median of their ratios.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from infomech.diagnosis.batch_budget import column_weights
from infomech.diagnosis.budget import default_batch
from infomech.diagnosis.information.anchors import Anchors, loss_table
from infomech.diagnosis.information.search import Grid, pilot_temperature
from infomech.diagnosis.information.shared import batches_for
from infomech.measures import PairedSample
from infomech.reductions import GroupedRows, KernelSums, sweep


def pairs_of(rows: int, dim: int) -> PairedSample:
    """Unit rows that share half of their variance, which falls off over the dimensions as it does in encoders."""
    g = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1) ** -0.5
    latent = torch.randn(rows, dim, generator=g)
    x, y = ((latent + torch.randn(rows, dim, generator=g)) * scale for _ in range(2))
    return PairedSample.from_embeddings(x, y, normalize=True)


def matrix_alone(anchors: Anchors, temperatures: Sequence[float]) -> None:
    """The sums by block of one direction, every row an anchor, and their logarithms."""
    rows, lent = anchors.batches.sample.x, anchors.negatives("xy")
    ones = torch.ones(len(rows), dtype=torch.float64)
    every = GroupedRows(rows.values, ones, rows.groups, (0, len(rows)))
    sums = KernelSums(every, lent, temperature=temperatures, each_block=True, squares=False, columns=False)
    sweep(every, lent, [sums])
    for table in sums.at:
        table.by_row.log_sums.sum()


def in_turn(eight: Callable[[], object], one: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """CPU seconds of each at best, and the median ratio."""
    taken = []
    for _ in range(repeats):
        marks = [time.process_time()]
        for run in (eight, one):
            run()
            marks.append(time.process_time())
        taken.append((marks[1] - marks[0], marks[2] - marks[1]))
    return min(a for a, _ in taken), min(b for _, b in taken), statistics.median(a / b for a, b in taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 10_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}; {time.strftime('%F')}")
    for rows in options.rows:
        for dim in options.dims:
            sample = pairs_of(rows, dim)
            batches = batches_for(sample, default_batch(rows) - 1)
            anchors = Anchors.of(batches)
            at = column_weights(batches.layout, default_batch(rows) - 1)
            grid = Grid.around(pilot_temperature(anchors, default_batch(rows) - 1)[0]).temperatures
            matrix_alone(anchors, grid)
            cases: list[tuple[str, Callable[..., object]]] = [
                ("the sweep", partial(matrix_alone, anchors)),
                ("all sums", partial(loss_table, anchors, at=at)),
            ]
            for name, case in cases:
                eight, one, ratio = in_turn(partial(case, grid), partial(case, grid[3:4]), options.repeats)
                where = f"{rows:6,} rows, d = {dim:4}, tau from {grid[0]:.3f} to {grid[-1]:.3f}, {name}"
                print(f"{where}: 8 temperatures {eight:6.2f} s, 1 {one:6.2f} s, x {ratio:.2f}")


if __name__ == "__main__":
    main()
