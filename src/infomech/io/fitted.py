"""Files of what was fitted: tensors with settings beside them, as safetensors."""

from pathlib import Path

from torch import Tensor

from .._checks import InputError
from .text import check_regular


def read_fitted(path: Path, what: str, again: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The settings and the tensors of a safetensors file; copies, so that the file may be overwritten.

    Args:
        path: the file.
        what: it should hold, for the message.
        again: what to do about a damaged one.

    Raises:
        InputError: for a file that is none, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError, ValueError):
        raise InputError(f"{path} is no {what}, or a damaged one; {again}") from None


__all__ = ["read_fitted"]
