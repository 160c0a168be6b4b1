"""Tables of captions: CSV and its kin, JSON Lines, Parquet."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import InputError
from .._files import as_path
from .arrays import reading
from .text import TextTable, check_regular, read_csv, read_json_lines

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def read_table(path: str | os.PathLike[str]) -> TextTable:
    """The columns and rows of a table, values as the file has them.

    Raises:
        InputError: for a file of another kind, or a damaged one.
    """
    path = as_path(path)
    check_regular(path)
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise InputError(f"{path} is no table of captions; expected {', '.join(TABLES)}")
    if suffix == ".parquet":
        table = _read_parquet(path)
    else:
        table = read_json_lines(path) if suffix in (".jsonl", ".ndjson") else read_csv(path)
    if not table.columns:
        first = "a header and a row for each sample" if suffix in (".csv", ".tsv") else "a row for each sample"
        raise InputError(f"{path} is empty; expected {first}")
    return table


def _read_parquet(path: Path) -> TextTable:
    import pyarrow.parquet

    with reading(path, "parquet file"):
        with pyarrow.parquet.ParquetFile(path) as opened:
            table = opened.read()
        table.validate(full=True)  # offsets of a damaged file may point anywhere
        names = tuple(table.column_names)
        if len(set(names)) < len(names):
            raise InputError(f"{path} has two columns of one name ({', '.join(names)}); give each its own")
        columns = [_values(table.column(at)) for at in range(table.num_columns)]
        return TextTable(names, [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])


def _values(column: Any) -> list[Any]:
    """The values of a column; those of less than double precision as NumPy's own, which know their digits."""
    import pyarrow as pa

    values: list[Any] = column.to_pylist()
    if not (pa.types.is_float32(column.type) or pa.types.is_float16(column.type)):
        return values
    single = np.dtype(column.type.to_pandas_dtype()).type
    return [None if value is None else single(value) for value in values]


__all__ = ["TABLES", "read_table"]
