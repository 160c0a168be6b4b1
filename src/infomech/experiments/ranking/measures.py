"""Numbers that are said to rank encodings, each from held-out pairs alone; baselines, for the experiment only.

Formulas are the papers'; no code is theirs.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

Rows = Float[Tensor, "n d"]

_TEMPERATURES = 25  # of the grid that the lowest loss is sought on
_LIDAR_RIDGE = 1e-4
_NEIGHBOURS = 10

WORDS = {
    "information": "shared information",
    "recall_at_10": "R@10",
    "recall_at_1": "R@1",
    "mrr": "MRR",
    "loss": "held-out loss at its own tau",
    "rankme": "RankMe",
    "lidar": "LiDAR",
    "alignment_uniformity": "alignment + uniformity",
    "knn": "kNN of the partners",
}
LOWER = ("loss", "alignment_uniformity")  # of which less is better


def dense_information(scores: Float[Tensor, "n n"]) -> float:
    """Log n less the lowest InfoNCE with all others as negatives, both directions, one temperature; nats.

    A few lines, for subsets of some hundred pairs: the grid of temperatures is refined by a parabola in log tau.
    """
    spread = float(scores.std())
    logs = np.linspace(math.log(spread / 20), math.log(spread * 20), _TEMPERATURES)
    losses = np.array([in_batch_loss(scores, math.exp(u)) for u in logs])
    at = int(losses.argmin())
    best = losses[at]
    if 0 < at < len(logs) - 1:
        a, b, c = losses[at - 1 : at + 2]
        bend = a - 2 * b + c
        best = b - (a - c) ** 2 / (8 * bend) if bend > 0 else b
    return math.log(len(scores)) - float(best)


def in_batch_loss(scores: Float[Tensor, "n n"], temperature: float) -> float:
    """InfoNCE with all others as negatives, mean of both directions."""
    logits = scores.double() / temperature
    own = logits.diagonal()
    return float((logits.logsumexp(1) + logits.logsumexp(0) - 2 * own).mean() / 2)


def ranks(scores: Float[Tensor, "n n"]) -> Float[Tensor, " m"]:
    """Rank of each partner, from 1, in both directions; ties at the middle of their places."""
    own = scores.diagonal()
    both = []
    for table, axis in ((scores, 1), (scores, 0)):
        level = own[:, None] if axis == 1 else own[None]
        above, tied = (table > level).sum(axis), (table == level).sum(axis) - 1
        both.append(1 + above + tied / 2)
    return torch.cat(both).double()


def retrieval(scores: Float[Tensor, "n n"]) -> dict[str, float]:
    """R@1, R@10 and the mean reciprocal rank, means of both directions."""
    found = ranks(scores)
    return {
        "recall_at_1": float((found <= 1).double().mean()),
        "recall_at_10": float((found <= 10).double().mean()),
        "mrr": float((1 / found).mean()),
    }


def rankme(rows: Rows) -> float:
    """Exponential of the entropy of the singular values (Garrido et al. 2023)."""
    values = torch.linalg.svdvals(rows.double())
    share = values / values.sum() + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def lidar(x: Rows, y: Rows) -> float:
    """RankMe of the linear discriminants whose classes are the pairs (Thilak et al. 2023)."""
    x, y = x.double(), y.double()
    middle = (x + y) / 2
    centred = middle - middle.mean(0)
    between = centred.T @ centred / len(x)
    off = torch.cat([x - middle, y - middle])
    within = off.T @ off / len(off) + _LIDAR_RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    found = torch.linalg.eigvalsh(root @ between @ root).clamp_min(0)
    share = found / found.sum() + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def alignment_uniformity(x: Rows, y: Rows) -> float:
    """E |x - y|^2 + the mean over both sides of log E exp(-2 |u - v|^2) (Wang and Isola 2020)."""
    aligned = float((x - y).square().sum(1).mean())
    spread = []
    for rows in (x, y):
        gram = rows @ rows.T
        other = ~torch.eye(len(rows), dtype=torch.bool)
        spread.append(math.log(float(torch.exp(4 * gram[other] - 4).double().mean())))
    return aligned + sum(spread) / 2


def knn(x: Rows, y: Rows) -> float:
    """Share of common indices among the nearest neighbours of x within x and of y within y."""
    near = []
    for rows in (x, y):
        gram = rows @ rows.T
        gram.fill_diagonal_(-math.inf)
        table = torch.zeros(len(rows), len(rows), dtype=torch.bool)
        table.scatter_(1, gram.topk(min(_NEIGHBOURS, len(rows) - 1), 1).indices, True)
        near.append(table)
    return float((near[0] & near[1]).double().sum(1).mean() / _NEIGHBOURS)


def subset_measures(scores: Float[Tensor, "n n"]) -> dict[str, float]:
    """Shared information, MRR, R@10 and R@1 of some pairs among themselves."""
    return {"information": dense_information(scores), **retrieval(scores)}


def all_measures(x: Rows, y: Rows, *, temperature: float, information: float) -> dict[str, float]:
    """Every number of an encoding; each is higher where it says better.

    Args:
        x: (n, d) rows of held-out pairs.
        y: (n, d) their partners.
        temperature: of the run, for its own loss.
        information: shared information at the common N.
    """
    x, y = normalize(x, dim=1), normalize(y, dim=1)
    scores = x @ y.T
    found = {
        "information": information,
        **retrieval(scores),
        "loss": in_batch_loss(scores, temperature),
        "rankme": (rankme(x) + rankme(y)) / 2,
        "lidar": lidar(x, y),
        "alignment_uniformity": alignment_uniformity(x, y),
        "knn": knn(x, y),
    }
    return {name: -value if name in LOWER else value for name, value in found.items()}


def rank_correlation(first: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's along the last axis: Pearson's correlation of the ranks, NaN where one of them is constant."""
    from scipy.stats import rankdata

    ranks = (rankdata(values, axis=-1) for values in (first, other))
    one, two = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((one * two).sum(-1) / np.sqrt((one**2).sum(-1) * (two**2).sum(-1)))


def correlations(
    rows: Sequence[Mapping[str, float]], *, against: str = "recall_at_10", draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Spearman's correlation of each measure with one of them, with a 95% percentile interval over the models."""
    generator = np.random.default_rng(seed)
    names = [name for name in rows[0] if name != against]
    table = {name: np.array([row[name] for row in rows]) for name in (*names, against)}
    picks = generator.integers(0, len(rows), (draws, len(rows)))
    picks = picks[[len(set(p)) > 2 for p in picks.tolist()]]
    found = {}
    for name in names:
        low, high = np.nanquantile(rank_correlation(table[name][picks], table[against][picks]), (0.025, 0.975))
        found[name] = {
            "value": float(rank_correlation(table[name], table[against])),
            "low": float(low),
            "high": float(high),
        }
    return found


def sign_curve(
    scores: Sequence[Float[Tensor, "n n"]],
    whole: Sequence[Mapping[str, float]],
    sizes: Sequence[int],
    *,
    draws: int,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, list[float]]:
    """How often n pairs give the sign that all pairs give, between neighbours of an order, for each measure.

    Args:
        scores: (n, n) of each encoding of the same pairs, row i's partner in column i.
        whole: the measures of each encoding on all pairs; neighbours are those by shared information.
        sizes: n.
        draws: subsets of each size, the same for all encodings.
        seed: of the subsets.
        progress: called with shares that sum to 1.
    """
    generator = np.random.default_rng(seed)
    total = len(scores[0])
    order = sorted(range(len(whole)), key=lambda k: whole[k]["information"])
    agree: dict[str, list[float]] = {name: [] for name in ("information", "mrr", "recall_at_10", "recall_at_1")}
    for size in sizes:
        hits: dict[str, list[float]] = {name: [] for name in agree}
        for _ in range(draws):
            chosen = torch.from_numpy(generator.choice(total, size, replace=False))
            found = [subset_measures(table[chosen][:, chosen]) for table in scores]
            for name in agree:
                hits[name] += _agreements(name, found, whole, order)
            progress(1 / (draws * len(sizes)))
        for name, values in hits.items():
            agree[name].append(float(np.mean(values)) if values else math.nan)
    return agree


def _agreements(
    name: str, found: Sequence[Mapping[str, float]], whole: Sequence[Mapping[str, float]], order: Sequence[int]
) -> list[float]:
    """1 where neighbours differ as on all pairs, 1/2 where they are equal, 0 else; none for those equal on all."""
    out = []
    for a, b in itertools.pairwise(order):
        true = np.sign(whole[a][name] - whole[b][name])
        if true != 0:
            seen = np.sign(found[a][name] - found[b][name])
            out.append(0.5 if seen == 0 else float(seen == true))
    return out


def mean_square_z(replicates: Sequence[tuple[float, float]]) -> float:
    """Mean of the squared paired z, (difference / error)^2, over neighbours."""
    values: NDArray[np.float64] = np.array([(d / e) ** 2 for d, e in replicates if e > 0])
    return float(values.mean())


__all__ = [
    "LOWER",
    "WORDS",
    "alignment_uniformity",
    "all_measures",
    "correlations",
    "dense_information",
    "in_batch_loss",
    "knn",
    "lidar",
    "mean_square_z",
    "rank_correlation",
    "rankme",
    "ranks",
    "retrieval",
    "sign_curve",
    "subset_measures",
]
