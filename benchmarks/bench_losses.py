"""Time and memory of the symmetric loss, beside the products that it needs and the formulas that people use.

    python benchmarks/bench_losses.py [--sizes 4096 8192 16384] [--repeats 3] [--json results.json]
    python benchmarks/bench_losses.py --options [--sizes 4096 8192] [--repeats 5]

Every case runs in a process of its own on one thread: process CPU time, the best of the repeats, forward and backward
in float32 with d = 512; memory is the growth of the peak resident set over the inputs. Ratios are within one run.

With ``--options`` what a loss can be asked for is compared with what it adds to: both take turns in one process, and
the ratio is that of the best times.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infomech.losses import (
    FalseNegatives,
    Guide,
    Hardness,
    infonce,
    matryoshka_infonce,
    sigmoid_loss,
    symmetric_infonce,
)
from infomech.reductions.tiling import blocks, tile_shape

DIM, TAU = 512, 0.07


def four_products(x: Tensor, y: Tensor) -> None:
    """The floor: scores twice, and one product for each gradient, in tiles of the same shape as the loss uses."""
    x, y = x.detach(), y.detach()
    height, width = tile_shape(x.device)
    buffer, grads = torch.empty(height * width), (torch.zeros_like(x), torch.zeros_like(y))
    for backward in (False, True):
        for i in blocks(len(x), height):
            for j in blocks(len(y), width):
                shape = (i.stop - i.start, j.stop - j.start)
                tile = torch.mm(x[i], y[j].mT, out=buffer[: shape[0] * shape[1]].view(shape))
                if backward:
                    grads[0][i].addmm_(tile, y[j])
                    grads[1][j].addmm_(tile.mT, x[i])


def plain(x: Tensor, y: Tensor) -> Tensor:
    logits = x @ y.mT / TAU
    target = torch.arange(len(x))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.mT, target)) / 2


def open_clip_formula(x: Tensor, y: Tensor) -> Tensor:
    """As open_clip computes it in one process: both logit matrices, by two products."""
    target = torch.arange(len(x))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(1 / TAU * x @ y.mT, target) + cross_entropy(1 / TAU * y @ x.mT, target)) / 2


def fused_linear(x: Tensor, y: Tensor) -> Tensor:
    target = torch.arange(len(x))
    fused = torch.nn.functional.linear_cross_entropy
    options = torch.nn.LinearCrossEntropyOptions()
    return (fused(x / TAU, y, target, options=options) + fused(y / TAU, x, target, options=options)) / 2


CASES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor | None]]] = {
    "floor": ("four matrix products alone", four_products),
    "ours": ("infomech, lambda = 0", lambda x, y: symmetric_infonce(x, y, temperature=TAU)),
    "ours-cold": ("infomech, lambda = 0, tau = 0.01", lambda x, y: symmetric_infonce(x, y, temperature=0.01)),
    "ours-gap": (
        "infomech, lambda = 3/4",
        lambda x, y: symmetric_infonce(x, y, temperature=TAU, divergence_weight=0.75),
    ),
    "ours-sigmoid": ("infomech, sigmoid loss", lambda x, y: sigmoid_loss(x, y, temperature=0.1, bias=-10.0)),
    "plain": ("plain: one logit matrix, two cross entropies", plain),
    "open-clip": ("open_clip's formula: two logit matrices", open_clip_formula),
    "fused": ("torch linear_cross_entropy, both ways", fused_linear),
}


Loss = Callable[[Tensor, Tensor], Tensor]
LENGTHS = (512, 256, 128, 64, 32)
CUT = FalseNegatives(-0.1)  # leaves out some 2% of these rows' negatives
FOUR = ("xy", "yx", "xx", "yy")


def _symmetric(**options: Any) -> Loss:
    return lambda x, y: symmetric_infonce(x, y, temperature=TAU, **options)


def _guided(x: Tensor, y: Tensor) -> Tensor:
    guide = Guide(x.detach()[:, :64], y.detach()[:, :64])
    return symmetric_infonce(x, y, temperature=TAU, false_negatives=CUT, guide=guide)


def _sum_of_lengths(x: Tensor, y: Tensor) -> Tensor:
    losses = [symmetric_infonce(x[:, :d], y[:, :d], temperature=TAU, normalize=True) for d in LENGTHS]
    return torch.stack(losses).sum()


# What is asked for, and what it is compared with. A loss of both directions takes four n x n products, three where its
# tiles are kept (to N = 8,192); the sums within modalities two each.
OPTIONS: dict[str, tuple[Loss, Loss]] = {
    "four directions in one softmax; 8 products to 4": (
        _symmetric(directions=FOUR, partition="joint"),
        _symmetric(),
    ),
    "lambda = 3/4; 8 products to 4": (_symmetric(divergence_weight=0.75), _symmetric()),
    "false-negative filter, both directions": (_symmetric(false_negatives=CUT), _symmetric()),
    "the same by a guide of 64 features": (_guided, _symmetric()),
    "false-negative filter, one direction": (
        lambda x, y: infonce(x, y, temperature=TAU, false_negatives=CUT),
        lambda x, y: infonce(x, y, temperature=TAU),
    ),
    "label smoothing": (_symmetric(label_smoothing=0.1), _symmetric()),
    "hardness": (_symmetric(hardness=Hardness(3.0)), _symmetric()),
    "pairs of one group left out": (
        lambda x, y: symmetric_infonce(x, y, temperature=TAU, groups=torch.arange(len(x)) // 2),
        _symmetric(),
    ),
    f"Matryoshka of {len(LENGTHS)} lengths to one; 4 products": (
        lambda x, y: matryoshka_infonce(x, y, dims=LENGTHS, temperature=TAU),
        _symmetric(normalize=True),
    ),
    f"the same to the sum of {len(LENGTHS)} losses": (
        lambda x, y: matryoshka_infonce(x, y, dims=LENGTHS, temperature=TAU),
        _sum_of_lengths,
    ),
}


def table_of_options(sizes: list[int], repeats: int) -> str:
    """Ratios of CPU time, each from one process in which both take turns."""
    lines = [setting(), "", "| | " + " | ".join(f"N = {n}" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    found: dict[str, list[str]] = {name: [] for name in OPTIONS}
    for n in sizes:
        for name in OPTIONS:
            command = [sys.executable, __file__, "--pair", name, str(n), str(repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(done.stdout.split()[-1])
            print(n, name, found[name][-1], file=sys.stderr, flush=True)
    return "\n".join([*lines, *(f"| {name} | {' | '.join(ratios)} |" for name, ratios in found.items())])


def run_pair(name: str, n: int, repeats: int) -> float:
    torch.set_num_threads(1)
    x, y = rows(n, 0), rows(n, 1)
    best = [float("inf"), float("inf")]
    for _ in range(repeats + 1):  # the first round loads what there is to load
        for k, loss in enumerate(OPTIONS[name]):
            x.grad = y.grad = None
            start = time.process_time()
            loss(x, y).backward()
            best[k] = min(best[k], time.process_time() - start)
    return best[0] / best[1]


def rows(n: int, seed: int) -> Tensor:
    made = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))
    return made.div_(made.norm(dim=1, keepdim=True)).requires_grad_()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # Linux counts in kB


def run_case(name: str, n: int, repeats: int) -> dict[str, float]:
    torch.set_num_threads(1)
    function = CASES[name][1]

    def once(x: Tensor, y: Tensor) -> float:
        x.grad = y.grad = None
        start = time.process_time()
        loss = function(x, y)
        if loss is not None:
            loss.backward()
        return time.process_time() - start

    once(rows(64, 2), rows(64, 3))  # load the libraries before the peak is noted
    x, y = rows(n, 0), rows(n, 1)
    before = peak()
    seconds = [once(x, y)]
    memory = peak() - before  # of the first run; later ones only repeat it
    seconds += [once(x, y) for _ in range(repeats - 1)]
    return {"seconds": min(seconds), "megabytes": memory}


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def setting() -> str:
    return (
        f"{processor()}, one thread, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}, commit {commit()}; "
        f"float32, d = {DIM}, tau = {TAU}, forward and backward."
    )


def table(results: dict[int, dict[str, dict[str, float]]]) -> str:
    lines = [
        setting(),
        "",
        "| N | | CPU s | x four products | x infomech | peak memory over inputs, MB |",
        "|---|---|---|---|---|---|",
    ]
    for n, cases in results.items():
        for name, found in cases.items():
            against = [f"{found['seconds'] / cases[other]['seconds']:.2f}" for other in ("floor", "ours")]
            lines.append(
                f"| {n} | {CASES[name][0]} | {found['seconds']:.3f} | {against[0]} | {against[1]} "
                f"| {found['megabytes']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "N", "REPEATS"), help=argparse.SUPPRESS)
    parser.add_argument("--options", action="store_true", help="what a loss can be asked for, in place of the table")
    parser.add_argument("--pair", nargs=3, metavar=("OPTION", "N", "REPEATS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pair:
        name, n, repeats = arguments.pair
        print(f"{run_pair(name, int(n), int(repeats)):.2f}")
        return
    if arguments.options:
        print(table_of_options(arguments.sizes, arguments.repeats))
        return
    if arguments.one:
        name, n, repeats = arguments.one
        print(json.dumps(run_case(name, int(n), int(repeats))))
        return
    cases = ["floor", "ours", *(c for c in arguments.cases if c not in ("floor", "ours"))]
    results: dict[int, dict[str, dict[str, float]]] = {}
    for n in arguments.sizes:
        results[n] = {}
        for name in cases:
            command = [sys.executable, __file__, "--one", name, str(n), str(arguments.repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[n][name] = json.loads(done.stdout.splitlines()[-1])
            print(n, name, results[n][name], file=sys.stderr, flush=True)
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
