"""Kill commands at random moments, and see whether anything half-written is shown as complete, or stays behind.

    python benchmarks/kill_commands.py [--kills 50] [--seed 0] [report correct embed reproduce demo]

Each command runs in a process of its own, forked from one that has imported everything, and is killed (SIGKILL) at a
moment drawn uniformly from its whole time. Every second time its folder holds an earlier result, to be replaced. Then:

- what a reader takes for a result (its JSON file, a complete manifest) must be one, whole: the earlier or the new one;
- the same command, given again, must end well, with the same bytes as a run that nobody killed (but for the time);
- nothing hidden may be left beside it.

Prints a table; exits with 1 if a kill of any kind did harm. Linux and macOS.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn.datasets  # noqa: F401  # imported here, so that the children need not
import torch

import infomech.cli as cli
import infomech.corrections
import infomech.embedding.encoders.loading
import infomech.experiments.digits.halves
import infomech.experiments.registry
import infomech.report.page  # noqa: F401

VOLATILE = re.compile(rb'"(created|seconds|resumed)": [^\n]*|(created|seconds)[^\n<]*|[0-9.]+ s\b')


@dataclass(frozen=True)
class Command:
    """A command, what it reads, and which of its files say that it is whole."""

    arguments: Callable[[Path, Path], list[str]]  # of its data and its folder
    heads: tuple[str, ...]
    whole: Callable[[Path], bool]
    compared: Callable[[Path], bool]  # whether the bytes of a file must be the same in every run
    again: str  # what replaces an earlier result


def has_keys(*keys: str) -> Callable[[Path], bool]:
    return lambda path: set(keys) <= set(json.loads(path.read_text(encoding="utf-8")))


def complete(path: Path) -> bool:
    return json.loads(path.read_text(encoding="utf-8"))["complete"] in (True, False)


def numbers(path: Path) -> bool:
    return path.suffix in (".npy", ".safetensors", ".npz", ".txt", ".json", ".md", ".tex")


COMMANDS = {
    "report": Command(
        lambda d, o: ["report", str(d / "x.npy"), str(d / "y.npy"), "-t", "0.1", "--no-figures", "-o", str(o)],
        ("report.json",), has_keys("budget", "gap", "findings", "provenance"), numbers, "--overwrite",
    ),
    "correct": Command(
        lambda d, o: ["correct", str(d / "x.npy"), str(d / "y.npy"), "-t", "0.1", "-m", "whitening", "-o", str(o)],
        ("correct.json",), has_keys("before", "after"), numbers, "--overwrite",
    ),
    "embed": Command(
        lambda d, o: [
            "embed", str(d / "a.txt"), str(d / "b.txt"), "--batch-size", "8", "-o", str(o),
            "-m", "infomech.embedding.encoders.loading:letter_counts",
        ],
        ("manifest.json",), complete, lambda path: True, "--overwrite",
    ),
    "reproduce": Command(
        lambda d, o: [
            "reproduce", "gradient-consistency", "--fast", "--seeds", "2", "--population", "4096",
            "--temperatures", "1,0.1", "-o", str(o),
        ],
        ("results.json",), has_keys("experiment", "found"), lambda path: path.name == "results.json", "--overwrite",
    ),
    "demo": Command(
        lambda d, o: ["demo", "--steps", "10", "-o", str(o)],
        ("report-a/report.json", "report-b/report.json", "comparison/compare.json"),
        has_keys("schema_version"), lambda path: path.suffix == ".npy", "--overwrite",
    ),
}  # fmt: skip


def write_data(folder: Path) -> None:
    """Two files of embeddings and two of texts."""
    draw = np.random.default_rng(0)
    z = draw.normal(size=(400, 16))
    for name in "xy":
        rows = z + draw.normal(size=z.shape)
        np.save(folder / f"{name}.npy", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    words = ["".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), 12)) for _ in range(2400)]
    (folder / "a.txt").write_text("\n".join(words))
    (folder / "b.txt").write_text("\n".join(reversed(words)))


def start(arguments: list[str], log: Path) -> int:
    """The command in a child; its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def run(arguments: list[str], log: Path) -> float:
    """The command to its end; how long it took."""
    started = time.monotonic()
    _, status = os.waitpid(start(arguments, log), 0)
    if status:
        raise AssertionError(f"{' '.join(arguments)} ended with {status}: {log.read_text()[-500:]}")
    return time.monotonic() - started


def digest(folder: Path, compared: Callable[[Path], bool]) -> dict[str, str]:
    """Every file with the hash of its bytes, but for times; "" where they may differ."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.suffix in (".json", ".md"):
            content = VOLATILE.sub(b"", content)
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest() if compared(path) else ""
    return found


def leftovers(base: Path) -> list[str]:
    return [path.name for path in base.rglob(".*infomech-*")]


def kill_one(command: Command, data: Path, base: Path, moment: float, earlier: Path | None) -> str:
    """Kill once and look; what came of it: "before", "whole" (an earlier or a new result) or "finished"."""
    out = base / "out"
    arguments = command.arguments(data, out)
    if earlier is not None:
        shutil.copytree(earlier, out)
        arguments.append(command.again)
    child = start(arguments, base.parent / "log")
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    heads = [out / head for head in command.heads if (out / head).exists()]
    for head in heads:
        if not command.whole(head):
            raise AssertionError(f"{head} is not whole")
    outcome = "finished" if os.WIFEXITED(status) else "whole" if len(heads) == len(command.heads) else "before"
    if outcome == "finished" or earlier is not None or heads or out.exists():
        arguments = [*arguments, *([command.again] if command.again not in arguments and heads else [])]
    if "embed" in arguments and earlier is None:
        arguments = [a for a in arguments if a != command.again]  # it goes on
    run(arguments if outcome != "finished" else [*command.arguments(data, out), command.again], base.parent / "log")
    return outcome


def main() -> None:
    """All commands; a row of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commands", nargs="*", default=[], metavar="COMMAND")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pick = random.Random(given.seed)
    torch.set_num_threads(1)
    harm = 0
    print("| command | kills | before a result | beside an earlier or new one | after its end | harm |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        root = Path(name)
        data = root / "data"
        data.mkdir()
        write_data(data)
        for title in given.commands or COMMANDS:
            command = COMMANDS[title]
            reference = root / title
            run(command.arguments(data, reference), root / "log")  # the first run reads the libraries from disk
            took = run([*command.arguments(data, reference), command.again], root / "log")
            wanted = digest(reference, command.compared)
            seen = {"before": 0, "whole": 0, "finished": 0}
            bad = 0
            for at in range(given.kills):
                base = root / "trial"
                base.mkdir()
                try:
                    moment = pick.uniform(0, took)
                    seen[kill_one(command, data, base, moment, reference if at % 2 else None)] += 1
                    got = digest(base / "out", command.compared)
                    if got != wanted:
                        differ = sorted(k for k in wanted.keys() | got.keys() if wanted.get(k) != got.get(k))
                        raise AssertionError(f"other bytes after going on: {differ[:5]}")
                    if left := leftovers(base):
                        raise AssertionError(f"left behind: {left}")
                except AssertionError as error:
                    bad += 1
                    print(f"{title}, kill {at} after {moment:.2f} s: {error}", file=sys.stderr)
                shutil.rmtree(base)
                if seen["finished"] > at / 4:  # the moments come too late: the machine was busy when it was timed
                    took *= 0.9
            harm += bad
            cells = [title, given.kills, seen["before"], seen["whole"], seen["finished"], bad]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    raise SystemExit(1 if harm else 0)


if __name__ == "__main__":
    main()
