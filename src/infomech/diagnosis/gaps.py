"""Gap measures (E3): how far apart the two modalities lie, unbiased and with intervals; E4 beside them in `gap`."""

import math
import warnings
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError, check_choice, check_loss_temperature, check_progress, is_number, shown
from .._typing import DeviceLike, PairsLike, Progress, RowsLike
from ..geometry import Critic
from ..io.devices import rows_on
from ..measures import PairedSample
from ..reductions import PairSums, few_launches, full_precision
from ..reductions.losses.backends import BACKENDS, Backend, check_backend
from .batch_budget import batch_statistics
from .batch_tables import Batches, BatchSweeps
from .budget import check_batch_size, chosen_batch
from .centering import centering_bias
from .estimate import Estimate
from .frechet import frechet_distance
from .gram_statistics import BANDWIDTHS, GapSweeps, run_sweeps
from .measures import Measures
from .moments import HalvedMoments, halved_moments
from .replicates import (
    Replicated,
    cross_group_mean,
    jackknifed,
    leave_blocks_out,
    own_group_sums,
    pair_weights,
    ratio_estimate,
)
from .spectrum import side_geometry
from .uncertainty import effective_number, mapped, mean_estimate, proportion_estimate, unless_few

_RIDGE = 1e-3  # of the linear classifier

Statistic = Literal["U", "V"]
Part = Literal["xx", "yy", "xy"]


@full_precision()
def gap(
    x: RowsLike,
    y: RowsLike,
    *,
    pairs: PairsLike | None = None,
    temperature: float = 0.07,
    batch_size: int | None = None,
    critic: Critic | None = None,
    bandwidth: float | None = None,
    statistic: Statistic = "U",
    normalize: bool | None = None,
    device: DeviceLike = None,
    backend: Backend = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Measures:
    """Every measure of the gap (E3) and within the modalities (E4), by name, with standard errors and 95% intervals.

    ========================= =================================================================== ===================
    name                      formula (unit rows; means weigh every pair once)                    interval
    ========================= =================================================================== ===================
    centroid_gap              |mean x - mean y|, from the unbiased estimate of its square      block jackknife
    centroid_cosine           cosine of the two means, from unbiased inner products               block jackknife
    centroid_norm_x, _y       |mean x|, |mean y|                                             block jackknife
    pair_distance             mean |x_i - y_i| over true pairs                                  influence
    alignment                 mean |x_i - y_i|^2 over true pairs (Wang and Isola, a = 2)          influence
    cross_uniformity          log E exp(-2 |X - Y|^2), X and Y of different groups                block jackknife
    relative_modality_gap     m / (m + (d_xx + d_yy) / 2), d = (1 - cos) / 2, m over true pairs   block jackknife
    energy_distance           2 E|X-Y| - E|X-X'| - E|Y-Y'|                                  block jackknife
    mmd2_half, _median, ...   E k(X,X') + E k(Y,Y') - 2 E k(X,Y), k = exp(-|.|^2 / (2 s^2))     block jackknife
    frechet                   |dm|^2 + tr(Sx + Sy - 2 (Sx^1/2 Sy Sx^1/2)^1/2)                  influence
    smoothed_divergence       Dsym of batches at the temperature (E8), as `decompose` has it      block jackknife
    separability              held-out accuracy of a linear classifier of the modality            Wilson, by group
    neighbour_mixing          share of the other modality among the 10 nearest, over chance       block jackknife
    centered_energy_distance  energy distance after x is moved onto the centroid of y             block jackknife
    centered_share            centered_energy_distance / energy_distance                          block jackknife
    ========================= =================================================================== ===================

    Within x and within y (names end in _x, _y): mean_cosine (cone), uniformity, effective_rank, participation_ratio,
    collapse, hubness, duplicates; formulas and intervals as in `infomech.diagnosis.spectrum.side_geometry`.

    Pairs of rows of one group (an image and its own captions, two captions of one image) are left out of every U
    statistic: they are not independent draws. U statistics are unbiased and may fall below 0 where there is no gap.
    ``statistic="V"`` keeps those pairs and each row's zero distance to itself in the energy distance and the MMD, as
    many published figures do.

    Approximations: the interval of an MMD is for its bandwidth held at the value used, that of the classifier's
    accuracy for the classifier held. Where there is no gap at all the statistics are degenerate and the jackknife
    overstates their spread, by up to a factor of sqrt(2): the intervals are then conservative, and so is the mixing's.

    Args:
        x: (n, d) embeddings of the first modality.
        y: (m, d) embeddings of the second.
        pairs: (p, 2) rows of x and y that belong together; row i with row i by default.
        temperature: of the smoothed divergence.
        batch_size: of the smoothed divergence, as in `decompose`, the default too; above the number of groups it is
            that of the largest batch there is.
        critic: of the smoothed divergence, the cosine by default; the other measures have distances of their own.
        bandwidth: s of the middle MMD kernel; by default the median cross distance. The others are half and twice it.
        statistic: "U" (unbiased) or "V" for energy distance and MMD^2.
        normalize: see `PairedSample.from_embeddings`.
        device: where the work is done: "cpu", "cuda", "cuda:1"; "auto" is a CUDA card if there is one with memory
            enough; None is where the rows of x are.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the order of the groups, and of the classifier's split.
        progress: called with shares of the work that sum to 1.

    Returns:
        name -> `Estimate`, a dictionary that prints as a table, with ``to_dict`` and ``to_pandas``.

    Raises:
        InputError: for arrays, pairs, options, a device or a backend that cannot be used.

    Source: E3, E4; sources of the formulas in the documentation of each measure.

    >>> g = torch.Generator().manual_seed(0)
    >>> z = torch.randn(300, 8, generator=g)
    >>> measures = gap(z, z + 2.0, normalize=True)
    >>> measures["energy_distance"].low > 0
    True
    """
    check_choice(statistic, "statistic", ("U", "V"))
    check_loss_temperature(temperature)
    check_batch_size(batch_size)
    check_choice(backend, "backend", BACKENDS)
    check_progress(progress)
    if bandwidth is not None and not (is_number(bandwidth) and 0 < bandwidth < math.inf):
        raise InputError(f"bandwidth is {shown(bandwidth)}; it must be a finite number above 0")
    x, y = rows_on(device, x, y)
    check_backend(backend, x)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=normalize, seed=seed, critic=critic)
    batch = BatchSweeps.of(Batches.of(sample, seed=seed, backend=backend), [temperature])
    sweeps = run_sweeps(sample, batch=batch, gap=True, bandwidth=bandwidth, seed=seed, progress=progress)
    assert sweeps.gap is not None
    negatives = min(chosen_batch(batch_size, sample.groups), sample.groups) - 1
    divergence = batch_statistics(batch.tables()[0]).at(negatives).estimate("divergence_sym")
    moments = halved_moments(sample)
    measures = gap_measures(sample, sweeps.gap, moments=moments, statistic=statistic, seed=seed)
    measures = with_divergence(measures, divergence)
    within = ((sweeps.gap.xx, sweeps.gap.neighbours_xx), (sweeps.gap.yy, sweeps.gap.neighbours_yy))
    for column, (pair_sums, neighbours) in enumerate(within):
        side = side_geometry(sample, column, moments=moments[column].whole, pair_sums=pair_sums, neighbours=neighbours)
        measures |= {f"{name}_{'xy'[column]}": estimate for name, estimate in side.measures.items()}
    return Measures(measures)


def gap_measures(
    sample: PairedSample,
    sweeps: GapSweeps,
    *,
    moments: tuple[HalvedMoments, HalvedMoments],
    statistic: Statistic = "U",
    seed: int = 0,
    replicates: dict[str, Tensor] | None = None,
) -> dict[str, Estimate]:
    """The measures from sums that have been swept, all but the smoothed divergence; see `gap`.

    `replicates` is filled with the delete-a-block replicates of the measures that have them.
    """
    kept: dict[str, Tensor] = {} if replicates is None else replicates
    out = _centroid_measures(sample, kept)
    squared = (2 - 2 * sample.pair_similarity).clamp_min(0)
    out["pair_distance"] = mean_estimate(squared.sqrt(), sample.pair_groups, sample.groups)
    out["alignment"] = mean_estimate(squared, sample.pair_groups, sample.groups)
    kept["pair_distance"], kept["alignment"] = (_without_blocks(sample, v)[1] for v in (squared.sqrt(), squared))
    out["relative_modality_gap"] = _relative_modality_gap(sample, kept)
    means = _PairMeans(sample, sweeps, statistic)
    uniformity = means.mean("xy", "uniformity")
    combined = {"cross_uniformity": (uniformity[0].log(), uniformity[1].log())}
    combined["energy_distance"] = energy = means.combine("distance", -1.0)
    combined |= {f"mmd2_{name}": means.combine(f"mmd2_{name}", 1.0) for name in BANDWIDTHS}
    out |= {name: means.estimate(value) for name, value in combined.items()}
    kept |= {name: value[1] for name, value in combined.items()}
    out["frechet"] = frechet_distance(sample, moments)
    out["separability"] = separability(sample, seed=seed)
    out["neighbour_mixing"] = _neighbour_mixing(sample, sweeps, kept)
    if statistic == "U":
        centered = means.centered()
        kept["centered_energy_distance"] = centered[1]
        effective = effective_number(sample.group_pairs)
        out["centered_energy_distance"] = unless_few(means.estimate(centered), effective)
        out["centered_share"] = unless_few(ratio_estimate(sample, centered, energy), effective)
    return out


def with_divergence(measures: dict[str, Estimate], divergence: Estimate) -> dict[str, Estimate]:
    """The measures with the smoothed divergence of the energy budget in its place, behind the Frechet distance."""
    out = {}
    for name, estimate in measures.items():
        out[name] = estimate
        if name == "frechet":
            out["smoothed_divergence"] = divergence
    return out


def _without_blocks(sample: PairedSample, values: Tensor) -> Replicated:
    """Mean of what pairs have, and the same without each block."""
    sums = values.new_zeros(sample.blocks).index_add_(0, sample.pair_blocks, values)
    counts = torch.bincount(sample.pair_blocks, minlength=sample.blocks).double()
    return sums.sum() / counts.sum(), (sums.sum() - sums) / (counts.sum() - counts)


def _centroid_measures(sample: PairedSample, kept: dict[str, Tensor]) -> dict[str, Estimate]:
    """Unbiased inner products of the centroids over pairs of different groups, jackknifed by block."""
    side_x = sample.group_sums[0]
    side_y = sample.group_sums[1]
    names = {"gap": (side_x - side_y, side_x - side_y), "x": (side_x, side_x), "y": (side_y, side_y)}
    inner = {key: cross_group_mean(sample, a, b) for key, (a, b) in names.items()}
    inner["xy"] = cross_group_mean(sample, side_x, side_y)
    out = {}
    squared = jackknifed(sample, inner["gap"])
    out["centroid_gap"] = mapped(squared, 0.0, 4.0, root=True)
    for name, key in (("centroid_gap", "gap"), ("centroid_norm_x", "x"), ("centroid_norm_y", "y")):
        kept[name] = inner[key][1].clamp_min(0).sqrt()
    out["centroid_cosine"] = _centroid_cosine(sample, inner)
    for key in ("x", "y"):
        out[f"centroid_norm_{key}"] = mapped(jackknifed(sample, inner[key]), 0.0, 1.0, root=True)
    return out


def _centroid_cosine(sample: PairedSample, inner: dict[str, Replicated]) -> Estimate:
    """NaN where an unbiased squared norm is not positive; the interval is [-1, 1] where one may be 0."""
    squared = torch.stack([inner["x"][0], inner["y"][0]])
    if not bool((squared > 0).all()):
        return Estimate(math.nan, math.nan, -1.0, 1.0)  # the data do not tell a centroid from 0: it has no direction

    def cosine(k: int) -> Tensor:
        norm = (inner["x"][k].clamp_min(1e-30) * inner["y"][k].clamp_min(1e-30)).sqrt()
        return (inner["xy"][k] / norm).clamp(-1, 1)

    cosine_estimate = jackknifed(sample, (cosine(0), cosine(1)))
    if min(jackknifed(sample, inner[side]).low for side in ("x", "y")) <= 0:
        return Estimate(cosine_estimate.value, 1.0, -1.0, 1.0)  # a centroid may be 0: its direction is not known
    return mapped(cosine_estimate, -1.0, 1.0)


def _relative_modality_gap(sample: PairedSample, kept: dict[str, Tensor]) -> Estimate:
    paired = _without_blocks(sample, (1 - sample.pair_similarity) / 2)
    within = []
    for column in (0, 1):
        means = sample.group_sums[column]
        within.append(cross_group_mean(sample, means, means))

    def ratio(k: int) -> Tensor:
        spread = sum((1 - w[k]) / 2 for w in within) / 2
        return paired[k] / (paired[k] + spread)

    kept["relative_modality_gap"] = ratio(1)
    return mapped(jackknifed(sample, (ratio(0), ratio(1))), 0.0, 1.0)


class _PairMeans:
    """U or V statistics of functions of the distance, with their delete-a-block replicates."""

    def __init__(self, sample: PairedSample, sweeps: GapSweeps, statistic: Statistic) -> None:
        self._sample, self._sweeps, self._statistic = sample, sweeps, statistic
        self._parts: dict[Part, PairSums] = {"xx": sweeps.xx, "yy": sweeps.yy, "xy": sweeps.xy}
        self._weights = pair_weights(sample, own=statistic == "V")

    def combine(self, name: str, sign: float) -> Replicated:
        """Sign (E f(X,X') + E f(Y,Y') - 2 E f(X,Y)) and its replicates."""
        xx, yy, xy = self.mean("xx", name), self.mean("yy", name), self.mean("xy", name)
        return sign * (xx[0] + yy[0] - 2 * xy[0]), sign * (xx[1] + yy[1] - 2 * xy[1])

    def estimate(self, value: Replicated) -> Estimate:
        """With the jackknife's interval."""
        return jackknifed(self._sample, value)

    def centered(self) -> Replicated:
        """Energy distance after the shift; each replicate moves the shift with its own centroids, to first order.

        The centroids are fitted to the same rows; the bias of order 1/n that comes of it is taken out in closed form.
        """
        sample, shifted = self._sample, self._sweeps.centered
        full, replicates = leave_blocks_out(shifted.sums, self._weights)
        bias = centering_bias(sample, shifted.shift)
        gradient = shifted.gradient() / self._weights.sum()
        sums = sample.group_sums[0] - sample.group_sums[1]
        by_block = sums.new_zeros(sample.blocks, sample.dim).index_add_(0, sample.group_blocks, sums)
        pairs = torch.bincount(sample.pair_blocks, minlength=sample.blocks).double()
        moved = (by_block.sum(0) - by_block) / (pairs.sum() - pairs)[:, None] - shifted.shift
        replicates = replicates + (moved @ gradient).cpu() - bias
        xx, yy = self.mean("xx", "distance"), self.mean("yy", "distance")
        return 2 * (full - bias) - xx[0] - yy[0], 2 * replicates - xx[1] - yy[1]

    def mean(self, part: Part, name: str) -> Replicated:
        """Mean over pairs of rows within x, within y or across, and its replicates."""
        reduction = self._parts[part]
        sums = reduction.sums[name]
        if self._statistic == "V":
            function = reduction.functions[name]

            def of_rows(u: Tensor, v: Tensor) -> Tensor:
                return function.of_squared((u - v).square().sum(1))

            sums = sums + torch.diag(own_group_sums(self._sample, part, of_rows))
        return leave_blocks_out(sums, self._weights)


def _neighbour_mixing(sample: PairedSample, sweeps: GapSweeps, kept: dict[str, Tensor]) -> Estimate:
    """Share of the other modality among the k nearest rows of other groups, over its share among all of them.

    A replicate leaves out a block's rows both as anchors and as neighbours; the neighbours that move up in their
    place are not looked for, an approximation that leaves the share as it is on average.
    """
    tables = (
        (sample.x, sample.y, sweeps.neighbours_xx.of_rows, sweeps.neighbours_xy.of_rows),
        (sample.y, sample.x, sweeps.neighbours_yy.of_rows, sweeps.neighbours_xy.of_columns),
    )
    full, replicates = [], []
    for rows, others, own, foreign in tables:
        k = min(own.k, foreign.k)
        pool = torch.cat([own.values, foreign.values], 1)
        nearest = pool.topk(k, dim=1).indices
        is_foreign = nearest >= own.k
        index = torch.cat([own.indices, foreign.indices], 1).gather(1, nearest).clamp_min(0)
        blocks = torch.where(is_foreign, others.block_of[index % len(others)], rows.block_of[index % len(rows)])
        links = rows.block_of[:, None] * sample.blocks + blocks
        shape = (sample.blocks, sample.blocks)
        total = torch.bincount(links.flatten(), minlength=sample.blocks**2).double().view(shape)
        across = torch.bincount(links[is_foreign], minlength=sample.blocks**2).double().view(shape)
        sizes = [torch.bincount(r.groups, minlength=sample.groups).double() for r in (rows, others)]
        same, other = len(rows) - sizes[0][rows.groups], len(others) - sizes[1][rows.groups]
        chance = float((other / (same + other)).mean())
        share = leave_blocks_out(across, total)
        full.append(share[0] / chance)
        replicates.append(share[1] / chance)
    value, without = (full[0] + full[1]) / 2, (replicates[0] + replicates[1]) / 2
    kept["neighbour_mixing"] = without
    return mapped(jackknifed(sample, (value, without)), 0.0, math.inf)


def separability(sample: PairedSample, *, seed: int = 0, most_rows: int = 5_000) -> Estimate:
    """Held-out accuracy of a linear classifier of the modality; 0.5 is chance, both sides weigh the same.

    Ridge regression of the modality's sign on the embedding (scikit-learn's `RidgeClassifier`, balanced), fitted on
    half of the groups and scored on the other half, and the other way round. At most `most_rows` rows of each
    modality, at random, take part. The interval is Wilson's, by group, for the classifiers held.

    Source: E3; Fahim et al., arXiv:2405.18570.
    """
    features, sides, groups = [], [], []
    for sign, rows in ((1, sample.x), (-1, sample.y)):
        step = max(1, -(-len(rows) // most_rows))  # groups stand in random order: every step-th row is a random subset
        features.append(rows.values[::step])
        groups.append(rows.groups[::step].cpu())
        sides.append(torch.full((len(features[-1]),), sign))
    z, side, group = torch.cat(features), torch.cat(sides), torch.cat(groups)
    generator = torch.Generator().manual_seed(seed)
    fold = (torch.rand(sample.groups, generator=generator) < 0.5)[group]
    right = torch.zeros(len(z), dtype=torch.float64)
    for part in (fold, ~fold):
        if len(side[~part].unique()) < 2 or not bool(part.any()):
            continue
        right[part] = (_classified(z, side, ~part, part) == side[part]).double()
    weights = torch.where(side > 0, 0.5 / (side > 0).sum().double(), 0.5 / (side < 0).sum().double())
    return proportion_estimate(right, group, sample.groups, weights=weights)


def _classified(z: Float[Tensor, "n d"], side: Int[Tensor, " n"], known: Tensor, asked: Tensor) -> Tensor:
    """Sides (1 or -1, on the CPU) of the asked rows by balanced ridge regression on the known ones."""
    if not few_launches(z.device):
        from sklearn.linear_model import RidgeClassifier

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a singular system, where there are fewer rows than features
            model = RidgeClassifier(alpha=_RIDGE, class_weight="balanced")
            model.fit(z[known].float().numpy(), side[known].numpy())
        return torch.from_numpy(model.predict(z[asked].float().numpy()))
    known, asked = known.to(z.device), asked.to(z.device)
    target = side.to(z.device)[known].double()
    first = (target > 0).double()
    weights = len(target) / 2 * (first / first.sum() + (1 - first) / (1 - first).sum())
    rows = z[known].double()
    mean, middle = ((weights @ values) / weights.sum() for values in (rows, target))
    centred = rows - mean
    gram = (centred.T * weights) @ centred
    gram.diagonal().add_(_RIDGE)
    slope = torch.linalg.solve(gram, centred.T @ (weights * (target - middle)))
    return torch.where((z[asked].double() - mean) @ slope + middle > 0, 1, -1).cpu()


__all__ = ["Statistic", "gap", "gap_measures", "separability", "with_divergence"]
