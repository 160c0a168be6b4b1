"""The demo: one choice, two temperatures, decided on names that neither model has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..._files import write_file
from ..._typing import Progress
from ...diagnosis import Settings
from ...io import write_embeddings
from ...reductions import side_by_side
from .data import Glyphs, split_glyphs
from .towers import GlyphTraining, embed_glyphs, train_towers

TEMPERATURES = (0.02, 0.1)
BATCH = 256
STEPS = 200
NAMES = ("picture", "name")


@dataclass(frozen=True)
class DemoModel:
    """One of the two models: where its embeddings of the unseen names lie, and how it was trained."""

    folder: Path
    plan: GlyphTraining

    @property
    def title(self) -> str:
        """Its name in tables and on pages."""
        return f"τ = {self.plan.temperature:g}"

    @property
    def files(self) -> tuple[Path, Path, Path, Path]:
        """Pictures, names, the pair index, and what each picture is called."""
        return tuple(self.folder / name for name in ("picture.npy", "name.npy", "pairs.npy", "labels.txt"))  # type: ignore[return-value]


def train_demo(
    out: Path,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[DemoModel]:
    """Train a model for each temperature, side by side, and write the embeddings of 1,500 names it has not seen.

    Everything but the temperature is the same: names seen, their order, first weights, steps, learning rate.
    """
    seen, unseen = split_glyphs(seed)
    plans = [GlyphTraining(temperature=tau, batch_size=BATCH, steps=steps, seed=seed) for tau in temperatures]
    models = [DemoModel(out / "embeddings" / f"tau-{plan.temperature:g}", plan) for plan in plans]
    share = 1 / (steps * len(plans))
    jobs = [partial(_train, model, seen, unseen, progress, share) for model in models]
    side_by_side(jobs, threads=len(jobs))
    return models


def _train(model: DemoModel, seen: Glyphs, unseen: Glyphs, progress: Progress | None, share: float) -> None:
    def step(_: int) -> None:
        if progress is not None:
            progress(share)

    towers = train_towers(seen, model.plan, progress=step)
    pictures, names = embed_glyphs(towers, unseen)
    files = model.files
    write_embeddings(files[0], pictures)
    write_embeddings(files[1], names)
    write_embeddings(files[2], unseen.pairs)
    lines = "".join(f"{unseen.names[k]}\n" for k in unseen.name_of.tolist())
    write_file(files[3], lines.encode("utf-8"))


def demo_settings(model: DemoModel, seed: int = 0) -> Settings:
    """What the report on one of the models is asked for."""
    from ...io import read_labels, read_pairs

    *_, pairs, labels = model.files
    return Settings(
        temperature=model.plan.temperature,
        pairs=read_pairs(pairs),
        labels=read_labels(labels),
        names=NAMES,
        batch_size=model.plan.batch_size,
        seed=seed,
    )


__all__ = ["BATCH", "NAMES", "STEPS", "TEMPERATURES", "DemoModel", "demo_settings", "train_demo"]
