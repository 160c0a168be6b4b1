"""Matrices in every format that people keep them in, told apart by content, not by name."""

import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import InputError, check_rows, check_storage, shown
from .._files import as_path, replacing, unwritable
from .text import check_regular, is_no_data

FORMATS = ".npy, .npz, .safetensors, .pt, .parquet, .arrow, or a folder of .npy shards"

AnyArray = NDArray[np.generic]
Wanted = Literal["embeddings", "pairs"]  # floating point, or whole numbers


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
    path = as_path(path)
    if key is not None and not isinstance(key, str):
        raise InputError(f"key is {shown(key)}; it must be the name of an array: a str")
    if _is_folder(path):
        if key is not None:
            raise InputError(f"{path} is a folder of shards, which have no names; leave key={key!r} away")
        rows = _read_folder(path)
    else:
        rows = _read_file(path, key, "embeddings")
    check_rows(rows, str(path))
    return rows


def read_whole_numbers(path: Path) -> Tensor:
    """An array of integers, in any of the formats; a table may hold two columns of them.

    Raises:
        InputError: for a file that is missing, of another kind, or holds anything else.
    """
    return _read_file(path, None, "pairs")


def write_embeddings(path: str | os.PathLike[str], rows: Any) -> None:
    """Write a matrix as ``.npy``; the file appears whole or not at all. A bfloat16 tensor is written as float32.

    Raises:
        InputError: if it cannot be written.
    """
    from .rows import plain_array  # which knows containers, and builds on this module

    path = as_path(path)
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu()
        rows = (rows.float() if rows.dtype is torch.bfloat16 else rows).numpy()
    array = plain_array(rows, "rows")
    if array.dtype.kind not in "fiu":
        raise InputError(f"rows holds {array.dtype}; expected numbers: a tensor or an array")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            save_npy(file, array)
    except OSError as error:
        raise unwritable(path, error) from error


class SeveralArrays(InputError):
    """A file holds more arrays than the one that is asked for.

    Args:
        path: of the file.
        names: of its arrays.
        suggested: the one that the message names.
    """

    def __init__(self, path: Path, names: list[str], suggested: str = "") -> None:
        self.path, self.names = path, names
        shown = ", ".join(names[:8])
        super().__init__(f"{path} holds {len(names)} arrays ({shown}); name one with key={suggested or names[0]!r}")

    def but(self, key: str) -> "SeveralArrays":
        """The same, with another array than `key` suggested."""
        return SeveralArrays(self.path, self.names, next((name for name in self.names if name != key), ""))


class _Plain:
    """A file that NumPy takes for none: of a full disk it then says what the system says, not how many bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


def save_npy(file: IO[bytes], array: AnyArray) -> None:
    """Write an array as ``.npy``.

    Raises:
        OSError: with the reason of the system.
    """
    np.save(_Plain(file), array, allow_pickle=False)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # what is wrong with the name is said where the file is opened
        return False


def _read_folder(path: Path) -> Tensor:
    shards = sorted(_shards(path), key=_natural)
    if not shards:
        inside = sorted(p.name for p in path.iterdir() if p.is_dir() and _shards(p))
        if inside:
            raise InputError(f"{path} holds the folders {', '.join(inside)}; name the one to read: {path / inside[0]}")
        raise InputError(f"{path} is a folder without .npy shards; name a file, or a folder such as img_emb")
    parts = [_read_file(shard, None, "embeddings") for shard in shards]
    for shard, part in zip(shards, parts, strict=True):
        if part.ndim != 2 or part.shape[1] != parts[0].shape[-1]:
            raise InputError(
                f"{shard} holds {describe(part)}, and {shards[0].name} {describe(parts[0])}; shards must agree"
            )
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _shards(folder: Path) -> list[Path]:
    """The .npy files, but for hidden ones: macOS leaves ``._x.npy`` beside ``x.npy`` on foreign disks."""
    return [path for path in folder.glob("*.npy") if not path.name.startswith(".")]


def no_data_beside(folder: Path) -> list[str]:
    """Files in a folder of shards that are none: hidden ones, check sums, unfinished downloads."""
    return sorted(path.name for path in folder.iterdir() if is_no_data(path.name))


def _natural(path: Path) -> list[tuple[int, int | str]]:
    pieces = re.split(r"([0-9]+)", path.stem)
    return [(0, int(p)) if p.isascii() and p.isdigit() else (1, p) for p in pieces]


def _head(path: Path) -> bytes:
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def is_npy(path: Path) -> bool:
    """Whether a file is of NumPy's own kind."""
    return _head(path).startswith(b"\x93NUMPY")


_NO_NUMBERS = ("Object arrays cannot be loaded", "Python objects in dtype", "pickled")  # as NumPy says it


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever a parser makes of a damaged file, a crash of any kind or a warning, becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} asks for more memory than there is; it is too large, or damaged") from None
    except Exception as error:
        if isinstance(error, ValueError) and any(words in str(error) for words in _NO_NUMBERS):
            raise _objects(path) from None
        raise InputError(f"{path} is a damaged {what} ({_line(error)}); write it again") from None


def _read_file(path: Path, key: str | None, wanted: Wanted) -> Tensor:
    head = _head(path)
    if not head:
        raise InputError(f"{path} is an empty file; write the embeddings again")
    if head.startswith(b"\x93NUMPY"):
        if key is not None:
            raise InputError(f"{path} holds one array, which has no name; leave key={key!r} away")
        return _to_tensor(load_npy(path), path, wanted)
    if head.startswith(b"PK"):
        return _read_zip(path, key, wanted)
    if head.startswith(b"PAR1"):
        return _read_table(path, key, "parquet", wanted)
    if head.startswith(b"ARROW1") or head.startswith(b"\xff\xff\xff\xff"):
        return _read_table(path, key, "arrow", wanted)
    if len(head) > 9 and head[8:9] == b"{":
        return _read_safetensors(path, key, wanted)
    if head[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle"):
        raise InputError(f"{path} is a pickle, which may run code when loaded; save it with numpy.save or safetensors")
    tables = "; or two columns of row numbers in a .csv, .tsv or .txt"
    if wanted == "embeddings":
        tables = f"; save the rows as .npy: numpy.save({path.stem + '.npy'!r}, rows)"
    raise InputError(f"{path} is of an unknown kind (it starts with {head[:8]!r}); expected {FORMATS}{tables}")


def load_npy(path: Path) -> AnyArray:
    """The array of a ``.npy`` file, paged in as it is needed."""
    with reading(path, ".npy file"):
        _check_header(path)
        # copy on write: torch gets memory that it may call its own, and the file does not change
        array: AnyArray = np.load(path, mmap_mode="c", allow_pickle=False)
        beyond = path.stat().st_size - getattr(array, "offset", 0) - array.nbytes if isinstance(array, np.memmap) else 0
        if beyond > 0:
            raise InputError(f"{path} holds {beyond:,} bytes after its array, a second one perhaps; write it again")
        return array


def _check_header(path: Path) -> None:
    """Raise InputError unless the header can be read, and promises no more than the file holds."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except Exception:  # of the parser of Python itself, too
            raise InputError(f"{path} is a damaged .npy file (its header cannot be read); write it again") from None
        held = path.stat().st_size - file.tell()
        promised = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or (promised > held and not dtype.hasobject):
        raise InputError(
            f"{path} is a damaged .npy file (its header promises {dtype} of shape {shape}, and {held:,} bytes follow); "
            "write it again"
        )


def _objects(path: Path) -> InputError:
    return InputError(f"{path} holds Python objects (a pickle); save a numeric array: numpy.stack(list_of_rows)")


def _read_zip(path: Path, key: str | None, wanted: Wanted) -> Tensor:
    with reading(path, "archive"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith("data.pkl") for name in names):
            if not names or not all(name.endswith(".npy") for name in names):
                shown = ", ".join(names[:3]) or "nothing"
                raise InputError(f"{path} is an archive without arrays (it holds {shown}); expected {FORMATS}")
            chosen = _choose(path, [name.removesuffix(".npy") for name in names], key)
            return _to_tensor(_read_member(archive, path, chosen, wanted), path, wanted)
    return _read_torch(path, key, wanted)


def _read_member(archive: zipfile.ZipFile, path: Path, name: str, wanted: Wanted) -> AnyArray:
    """An array in an archive; what its header promises is checked before memory is set aside for it."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{path} has an array {name!r} of an unknown version {version}; write it again")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if dtype.hasobject:
            raise _objects(path)
        _check_kind(dtype, path, wanted)
        count = math.prod(shape)
        if min(shape, default=0) < 0 or count * dtype.itemsize > info.file_size:
            raise InputError(f"{path} has a damaged array {name!r} (its header promises {shape}); write it again")
        array = np.empty(count, dtype=dtype)
        view = array.view(np.uint8)
        filled = 0
        while filled < len(view):
            got = file.read(min(len(view) - filled, 2**24))
            if not got:
                raise InputError(f"{path} has a damaged array {name!r} (it is cut short); write it again")
            view[filled : filled + len(got)] = np.frombuffer(got, dtype=np.uint8)
            filled += len(got)
        file.read(1)  # the check sum is compared at the end
        return array.reshape(shape, order="F" if fortran else "C")


def _choose(path: Path, names: list[str], key: str | None) -> str:
    if not names:
        raise InputError(f"{path} holds no arrays; expected {FORMATS}")
    if {"indices", "indptr", "format", "shape", "data"} == set(names) and key is None:
        raise InputError(f"{path} is a sparse matrix of SciPy; save it dense: numpy.save(file, matrix.toarray())")
    if key is not None:
        if key not in names:
            raise InputError(f"{path} has no array {key!r}; it has {', '.join(names[:8])}")
        return key
    if len(names) != 1:
        raise SeveralArrays(path, names)
    return names[0]


def _read_torch(path: Path, key: str | None, wanted: Wanted) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds, none of them its own
        more = "weights_only" in str(error) or "Weights only" in str(error)  # its own advice is to load without care
        reason = "it holds more than tensors, which may run code when loaded" if more else _line(error)
        raise InputError(f"{path} cannot be loaded as weights only ({reason}); save a plain tensor") from None
    if isinstance(content, dict):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if not tensors:
            raise InputError(f"{path} holds a dictionary without tensors; save a tensor of shape (rows, features)")
        content = tensors[_choose(path, list(tensors), key)]
    elif key is not None:
        raise InputError(f"{path} holds one tensor, which has no name; leave key={key!r} away")
    if not isinstance(content, Tensor):
        raise InputError(f"{path} holds a {type(content).__name__}; expected a tensor of shape (rows, features)")
    check_storage(content, str(path))
    if content.untyped_storage().nbytes() < content.numel() * content.element_size():
        raise InputError(f"{path} holds a view that repeats its numbers; save tensor.contiguous()")
    if wanted == "pairs" and content.dtype not in _INTEGERS:
        raise InputError(f"{path} holds {describe(content)}; {_EXPECTED['pairs']}")
    return content.detach()


_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
_SAFE_FLOATS = ("F16", "BF16", "F32", "F64")
_SAFE_INTEGERS = ("I8", "I16", "I32", "I64", "U8")


def _read_safetensors(path: Path, key: str | None, wanted: Wanted) -> Tensor:
    from safetensors import safe_open

    try:
        with reading(path, "safetensors file"), safe_open(path, framework="pt") as file:
            chosen = _choose(path, list(file.keys()), key)
            kind = str(file.get_slice(chosen).get_dtype())
            if kind not in (_SAFE_FLOATS if wanted == "embeddings" else _SAFE_INTEGERS):
                raise InputError(f"{path} holds numbers of the kind {kind}; {_EXPECTED[wanted]}")
            tensor: Tensor = file.get_tensor(chosen)
            return tensor
    except InputError as error:
        if "is a damaged" not in str(error):
            raise
        raise InputError(f"{str(error).rpartition(';')[0]}; expected {FORMATS}") from None


def _read_table(path: Path, key: str | None, kind: str, wanted: Wanted) -> Tensor:
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet

    with reading(path, f"{kind} file"):
        if kind == "parquet":
            with pyarrow.parquet.ParquetFile(path) as opened:
                schema = opened.schema_arrow
                chosen = _columns(schema, path, key, wanted)
                _check_column(schema.field(chosen[0]).type, path, wanted)  # before all of it is read
                table = opened.read(columns=chosen)
        else:
            with pa.memory_map(str(path)) as source:
                stream = pa.ipc.open_file if _head(path).startswith(b"ARROW1") else pa.ipc.open_stream
                table = stream(source).read_all()
                chosen = _columns(table.schema, path, key, wanted)
        columns = [table.column(name) for name in chosen]
        for column in columns:
            column.validate(full=True)  # offsets of a damaged file may point anywhere
        if len(columns) == 2:
            return _to_tensor(np.stack([_numbers(column, path, wanted) for column in columns], axis=1), path, wanted)
        return _to_tensor(_matrix(columns[0], path, wanted), path, wanted)


def arrow_matrix(values: Any, name: str, wanted: Wanted) -> AnyArray:
    """The matrix in an Arrow array or column of lists, or in a table with a column of numbers for each feature.

    Raises:
        InputError: for anything else.
    """
    import pyarrow as pa

    with reading(Path(name), "Arrow column"):
        if hasattr(values, "column_names"):
            lists = [field.name for field in values.schema if _is_list(field.type)]
            if not lists:
                columns = [pa.chunked_array(column) for column in values.columns]
                return np.stack([_numbers(column, name, wanted) for column in columns], axis=1)
            values = values.column(_choose(Path(name), lists, None))
        column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
        if not _is_list(column.type):
            raise InputError(f"{name} holds Arrow's {column.type}; expected lists of numbers, one a row")
        column.validate(full=True)
        return _matrix(column, name, wanted)


def _columns(schema: Any, path: Path, key: str | None, wanted: Wanted) -> list[str]:
    """The column of lists, or for pairs two columns of whole numbers."""
    import pyarrow as pa

    names = list(schema.names)
    lists = [field.name for field in schema if _is_list(field.type)]
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    if wanted == "pairs" and not lists and len(whole) == 2:
        return whole
    if not lists:
        needed = "" if wanted == "embeddings" else " and not two columns of whole numbers"
        raise InputError(f"{path} has no column of lists{needed}; it has {', '.join(names) or 'no columns'}")
    chosen = _choose(path, lists, key)
    if names.count(chosen) > 1:
        raise InputError(f"{path} has {names.count(chosen)} columns {chosen!r}; give each its own name")
    return [chosen]


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return isinstance(kind, pa.FixedShapeTensorType) or any(is_one(kind) for is_one in lists)


def _matrix(column: Any, path: Path | str, wanted: Wanted) -> AnyArray:
    """The rows of a column of lists, all of one length."""
    import pyarrow as pa

    if isinstance(column.type, pa.FixedShapeTensorType):
        if len(column.type.shape) != 1:
            raise InputError(f"{path} has tensors of shape {tuple(column.type.shape)}; expected one vector a row")
        storage = column.type.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=storage)
    if column.null_count:
        raise InputError(f"{path} has {column.null_count} empty entries in its column of lists; remove those rows")
    lengths = np.concatenate([_lengths(chunk) for chunk in column.chunks] or [np.zeros(0, dtype=np.int64)])
    if len(lengths) and (lengths != lengths[0]).any():
        odd = int(np.flatnonzero(lengths != lengths[0])[0])
        raise InputError(
            f"{path} has lists of {lengths[0]} numbers and, at row {odd}, of {lengths[odd]}; all must agree"
        )
    kind = column.type.value_type
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], type=kind)
    values = _numbers(flat, path, wanted)
    return values.reshape(len(lengths), -1) if len(lengths) else values.reshape(0, 0)


def _check_column(kind: Any, path: Path | str, wanted: Wanted) -> None:
    """Refuse numbers of another kind by what the schema says of a column, and lists that cannot be pairs."""
    import pyarrow as pa

    if not _is_list(kind) or isinstance(kind, pa.FixedShapeTensorType):
        return
    if pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type):
        _check_kind(np.dtype(kind.value_type.to_pandas_dtype()), path, wanted)
    if wanted == "pairs" and pa.types.is_fixed_size_list(kind) and kind.list_size != 2:
        raise InputError(f"{path} has lists of {kind.list_size} numbers; {_EXPECTED['pairs']}")


def _lengths(chunk: Any) -> NDArray[np.int64]:
    import pyarrow.compute

    return np.asarray(pyarrow.compute.list_value_length(chunk), dtype=np.int64)


def _numbers(column: Any, path: Path | str, wanted: Wanted) -> AnyArray:
    import pyarrow as pa

    kind = column.type
    if column.null_count or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        missing = f", {column.null_count:,} of them missing" if column.null_count else ""
        raise InputError(f"{path} has values of the kind {kind}{missing}; expected numbers in every row")
    _check_kind(np.dtype(kind.to_pandas_dtype()), path, wanted)
    array: AnyArray = column.to_numpy(zero_copy_only=False) if column.num_chunks == 1 else column.to_numpy()
    return array


_EXPECTED = {
    "embeddings": "expected floating-point embeddings: convert them first",
    "pairs": "expected pairs: (p, 2) whole numbers, rows counted from 0",
}


def _check_kind(dtype: np.dtype[Any], path: Path | str, wanted: Wanted) -> None:
    """Refuse numbers of another kind before anything is made of them."""
    if dtype.kind not in "fiu":
        what = "(rows, features) of floating point" if wanted == "embeddings" else "(p, 2) whole, rows counted from 0"
        raise InputError(f"{path} holds {dtype}; expected numbers: {what}")
    if (dtype.kind == "f") != (wanted == "embeddings"):
        raise InputError(f"{path} holds {dtype}; {_EXPECTED[wanted]}")


def _to_tensor(array: AnyArray, path: Path, wanted: Wanted) -> Tensor:
    """A tensor that shares the array's memory where it can; other byte orders and extended precision are converted."""
    _check_kind(array.dtype, path, wanted)
    if wanted == "pairs" and (array.ndim != 2 or array.shape[1] != 2):  # before a copy is made of it
        kind = f"{array.dtype.name} of shape {tuple(array.shape)}"
        raise InputError(f"{path} holds {kind}; {_EXPECTED['pairs']}")
    if array.dtype.kind == "u":
        if array.size and int(array.max()) >= 2**63:
            raise InputError(f"{path} holds the number {int(array.max())}; row numbers are below 2^63")
        array = array.astype(np.int64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(all="ignore"):  # what is not finite is named by its row, later
            array = array.astype(np.float64)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def describe(tensor: Tensor) -> str:
    """The dtype and shape of a tensor, in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."


__all__ = [
    "FORMATS",
    "Wanted",
    "arrow_matrix",
    "describe",
    "is_npy",
    "load_npy",
    "no_data_beside",
    "read_embeddings",
    "read_whole_numbers",
    "reading",
    "save_npy",
    "write_embeddings",
]
