"""A fitted correction as one safetensors file, and back."""

import json
import os
from typing import Any

import torch
from torch import Tensor

from .._checks import InputError
from .._files import as_path, write_file
from ..io.fitted import dump_fitted, read_fitted
from .base import AffineMap, Correction
from .scoring import METHODS

CORRECTION_FILE = "correction.safetensors"  # in the folder of `infomech correct`


def dump_correction(correction: Correction) -> bytes:
    """The bytes of the file: the two affine maps, the method and its parameters.

    Raises:
        InputError: before `fit`, or for a correction that is not infomech's.
    """
    settings = json.dumps(correction_settings(correction)["parameters"])
    return dump_fitted(correction.parameters, {"method": correction.name, "settings": settings})


def save_correction(correction: Correction, path: str | os.PathLike[str]) -> None:
    """Write it, whole or not at all."""
    write_file(path, dump_correction(correction))


def load_correction(path: str | os.PathLike[str]) -> Correction:
    """Read what `save_correction` wrote; of a folder, the file that `infomech correct` writes to it.

    Raises:
        InputError: for another file, or a damaged one.
    """
    path = as_path(path)
    path = path / CORRECTION_FILE if os.path.isdir(path) else path
    metadata, tensors = read_fitted(path, "correction", "fit it again with infomech correct", mark="method")
    if metadata["method"] not in METHODS:
        raise InputError(f"{path} holds a correction that is not known, {metadata['method']!r}; fit another")
    try:
        parameters = json.loads(metadata.get("settings", "{}"))
        return rebuilt_correction({"name": metadata["method"], "parameters": parameters}, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(f"{path} is a damaged correction; fit it again with infomech correct") from None


def correction_settings(correction: Correction) -> dict[str, Any]:
    """Name and parameters of a correction of infomech's, as JSON knows them.

    Raises:
        InputError: for one of your own.
    """
    if METHODS.get(correction.name) is not type(correction):
        raise InputError(f"{type(correction).__name__} is no correction of infomech; save its parameters yourself")
    return {"name": correction.name, "parameters": correction.get_params()}


def rebuilt_correction(settings: dict[str, Any], tensors: dict[str, Tensor]) -> Correction:
    """A fitted correction from `correction_settings` and its `parameters`.

    Raises:
        KeyError, TypeError, ValueError: where they do not fit together.
    """
    maps = [AffineMap(tensors[f"{s}_start"], tensors[f"{s}_end"], tensors.get(f"{s}_matrix")) for s in "xy"]
    widths = {len(part) for each in maps for part in (each.start, each.end)}
    for each in maps:
        parts = [each.start, each.end] if each.matrix is None else [each.start, each.end, each.matrix]
        if len(widths) != 1 or not all(bool(torch.isfinite(part).all()) for part in parts):
            raise ValueError("maps that do not fit together")
        if each.start.ndim != 1 or (each.matrix is not None and each.matrix.shape != (len(each.start),) * 2):
            raise ValueError("maps that do not fit together")
    return METHODS[settings["name"]](**settings["parameters"]).with_maps(maps[0], maps[1])


__all__ = ["correction_settings", "dump_correction", "load_correction", "rebuilt_correction", "save_correction"]
