"""A report as files: what stands in ``report.json`` and ``pictures.npz``, and how both are read back."""

import io
import json
import math
import os
import types
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from .._checks import InputError
from .._files import Json, as_path, plain
from ..diagnosis import Diagnosis, Pictures
from ..diagnosis.batch_budget import PARTS
from ..diagnosis.budget import BudgetCurve, Contributions
from ..diagnosis.curves import CURVED, Curves
from ..diagnosis.group_contributions import GroupContributions
from ..diagnosis.information.shared import PairShares
from ..io.text import check_regular, read_json

SCHEMA_VERSION = 4
REPORT_KEYS = ("schema_version", "inputs", "budget", "gap", "geometry", "retrieval", "findings", "provenance")
_AGAIN = "make the report again"
_DIMENSIONS = {"map_x": 2, "map_y": 2}  # of the arrays of `Pictures`; all others have one

Arrays = dict[str, np.ndarray]


def report_dict(diagnosis: Diagnosis) -> Json:
    """The content of ``report.json``: everything but the arrays."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "inputs": plain(diagnosis.inputs),
        "budget": diagnosis.budget.to_dict(),
        "gap": plain(diagnosis.gap),
        "geometry": plain(diagnosis.geometry),
        "retrieval": plain(diagnosis.retrieval),
        "findings": plain(diagnosis.findings),
        "provenance": plain(diagnosis.provenance),
    }
    for name, found in (("information", diagnosis.information), ("seen", diagnosis.seen)):
        content |= {} if found is None else {name: found.to_dict()}
    content |= {} if diagnosis.curves is None else {"curves": plain(diagnosis.curves)}
    return content | ({"attached": plain(diagnosis.attached)} if diagnosis.attached else {})


def report_arrays(diagnosis: Diagnosis) -> Arrays:
    """The content of ``pictures.npz``, by the path of each array: ``pictures/similarity_counts/xy``, say.

    What is not an array, the labels of the points say, is JSON as bytes. A reader passes over paths that it does not
    know, so that other parts of a report can keep arrays here, too.
    """
    arrays = _packed(diagnosis.pictures, "pictures")
    for value, path in ((diagnosis.budget.contributions, "contributions"), (diagnosis.group_contributions, "groups")):
        if value is not None:
            arrays |= _packed(value, path)
    if diagnosis.information is not None and diagnosis.information.shares is not None:
        arrays |= _packed(diagnosis.information.shares, "information")
    return arrays


def _packed(value: Any, path: str) -> Arrays:
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: array for name, item in value.items() for key, array in _packed(item, f"{path}/{name}").items()}
    if not isinstance(value, np.ndarray):
        value = np.frombuffer(json.dumps(plain(value)).encode("ascii"), np.uint8)
    return {path: value}


def dump_arrays(arrays: Arrays) -> bytes:
    """Arrays as a compressed ``.npz`` without pickles; the same arrays give the same bytes."""
    if any(array.dtype.hasobject for array in arrays.values()):
        raise TypeError("an array of Python objects cannot be saved without pickle")
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]  # names are ours, none of them an option's
    return out.getvalue()


def dump_npy(array: "np.ndarray[Any, np.dtype[Any]]") -> bytes:
    """An array as a ``.npy`` without pickles."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def read_report(folder: str | os.PathLike[str]) -> Diagnosis:
    """A whole report from its folder, or from the ``report.json`` in it.

    Raises:
        InputError: if one of its two files is missing or damaged, or of another schema.
    """
    path = as_path(folder, "folder")
    path = path.parent if path.name == "report.json" and not path.is_dir() else path
    content = read_report_json(path)
    file = path / "pictures.npz"
    if not file.exists():
        raise InputError(f"{file} does not exist; a report is drawn from it and from report.json: {_AGAIN}")
    check_regular(file)
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
            arrays = {key: saved[key] for key in saved.files}
    except Exception as error:  # whatever zipfile, zlib and numpy make of damaged bytes
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{file} cannot be read ({reason}); {_AGAIN}") from error
    try:
        pictures, contributions, by_group = _pictures(arrays), _contributions(arrays), _by_group(arrays)
        shares = _shares(arrays)
    except _Unfit as error:
        raise InputError(f"{file} is not of a complete infomech report ({error}); {_AGAIN}") from None
    found = report_from(content, str(path / "report.json"), pictures)
    budget = replace(found.budget, contributions=contributions)
    information = found.information
    if information is not None:
        information = replace(information, shares=shares)
    return replace(found, budget=budget, group_contributions=by_group, information=information)


def report_from(content: Any, name: str, pictures: Pictures | None = None) -> Diagnosis:
    """The diagnosis whose `report_dict` the content is; without pictures it has numbers only, for comparisons.

    Raises:
        InputError: if something that every report has is missing, or is not what it should be.
    """
    content = check_report(content, name)
    hints = get_type_hints(Diagnosis)
    arrays = ("pictures", "group_contributions", "attached")
    parts = {field.name: content.get(field.name) for field in fields(Diagnosis) if field.name not in arrays}
    parts["budget"] = {**content["budget"], "contributions": None}
    try:
        for side in ("x", "y"):
            if side not in content["geometry"]:
                raise _Unfit(f"geometry lacks {side}")
        read = {key: _built(hints[key], value, key) for key, value in parts.items()}
        _along(read["budget"].curve, PARTS, "budget.curve")
        if read["curves"] is not None:
            _along(read["curves"], CURVED, "curves")
        read["attached"] = _as(dict, content.get("attached", {}), "attached")
    except _Unfit as error:
        raise InputError(f"{name} is no complete infomech report ({error}); {_AGAIN}") from None
    return Diagnosis(pictures=_NO_PICTURES if pictures is None else pictures, **read)


class _Unfit(Exception):
    """What is wrong with a saved report, in a few words."""


def _along(curve: BudgetCurve | Curves, names: Sequence[str], path: str) -> None:
    """Raise _Unfit unless a curve has these parts, and numbers at each of its N (and temperatures)."""
    if set(curve.parts) != set(names):
        odd = sorted(set(names) ^ set(curve.parts))[0]
        raise _Unfit(f"{path}.parts {'lacks' if odd in names else 'has'} {odd}")
    columns = len(curve.negatives)
    for name, part in curve.parts.items():
        rows: Any = part if isinstance(curve, Curves) else [part]
        if any(len(row) != columns for row in rows) or (
            isinstance(curve, Curves) and len(rows) != len(curve.temperatures)
        ):
            raise _Unfit(f"{path}.parts.{name} does not fit its negatives")


def _built(kind: Any, value: Any, path: str) -> Any:
    """The value that `plain` wrote, as its type says; what was not finite comes back as NaN."""
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        value, hints = _as(dict, value, path), get_type_hints(kind)
        for field in fields(kind):
            if field.name not in value and field.default is MISSING:
                raise _Unfit(f"{path} lacks {field.name}")
        given = [field.name for field in fields(kind) if field.name in value]
        return kind(**{name: _built(hints[name], value[name], f"{path}.{name}") for name in given})  # type: ignore[operator]
    if origin is dict:
        return {key: _built(args[1], item, f"{path}.{key}") for key, item in _as(dict, value, path).items()}
    if origin is list:
        return [_built(args[0], item, f"{path}[{at}]") for at, item in enumerate(_as(list, value, path))]
    if origin is tuple:
        items = _as(list, value, path)
        if len(items) != len(args):
            raise _Unfit(f"{path} has {len(items)} entries for {len(args)}")
        return tuple(_built(arg, item, path) for arg, item in zip(args, items, strict=True))
    if origin in (Union, types.UnionType):
        return _one_of(args, value, path)
    if origin is Literal:
        if value not in args:
            raise _Unfit(f"{path} is {value!r}")
        return value
    if kind is float:
        return math.nan if value is None else float(_as(int | float, value, path))
    return _as(kind, value, path)


def _as(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Unfit(f"{path} is {'missing' if value is None else f'a {type(value).__name__}'}")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    """The value as it is, if its type is one of several, or as the first of them that fits."""
    if type(value) in kinds:
        return value
    *others, last = (kind for kind in kinds if kind is not types.NoneType)
    for kind in others:
        with suppress(_Unfit):
            return _built(kind, value, path)
    return _built(last, value, path)


def _pictures(arrays: Arrays) -> Pictures:
    """The pictures that `report_arrays` packed."""
    hints = get_type_hints(Pictures)
    read = {field.name: _unpacked(hints[field.name], arrays, field.name) for field in fields(Pictures)}
    pictures = Pictures(**read)
    bins = len(pictures.similarity_edges) - 1
    unlike = [key for key, counts in pictures.similarity_counts.items() if len(counts) != bins]
    unlike += [f"map_{side}" for side in "xy" if read[f"map_{side}"].shape[1] != 2]
    for side in "xy":
        labels = read[f"map_labels_{side}"]
        unlike += [f"map_labels_{side}"] if labels is not None and len(labels) != len(read[f"map_{side}"]) else []
    if bins < 1 or unlike:
        raise _Unfit(f"the sizes of {', '.join(unlike) or 'similarity_edges'} do not fit")
    return pictures


def _contributions(arrays: Arrays) -> Contributions:
    """The parts of pairs and rows, and the block replicates, that `report_arrays` packed."""
    whole = ("pairs", "lent", "blocks", "rows_x", "rows_y")
    found: Contributions = _read_arrays(
        Contributions, arrays, "contributions", whole=whole, tables=("pairs", "curve_replicates")
    )
    lengths = {"blocks": len(found.blocks), "weights": len(found.weights)} | {
        k: len(v) for k, v in found.by_pair.items()
    }
    unlike = [name for name, length in lengths.items() if length != len(found.pairs)]
    if unlike:
        raise _Unfit(f"the sizes of {', '.join(unlike)} do not fit")
    return found


def _shares(arrays: Arrays) -> PairShares | None:
    """What pairs give to shared information; None where it was not measured."""
    if not any(key.startswith("information/") for key in arrays):
        return None
    whole, tables = ("pairs", "lent", "blocks"), ("pairs", "lent", "curve_replicates", "curve_interactions")
    found: PairShares = _read_arrays(PairShares, arrays, "information", whole=whole, tables=tables)
    if len({len(found.pairs), len(found.blocks), len(found.weights), len(found.information)}) > 1:
        raise _Unfit("the sizes of the shares of information do not fit")
    return found


def _by_group(arrays: Arrays) -> GroupContributions:
    """What each group gives to gap and retrieval."""
    found: GroupContributions = _read_arrays(GroupContributions, arrays, "groups")
    lengths = {len(v) for part in (found.queries, found.hits) for v in part.values()}
    blocks = {len(found.block_groups), *(len(v) for v in found.gap.values())}
    if len(lengths) > 1 or len(blocks) > 1:
        raise _Unfit("the sizes of groups do not fit")
    return found


def _read_arrays(kind: Any, arrays: Arrays, path: str, *, whole: Sequence[str] = (), tables: Sequence[str] = ()) -> Any:
    """A dataclass of arrays and of dictionaries of them; those in `whole` hold whole numbers, `tables` are (n, k)."""
    read: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        dimensions, dtype = 1 + (name in tables), np.int64 if name in whole else np.float64
        at = f"{path}/{name}"
        if get_origin(hint) is dict:
            below = [key for key in arrays if key.startswith(f"{at}/")]
            read[name] = {key.removeprefix(f"{at}/"): _numbers(arrays, key, dimensions, dtype) for key in below}
        elif get_origin(hint) is np.ndarray:
            read[name] = _numbers(arrays, at, dimensions, dtype)
        else:
            read[name] = _json(hint, arrays, at)
    return kind(**read)


def _unpacked(kind: Any, arrays: Arrays, name: str) -> Any:
    path = f"pictures/{name}"
    if get_origin(kind) is np.ndarray:
        return _numbers(arrays, path, _DIMENSIONS.get(name, 1))
    if get_origin(kind) is dict:
        below = [key for key in arrays if key.startswith(f"{path}/")]
        return {key.removeprefix(f"{path}/"): _numbers(arrays, key, 1) for key in below}
    return _json(kind, arrays, path)


def _json(kind: Any, arrays: Arrays, path: str) -> Any:
    if path not in arrays:
        raise _Unfit(f"it lacks {path}")
    try:
        value = json.loads(arrays[path].tobytes())
    except (ValueError, RecursionError):
        raise _Unfit(f"{path} is not JSON") from None
    return _built(kind, value, path)


def _numbers(arrays: Arrays, path: str, dimensions: int, dtype: Any = np.float64) -> np.ndarray:
    if path not in arrays:
        raise _Unfit(f"it lacks {path}")
    array = arrays[path]
    if array.dtype != dtype or array.ndim != dimensions:
        of = np.dtype(dtype).name
        raise _Unfit(f"{path} is {array.ndim}-dimensional {array.dtype}, not {dimensions}-dimensional {of}")
    return array


_NONE, _NO_POINTS = np.zeros(0), np.zeros((0, 2))
_NO_PICTURES = Pictures(
    similarity_edges=_NONE,
    similarity_counts={},
    map_x=_NO_POINTS,
    map_y=_NO_POINTS,
    map_labels_x=None,
    map_labels_y=None,
    map_explained=math.nan,
    map_gap_axis=False,
    spectrum_x=_NONE,
    spectrum_y=_NONE,
    effective_negatives_x_to_y=_NONE,
    effective_negatives_y_to_x=_NONE,
)


def read_report_json(path: str | os.PathLike[str]) -> Json:
    """Read the numbers of a report back from its folder or its ``report.json``.

    Args:
        path: a folder that `Report.save` wrote, or the file itself.

    Returns:
        The dictionary that `Report.to_dict` gave.

    Raises:
        InputError: if there is no such file, or it is not a report, or its schema has another version.
    """
    file = as_path(path)
    if file.is_dir():
        file = file / "report.json"
    if not file.exists():
        raise InputError(f"{file} does not exist; name a folder of a saved report")
    try:
        content = read_json(file)
    except InputError as error:
        if file.suffix.lower() == ".json":
            raise
        raise InputError(
            f"{file} is no infomech report; name a folder of a saved report, or its report.json"
        ) from error
    return check_report(content, str(file))


def check_report(content: Any, name: str) -> Json:
    """Return the content if it is a report of this version; raise InputError otherwise."""
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InputError(f"{name} is no infomech report: it has no schema_version; name a folder of a saved report")
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{name} has schema_version {version!r}, this version of infomech reads {SCHEMA_VERSION}; {_AGAIN}"
        )
    missing = [key for key in REPORT_KEYS if key not in content]
    if missing:
        raise InputError(f"{name} is no infomech report: it lacks {', '.join(missing)}; {_AGAIN}")
    for key in REPORT_KEYS[1:]:
        if not isinstance(content[key], list if key == "findings" else dict):
            raise InputError(f"{name} is no infomech report: its {key} is a {type(content[key]).__name__}; {_AGAIN}")
    return content


__all__ = [
    "REPORT_KEYS",
    "SCHEMA_VERSION",
    "Json",
    "check_report",
    "dump_arrays",
    "dump_npy",
    "read_report",
    "read_report_json",
    "report_arrays",
    "report_dict",
    "report_from",
]
