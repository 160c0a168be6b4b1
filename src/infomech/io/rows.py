"""Rows, pairs and labels of any container that people hold them in: tensors, NumPy, lists, pandas, Arrow."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import InputError
from .arrays import AnyArray

_EXPECTED = "expected (rows, features) of floating point: a tensor, a NumPy array, a list of rows, or a column of them"


def as_rows(values: Any, name: str) -> Tensor:
    """Embeddings as a tensor, detached, of the same dtype and on the same device; memory is shared where it can be.

    Args:
        values: a tensor (with or without gradient, on any device), a NumPy array, a list of rows, a pandas data frame
            or series of rows, or an Arrow array, column or table of numbers.
        name: of the argument, for messages.

    Raises:
        InputError: for anything that is no matrix of numbers.

    >>> as_rows([[1.0, 0.0], [0.0, 1.0]], "x").shape
    torch.Size([2, 2])
    """
    if isinstance(values, Tensor):
        return values.detach()
    return _tensor(_array(values, name), name)


def as_pairs(values: Any, name: str = "pairs") -> Tensor:
    """A (p, 2) index as a tensor, of any container that `as_rows` takes; whether it fits is for the user to check."""
    if isinstance(values, Tensor):
        return values
    return _tensor(_array(values, name), name)


def _array(values: Any, name: str) -> AnyArray:
    if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
        values = [row.detach().cpu().numpy() if isinstance(row, Tensor) else row for row in values]
    if type(values).__module__.partition(".")[0] == "pyarrow":
        values = _of_arrow(values)
    elif hasattr(values, "to_numpy"):  # pandas, polars
        values = values.to_numpy()
    if isinstance(values, str | bytes | dict) or values is None:
        raise InputError(f"{name} is a {type(values).__name__}; {_EXPECTED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            array = np.asarray(values)
            if array.dtype == object:  # rows, each an array of its own, or missing ones
                array = np.stack([np.asarray(row) for row in values])
    except Exception as error:  # rows of several lengths, values of several kinds
        text = " ".join(str(error).split())[:100]
        raise InputError(f"{name} is a {type(values).__name__} that is no matrix ({text}); {_EXPECTED}") from None
    return array


def _of_arrow(values: Any) -> Any:
    if hasattr(values, "column_names"):  # a table or a batch: a column for each feature
        return np.stack([column.to_numpy(zero_copy_only=False) if not hasattr(column, "chunks") else column.to_numpy()
                         for column in values.columns], axis=1)  # fmt: skip
    return values.to_pylist()


def _tensor(array: AnyArray, name: str) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} holds {array.dtype}; {_EXPECTED}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.size and int(array.max()) >= 2**63:
            raise InputError(f"{name} holds the number {int(array.max())}; it must be below 2^63")
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


__all__ = ["as_pairs", "as_rows"]
