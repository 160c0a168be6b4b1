"""Is a sharded, cached or accumulated loss the loss of the full batch? Measured, in processes, on anyone's loss."""

import inspect
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .._checks import InputError, check_seed
from .equivalence_rank import ENDED, STOP

Target = str | Callable[..., Any]
TO_IMPORT = 30.0  # seconds, for torch and the target
LAUNCH = "from infomech.losses.equivalence_rank import launch; launch()"


@dataclass(frozen=True)
class ShardedCase:
    """What was found with the batch over some ranks.

    Args:
        sizes: rows of each rank.
        values: what each rank returned; empty if it failed, or if the step returns nothing.
        value: the full batch's.
        ratio: of the gradient, averaged over ranks, to the full batch's, along the latter: <g, g0> / <g0, g0>.
        residual: |g - ratio g0| / |g|, 0 if the direction is right.
        failure: what went wrong in place of an answer, in one line.
        tolerance: the relative error that counts as equal.
    """

    sizes: tuple[int, ...]
    value: float
    values: tuple[float, ...] = ()
    ratio: float = math.nan
    residual: float = math.nan
    failure: str | None = None
    tolerance: float = 1e-6

    @property
    def without_value(self) -> bool:
        """Whether only gradients were compared, since the step returned nothing."""
        return self.failure is None and not self.values

    @property
    def value_equal(self) -> bool:
        """Whether the mean of the ranks' values is the full batch's, or there is none to compare."""
        if not self.values:
            return self.failure is None
        mean = sum(self.values) / len(self.values)
        return abs(mean - self.value) <= self.tolerance * max(1.0, abs(self.value))

    @property
    def gradient_equal(self) -> bool:
        """Whether the gradient is, in direction and size."""
        return abs(self.ratio - 1) <= self.tolerance and self.residual <= self.tolerance

    @property
    def equal(self) -> bool:
        """Both, as far as they were compared."""
        return self.value_equal and self.gradient_equal

    def sentence(self) -> str:
        """What was found, for people."""
        if self.failure is not None:
            return self.failure
        if self.equal:
            return "the full batch's gradient" if self.without_value else "the full batch's value and gradient"
        said = []
        if not self.value_equal:
            mean = sum(self.values) / len(self.values)
            said.append(f"the value is {mean:.6g}, the full batch's {self.value:.6g}")
        if not self.gradient_equal:
            said.append(self._gradient_sentence())
        return "; ".join(said)

    def _gradient_sentence(self) -> str:
        if not self.residual <= self.tolerance:
            return (
                f"the gradient points elsewhere: {100 * self.residual:.2g}% of it is not along the full batch's, and "
                f"what is has {self.ratio:.4g} times its size"
            )
        world, said = len(self.sizes), f"the gradient is {self.ratio:.6g} times the full batch's"
        if world > 1 and math.isclose(self.ratio, 1 / world, rel_tol=1e-3):
            return f"{said}: multiply the loss by the number of ranks"
        if world > 1 and math.isclose(self.ratio, world, rel_tol=1e-3):
            return f"{said}: divide the loss by the number of ranks"
        return said


@dataclass(frozen=True)
class Equivalence:
    """What `check_equivalent` found, by number of ranks and shards."""

    cases: tuple[ShardedCase, ...]

    @property
    def equal(self) -> bool:
        """Whether every case has the full batch's value and gradient."""
        return all(case.equal for case in self.cases)

    def __str__(self) -> str:
        return "\n".join(f"{' + '.join(map(str, case.sizes))} rows: {case.sentence()}" for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"equal": self.equal, "cases": [asdict(c) | {"found": c.sentence()} for c in self.cases]}


def check_equivalent(
    target: Target,
    *,
    against: Target | None = None,
    kind: Literal["loss", "step"] = "loss",
    worlds: Sequence[int] = (1, 2, 3),
    uneven: bool = True,
    rows: int = 12,
    dtype: Literal["float64", "float32"] = "float64",
    tolerance: float | None = None,
    timeout: float = 60.0,
    seed: int = 0,
) -> Equivalence:
    """Run a loss with its batch split over ranks, and compare value and gradient with those of the full batch.

    Two small encoders embed ``rows`` pairs. On R ranks each rank embeds its own rows, the loss is called on all ranks
    at once, and the encoders' gradients are averaged over ranks, as DistributedDataParallel does:

        mean_r value_r = L(all rows),     mean_r grad_theta value_r = grad_theta L(all rows).

    Ranks are processes with gloo on the CPU, so nothing has to be installed or rented for it. A rank that raises, or
    that gives no answer in time, is a finding too. The contract of a new loss (gradients by finite differences, no
    change by the order of pairs) is `infomech.testing.check_loss`.

    Args:
        target: what is checked, as ``module:function``, ``file.py:function`` or a function that can be found by such a
            name. ``kind="loss"``: it is called on every rank as target(x, y) on that rank's embeddings, unit rows
            (n, 8), and returns its scalar; it may ask `torch.distributed` who it is. ``kind="step"``: it is called as
            target(left, right, a, b) with both encoders and that rank's inputs, leaves the gradients in the encoders'
            ``.grad``, and returns the value: a cached or an accumulated step. Of one that returns nothing only the
            gradients are compared.
        against: the full batch's loss, called as against(x, y) in one process; by default the target itself, which a
            step cannot be.
        kind: see `target`.
        worlds: numbers of ranks.
        uneven: try shards of different sizes too.
        rows: pairs of the full batch.
        dtype: of the embeddings.
        tolerance: relative error that counts as equal; 1e-6 in float64, 1e-4 in float32.
        timeout: seconds after which a rank is called hanging.
        seed: of encoders and inputs.

    Raises:
        InputError: for a target that cannot be found, or a full batch that cannot be computed.

    >>> found = check_equivalent("infomech.losses.equivalence_rank:an_example", worlds=[1])
    >>> found.equal, str(found)
    (True, "12 rows: the full batch's value and gradient")
    """
    check_seed(seed)
    if kind not in ("loss", "step"):
        raise InputError(f"kind is {kind!r}; expected 'loss', called on embeddings, or 'step', called on encoders")
    if kind == "step" and against is None:
        raise InputError("a step has to be compared with a loss of the full batch: name it with against=")
    most = max(worlds, default=0)
    if not worlds or min(worlds) < 1 or rows < most + 1:
        raise InputError(f"worlds is {list(worlds)} for {rows} rows; expected numbers of ranks, each with two rows")
    allowed = tolerance if tolerance is not None else {"float64": 1e-6, "float32": 1e-4}[dtype]
    plan = {"dtype": dtype, "seed": seed, "timeout": timeout}
    spec = spec_of(target)
    whole = spec if against is None else spec_of(against)
    cases = []
    with _Launcher(spec) as launcher:
        reference = _run(launcher, plan | {"target": whole, "kind": "loss"}, [rows], timeout)
        if isinstance(reference, str):
            raise InputError(f"the full batch in one process: {reference}")
        for sizes in _shards(worlds, rows, uneven=uneven):
            found = _run(launcher, plan | {"target": spec, "kind": kind}, sizes, timeout)
            value = reference["values"][0]
            if isinstance(found, str):
                cases.append(ShardedCase(tuple(sizes), value, failure=found, tolerance=allowed))
                continue
            ratio, residual = _compare(found["gradient"], reference["gradient"])
            cases.append(ShardedCase(tuple(sizes), value, tuple(found["values"]), ratio, residual, None, allowed))
    return Equivalence(tuple(cases))


def spec_of(target: Target) -> str:
    """A name by which another process finds a function."""
    if isinstance(target, str):
        if ":" not in target:
            raise InputError(f"{target!r} names no function; expected module:function or file.py:function")
        return target
    name, file = getattr(target, "__qualname__", ""), None
    if name.isidentifier():
        file = inspect.getsourcefile(target)
    if file is None:
        raise InputError(
            f"{name or target!r} cannot be found by name from another process; pass a function of a module or file"
        )
    return f"{file}:{name}"


def _shards(worlds: Sequence[int], rows: int, *, uneven: bool) -> list[list[int]]:
    """The rows of each rank: as even as they can be, and then not."""
    found = []
    for world in worlds:
        even = [rows // world + (k < rows % world) for k in range(world)]
        found.append(even)
        if uneven and world > 1 and even[0] > 1:
            found.append([even[0] - 1, *even[1:-1], even[-1] + 1])
    return found


class _Launcher:
    """Starts the ranks of one case after another; each case meets a process in which nothing has been called.

    On Linux ranks are forks of one process that has imported torch and the target, which takes longer than most cases;
    elsewhere, and where that process is not safe to fork, each is a process of its own.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "_Launcher":
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True}
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, self._spec], stdin=subprocess.PIPE, env={**os.environ, **one_thread}, **quiet
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()  # it ends its ranks, and itself
        self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether it can start anything."""
        return self._process is not None and self._process.poll() is None

    def start(self, plans: list[dict[str, Any]]) -> None:
        """Start a rank for each plan."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):  # it is not alive
            self._process.stdin.write(json.dumps(plans) + "\n")
            self._process.stdin.flush()


def _run(launcher: _Launcher, plan: dict[str, Any], sizes: Sequence[int], timeout: float) -> dict[str, Any] | str:
    """What the ranks found together, or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="infomech-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        launcher.start([plan | {"rank": rank, "sizes": list(sizes), "folder": name} for rank in range(len(sizes))])
        _wait(launcher, folder, timeout)
        answers = [_answer(folder / f"{rank}.json") for rank in range(len(sizes))]
    said = [(rank, answer["error"]) for rank, answer in enumerate(answers) if answer and "error" in answer]
    first = next((s for s in said if not answers[s[0]]["lost"]), said[0] if said else None)  # type: ignore[index]
    if first is not None and answers[first[0]]["lost"]:  # type: ignore[index]
        return "a rank dies in a collective call, as where one expects shards of equal size"
    if first is not None:
        return f"rank {first[0]} stops: {first[1]}"
    if not launcher.alive:
        return "no answer: the process ends where the target is imported"
    if any(answer is None for answer in answers):
        return f"no answer within {timeout:g} s: ranks wait for one another, or one has died"
    found: dict[str, Any] = answers[0]  # type: ignore[assignment]
    return found


def _wait(launcher: _Launcher, folder: Path, timeout: float) -> None:
    """Until all ranks have ended, or time is over; not long once one has failed."""
    end = time.monotonic() + timeout + TO_IMPORT
    while not (folder / ENDED).exists() and launcher.alive:
        if any("error" in (_answer(file) or {}) for file in folder.glob("*.json")):
            end = min(end, time.monotonic() + 2.0)
        if time.monotonic() > end:
            (folder / STOP).touch()
            end = math.inf  # it will say that they have
        time.sleep(0.02)


def _answer(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _compare(found: list[float], truth: list[float]) -> tuple[float, float]:
    """The ratio along the truth, and the share of what was found that is not along it."""
    size = sum(t * t for t in truth)
    if size == 0.0:
        return (1.0, 0.0) if not any(found) else (math.inf, 1.0)
    ratio = sum(f * t for f, t in zip(found, truth, strict=True)) / size
    length = math.sqrt(sum(f * f for f in found))
    rest = math.sqrt(sum((f - ratio * t) ** 2 for f, t in zip(found, truth, strict=True)))
    return ratio, rest / length if length else 0.0


__all__ = ["Equivalence", "ShardedCase", "check_equivalent", "spec_of"]
