"""What turns images and texts into embeddings, behind one small interface, and the loaders of every library."""

import hashlib
import importlib
import inspect
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._checks import InputError, check_temperature

Modality = Literal["image", "text"]

FORMS = (
    "open_clip:ARCHITECTURE[:TAG], hf:NAME or hf:FOLDER (CLIP, SigLIP), sentence-transformers:NAME or FOLDER, "
    "or module:function"
)


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
        spec: see `FORMS`.
        checkpoint: a local file of weights for the architecture; in place of a pretrained tag.
        device: "cpu", "cuda", "cuda:1", "mps".
    """

    spec: str
    checkpoint: Path | None = None
    device: str = "cpu"


def load_towers(choice: ModelChoice, modalities: Iterable[Modality]) -> dict[Modality, Encoder]:
    """The encoders of a model for the modalities that the data have.

    Args:
        choice: which model, from where, on which device.
        modalities: "image", "text" or both.

    Raises:
        InputError: no model of that name, a library that is not installed, a checkpoint that does not fit, no network,
            or a modality that the model cannot embed.

    >>> towers = load_towers(ModelChoice("infomech.integrations.encoders:letter_counts"), ["text"])
    >>> towers["text"].encode(["abba", "cab"])[:, :3]
    tensor([[2., 2., 0.],
            [1., 1., 1.]])
    """
    wanted = list(dict.fromkeys(modalities))
    prefix, _, rest = choice.spec.partition(":")
    if not rest:
        raise InputError(f"{choice.spec!r} names no model; expected {FORMS}")
    towers = _loader(prefix)(choice, rest)
    missing = [m for m in wanted if m not in towers]
    if missing:
        raise InputError(f"{choice.spec} embeds {' and '.join(towers)} only; the data hold {' and '.join(wanted)}")
    return {m: towers[m] for m in wanted}


def _loader(prefix: str) -> Callable[[ModelChoice, str], Towers]:
    if prefix in ("open_clip", "openclip"):
        from .open_clip_encoders import load_open_clip

        return load_open_clip
    if prefix in ("hf", "transformers"):
        from .hugging_face import load_hugging_face

        return load_hugging_face
    if prefix in ("sentence-transformers", "sentence_transformers"):
        from .sentence_encoders import load_sentence_encoder

        return load_sentence_encoder
    return _load_callable


class CallableEncoder(Encoder):
    """A user's function from a list of PIL images or of strings to an (n, d) tensor.

    Its content hash covers the source file of the function, the function's ``fingerprint`` attribute (a string that
    should change with its weights), and its parameters if it is a module. ``temperature`` is an attribute too.
    """

    def __init__(self, function: Callable[[Sequence[Any]], Tensor], name: str, modality: Modality) -> None:
        self.name, self.modality, self.dimension = name, modality, None
        self._function = function
        given = getattr(function, "temperature", None)
        if given is not None:
            check_temperature(given, f"the temperature of {name}")
        self.temperature = None if given is None else float(given)
        state = state_hash(function) if isinstance(function, nn.Module) else ""
        self.weights = text_hash(state + str(getattr(function, "fingerprint", "")))
        self.preprocessing = text_hash(_source_of(function))

    def encode(self, batch: Sequence[Any]) -> Tensor:  # noqa: D102
        out = self._function(list(batch))
        if not isinstance(out, Tensor):
            raise InputError(f"{self.name} returned a {type(out).__name__}; expected a tensor of shape (n, d)")
        return out


def _load_callable(choice: ModelChoice, _: str) -> Towers:
    module_name, _, attribute = choice.spec.partition(":")
    if choice.checkpoint is not None:
        raise InputError("a checkpoint goes with open_clip: models; a function of your own loads its weights itself")
    sys.path.insert(0, os.getcwd())  # as `python -m` does: the user's module stands beside the data
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise InputError(f"there is no module {module_name!r}; expected {FORMS}") from None
        raise InputError(f"{module_name} needs the module {error.name!r}, which is not installed") from None
    finally:
        sys.path.remove(os.getcwd())
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"{module_name} has no function {attribute!r}; expected module:function")
    if isinstance(function, nn.Module):
        function = function.to(choice.device).eval()
    kinds: tuple[Modality, ...] = ("image", "text")
    return {modality: CallableEncoder(function, choice.spec, modality) for modality in kinds}


def _source_of(function: Callable[..., Any]) -> str:
    """The text of the file that defines the function: its preprocessing is in there."""
    target = type(function) if isinstance(function, nn.Module) else function
    try:
        file = inspect.getsourcefile(target)
        return Path(file).read_text(encoding="utf-8") if file else repr(target)
    except (OSError, TypeError):
        return repr(target)


def letter_counts(batch: Sequence[str]) -> Tensor:
    """How often each letter a to z occurs in each text: an encoder without weights, for trying things out.

    >>> letter_counts(["Abba"])[0, :2]
    tensor([2., 2.])
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    return torch.tensor([[float(text.lower().count(letter)) for letter in letters] for text in batch])


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
        "connect, or fetch them elsewhere and pass a local folder or --checkpoint"
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
    "FORMS",
    "CallableEncoder",
    "Encoder",
    "Modality",
    "ModelChoice",
    "Towers",
    "fit_state",
    "letter_counts",
    "load_towers",
    "needed",
    "no_network",
    "state_hash",
    "text_hash",
]
