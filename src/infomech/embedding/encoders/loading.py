"""The encoders of a model by its name, whichever library it comes from."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._checks import InputError, check_temperature
from .encoder import Encoder, Modality, ModelChoice, Towers, state_hash, text_hash

FORMS = (
    "open_clip:ARCHITECTURE[:TAG], hf:NAME or hf:FOLDER (CLIP, SigLIP), sentence-transformers:NAME or FOLDER, "
    "or module:function"
)


def load_towers(choice: ModelChoice, modalities: Iterable[Modality]) -> dict[Modality, Encoder]:
    """The encoders of a model for the modalities that the data have.

    Args:
        choice: which model, from where, on which device.
        modalities: "image", "text" or both.

    Raises:
        InputError: no model of that name, a library that is not installed, a checkpoint that does not fit, no network,
            or a modality that the model cannot embed.

    >>> towers = load_towers(ModelChoice("infomech.embedding.encoders.loading:letter_counts"), ["text"])
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
        from .open_clip import load_open_clip

        return load_open_clip
    if prefix in ("hf", "transformers"):
        from .hugging_face import load_hugging_face

        return load_hugging_face
    if prefix in ("sentence-transformers", "sentence_transformers"):
        from .sentence_transformers import load_sentence_encoder

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
        try:
            out = self._function(list(batch))
        except SystemExit as stop:
            raise InputError(f"{self.name} ended the program (exit code {stop.code}); raise an exception") from None
        if not isinstance(out, Tensor):
            raise InputError(f"{self.name} returned a {type(out).__name__}; expected a tensor of shape (n, d)")
        if out.layout != torch.strided:
            raise InputError(f"{self.name} returned a sparse tensor; expected a dense one, out.to_dense() say")
        return out.detach()


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
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{module_name} cannot be imported ({text}); correct it and try again") from None
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


__all__ = ["FORMS", "CallableEncoder", "letter_counts", "load_towers"]
