"""What turns images and texts into embeddings, behind one small interface, and what all its loaders share."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..._checks import InputError

Modality = Literal["image", "text"]


class Encoder(ABC):
    """One tower of a model: how an item is made ready, and how a batch of such items becomes embeddings.

    ``name``, ``temperature`` (1 / logit scale; None where the model has none) and ``dimension`` (None until the first
    batch, where the model does not say) describe it. ``weights`` and ``preprocessing`` are content hashes: embeddings
    of encoders that differ in either are never put together.
    """

    name: str
    modality: Modality
    temperature: float | None
    dimension: int | None
    weights: str
    preprocessing: str

    def prepare(self, item: Any) -> Any:
        """Make one item ready: a PIL image or a string; called in threads, before batches are formed."""
        return item

    @abstractmethod
    def encode(self, batch: Sequence[Any]) -> Tensor:
        """Embed a batch of prepared items: (n, d), on any device, of any floating dtype."""


Towers = Mapping[Modality, Encoder]


@dataclass(frozen=True)
class ModelChoice:
    """Which model to load, as the command line says it.

    Args:
        spec: see `infomech.embedding.encoders.loading.FORMS`.
        checkpoint: a local file of weights for the architecture; in place of a pretrained tag.
        device: "cpu", "cuda", "cuda:1", "mps".
    """

    spec: str
    checkpoint: Path | None = None
    device: str = "cpu"


def text_hash(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def state_hash(module: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def needed(package: str, extra: str) -> None:
    """Raise InputError with the command that installs a library, unless it is there."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        raise InputError(f"{package} is not installed; pip install 'infomech[{extra}]'") from None


def no_network(error: BaseException, what: str) -> InputError:
    """What to say when weights are neither here nor to be had."""
    text = " ".join(str(error).split())
    return InputError(
        f"the weights of {what} are not on this machine and could not be downloaded ({text[:160]}); "
        "connect, or fetch them elsewhere and pass a local folder or checkpoint=FILE"
    )


def fit_state(module: nn.Module, state: Mapping[str, Any], source: Path) -> None:
    """Load weights that must fit exactly; the error names the keys that do not.

    Raises:
        InputError: with the keys that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    missing = sorted(k for k in own if k not in state)
    unknown = sorted(k for k in state if k not in own)
    wrong = sorted(k for k in own if k in state and tuple(state[k].shape) != tuple(own[k].shape))
    problems = [
        f"{len(keys)} {word} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for keys, word in ((missing, "missing"), (unknown, "unknown"), (wrong, "of another shape"))
        if keys
    ]
    if problems:
        raise InputError(f"{source} does not fit the model: keys {'; '.join(problems)}; check the architecture")
    module.load_state_dict(dict(state))


__all__ = [
    "Encoder",
    "Modality",
    "ModelChoice",
    "Towers",
    "fit_state",
    "needed",
    "no_network",
    "state_hash",
    "text_hash",
]
