"""Encoders of transformers: CLIP, SigLIP and what answers to their names."""

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..._checks import InputError
from .encoder import Encoder, Modality, ModelChoice, Towers, needed, no_network, state_hash, text_hash


class HuggingFaceEncoder(Encoder):
    """One tower of a CLIP or SigLIP model of transformers."""

    def __init__(self, model: nn.Module, processor: Any, modality: Modality, *, name: str, device: str) -> None:
        self._model, self._processor, self._device = model, processor, device
        self.name, self.modality = name, modality
        scale = getattr(model, "logit_scale", None)
        self.temperature = float((-scale.detach().double()).exp()) if isinstance(scale, Tensor) else None
        config: Any = model.config
        self.dimension = getattr(config, "projection_dim", None) or getattr(config.text_config, "projection_size", None)
        self.weights = state_hash(model)
        if modality == "image":
            described = json.dumps(processor.to_dict(), sort_keys=True, default=str)
        else:
            backend = getattr(processor, "backend_tokenizer", None)
            described = backend.to_str() if backend is not None else str(processor(["a cat"]))
            described += str(self._padding())
        self.preprocessing = text_hash(described)

    def _padding(self) -> dict[str, Any]:
        """SigLIP was trained on texts padded to its full length, and needs that; CLIP masks what is padded."""
        config: Any = self._model.config  # transformers' own type is not known here
        longest = config.text_config.max_position_embeddings
        kind = "max_length" if "siglip" in config.model_type else True
        return {"padding": kind, "truncation": True, "max_length": longest}

    def prepare(self, item: Any) -> Any:  # noqa: D102
        if self.modality == "text":
            return item
        return self._processor(images=item, return_tensors="pt")["pixel_values"][0]

    def encode(self, batch: Sequence[Any]) -> Tensor:  # noqa: D102
        import torch

        if self.modality == "image":
            found = self._model.get_image_features(pixel_values=torch.stack(list(batch)).to(self._device))  # type: ignore[operator]
        else:
            tokens = self._processor(list(batch), return_tensors="pt", **self._padding()).to(self._device)
            found = self._model.get_text_features(**tokens)  # type: ignore[operator]
        out: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        return out


def load_hugging_face(choice: ModelChoice, rest: str) -> Towers:
    """Both towers of a CLIP-like model of transformers, by the name of a repository or a local folder.

    Raises:
        InputError: no such model, no network, or a model without image and text towers.
    """
    needed("transformers", "text")
    if choice.checkpoint is not None:
        raise InputError("a checkpoint goes with open_clip: models; give hf: the folder that save_pretrained wrote")
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(rest)
        processors = {"image": AutoImageProcessor.from_pretrained(rest), "text": AutoTokenizer.from_pretrained(rest)}
    except (OSError, ValueError, ImportError) as error:
        raise no_network(error, f"hf:{rest}") from None
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise InputError(
            f"hf:{rest} is a {type(model).__name__}, which has no image and text towers; use CLIP or SigLIP"
        )
    model = model.to(choice.device).eval()
    kinds: tuple[Modality, ...] = ("image", "text")
    return {m: HuggingFaceEncoder(model, processors[m], m, name=f"hf:{rest}", device=choice.device) for m in kinds}


__all__ = ["HuggingFaceEncoder", "load_hugging_face"]
