"""Time and launches of a report on a GPU, beside three bare Gram products, and what the CPU says of the same rows.

    python benchmarks/report_gpu.py [--sizes 5000x25000 20000x40000] [--dim 512] [--profile] [--tiles]

Rows are float32 and lie on the card. Each part is timed after one run of itself; launches are kernels started on the
card. `--profile` lists the longest kernels, the longest Python functions and every line that makes the host wait.
"""

import argparse
import cProfile
import io
import pstats
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import infomech as im
from infomech.reductions.losses.backends import Backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
START = time.perf_counter()


def say(text: str) -> None:
    print(f"[{time.perf_counter() - START:4.0f} s] {text}", flush=True)


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def rows(n: int, m: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows with a gap, several of y to each of x."""
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(n, dim, generator=g), dim=1)
    own = torch.arange(n).repeat_interleave(m // n)
    y = x[own] + 0.05 * torch.randn(len(own), dim, generator=g) + 0.02
    pairs = torch.stack([own, torch.arange(len(own))], 1)
    return x.to(DEVICE), torch.nn.functional.normalize(y, dim=1).to(DEVICE), pairs


def seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """The least of several runs."""
    best = float("inf")
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        run()
        synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def products(x: Tensor, y: Tensor) -> None:
    for a, b in ((x, x), (y, y), (x, y)):
        for part in a.split(4096):
            part @ b.T


def parts(x: Tensor, y: Tensor, pairs: Tensor, backend: Backend) -> dict[str, Callable[[], object]]:
    return {
        "decompose": lambda: im.decompose(x, y, temperature=0.07, pairs=pairs, backend=backend),
        "gap": lambda: im.gap(x, y, pairs=pairs, backend=backend),
        "diagnose": lambda: im.diagnose(x, y, temperature=0.07, pairs=pairs, backend=backend),
    }


def launches(run: Callable[[], object]) -> tuple[int, list[tuple[str, int, float]]]:
    """How many kernels a call starts, and the longest: name, count, milliseconds."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        run()
        synchronize()
    kernels = [e for e in seen.key_averages() if str(e.device_type).endswith("CUDA")]
    top = sorted(kernels, key=lambda e: -e.self_device_time_total)
    return sum(e.count for e in kernels), [(e.key, e.count, e.self_device_time_total / 1e3) for e in top]


def waits(run: Callable[[], object]) -> Counter[str]:
    """The lines of infomech that make the host wait for the card, with counts."""
    lines: Counter[str] = Counter()

    def note(message: object, *_: object, **__: object) -> None:
        if "synchroniz" in str(message):
            stack = [
                f for f in traceback.extract_stack() if "infomech" in f.filename and "benchmarks" not in f.filename
            ]
            lines[" < ".join(f"{f.filename.rsplit('/', 1)[1]}:{f.lineno}" for f in stack[:-4:-1])] += 1

    torch.cuda.set_sync_debug_mode("warn")
    before = warnings.showwarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note  # type: ignore[assignment]
            run()
    finally:
        warnings.showwarning = before
        torch.cuda.set_sync_debug_mode("default")
    return lines


def compare(x: Tensor, y: Tensor, pairs: Tensor, backend: Backend) -> None:
    """The largest difference between the card's estimates and the CPU's, in standard errors."""
    here = im.diagnose(x, y, temperature=0.07, pairs=pairs, backend=backend)
    there = im.diagnose(x.cpu(), y.cpu(), temperature=0.07, pairs=pairs)
    worst: list[tuple[float, str]] = []
    for name in ("gap", "retrieval"):
        for key, value in getattr(there, name).items():
            other = getattr(here, name)[key]
            if hasattr(value, "value"):
                scale = max(abs(value.value), 1e-3)
                worst.append(
                    (abs(value.value - other.value) / scale, f"{name}.{key} {value.value:.6g} {other.value:.6g}")
                )
                error = max(value.stderr, 1e-6)
                worst.append(
                    (
                        abs(value.stderr - other.stderr) / error,
                        f"{name}.{key} error {value.stderr:.4g} {other.stderr:.4g}",
                    )
                )
    for key in ("alignment", "dispersion_x", "dispersion_y", "divergence_sym", "infonce_sym", "effective_negatives"):
        a, b = getattr(there.budget, key), getattr(here.budget, key)
        worst.append((abs(a.value - b.value) / max(abs(a.value), 1e-3), f"budget.{key} {a.value:.6g} {b.value:.6g}"))
        worst.append(
            (abs(a.stderr - b.stderr) / max(a.stderr, 1e-6), f"budget.{key} error {a.stderr:.4g} {b.stderr:.4g}")
        )
    for size, text in sorted(worst, reverse=True)[:5]:
        say(f"card against CPU: off by {size:.1e} of itself: {text}")


def measure(name: str, run: Callable[[], object], bare: float) -> None:
    first = seconds(run)
    again = seconds(run) if first < 8 else first
    say(f"{name}: {again:.2f} s, first run {first:.2f} s, three products {bare * 1e3:.0f} ms")


def guarded(name: str, run: Callable[[], object]) -> None:
    try:
        run()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        say(f"{name}: {type(error).__name__}: {str(error)[:200]} ({place.filename.rsplit('/', 1)[1]}:{place.lineno})")


def profiled(name: str, run: Callable[[], object]) -> None:
    profile = cProfile.Profile()
    profile.enable()
    run()
    synchronize()
    profile.disable()
    for order in ("cumulative", "tottime"):
        out = io.StringIO()
        pstats.Stats(profile, stream=out).sort_stats(order).print_stats(70 if order == "cumulative" else 30)
        lines = [line for line in out.getvalue().splitlines() if line.strip()]
        print("\n".join(line.replace("infomech/", "")[-150:] for line in lines[4:]), flush=True)
    for place, count in waits(run).most_common(60):
        print(f"  waits {count:6d}  {place}", flush=True)
    total, top = launches(run)
    say(f"{name}: {total:,} launches")
    for key, count, ms in top[:30]:
        print(f"  {ms:8.1f} ms {count:7d}  {key[:110]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["5000x25000", "20000x40000"])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiles", action="store_true", help="without Triton kernels")
    options = parser.parse_args()
    backend: Backend = "tiles" if options.tiles else "auto"
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    told = f"d = {options.dim}, float32, backend {backend}"
    say(f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, {told}")
    small = rows(700, 1400, options.dim)
    guarded("parity", lambda: compare(*small, backend))
    for size in options.sizes:
        n, m = (int(part) for part in size.split("x"))
        sample = rows(n, m, options.dim)
        bare = seconds(lambda sample=sample: products(*sample[:2]), 3)
        for part, run in parts(*sample, backend).items():
            guarded(f"{size} {part}", partial(measure, f"{size} {part}", run, bare))
        if options.profile and DEVICE == "cuda":
            guarded(f"{size} profile", partial(profiled, size, parts(*sample, backend)["diagnose"]))


if __name__ == "__main__":
    main()
