"""Reading and writing embeddings: every format that people keep them in, told apart by content, not by name.

A file that cannot be used is refused with one line that says which file, what was found in it, and what to do.
Pickles are refused, inside other formats too: loading one runs whatever code its author put there.
"""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ._checks import InputError, check_rows
from ._files import replacing, unwritable

FORMATS = ".npy, .npz, .safetensors, .pt, .parquet, .arrow, or a folder of .npy shards"

AnyArray = NDArray[np.generic]


def read_embeddings(path: str | os.PathLike[str], *, key: str | None = None) -> Tensor:
    """Read a matrix of embeddings, (rows, features), in the floating-point type in which it is stored.

    Formats: ``.npy`` (memory-mapped), ``.npz``, ``.safetensors``, ``.pt`` (weights only), ``.parquet`` and ``.arrow``
    with a column of lists, and a folder of ``.npy`` shards in the order of their numbers, as clip-retrieval writes
    ``img_emb`` and ``text_emb``.

    Args:
        path: file or folder.
        key: name of the array or column, where the file holds several.

    Raises:
        InputError: for a file that is missing, of another kind, or holds no usable matrix.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "x.npy"
    >>> write_embeddings(file, torch.eye(3))
    >>> read_embeddings(file).shape
    torch.Size([3, 3])
    """
    path = Path(path)
    rows = _read_folder(path) if path.is_dir() else _read_file(path, key)
    check_rows(rows, str(path))
    return rows


def read_pairs(path: str | os.PathLike[str]) -> Int[Tensor, "p 2"]:
    """Read a (p, 2) index of row numbers, counted from 0: any format of `read_embeddings`, or CSV with two columns.

    Raises:
        InputError: if the file holds anything but two columns of whole numbers.
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        pairs = torch.from_numpy(_read_number_table(path))
    else:
        pairs = _read_file(path, None)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point() or pairs.dtype is torch.bool:
        raise InputError(f"{path} holds {_shape(pairs)}; expected pairs: (p, 2) whole numbers, rows counted from 0")
    return pairs.long()


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Read one label a row: a text file with a label a line, or a one-dimensional ``.npy`` of numbers or strings.

    Raises:
        InputError: if the file is missing or holds something else.
    """
    path = Path(path)
    if _head(path).startswith(b"\x93NUMPY"):
        array = _load_npy(path)
        if array.ndim != 1:
            raise InputError(f"{path} has {array.ndim} dimensions, shape {array.shape}; expected one label a row")
        return [str(v) for v in array.tolist()]
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text file; expected a label a line, or a one-dimensional .npy") from None


def write_embeddings(path: str | os.PathLike[str], rows: Tensor) -> None:
    """Write a matrix as ``.npy``; the file appears whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.save(file, rows.detach().cpu().numpy(), allow_pickle=False)
    except OSError as error:
        raise unwritable(path, error) from error


def _read_folder(path: Path) -> Tensor:
    shards = sorted(path.glob("*.npy"), key=_natural)
    if not shards:
        inside = sorted(p.name for p in path.iterdir() if p.is_dir() and any(p.glob("*.npy")))
        if inside:
            raise InputError(f"{path} holds the folders {', '.join(inside)}; name the one to read: {path / inside[0]}")
        raise InputError(f"{path} is a folder without .npy shards; name a file, or a folder such as img_emb")
    parts = [_read_file(shard, None) for shard in shards]
    for shard, part in zip(shards, parts, strict=True):
        if part.ndim != 2 or part.shape[1] != parts[0].shape[-1]:
            raise InputError(
                f"{shard} holds {_shape(part)}, and {shards[0].name} {_shape(parts[0])}; shards must agree"
            )
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    pieces = re.split(r"(\d+)", path.stem)
    return [(0, int(p)) if p.isdigit() else (1, p) for p in pieces]


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file")
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _read_file(path: Path, key: str | None) -> Tensor:
    head = _head(path)
    if not head:
        raise InputError(f"{path} is an empty file; write the embeddings again")
    if head.startswith(b"\x93NUMPY"):
        return _to_tensor(_load_npy(path), path)
    if head.startswith(b"PK"):
        return _read_zip(path, key)
    if head.startswith(b"PAR1"):
        return _read_table(path, key, "parquet")
    if head.startswith(b"ARROW1") or head.startswith(b"\xff\xff\xff\xff"):
        return _read_table(path, key, "arrow")
    if len(head) > 9 and head[8:9] == b"{":
        return _read_safetensors(path, key)
    if head[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle"):
        raise InputError(f"{path} is a pickle, which may run code when loaded; save it with numpy.save or safetensors")
    raise InputError(f"{path} is of an unknown kind (it starts with {head[:8]!r}); expected {FORMATS}")


def _load_npy(path: Path) -> AnyArray:
    try:
        # copy on write: the file is paged in as it is needed, and torch gets memory that it may call its own
        array: AnyArray = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        if "object" in str(error).lower():
            raise _objects(path) from None
        raise InputError(f"{path} is a damaged .npy file ({_line(error)}); write it again") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path} is a damaged .npy file ({_line(error)}); write it again") from None
    return array


def _objects(path: Path) -> InputError:
    return InputError(f"{path} holds Python objects (a pickle); save a numeric array: numpy.stack(list_of_rows)")


def _read_zip(path: Path, key: str | None) -> Tensor:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise InputError(f"{path} is a damaged archive; write it again") from None
    if any(name.endswith("data.pkl") for name in names):
        return _read_torch(path, key)
    if not all(name.endswith(".npy") for name in names):
        raise InputError(f"{path} is an archive without arrays (it holds {', '.join(names[:3])}); expected {FORMATS}")
    with np.load(path, allow_pickle=False) as arrays:
        chosen = _choose(path, list(arrays.files), key)
        try:
            return _to_tensor(arrays[chosen], path)
        except ValueError as error:
            if "object" in str(error).lower():
                raise _objects(path) from None
            raise InputError(f"{path} has a damaged array {chosen!r} ({_line(error)}); write it again") from None


def _choose(path: Path, names: list[str], key: str | None) -> str:
    if key is not None:
        if key not in names:
            raise InputError(f"{path} has no array {key!r}; it has {', '.join(names)}")
        return key
    if len(names) != 1:
        raise InputError(f"{path} holds {len(names)} arrays ({', '.join(names[:8])}); name one: {path}::{names[0]}")
    return names[0]


def _read_torch(path: Path, key: str | None) -> Tensor:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds, none of them its own
        raise InputError(f"{path} cannot be loaded as weights only ({_line(error)}); save a plain tensor") from None
    if isinstance(content, dict):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if not tensors:
            raise InputError(f"{path} holds a dictionary without tensors; save a tensor of shape (rows, features)")
        content = tensors[_choose(path, list(tensors), key)]
    if not isinstance(content, Tensor):
        raise InputError(f"{path} holds a {type(content).__name__}; expected a tensor of shape (rows, features)")
    return content.detach()


def _read_safetensors(path: Path, key: str | None) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(_choose(path, list(file.keys()), key))
            return tensor
    except SafetensorError as error:
        raise InputError(f"{path} is of an unknown kind or damaged ({_line(error)}); expected {FORMATS}") from None


def _read_table(path: Path, key: str | None, kind: str) -> Tensor:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if kind == "parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            with pa.memory_map(str(path)) as source:
                opened = pa.ipc.open_file if _head(path).startswith(b"ARROW1") else pa.ipc.open_stream
                table = opened(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is a damaged {kind} file ({_line(error)}); write it again") from None
    lists = [f.name for f in table.schema if pa.types.is_list(f.type) or pa.types.is_fixed_size_list(f.type)]
    lists += [f.name for f in table.schema if pa.types.is_large_list(f.type)]
    if not lists:
        raise InputError(f"{path} has no column of lists; it has {', '.join(table.column_names)}")
    column = table.column(_choose(path, lists, key)).combine_chunks()
    if column.null_count:
        raise InputError(f"{path} has {column.null_count} empty entries in its column of lists; remove those rows")
    lengths = np.asarray(pa.compute.list_value_length(column))
    if len(lengths) and (lengths != lengths[0]).any():
        odd = int(np.flatnonzero(lengths != lengths[0])[0])
        raise InputError(
            f"{path} has lists of {lengths[0]} numbers and, at row {odd}, of {lengths[odd]}; all must agree"
        )
    values = column.flatten()
    if values.null_count or not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise InputError(f"{path} has lists of {values.type}, {values.null_count} of them missing; expected numbers")
    array = values.to_numpy(zero_copy_only=False)
    return _to_tensor(array.reshape(len(column), -1) if len(column) else array.reshape(0, 0), path)


def _read_number_table(path: Path) -> NDArray[np.int64]:
    _head(path)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows: list[list[int]] = []
    for number, line in enumerate(lines):
        fields = [f for f in re.split(r"[,\t; ]+", line.strip()) if f]
        if not fields:
            continue
        try:
            rows.append([int(f) for f in fields])
        except ValueError:
            if number == 0:
                continue  # a header
            raise InputError(f"{path} line {number + 1} is {line[:40]!r}; expected two row numbers") from None
        if len(fields) != 2:
            raise InputError(f"{path} line {number + 1} has {len(fields)} numbers; expected two row numbers")
    return np.asarray(rows, dtype=np.int64).reshape(-1, 2)


_READABLE: dict[str, Callable[[AnyArray], AnyArray]] = {
    "f": lambda a: a,
    "i": lambda a: a,
    "u": lambda a: a.astype(np.int64),
}


def _to_tensor(array: AnyArray, path: Path) -> Tensor:
    """A tensor that shares the array's memory where it can; other byte orders and extended precision are converted."""
    convert = _READABLE.get(array.dtype.kind)
    if convert is None:
        raise InputError(f"{path} holds {array.dtype}; expected numbers: (rows, features) of floating point")
    array = convert(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."


__all__ = ["FORMATS", "read_embeddings", "read_labels", "read_pairs", "write_embeddings"]
