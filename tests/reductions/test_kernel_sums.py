"""Kernel sums beyond the plain ones: several temperatures, row terms, weights as negatives, squares by block."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from infomech.geometry import RBF
from infomech.reductions import BlockedLogSums, GroupedRows, KernelSums, RowTerms, sweep
from infomech.reductions.statistics import kernel_sums


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def walk(request: pytest.FixtureRequest) -> Callable[..., None]:
    return partial(sweep, threads=request.param)


def rows(
    n: int,
    *,
    seed: int,
    norms: tuple[float, float] = (1.0, 1.0),
    negatives: bool = False,
    dtype: torch.dtype = torch.float64,
    edges: tuple[int, ...] = (4, 22, 30),
) -> GroupedRows:
    """Random rows in groups of two, cut into blocks of unequal size; of which about half count as negatives."""
    g = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.normalize(torch.randn(n, 5, generator=g, dtype=torch.float64), dim=1)
    values = values * torch.linspace(*norms, n, dtype=torch.float64)[torch.randperm(n, generator=g), None]
    weight = torch.randint(1, 4, (n,), generator=g).double()
    drawn = torch.randint(0, 2, (n,), generator=g).double() if negatives else None
    return GroupedRows(values.to(dtype), weight, torch.arange(n) // 2, (0, *edges, n), drawn)


def by_block(logs: Tensor, of: GroupedRows) -> Tensor:
    parts = [logs[:, a:b].logsumexp(1) for a, b in zip(of.edges[:-1], of.edges[1:], strict=True)]
    return torch.stack(parts, 1)


def check(table: BlockedLogSums, scores: Tensor, others: Tensor, negatives: GroupedRows, tolerance: float) -> None:
    """Against dense log-sums over the columns, by block; scores are over tau."""
    weights = negatives.weights if negatives.negatives is None else negatives.negatives
    logs = torch.where(others, scores, -math.inf) + weights.log()
    close = partial(torch.testing.assert_close, rtol=tolerance, atol=10 * tolerance)
    close(table.log_sums, by_block(logs, negatives))
    close(table.log_squares, by_block(2 * logs, negatives))
    close(table.log_sums.logsumexp(1), logs.logsumexp(1))
    effective = torch.exp(2 * table.log_sums.logsumexp(1) - table.log_squares.logsumexp(1))
    close(effective, torch.exp(2 * logs.logsumexp(1) - (2 * logs).logsumexp(1)))


TEMPERATURES = (10.0, 0.5, 0.07, 0.25, 0.035, 0.3, 0.005, 0.14, 0.5)


@pytest.mark.parametrize("tile", [7, 16, 1024])
@pytest.mark.parametrize("negatives", [False, True], ids=["all", "drawn"])
def test_several_temperatures_are_one_at_a_time(walk: Callable[..., None], tile: int, negatives: bool) -> None:
    x, y = rows(37, seed=0, negatives=negatives), rows(53, seed=1, negatives=negatives)
    for other in (y, None):
        together = KernelSums(x, other, temperature=TEMPERATURES)
        walk(x, other, [together], tile_rows=tile)
        partner = x if other is None else y
        scores, others = x.values @ partner.values.T, x.groups[:, None] != partner.groups[None, :]
        assert [sums.temperature for sums in together.at] == list(TEMPERATURES)
        for sums in together.at:
            alone = KernelSums(x, other, temperature=sums.temperature)
            walk(x, other, [alone], tile_rows=tile)
            torch.testing.assert_close(sums.by_row.log_sums, alone.by_row.log_sums, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(sums.by_column.log_squares, alone.by_column.log_squares, rtol=1e-12, atol=1e-12)
            check(sums.by_row, scores / sums.temperature, others, partner, 1e-11)
            check(sums.by_column, scores.T / sums.temperature, others.T, x, 1e-11)


@pytest.mark.parametrize("tau", [0.005, 0.07, 1.0, 10.0])
@pytest.mark.parametrize("norms", [(1.0, 1.0), (0.0, 2.0), (0.0, 100.0)])
@pytest.mark.parametrize("negatives", [False, True], ids=["all", "drawn"])
def test_row_terms_of_a_critic(
    walk: Callable[..., None], tau: float, norms: tuple[float, float], negatives: bool
) -> None:
    x, y = rows(37, seed=0, norms=norms, negatives=negatives), rows(53, seed=1, norms=norms, negatives=negatives)
    critic = RBF(0.7)
    (slope, b), (_, c) = critic.affine(x.values), critic.affine(y.values)
    for other, terms in ((y, RowTerms(slope, b, c)), (None, RowTerms(slope, b, b))):
        partner = x if other is None else y
        sums = KernelSums(x, other, temperature=(tau, 2 * tau), terms=terms)
        walk(x, other, [sums], tile_rows=16)
        scores = -0.7 * (x.values[:, None] - partner.values[None]).square().sum(-1)
        others = x.groups[:, None] != partner.groups[None, :]
        # inner products of size |x|^2 cancel to the distance: their rounding is that of 2 scale |x|^2 / tau
        tolerance = 1e-11 + 1e-15 * 1.4 * norms[1] ** 2 / tau
        for found in sums.at:
            check(found.by_row, scores / found.temperature, others, partner, tolerance)
            check(found.by_column, scores.T / found.temperature, others.T, x, tolerance)


def test_terms_of_the_columns_alone(walk: Callable[..., None]) -> None:
    x, y = rows(37, seed=0), rows(53, seed=1)
    c = torch.linspace(-3, 3, 53, dtype=torch.float64)
    sums = KernelSums(x, y, temperature=0.3, terms=RowTerms(2.0, None, c))
    walk(x, y, [sums], tile_rows=16)
    scores, others = (2 * x.values @ y.values.T + c) / 0.3, x.groups[:, None] != y.groups[None, :]
    check(sums.by_row, scores, others, y, 1e-11)
    check(sums.by_column, scores.T, others.T, x, 1e-11)


@pytest.mark.parametrize("tau", [0.5, 0.02, 0.005])
def test_float32(walk: Callable[..., None], tau: float) -> None:
    x, y = (rows(60, seed=s, dtype=torch.float32, negatives=True) for s in (0, 1))
    sums = KernelSums(x, y, temperature=(2 * tau, tau, 3 * tau))
    walk(x, y, [sums], tile_rows=16)
    scores, others = x.values.double() @ y.values.double().T, x.groups[:, None] != y.groups[None, :]
    for found in sums.at:
        check(found.by_row, scores / found.temperature, others, y, 5e-7 + 4e-7 / tau)
        check(found.by_column, scores.T / found.temperature, others.T, x, 5e-7 + 4e-7 / tau)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("tau", [0.5, 0.01])
def test_many_small_blocks(walk: Callable[..., None], weights: bool, tau: float) -> None:
    edges = tuple(range(2, 200, 2))
    x, y = (rows(200, seed=s, edges=edges, negatives=weights) for s in (0, 1))
    sums = KernelSums(x, y, temperature=tau)
    walk(x, y, [sums])
    scores, others = x.values @ y.values.T, x.groups[:, None] != y.groups[None, :]
    check(sums.by_row, scores / tau, others, y, 1e-11)
    check(sums.by_column, scores.T / tau, others.T, x, 1e-11)


def test_only_what_counts_decides_the_shift(walk: Callable[..., None]) -> None:
    """The nearest column of every row, 2 / tau above the others, counts for nobody."""
    near = torch.tensor([[1.0, 0.0]], dtype=torch.float32).repeat(40, 1)
    values = torch.cat([near, -near])
    drawn = torch.cat([torch.zeros(40), torch.ones(40)]).double()
    x = GroupedRows(values, torch.ones(80, dtype=torch.float64), torch.arange(80), (0, 30, 80), drawn)
    sums = KernelSums(x, None, temperature=0.01)
    walk(x, None, [sums], tile_rows=32)
    truth = torch.cat([torch.full((40,), -100 + math.log(40)), torch.full((40,), 100 + math.log(39))]).double()
    torch.testing.assert_close(sums.by_row.log_sums.logsumexp(1), truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("squares", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("negatives", [False, True], ids=["all", "drawn"])
def test_all_blocks_at_once(
    negatives: bool, dtype: torch.dtype, tolerance: float, squares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an accelerator does it: nothing looks at a value, each block of each row has its own largest score."""
    monkeypatch.setattr(kernel_sums, "few_launches", lambda device: True)
    monkeypatch.setattr(kernel_sums._TileSweep, "_common_shift", None)
    x, y = (rows(n, seed=n, negatives=negatives, dtype=dtype) for n in (37, 53))
    for other in (y, None):
        partner = x if other is None else y
        found = KernelSums(x, other, temperature=TEMPERATURES, each_block=True, squares=squares)
        sweep(x, other, [found], tile_rows=16)
        scores, others = x.values.double() @ partner.values.double().T, x.groups[:, None] != partner.groups[None, :]
        close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
        for sums in found.at:
            for table, s, there, of in (
                (sums.by_row, scores, others, partner),
                (sums.by_column, scores.T, others.T, x),
            ):
                weights = of.weights if of.negatives is None else of.negatives
                logs = torch.where(there, s / sums.temperature, -math.inf) + weights.log()
                close(table.log_sums, by_block(logs, of))
                if squares:
                    torch.testing.assert_close(
                        table.log_squares, by_block(2 * logs, of), rtol=tolerance, atol=tolerance
                    )
