"""The studies of real models as `infomech reproduce` runs them: options in, sentences out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..._checks import InputError
from ..._typing import Progress
from ...embedding import resolve_device
from ..digits import corruption as digits_corruption
from ..options import Options
from . import clip_corruption, coco_pretrained, sentence_encoder

_DIGITS = ("data", "seeds", "steps", "weights", "fresh")
_COCO = ("folder", "models", "device", "precision", "batch_size", "test_split")
_CLIP = (*_COCO, "data", "checkpoint", "seeds", "steps", "weights", "fresh", "train", "train_split")


def run_corruption(folder: Path, fast: bool, seed: int, progress: Progress, options: Options) -> list[str]:
    """Caption corruption, on digits with ``data="digits"``, on COCO otherwise."""
    if options.data not in (None, "coco", "digits"):
        raise InputError(f"--data is {options.data!r}; caption-corruption runs on coco or digits")
    if options.data == "digits":
        return _corrupt_digits(folder, fast, seed, progress, options)
    given = options.only(clip_corruption.NAME, _CLIP)
    plan = clip_corruption.ClipPlan()
    if fast:
        plan = replace(plan, swaps=(0.0, 1.0), seeds=1, steps=200)
    if options.models is not None:
        if len(options.models) != 1:
            raise InputError(f"--models names {len(options.models)} models; caption-corruption trains one")
        given["model"] = options.models[0].removeprefix("open_clip:")
    for name in ("data", "folder", "models"):
        given.pop(name, None)
    given["device"] = resolve_device(options.device or "auto")
    if given.get("train") not in (None, "heads", "last-block"):
        raise InputError(f"--train is {given['train']!r}; it is heads or last-block")
    plan = replace(plan, **given)  # type: ignore[arg-type]
    return _found(
        clip_corruption.run_clip_corruption(folder, coco=options.folder, plan=plan, seed=seed, progress=progress)
    )


def _corrupt_digits(folder: Path, fast: bool, seed: int, progress: Progress, options: Options) -> list[str]:
    options.only("caption-corruption --data digits", _DIGITS)
    plan = digits_corruption.FAST if fast else digits_corruption.FULL
    if options.seeds is not None:
        if options.seeds < 2:
            raise InputError(f"--seeds is {options.seeds}; an interval over seeds needs at least 2")
        plan = replace(plan, seeds=options.seeds)
    if options.steps is not None:
        plan = replace(plan, steps=options.steps)
    if options.weights is not None or options.fresh is not None:
        fresh = True if options.fresh is None else options.fresh
        plan = replace(plan, arms=tuple(digits_corruption.Arm(w, fresh) for w in options.weights or (0.0,)))
    return _found(digits_corruption.run_digits_corruption(folder, plan=plan, seed=seed, progress=progress))


def run_coco(folder: Path, fast: bool, seed: int, progress: Progress, options: Options) -> list[str]:
    """Table 2; fast takes its two smallest models."""
    given = options.only(coco_pretrained.NAME, _COCO)
    given.pop("folder", None)
    given["device"] = resolve_device(options.device or "auto")
    if "test_split" in given:
        given["split"] = given.pop("test_split")
    plan = coco_pretrained.CocoPlan(models=("ViT-B-16", "RN50")) if fast else coco_pretrained.CocoPlan()
    plan = replace(plan, **given)  # type: ignore[arg-type]
    return _found(
        coco_pretrained.run_coco_pretrained(folder, coco=options.folder, plan=plan, seed=seed, progress=progress)
    )


def run_sentences(folder: Path, fast: bool, seed: int, progress: Progress, options: Options) -> list[str]:
    """The sentence encoder on the standard library; fast takes 600 functions."""
    given = options.only(sentence_encoder.NAME, ("device", "batch_size"))
    given.pop("device", None)
    towers = sentence_encoder.load_sentence_towers(resolve_device(options.device or "auto"))
    plan = replace(sentence_encoder.FAST if fast else sentence_encoder.FULL, **given)  # type: ignore[arg-type]
    return _found(sentence_encoder.run_sentence_encoder(folder, plan=plan, towers=towers, seed=seed, progress=progress))


def _found(results: dict[str, Any]) -> list[str]:
    found: list[str] = results["found"]
    return found


__all__ = ["run_coco", "run_corruption", "run_sentences"]
