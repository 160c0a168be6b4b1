"""Which device a model runs on."""

import torch

from .._checks import InputError


def resolve_device(name: str) -> str:
    """A device that works here: "auto" is the first CUDA device if there is one, and the CPU otherwise.

    Raises:
        InputError: torch cannot put a tensor on the device of that name.

    >>> resolve_device("cpu")
    'cpu'
    >>> resolve_device("gpu")
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: device is 'gpu', which torch cannot use here; pass cpu, cuda, mps or auto
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"device is {name!r}, which torch cannot use here; pass cpu, cuda, mps or auto") from None
    return name


__all__ = ["resolve_device"]
