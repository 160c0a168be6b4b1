"""Whether the Triton kernels can run: on which device, for which rows, and if not, what to do about it."""

import importlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import lru_cache

import torch

OLDEST = (3, 6)
OLDEST_CARD = (8, 0)  # tensor cores that take bfloat16 and TF32
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_INSTALL = f"pip install 'triton>={'.'.join(map(str, OLDEST))}'"

_log = logging.getLogger(__name__)


def usable(device: torch.device, *dtypes: torch.dtype) -> str | None:
    """None if the kernels serve rows of these dtypes on this device; else why not and what to do, in one line.

    On a CPU they run in Triton's interpreter, which is slow and meant for tests: TRITON_INTERPRET=1 has to be set
    before Triton is first imported.

    >>> usable(torch.device("cpu"), torch.float64)
    'the Triton kernels take no float64 rows'
    """
    for dtype in dtypes:
        if dtype not in _DTYPES:
            return f"the Triton kernels take no {str(dtype).removeprefix('torch.')} rows"
    if device.type == "cuda":
        return _missing() or _unfit_card(device) or (None if _interpreted() else _no_compiler())
    if device.type == "cpu" and _interpreted():
        return _missing()
    return f"rows on {device.type}: the Triton kernels need a CUDA device"


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=64)
def say_once(reason: str) -> None:
    """Tell at level info, the first time only."""
    _log.info("%s", reason)


def _unfit_card(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "a ROCm build of torch: the Triton kernels are for CUDA"
    ask = torch.cuda.get_device_capability
    capability = ask(device) if device.index is None else _capability(ask, device)
    if capability >= OLDEST_CARD:
        return None
    oldest = ".".join(map(str, OLDEST_CARD))
    return f"a card of compute capability {'.'.join(map(str, capability))}: the Triton kernels need {oldest} or later"


@lru_cache(maxsize=64)
def _capability(ask: Callable[[torch.device], tuple[int, int]], device: torch.device) -> tuple[int, int]:
    """That of a card, which stays what it is: asked once of each who can be asked."""
    return ask(device)


@lru_cache(maxsize=1)
def _missing() -> str | None:
    try:
        found = str(getattr(importlib.import_module("triton"), "__version__", "of no version"))
    except Exception as error:  # any: what is broken is not the caller's, and the tiles go on
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return f"Triton is not installed: {_INSTALL}"
        said = " ".join(str(error).split())[:200]
        again = _INSTALL.replace("install", "install --force-reinstall")
        return f"Triton cannot be imported ({type(error).__name__}: {said}): {again}"
    if version_of(found) < OLDEST:
        return f"Triton {found} is too old: update torch, which brings its own, or {_INSTALL}"
    if not hasattr(torch.ops.aten.mm, "dtype_out"):
        return f"torch {torch.__version__} cannot sum products of halves in float32: pip install 'torch>=2.8'"
    return None


def version_of(version: str) -> tuple[int, int]:
    """The first two numbers of a version; zeros where it has none.

    >>> version_of("3.6.0+git1234"), version_of("main")
    ((3, 6), (0, 0))
    """
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@lru_cache(maxsize=1)
def _no_compiler() -> str | None:
    """Triton builds what launches a kernel with a C compiler, at its first launch."""
    if sys.platform != "linux" or os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang"))):
        return None
    return "Triton needs a C compiler: install gcc, or set CC"


__all__ = ["say_once", "usable", "version_of"]
