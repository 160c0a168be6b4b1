"""Which rows belong together, and what they are called."""

import os
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

from .._checks import InputError, shown
from .._files import as_path
from .arrays import describe, is_npy, load_npy, read_whole_numbers
from .text import NotText, read_lines, text_of

_WHOLE = re.compile(r"[+-]?[0-9]{1,19}\Z")


def read_pairs(path: str | os.PathLike[str]) -> Int[torch.Tensor, "p 2"]:
    """Read a (p, 2) index of row numbers, counted from 0: any format of `read_embeddings`, or text with two columns.

    Raises:
        InputError: if the file holds anything but two columns of whole numbers.
    """
    path = as_path(path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return torch.from_numpy(_number_table(path))
    pairs = read_whole_numbers(path)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError(f"{path} holds {describe(pairs)}; expected pairs: (p, 2) whole numbers, rows counted from 0")
    return pairs.long()


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Read one label a row: a text file with a label a line, or a one-dimensional ``.npy`` of numbers or strings.

    Raises:
        InputError: if the file is missing or holds something else.
    """
    path = as_path(path)
    if not is_npy(path):
        return read_lines(path)
    array = load_npy(path)
    if array.ndim != 1:
        raise InputError(f"{path} has {array.ndim} dimensions, shape {array.shape}; expected one label a row")
    if array.dtype.kind not in "iufUSb":
        raise InputError(f"{path} holds {array.dtype}; expected one label a row, numbers or strings")
    try:
        labels = array if array.dtype.kind == "f" else array.tolist()
    except (SystemError, ValueError, OverflowError):  # letters that are none
        raise InputError(f"{path} is a damaged .npy file; write it again") from None
    return as_labels(labels, str(path))


def as_labels(labels: Iterable[Any], name: str = "labels") -> list[str]:
    """One text a row, of strings, numbers or bytes in any one-dimensional container.

    Raises:
        InputError: for a label that is missing or no text.

    >>> as_labels([0, "cat", 2.5])
    ['0', 'cat', '2.5']
    """
    if isinstance(labels, str | bytes | Mapping | Set) or not hasattr(labels, "__iter__"):
        raise InputError(f"{name} is {shown(labels)}; give a list of strings or numbers")
    out = []
    listed = hasattr(labels, "tolist") and not _is_float(labels)  # tolist() writes 0.1 of float32 as 0.10000000149
    for row, label in enumerate(labels.tolist() if listed else labels):  # type: ignore[attr-defined]
        try:
            text = str(label).lower() if isinstance(label, bool) else text_of(_plain(label))
        except NotText as error:
            raise InputError(f"{name} at row {row} {error}; expected strings or numbers") from None
        if text is None:
            raise InputError(f"{name} has no value at row {row}; give every row a label, 'none' say")
        out.append(text)
    return out


def _is_float(labels: Any) -> bool:
    return str(getattr(labels, "dtype", "")).removeprefix("torch.") in ("float16", "float32", "float64", "bfloat16")


def _plain(label: Any) -> Any:
    """The Python value of a scalar of Arrow or pandas, NumPy's of a tensor of one number."""
    if isinstance(label, torch.Tensor):
        return label.detach().float().numpy()[()] if label.dtype is torch.bfloat16 else label.detach().cpu().numpy()[()]
    if type(label).__name__ in ("NAType", "NaTType"):
        return None
    return label.as_py() if hasattr(label, "as_py") else label


def _number_table(path: Path) -> NDArray[np.int64]:
    rows: list[list[int]] = []
    first = True
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        fields = [field.strip().strip("\"'") for field in re.split(r"\s*[,;|\t]\s*|\s+", line.strip())]
        header, first = first and all(_is_name(field) for field in fields), False
        if header:
            continue
        if len(fields) != 2:
            raise InputError(f"{path} line {number} has {len(fields)} fields ({line[:40]!r}); expected two row numbers")
        if not all(_WHOLE.match(field) for field in fields) or any(abs(int(field)) >= 2**63 for field in fields):
            ids = any(_is_name(field) for field in fields)
            hint = " (ids are not looked up: write the place of each in its file)" if ids else ""
            raise InputError(f"{path} line {number} is {line[:60]!r}; expected two row numbers, whole and from 0{hint}")
        rows.append([int(field) for field in fields])
    if not rows:
        raise InputError(f"{path} holds no pairs; expected two row numbers a line, counted from 0")
    return np.asarray(rows, dtype=np.int64)


def _is_name(field: str) -> bool:
    """Whether a field of the first line names a column: it begins with a letter, and is no number such as nan."""
    name = field.removeprefix("#").strip()
    if not name or not (name[0].isalpha() or name[0] == "_"):
        return field == "#"
    try:
        float(name)
    except ValueError:
        return True
    return False


__all__ = ["as_labels", "read_labels", "read_pairs"]
