"""Files that are written whole or not at all, and what JSON knows of numbers."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ._checks import InputError

Files = Iterable[tuple[str, bytes]]
Json = dict[str, Any]


def write_folder(
    folder: str | os.PathLike[str],
    files: Files,
    *,
    owned: Collection[str],
    what: str,
    overwrite: bool = False,
) -> Path:
    """Write a set of files into a folder so that it holds all of them or is as it was.

    Everything goes to a temporary folder beside the target first and is moved in by renames, which need no space. If
    anything fails on the way, a full disk, an interrupt, an error while a figure is drawn, the moves are undone, the
    temporary folder is removed and the target is as it was. Files of others in the folder are never touched.

    Args:
        folder: where to; made with its parents if it does not exist.
        files: relative path (with "/") and content of each file; may be a generator that renders as it goes.
        owned: every relative path that such a set can hold; with `overwrite` those of them that the new set lacks are
            removed, so that nothing stale stays beside it.
        what: what is written, "report" say, for messages.
        overwrite: allow a folder that is not empty. Without it any file in the folder is a refusal, an earlier set too.

    Returns:
        The folder.

    Raises:
        InputError: if the folder may not or cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as base:
    ...     out = write_folder(Path(base, "out"), [("a.txt", b"1"), ("b/c.txt", b"2")], owned=[], what="report")
    ...     sorted(p.relative_to(out).as_posix() for p in out.rglob("*.txt"))
    ['a.txt', 'b/c.txt']
    """
    target = Path(folder)
    check_target(target, owned=owned, what=what, overwrite=overwrite)
    try:
        with _made_parents(target), _stage_beside(target) as stage:
            names = _fill(stage, files)
            if target.is_dir():
                _swap_files(stage / "new", target, names, set(owned) - set(names), stage / "old")
            else:
                os.rename(stage / "new", target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"could not write the {what} to {target}: {reason}; nothing there was changed") from error
    return target


def check_target(target: Path, *, owned: Collection[str], what: str, overwrite: bool) -> None:
    """Raise InputError unless a set of files may be written to the folder; call it early to fail before the work."""
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise InputError(f"{target} is a file; name a folder to write the {what} to")
        if overwrite:
            return
        found = sorted(entry.name for entry in target.iterdir())
    except OSError as error:
        raise InputError(f"cannot look into {target}: {error.strerror or error}; choose another folder") from error
    if not found:
        return
    tops = {PurePosixPath(name).parts[0] for name in owned}
    foreign = [name for name in found if name not in tops]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        holds = f"holds other files ({shown})"
    else:
        holds = f"holds a {what} already"
    raise InputError(f"{target} {holds}; choose another folder, or pass overwrite=True (--overwrite)")


@contextmanager
def _made_parents(target: Path) -> Iterator[None]:
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            if not _remove_empty(parent):
                break
        raise


@contextmanager
def _stage_beside(target: Path) -> Iterator[Path]:
    """A hidden sibling on the same file system, so that a rename is enough; gone at the end, whatever happens."""
    stage = target.parent / f".{target.name}-{secrets.token_hex(6)}"
    try:
        stage.mkdir()
        (stage / "new").mkdir()
        (stage / "old").mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _fill(stage: Path, files: Files) -> list[str]:
    names = []
    for name, content in files:
        path = stage / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        names.append(name)
    return names


def _swap_files(new: Path, target: Path, names: list[str], stale: set[str], old: Path) -> None:
    """Move new files in and the old ones out, one rename each; undo all of it if anything stops us."""
    present = [name for name in sorted({*names, *stale}) if os.path.lexists(target / name)]
    folders = sorted({parent for name in names for parent in (target / name).parents if target in parent.parents})
    made = [parent for parent in folders if not parent.exists()]
    try:
        for name in present:
            (old / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(target / name, old / name)
        for parent in folders:
            parent.mkdir(exist_ok=True)
        for name in names:
            os.rename(new / name, target / name)
        for parent in {(target / name).parent for name in stale} - {target}:
            _remove_empty(parent)
    except BaseException:
        # What lies where says what was done: no journal that an interrupt could leave one step behind.
        for name in names:
            if not os.path.lexists(new / name):
                os.unlink(target / name)
        for name in present:
            if os.path.lexists(old / name):
                (target / name).parent.mkdir(exist_ok=True)
                os.rename(old / name, target / name)
        for parent in reversed(made):
            _remove_empty(parent)
        raise


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def plain(value: Any) -> Any:
    """Data classes, arrays and numbers as JSON knows them; what is not finite becomes None.

    >>> plain({"loss": float("nan"), "shape": (2, 3)})
    {'loss': None, 'shape': [2, 3]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def dump_json(content: Any) -> bytes:
    """Strict JSON, readable by people: no NaN, no Infinity."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", errors="replace")


__all__ = ["Files", "Json", "check_target", "dump_json", "plain", "write_folder"]
