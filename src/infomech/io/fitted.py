"""Files of what was fitted: tensors with settings beside them, as safetensors, with a digest of both."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .._checks import InputError
from .text import check_regular

_DIGEST = "sha256"


def dump_fitted(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file that `read_fitted` knows to be whole.

    >>> data = dump_fitted({"a": torch.ones(2)}, {"kind": "an example"})
    >>> b"sha256" in data
    True
    """
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return save(plain, metadata={**metadata, _DIGEST: _digest(plain, metadata)})


def read_fitted(path: Path, what: str, again: str, *, mark: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The settings and the tensors of a safetensors file; copies, so that the file may be overwritten.

    Args:
        path: the file.
        what: it should hold, for the message.
        again: what to do about a damaged one.
        mark: the setting that says that it is one.

    Raises:
        InputError: for a file that is none, one that was changed, or one without a digest.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        raise InputError(f"{path} is no {what}, or a damaged one; {again}") from None
    if mark not in metadata:
        raise InputError(f"{path} is a safetensors file, but no {what}; {again}")
    said = metadata.pop(_DIGEST, None)
    if said is None:
        raise InputError(f"{path} is a {what} of an older infomech, without a digest of its content; {again}")
    if said != _digest(tensors, metadata):
        raise InputError(f"{path} is a damaged {what}: its content is not what was written; {again}")
    return metadata, tensors


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"\0{name} {value.dtype} {list(value.shape)}\0".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()


__all__ = ["dump_fitted", "read_fitted"]
