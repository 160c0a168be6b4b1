"""The one policy for text: UTF-8, with or without a byte-order mark; anything else is named with its file and line.

Tables of text (CSV and its kin, JSON Lines) are read here too, and values of any type become text here, or are named.
"""

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import InputError
from .._files import as_path

_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}


_NO_DATA = (
    ".md5", ".sha1", ".sha256", ".sha512", ".asc", ".sig", ".part", ".partial", ".crdownload", ".download", ".filepart",
    ".tmp", ".aria2", "~",
)  # fmt: skip


def is_no_data(name: str) -> bool:
    """Whether a file is none of the data beside which it lies: hidden, a check sum, or an unfinished download.

    >>> [is_no_data(name) for name in ("._a.tar", ".DS_Store", "a.tar.md5", "a.npy.part", "a.tar.gz")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower().endswith(_NO_DATA)


class NotText(Exception):
    """A value that is no text; the message says what it is, in a few words."""


def check_regular(path: Path) -> None:
    """Raise InputError unless the path is a regular file: a device or a pipe may never end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:  # a NUL in the name
        raise InputError(f"{str(path)!r} is no name of a file; check the path") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; expected a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is no regular file (a device or a pipe); copy its content to a file first")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file in UTF-8, without the byte-order mark.

    Raises:
        InputError: for a file that is missing, special, or not UTF-8; the line of the first wrong byte is named.
    """
    path = as_path(path)
    check_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is text in UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(
            f"{path} line {line} holds the byte 0x{byte:02x}, which is not UTF-8; save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path} line {line} holds a NUL byte: it is no text file; expected text in UTF-8")
    return text


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file, cut at line ends only (not at U+2028 and its kin, as `str.splitlines` would).

    Raises:
        InputError: as in `read_text`.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    return text.split("\n") if text else []


def text_of(value: Any) -> str | None:
    r"""A value of a table as text: a string as it is, a number in its own digits, bytes as UTF-8; None if missing.

    Bytes lose their byte-order mark, as files do.

    Raises:
        NotText: for anything else: a structure, text in UTF-16, text with a NUL.

    >>> text_of(0), text_of(float("nan")), text_of(b"caf\xc3\xa9"), text_of(np.float32(0.1)), text_of(None)
    ('0', None, 'café', '0.1', None)
    """
    if isinstance(value, str) and "\0" in value:
        raise NotText("holds a NUL")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, np.floating):
        return None if np.isnan(value) else _digits(value)
    if isinstance(value, np.generic):
        return text_of(value.item())
    if isinstance(value, bool):
        raise NotText("is true or false")
    if isinstance(value, int | Decimal):
        return None if isinstance(value, Decimal) and value.is_nan() else str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else _digits(np.float64(value))
    if isinstance(value, bytes):
        if value.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise NotText("is text in UTF-16")
        try:
            return text_of(value.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise NotText("is bytes that are not UTF-8") from None
    raise NotText(f"is a {type(value).__name__}")


def _digits(value: np.floating[Any]) -> str:
    """A floating-point number in the fewest digits that its own precision needs: 0.1 of float32 is 0.1."""
    if not np.isfinite(value):
        raise NotText("is an infinite number")
    return str(int(value)) if value == np.rint(value) and abs(value) < 2**53 else str(value)


def unencodable(text: str) -> bool:
    r"""Whether a text holds half of a surrogate pair, which no encoder can take.

    >>> unencodable("a \ud800 b"), unencodable("a b")
    (True, False)
    """
    return any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True)
class TextTable:
    """Columns of a table, its rows, and where each stands in its file."""

    columns: tuple[str, ...]
    rows: Sequence[dict[str, Any]]


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: if it is none.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({_short(error)}); it is damaged or of another kind") from None


def read_json_lines(path: str | os.PathLike[str]) -> TextTable:
    """Rows of JSON objects, one a line.

    Raises:
        InputError: naming the first line that is none.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number} is {line[:40]!r}; expected one JSON object a line")
        rows.append(row)
    return TextTable(tuple(dict.fromkeys(key for row in rows for key in row)), rows)


def read_csv(path: str | os.PathLike[str]) -> TextTable:
    """Rows of a table of text with a header: fields between commas, tabs, semicolons or bars, whichever the header has.

    Raises:
        InputError: naming the first line with more fields than the header, or with a quote that is never closed.
    """
    text = read_text(path)
    named = re.match(r"sep=([,;|\t])(\r\n?|\n)", text)  # so spreadsheets say it
    if named:
        text = "\n" + text[named.end() :]  # the numbers of the lines stay
    separator = named[1] if named else _separator(text, "\t" if str(path).lower().endswith(".tsv") else ",")
    rows: list[dict[str, Any]] = []
    header: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        with _fields_of_any_length():
            for fields in reader:
                if not fields:
                    continue
                if not header:
                    header = _header(path, fields)
                    continue
                if len(fields) > len(header):
                    raise InputError(
                        f"{path} line {reader.line_num} has {len(fields)} fields and the header {len(header)}; "
                        f"put quotes around a field that holds {_SEPARATORS[separator]}"
                    )
                rows.append(dict(zip(header, fields, strict=False)))
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is damaged ({_short(error)}); check its quotes") from None
    return TextTable(tuple(header), rows)


def _separator(text: str, preferred: str) -> str:
    """The one that the header has most often, the preferred one if none has more."""
    line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    outside = "".join(line.split('"')[::2])  # without what stands between quotes
    return max((preferred, *_SEPARATORS), key=outside.count)


def _header(path: str | os.PathLike[str], fields: list[str]) -> list[str]:
    names = [name.strip() for name in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has the column {twice[0]!r} {names.count(twice[0])} times; give each its own name")
    return names


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """The csv module stops at 131,072 characters unless it is told otherwise, for the whole process."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."


__all__ = [
    "NotText",
    "TextTable",
    "check_regular",
    "is_no_data",
    "read_csv",
    "read_json",
    "read_json_lines",
    "read_lines",
    "read_text",
    "text_of",
    "unencodable",
]
