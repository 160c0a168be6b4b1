"""The definitions of E1 to E5, written down as they stand: dense matrices, float64, one row per pair. Test oracles."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

from infomech.measures import PairedSample


@dataclass
class Expanded:
    """One row per pair: x and y repeated as pairs name them, and the group of each pair."""

    x: Tensor
    y: Tensor
    groups: Tensor

    def keep(self, chosen: Tensor) -> "Expanded":
        return Expanded(self.x[chosen], self.y[chosen], self.groups[chosen])

    @property
    def others(self) -> Tensor:
        return self.groups[:, None] != self.groups[None, :]


def groups_of(pairs: Tensor, n: int) -> Tensor:
    """Group of each pair, by merging until nothing changes."""
    label = list(range(len(pairs)))
    changed = True
    while changed:
        changed = False
        for a in range(len(pairs)):
            for b in range(len(pairs)):
                if ((pairs[a] == pairs[b]).any()) and label[a] != label[b]:
                    label[a] = label[b] = min(label[a], label[b])
                    changed = True
    return torch.tensor(label)


def expand(x: Tensor, y: Tensor, pairs: Tensor) -> Expanded:
    x, y = (torch.nn.functional.normalize(v.double(), dim=1) for v in (x, y))
    return Expanded(x[pairs[:, 0]], y[pairs[:, 1]], groups_of(pairs, len(x)))


def log_mean(s: Tensor, others: Tensor, tau: float) -> Tensor:
    masked = torch.where(others, s / tau, -math.inf)
    return masked.logsumexp(1) - others.sum(1).double().log()


def budget(e: Expanded, tau: float, log_volume: float) -> dict[str, float]:
    """E1 without corrections."""
    others = e.others
    s = (e.x * e.y).sum(1)
    log_rho = {
        "xx": log_mean(e.x @ e.x.T, others, tau) - log_volume,
        "xy": log_mean(e.x @ e.y.T, others, tau) - log_volume,
        "yy": log_mean(e.y @ e.y.T, others, tau) - log_volume,
        "yx": log_mean(e.y @ e.x.T, others, tau) - log_volume,
    }
    out = {
        "alignment": -(s / tau).mean(),
        "dispersion_x": -log_rho["xx"].mean(),
        "dispersion_y": -log_rho["yy"].mean(),
        "divergence_xy": (log_rho["xx"] - log_rho["xy"]).mean(),
        "divergence_yx": (log_rho["yy"] - log_rho["yx"]).mean(),
        "log_negatives": others.sum(1).double().log().mean(),
    }
    for name, cross in (("infonce_xy", e.x @ e.y.T), ("infonce_yx", e.y @ e.x.T)):
        logits = torch.cat([(s / tau)[:, None], torch.where(others, cross / tau, -math.inf)], 1)
        out[name] = (logits.logsumexp(1) - s / tau).mean()
    out["divergence_sym"] = (out["divergence_xy"] + out["divergence_yx"]) / 2
    out["infonce_sym"] = (out["infonce_xy"] + out["infonce_yx"]) / 2
    out["log_partition"] = out["log_negatives"] + log_volume
    # D6, not the identity: the alignment against the smoothed density of the other modality
    j12 = out["alignment"] + log_rho["xy"].mean()
    j21 = out["alignment"] + log_rho["yx"].mean()
    out["energy_sym"] = (j12 + j21) / 2
    out["remainder"] = out["infonce_sym"] - out["energy_sym"] - out["log_partition"]
    return {k: float(v) for k, v in out.items()}


def pair_means(e: Expanded, function, *, own: bool) -> tuple[float, float, float]:
    """E f(X,X'), E f(Y,Y'), E f(X,Y): over pairs of different groups, or over all."""
    keep = torch.ones_like(e.others) if own else e.others
    out = []
    for u, v in ((e.x, e.x), (e.y, e.y), (e.x, e.y)):
        squared = (u[:, None, :] - v[None, :, :]).square().sum(-1)
        out.append(float(function(squared)[keep].mean()))
    return out[0], out[1], out[2]


def energy_distance(e: Expanded, *, own: bool = False) -> float:
    xx, yy, xy = pair_means(e, torch.sqrt, own=own)
    return 2 * xy - xx - yy


def mmd2(e: Expanded, sigma: float, *, own: bool = False) -> float:
    xx, yy, xy = pair_means(e, lambda q: torch.exp(-q / (2 * sigma**2)), own=own)
    return xx + yy - 2 * xy


def centroid_gap_squared(e: Expanded) -> float:
    d = e.x - e.y
    return float((d @ d.T)[e.others].mean())


def relative_modality_gap(e: Expanded) -> float:
    m = float(((1 - (e.x * e.y).sum(1)) / 2).mean())
    d_xx, d_yy = (float(((1 - u @ u.T) / 2)[e.others].mean()) for u in (e.x, e.y))
    return m / (m + (d_xx + d_yy) / 2)


def recall(similarity: Tensor, positives: list[list[int]], k: int) -> float:
    """Expected recall at k with ties (within 1e-9) broken at random, by counting orders of the tied candidates."""
    hits = []
    for row, good in zip(similarity, positives, strict=True):
        best = max(float(row[j]) for j in good)
        wrong = [float(row[j]) for j in range(len(row)) if j not in good]
        above = sum(v > best + 1e-9 for v in wrong)
        tied = sum(abs(v - best) <= 1e-9 for v in wrong)
        good_tied = sum(abs(float(row[j]) - best) <= 1e-9 for j in good)
        places = min(max(k - above, 0), tied + good_tied)
        missing = math.comb(tied, places) / math.comb(tied + good_tied, places)
        hits.append(1 - missing)
    return float(np.mean(hits))


def jackknife(full: float, replicates: list[float], sizes: list[int]) -> tuple[float, float]:
    """Delete-m_j jackknife, written from the paper of Busing et al."""
    g, n = len(sizes), sum(sizes)
    corrected = g * full - sum((1 - m / n) * r for m, r in zip(sizes, replicates, strict=True))
    total = 0.0
    for m, r in zip(sizes, replicates, strict=True):
        h = n / m
        total += (h * full - (h - 1) * r - corrected) ** 2 / (h - 1)
    return corrected, math.sqrt(total / g)


def every_value(sample: PairedSample, temperature: float, *, seed: int = 0) -> dict[str, float]:
    """Every number of a diagnosis under its flat name, from definitions alone; the sample lends order and blocks."""
    e = Expanded(sample.x.values[sample.pairs[:, 0]], sample.y.values[sample.pairs[:, 1]], sample.pair_groups)
    log_volume = math.log(2 * math.pi * temperature * 2 * math.sinh(1 / temperature))  # the sphere of three dimensions
    out = _every_budget(e, sample, temperature, log_volume)
    out |= {f"gap.{k}": v for k, v in _every_gap(e, sample, seed).items()}
    out["gap.smoothed_divergence"] = out["budget.divergence_sym"]
    for side, rows in (("x", sample.x), ("y", sample.y)):
        measures = _every_geometry(e.x if side == "x" else e.y, e.others, rows.values, rows.groups)
        out |= {f"geometry.{side}.{k}": v for k, v in measures.items()}
    return out | {f"retrieval.{k}": v for k, v in _every_recall(sample, seed).items()}


def _every_budget(e: Expanded, sample: PairedSample, tau: float, log_volume: float) -> dict[str, float]:
    relative = math.log(4 * math.pi)

    def parts(of: Expanded) -> dict[str, float]:
        found = budget(of, tau, log_volume)
        return found | {f"dispersion_{s}_relative": found[f"dispersion_{s}"] - relative for s in "xy"}

    full = parts(e)
    without = [parts(e.keep(sample.pair_blocks != b)) for b in range(sample.blocks)]
    sizes = [int(torch.unique(e.groups[sample.pair_blocks == b]).numel()) for b in range(sample.blocks)]
    out = {f"plain.{name}": value for name, value in full.items()}
    for name, value in full.items():
        corrected = name.startswith(("dispersion", "divergence"))
        out[name] = jackknife(value, [w[name] for w in without], sizes)[0] if corrected else value
    out["energy_sym"] = out["alignment"] - (out["dispersion_x"] + out["dispersion_y"]) / 2 - out["divergence_sym"]
    out["remainder"] = out["infonce_sym"] - out["energy_sym"] - out["log_partition"]
    kappa = torch.exp(sample.x.values @ sample.y.values.T / tau)
    kappa = torch.where(sample.x.groups[:, None] != sample.y.groups[None, :], kappa, 0.0)
    both = []
    for name, weighted, column in (
        ("x_to_y", kappa * sample.y.weights, 0),
        ("y_to_x", kappa.T * sample.x.weights, 1),
    ):
        seen = (weighted.sum(1).square() / weighted.square().sum(1))[sample.pairs[:, column]]
        both.append(seen)
        for level in (0.05, 0.25, 0.5, 0.75, 0.95):
            out[f"effective_negatives_quantiles.{name}.{level:g}"] = lower_quantile(seen, level)
    out["effective_negatives"] = lower_quantile(torch.cat(both), 0.5)
    return {f"budget.{name}": value for name, value in out.items()}


def lower_quantile(values: Tensor, level: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    return float(values.sort().values[math.ceil(level * len(values) - 1e-9) - 1])


def _every_gap(e: Expanded, sample: PairedSample, seed: int) -> dict[str, float]:
    cosine = (sample.x.values @ sample.y.values.T)[sample.x.groups[:, None] != sample.y.groups[None, :]]
    sigma = math.sqrt(2 - 2 * lower_quantile(cosine, 0.5))
    inner = {s: float((u @ v.T)[e.others].mean()) for s, u, v in (("x", e.x, e.x), ("y", e.y, e.y), ("xy", e.x, e.y))}
    distances = (e.x - e.y).norm(dim=1)
    energy, centered = energy_distance(e), _centered(e, sample)
    return {
        "centroid_gap": math.sqrt(max(centroid_gap_squared(e), 0.0)),
        "centroid_norm_x": math.sqrt(inner["x"]),
        "centroid_norm_y": math.sqrt(inner["y"]),
        "centroid_cosine": inner["xy"] / math.sqrt(inner["x"] * inner["y"]),
        "pair_distance": float(distances.mean()),
        "alignment": float(distances.square().mean()),
        "relative_modality_gap": relative_modality_gap(e),
        "cross_uniformity": math.log(pair_means(e, lambda q: torch.exp(-2 * q), own=False)[2]),
        "energy_distance": energy,
        "mmd2_half": mmd2(e, sigma / 2),
        "mmd2_median": mmd2(e, sigma),
        "mmd2_double": mmd2(e, sigma * 2),
        "frechet": _frechet_extrapolated(e, sample),
        "separability": _separability(sample, seed),
        "neighbour_mixing": _mixing(sample),
        "centered_energy_distance": centered,
        "centered_share": centered / energy,
    }


def _centered(e: Expanded, sample: PairedSample) -> float:
    """Energy distance after the fitted shift, less twice the mean error of the cross distance to second order."""
    shift = (e.x - e.y).mean(0)
    return energy_distance(Expanded(e.x - shift, e.y, e.groups)) - 2 * shift_bias(e, shift)


def shift_bias(e: Expanded, shift: Tensor) -> float:
    """- E[grad f . (e_g(i) + e_g(j))] / P + tr(E[Hessian f] S) / 2, f = |x_i - y_j - shift|."""
    pairs = len(e.groups)
    errors = torch.zeros(int(e.groups.max()) + 1, e.x.shape[1], dtype=torch.float64)
    errors.index_add_(0, e.groups, e.x - e.y - shift)
    scatter = errors.T @ errors / pairs**2
    i, j = torch.nonzero(e.others, as_tuple=True)
    u = e.x[i] - e.y[j] - shift
    length = u.norm(dim=1)
    gradient = u / length[:, None]
    across = torch.eye(u.shape[1], dtype=torch.float64) - gradient[:, :, None] * gradient[:, None, :]
    hessian = across / length[:, None, None]
    first = (gradient * (errors[e.groups[i]] + errors[e.groups[j]])).sum(1).mean() / pairs
    return float((hessian.mean(0) @ scatter).trace() / 2 - first)


def frechet(e: Expanded) -> float:
    mean_x, mean_y = e.x.mean(0), e.y.mean(0)
    cov_x, cov_y = (np.cov(np.asarray(u).T, bias=True) for u in (e.x, e.y))
    cross = np.real(scipy.linalg.sqrtm(cov_x @ cov_y))
    return float((mean_x - mean_y).square().sum()) + float(np.trace(cov_x + cov_y - 2 * cross))


def _frechet_extrapolated(e: Expanded, sample: PairedSample) -> float:
    first = sample.pair_blocks < sample.blocks // 2
    return 2 * frechet(e) - (frechet(e.keep(first)) + frechet(e.keep(~first))) / 2


def _separability(sample: PairedSample, seed: int) -> float:
    """Balanced ridge regression of the modality's sign by normal equations, half of the groups on the other half."""
    z = torch.cat([sample.x.values, sample.y.values])
    groups = torch.cat([sample.x.groups, sample.y.groups])
    sign = torch.cat([torch.ones(len(sample.x)), -torch.ones(len(sample.y))]).double()
    fold = (torch.rand(sample.groups, generator=torch.Generator().manual_seed(seed)) < 0.5)[groups]
    right = torch.zeros(len(z), dtype=torch.float64)
    for part in (fold, ~fold):
        train, target = z[~part], sign[~part]
        weight = torch.where(target > 0, 1 / (target > 0).sum(), 1 / (target < 0).sum()) * len(train) / 2
        center, level = (weight[:, None] * train).sum(0) / weight.sum(), (weight * target).sum() / weight.sum()
        moved = train - center
        normal = moved.T @ (weight[:, None] * moved) + 1e-3 * torch.eye(z.shape[1], dtype=torch.float64)
        slope = torch.linalg.solve(normal, moved.T @ (weight * (target - level)))
        right[part] = (((z[part] - center) @ slope + level > 0) == (sign[part] > 0)).double()
    return float((right[sign > 0].mean() + right[sign < 0].mean()) / 2)


def _mixing(sample: PairedSample) -> float:
    rows = torch.cat([sample.x.values, sample.y.values])
    groups = torch.cat([sample.x.groups, sample.y.groups])
    side = torch.cat([torch.zeros(len(sample.x)), torch.ones(len(sample.y))])
    similarity = torch.where(groups[:, None] != groups[None, :], rows @ rows.T, -2.0)
    nearest = similarity.topk(10, dim=1).indices
    shares = []
    for value in (0, 1):
        anchors = side == value
        share = (side[nearest[anchors]] != value).double().mean()
        possible = (similarity > -2)[anchors]
        chance = (possible[:, side != value].sum(1).double() / possible.sum(1)).mean()
        shares.append(float(share / chance))
    return float(np.mean(shares))


def _every_geometry(pairs: Tensor, others: Tensor, rows: Tensor, groups: Tensor) -> dict[str, float]:
    """Of rows named once for each pair; hubness and duplicates of the rows themselves."""
    squared = (pairs[:, None] - pairs[None]).square().sum(-1)
    similarity = torch.where(groups[:, None] != groups, rows @ rows.T, -2.0)
    occurrences = torch.bincount(similarity.topk(10, dim=1).indices.flatten(), minlength=len(rows))
    return {
        "mean_cosine": float((pairs @ pairs.T)[others].mean()),
        "uniformity": math.log(float(torch.exp(-2 * squared)[others].mean())),
        **spectral(pairs, others, int(groups.max()) + 1),
        "hubness": float(scipy.stats.skew(occurrences.numpy())),
        "duplicates": float((similarity.max(1).values > 0.9999).double().mean()),
    }


def spectral(pairs: Tensor, others: Tensor, count: int) -> dict[str, float]:
    """RankMe, participation ratio and spread of the rows, `count` the number of groups."""
    singular = torch.linalg.svdvals(pairs)
    share = singular / singular.sum()
    centred = pairs - pairs.mean(0)
    squares = float((centred @ centred.T).square()[others].mean())
    return {
        "effective_rank": float(torch.exp(-(share * share.log()).sum())),
        "participation_ratio": float(centred.square().sum(1).mean()) ** 2 / squares,
        "collapse": float((centred.square().mean(0) * count / (count - 1)).sqrt().mean()) * pairs.shape[1] ** 0.5,
    }


def _every_recall(sample: PairedSample, seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed + 1)
    similarity = sample.x.values @ sample.y.values.T
    out = {}
    for name, scores, column in (("x_to_y", similarity, 0), ("y_to_x", similarity.T, 1)):
        count = len(scores)
        positives = [sample.pairs[sample.pairs[:, column] == i, 1 - column].tolist() for i in range(count)]
        taken = torch.randperm(count, generator=generator)  # query taken[i] looks for the partners of query i
        shuffled: list[list[int]] = [[] for _ in range(count)]
        for i, query in enumerate(taken.tolist()):
            shuffled[query] = positives[i]
        for k in (1, 5, 10):
            out[f"{name}_recall_at_{k}"] = recall(scores, positives, k)
            out[f"shuffled_{name}_recall_at_{k}"] = recall(scores, shuffled, k)
        ranks = [best_rank(row, good) for row, good in zip(scores, positives, strict=True)]
        out[f"{name}_median_rank"] = lower_quantile(torch.tensor(ranks, dtype=torch.float64), 0.5)
    return out


def best_rank(row: Tensor, good: list[int]) -> float:
    """1 and the wrong candidates above the best partner; no ties."""
    best = max(float(row[j]) for j in good)
    return 1.0 + sum(float(row[j]) > best for j in range(len(row)) if j not in good)
