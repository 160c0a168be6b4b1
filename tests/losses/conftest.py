"""Naive losses in double precision, written from the definitions: the truth of every test in this folder."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

# Other processes import these; each imports a library that takes seconds.
collect_ignore = ["peer_clip_losses.py", "peer_lightly_losses.py", "peer_sentence_losses.py"]


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def rows(n: int, d: int, seed: int) -> Tensor:
    return unit(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (weights * values).sum() / weights.sum()


def log_sum_others(scores: Tensor, excluded: Tensor) -> Tensor:
    return scores.masked_fill(excluded, -math.inf).logsumexp(1)


def symmetric_terms(x, y, temperature, *, weights=None, groups=None):
    """InfoNCE and Dsym, by their definitions. The first is written so that tiny losses keep their digits."""
    same = torch.eye(len(x), dtype=torch.bool) if groups is None else groups[:, None] == groups[None, :]
    cross = x @ y.mT / temperature
    own = cross.diagonal()
    row, col = log_sum_others(cross, same), log_sum_others(cross.mT, same)
    zero = torch.zeros_like(own)
    one, two = torch.logaddexp(row - own, zero), torch.logaddexp(col - own, zero)
    within_x, within_y = log_sum_others(x @ x.mT / temperature, same), log_sum_others(y @ y.mT / temperature, same)
    count = (~same).sum(1).log()
    smooth = [r - count for r in (within_x, row, within_y, col)]
    return mean((one + two) / 2, weights), mean((smooth[0] - smooth[1] + smooth[2] - smooth[3]) / 2, weights)


def symmetric(x, y, temperature, weight=0.0, **kwargs):
    infonce, divergence = symmetric_terms(x, y, temperature, **kwargs)
    return infonce + weight * divergence


def sigmoid(x, y, temperature, bias):
    signs = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return -torch.nn.functional.logsigmoid(signs * (x @ y.mT / temperature + bias)).sum() / len(x)


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices: a second thread costs more than it gives, and much more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def naive() -> SimpleNamespace:
    return SimpleNamespace(
        unit=unit, rows=rows, symmetric=symmetric, symmetric_terms=symmetric_terms, sigmoid=sigmoid, mean=mean
    )
