"""What an experiment is: a name, a plan that declares its options, and a function that runs the plan into a folder."""

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .._checks import InputError
from .._files import dump_json, write_file
from ..io.text import read_json

_MARK = "experiment.json"
_WORK = ("embeddings", "runs", "parts")  # what an experiment that was interrupted goes on from


@dataclass(frozen=True)
class Option:
    """An option of the command line that sets a field of a plan."""

    field: str
    flag: str  # "--steps", or "--fresh/--fixed" of a truth value
    help: str
    kind: type  # of the value, or of one of several
    many: bool = False  # several, with commas between
    choices: tuple[str, ...] = ()
    at_least: int | None = None
    shared: bool = False  # also an option of `reproduce all`

    @property
    def spellings(self) -> list[str]:
        """As it is written: one, or two of a truth value."""
        return self.flag.split("/")

    @property
    def name(self) -> str:
        """What experiments that have it are told it by, "test_split" for ``--test-split``."""
        return self.spellings[0].removeprefix("--").replace("-", "_")

    def parse(self, given: Any) -> Any:
        """The value of a plan's field from what was given on a command line; texts with commas become tuples.

        Raises:
            InputError: for something else than numbers with commas, or none of the choices.

        >>> Option("weights", "--weights", "Divergence weights", float, many=True).parse("0,0.75")
        (0.0, 0.75)
        """
        if self.many and isinstance(given, str):
            try:
                return tuple(self.kind(part) for part in given.split(","))
            except ValueError:
                raise InputError(f"{self.flag} is {given!r}; give numbers with commas between") from None
        if self.choices and given not in self.choices:
            raise InputError(f"{self.flag} is {given!r}; it is one of {', '.join(self.choices)}")
        return given


def option(
    default: Any, help: str, *, flag: str | None = None, at_least: int | None = None, shared: bool = False
) -> Any:
    """A field of a plan that the command line can set; its type says what the option takes.

    Args:
        default: of the field.
        help: a sentence.
        flag: by default the field's name.
        at_least: smallest whole number.
        shared: whether `reproduce all` has it as well, for files that several experiments need.
    """
    declared = {"help": help, "flag": flag, "at_least": at_least, "shared": shared}
    return field(default=default, metadata={"option": declared})


def options_of(plan: Any) -> list[Option]:
    """The options that a plan declares.

    >>> @dataclass(frozen=True)
    ... class Plan:
    ...     steps: int = option(1500, "Training steps.", at_least=1)
    ...     nodes: int = 96
    >>> [(o.flag, o.kind.__name__) for o in options_of(Plan())]
    [('--steps', 'int')]
    """
    hints = get_type_hints(type(plan))
    out = []
    for declared in fields(plan):
        if (said := declared.metadata.get("option")) is not None:
            flag = said["flag"] or f"--{declared.name.replace('_', '-')}"
            kind, many, choices = _kind(hints[declared.name])
            out.append(Option(declared.name, flag, said["help"], kind, many, choices, said["at_least"], said["shared"]))
    return out


def _kind(hint: Any) -> tuple[type, bool, tuple[str, ...]]:
    """Type of a value, whether there are several, and the choices, by a field's annotation."""
    if isinstance(hint, UnionType):
        return _kind(next(part for part in get_args(hint) if part is not type(None)))
    if get_origin(hint) is Literal:
        return str, False, get_args(hint)
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, ()
    return hint, False, ()


@dataclass(frozen=True)
class Form:
    """A way to run an experiment.

    Args:
        full: the plan.
        fast: the same shape in a fraction of the work.
        run: ``run(folder, plan=, seed=, progress=)``: plan and first seed say what is computed; results.json,
            provenance.json, README.md and figures go to the folder, which is made if missing and holds what an
            interrupted run goes on from; `progress` is called with shares of the work that sum to 1. Returns what
            results.json holds, with what was "found" in sentences.
        data: what it runs on, where an experiment has several forms.
        needs: a package without which it cannot run, and the extra of infomech that brings it.
    """

    full: Any
    fast: Any
    run: Callable[..., dict[str, Any]]
    data: str = ""
    needs: tuple[str, str] | None = None

    def lacks(self, plan: Any) -> str | None:
        """What the plan needs and is not here: files that nobody has named, or a package."""
        for o in options_of(plan):
            if o.shared and getattr(plan, o.field) is None:
                return f"{o.flag} says {o.help[0].lower()}{o.help[1:-1]}"
        if self.needs is not None and importlib.util.find_spec(self.needs[0]) is None:
            return f"it needs {self.needs[0]}: pip install 'infomech[{self.needs[1]}]'"
        return None

    def plan(self, given: Mapping[str, Any], *, fast: bool, name: str) -> Any:
        """The plan with the given options, by name.

        Raises:
            InputError: for an option that the plan does not declare, naming those that it has.
        """
        known = {o.name: o for o in options_of(self.full)}
        for key in given:
            if key not in known:
                raise unknown_option(name, f"--{key.replace('_', '-')}", known.values())
        values = {known[key].field: known[key].parse(value) for key, value in given.items()}
        return replace(self.fast if fast else self.full, **values)


def unknown_option(name: str, flag: str, known: Iterable[Option]) -> InputError:
    """The refusal of an option, with those that there are."""
    has = ", ".join(spelling for o in known for spelling in o.spellings) or "none of its own"
    return InputError(f"{name} has no option {flag}; it has {has}")


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper, or ours; what an interrupt left behind in its folder it goes on from.

    Args:
        name: on the command line.
        title: what it shows.
        forms: usually one; of several ``--data`` takes one, the first by default.
    """

    name: str
    title: str
    forms: tuple[Form, ...]

    @property
    def choices(self) -> tuple[str, ...]:
        """What ``--data`` may be; nothing where there is one form."""
        return tuple(form.data for form in self.forms) if len(self.forms) > 1 else ()

    def choose(self, given: Mapping[str, Any], *, fast: bool = False) -> tuple[Form, Any]:
        """The form and its plan with the given options, by name.

        Raises:
            InputError: for an option that this experiment, or its form, does not have.
        """
        options = dict(given)
        form, name = self.forms[0], self.name
        if self.choices and (data := options.pop("data", None)) is not None:
            if data not in self.choices:
                raise InputError(f"--data is {data!r}; {self.name} runs on {' or '.join(self.choices)}")
            form, name = self.forms[self.choices.index(data)], f"{self.name} --data {data}"
        return form, form.plan(options, fast=fast, name=name)

    def prepare(self, folder: Path, *, overwrite: bool) -> None:
        """Make the folder ready.

        Raises:
            InputError: if it holds something else than an earlier sitting of this experiment.
        """
        mark = folder / _MARK
        own = _name_in(mark) == self.name
        if folder.exists() and any(folder.iterdir()) and not own and not overwrite:
            raise InputError(f"{folder} is not empty; choose another folder with -o, or pass --overwrite")
        if overwrite and own:  # folders of the same names in a folder that no run has marked are somebody else's
            for name in _WORK:
                if not (folder / name).is_symlink():
                    shutil.rmtree(folder / name, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(mark, dump_json({"name": self.name}))


def _name_in(mark: Path) -> str | None:
    """The experiment that a folder is marked with."""
    try:
        content = read_json(mark)
    except InputError:
        return None
    return content.get("name") if isinstance(content, dict) else None


__all__ = ["Experiment", "Form", "Option", "option", "options_of", "unknown_option"]
