"""The definitions of E1 to E5, written down as they stand: dense matrices, float64, one row per pair. Test oracles."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
