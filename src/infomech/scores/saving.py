"""A fitted density ratio as one safetensors file, and back."""

import json
import math
import os
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._checks import InputError, check_loss_temperature
from .._files import as_path, write_file
from ..corrections import Correction
from ..corrections.saving import correction_settings, rebuilt_correction
from ..geometry import RBF, Cosine, Critic
from ..io.fitted import dump_fitted, read_fitted
from .arguments import check_weights
from .calibration import METHODS, Calibration
from .fields import Side
from .reference import Reference

if TYPE_CHECKING:
    from .density_ratio import DensityRatio

KIND = "infomech density ratio"
RATIO_FILE = "ratio.safetensors"  # in the folder of `infomech score`
VERSION = 2  # 2 knows its own rows
_CRITICS: dict[str, type[Critic]] = {"Cosine": Cosine, "RBF": RBF}
_INDICES = ("pairs", "given_x", "given_y", "digests_x", "digests_y")
_SIDE = ("values", "groups", "log_weights", "terms")


def save_ratio(ratio: "DensityRatio", path: str | os.PathLike[str]) -> None:
    """Write parameters, reference, weights, calibration and correction; the file appears whole or not at all.

    Raises:
        InputError: before `fit`, for a critic that is not infomech's, or where it cannot be written.
    """
    write_file(path, dump_ratio(ratio))


def dump_ratio(ratio: "DensityRatio") -> bytes:
    """The bytes of the file."""
    reference = ratio.fitted_reference()
    tensors: dict[str, Tensor] = {name: getattr(reference, name) for name in _INDICES}
    for name, side in (("x", reference.x), ("y", reference.y)):
        tensors |= {f"{name}_{key}": value for key in _SIDE if (value := getattr(side, key)) is not None}
    settings: dict[str, Any] = {
        "temperature": float(ratio.temperature),
        "weights": ratio.weights if isinstance(ratio.weights, str) else list(ratio.weights),
        "critic": _critic(ratio.critic),
        "normalize": ratio.normalize,
        "seed": ratio.seed,
        "rows": [reference.rows_x, reference.rows_y],
        "unit": reference.unit,
        "weights_": list(ratio.weights_),
        "ranking_weights_": ratio.ranking_weights_,
    }
    if ratio.calibration_ is not None:
        found = ratio.calibration_
        settings["calibration"] = {"method": found.method, "slope": found.slope}
        tensors |= {"calibration_knots": torch.from_numpy(np.array(found.knots, dtype=np.float64))}
        tensors |= {"calibration_log_odds": torch.from_numpy(np.array(found.log_odds, dtype=np.float64))}
    if ratio.correction_ is not None:
        correction = ratio.correction_
        settings["correction"] = correction_settings(correction)
        tensors |= {f"correction_{key}": value for key, value in correction.parameters.items()}
    return dump_fitted(tensors, {"kind": KIND, "version": str(VERSION), "settings": json.dumps(settings)})


def load_ratio(path: str | os.PathLike[str]) -> "DensityRatio":
    """Read what `save_ratio` wrote; of a folder, the file that `infomech score` writes to it.

    Raises:
        InputError: for another file, a damaged one, or one of another version.
    """
    path = as_path(path)
    path = path / RATIO_FILE if os.path.isdir(path) else path
    metadata, tensors = read_fitted(path, "density ratio", "fit it again with infomech score", mark="kind")
    if metadata["kind"] != KIND:
        raise InputError(f"{path} is a safetensors file, but no density ratio; fit one with infomech score")
    if metadata.get("version") != str(VERSION):
        raise InputError(
            f"{path} is a density ratio of version {metadata.get('version')}; this infomech reads {VERSION}: fit again"
        )
    try:
        return _rebuilt(json.loads(metadata["settings"]), tensors)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError):
        raise InputError(f"{path} is a damaged density ratio; fit it again with infomech score") from None


def _rebuilt(settings: dict[str, Any], tensors: dict[str, Tensor]) -> "DensityRatio":
    from .density_ratio import DensityRatio

    sides = [Side(*(tensors.get(f"{name}_{key}") for key in _SIDE)) for name in "xy"]  # type: ignore[arg-type]
    rows = settings["rows"]
    pairs, given_x, given_y, digests_x, digests_y = (tensors[name] for name in _INDICES)
    reference = Reference(
        sides[0], sides[1], pairs, given_x, given_y, int(rows[0]), int(rows[1]), settings["unit"], digests_x, digests_y
    )
    _check(reference)
    _check_settings(settings)
    given = settings["weights"]
    correction = _correction(settings.get("correction"), tensors)
    ratio = DensityRatio(
        settings["temperature"],
        weights=given if isinstance(given, str) else (given[0], given[1]),
        critic=_loaded_critic(settings["critic"]),
        normalize=settings["normalize"],
        correction=correction,
        seed=settings["seed"],
    )
    ratio.correction_ = correction
    ratio.weights_ = (float(settings["weights_"][0]), float(settings["weights_"][1]))
    ratio.ranking_weights_ = {side: float(settings["ranking_weights_"][side]) for side in "xy"}
    calibration = settings.get("calibration")
    ratio.adopt(
        reference,
        None
        if calibration is None
        else Calibration(
            calibration["method"],
            tensors["calibration_knots"].numpy(),
            tensors["calibration_log_odds"].numpy(),
            float(calibration["slope"]),
        ),
    )
    return ratio


def _check_settings(settings: dict[str, Any]) -> None:
    """Raise InputError or ValueError for numbers that no fit gives."""
    check_loss_temperature(settings["temperature"])
    check_weights(settings["weights"])
    fitted = check_weights(tuple(settings["weights_"]))
    if fitted is None or not all(math.isfinite(settings["ranking_weights_"][side]) for side in "xy"):
        raise ValueError
    calibration = settings.get("calibration")
    if calibration is not None and not (calibration["method"] in METHODS and math.isfinite(calibration["slope"])):
        raise ValueError


def _check(reference: Reference) -> None:
    """Raise ValueError unless the parts fit together."""
    for side, given, rows, digests in (
        (reference.x, reference.given_x, reference.rows_x, reference.digests_x),
        (reference.y, reference.given_y, reference.rows_y, reference.digests_y),
    ):
        count = len(side.values)
        fits = side.values.ndim == 2 and side.values.is_floating_point() and bool(torch.isfinite(side.values).all())
        fits = fits and all(part.shape == (count,) for part in (side.groups, side.log_weights, given))
        fits = fits and count > 0 and int(given.min()) >= 0 and int(given.max()) < rows
        fits = fits and digests.shape == (rows,) and digests.dtype is torch.int64
        fits = fits and int(side.groups[0]) == 0 and bool((side.groups.diff() >= 0).all())
        if not fits or not bool(torch.isfinite(side.log_weights).all()):
            raise ValueError
    x, y, pairs = reference.x, reference.y, reference.pairs
    if x.values.shape[1] != y.values.shape[1] or x.count != y.count or pairs.shape[1:] != (2,):
        raise ValueError
    if int(pairs.min()) < 0 or not bool((x.groups[pairs[:, 0]] == y.groups[pairs[:, 1]]).all()):
        raise ValueError


def _critic(critic: Critic | None) -> dict[str, Any] | None:
    if critic is None:
        return None
    if _CRITICS.get(type(critic).__name__) is not type(critic) or not is_dataclass(critic):
        raise InputError(f"{type(critic).__name__} is no critic of infomech; a file cannot hold it: fit again instead")
    return {"name": type(critic).__name__, "parameters": asdict(critic)}


def _loaded_critic(saved: dict[str, Any] | None) -> Critic | None:
    return None if saved is None else _CRITICS[saved["name"]](**saved["parameters"])


def _correction(saved: dict[str, Any] | None, tensors: dict[str, Tensor]) -> Correction | None:
    if saved is None:
        return None
    own = {name.removeprefix("correction_"): value for name, value in tensors.items() if name.startswith("correction_")}
    return rebuilt_correction(saved, own)


__all__ = ["KIND", "VERSION", "dump_ratio", "load_ratio", "save_ratio"]
