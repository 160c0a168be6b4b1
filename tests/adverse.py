"""Commands where nothing can be written: run by test_adversity.py in a process of its own.

    python adverse.py DATA OUT full|readonly|plain

``full`` limits the size of files, as a full disk does; ``readonly`` runs as another user, who may not write to OUT.
Prints the exit code and what each command said on the error stream.
"""

import contextlib
import io
import json
import os
import resource
import signal
import sys

import infomech.cli as cli
import infomech.corrections
import infomech.embedding.encoders.loading
import infomech.experiments.registry
import infomech.report.page  # noqa: F401


def commands(data: str, out: str) -> dict[str, list[str]]:
    files = [f"{data}/x.npy", f"{data}/y.npy"]
    model = "infomech.embedding.encoders.loading:letter_counts"
    return {
        "report": ["report", *files, "-t", "0.1", "--no-figures", "-o", f"{out}/report"],
        "correct": ["correct", *files, "-t", "0.1", "-m", "whitening", "-o", f"{out}/correct"],
        "embed": ["embed", f"{data}/a.txt", f"{data}/b.txt", "-m", model, "-o", f"{out}/embed"],
        "reproduce": ["reproduce", "gradient-consistency", "--fast", "-o", f"{out}/reproduce"],
        "demo": ["demo", "--steps", "1", "-o", f"{out}/demo"],
    }


def run(arguments: list[str]) -> tuple[int, str]:
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            cli.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0), told.getvalue()
    raise AssertionError


def main(data: str, out: str, mode: str) -> None:
    if mode == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    if mode == "readonly":
        for arguments in commands(data, "/dev/null").values():
            run(arguments)  # fails at the same place: all that is needed is imported while it may be read
        os.setgid(65534)
        os.setuid(65534)
        os.environ["HOME"] = os.environ["MPLCONFIGDIR"] = "/nonexistent"
    result = json.dumps({name: run(arguments) for name, arguments in commands(data, out).items()})
    sys.stdout.write(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
