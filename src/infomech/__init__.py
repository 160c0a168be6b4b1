"""infomech: what a contrastive loss is made of, how large the modality gap is, and how to close it.

Names are loaded when first used, so that the command line answers before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import losses
    from ._checks import InfomechError, InputError
    from .diagnosis import EnergyBudget, Estimate, decompose, gap
    from .geometry import RBF, Cosine, FlatTorus, Sphere, log_kernel_volume
    from .measures import VonMisesFisher
    from .report import Report, compare, diagnose

_HOMES = {
    "InfomechError": "_checks",
    "InputError": "_checks",
    "RBF": "geometry",
    "Cosine": "geometry",
    "FlatTorus": "geometry",
    "Sphere": "geometry",
    "log_kernel_volume": "geometry",
    "VonMisesFisher": "measures",
    "EnergyBudget": "diagnosis",
    "Estimate": "diagnosis",
    "decompose": "diagnosis",
    "gap": "diagnosis",
    "Report": "report",
    "compare": "report",
    "diagnose": "report",
}
_MODULES = {"losses"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'infomech' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])


__all__ = [
    "RBF",
    "Cosine",
    "EnergyBudget",
    "Estimate",
    "FlatTorus",
    "InfomechError",
    "InputError",
    "Report",
    "Sphere",
    "VonMisesFisher",
    "compare",
    "decompose",
    "diagnose",
    "gap",
    "log_kernel_volume",
    "losses",
]
