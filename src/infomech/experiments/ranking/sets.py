"""Encodings of the same held-out pairs, many of them: what is to be ranked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..._checks import InputError
from ...compression import Compression, Plan
from ...embedding import ExtractOptions, extract
from ...embedding.sources import PairedTexts
from ...io import read_embeddings
from ...reductions import torch_threads
from ..digits.halves import load_halves, train_two_tower
from ..glyphs.data import split_glyphs
from ..glyphs.towers import GlyphTraining, embed_glyphs, train_towers
from ..real.functions import standard_library_functions
from ..real.sentence_encoder import NAMES, load_sentence_towers
from ..runs import Part

SENTENCE_TEMPERATURE = 0.05


@dataclass(frozen=True)
class Encoded:
    """Rows of held-out pairs, row i with row i, by one model."""

    name: str
    x: Tensor
    y: Tensor
    temperature: float  # of the run


@dataclass(frozen=True)
class DigitsRun:
    """A training on the halves of digits, drawn at random."""

    temperature: float
    batch_size: int
    steps: int
    divergence_weight: float
    dim: int
    rate: float

    @classmethod
    def drawn(cls, generator: np.random.Generator, most_steps: int) -> "DigitsRun":
        """Temperatures, batches, steps, weights, widths and rates that people use."""
        return cls(
            temperature=float(np.exp(generator.uniform(np.log(0.02), np.log(0.5)))),
            batch_size=int(generator.choice([32, 64, 128, 256, 512])),
            steps=int(np.exp(generator.uniform(np.log(most_steps / 15), np.log(most_steps)))),
            divergence_weight=float(generator.choice([0.0, 0.0, 0.5, 0.75, 1.0])),
            dim=int(generator.choice([8, 16, 32, 64])),
            rate=float(np.exp(generator.uniform(np.log(1e-4), np.log(3e-3)))),
        )


def digits_plans(count: int, *, steps: int, seed: int) -> dict[str, DigitsRun]:
    """Random trainings on the halves of digits, by the key of each; the first of them are the same for any count."""
    generator = np.random.default_rng(seed)
    return {f"digits{k}": DigitsRun.drawn(generator, steps) for k in range(count)}


def train_digits(run: DigitsRun, split: int, seed: int) -> Part:
    """One training on 1,300 digits, as an encoding of the other 497."""
    with torch_threads(1):
        data = load_halves(split)
        model = train_two_tower(
            data,
            temperature=run.temperature,
            batch_size=run.batch_size,
            steps=run.steps,
            divergence_weight=run.divergence_weight,
            dim=run.dim,
            rate=run.rate,
            seed=seed,
        )
        return {"x": model.embed_x(data.test_x).numpy(), "y": model.embed_y(data.test_y).numpy()}


def glyph_plans(count: int, *, samples: int, seed: int) -> dict[str, GlyphTraining]:
    """Trainings on pictures of characters and their names, by the key of each."""
    plans = [
        GlyphTraining(
            temperature=tau, batch_size=batch, steps=max(20, part * samples // batch), divergence_weight=weight, seed=s
        )
        for s in (seed, seed + 1)
        for part, weight in ((1, 0.0), (4, 0.75))
        for tau in (0.07, 0.15)
        for batch in (256, 1024)
    ]
    return {f"glyphs{k}": plan for k, plan in enumerate(plans[:count])}


def train_glyphs(plan: GlyphTraining, split: int) -> Part:
    """One of them, as an encoding of one picture of each of 1,500 unseen names."""
    with torch_threads(1):
        seen, unseen = split_glyphs(split)
        pictures = torch.bincount(unseen.name_of)
        first = pictures.cumsum(0) - pictures
        rows, names = embed_glyphs(train_towers(seen, plan), unseen)
        return {"x": rows[first].numpy(), "y": names.numpy()}


def trained(plans: Mapping[str, DigitsRun | GlyphTraining], parts: Mapping[str, Part]) -> Iterator[Encoded]:
    """The encodings of trainings that are done, named by their settings."""
    for key, plan in plans.items():
        words = f"tau {plan.temperature:.3g}, batch {plan.batch_size}, {plan.steps} steps"
        words += f", lambda {plan.divergence_weight:g}, "
        words += f"d {plan.dim}" if isinstance(plan, DigitsRun) else f"seed {plan.seed}"
        x, y = (torch.from_numpy(parts[key][side]) for side in ("x", "y"))
        yield Encoded(words, x, y, plan.temperature)


def sentence_rows(folder: Path, *, functions: int, embeddings: Path | None, seed: int) -> tuple[Tensor, Tensor]:
    """Docstrings and bodies under a real encoder, from a folder of `infomech embed` where one is named.

    Raises:
        InputError: if the folder holds no such embeddings, or the encoder is not installed.
    """
    if embeddings is not None:
        parts = [read_embeddings(embeddings / f"{name}_emb") for name in NAMES]
        count = min(len(parts[0]), functions)
        order = torch.randperm(len(parts[0]), generator=torch.Generator().manual_seed(seed))[:count]
        return parts[0][order], parts[1][order]
    chosen = standard_library_functions(functions, seed=seed)
    source = PairedTexts([(f.docstring, (f.body,)) for f in chosen], names=NAMES)
    x, y, _ = extract(source, load_sentence_towers(), folder, options=ExtractOptions(batch_size=64)).load()
    return torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y))


def sentence_variants(x: Tensor, y: Tensor, *, seed: int) -> Iterator[Encoded]:
    """Eighteen variants of one encoding: fewer dimensions, fewer bits, noise, no mean; fitted on half of the pairs."""
    middle = len(x) // 2
    if middle < 256:
        raise InputError(f"there are {len(x)} functions; at least 512 are needed, half of them to fit on")
    dim = x.shape[1]
    widths = [k for k in (32, 64, 96, 128, 192, 256) if k < dim]
    plans = [Plan(), *(Plan("first", k) for k in widths[:5]), *(Plan("pca", k) for k in widths[:4])]
    plans += [Plan(bits="signs"), Plan(bits="int4"), Plan(mean_removal=True), Plan(bits="signs", mean_removal=True)]
    for plan in plans:
        made = Compression(plan).fit(x[:middle], y[:middle])
        rows = made.transform(x[middle:], side="x"), made.transform(y[middle:], side="y")
        yield Encoded(plan.name, rows[0], rows[1], SENTENCE_TEMPERATURE)
    generator = torch.Generator().manual_seed(seed)
    for level in (0.3, 0.6, 1.0, 1.5):
        noisy = [
            normalize(rows[middle:], dim=1)
            + level * torch.randn(len(rows) - middle, dim, generator=generator) / dim**0.5
            for rows in (x, y)
        ]
        yield Encoded(f"noise {level:g}", normalize(noisy[0], dim=1), normalize(noisy[1], dim=1), SENTENCE_TEMPERATURE)


__all__ = [
    "DigitsRun",
    "Encoded",
    "digits_plans",
    "glyph_plans",
    "sentence_rows",
    "sentence_variants",
    "train_digits",
    "train_glyphs",
    "trained",
]
