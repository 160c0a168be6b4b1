"""Times candidate tiles of the kernels on this card: the table in `reductions/kernels/configs.py` is filled from it.

    python benchmarks/tune_kernels.py [--only half tf32 three ieee]

For each kind of product: device time of the log-sums both ways, of the gradients (weights, then two products of the
library) and of the sum of softplus with its own, in milliseconds and TFLOP/s; candidates that do not fit are said to.
"""

import argparse
import os
import subprocess
import sys
import time
from functools import partial

import torch

from infomech.reductions.kernels.configs import Tiles
from infomech.reductions.kernels.gradients import Side, gradients
from infomech.reductions.kernels.log_sums import log_sums
from infomech.reductions.kernels.rows import levels
from infomech.reductions.kernels.scores import scores
from infomech.reductions.kernels.softplus import softplus_sum

HALF = ((256, 128, 64, 8, 3), (256, 128, 64, 8, 4), (128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (128, 128, 64, 8, 4),
        (128, 128, 64, 4, 4), (128, 128, 64, 4, 3), (256, 128, 64, 8, 3, 16), (128, 256, 64, 8, 3, 16))  # fmt: skip
WIDE = ((128, 128, 32, 8, 4), (256, 128, 32, 8, 3), (128, 256, 32, 8, 3), (128, 128, 32, 4, 4))
PLAIN = ((128, 64, 32, 8, 3), (128, 128, 16, 8, 3), (64, 64, 32, 4, 3), (128, 128, 32, 8, 2))
CASES = {
    "half": (32768, torch.bfloat16, None, HALF),
    "three": (16384, torch.float32, "highest", HALF[:6]),
    "tf32": (16384, torch.float32, "high", WIDE),
    "ieee": (8192, torch.float32, "float32", PLAIN),
}


def milliseconds(work: object, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats + 2):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
    return sorted(times[2:])[repeats // 2]


def compile_all(names: list[str]) -> None:
    """Compile every candidate on a core of its own: the measuring process finds them in Triton's cache."""
    begun, waiting = time.time(), [(name, k) for name in names for k in range(len(CASES[name][3]))]
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        running = [p for p in running if p.poll() is None]
        while waiting and len(running) < max(1, (os.cpu_count() or 2) - 2):
            name, k = waiting.pop(0)
            command = [sys.executable, __file__, "--only", name, "--candidate", str(k)]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(0.1)
    print(f"compiled in {time.time() - begun:.0f} s", flush=True)


def measure(name: str, d: int = 512, only: int | None = None) -> None:
    n, dtype, precision, candidates = CASES[name]
    if only is not None:
        n, candidates = 512, candidates[only : only + 1]
    gen = torch.Generator(device="cuda").manual_seed(0)
    x, y = (
        torch.nn.functional.normalize(torch.randn(n, d, generator=gen, device="cuda"), dim=1).to(dtype) for _ in "xy"
    )
    bias = torch.full((n,), -10.0, dtype=torch.float64, device="cuda")
    for tau in (0.05, 0.01):
        scale = torch.full((), 1 / tau, dtype=torch.float64, device="cuda")
        s, _ = scores(x, y, scale, own=True, precision=precision)
        biased, _ = scores(x, y, scale, y_terms=bias, own=True, precision=precision)
        sums = log_sums(s, keep_own=True, tiles=Tiles(*candidates[-1]))[:2]
        peaks, totals = (torch.stack([getattr(z, field) for z in sums]) for field in ("peak", "total"))
        level, factor, _ = levels(torch.ones_like(peaks), peaks, totals, 1.0)
        a, b = (Side(*z) for z in zip(level, factor, strict=True))
        for candidate in candidates:
            begun, cells, tiles = time.time(), [], Tiles(*candidate)
            for what, products, work in (
                ("sums", 1, lambda t, s=s: log_sums(s, keep_own=True, tiles=t)),
                ("gradients", 3, lambda t, s=s, a=a, b=b: gradients(s, a, b, tiles=t)),
                ("softplus", 3, lambda t, s=biased: softplus_sum(s, terms=True, tiles=t)),
            ):
                try:
                    t = milliseconds(partial(work, tiles))
                    cells.append(f"{what} {t:7.2f} ms {2 * products * n * n * d / t / 1e9:4.0f} TFLOP/s")
                except Exception as error:
                    cells.append(f"{what} {type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}")
            took = f"({time.time() - begun:.0f} s)"
            print(f"{name:5} N={n} tau={tau} {candidate!s:26}", "  ".join(cells), took, flush=True)


def main() -> None:
    """Measure the kinds of products that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--candidate", type=int, help="compile this one and measure nothing of use")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to measure")
    print(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), "torch", torch.__version__, flush=True)
    if options.candidate is None:
        compile_all(options.only)
    for name in options.only:
        measure(name, only=options.candidate)


if __name__ == "__main__":
    main()
