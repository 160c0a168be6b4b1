"""Time and memory of a full report against the bare matrix products of the three full Gram matrices, in one process.

    python benchmarks/bench_report.py [--images 5000] [--captions 5] [--dim 512] [--repeats 3]

Prints the ratio of each round and their median, beside the hardware. Both sides use the same threads and run in turn,
so that a machine whose speed drifts changes them alike.
"""

import argparse
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import infomech as im


def clip_like(images: int, captions: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows with a gap and a cone, `captions` rows of y to each of x."""
    g = torch.Generator().manual_seed(0)
    latent = torch.randn(images, dim, generator=g)
    x = latent + 1.2 * torch.randn(images, dim, generator=g)
    y = latent.repeat_interleave(captions, 0) + 1.2 * torch.randn(images * captions, dim, generator=g)
    x[:, :8] += 6.0
    y[:, 8:16] += 6.0
    pairs = torch.stack([torch.arange(images).repeat_interleave(captions), torch.arange(images * captions)], 1)
    return torch.nn.functional.normalize(x, dim=1), torch.nn.functional.normalize(y, dim=1), pairs


def bare_products(x: Tensor, y: Tensor, side: int = 5000) -> float:
    """Seconds for x x^T, y y^T and x y^T, whole, in slabs that reuse one buffer."""
    out = torch.empty(side, side)
    started = time.perf_counter()
    for a, b in ((x, x), (y, y), (x, y)):
        for rows in a.split(side):
            for cols in b.split(side):
                torch.mm(rows, cols.T, out=out[: len(rows), : len(cols)])
    return time.perf_counter() - started


def peak_megabytes() -> float:
    """Largest resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    x, y, pairs = clip_like(options.images, options.captions, options.dim)
    small = slice(0, 500)
    im.diagnose(
        x[small], y[: 500 * options.captions], pairs=pairs[: 500 * options.captions], temperature=0.07
    )  # imports and caches
    before = peak_megabytes()
    im.diagnose(x, y, pairs=pairs, temperature=0.07)
    memory = peak_megabytes() - before
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{len(x):,} x {len(y):,} rows, d = {options.dim}, float32, all pairs; {time.strftime('%Y-%m-%d')}")
    for temperature in (0.07, 0.01):
        ratios, numbers, saves = [], [], []
        for _ in range(options.repeats):
            bare = bare_products(x, y)
            started = time.perf_counter()
            report = im.diagnose(x, y, pairs=pairs, temperature=temperature)
            numbers.append(time.perf_counter() - started)
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                report.save(Path(folder) / "report")
                saves.append(time.perf_counter() - started)
            ratios.append(((numbers[-1] + saves[-1]) / bare, numbers[-1] / bare, bare))
        whole, only, bare = (statistics.median(r[k] for r in ratios) for k in range(3))
        print(
            f"tau = {temperature:<5} products {bare:6.2f} s   numbers {statistics.median(numbers):6.2f} s = "
            f"{only:.2f} x   files {statistics.median(saves):5.2f} s   whole report {whole:.2f} x"
        )
    print(f"peak memory over the inputs and the imports: {memory:.0f} MB")


if __name__ == "__main__":
    main()
