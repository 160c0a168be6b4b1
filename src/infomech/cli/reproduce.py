"""The commands below `infomech reproduce`: one for each experiment, with the options that its plan declares."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .._checks import InputError
from .._files import reserved
from ..experiments.experiment import Experiment, Option, options_of, unknown_option
from ..experiments.registry import EXPERIMENTS, choose_all, shared_options
from .app import Quiet, UsageError, flowing, seed_option
from .show import progress_bar

_ABOUT = """Run an experiment: figures as PNG and PDF, results.json with every number and its interval, and a README.

Each has options of its own: infomech reproduce NAME --help. An interrupted run resumes when the same command is
given again.
"""

Fast = Annotated[bool, typer.Option("--fast", help="The same shape in a fraction of the work.")]
Seed = Annotated[int, seed_option("First seed of the runs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")]
_FLAGS = ("--fast", "--overwrite", "--quiet", "--list")
_COMMON = ("--out", "--seed", "--help", *_FLAGS)


def run_reproduce(arguments: Sequence[str]) -> None:
    """Run what the arguments of `infomech reproduce` say.

    Raises:
        InputError: for a name that is no experiment, and an option that the named one does not have.
    """
    given = _name_first(list(arguments))
    known = f"{', '.join(EXPERIMENTS)}; or all of them: all"
    if not given:
        raise InputError(f"which experiment? There are: {known}")
    name = given[0]
    if not name.startswith("-"):
        if name != "all" and name not in EXPERIMENTS:
            raise InputError(f"{name!r} is no experiment; there are: {known}")
        _check_options(name, given[1:])
    try:
        _commands()(args=given, prog_name="infomech reproduce", standalone_mode=False)
    except UsageError as error:
        said = error.format_message()  # type: ignore[attr-defined]
        raise InputError(f"{name}: {said[:1].lower()}{said[1:].removesuffix('.')}") from None


def _name_first(arguments: list[str]) -> list[str]:
    """The arguments with the experiment's name in front, wherever it stands among the options."""
    for at, word in enumerate(arguments):
        free = at == 0 or not arguments[at - 1].startswith("-") or arguments[at - 1] in _FLAGS
        if free and (word in EXPERIMENTS or word == "all"):
            return [word, *arguments[:at], *arguments[at + 1 :]]
    return arguments


def _check_options(name: str, words: Iterable[str]) -> None:
    own = shared_options() if name == "all" else [o for o, _ in _declared(EXPERIMENTS[name])]
    known = {spelling for o in own for spelling in o.spellings} | set(_COMMON)
    if name != "all" and EXPERIMENTS[name].choices:
        known.add("--data")
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            raise unknown_option(name, flag, own)


def _declared(experiment: Experiment) -> list[tuple[Option, str]]:
    """The options of all forms of an experiment, once each, with their defaults in words."""
    options: dict[str, Option] = {}
    defaults: dict[str, list[str]] = {}
    for form in experiment.forms:
        for o in options_of(form.full):
            options.setdefault(o.name, o)
            full, fast = (_shown(getattr(plan, o.field)) for plan in (form.full, form.fast))
            if full:
                text = full if fast == full or not fast else f"{full}, fast {fast}"
                defaults.setdefault(o.name, []).append(f"{form.data}: {text}" if form.data else text)
    return [(o, "; ".join(defaults.get(name, []))) for name, o in options.items()]


def _shown(value: Any) -> str:
    """A default for people; nothing for None."""
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return "" if value is None or isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _commands() -> typer.Typer:
    """The commands, made from the plans."""
    commands = typer.Typer(
        help=flowing(_ABOUT),
        rich_markup_mode="rich",
        add_completion=False,
        pretty_exceptions_enable=False,
        subcommand_metavar="NAME [OPTIONS]",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @commands.callback(invoke_without_command=True)
    def listed(
        show: Annotated[bool, typer.Option("--list", help="Name and describe every experiment, and stop.")] = False,
    ) -> None:
        if show:
            for experiment in EXPERIMENTS.values():
                typer.echo(f"{experiment.name:24}{experiment.title}")

    for experiment in EXPERIMENTS.values():
        example = f"Example: infomech reproduce {experiment.name} --fast -o {experiment.name}"
        function = _with_options(_one(experiment), _declared(experiment), experiment.choices, experiment.name)
        commands.command(experiment.name, help=experiment.title, epilog=example)(function)
    shared = [(o, "") for o in shared_options()]
    about = "Every experiment that can run here, each in a folder of its own."
    commands.command("all", help=about)(_with_options(_all, shared, (), "reproduced"))
    return commands


def _one(experiment: Experiment) -> Callable[..., None]:
    def run(*, out: Path, fast: bool, seed: int, overwrite: bool, quiet: bool, **given: Any) -> None:
        form, plan = experiment.choose({k: v for k, v in given.items() if v is not None}, fast=fast)
        with reserved(out, "run"):
            experiment.prepare(out, overwrite=overwrite)
            with progress_bar(f"Running {experiment.name}", quiet=quiet) as step:
                results = form.run(out, plan=plan, seed=seed, progress=step)
        for sentence in results["found"]:
            typer.echo(f"- {sentence}")
        typer.echo(f"\nResults: {out / 'README.md'}")

    return run


def _all(*, out: Path, fast: bool, seed: int, overwrite: bool, quiet: bool, **given: Any) -> None:
    chosen, left_out = choose_all({k: v for k, v in given.items() if v is not None})
    for experiment, own in chosen:
        _one(experiment)(out=out / experiment.name, fast=fast, seed=seed, overwrite=overwrite, quiet=quiet, **own)
        typer.echo("")
    for name, reason in left_out.items():
        typer.echo(f"Left out: {name}; {reason}")


def _with_options(
    function: Callable[..., None], declared: Iterable[tuple[Option, str]], data: Sequence[str], out: str
) -> Callable[..., None]:
    """The function with a signature of which typer makes the options; one that is not given is None."""
    where = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")]
    given: dict[str, tuple[Any, Any]] = {"out": (where, Path(out)), "fast": (Fast, False), "seed": (Seed, 0)}
    given |= {"overwrite": (Overwrite, False), "quiet": (Quiet, False)}
    if data:
        help = f"What it runs on: {' or '.join(data)}; {data[0]} by default."
        given["data"] = (Annotated[str | None, typer.Option(metavar="|".join(data), help=help)], None)
    for o, default in declared:
        given[o.name] = (_annotation(o, default), None)
    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = [inspect.Parameter(n, keyword, default=d, annotation=a) for n, (a, d) in given.items()]
    function.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    function.__annotations__ = {name: annotation for name, (annotation, _) in given.items()}
    return function


def _annotation(o: Option, default: str) -> Any:
    kind: Any = str if o.many or o.choices else o.kind
    metavar = "|".join(o.choices) if o.choices else "A,B,..." if o.many else None
    help = f"{o.help} ({default})" if default else o.help
    least = None if o.many or o.kind not in (int, float) else o.at_least
    return Annotated[kind | None, typer.Option(o.flag, min=least, metavar=metavar, help=help)]


__all__ = ["run_reproduce"]
