"""The losses and their kernels on one GPU, beside bare products, the formulas that people use, and other fused kernels.

    python benchmarks/bench_gpu.py [--only loss parity ...] [--output gpu.md]

Every section stands alone: one that fails says so and loses nothing else. Times are medians of device time in
milliseconds, forward and backward; memory is the growth of the peak over the inputs; the floor is the four products
that the loss cannot do without, by the library, with nothing in between. Random rows of unit length. Under four minutes.
"""

import argparse
import gc
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

TAU = 0.05
START = time.time()
LINES: list[str] = []


def say(*words: object) -> None:
    print(f"[{time.time() - START:4.0f}s]", *words, flush=True)


def record(line: str = "") -> None:
    """One line of the table, printed at once."""
    LINES.append(line)
    say(line)


# --- measuring ---------------------------------------------------------------------------------------------------------


def milliseconds(work: Callable[[], object], *, repeats: int = 7, warm: int = 2, seconds: float = 2.0) -> float:
    """Median device time of some runs, by events."""
    for _ in range(warm):
        work()
    torch.cuda.synchronize()
    times, begun = [], time.time()
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
        if time.time() - begun > seconds:
            break
    return sorted(times)[len(times) // 2]


def gibibytes(work: Callable[[], object]) -> float:
    """Growth of the peak of allocated memory."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def rows(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pairs of unit rows that are alike, and differ."""
    gen = torch.Generator(device="cuda").manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(n, d, generator=gen, device="cuda")

    z = noise()
    x, y = (torch.nn.functional.normalize(z + 1.5 * noise() + shift, dim=1) for shift in (0.0, 0.3))
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()


def step(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    x.grad = y.grad = None
    value = loss(x, y)
    value.backward()
    return value.detach()


# --- what is compared --------------------------------------------------------------------------------------------------


def floor(x: Tensor, y: Tensor, chunk: int = 8192) -> None:
    """Scores twice, and one product for each gradient."""
    with torch.no_grad():
        for i in range(0, len(x), chunk):
            part = x[i : i + chunk]
            s = part @ y.mT
            s = part @ y.mT
            torch.mm(s, y)
            torch.mm(s.mT, part)


def plain(x: Tensor, y: Tensor, tau: float = TAU) -> Tensor:
    s = x @ y.mT / tau
    target = torch.arange(len(x), device=x.device)
    entropy = torch.nn.functional.cross_entropy
    return 0.5 * (entropy(s.float(), target) + entropy(s.mT.float(), target))


class _Sums(Function):
    """The pairs' scores and the log-sums both ways, straight from the kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, precision: str | None, chunk: int | None) -> Any:
        from infomech.reductions.kernels.log_sums import log_sums
        from infomech.reductions.kernels.rows import pair_products
        from infomech.reductions.kernels.scores import scores

        s = scores(x, y, scale, own=True, precision=precision)
        by_row, by_col, rounded = log_sums(s, keep_own=True)
        exact = pair_products(x, y) * scale
        r, c = by_row.value(), by_col.value()
        rounded = rounded.double()
        ctx.scores, ctx.chunk = s, chunk
        ctx.save_for_backward(x, y, scale, by_row.peak, by_row.total, by_col.peak, by_col.total)
        return torch.where(torch.maximum(r, c) > rounded - 1.0, rounded, exact), r, c

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        from infomech.reductions.kernels.gradients import Cotangent, gradients
        from infomech.reductions.kernels.rows import finished

        x, y, scale, *saved = ctx.saved_tensors
        unit = torch.stack([g.abs().amax() for g in cotangents]).amax()
        unit = torch.where(unit > 0, unit, 1.0)
        p, r, c = (g / unit for g in cotangents)
        out = gradients(
            ctx.scores, Cotangent(saved[0], r / saved[1]), Cotangent(saved[2], c / saved[3]), chunk=ctx.chunk
        )
        factor = unit * scale
        dx, _ = finished(out.x, x, factor, others=y, cotangent=p)
        dy, _ = finished(out.y, y, factor, others=x, cotangent=p)
        return dx, dy, None, None, None


def direct(x: Tensor, y: Tensor, tau: float = TAU, precision: str | None = None, chunk: int | None = None) -> Tensor:
    """The symmetric InfoNCE from the kernels, with nothing of the library around them."""
    scale = torch.full((), 1.0 / tau, dtype=torch.float64, device=x.device)
    positive, r, c = _Sums.apply(x, y, scale, precision, chunk)
    return (0.5 * (torch.logaddexp(r, positive) + torch.logaddexp(c, positive)) - positive).mean()


def reference(x: Tensor, y: Tensor, tau: float = TAU) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients in float64."""
    a, b = (z.detach().double().requires_grad_() for z in (x, y))
    value = step(lambda p, q: plain64(p, q, tau), a, b)
    return value, a.grad, b.grad


def plain64(x: Tensor, y: Tensor, tau: float) -> Tensor:
    s = x @ y.mT / tau
    target = torch.arange(len(x), device=x.device)
    entropy = torch.nn.functional.cross_entropy
    return 0.5 * (entropy(s, target) + entropy(s.mT, target))


# --- sections ----------------------------------------------------------------------------------------------------------


def card() -> None:
    """Ceilings: what the card gives a large product and a copy."""
    before = torch.get_float32_matmul_precision()
    found = []
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "highest"),
        ("TF32", torch.float32, "high"),
        ("float32", torch.float32, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        a = torch.randn(8192, 8192, device="cuda").to(dtype)
        found.append(f"{name} {2 * 8192**3 / milliseconds(lambda a=a: a @ a) / 1e9:.0f} TFLOP/s")
    torch.set_float32_matmul_precision(before)
    a = torch.randn(2**28, device="cuda")
    b = torch.empty_like(a)
    found.append(f"copy {8 * 2**28 / milliseconds(lambda: b.copy_(a)) / 1e9:.2f} TB/s")
    record("Ceilings: " + ", ".join(found) + ".")


def parity() -> None:
    """Values and gradients against float64, at a size that no tile divides."""
    n, d = 4097, 512
    record("| rows | tau | loss off by | gradients off by | plain: loss, gradients |")
    record("|---|---|---|---|---|")
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, None),
        ("fp16", torch.float16, None),
        ("float32, three products", torch.float32, "highest"),
        ("float32, TF32", torch.float32, "high"),
        ("float32, bare", torch.float32, "float32"),
    ):
        for tau in (0.05, 0.005):
            x, y = rows(n, d, dtype)
            want = reference(x, y, tau)
            cells = []
            before = torch.get_float32_matmul_precision()
            for loss in (lambda a, b, t=tau, p=precision: direct(a, b, t, p), lambda a, b, t=tau: plain(a, b, t)):
                if loss.__code__.co_argcount == 3 and precision in ("high", "highest"):
                    torch.set_float32_matmul_precision(precision)
                value = step(loss, x, y)
                torch.set_float32_matmul_precision(before)
                off = [
                    float((g.double() - w).norm() / w.norm()) for g, w in zip((x.grad, y.grad), want[1:], strict=True)
                ]
                cells.append((abs(float(value) - float(want[0])), max(off)))
            (a, b), (p, q) = cells
            record(f"| {name} | {tau} | {a:.1e} | {b:.1e} | {p:.1e}, {q:.1e} |")


def bits() -> None:
    """Two runs, the same bits."""
    for dtype in (torch.bfloat16, torch.float32):
        x, y = rows(5001, 256, dtype)
        runs = []
        for _ in range(2):
            value = step(direct, x, y)
            runs.append((value, x.grad.clone(), y.grad.clone()))
        same = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        record(f"Two runs, {str(dtype)[6:]}: {'the same bits' if same else 'DIFFERENT BITS'}.")


def syncs() -> None:
    """Host reads in the forward and the backward."""
    x, y = rows(4096, 256, torch.bfloat16)
    step(direct, x, y)
    torch.cuda.synchronize()
    counts = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = direct(x, y)
            counts.append(sum("synchroniz" in str(w.message) for w in caught))
            value.backward()
            counts.append(sum("synchroniz" in str(w.message) for w in caught) - counts[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    record(f"Host reads: forward {counts[0]}, backward {counts[1]}.")


def graph() -> None:
    """A step in a CUDA graph, replayed on other rows."""
    x, y = rows(8192, 512, torch.bfloat16)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step(direct, x, y)
    torch.cuda.current_stream().wait_stream(side)
    x.grad = y.grad = None
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        value = direct(x, y)
        value.backward()
    a, b = rows(8192, 512, torch.bfloat16, seed=1)
    with torch.no_grad():
        x.copy_(a)
        y.copy_(b)
    captured.replay()
    torch.cuda.synchronize()
    got = float(value), x.grad.clone()
    want = float(step(direct, a, b))
    same = got[0] == want and torch.equal(got[1], a.grad)
    replay, eager = milliseconds(captured.replay), milliseconds(lambda: step(direct, a, b))
    record(f"CUDA graph of a step, 8,192 x 512: {'equal to the eager step' if same else f'DIFFERS, {got[0]} for {want}'}; "
           f"{replay:.2f} ms, eager {eager:.2f} ms.")  # fmt: skip


def loss() -> None:
    """The symmetric InfoNCE."""
    record("| N x d, rows | four products | kernels | plain | compiled plain |")
    record("|---|---|---|---|---|")
    before = torch.get_float32_matmul_precision()
    cases = [(n, 512, torch.bfloat16, "highest") for n in (8192, 16384, 32768, 65536)]
    cases += [(32768, 1024, torch.bfloat16, "highest")]
    cases += [(16384, 512, torch.float32, p) for p in ("high", "highest")]
    for n, d, dtype, precision in cases:
        x, y = rows(n, d, dtype)
        torch.set_float32_matmul_precision(precision)
        bare = milliseconds(lambda x=x, y=y: floor(x.detach(), y.detach()))
        cells = [f"{bare:.2f} ms"]

        def measured(f: Callable[[Tensor, Tensor], Tensor], x: Tensor = x, y: Tensor = y, bare: float = bare) -> str:
            try:
                t = milliseconds(lambda: step(f, x, y))
                return f"{t:.2f} ms = {t / bare:.2f}x, {gibibytes(lambda: step(f, x, y)):.2f} GiB"
            except Exception as error:
                return f"{type(error).__name__}"

        cells.append(measured(direct))
        cells.append(measured(plain) if n <= 32768 else "")
        cells.append(measured(torch.compile(plain)) if n == 32768 and d == 512 else "")
        name = "bf16" if dtype == torch.bfloat16 else {"high": "TF32", "highest": "float32"}[precision]
        record(f"| {n:,} x {d}, {name} | " + " | ".join(cells) + " |")
        torch.set_float32_matmul_precision(before)
        del x, y
        torch.cuda.empty_cache()


def parts() -> None:
    """Where the time goes, and what a small temperature costs."""
    from infomech.reductions.kernels.gradients import Cotangent, gradients
    from infomech.reductions.kernels.log_sums import log_sums
    from infomech.reductions.kernels.scores import scores

    for n, d in ((8192, 512), (65536, 512)):
        x, y = rows(n, d, torch.bfloat16)
        for tau in (0.05, 0.01):
            scale = torch.full((), 1 / tau, dtype=torch.float64, device="cuda")
            s = scores(x, y, scale, own=True)
            r, c, _ = log_sums(s, keep_own=True)
            a, b = (Cotangent(z.peak, 1 / z.total) for z in (r, c))
            times = {
                "preparing": milliseconds(lambda x=x, y=y, scale=scale: scores(x, y, scale, own=True)),
                "sums": milliseconds(lambda s=s: log_sums(s, keep_own=True)),
                "both gradients": milliseconds(lambda s=s, a=a, b=b: gradients(s, a, b)),
                "of x alone": milliseconds(lambda s=s, a=a, b=b: gradients(s, a, b, y=False)),
            }
            record(f"Parts, {n:,} x {d}, tau {tau}: " + ", ".join(f"{k} {v:.2f} ms" for k, v in times.items()) + ".")


def compiled() -> None:
    """All kernels, each kind on a core of its own: they are found in Triton's cache."""
    running = [subprocess.Popen([sys.executable, __file__, "--compile", kind]) for kind in KINDS]
    if any(process.wait() for process in running):
        record("Some kernels did not compile.")


def compile_kind(kind: str) -> None:
    """A small step, whose kernels stay in the cache."""
    dtype, precision = KINDS[kind]
    x, y = rows(512, 512, dtype)
    step(lambda a, b: direct(a, b, precision=precision), x, y)


KINDS = {
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "highest": (torch.float32, "highest"),
    "high": (torch.float32, "high"),
    "float32": (torch.float32, "float32"),
}
SECTIONS: dict[str, Callable[[], None]] = {
    "compiled": compiled, "card": card, "parity": parity, "bits": bits, "syncs": syncs, "loss": loss, "parts": parts, "graph": graph,
}  # fmt: skip


def main() -> None:
    """Run the sections, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--output", type=Path, help="where the table goes, as Markdown")
    parser.add_argument("--compile", choices=list(KINDS), help="compile the kernels of one kind, and no more")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark needs one")
    if options.compile:
        return compile_kind(options.compile)
    import triton

    date = datetime.now(UTC).strftime("%Y-%m-%d")
    record(f"{torch.cuda.get_device_name()}, {date}, torch {torch.__version__}, Triton {triton.__version__}.")
    for name in options.only:
        begun = time.time()
        try:
            SECTIONS[name]()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0][:300]
            record(f"{name}: {type(error).__name__}: {first}")
            import traceback

            traceback.print_exc()
        torch.cuda.empty_cache()
        say(f"{name}: {time.time() - begun:.0f} s")
        if options.output:
            options.output.write_text("\n".join(LINES) + "\n")


if __name__ == "__main__":
    main()
