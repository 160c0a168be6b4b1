"""What the commands print: progress, findings, tables, JSON."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import typer

from .app import printable

if TYPE_CHECKING:
    from .._typing import Progress
    from ..diagnosis import Finding

EVERY = 10.0  # seconds between lines where there is no terminal


def console() -> Any:
    """Rich's console on the standard output; a reader that goes away is an exception here, and no exit code 1."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped()


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> "Iterator[Progress]":
    """How far a phase is, on the error stream: a bar on a terminal, elsewhere a line every ten seconds."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with _told(title, 1.0, columns, quiet=quiet) as advance:
        yield advance


@contextmanager
def rate_bar(title: str, total: int | None, *, quiet: bool = False) -> "Iterator[Callable[[int, int | None], None]]":
    """As `progress_bar`, for items that are counted, with their rate."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with _told(title, total, columns, quiet=quiet) as advance:
        yield lambda count, _: advance(count)


@contextmanager
def _told(title: str, total: int | float | None, columns: Any, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if quiet:
        yield lambda done: None
    elif console.is_terminal:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, rate="")

            def advance(done: int | float) -> None:
                bar.advance(task, done)
                speed = bar.tasks[0].speed
                bar.update(task, rate="" if speed is None else f"{speed:,.0f}/s")

            yield advance
    else:
        with _Lines(title, total) as lines:
            yield lines.advance


class _Lines:
    """Lines for a log: phase, share, and time left, from a thread of its own, so that a long step is no silence."""

    def __init__(self, title: str, total: int | float | None) -> None:
        self._title, self._total, self._done = title, total, 0.0
        self._ended = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Lines":
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def advance(self, done: int | float) -> None:
        self._done += done

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            with suppress(OSError, ValueError):  # nobody reads: no reason to stop the work
                sys.stderr.write(f"{self.line()}\n")
                sys.stderr.flush()

    def line(self) -> str:
        spent = time.monotonic() - self._started
        if self._total is None:
            return f"{self._title}: {self._done:,.0f} so far, {_span(spent)}"
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        counted = "" if self._total == 1.0 else f"{self._done:,.0f} of {self._total:,.0f}, "
        left = f"about {_span(spent * (1 - share) / share)} left" if share > 0 else f"{_span(spent)} so far"
        return f"{self._title}: {counted}{share:.0%}, {left}"


def _span(seconds: float) -> str:
    """A time for people.

    >>> _span(9.2), _span(200.0), _span(7300.0)
    ('9 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def print_findings(findings: "Sequence[Finding]") -> None:
    """The findings, each with its mark and its text indented."""
    from rich.markup import escape
    from rich.padding import Padding

    colours = {"serious": "bold red", "warning": "yellow", "note": "cyan", "good": "green"}
    screen = console()
    for finding in findings:
        mark = f"[{colours[finding.severity]}]{finding.severity.upper():8}[/]"
        screen.print(f"{mark}[bold]{escape(finding.title)}[/]", highlight=False)
        screen.print(Padding(escape(finding.text), (0, 0, 0, 8), expand=False), highlight=False)


def print_table(header: "Sequence[str]", rows: "Iterable[Sequence[str]]") -> None:
    """A table on the standard output, as wide as its cells: the first column is text, the others are numbers."""
    from rich.cells import cell_len

    table = [[printable(" ".join(cell.split())) for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(row[at]) for row in table) for at in range(len(header))]
    for first, *others in table:
        cells = [" " * (width - cell_len(cell)) + cell for cell, width in zip(others, widths[1:], strict=True)]
        typer.echo("  ".join([first + " " * (widths[0] - cell_len(first)), *cells]).rstrip())


def print_json(content: object) -> None:
    """Strict JSON on the standard output."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


__all__ = ["console", "print_findings", "print_json", "print_table", "progress_bar", "rate_bar"]
