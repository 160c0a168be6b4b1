"""Everything at once: three sweeps, and all numbers, findings and pictures that follow."""

import hashlib
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_distinct, check_progress, shown
from .._files import environment
from .._typing import Progress, RowsLike
from ..io import as_labels, as_rows
from ..measures import PairedSample
from ..reductions import GroupedRows, cpu_threads, full_precision, side_by_side
from ..reductions.losses.backends import check_backend
from .batch_tables import Batches, BatchSweeps
from .budget import EnergyBudget, chosen_batch, energy_budget
from .curves import batch_curves, share_of_time
from .diagnosis import Diagnosis, FloatArray, Pictures
from .estimate import Estimate
from .findings import Evidence, find
from .gaps import gap_measures, with_divergence
from .gram_statistics import GapSweeps, run_sweeps
from .group_contributions import GroupContributions
from .information.shared import FEWEST_GROUPS, Information, asked_of, batches_for, measure
from .inputs import Inputs
from .moments import halved_moments
from .replicates import degrees_of_freedom
from .retrieval import retrieval_scores
from .settings import Settings
from .spectrum import side_geometry
from .uncertainty import effective_number

INFORMATION_ANCHORS = 1024  # groups that give an anchor to shared information, so that it costs little of the time
_SHARE_OF_SWEEPS = 0.8  # of the time, for the progress bar
_SHOWN = 2000  # points of a map, values of a distribution
_RANDOM_PAIRS = 20_000
_BINS = 80


@full_precision()
def examine(x: RowsLike, y: RowsLike, settings: Settings, *, progress: Progress | None = None) -> Diagnosis:
    """The energy budget, the gap, geometry, retrieval and findings of paired embeddings, from one sweep each.

    Args:
        x: (n, d) embeddings of the first modality, in any container that `infomech.io.as_rows` takes.
        y: (m, d) embeddings of the second.
        settings: temperature, pairs and all else that can be chosen.
        progress: called with shares of the work that sum to 1.

    Returns:
        All numbers, as data. `infomech.diagnose` wraps it into a report.

    Raises:
        InputError: for arguments that cannot be used.

    Source: E1 to E7.
    """
    if not isinstance(settings, Settings):
        raise InputError(f"settings is {shown(settings)}; give Settings(temperature=...)")
    check_progress(progress)
    started = time.perf_counter()
    temperature, labels, seed, curves = settings.temperature, settings.labels, settings.seed, settings.curves
    backend = settings.backend
    x, y = as_rows(x, "x"), as_rows(y, "y")
    check_backend(backend, x)
    check_distinct(x, y)
    if labels is not None and len(labels) != len(x):
        raise InputError(f"labels has {len(labels)} entries and x has {len(x)} rows; give one label for each row of x")
    if labels is not None:
        labels = as_labels(labels)
    sample = PairedSample.from_embeddings(x, y, pairs=settings.pairs, normalize=settings.normalize, seed=seed)
    main = 1.0 - share_of_time(sample.groups) if curves else 1.0
    shares = None if progress is None else _scaled(progress, main * _SHARE_OF_SWEEPS)
    batch = BatchSweeps.of(Batches.of(sample, seed=seed, backend=backend), [temperature], duplicates=True)
    sweeps = run_sweeps(sample, batch=batch, gap=True, ranks=True, seed=seed, backend=backend, progress=shares)
    swept, ranks = sweeps.gap, sweeps.ranks
    assert swept is not None
    assert ranks is not None
    moments = halved_moments(sample)
    x_whole, y_whole = (m.whole for m in moments)
    gap_replicates: dict[str, Tensor] = {}
    group_hits: dict[str, Tensor] = {}
    gap, budget, side_x, side_y, histograms, retrieval, information = side_by_side(
        [
            lambda: gap_measures(sample, swept, moments=moments, seed=seed, replicates=gap_replicates),
            lambda: energy_budget(batch, batch_size=settings.batch_size, seed=seed),
            lambda: side_geometry(sample, 0, moments=x_whole, pair_sums=swept.xx, neighbours=swept.neighbours_xx),
            lambda: side_geometry(sample, 1, moments=y_whole, pair_sums=swept.yy, neighbours=swept.neighbours_yy),
            lambda: _histograms(sample, torch.Generator().manual_seed(seed)),
            lambda: retrieval_scores(sample, ranks, group_hits=group_hits),
            lambda: _information(sample, settings),
        ],
        threads=cpu_threads(sample.x.values.device),
    )
    gap = with_divergence(gap, budget.divergence_sym)
    geometry = {"x": side_x.measures, "y": side_y.measures}
    inputs = _inputs(sample, settings)
    findings = find(Evidence(inputs, budget, gap, geometry, retrieval, information))
    pictures = _pictures(
        sample, budget, side_x.spectrum, side_y.spectrum, histograms=histograms, gap=gap, labels=labels, seed=seed
    )
    if progress is not None:
        progress(main * (1 - _SHARE_OF_SWEEPS))
    over = None
    if curves:
        rest = None if progress is None else _scaled(progress, 1 - main)
        over = batch_curves(sample, budget, seed=seed, backend=backend, progress=rest)
    provenance = _provenance(sample, swept, seed=seed, seconds=time.perf_counter() - started)
    contributions = _group_contributions(sample, gap_replicates, group_hits)
    return Diagnosis(
        inputs, budget, gap, geometry, retrieval, findings, pictures, provenance, over, contributions, information
    )


def _information(sample: PairedSample, settings: Settings) -> Information | None:
    """Shared information at the budget's N, and what the temperature costs; None where there are too few groups."""
    if sample.groups < FEWEST_GROUPS:
        return None
    batch = min(chosen_batch(settings.batch_size, sample.groups), sample.groups)
    asked = asked_of(sample, batch, temperature=settings.temperature, anchors=INFORMATION_ANCHORS)
    return measure(batches_for(sample, asked.negatives, seed=settings.seed, backend=settings.backend), asked)


def _scaled(progress: Progress, factor: float) -> Progress:
    return lambda share: progress(share * factor)


def _inputs(sample: PairedSample, settings: Settings) -> Inputs:
    given_x, given_y = sample.given_x, sample.given_y
    return Inputs(
        name_x=settings.names[0],
        name_y=settings.names[1],
        rows_x=len(given_x),
        rows_y=len(given_y),
        unpaired_x=len(given_x) - len(sample.x),
        unpaired_y=len(given_y) - len(sample.y),
        pairs=len(sample.pairs),
        groups=sample.groups,
        effective_groups=effective_number(sample.group_pairs),
        dim=sample.dim,
        dtype=str(given_x.dtype).removeprefix("torch."),
        temperature=settings.temperature,
        batch_size=settings.batch_size,
        normalized=sample.normalized,
        norm_range_x=(float(sample.norms_x.min()), float(sample.norms_x.max())),
        norm_range_y=(float(sample.norms_y.min()), float(sample.norms_y.max())),
        ids=_ids(sample, settings),
    )


def _ids(sample: PairedSample, settings: Settings) -> str:
    """Digest of the ids of the rows of x; empty where none are given."""
    if settings.ids is None:
        return ""
    if len(settings.ids) != len(sample.given_x):
        raise InputError(
            f"ids has {len(settings.ids)} entries and x has {len(sample.given_x)} rows; give one id for each row of x"
        )
    words = [str(each) for each in settings.ids]
    places: dict[str, int] = {}
    for row, (word, given) in enumerate(zip(words, settings.ids, strict=True)):
        if given is None or given != given or word in places:
            found = f"{word!r} for rows {places[word]} and {row}" if word in places else f"{given} for row {row}"
            raise InputError(f"ids has {found}; give every row of x an id of its own, or leave ids away")
        places[word] = row
    return hashlib.sha256(
        "\n".join(repr(str(each)) for each in settings.ids).encode("utf-8", "backslashreplace")
    ).hexdigest()


def _group_contributions(
    sample: PairedSample, replicates: dict[str, Tensor], hits: dict[str, Tensor]
) -> GroupContributions:
    """What a paired comparison needs."""
    sides = (("x_to_y", sample.x), ("y_to_x", sample.y))
    return GroupContributions(
        degrees=degrees_of_freedom(sample),
        block_groups=_array(sample.block_groups),
        gap={name: _array(values) for name, values in replicates.items()},
        queries={name: _array(torch.bincount(rows.groups, minlength=sample.groups)) for name, rows in sides},
        hits={name: _array(values) for name, values in hits.items()},
    )


def _pictures(
    sample: PairedSample,
    budget: EnergyBudget,
    spectrum_x: FloatArray,
    spectrum_y: FloatArray,
    *,
    histograms: tuple[FloatArray, dict[str, FloatArray]],
    gap: dict[str, Estimate],
    labels: Sequence[str] | None,
    seed: int,
) -> Pictures:
    generator = torch.Generator().manual_seed(seed + 1)  # the histograms' pairs are drawn from the seed itself
    edges, counts = histograms
    shown_x, shown_y = (torch.randperm(len(rows), generator=generator)[:_SHOWN] for rows in (sample.x, sample.y))
    on_gap = gap["centroid_gap"].low > 0
    map_x, map_y, explained = _map(sample, shown_x, shown_y, on_gap=on_gap)
    labels_x = labels_y = None
    if labels is not None:
        partner = torch.zeros(len(sample.y), dtype=torch.int64)
        partner[sample.pairs[:, 1].cpu()] = sample.order_x[sample.pairs[:, 0]].cpu()
        labels_x = [labels[i] for i in sample.order_x.cpu()[shown_x].tolist()]
        labels_y = [labels[i] for i in partner[shown_y].tolist()]
    assert budget.contributions is not None
    effective = [budget.contributions.by_row[f"effective_negatives_{side}"] for side in ("xy", "yx")]
    return Pictures(
        similarity_edges=edges,
        similarity_counts=counts,
        map_x=map_x,
        map_y=map_y,
        map_labels_x=labels_x,
        map_labels_y=labels_y,
        map_explained=explained,
        map_gap_axis=on_gap,
        spectrum_x=spectrum_x,
        spectrum_y=spectrum_y,
        effective_negatives_x_to_y=np.sort(effective[0][shown_x.numpy()]),
        effective_negatives_y_to_x=np.sort(effective[1][shown_y.numpy()]),
    )


def _array(values: Tensor) -> FloatArray:
    return np.asarray(values.detach().cpu().double().numpy(), dtype=np.float64)


def _histograms(sample: PairedSample, generator: torch.Generator) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Densities of the cosine of true pairs, and of random pairs of different groups within and across."""
    cosines = {"pairs": sample.pair_similarity.cpu()}
    sides = {"x": sample.x, "y": sample.y}
    for key in ("xy", "xx", "yy"):
        cosines[key] = _random_cosines(sides[key[0]], sides[key[1]], generator)
    low = min(float(c.min()) for c in cosines.values())
    high = max(float(c.max()) for c in cosines.values())
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    return edges, {k: np.histogram(c.numpy(), bins=edges, density=True)[0] for k, c in cosines.items()}


def _random_cosines(u: GroupedRows, v: GroupedRows, generator: torch.Generator) -> Float[Tensor, " k"]:
    draws = min(_RANDOM_PAIRS, 4 * max(len(u), len(v)) + 1000)
    i = torch.randint(len(u), (draws,), generator=generator).to(u.groups.device)
    j = torch.randint(len(v), (draws,), generator=generator).to(v.groups.device)
    kept = u.groups[i] != v.groups[j]
    i, j = i[kept], j[kept]
    parts = [(u.values[a] * v.values[b]).sum(1) for a, b in zip(i.split(1024), j.split(1024), strict=True)]
    return torch.cat(parts).double().cpu()


def _map(
    sample: PairedSample, shown_x: Tensor, shown_y: Tensor, *, on_gap: bool
) -> tuple[FloatArray, FloatArray, float]:
    """A linear projection: the direction of the gap (if there is one) and the main direction within the modalities."""
    mean_x, mean_y = (sample.group_sums[column].sum(0) / len(sample.pairs) for column in (0, 1))
    middle = (mean_x + mean_y) / 2
    x, y = sample.x.values[shown_x].double(), sample.y.values[shown_y].double()
    within = torch.cat([x - mean_x, y - mean_y])
    axes: list[Tensor] = []
    if on_gap:
        axes.append(torch.nn.functional.normalize(mean_x - mean_y, dim=0))
        within = within - torch.outer(within @ axes[0], axes[0])
    vectors = torch.linalg.eigh(within.T @ within).eigenvectors
    axes += [vectors[:, -1], vectors[:, -2]]
    plane = torch.stack(axes[:2], 1)
    pooled = torch.cat([x, y]) - middle
    explained = float((pooled @ plane).square().sum() / pooled.square().sum())
    return _array((x - middle) @ plane), _array((y - middle) @ plane), explained


def _provenance(sample: PairedSample, gap: GapSweeps, *, seed: int, seconds: float) -> dict[str, str | float | int]:
    return {
        **environment(),
        "seconds": round(seconds, 3),
        "seed": seed,
        "blocks": sample.blocks,
        "mmd_bandwidth": gap.bandwidth,
        "tile_dtype": str(sample.x.values.dtype).removeprefix("torch."),
        "device": str(sample.x.values.device),
    }


__all__ = ["INFORMATION_ANCHORS", "examine"]
