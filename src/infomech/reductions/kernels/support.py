"""Whether the Triton kernels can run: on which device, for which rows, and if not, what to do about it."""

import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch

OLDEST = (3, 6)
OLDEST_CARD = (8, 0)  # tensor cores that take bfloat16 and TF32
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def usable(device: torch.device, *dtypes: torch.dtype) -> str | None:
    """None if the kernels serve rows of these dtypes on this device; else why not and what to do, in one line.

    On a CPU they run in Triton's interpreter, which is slow and meant for tests: TRITON_INTERPRET=1 has to be set
    before Triton is first imported.

    >>> usable(torch.device("cpu"), torch.float64)
    'float64 rows: the tiles take them'
    """
    for dtype in dtypes:
        if dtype not in _DTYPES:
            return f"{str(dtype).removeprefix('torch.')} rows: the tiles take them"
    if device.type == "cuda":
        return _missing() or _too_old_a_card(device)
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return _missing()
    return f"rows on {device.type}: the Triton kernels need a CUDA device"


def _too_old_a_card(device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is not None or capability >= OLDEST_CARD:
        return None if torch.version.hip is None else "a ROCm build of torch: the Triton kernels are for CUDA"
    return f"a card of compute capability {'.'.join(map(str, capability))}: the Triton kernels need 8.0 or later"


@lru_cache(maxsize=1)
def _missing() -> str | None:
    wanted = ".".join(map(str, OLDEST))
    try:
        found = version("triton")
    except PackageNotFoundError:
        return f"Triton is not installed: pip install 'triton>={wanted}'"
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
    return None if numbers >= OLDEST else f"Triton {found} is too old: pip install 'triton>={wanted}'"


__all__ = ["usable"]
