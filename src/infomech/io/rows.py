"""Rows, pairs and labels of any container that people hold them in: tensors, NumPy, lists, pandas, Arrow."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import InputError
from .arrays import AnyArray, Wanted, arrow_matrix

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
        rows = values.detach()
    else:
        stacked = _stacked(values, name)
        rows = _tensor(_array(values, name, "embeddings"), name) if stacked is None else stacked
    if rows.ndim != 2:
        raise InputError(
            f"{name} has {rows.ndim} dimension{'s' * (rows.ndim != 1)}, shape {tuple(rows.shape)}; expected 2: "
            "(rows, features)"
        )
    return rows


def as_pairs(values: Any, name: str = "pairs") -> Tensor:
    """A (p, 2) index as a tensor, of any container that `as_rows` takes; whether it fits is for the user to check."""
    if isinstance(values, Tensor):
        return values
    stacked = _stacked(values, name)
    return _tensor(_array(values, name, "pairs"), name) if stacked is None else stacked


def as_points(values: Any, name: str) -> Tensor:
    """As `as_rows`, for functions with gradients: a tensor stays what it is, in its graph."""
    return values if isinstance(values, Tensor) else as_rows(values, name)


def as_floats(values: Any, name: str) -> Tensor:
    """Numbers of any shape as a floating-point tensor; a tensor stays in its graph, whole numbers become float64.

    Raises:
        InputError: for anything that is no array of numbers.

    >>> as_floats(2, "kappa")
    tensor(2., dtype=torch.float64)
    """
    if not isinstance(values, Tensor):
        stacked = _stacked(values, name)
        values = _tensor(_array(values, name, "embeddings"), name) if stacked is None else stacked
    if values.is_floating_point():
        found: Tensor = values
        return found
    if values.is_complex() or values.dtype is torch.bool:
        raise InputError(f"{name} holds {values.dtype}; expected numbers")
    doubled: Tensor = values.double()
    return doubled


def plain_array(values: Any, name: str) -> AnyArray:
    """Numbers of any container, of any shape and type, as a NumPy array."""
    stacked = _stacked(values, name)
    if stacked is None:
        return _array(values, name, "embeddings")
    array: AnyArray = (stacked.float() if stacked.dtype is torch.bfloat16 else stacked).cpu().numpy()
    return array


def _array(values: Any, name: str, wanted: Wanted) -> AnyArray:
    if isinstance(values, str | bytes | dict) or values is None:
        raise InputError(f"{name} is a {type(values).__name__}; {_EXPECTED}")
    if type(values).__module__.partition(".")[0] == "pyarrow":
        return arrow_matrix(values, name, wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if hasattr(values, "to_numpy"):  # pandas, polars
                values = _of_columns(values) if hasattr(values, "dtypes") else values.to_numpy()
            if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
                raise InputError(f"{name} has masked numbers; leave those rows out, or fill them in")
            array = np.asarray(values)
            if array.dtype == object:  # rows, each an array of its own, or missing ones
                rows = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else values
                array = np.stack([np.asarray(row) for row in rows])
    except InputError:
        raise
    except Exception as error:  # rows of several lengths, values of several kinds
        text = " ".join(str(error).split())[:100]
        raise InputError(f"{name} is a {type(values).__name__} that is no matrix ({text}); {_EXPECTED}") from None
    return array


def _of_columns(frame: Any) -> Any:
    """The array of a data frame; pandas gives objects for its own kinds of column and for Arrow's."""
    array = frame.to_numpy()
    if array.dtype != object or getattr(frame, "ndim", 1) != 2:
        return array
    kinds = [getattr(kind, "numpy_dtype", kind) for kind in frame.dtypes]
    if not all(isinstance(kind, np.dtype) and kind.kind in "fiu" for kind in kinds):
        return array
    columns = [frame.iloc[:, at].to_numpy(dtype=kind, na_value=np.nan) for at, kind in enumerate(kinds)]
    return np.stack(columns, axis=1)


def _stacked(rows: Any, name: str) -> Tensor | None:
    """Rows that are tensors, in their own dtype, which NumPy may not know; None if they are none."""
    if not (isinstance(rows, list | tuple) and rows and all(isinstance(row, Tensor) for row in rows)):
        return None
    try:
        return torch.stack([row.detach() for row in rows])
    except (RuntimeError, NotImplementedError, TypeError) as error:
        text = " ".join(str(error).split())[:100]
        raise InputError(f"{name} is a {type(rows).__name__} that is no matrix ({text}); {_EXPECTED}") from None


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


__all__ = ["as_floats", "as_pairs", "as_points", "as_rows", "plain_array"]
