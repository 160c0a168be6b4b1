"""Encodings of the same held-out pairs, many of them: what is to be ranked."""

from collections.abc import Iterator
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
from ..digits.halves import load_halves, train_two_tower
from ..glyphs.data import split_glyphs
from ..glyphs.towers import GlyphTraining, embed_glyphs, train_towers
from ..real.functions import standard_library_functions
from ..real.sentence_encoder import NAMES, load_sentence_towers

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


def digits_runs(count: int, *, steps: int, seed: int) -> Iterator[Encoded]:
    """Random trainings, each on the same 1,300 digits, as encodings of the other 497."""
    data, generator = load_halves(seed), np.random.default_rng(seed)
    for k in range(count):
        run = DigitsRun.drawn(generator, steps)
        model = train_two_tower(
            data,
            temperature=run.temperature,
            batch_size=run.batch_size,
            steps=run.steps,
            divergence_weight=run.divergence_weight,
            dim=run.dim,
            rate=run.rate,
            seed=seed + k,
        )
        name = f"tau {run.temperature:.3f}, batch {run.batch_size}, {run.steps} steps, lambda {run.divergence_weight:g}"
        yield Encoded(f"{name}, d {run.dim}", model.embed_x(data.test_x), model.embed_y(data.test_y), run.temperature)


def glyph_runs(count: int, *, samples: int, seed: int) -> Iterator[Encoded]:
    """Trainings on pictures of characters and their names; one picture of each of 1,500 unseen names."""
    seen, unseen = split_glyphs(seed)
    pictures = torch.bincount(unseen.name_of)
    first = pictures.cumsum(0) - pictures
    plans = [
        GlyphTraining(
            temperature=tau, batch_size=batch, steps=max(20, part * samples // batch), divergence_weight=weight, seed=s
        )
        for s in (seed, seed + 1)
        for part, weight in ((1, 0.0), (4, 0.75))
        for tau in (0.07, 0.15)
        for batch in (256, 1024)
    ]
    for plan in plans[:count]:
        rows, names = embed_glyphs(train_towers(seen, plan), unseen)
        name = f"tau {plan.temperature:g}, batch {plan.batch_size}, {plan.steps} steps, seed {plan.seed}"
        yield Encoded(f"{name}, lambda {plan.divergence_weight:g}", rows[first], names, plan.temperature)


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
    source = PairedTexts([(f.docstring, f.body) for f in chosen], names=NAMES)
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


__all__ = ["DigitsRun", "Encoded", "digits_runs", "glyph_runs", "sentence_rows", "sentence_variants"]
