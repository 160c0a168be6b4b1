"""The command line: how commands are registered and fail, and the options that they share."""

import inspect
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's, or that of typer's copy


class _OneLine(TyperGroup):
    """Says in one line what is wrong with the words of a command, as everything else is said."""

    def main(self, *args: Any, **extra: Any) -> Any:
        standalone_mode = extra.pop("standalone_mode", True)
        extra["prog_name"] = extra.get("prog_name") or "infomech"
        try:
            code = super().main(*args, **(extra | {"standalone_mode": False}))
        except UsageError as error:
            if not standalone_mode:
                raise
            raise SystemExit(usage_failure(error)) from None
        except typer.Abort as stop:
            if not standalone_mode:
                raise
            # some versions of typer turn an interrupt outside of a command into exit code 1, which means a finding here
            raise SystemExit(130 if isinstance(stop.__cause__, KeyboardInterrupt) else 1) from None
        if standalone_mode:
            raise SystemExit(code or 0)
        return code


app = typer.Typer(
    name="infomech",
    cls=_OneLine,
    help="What is my contrastive loss made of, how large is my modality gap, and what can I do about it?",
    epilog="Start with: infomech demo. Exit codes: 0 fine, 1 a serious finding (with --fail-on) or a failed claim, "
    "2 unusable input, 70 a fault of infomech itself, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FILES = "numpy .npy or .npz, .safetensors, .pt, .parquet, .arrow, or a folder of .npy shards; FILE::KEY names an array"

First = Annotated[
    str | None,
    typer.Argument(
        metavar="X", help=f"Embeddings of the first modality: {_FILES}. Or a folder of 'infomech embed', without Y."
    ),
]
Second = Annotated[str | None, typer.Argument(metavar="Y", help="Embeddings of the second modality, likewise.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        "-t",
        help="Temperature tau of the loss: 1 / logit scale. CLIP ends at 0.01. Needed, unless 'infomech embed' "
        "wrote the embeddings and knows it.",
    ),
]
Pairs = Annotated[
    str | None,
    typer.Option(
        help="Rows that belong together, a row number of X and one of Y for each pair, from 0: two columns of CSV, "
        "or a (p, 2) array in any format of the embeddings. By default row i of X belongs to row i of Y.",
        rich_help_panel="What the rows mean",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        help="A label for each row of X, for the map: a line each, or .npy.", rich_help_panel="What the rows mean"
    ),
]
Names = Annotated[
    str | None,
    typer.Option(help="Names of the two modalities, for people: image,text.", rich_help_panel="What the rows mean"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Batch size of your training; judged against the temperature.", rich_help_panel="What the rows mean"
    ),
]
Normalize = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Bring rows to unit length, or refuse those that are not; by default they are, and a note says so.",
        rich_help_panel="What the rows mean",
    ),
]


def _seed(text: str | int) -> int:
    from .._checks import HIGHEST_SEED

    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= HIGHEST_SEED:
        raise typer.BadParameter(f"{text} is no seed; give a whole number from 0 to {HIGHEST_SEED:,}")
    return seed


def seed_option(help: str) -> Any:
    """The option --seed, which is refused before any work."""
    return typer.Option("--seed", parser=_seed, metavar="INTEGER", help=help)


Seed = Annotated[int, seed_option("Seed of the order of groups, the control and the samples shown.")]
Device = Annotated[
    str,
    typer.Option(help="Where the work is done: cpu, cuda, cuda:1; auto takes the first GPU, if it has the memory."),
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        help="What computes the sums: tiles of torch's operations, or triton kernels; auto takes the kernels on CUDA, "
        "where they can be used.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on the error stream.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the report that the folder holds.")]


def command(
    example: str, *, passes_all: bool = False, cls: type[TyperCommand] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command of which every failure ends in one line on the error stream and an exit code.

    One that `passes_all` gets every argument as it stands, options and --help too; `cls` is what makes its help.
    """
    settings: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []} if passes_all else {}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def guarded(*args: Any, **options: Any) -> None:
            try:
                function(*args, **options)
                sys.stdout.flush()
            except KeyboardInterrupt:
                raise failure("interrupted; what was complete before is still there", 130) from None
            except BrokenPipeError:  # the reader has seen enough: head, say
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except Exception as error:
                from .._checks import InfomechError

                if isinstance(error, InfomechError):
                    raise failure(spoken(str(error)), 2) from None
                if isinstance(error, OSError):
                    reason = f"{error.filename or 'the output'}: {error.strerror or error}"
                    raise failure(f"{reason}; what was there before is untouched", 2) from None
                if isinstance(error, typer.Exit | typer.Abort | UsageError):
                    raise
                if type(error).__name__ == "OutOfMemoryError":  # torch's, of a card
                    raise failure("the device ran out of memory; pass --device cpu, or fewer rows", 2) from None
                raise failure(_crash(error), 70) from None

        text = flowing(inspect.getdoc(function) or "")
        app.command(cls=cls, help=text, epilog=f"Example: {example}", context_settings=settings)(guarded)
        return guarded

    return register


def flowing(text: str) -> str:
    """A docstring for a terminal of any width: a paragraph in one line, the items of a list each in its own."""
    paragraphs = (re.sub(r"\n(?!- )\s*", " ", paragraph) for paragraph in text.split("\n\n"))
    return "\n\n".join(paragraphs)


_FLAGS = {
    "temperature": "--temperature",
    "names": "--names",
    "labels": "--labels",
    "pairs": "--pairs",
    "batch_size": "--batch-size",
    "normalize": "--normalize",
    "seed": "--seed",
    "seen": "--seen",
    "share": "--share",
    "overwrite": "--overwrite",
    "strict": "--strict",
    "precision": "--precision",
    "device": "--device",
    "backend": "--backend",
    "workers": "--workers",
    "checkpoint": "--checkpoint",
    "methods": "--method",
    "weights": "--weights",
    "prior": "--prior",
    "bias": "--bias",
    "method": "--calibrate",
}  # of the arguments that messages speak of


def spoken(message: str) -> str:
    """A message about arguments, in the words of the command line: options where it names them.

    >>> spoken("temperature is 0.0; it must be above 0")
    '--temperature is 0.0; it must be above 0'
    >>> spoken("out holds a report already; choose another folder, or pass overwrite=True")
    'out holds a report already; choose another folder, or pass --overwrite'
    >>> spoken("x.npz holds 2 arrays (a, b); name one with key='a'")
    'x.npz holds 2 arrays (a, b); name one: x.npz::a'
    """
    known = "|".join(_FLAGS)
    text = re.sub(r"^(.*?) (holds .*); name one with key='([^']*)'$", r"\1 \2; name one: \1::\3", message)
    text = re.sub(r"leave key='([^']*)' away", r"leave ::\1 away", text)
    text = re.sub(r"Columns\((image|caption)=NAME\)", r"--\1-column NAME", text)
    text = re.sub(rf"^({known})(?= (is|has|names|holds)\b)", lambda m: _FLAGS[m[1]], text)
    text = re.sub(rf"\b({known})=(?:True\b|'?(FILE|\w+)'?)", lambda m: f"{_FLAGS[m[1]]} {m[2] or ''}".rstrip(), text)
    return re.sub(rf"\b(pass|pass a smaller) ({known})\b", lambda m: f"{m[1]} {_FLAGS[m[2]]}", text)


def failure(message: str, code: int) -> typer.Exit:
    """One line on the error stream, and the exit that follows."""
    sys.stderr.write(f"infomech: {printable(message)}\n")
    return typer.Exit(code)


def usage_failure(error: Exception) -> int:
    """One line on the error stream about words that no command takes, and the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its help is printed already
        return 2
    context = getattr(error, "ctx", None)
    where = "infomech" if context is None else context.command_path
    said = " ".join(error.format_message().split()).removesuffix(".")  # type: ignore[attr-defined]
    sys.stderr.write(f"infomech: {printable(said[:1].lower() + said[1:])}; see {where} --help\n")
    return 2


def printable(text: str) -> str:
    r"""A text that stays on its line and leaves a terminal as it is: control characters are written out.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _crash(error: Exception) -> str:
    """One line on an exception that nobody expected; its trace goes to a file."""
    kind = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="infomech-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            log.write(f"{' '.join(sys.argv)}\n\n{trace}")
    except OSError:
        return f"a fault of infomech itself ({kind}); no log could be written, please report it"
    return f"a fault of infomech itself ({kind}); the trace is in {log.name}, please report it"


def _version(wanted: bool | None) -> None:
    if wanted:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = None,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; see `command` for how failures end."""
    for name in ("stdout", "stderr"):  # None where the shell closed it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process lives)
    try:
        try:
            app(args=None if arguments is None else list(arguments))
        finally:
            if arguments is None:  # the process ends here: an interrupt while Python cleans up is one, too
                with suppress(ValueError):  # in a thread, which gets no signals
                    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(0)  # typer exits by itself; this line tells type checkers so


__all__ = [
    "AsJson",
    "BatchSize",
    "Device",
    "First",
    "Labels",
    "Names",
    "Normalize",
    "Overwrite",
    "Pairs",
    "Quiet",
    "Second",
    "Seed",
    "Temperature",
    "UsageError",
    "app",
    "command",
    "failure",
    "flowing",
    "main",
    "printable",
    "seed_option",
]
