"""Files that are written whole or not at all, what JSON knows of numbers, and what a run was made with."""

import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch

from ._checks import InputError, shown

try:
    import fcntl
except ImportError:  # not a POSIX system: go without locks
    fcntl = None  # type: ignore[assignment]

Files = Iterable[tuple[str, bytes]]
Json = dict[str, Any]


def as_path(path: Any, name: str = "path") -> Path:
    """A path of what is given for one.

    Raises:
        InputError: for anything but text and paths.

    >>> as_path(None)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: path is None; it must be the name of a file or folder: a str or a Path
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InputError(f"{name} is {shown(path)}; it must be the name of a file or folder: a str or a Path")
    return Path(path)


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
    target = as_path(folder, "folder")
    check_target(target, owned=owned, what=what, overwrite=overwrite)
    real = Path(os.path.realpath(target))
    try:
        with _made_parents(real), _locked(real, what, "lock"), _stage(real) as stage:
            names = _fill(stage, files)
            if _is_whole_folder(real):
                _swap_files(stage / "new", real, names, set(owned) - set(names), stage / "old")
            else:
                os.rename(stage / "new", real)
    except OSError as error:
        raise _unwritten(what, target, error) from error
    return target


def _unwritten(what: str, target: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"could not write the {what} to {target}: {reason}; nothing there was changed")


def _is_whole_folder(target: Path) -> bool:
    """Whether files have to be moved in one by one: an empty folder can be replaced in one step, but for a mount."""
    return target.is_dir() and (_place(target) == target or any(target.iterdir()))


@contextmanager
def reserved(folder: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Keep other processes from a folder while what will be written to it is computed, which may be hours.

    Raises:
        InputError: if another process has it, or nothing can be written there.
    """
    real = Path(os.path.realpath(folder))
    with ExitStack() as held:
        try:
            held.enter_context(_made_parents(real))
            held.enter_context(_locked(real, what, "run"))
        except OSError as error:
            raise _unwritten(what, Path(folder), error) from error
        yield


def check_target(target: Path, *, owned: Collection[str], what: str, overwrite: bool) -> None:
    """Raise InputError unless a set of files may be written to the folder; call it early to fail before the work."""
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise InputError(f"{target} is a file; name a folder to write the {what} to")
        if overwrite:
            return
        mark = f".{Path(os.path.realpath(target)).name}{_MARK}"
        found = sorted(entry.name for entry in target.iterdir() if not entry.name.startswith(mark))
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
    raise InputError(f"{target} {holds}; choose another folder, or pass overwrite=True")


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
def _stage(target: Path) -> Iterator[Path]:
    """A hidden folder on the same file system, so that a rename is enough; gone at the end, whatever happens.

    The caller holds the target's lock: other stages of this target were left by a process that was killed.
    """
    place = _place(target)
    for stray in _strays(target, place):
        shutil.rmtree(stray, ignore_errors=True)
    stage = _hidden(target, place)
    try:
        stage.mkdir()
        (stage / "new").mkdir()
        (stage / "old").mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _locked(target: Path, what: str, kind: str) -> Iterator[None]:
    """Keep a second process from writing to the same place; the lock ends with the process that holds it."""
    if fcntl is None:
        yield
        return
    path = _place(target) / f".{target.name}{_MARK}{kind}"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _try_lock(handle):
                raise InputError(
                    f"another process is writing a {what} to {target}; wait for it, or choose another folder"
                )
            if _is_at(handle, path):  # and not one that its holder has just removed
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


_MARK = ".infomech-"  # in the hidden names of what is not complete


def _place(target: Path) -> Path:
    """Where hidden things of a folder stand: beside it; in it where that is another disk, or may not be written."""
    parent = target.parent
    if target.is_dir() and (os.stat(target).st_dev != os.stat(parent).st_dev or not os.access(parent, os.W_OK)):
        return target
    return parent


def _hidden(target: Path, place: Path) -> Path:
    return place / f".{target.name}{_MARK}{secrets.token_hex(6)}"


def _strays(target: Path, place: Path) -> list[Path]:
    """Hidden things of the target with our mark, but for its locks."""
    start = f".{target.name}{_MARK}"
    found = [place / name for name in os.listdir(place) if name.startswith(start)]
    return [path for path in found if path.name not in (f"{start}lock", f"{start}run")]


def _try_lock(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (os.fstat(handle).st_dev, os.fstat(handle).st_ino)


@contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` when all went well, and goes otherwise.

    What a killed process left beside the same path is removed; what another process is writing there is not.

    Args:
        path: its folder must exist.
        durable: wait until the content has reached the disk.

    Raises:
        OSError: if it cannot be written; `path` is then as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as base:
    ...     with replacing(Path(base, "a.txt")) as file:
    ...         _ = file.write(b"whole")
    ...     Path(base, "a.txt").read_bytes()
    b'whole'
    """
    target = Path(path)
    for stray in _strays(target, target.parent):
        _remove_unlocked(stray)
    new, file, lock = _open_hidden(target)
    try:
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(new, target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _open_hidden(target: Path) -> tuple[Path, IO[bytes], int | None]:
    """A new hidden file, open, and a handle that holds its lock after it is closed."""
    while True:
        new = _hidden(target, target.parent)
        file = new.open("xb")
        if fcntl is None:
            return new, file, None
        _try_lock(file.fileno())
        if _is_at(file.fileno(), new):  # no other process took it for a stray before it was locked
            return new, file, os.dup(file.fileno())
        file.close()


def _remove_unlocked(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if fcntl is not None and _try_lock(file.fileno()):
                path.unlink(missing_ok=True)
    except OSError:  # gone already, or a folder: not ours to remove
        return


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file as a whole, or leave it as it was.

    Raises:
        InputError: if it cannot be written.
    """
    path = as_path(path)
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike[str], error: OSError) -> InputError:
    """What to say of a file that cannot be written."""
    return InputError(f"cannot write {path}: {error.strerror or error}; free some space or name another folder")


def _fill(stage: Path, files: Files) -> list[str]:
    names = []
    for name, content in files:
        path = stage / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        names.append(name)
    return names


def _swap_files(new: Path, target: Path, names: list[str], stale: set[str], old: Path) -> None:
    """Move new files in and the old ones out, one rename each; undo all of it if anything stops us.

    The first name goes first and comes last: a kill in between leaves a folder without it, which is not read.
    """
    ordered = sorted({*names, *stale}, key=lambda name: (name != names[0], name))
    present = [name for name in ordered if os.path.lexists(target / name)]
    folders = sorted({parent for name in names for parent in (target / name).parents if target in parent.parents})
    made = [parent for parent in folders if not parent.exists()]
    try:
        for name in present:
            (old / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(target / name, old / name)
        for parent in folders:
            parent.mkdir(exist_ok=True)
        for name in (*names[1:], names[0]):
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
    """Data classes, arrays, tensors and numbers as JSON knows them; what is not finite becomes None.

    >>> plain({"loss": float("nan"), "shape": (2, 3)})
    {'loss': None, 'shape': [2, 3]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "to_dict"):  # says itself how it is written
            return plain(value.to_dict())
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor):
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


_VERSIONS = {"torch": "torch", "numpy": "numpy", "scipy": "scipy", "scikit_learn": "scikit-learn"}


def environment() -> Json:
    """What a run was made with: versions, system, cores, threads, and when.

    >>> sorted(environment())[:4]
    ['cores', 'created', 'infomech', 'numpy']
    """
    return {
        "infomech": metadata.version("infomech"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{key: metadata.version(name) for key, name in _VERSIONS.items()},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }


__all__ = [
    "Files",
    "Json",
    "as_path",
    "check_target",
    "dump_json",
    "environment",
    "plain",
    "replacing",
    "reserved",
    "unwritable",
    "write_file",
    "write_folder",
]
