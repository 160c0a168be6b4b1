"""What the commands print: progress, findings, tables, JSON."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from .._typing import Progress
    from ..diagnosis import Finding


def console() -> Any:
    """Rich's console on the standard output."""
    from rich.console import Console

    return Console()


@contextmanager
def progress_bar(title: str) -> "Iterator[Progress]":
    """A bar on the error stream, if that is a terminal: progress for people, silence for scripts."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.advance(task, share)


@contextmanager
def rate_bar(title: str, total: int | None) -> "Iterator[Callable[[int, int | None], None]]":
    """A bar with a rate on the error stream, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    speed = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, rate="")

        def step(count: int, _: int | None) -> None:
            bar.advance(task, count)
            speed_now = bar.tasks[0].speed
            bar.update(task, rate="" if speed_now is None else f"{speed_now:,.0f}/s")

        yield step


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


def print_json(content: object) -> None:
    """Strict JSON on the standard output."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


__all__ = ["console", "print_findings", "print_json", "progress_bar", "rate_bar"]
