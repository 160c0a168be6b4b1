"""Retrieval and gap of 5,000 images and 25,000 captions against a naive float64 evaluation of the definitions.

    python benchmarks/check_against_naive.py [--images 5000] [--captions 5] [--dim 24]

Rows are rounded to few values before they are brought to unit length, so that many cosines are equal. The rule for
ties: candidates whose cosines differ by less than 1e-9 are tied, and a query's hit is its probability under a random
order of the tied. A recall is the mean of the probabilities. Prints the largest deviation, which must be below 1e-6.
"""

import argparse
import math
import sys
import time

import torch
from torch import Tensor

import infomech as im

TIE = 1e-9
SLAB = 500


def tied_rows(images: int, captions: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 rows with a gap, rounded to a lattice; one image in twenty is a copy of another, captions too."""
    g = torch.Generator().manual_seed(0)
    latent = torch.randn(images, dim, generator=g)
    x = latent + 0.8 * torch.randn(images, dim, generator=g)
    y = latent.repeat_interleave(captions, 0) + 0.8 * torch.randn(images * captions, dim, generator=g)
    x[:, 0] += 1.0
    y[:, 1] += 1.0  # both centroids differ from 0, so that they have a direction
    x, y = x.round(), y.round()
    x[::20] = x[1::20][: len(x[::20])]
    y[::20] = y[1::20][: len(y[::20])]
    for rows in (x, y):
        rows[(rows == 0).all(1), 0] = 1.0
    pairs = torch.stack([torch.arange(images).repeat_interleave(captions), torch.arange(images * captions)], 1)
    return (*(torch.nn.functional.normalize(rows, dim=1) for rows in (x, y)), pairs)


def hit_probability(above: Tensor, tied: Tensor, tied_own: Tensor, k: int) -> Tensor:
    """Chance that one of `tied_own` partners is among the first k, with `above` wrong ones ahead and `tied` beside."""
    out = torch.zeros_like(above)
    for i, (a, t, own) in enumerate(zip(above.tolist(), tied.tolist(), tied_own.tolist(), strict=True)):
        places = int(k - a)
        if places <= 0:
            continue
        total = int(t + own)
        miss = 1.0
        for j in range(min(places, total)):  # no partner in any of the first places of the tied
            miss *= max(0.0, (t - j) / (total - j))
        out[i] = 1.0 - miss
    return out


def naive_recalls(x: Tensor, y: Tensor, owner_x: Tensor, owner_y: Tensor) -> dict[int, float]:
    """Recall at 1, 5, 10 of rows of x among all rows of y, from the full float64 similarity."""
    counts: dict[str, list[Tensor]] = {"above": [], "tied": [], "own": []}
    for rows in torch.arange(len(x)).split(SLAB):
        similarity = x[rows] @ y.T
        own = owner_x[rows][:, None] == owner_y[None, :]
        best = torch.where(own, similarity, -2.0).amax(1, keepdim=True)
        counts["above"].append((~own & (similarity > best + TIE)).sum(1).double())
        counts["tied"].append((~own & ((similarity - best).abs() <= TIE)).sum(1).double())
        counts["own"].append((own & (similarity >= best - TIE)).sum(1).double())
    above, tied, tied_own = (torch.cat(parts) for parts in counts.values())
    return {k: float(hit_probability(above, tied, tied_own, k).mean()) for k in (1, 5, 10)}


def naive_mean(u: Tensor, v: Tensor, owner_u: Tensor, owner_v: Tensor, weight: Tensor, bandwidth: float) -> Tensor:
    """Weighted means of |u - v| and of exp(-|u - v|^2 / (2 s^2)) over rows of different images."""
    total, norm = torch.zeros(2, dtype=torch.float64), 0.0
    for rows in torch.arange(len(u)).split(SLAB):
        squared = ((u[rows] ** 2).sum(1)[:, None] + (v**2).sum(1)[None, :] - 2 * u[rows] @ v.T).clamp_min(0)
        other = (owner_u[rows][:, None] != owner_v[None, :]).double() * weight[rows][:, None]
        total += torch.stack([(squared.sqrt() * other).sum(), ((-squared / (2 * bandwidth**2)).exp() * other).sum()])
        norm += float(other.sum())
    return total / norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5)
    parser.add_argument("--dim", type=int, default=24)
    options = parser.parse_args()
    x, y, pairs = tied_rows(options.images, options.captions, options.dim)
    started = time.perf_counter()
    report = im.diagnose(x, y, pairs=pairs, temperature=0.07, normalize=True)
    ours = time.perf_counter() - started
    bandwidth = float(report.diagnosis.provenance["mmd_bandwidth"])
    started = time.perf_counter()
    a, b = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (x, y))
    owner_x, owner_y = torch.arange(len(a)), pairs[:, 0]
    truth = {}
    for name, arguments in (("x_to_y", (a, b, owner_x, owner_y)), ("y_to_x", (b, a, owner_y, owner_x))):
        for k, value in naive_recalls(*arguments).items():
            truth[f"{name}_recall_at_{k}"] = (report.retrieval[f"{name}_recall_at_{k}"].value, value)
    one = torch.ones(len(b), dtype=torch.float64)
    xx = naive_mean(a, a, owner_x, owner_x, one[: len(a)], bandwidth)
    yy = naive_mean(b, b, owner_y, owner_y, one, bandwidth)
    xy = naive_mean(a, b, owner_x, owner_y, one[: len(a)], bandwidth)
    energy, mmd = 2 * xy[0] - xx[0] - yy[0], xx[1] + yy[1] - 2 * xy[1]
    truth["energy_distance"] = (report.gap["energy_distance"].value, float(energy))
    truth["mmd2_median"] = (report.gap["mmd2_median"].value, float(mmd))
    # Unbiased inner products of the centroids: over pairs of rows of different images.
    sums = torch.zeros(len(a), options.dim, dtype=torch.float64).index_add_(0, owner_y, b) / options.captions
    inner = {
        n: (u.sum(0) @ v.sum(0) - (u * v).sum()) for n, u, v in (("xx", a, a), ("yy", sums, sums), ("xy", a, sums))
    }
    scale = len(a) * (len(a) - 1)
    squared = float(inner["xx"] + inner["yy"] - 2 * inner["xy"]) / scale
    truth["centroid_gap"] = (report.gap["centroid_gap"].value, math.sqrt(max(squared, 0.0)))
    cosine = float(inner["xy"] / (inner["xx"] * inner["yy"]).sqrt())
    truth["centroid_cosine"] = (report.gap["centroid_cosine"].value, cosine)
    naive = time.perf_counter() - started
    print(f"{len(x):,} x {len(y):,} rows, d = {options.dim}: ours {ours:.1f} s, naive {naive:.1f} s")
    for name, (found, value) in truth.items():
        print(f"{name:24} {found:.9f}  naive {value:.9f}  off by {abs(found - value):.1e}")
    worst = max(abs(found - value) for found, value in truth.values())
    print(f"largest deviation {worst:.1e}")
    sys.exit(worst >= 1e-6)


if __name__ == "__main__":
    main()
