"""Encoders of open_clip: any architecture, pretrained tag or local checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._checks import InputError
from .encoder import Encoder, ModelChoice, Towers, fit_state, needed, no_network, state_hash, text_hash

_PROBE = ["a photo of a cat", "Zwölf große Boxkämpfer"]  # a tokenizer is known by what it does


class OpenClipImages(Encoder):
    """The image tower of an open_clip model."""

    def __init__(self, parts: "OpenClipParts") -> None:
        self._parts = parts
        self.name, self.modality, self.temperature = parts.name, "image", parts.temperature
        self.dimension, self.weights = parts.dimension, parts.weights
        self.preprocessing = text_hash(repr(parts.preprocess))

    def prepare(self, item: Any) -> Tensor:  # noqa: D102
        pixels: Tensor = self._parts.preprocess(item)
        return pixels

    def encode(self, batch: Sequence[Tensor]) -> Tensor:  # noqa: D102
        pixels = torch.stack(list(batch)).to(self._parts.device, non_blocking=True)
        out: Tensor = self._parts.model.encode_image(pixels)  # type: ignore[operator]
        return out


class OpenClipTexts(Encoder):
    """The text tower of an open_clip model."""

    def __init__(self, parts: "OpenClipParts") -> None:
        self._parts = parts
        self.name, self.modality, self.temperature = parts.name, "text", parts.temperature
        self.dimension, self.weights = parts.dimension, parts.weights
        self.preprocessing = text_hash(str(parts.tokenizer(_PROBE).tolist()))

    def encode(self, batch: Sequence[str]) -> Tensor:  # noqa: D102
        tokens = self._parts.tokenizer(list(batch)).to(self._parts.device)
        out: Tensor = self._parts.model.encode_text(tokens)  # type: ignore[operator]
        return out


class OpenClipParts:
    """A model of open_clip with its preprocessing and tokenizer, and what is known of it."""

    def __init__(self, model: nn.Module, preprocess: Any, tokenizer: Any, *, name: str, device: str) -> None:
        self.model = model.to(device).eval()
        self.preprocess, self.tokenizer, self.name, self.device = preprocess, tokenizer, name, device
        scale = model.logit_scale
        assert isinstance(scale, Tensor)
        self.temperature = float((-scale.detach().double()).exp())  # the parameter is log(1 / tau)
        self.weights = state_hash(model)
        self.dimension: int | None = _dimension(model)


def _dimension(model: nn.Module) -> int | None:
    projection = getattr(model, "text_projection", None)
    if isinstance(projection, Tensor):
        return int(projection.shape[1])
    width = getattr(getattr(model, "visual", None), "output_dim", None)
    return int(width) if isinstance(width, int) else None


def open_clip_parts(choice: ModelChoice, rest: str) -> OpenClipParts:
    """Load ``ARCHITECTURE[:TAG]``: pretrained weights by their tag, a local checkpoint, or random ones (tag "random").

    The architecture is a name that open_clip knows, ``hf-hub:...`` or ``local-dir:...`` of open_clip, or a ``.json``
    file with a configuration of one. Random weights are the same at every call; they are for tests.

    Raises:
        InputError: for a name or tag that open_clip does not know, a checkpoint that does not fit, or no network.
    """
    needed("open_clip_torch", "clip")
    import open_clip

    architecture, tag = _split(rest)
    if architecture.endswith(".json"):
        architecture = _add_config(Path(architecture))
    elif ":" not in architecture and architecture not in open_clip.list_models():
        raise InputError(_unknown(architecture, open_clip.list_models()))
    tags = [] if ":" in architecture else open_clip.list_pretrained_tags_by_model(architecture)
    if choice.checkpoint is not None and tag:
        raise InputError(f"both a tag ({tag}) and a checkpoint ({choice.checkpoint}) are given; choose one")
    if choice.checkpoint is None and ":" not in architecture and tag != "random" and tag not in tags:
        found = f"{architecture} has no pretrained tag {tag!r}" if tag else f"no weights are named for {architecture}"
        raise InputError(f"{found}; there are: {', '.join(tags) or 'none'}, or pass checkpoint=FILE")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for random weights, which are then the same at every call
            model, _, preprocess = open_clip.create_model_and_transforms(
                architecture, pretrained=None if tag in (None, "random") else tag, device="cpu"
            )
    except (OSError, RuntimeError, ValueError) as error:  # hub errors are of these kinds
        raise no_network(error, rest) from None
    if choice.checkpoint is not None:
        fit_state(model, _read_state(choice.checkpoint), choice.checkpoint)
    name = f"open_clip:{rest}" + (f" from {choice.checkpoint.name}" if choice.checkpoint else "")
    return OpenClipParts(model, preprocess, open_clip.get_tokenizer(architecture), name=name, device=choice.device)


def load_open_clip(choice: ModelChoice, rest: str) -> Towers:
    """Both towers of an open_clip model; see `open_clip_parts`."""
    parts = open_clip_parts(choice, rest)
    return {"image": OpenClipImages(parts), "text": OpenClipTexts(parts)}


def _split(rest: str) -> tuple[str, str | None]:
    if rest.startswith(("hf-hub:", "local-dir:")):
        return rest, None
    architecture, _, tag = rest.partition(":")
    return architecture, tag or None


def _unknown(name: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, 3, 0.4)
    return f"open_clip has no architecture {name!r}; did you mean {', '.join(near) or known[0]}?"


def _add_config(file: Path) -> str:
    """Make an architecture of one's own known to open_clip, by the name of its file."""
    import open_clip

    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no configuration of an architecture ({error})") from None
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise InputError(f"{file} is no configuration of an architecture: embed_dim, vision_cfg or text_cfg is missing")
    open_clip.add_model_config(file)
    return file.stem


def _read_state(file: Path) -> dict[str, Any]:
    """Weights of a checkpoint as open_clip's training writes it, or a plain dictionary of tensors."""
    if not file.exists():
        raise InputError(f"{file} does not exist; check the path of the checkpoint")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise several kinds
        raise InputError(f"{file} cannot be read as weights only ({' '.join(str(error).split())[:120]})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{file} holds no dictionary of weights; expected what torch.save(model.state_dict()) writes")
    return {key.removeprefix("module."): value for key, value in content.items()}


__all__ = ["OpenClipImages", "OpenClipParts", "OpenClipTexts", "load_open_clip", "open_clip_parts"]
