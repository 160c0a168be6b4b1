"""Laws of pairs whose information is known, and InfoNCE over random batches by a float64 loop. Oracles."""

import math

import torch
from torch import Tensor

import infomech as im


def von_mises_fisher_pairs(n: int, dim: int, kappa: float, seed: int) -> tuple[Tensor, Tensor]:
    """x uniform on the sphere, y around it with the concentration kappa: the log ratio is kappa x.y + constant."""
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1)
    pole = torch.eye(dim, dtype=torch.float64)[0]
    around = im.VonMisesFisher(pole, kappa).sample(n, generator=g)
    mirror = torch.nn.functional.normalize(x - pole, dim=1)  # a reflection that takes the pole to x
    return x, around - 2 * (around * mirror).sum(1, keepdim=True) * mirror


def information(dim: int, kappa: float) -> float:
    """log vol - entropy, nats."""
    pole = torch.eye(dim, dtype=torch.float64)[0]
    return im.Sphere(dim).log_volume - float(im.VonMisesFisher(pole, kappa).entropy())


def naive_infonce(
    x: Tensor, y: Tensor, pairs: Tensor, groups: Tensor, *, tau: float, negatives: int, draws: int, seed: int
) -> tuple[float, float]:
    """Mean of both directions over random batches (a uniform group, a uniform pair; so for negatives), and its error.

    ``groups`` are those of the pairs, from 0 on.
    """
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (x, y))
    members = [torch.nonzero(groups == k).flatten() for k in range(int(groups.max()) + 1)]
    found = []
    for _ in range(draws):
        chosen = torch.randperm(len(members), generator=g)[: negatives + 1].tolist()
        batch = [members[k][int(torch.randint(len(members[k]), (1,), generator=g))] for k in chosen]
        rows = pairs[torch.stack(batch)]
        left, right = x[rows[:, 0]], y[rows[:, 1]]
        scores = left @ right.T / tau
        own = scores.diagonal().mean()
        found.append(float(scores.logsumexp(1).mean() + scores.logsumexp(0).mean()) / 2 - float(own))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(draws)
