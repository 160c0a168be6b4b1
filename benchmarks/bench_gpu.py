"""The losses and their kernels on one GPU, beside bare products, the formulas that people use, and other fused kernels.

    python benchmarks/bench_gpu.py [--only loss parity ...] [--output gpu.md]

Every section stands alone: one that fails says so and loses nothing else. Times are medians of device time in
milliseconds, forward and backward; memory is the growth of the peak over the inputs; the floor is the four products
that the loss cannot do without, by the library, with nothing in between. Random rows of unit length. Four minutes.
"""

import argparse
import gc
import importlib
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infomech import losses

Loss = Callable[[Tensor, Tensor], Tensor]
TAU = 0.05
START = time.time()
LINES: list[str] = []


def say(*words: object) -> None:
    print(f"[{time.time() - START:4.0f}s]", *words, flush=True)


def record(line: str = "") -> None:
    """One line of the table, printed at once."""
    LINES.append(line)
    say(line)


# --- measuring -------------------------------------------------------------------------------------------------------


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


# --- what is compared ------------------------------------------------------------------------------------------------


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


def ours(x: Tensor, y: Tensor, tau: float = TAU, **options: Any) -> Tensor:
    """The library's loss, as a training loop that has looked at its first batch calls it."""
    return losses.symmetric_infonce(x, y, temperature=tau, check="never", **{"backend": "triton", **options})


def controlled(x: Tensor, y: Tensor, tau: float = TAU) -> Tensor:
    return ours(x, y, tau, divergence_weight=0.75)


def sigmoid(x: Tensor, y: Tensor) -> Tensor:
    return losses.sigmoid_loss(x, y, temperature=0.1, bias=-10.0, check="never", backend="triton")


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


# --- sections --------------------------------------------------------------------------------------------------------


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
    before = torch.get_float32_matmul_precision()
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "highest"),
        ("fp16", torch.float16, "highest"),
        ("float32, three products", torch.float32, "highest"),
        ("float32, TF32", torch.float32, "high"),
        ("float32, bare", torch.float32, "float32"),
    ):
        for tau in (0.05, 0.005):
            x, y = rows(n, d, dtype)
            want = reference(x, y, tau)
            torch.set_float32_matmul_precision("highest" if precision == "float32" else precision)
            bare = {"precision": "float32"} if precision == "float32" else {}
            cells = [
                off_by(loss, x, y, want)
                for loss in (lambda a, b, t=tau, o=bare: ours(a, b, t, **o), lambda a, b, t=tau: plain(a, b, t))
            ]
            torch.set_float32_matmul_precision(before)
            (a, b), (p, q) = cells
            record(f"| {name} | {tau} | {a:.1e} | {b:.1e} | {p:.1e}, {q:.1e} |")
    for name, loss in FAMILY.items():
        x, y = rows(1025, 200, torch.bfloat16)
        doubles = [z.detach().double().requires_grad_() for z in (x, y)]
        want = step(lambda a, b, f=loss: f(a, b, "tiles"), *doubles), *(z.grad for z in doubles)
        a, b = off_by(lambda a, b, f=loss: f(a, b, "triton"), x, y, want)
        record(f"| bf16, {name}, against the tiles in float64 | | {a:.1e} | {b:.1e} | |")


def off_by(
    loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, want: tuple[Tensor, ...]
) -> tuple[float, float]:
    value = step(loss, x, y)
    off = [float((g.double() - w).norm() / w.norm()) for g, w in zip((x.grad, y.grad), want[1:], strict=True)]
    return abs(float(value) - float(want[0])), max(off)


def numbers(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, len(x), device=x.device)


def several(x: Tensor) -> Tensor:
    """Pairs: every row with its partner and four more, anywhere."""
    n, k = len(x), torch.arange(5 * len(x), device=x.device)
    return torch.stack([k % n, (k % n + (k // n) * 7919) % n], 1)


FAMILY: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "control": lambda x, y, b: losses.symmetric_infonce(x, y, temperature=0.05, divergence_weight=0.75, backend=b),
    "control at 0.005": lambda x, y, b: losses.symmetric_infonce(
        x, y, temperature=0.005, divergence_weight=0.75, backend=b
    ),
    "groups": lambda x, y, b: losses.symmetric_infonce(
        x, y, temperature=0.05, groups=torch.arange(len(x), device=x.device) // 3, backend=b
    ),
    "log-weights": lambda x, y, b: losses.symmetric_infonce(
        x, y, temperature=0.05, log_weights_x=numbers(x), log_weights_y=-numbers(y), backend=b
    ),
    "one direction": lambda x, y, b: losses.infonce(x, y, temperature=0.05, backend=b),
    "sigmoid": lambda x, y, b: losses.sigmoid_loss(x, y, temperature=0.1, bias=-5.0, backend=b),
    "several positives": lambda x, y, b: losses.symmetric_infonce(x, y, temperature=0.05, pairs=several(x), backend=b),
    "sigmoid, several": lambda x, y, b: losses.sigmoid_loss(
        x, y, temperature=0.1, bias=-5.0, pairs=several(x), backend=b
    ),
    "sigmoid, by group": lambda x, y, b: losses.sigmoid_loss(
        x,
        y,
        temperature=0.1,
        bias=-5.0,
        groups=torch.arange(len(x), device=x.device) // 3,
        same_group="positive",
        backend=b,
    ),
}


def bits() -> None:
    """Two runs, the same bits."""
    for dtype in (torch.bfloat16, torch.float32):
        x, y = rows(5001, 256, dtype)
        runs = []
        for _ in range(2):
            value = step(ours, x, y)
            runs.append((value, x.grad.clone(), y.grad.clone()))
        same = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        record(f"Two runs, {str(dtype)[6:]}: {'the same bits' if same else 'DIFFERENT BITS'}.")


def syncs() -> None:
    """Host reads in the forward and the backward."""
    x, y = rows(4096, 256, torch.bfloat16)
    for name, loss in (
        ("kernels", ours),
        ("control", controlled),
        ("sigmoid", sigmoid),
        ("tiles", lambda a, b: ours(a, b, backend="tiles")),
    ):
        step(loss, x, y)
        torch.cuda.synchronize()
        counts = []
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                value = loss(x, y)
                counts.append(sum("synchroniz" in str(w.message) for w in caught))
                value.backward()
                counts.append(sum("synchroniz" in str(w.message) for w in caught) - counts[0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        record(f"Host reads, {name}: forward {counts[0]}, backward {counts[1]}.")


class Model(torch.nn.Module):
    """Two linear encoders and the loss with a learned temperature: a training step in the small."""

    def __init__(self, n: int, loss: torch.nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = (torch.nn.Linear(256, 512) for _ in range(2))
        self.loss = loss or losses.SymmetricInfoNCE(0.05, learn_temperature=True, normalize=True, backend="triton")
        self.batch = torch.randn(n, 256)

    def forward(self, batch: Tensor) -> Tensor:
        """The loss of a batch."""
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return self.loss(self.left(batch), self.right(batch))


def training(model: Model, batch: Tensor, optimizer: torch.optim.Optimizer, call: Callable[[Tensor], Tensor]) -> Tensor:
    value = call(batch)
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return value


def started(n: int) -> tuple[Model, Tensor, torch.optim.Optimizer]:
    model = Model(n).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = model.batch.cuda()
    for _ in range(3):
        training(model, batch, optimizer, model)
    return model, batch, optimizer


def epoch(n: int = 8192, steps: int = 100) -> None:
    """An epoch's worth of training steps in which any host read is an error."""
    model, batch, optimizer = started(n)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    begun = time.time()
    try:
        for _ in range(steps):
            training(model, batch, optimizer, model)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    record(
        f"{steps} training steps of {n:,} rows without a host read: {(time.time() - begun) / steps * 1e3:.2f} ms each."
    )


def graph(n: int = 8192) -> None:
    """A training step in a CUDA graph, beside the same steps without one."""
    (model, batch, optimizer), (twin, same, other) = started(n), started(n)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            training(model, batch, optimizer, model)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        value = training(model, batch, optimizer, model)
    for _ in range(2):
        training(twin, same, other, twin)
    for _ in range(3):
        captured.replay()
        wanted = training(twin, same, other, twin)
    alike = all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    replay, eager = milliseconds(captured.replay), milliseconds(lambda: training(twin, same, other, twin))
    record(
        f"Training step in a CUDA graph, {n:,} x 512: parameters {'equal' if alike else 'DIFFER'} after three replays "
        f"(loss {float(value.detach()):.6f}, {float(wanted.detach()):.6f}); {replay:.2f} ms, eager {eager:.2f} ms."
    )


def fullgraph(n: int = 8192) -> None:
    """The same step compiled as one graph."""
    (model, batch, optimizer), (twin, same, other) = started(n), started(n)
    call = torch.compile(model, fullgraph=True)
    training(model, batch, optimizer, call)
    training(twin, same, other, twin)
    a, b = (float(f(m).detach()) for f, m in ((call, batch), (twin, same)))
    compiled, eager = (
        milliseconds(lambda: training(model, batch, optimizer, call)),
        milliseconds(lambda: training(twin, same, other, twin)),
    )
    record(f"Compiled, fullgraph=True, {n:,} x 512: loss {a:.6f}, eager {b:.6f}; {compiled:.2f} ms, eager {eager:.2f}.")


def loss() -> None:
    """The symmetric InfoNCE."""
    record("| N x d, rows | four products | kernels | plain | compiled plain |")
    record("|---|---|---|---|---|")
    before = torch.get_float32_matmul_precision()
    cases = [(n, 512, torch.bfloat16, "highest") for n in (4096, 8192, 16384, 32768, 65536)]
    cases += [(32768, 1024, torch.bfloat16, "highest")]
    cases += [(16384, 512, torch.float32, p) for p in ("high", "highest", "float32")]
    for n, d, dtype, precision in cases:
        x, y = rows(n, d, dtype)
        torch.set_float32_matmul_precision("highest" if precision == "float32" else precision)
        kernels = partial(ours, precision=precision) if precision == "float32" else ours
        bare = milliseconds(lambda x=x, y=y: floor(x.detach(), y.detach()))
        cells = [f"{bare:.2f} ms"]

        def measured(f: Callable[[Tensor, Tensor], Tensor], x: Tensor = x, y: Tensor = y, bare: float = bare) -> str:
            try:
                t = milliseconds(lambda: step(f, x, y))
                return f"{t:.2f} ms = {t / bare:.2f}x, {gibibytes(lambda: step(f, x, y)):.2f} GiB"
            except Exception as error:
                return f"{type(error).__name__}"

        cells.append(measured(kernels))
        cells.append(measured(plain) if n <= 32768 else "")
        cells.append(measured(torch.compile(plain)) if n == 32768 and d == 512 else "")
        of_float32 = {"high": "TF32", "highest": "float32", "float32": "bare float32"}
        name = "bf16" if dtype == torch.bfloat16 else of_float32[precision]
        record(f"| {n:,} x {d}, {name} | " + " | ".join(cells) + " |")
        torch.set_float32_matmul_precision(before)
        del x, y
        torch.cuda.empty_cache()


def control() -> None:
    """The loss with a weight on the divergence, beside the loss without."""
    for n in (8192, 16384, 32768):
        x, y = rows(n, 512, torch.bfloat16)
        for tau in (0.05, 0.01):
            a, b = (
                milliseconds(lambda f=f, t=tau, x=x, y=y: step(lambda p, q: f(p, q, t), x, y))
                for f in (ours, controlled)
            )
            record(f"Control, {n:,} x 512, tau {tau}: {b:.2f} ms = {b / a:.2f} times the loss, {a:.2f} ms.")


def positives() -> None:
    """Several positives by pair, beside the loss with one: its tiles with listed entries are visited twice."""
    for n in (8192, 32768):
        x, y = rows(n, 512, torch.bfloat16)
        pairs = several(x)
        one, more = (
            milliseconds(lambda o=o, x=x, y=y: step(lambda p, q: ours(p, q, **o), x, y)) for o in ({}, {"pairs": pairs})
        )
        record(f"Five positives a row, {n:,} x 512: {more:.2f} ms = {more / one:.2f} times the loss, {one:.2f} ms.")


def fused_siglip(call: Callable[..., Tensor], log_scale: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return call(x, y, log_scale, bias)


def sigmoids() -> None:
    """The sigmoid loss, beside siglip-kernel where it is installed."""
    for n, d in ((8192, 512), (32768, 512), (65536, 768)):
        x, y = rows(n, d, torch.bfloat16)
        t, bias = (torch.tensor(v, device="cuda", requires_grad=True) for v in (math.log(10.0), -10.0))
        mine = milliseconds(lambda x=x, y=y: step(sigmoid, x, y))
        line = f"Sigmoid, {n:,} x {d}: {mine:.2f} ms, {gibibytes(lambda x=x, y=y: step(sigmoid, x, y)):.2f} GiB"
        try:
            peer = importlib.import_module("siglip_kernel")
            fused = partial(fused_siglip, peer.fused_siglip_loss, t, bias)
            theirs = milliseconds(lambda x=x, y=y, f=fused: step(f, x, y))
            line += f"; siglip-kernel {theirs:.2f} ms"
        except Exception as error:
            line += f"; siglip-kernel: {type(error).__name__}"
        record(line + ".")


def peers() -> None:
    """Other fused losses, where they are installed."""
    x, y = rows(32768, 512, torch.bfloat16)
    target = torch.arange(len(x), device="cuda")
    entropy = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    t = milliseconds(
        lambda: step(lambda p, q: 0.5 * (entropy(p / TAU, q, target) + entropy(q / TAU, p, target)), x, y), repeats=3
    )
    record(f"cut-cross-entropy in two calls, 32,768 x 512, bf16: {t:.1f} ms.")
    x, y = rows(16384, 512, torch.float32)
    flash, scale = importlib.import_module("inf_cl").cal_flash_loss, torch.tensor(1 / TAU, device="cuda")
    t = milliseconds(
        lambda: step(lambda p, q: 0.5 * (flash(p, q, scale=scale).mean() + flash(q, p, scale=scale).mean()), x, y),
        repeats=3,
    )
    record(f"Inf-CL in two calls, 16,384 x 512, float32: {t:.1f} ms.")


def parts() -> None:
    """Where the time goes, and what a small temperature costs."""
    from infomech.reductions.kernels.gradients import Side, gradients
    from infomech.reductions.kernels.log_sums import log_sums
    from infomech.reductions.kernels.rows import levels
    from infomech.reductions.kernels.scores import scores

    for n, d in ((8192, 512), (65536, 512)):
        x, y = rows(n, d, torch.bfloat16)
        for tau in (0.05, 0.01):
            scale = torch.full((), 1 / tau, dtype=torch.float64, device="cuda")
            s, _ = scores(x, y, scale, own=True, paired=True)
            sums = log_sums(s, keep_own=True)[:2]
            peaks, totals = (torch.stack([getattr(z, name) for z in sums]) for name in ("peak", "total"))
            level, factor, _ = levels(torch.ones_like(peaks), peaks, totals, 1.0)
            a, b = (Side(*z) for z in zip(level, factor, strict=True))
            times = {
                "preparing": milliseconds(lambda x=x, y=y, scale=scale: scores(x, y, scale, own=True, paired=True)),
                "sums": milliseconds(lambda s=s: log_sums(s, keep_own=True)),
                "both gradients": milliseconds(lambda s=s, a=a, b=b: gradients(s, a, b)),
                "of x alone": milliseconds(lambda s=s, a=a, b=b: gradients(s, a, b, y=False)),
            }
            record(f"Parts, {n:,} x {d}, tau {tau}: " + ", ".join(f"{k} {v:.2f} ms" for k, v in times.items()) + ".")


def host() -> None:
    """Where a small step's time goes on the host: it waits for launches, not for the card."""
    x, y = rows(8192, 512, torch.bfloat16)
    forward = milliseconds(lambda: ours(x, y))
    whole = milliseconds(lambda: step(ours, x, y))
    begun = time.time()
    for _ in range(50):
        step(ours, x, y)
    issued = (time.time() - begun) / 50 * 1e3
    torch.cuda.synchronize()
    record(
        f"8,192 x 512: forward {forward:.2f} ms, with backward {whole:.2f} ms, of which the host needs {issued:.2f} ms."
    )
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            step(ours, x, y)
        torch.cuda.synchronize()
    say(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    say(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=25, max_name_column_width=40))


def compiled() -> None:
    """All kernels, each kind on a core of its own: they are found in Triton's cache."""
    running = [subprocess.Popen([sys.executable, __file__, "--compile", kind]) for kind in KINDS]
    if any(process.wait() for process in running):
        record("Some kernels did not compile.")


def compile_kind(kind: str) -> None:
    """A small step, whose kernels stay in the cache."""
    dtype, precision, call = KINDS[kind]
    torch.set_float32_matmul_precision(precision)
    x, y = rows(512, 512, dtype)
    step(call, x, y)


KINDS: dict[str, tuple[torch.dtype, str, Callable[[Tensor, Tensor], Tensor]]] = {
    "bf16": (torch.bfloat16, "highest", ours),
    "fp16": (torch.float16, "highest", ours),
    "highest": (torch.float32, "highest", ours),
    "high": (torch.float32, "high", ours),
    "control": (torch.bfloat16, "highest", controlled),
    **{name: (torch.bfloat16, "highest", lambda x, y, f=f: f(x, y, "triton")) for name, f in FAMILY.items()},
}
SECTIONS: dict[str, Callable[[], None]] = {
    "compiled": compiled, "card": card, "parity": parity, "bits": bits, "syncs": syncs, "loss": loss,
    "control": control, "positives": positives, "sigmoid": sigmoids, "parts": parts, "graph": graph, "epoch": epoch,
    "host": host, "fullgraph": fullgraph, "peers": peers,
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
