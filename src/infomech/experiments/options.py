"""What `infomech reproduce` may be told besides a name; each experiment takes what it knows and refuses the rest."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

from .._checks import InputError


@dataclass(frozen=True)
class Options:
    """Options of the studies of real models; None is the study's own default."""

    data: str | None = None  # "digits" or "coco"
    folder: Path | None = None  # where COCO is
    models: tuple[str, ...] | None = None
    checkpoint: Path | None = None
    device: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    steps: int | None = None
    seeds: int | None = None
    weights: tuple[float, ...] | None = None  # divergence weights
    fresh: bool | None = None
    train: str | None = None  # "heads" or "last-block"
    train_split: str | None = None
    test_split: str | None = None

    def only(self, name: str, known: Collection[str]) -> dict[str, object]:
        """The options that were given, if the experiment knows them all.

        Raises:
            InputError: naming the first that it does not know.

        >>> Options(steps=5).only("control", ["seeds"])
        Traceback (most recent call last):
        ...
        infomech._checks.InputError: control has no option --steps; it has --seeds
        """
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        for option in given:
            if option not in known:
                has = ", ".join(f"--{k.replace('_', '-')}" for k in known) or "none of these"
                raise InputError(f"{name} has no option --{option.replace('_', '-')}; it has {has}")
        return given


__all__ = ["Options"]
