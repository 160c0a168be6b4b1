"""``report.json``: what stands in it, how it is written, and how it is read back."""

import json
import os
from pathlib import Path
from typing import Any

from .._checks import InputError
from .._files import Json, plain
from ..diagnosis import Diagnosis, Estimate

SCHEMA_VERSION = 1
REPORT_KEYS = ("schema_version", "inputs", "budget", "gap", "geometry", "retrieval", "findings", "provenance")


def report_dict(diagnosis: Diagnosis) -> Json:
    """The content of ``report.json``."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "inputs": plain(diagnosis.inputs),
        "budget": plain(diagnosis.budget) | {"log_kernel_mean": plain(diagnosis.budget.log_kernel_mean)},
        "gap": plain(diagnosis.gap),
        "geometry": plain(diagnosis.geometry),
        "retrieval": plain(diagnosis.retrieval),
        "findings": plain(diagnosis.findings),
        "provenance": plain(diagnosis.provenance),
    }
    return content if diagnosis.curves is None else content | {"curves": plain(diagnosis.curves)}


def is_estimate(value: Any) -> bool:
    """Whether a value of a report's dictionary is an estimate."""
    return isinstance(value, dict) and value.keys() - {"withheld"} == {"value", "stderr", "low", "high"}


def estimate_from(value: Json) -> Estimate:
    """The estimate that `plain` wrote; what was not finite comes back as NaN."""
    return Estimate.from_dict(value)


def read_report_json(path: str | os.PathLike[str]) -> Json:
    """Read a report back from its folder or its ``report.json``.

    Args:
        path: a folder that `Report.save` wrote, or the file itself.

    Returns:
        The dictionary that `Report.to_dict` gave.

    Raises:
        InputError: if there is no such file, or it is not a report, or its schema has another version.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    if not file.exists():
        raise InputError(f"{file} does not exist; name a folder that `infomech report` wrote")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(f"{file} is not JSON; name a folder that `infomech report` wrote") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    return check_report(content, str(file))


def check_report(content: Any, name: str) -> Json:
    """Return the content if it is a report of this version; raise InputError otherwise."""
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InputError(f"{name} is no infomech report: it has no schema_version; run `infomech report` to make one")
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{name} has schema_version {version!r}, this version of infomech reads {SCHEMA_VERSION}; "
            "run `infomech report` again"
        )
    missing = [key for key in REPORT_KEYS if key not in content]
    if missing:
        raise InputError(f"{name} is no infomech report: it lacks {', '.join(missing)}; run `infomech report` again")
    parts = {"inputs": dict, "budget": dict, "gap": dict, "geometry": dict, "retrieval": dict, "findings": list}
    for key, kind in parts.items():
        if not isinstance(content[key], kind):
            raise InputError(f"{name} is no infomech report: its {key} is a {type(content[key]).__name__}")
    return content


__all__ = [
    "REPORT_KEYS",
    "SCHEMA_VERSION",
    "Json",
    "check_report",
    "estimate_from",
    "is_estimate",
    "read_report_json",
    "report_dict",
]
