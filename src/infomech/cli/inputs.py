"""What the commands on embeddings read: two files, or the folder that `embed` wrote; pairs, names and temperature."""

import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .app import printable

if TYPE_CHECKING:
    from torch import Tensor

    from ..diagnosis import Settings
    from ..reductions.losses.backends import Backend


@dataclass(frozen=True)
class Files:
    """Where everything is that a command reads, and what is known of it."""

    x: str
    y: str
    pairs: str | None
    names: tuple[str, str]
    temperature: float
    model: str | None = None  # that made the embeddings, if it is known
    source: str | None = None  # the folder whose manifest the temperature comes from, if it was not given
    ids: str | None = None  # of the rows of x, a line each

    @property
    def paths(self) -> list[str]:
        """All files and folders that are read."""
        return [path_and_key(self.x)[0], path_and_key(self.y)[0], *([self.pairs] if self.pairs else [])]

    def read(self, device: str = "cpu") -> "tuple[Tensor, Tensor]":
        """The embeddings of both modalities, on a device.

        Raises:
            InputError: for a file or device that cannot be used, or if both hold the same rows.
        """
        from .._checks import InputError, same_rows
        from ..io.devices import resolve_device, rows_on

        resolve_device(device)  # before files are read
        x, y = read_both(self.x, self.y)
        _tell_ignored(path_and_key(name)[0] for name in (self.x, self.y))
        if same_rows(x, y):
            raise InputError(f"the two files are the same: {self.x} and {self.y} hold equal rows; name both modalities")
        return rows_on(device, x, y)

    def known_ids(self) -> "list[str] | None":
        """The ids of the rows of x, where each has one of its own.

        One that is a number only goes with a digest of its data: the tenth rows of two tables are not the same item.
        """
        from ..embedding.cache import read_manifest
        from ..io import read_lines

        if self.ids is None:
            return None
        ids = read_lines(self.ids)
        if not ids or len(set(ids)) < len(ids):
            return None
        if any(re.fullmatch(r"(row|line) \d+( .*)?", each) for each in ids):
            manifest = read_manifest(Path(self.ids).parent)
            data = "" if manifest is None else str(manifest.content["key"].get("data", ""))
            return [f"{each} of {data}" for each in ids] if data else None
        return ids

    def stated(self) -> str:
        """The temperature in words, and where it comes from."""
        found = "" if self.source is None else f", from the manifest of {self.source}"
        return f"τ = {self.temperature:g} (logit scale {1 / self.temperature:.4g}){found}"

    def settings(
        self,
        *,
        labels: str | None = None,
        batch_size: int | None = None,
        normalize: bool | None = None,
        backend: str = "auto",
        seed: int = 0,
        curves: bool = False,
    ) -> "Settings":
        """The settings of a diagnosis of these files; pairs and labels are read here."""
        from ..diagnosis import Settings
        from ..io import read_labels, read_pairs

        return Settings(
            temperature=self.temperature,
            pairs=None if self.pairs is None else read_pairs(self.pairs),
            labels=None if labels is None else read_labels(labels),
            names=self.names,
            batch_size=batch_size,
            normalize=normalize,
            backend=cast("Backend", backend),  # checked there
            seed=seed,
            curves=curves,
            ids=self.known_ids(),
        )


def find_files(
    x: str | None, y: str | None, *, temperature: float | None, pairs: str | None = None, names: str | None = None
) -> Files:
    """What is meant by the arguments of a command: two files, or one folder of `embed` that holds everything.

    Raises:
        InputError: if embeddings or the temperature are missing.
    """
    from .._checks import InputError, check_loss_temperature

    if temperature is not None:
        check_loss_temperature(temperature)
    both = ("x", "y") if names is None else two_names(names)
    if x is None:
        raise InputError("no files are given; name the embeddings of both modalities, or a folder of infomech embed")
    if y is None:
        found = _embedded(Path(x), pairs)
        found = found if names is None else replace(found, names=both)
    else:
        parents = {Path(path_and_key(name)[0]).absolute().parent for name in (x, y)}
        shared = parents.pop() if len(parents) == 1 else None
        known = None if shared is None or temperature is not None else _known_temperature(shared)
        found = Files(x, y, pairs, both, known or 0.0, source=None if known is None else str(shared))
    if temperature is not None:
        return replace(found, temperature=temperature, source=None)
    if found.temperature <= 0.0:
        raise InputError(
            "no temperature is given; pass -t, the temperature of the loss: 1 / logit scale (CLIP ends at 0.01)"
        )
    return found


def find_encoding(name: str, pairs: str | None) -> Files:
    """What one argument means that stands for both modalities: ``X,Y``, or a folder of `embed`; no temperature needed.

    Raises:
        InputError: if it is neither.
    """
    from .._checks import InputError

    if os.path.isdir(name):
        return _embedded(Path(name), pairs)
    x, separator, y = name.partition(",")
    if not separator or not x or not y or "," in y:
        raise InputError(f"{name} is no encoding; name a folder of infomech embed, or both files with a comma: X,Y")
    return Files(x, y, pairs, ("x", "y"), 0.0)


def _embedded(folder: Path, pairs: str | None) -> Files:
    from .._checks import InputError
    from ..embedding.cache import read_manifest

    if not folder.is_dir():
        names = _array_names(str(folder))
        if len(names) > 1:
            both = " ".join(shlex.quote(f"{folder}::{name}") for name in names[:2])
            raise InputError(f"{folder} holds {len(names)} arrays ({', '.join(names[:8])}); name both: {both}")
        raise InputError(f"only {folder} is given; name the embeddings of the other modality, too")
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} holds no manifest of infomech embed; name the embeddings of both modalities")
    if not manifest.complete:
        raise InputError(f"{folder} is not complete; run the same infomech embed again, it goes on where it stopped")
    first, second = manifest.names
    shown = {"img": "image"}
    return Files(
        x=str(folder / f"{first}_emb"),
        y=str(folder / f"{second}_emb"),
        pairs=pairs if pairs is not None else str(folder / "pairs.npy"),
        names=(shown.get(first, first), shown.get(second, second)),
        temperature=manifest.temperature or 0.0,
        ids=str(folder / "keys.txt") if pairs is None and (folder / "keys.txt").is_file() else None,
        model=manifest.model,
        source=str(folder),
    )


def _known_temperature(folder: Path) -> float | None:
    from .._checks import InputError
    from ..embedding.cache import read_manifest

    try:
        manifest = read_manifest(folder)
    except InputError:  # another tool's manifest
        return None
    return None if manifest is None else manifest.temperature


def two_names(names: str) -> tuple[str, str]:
    """Two names of an option."""
    from .._checks import InputError

    both = [name.strip() for name in names.split(",")]
    if len(both) != 2 or not all(both) or both[0] == both[1]:
        raise InputError(f"--names is {names!r}; give two names with a comma between: --names image,text")
    return both[0], both[1]


def read_rows(file: str) -> "Tensor":
    """Embeddings of ``FILE`` or ``FILE::KEY``."""
    from ..io import read_embeddings

    name, key = path_and_key(file)
    return read_embeddings(name, key=key)


def read_both(x: str, y: str) -> "tuple[Tensor, Tensor]":
    """Embeddings of both modalities; where Y names no array, another than X's is suggested."""
    from ..io.arrays import SeveralArrays

    first = read_rows(x)
    try:
        return first, read_rows(y)
    except SeveralArrays as error:
        raise error.but(path_and_key(x)[1] or error.names[0]) from None


def _array_names(file: str) -> list[str]:
    """Names of the arrays of a file that holds several."""
    from ..io.arrays import SeveralArrays

    try:
        read_rows(file)
    except SeveralArrays as error:
        return error.names
    return []


def _tell_ignored(paths: Iterable[str]) -> None:
    """Say on the error stream what lies beside shards and is none."""
    from ..io.arrays import no_data_beside

    ignored = [name for path in paths if os.path.isdir(path) for name in no_data_beside(Path(path))]
    if ignored:
        shown = ", ".join(ignored[:3]) + (", ..." if len(ignored) > 3 else "")
        sys.stderr.write(
            printable(f"ignored: {len(ignored):,} hidden or unfinished files and check sums ({shown})") + "\n"
        )


def path_and_key(file: str) -> tuple[str, str | None]:
    """``FILE::KEY`` as both, or a file alone."""
    name, separator, key = file.rpartition("::")
    if not separator or not name or os.path.lexists(file):
        return file, None
    return name, key


def check_apart(folder: Path, owned: Iterable[str], inputs: Iterable[str]) -> None:
    """Raise InputError if writing `owned` files to the folder would touch an input, through links too."""
    from .._checks import InputError

    targets = [folder / name for name in owned]
    for given in (path_and_key(name)[0] for name in inputs):
        if any(same_place(target, given) for target in ([folder] if os.path.isdir(given) else targets)):
            raise InputError(f"{folder} is where the input {given} is; nothing was written: choose another folder")


def same_place(one: Path, other: str) -> bool:
    """Whether two names are of one file or folder, through links too."""
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def check_no_input(file: Path, inputs: Iterable[str]) -> None:
    """Raise InputError if the file is one of the inputs, through links too."""
    from .._checks import InputError

    for given in (path_and_key(name)[0] for name in inputs):
        if same_place(file, given):
            raise InputError(f"{file} is the input {given}; nothing was written: name another file")


__all__ = [
    "Files",
    "check_apart",
    "check_no_input",
    "find_encoding",
    "find_files",
    "path_and_key",
    "read_both",
    "read_rows",
    "same_place",
    "two_names",
]
