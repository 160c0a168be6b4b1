"""Do the intervals at N hold? A short form of ``benchmarks/budget_at_n.py``, which has 500 draws of larger samples.

Nominal 95%. With 120 draws the share that covers has a standard error of 2%: three and a half of them below is 88%.
"""

import math

import pytest
import torch
from torch import Tensor

from cases import image_text
from infomech.diagnosis.batch_budget import PARTS, BatchStatistics, batch_statistics
from infomech.diagnosis.batch_tables import Batches, kernel_tables
from infomech.diagnosis.resolution import growth, limit
from infomech.measures import PairedSample

TAU, GROUPS, DRAWS = 0.3, 160, 120
SIZES = (GROUPS / 64, GROUPS / 10, GROUPS / 4)


def measure(data: tuple[Tensor, Tensor, Tensor | None], tau: float, seed: int, parts: int = 2) -> BatchStatistics:
    x, y, pairs = data
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=True, seed=seed)
    (tables,) = kernel_tables(Batches.of(sample, seed=seed, parts=parts), [tau])
    return batch_statistics(tables)


@pytest.mark.slow
@pytest.mark.parametrize("per_group", [1, 3])
def test_intervals_hold_at_every_n(per_group: int) -> None:
    g = torch.Generator().manual_seed(7)
    large = [measure(image_text(1000, 1, generator=g), TAU, 0, parts=16) for _ in range(12)]
    draws = [measure(image_text(GROUPS, per_group, generator=g), TAU, s) for s in range(DRAWS)]
    for n in SIZES:
        for name in PARTS:
            if name.startswith("log_"):
                continue
            truth = sum(p.at(n).value(name) for p in large) / len(large)
            found = [d.at(n).estimate(name) for d in draws]
            share = sum(e.low <= truth <= e.high for e in found) / DRAWS
            assert share >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / DRAWS), (name, n, share)
            spread = float(torch.tensor([e.value for e in found], dtype=torch.float64).std())
            mean = sum(e.stderr for e in found) / DRAWS
            most = (
                1.5 if name.startswith("effective") else 1.25
            )  # the jackknife counts what two blocks do together twice
            assert 0.8 < mean / spread < most, (name, n, mean / spread)


def many_centres(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, None]:
    """Around 4,000 centres in 384 dimensions, concentration 4,000: most neighbours were never drawn."""
    fixed = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize
    x = normal(torch.randn(4000, 384, generator=fixed), dim=1)
    y = normal(0.6 * x + 0.8 * normal(torch.randn(4000, 384, generator=fixed), dim=1), dim=1)
    at = torch.randint(4000, (count,), generator=generator)
    rows = (centres[at] + torch.randn(count, 384, generator=generator) / math.sqrt(4000) for centres in (x, y))
    x, y = (normal(r, dim=1) for r in rows)
    return x, y, None


def test_neighbours_not_drawn_leave_the_limit_unresolved() -> None:
    g = torch.Generator().manual_seed(0)
    found = [measure(many_centres(1000, g), 0.05, s) for s in range(4)]
    assert all(limit(f) is None for f in found)
    assert min(growth(f).largest for f in found) > 0.2
    # what is measured at N = 100 holds: four draws agree within their errors, and all are far from n's own value
    at = [f.at(100).estimate("divergence_sym") for f in found]
    mean = sum(e.value for e in at) / 4
    assert all(abs(e.value - mean) < 3.5 * e.stderr for e in at)
    assert all(f.at(999).value("divergence_sym") > mean + 10 * e.stderr for f, e in zip(found, at, strict=True))
