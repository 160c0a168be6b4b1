"""What a training step on the Triton kernels costs the host, measured on a machine that has no card.

    python benchmarks/bench_launches.py [--profile loss] [--repeats 300] [--check]

Below some 16,384 rows a step on a card takes as long as the host takes to launch it. That host time does not need the
card: kernels are compiled for 9.0 by Triton itself, which keeps them in its cache (a few minutes the first time), and
are launched through all of Triton's own Python, up to where it would enter the driver's library; there the call
returns. The driver's answers (device, stream, properties) are made up, and tensors on the CPU stand in for the card's.

What that leaves out: the launch itself in C (some microseconds for each kernel and for each operation of torch), the
switch of the device and the second thread that autograd has there, and what Python costs on another processor. What it
adds: operations of torch compute here. So that this is little, rows are few and short and the sizes at which work is
cut into chunks are as much smaller: the numbers of launches are those of the full size, which is checked. Bare matrix
products are replaced by the filling of their output, one operation for one.

Numbers are comparable with each other only; of many steps a fast one (5% are faster) and the median are told,
in microseconds of the processor.
"""

import argparse
import cProfile
import gc
import hashlib
import pstats
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia

from infomech import losses
from infomech.reductions.kernels import configs, gradients, launch, support
from infomech.reductions.losses import directed, fused, paired, sigmoid  # noqa: F401 (fused imports all kernels)
from infomech.reductions.losses.operators import Operator

SHRUNK = 32  # by which rows stand in for more
FEATURES = 64
CARD = torch.device("cuda", 0)
LAUNCHED: Counter[str] = Counter()


# --- a driver without a card -----------------------------------------------------------------------------------------


class Function(str):
    """What a kernel's function is known by: its name, and its binary by a digest."""

    __slots__ = ("binary",)
    binary: str


class Utilities:
    """What Triton's driver asks of its library."""

    @staticmethod
    def launch(x: int, y: int, z: int, stream: int, function: str, *rest: object) -> None:
        """Where a kernel would be sent to the card."""
        LAUNCHED[function] += 1

    @staticmethod
    def load_binary(name: str, binary: bytes, *rest: object) -> tuple[object, ...]:
        """Module, function, registers, spilled bytes and threads of a compiled kernel."""
        function = Function(name)
        function.binary = hashlib.sha256(binary).hexdigest()
        return name, function, 128, 0, 1024

    @staticmethod
    def get_device_properties(device: int) -> dict[str, int]:
        """Those of an H200."""
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

    @staticmethod
    def build_signature_metadata(signature: object) -> bytes:
        """Of the types of a kernel's arguments."""
        return b""


class Driver:
    """Answers for a card of 9.0; launching is Triton's own."""

    utils = Utilities
    launcher_cls = nvidia.CudaLauncher

    def get_current_device(self) -> int:  # noqa: D102
        return 0

    def get_current_stream(self, device: int) -> int:  # noqa: D102
        return 0

    def get_current_target(self) -> GPUTarget:  # noqa: D102
        return GPUTarget("cuda", 90, 32)

    def allocate_default_profile_scratch(self, size: int, align: int, stream: int) -> None:  # noqa: D102
        return None


def nothing_is_captured() -> bool:
    return False


def capability(device: object) -> tuple[int, int]:
    return 9, 0


def properties(device: object) -> SimpleNamespace:
    return SimpleNamespace(multi_processor_count=132)


class Recorder:
    """In place of Triton's launcher: notes what a kernel is launched with, tensors by what a card could tell apart."""

    seen: ClassVar[list[tuple[object, ...]]] = []

    def __init__(self, src: object, metadata: object) -> None:
        pass

    def __call__(self, x: int, y: int, z: int, stream: int, function: Function, *rest: Any) -> None:  # noqa: D102
        arguments = rest[4:]  # after what Triton knows of the kernel, of the launch and of its hooks
        given = [(t.dtype, t.shape, t.stride(), t.data_ptr() % 16) if isinstance(t, Tensor) else t for t in arguments]
        self.seen.append((str(function), function.binary, x, y, z, stream, *given))


def modules() -> list[ModuleType]:
    return [m for name, m in list(sys.modules.items()) if name.startswith("infomech.reductions.")]


def everywhere(stack: list[Any], name: str, value: object) -> None:
    """A name of the kernels' package, replaced wherever it was imported to."""
    stack.extend(mock.patch.object(m, name, value) for m in modules() if hasattr(m, name))


def filled(a: Tensor, b: Tensor, *, out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """In place of a product."""
    assert out is not None
    return out.fill_(0.0)


def also_filled(to: Tensor, a: Tensor, b: Tensor, **options: object) -> Tensor:
    return to.fill_(0.0)


@contextmanager
def made_up_card(shrunk: int) -> Iterator[None]:
    """Within, kernels are compiled for a card and launched to nowhere; sizes of chunks are divided by a number."""
    triton.runtime.driver.set_active(Driver())
    nvidia.PyKernelArg = lambda **_: None
    stack: list[Any] = []
    for name in ("plan_for", "multiprocessors", "extent_programs"):
        asked = getattr(configs, name)
        everywhere(stack, name, lambda device, *rest, asked=asked: asked(CARD, *rest))
    everywhere(stack, "usable", lambda device, *dtypes, asked=support.usable: asked(CARD, *dtypes))
    for name, by in (("CHUNK_ROWS", 1), ("LEAST_CHUNK", 1), ("STEP_ROWS", 1), ("STEP_ENTRIES", 2)):
        everywhere(stack, name, getattr(configs, name) // shrunk**by)
    products = SimpleNamespace(**{**vars(torch), "mm": filled, "addmm": also_filled})
    stack += [
        mock.patch.object(gradients, "torch", products),
        mock.patch.object(Tensor, "is_cuda", True),
        mock.patch.object(torch.cuda, "is_current_stream_capturing", nothing_is_captured),
        mock.patch.object(torch.cuda, "get_device_capability", capability),
        mock.patch.object(torch.cuda, "get_device_properties", properties),
    ]
    for part in stack:
        part.start()
    try:
        yield
    finally:
        for part in reversed(stack):
            part.stop()


# --- counting and timing ---------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts operations of torch, those inside the package's own operators too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        found = [value for m in modules() for value in vars(m).values() if isinstance(value, Operator)]
        self.bodies = {operator.overload: operator.body for operator in found}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.bodies:
            self.seen["operator"] += 1
            with self:
                return self.bodies[func](*args)
        name = str(func).removeprefix("aten.")
        if func.is_view or name.startswith(("detach", "_unsafe_view")):
            kind = "view"
        elif name.startswith(("empty", "new_empty")):
            kind = "room"
        else:
            kind = "work"
            self.seen[f"work: {name}"] += 1
        self.seen[kind] += 1
        return func(*args, **(kwargs or {}))


Loss = Callable[[Tensor, Tensor], Tensor]


def rows(n: int) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(n, FEATURES, generator=gen), dim=1) for _ in range(2))
    return x.bfloat16().requires_grad_(), y.bfloat16().requires_grad_()


def plain(x: Tensor, y: Tensor) -> Tensor:
    s = x @ y.mT / 0.05
    target = torch.arange(len(x), device=x.device)
    entropy = torch.nn.functional.cross_entropy
    return 0.5 * (entropy(s.float(), target) + entropy(s.mT.float(), target))


LOG_SCALE = torch.zeros((), requires_grad=True)


def learned(x: Tensor, y: Tensor) -> Tensor:
    return losses.symmetric_infonce(x, y, logit_scale=LOG_SCALE.exp(), check="never", backend="triton")


def of_float32(x: Tensor, y: Tensor) -> Tensor:
    return LOSSES["loss"](x.float(), y.float())


LOSSES: dict[str, Loss] = {
    "loss": partial(losses.symmetric_infonce, temperature=0.05, check="never", backend="triton"),
    "loss, float32 rows": of_float32,
    "loss, learned scale": learned,
    "control": partial(
        losses.symmetric_infonce, temperature=0.05, divergence_weight=0.75, check="never", backend="triton"
    ),
    "sigmoid": partial(losses.sigmoid_loss, temperature=0.1, bias=-10.0, check="never", backend="triton"),
    "plain formula": plain,
}


def counted(work: Callable[[], Tensor | None]) -> tuple[Tensor | None, Counter[str], Counter[str]]:
    """What some work gives; the kernels that it launches, and its operations of torch by kind."""
    LAUNCHED.clear()
    with Operations() as operations:
        found = work()
    return found, Counter(LAUNCHED), operations.seen


def counts(loss: Loss, n: int) -> list[tuple[Counter[str], Counter[str]]]:
    """Of forward and backward."""
    x, y = rows(n)
    LOG_SCALE.grad = None
    value, *forward = counted(lambda: loss(x, y))
    assert value is not None
    _, *backward = counted(lambda: value.backward())  # type: ignore[func-returns-value, no-untyped-call]
    return [(forward[0], forward[1]), (backward[0], backward[1])]


def microseconds(loss: Loss, n: int, repeats: int) -> tuple[list[float], list[float]]:
    """Times of the forwards and of the backwards, sorted."""
    x, y = rows(n)
    times: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats + 20):
            x.grad = y.grad = LOG_SCALE.grad = None
            begun = time.thread_time_ns()
            value = loss(x, y)
            between = time.thread_time_ns()
            value.backward()  # type: ignore[no-untyped-call]
            done = time.thread_time_ns()
            times[0].append((between - begun) / 1000)
            times[1].append((done - between) / 1000)
    finally:
        gc.enable()
    return sorted(times[0][20:]), sorted(times[1][20:])


def profiled(loss: Loss, n: int, repeats: int) -> None:
    """The functions that take the time of a step, by themselves and with what they call."""
    x, y = rows(n)
    for backward in (False, True):
        profile = cProfile.Profile()
        for _ in range(repeats):
            if not backward:
                profile.enable()
            value = loss(x, y)
            profile.disable()
            if backward:
                profile.enable()
            value.backward()  # type: ignore[no-untyped-call]
            profile.disable()
        print(f"{'backward' if backward else 'forward'}, seconds of {repeats} steps")
        for order in ("tottime", "cumulative"):
            pstats.Stats(profile).strip_dirs().sort_stats(order).print_stats(35)


def check() -> None:
    """Kernels that are launched as Triton compiled them get what Triton's own launches give them; else an error.

    Batches of several sizes and dtypes, rows that begin anywhere and pairs of groups, each in turn and then once more.
    """
    with made_up_card(SHRUNK), mock.patch.object(Driver, "launcher_cls", Recorder):
        steps = []
        for n, d, dtype, precision in (
            (128, 64, torch.bfloat16, None),
            (127, 61, torch.bfloat16, None),
            (256, 64, torch.float16, None),
            (128, 1, torch.float32, "highest"),
            (128, 72, torch.float32, "high"),
            (96, 72, torch.float32, "float32"),
        ):
            for name in ("symmetric", "control", "one way", "groups", "pairs", "sigmoid", "sigmoid by group"):
                steps += [partial(one_of, name, n, d, dtype, precision, shift) for shift in (0, 1)]
        recorded: list[list[tuple[object, ...]]] = []
        for own in (True, False, False):
            known = mock.patch.object(launch.CachedKernel, "_launch", without_memory) if own else nullcontext()
            Recorder.seen = []
            with known:
                for step in steps:
                    step()
            recorded.append(Recorder.seen)
    first, *rest = recorded
    assert all(seen == first for seen in rest)
    print(f"Triton {triton.__version__}: {len(first)} launches alike, of {len({line[1] for line in first})} binaries")


def without_memory(self: Any, grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
    self.kernel[grid](*args, **kwargs)


def one_of(name: str, n: int, d: int, dtype: torch.dtype, precision: Any, shift: int) -> None:
    """A step of a loss on rows that begin `shift` numbers after a multiple of 16 bytes."""
    x, y = (torch.ones(n * d + 8, dtype=dtype)[shift : shift + n * d].view(n, d).requires_grad_() for _ in range(2))
    options: dict[str, Any] = {"temperature": 0.1, "check": "never", "backend": "triton", "precision": precision}
    if name.startswith("sigmoid"):
        groups = {"groups": torch.arange(n) // 2, "same_group": "positive"} if name == "sigmoid by group" else {}
        value = losses.sigmoid_loss(x, y, bias=torch.tensor(-1.0, requires_grad=True), **groups, **options)
    elif name == "one way":
        value = losses.infonce(x, y, log_weights=torch.zeros(n), **options)
    else:
        more: dict[str, dict[str, Any]] = {
            "control": {"divergence_weight": 0.75},
            "groups": {"groups": torch.arange(n) // 2},
            "pairs": {"pairs": torch.stack([torch.arange(2 * n) % n, torch.arange(2 * n) // 2], 1)},
        }
        value = losses.symmetric_infonce(x, y, **more.get(name, {}), **options)
    value.backward()  # type: ignore[no-untyped-call]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=sorted(LOSSES))
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 8192], help="that the rows stand in for")
    parser.add_argument("--only", choices=sorted(LOSSES), nargs="+", default=list(LOSSES))
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--details", action="store_true", help="kernels and operations by name")
    parser.add_argument("--unchecked", action="store_true", help="do not count at the full size")
    parser.add_argument("--check", action="store_true", help="only compare what kernels are launched with")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    if wanted.check:
        check()
        return
    print(f"torch {torch.__version__}, Triton {triton.__version__}; forward + backward")
    print("| rows | | kernels | operations of torch | allocations | views | fast, us | median, us |")
    print("|---|---|---|---|---|---|---|---|")
    for full in wanted.rows:
        for name in wanted.only:
            loss = LOSSES[name]
            if name != "plain formula" and not wanted.unchecked:
                with made_up_card(1):
                    at_full_size = counts(loss, full)
            with made_up_card(SHRUNK):
                if wanted.profile:
                    if name == wanted.profile:
                        loss(*rows(full // SHRUNK)).backward()  # type: ignore[no-untyped-call]
                        profiled(loss, full // SHRUNK, wanted.repeats)
                    continue
                found = counts(loss, full // SHRUNK)
                times = microseconds(loss, full // SHRUNK, wanted.repeats)
            if name != "plain formula" and not wanted.unchecked:
                assert found == at_full_size, (found, at_full_size)
            cells = [[sum(kernels.values()), seen["work"], seen["room"], seen["view"]] for kernels, seen in found]
            both = " | ".join(f"{a} + {b}" for a, b in zip(*cells, strict=True))
            least = " + ".join(f"{part[len(part) // 20]:.0f}" for part in times)
            middle = " + ".join(f"{part[len(part) // 2]:.0f}" for part in times)
            print(f"| {full:,} | {name} | {both} | {least} | {middle} |", flush=True)
            if wanted.details:
                for way, (kernels, seen) in zip(("forward", "backward"), found, strict=True):
                    print(f"  {way}:", dict(kernels), {k: v for k, v in seen.items() if ": " in k})


if __name__ == "__main__":
    main()
