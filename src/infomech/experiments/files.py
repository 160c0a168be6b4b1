"""results.json and provenance.json of a study of real models."""

import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def write_results(folder: Path, name: str, results: dict[str, Any]) -> None:
    """Write both files; numbers that are not finite become null."""
    folder.mkdir(parents=True, exist_ok=True)
    provenance = {
        "experiment": name,
        "infomech": metadata.version("infomech"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1), encoding="utf-8")


__all__ = ["write_results"]
