"""Commands of findings in the words of the run: its files, and its options that say what their rows mean."""

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .app import app

if TYPE_CHECKING:
    from ..diagnosis import Finding


def filled(
    findings: "Sequence[Finding]",
    files: Sequence[str | None],
    options: Mapping[str, object],
    *,
    fitted: Path | None = None,
) -> "list[Finding]":
    """The findings with commands to be pasted: X Y as the files of the run, and the options that it was given.

    An option goes with every command that takes it and does not set it. Where `infomech score --apply` speaks of other
    files, X Y stay.

    Args:
        findings: texts with commands between backticks.
        files: X and Y as they were given; a folder alone, with None for Y, stands for both.
        options: values by the names of the commands' parameters; None where one was not given.
        fitted: the folder that the run writes a density ratio to.
    """
    takes = {
        each.callback.__name__: inspect.signature(each.callback) for each in app.registered_commands if each.callback
    }
    words = _quoted(files)

    def fill(found: re.Match[str]) -> str:
        text = found[0] if fitted is None else found[0].replace("--apply DIR", f"--apply {_quoted([str(fitted)])}")
        if " X Y" not in text or ("--apply" in text and ("--index" not in text or None in files)):
            return text
        known = set() if "--apply" in text else set(takes[found[1]].parameters)
        if "pairs-tied.npy" in text:
            known.discard("split")  # it names the unseen pairs only, which a report with --split is on
        more = [
            _option(name, value)
            for name, value in options.items()
            if value is not None and name in known and not re.search(rf" --(no-)?{_flag(name)}\b", text)
        ]
        whole = " ".join([text[1:-1].replace(" X Y", f" {words}"), *more])
        # what would break the code that it stands in, or not survive it, is left to the reader
        return f"`{whole}`" if whole.isprintable() and "`" not in whole and "  " not in whole else text

    return [replace(each, text=re.sub(r"`infomech (\w+)[^`]*`", fill, each.text)) for each in findings]


def _quoted(words: Sequence[str | None]) -> str:
    return shlex.join([word for word in words if word is not None])


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _option(name: str, value: object) -> str:
    """One option with its value, as it is typed."""
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{_flag(name)}"
    values = value if isinstance(value, tuple) else (value,)
    return shlex.join([f"--{_flag(name)}", *(f"{each:g}" if isinstance(each, float) else str(each) for each in values)])


__all__ = ["filled"]
