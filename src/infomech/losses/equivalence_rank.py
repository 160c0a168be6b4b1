"""One rank of `check_equivalent`: embeds its rows, calls the loss, averages the gradient, writes what it found."""

import datetime
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .distributed import Ranks
from .symmetric import symmetric_infonce

WIDTH, DIM = 10, 8
RANK = "from infomech.losses.equivalence_rank import main; main()"
STOP, ENDED = "stop", "ended"  # files by which a case is told to end, and says that it has


class Encoder(nn.Module):
    """A layer, a bend, another layer, and unit length: small, and not linear in its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, DIM), nn.Tanh(), nn.Linear(DIM, DIM))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, 10) -> (n, 8), unit rows."""
        embedded: Tensor = nn.functional.normalize(self.layers(rows), dim=1)
        return embedded


def an_example(x: Tensor, y: Tensor) -> Tensor:
    """A loss that is the full batch's at any number of ranks: this package's own."""
    return symmetric_infonce(x, y, temperature=0.1, ranks=Ranks())


class _Fork:
    """A rank as a copy of this process, called as a process of its own is."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._ended = False
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _main(plan)
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        """Whether it has ended: a number, or None."""
        self._ended = self._ended or os.waitpid(self._pid, os.WNOHANG)[0] != 0
        return 0 if self._ended else None

    def kill(self) -> None:
        """End it."""
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._ended = True


def launch() -> None:
    """Run the ranks of one case after another, as the lines of the standard input say; the argument is the target.

    Every rank is a fork of this process, which has imported the target and called nothing, where that is safe.
    """
    torch.set_num_threads(1)
    with suppress(BaseException):
        load(sys.argv[-1])  # what cannot be loaded is said by the ranks
    forks = sys.platform == "linux" and _alone() and not torch.cuda.is_initialized()
    for line in sys.stdin:
        plans = json.loads(line)
        folder = Path(plans[0]["folder"])
        end = time.monotonic() + plans[0]["timeout"] + 60.0
        ranks: list[_Fork | subprocess.Popen[bytes]] = [_Fork(p) if forks else _as_a_process(p) for p in plans]
        while any(rank.poll() is None for rank in ranks):
            if not folder.exists() or (folder / STOP).exists() or time.monotonic() > end:
                for rank in ranks:
                    rank.kill()
            time.sleep(0.02)
        if folder.exists():
            (folder / ENDED).touch()


def _alone() -> bool:
    """Whether this process has no thread that could hold a lock when it forks; pyarrow's allocator looks after its."""
    names = [Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")]
    return len([name for name in names if name != "jemalloc_bg_thd"]) == 1


def _as_a_process(plan: dict[str, Any]) -> "subprocess.Popen[bytes]":
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen([sys.executable, "-c", RANK, json.dumps(plan)], **quiet)


def main() -> None:
    """Run a rank; its settings are the JSON of the last argument."""
    _main(json.loads(sys.argv[-1]))


def _main(plan: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    out = Path(plan["folder"], f"{plan['rank']}.json")
    try:
        found = run(plan)
    except BaseException as error:
        words = " ".join(str(error).split())
        lost = any(part in words for part in ("onnection", "Timed out", "Broken pipe"))  # another rank's doing
        found = {"error": f"{type(error).__name__}: {words[:300]}", "lost": lost}
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(out)
    sys.stdout.flush()
    os._exit(0)  # a group with a failed rank may wait for it for ever


def run(plan: dict[str, Any]) -> dict[str, Any]:
    """What this rank does, and what all found together."""
    rank, sizes = plan["rank"], plan["sizes"]
    limit = datetime.timedelta(seconds=plan["timeout"])
    where = f"file://{plan['folder']}/group"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=len(sizes), timeout=limit)
    function = load(plan["target"])
    dtype = getattr(torch, plan["dtype"])
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(plan["seed"])
    left, right = Encoder().to(dtype), Encoder().to(dtype)
    inputs = [torch.randn(sum(sizes), WIDTH, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    parameters = [*left.parameters(), *right.parameters()]
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    torch.manual_seed(plan["seed"])
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    a, b = (z[mine] for z in inputs)
    if plan["kind"] == "step":
        value = value_of_step(function(left, right, a, b))
    else:
        value = function(left(a), right(b))
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError(f"the loss returned {type(value).__name__}; expected a tensor that holds one number")
        value.backward()
    flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    gradient = torch.cat([g.flatten() for g in flat]).double()
    number = torch.zeros(1, dtype=torch.float64) if value is None else value.detach().cpu().double().reshape(1)
    number = torch.cat([number, torch.full((1,), value is not None, dtype=torch.float64)])
    values = [torch.zeros_like(number) for _ in sizes]
    dist.all_gather(values, number)
    dist.all_reduce(gradient)
    returned = [bool(has) for _, has in values]
    if any(returned) and not all(returned):
        raise TypeError(
            f"rank {returned.index(False)} returns nothing, and others their value: let all ranks return it"
        )
    found = [float(v) for v, has in values if has]
    return {"values": found, "gradient": (gradient / len(sizes)).tolist()}


def value_of_step(returned: Any) -> Tensor | None:
    """What a step returns, if it returns its value."""
    if returned is None:
        return None
    with suppress(TypeError, ValueError, RuntimeError):
        value = torch.as_tensor(returned)
        if value.numel() == 1:
            return value
    raise TypeError(f"the step returned {type(returned).__name__}; expected its value, one number, or nothing")


def load(spec: str) -> Callable[..., Any]:
    """The function that ``module:function`` or ``file.py:function`` names."""
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        found = importlib.util.spec_from_file_location(Path(place).stem, place)
        if found is None or found.loader is None or not Path(place).exists():
            raise FileNotFoundError(f"there is no file {place}")
        module = importlib.util.module_from_spec(found)
        sys.modules[Path(place).stem] = module
        found.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{spec} is not a function")
    return function  # type: ignore[no-any-return]


__all__ = ["ENDED", "STOP", "Encoder", "an_example", "launch", "load", "main", "run", "value_of_step"]
