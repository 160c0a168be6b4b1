"""A cached step beside a plain one, on a small transformer: memory of one chunk, time of one forward more.

    python benchmarks/bench_caching.py [--batch 1024] [--chunk 32] [--repeats 3]

Each case runs in a process of its own on one thread: process CPU time, the best of the repeats; memory is the growth of
the peak resident set over what the models and inputs take. "one chunk" is the plain step of a batch of one chunk.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

from infomech.losses import SymmetricInfoNCE, cached_step

WIDTH, LENGTH, LAYERS = 128, 32, 2


class Tower(nn.Module):
    """Tokens to a unit vector, by a small transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, length) -> (n, width)."""
        return nn.functional.normalize(self.layers(self.table(tokens)).mean(1), dim=1)


def step(kind: str, batch: int, chunk: int) -> None:
    x, y = torch.randint(0, 1000, (2, batch, LENGTH), generator=torch.Generator().manual_seed(1)).unbind()
    if kind == "cached":
        cached_step(LOSS, [LEFT, RIGHT], [x, y], chunk=chunk)
    else:
        LOSS(LEFT(x), RIGHT(y)).backward()
    for tower in (LEFT, RIGHT):
        tower.zero_grad()


def case(kind: str, batch: int, chunk: int, repeats: int) -> dict[str, float]:
    step("plain", 2, 1)  # what every case needs: gradients, kernels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step(kind, batch, chunk)
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(times), "megabytes": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=["plain", "cached", "one chunk"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        rows = given.chunk if given.case == "one chunk" else given.batch
        print(json.dumps(case("cached" if given.case == "cached" else "plain", rows, given.chunk, given.repeats)))
        return
    sizes = ["--batch", str(given.batch), "--chunk", str(given.chunk), "--repeats", str(given.repeats)]
    found = {}
    for kind in ("plain", "cached", "one chunk"):
        done = subprocess.run(
            [sys.executable, __file__, "--case", kind, *sizes], capture_output=True, text=True, check=True
        )
        found[kind] = json.loads(done.stdout)
        print(f"{kind:>10}: {found[kind]['seconds']:8.2f} s  {found[kind]['megabytes']:8.0f} MB", flush=True)
    time_ratio = found["cached"]["seconds"] / found["plain"]["seconds"]
    memory_ratio = found["cached"]["megabytes"] / found["one chunk"]["megabytes"]
    print(f"time over the plain step {time_ratio:.2f}; memory over one chunk's {memory_ratio:.2f}")
    print(f"batch {given.batch} in chunks of {given.chunk}, torch {torch.__version__}, {platform.machine()}")


torch.set_num_threads(1)
torch.manual_seed(0)
LEFT, RIGHT = Tower(), Tower()
LOSS = SymmetricInfoNCE(0.07)

if __name__ == "__main__":
    main()
