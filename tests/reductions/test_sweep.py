"""The tiled engine against dense matrices, at sizes that no tile divides, and its sums against exact ones."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from infomech.reductions import (
    Distance,
    Gaussian,
    GroupedRows,
    KernelSums,
    NearestNeighbours,
    PairSums,
    Queries,
    RankCounts,
    ShiftedDistances,
    expected_hits,
    sweep,
)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def walk(request: pytest.FixtureRequest) -> Callable[..., None]:
    return partial(sweep, threads=request.param)


def rows(n: int, *, seed: int, dim: int = 5, weights: bool = False, dtype: torch.dtype = torch.float64) -> GroupedRows:
    """Random unit rows in groups of two, cut into blocks of unequal size."""
    g = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1).to(dtype)
    weight = torch.randint(1, 4, (n,), generator=g).double() if weights else torch.ones(n, dtype=torch.float64)
    edges = (0, 4, 22, 30, n)
    return GroupedRows(values, weight, torch.arange(n) // 2, edges)


def dense(x: GroupedRows, y: GroupedRows) -> tuple[Tensor, Tensor]:
    return x.values.double() @ y.values.double().T, x.groups[:, None] != y.groups[None, :]


CASES = [(37, 53, False), (53, 37, True)]


@pytest.mark.parametrize(("n", "m", "weights"), CASES)
@pytest.mark.parametrize("tile", [7, 16, 1024])
@pytest.mark.parametrize("tau", [0.5, 0.07, 0.01, 0.001])
def test_kernel_sums(walk: Callable[..., None], n: int, m: int, weights: bool, tile: int, tau: float) -> None:
    x, y = rows(n, seed=0, weights=weights), rows(m, seed=1, weights=weights)
    for other in (y, None):
        sums = KernelSums(x, other, temperature=tau)
        walk(x, other, [sums], tile_rows=tile)
        partner = x if other is None else y
        s, others = dense(x, partner)
        logs = torch.where(others, s / tau + partner.weights.log(), -math.inf)
        table = sums.by_row
        torch.testing.assert_close(table.log_sums.logsumexp(1), logs.logsumexp(1), rtol=1e-11, atol=1e-10)
        squares = torch.exp(2 * logs.logsumexp(1) - (2 * logs).logsumexp(1))
        effective = torch.exp(2 * table.log_sums.logsumexp(1) - table.log_squares.logsumexp(1))
        torch.testing.assert_close(effective, squares, rtol=1e-9, atol=0)
        for b in range(partner.blocks):
            left = torch.where(partner.block_of == b, -math.inf, logs)
            without = torch.cat([table.log_sums[:, :b], table.log_sums[:, b + 1 :]], 1)
            torch.testing.assert_close(without.logsumexp(1), left.logsumexp(1), rtol=1e-11, atol=1e-10)
        back = torch.where(others.T, s.T / tau + x.weights.log(), -math.inf)
        torch.testing.assert_close(sums.by_column.log_sums.logsumexp(1), back.logsumexp(1), rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("tau", [0.5, 0.01])
def test_kernel_sums_in_float32(walk: Callable[..., None], tau: float) -> None:
    x, y = (rows(60, seed=s, dtype=torch.float32) for s in (0, 1))
    sums = KernelSums(x, y, temperature=tau)
    walk(x, y, [sums], tile_rows=16)
    s, others = dense(x, y)
    truth = torch.where(others, s / tau, -math.inf).logsumexp(1)
    torch.testing.assert_close(sums.by_row.log_sums.logsumexp(1), truth, rtol=0, atol=5e-7 + 2e-7 / tau)


def block_sums(x: GroupedRows, values: torch.Tensor) -> torch.Tensor:
    return torch.stack([values[x.block_of == block].sum(0) for block in range(x.blocks)])


@pytest.mark.parametrize(("n", "m", "weights"), CASES)
@pytest.mark.parametrize("tile", [7, 1024])
def test_pair_sums(walk: Callable[..., None], n: int, m: int, weights: bool, tile: int) -> None:
    x, y = rows(n, seed=0, weights=weights), rows(m, seed=1, weights=weights)
    functions = {"d": Distance(), "a": Gaussian(0.3), "b": Gaussian(1.2), "c": Gaussian(4.8), "u": Gaussian(2.0)}
    for other in (y, None):
        sums = PairSums(x, other, functions=functions)
        walk(x, other, [sums], tile_rows=tile)
        partner = x if other is None else y
        s, others = dense(x, partner)
        weight = x.weights[:, None] * partner.weights[None, :] * others
        for name, function in functions.items():
            entries = weight * function.of_squared(2 - 2 * s)
            truth = block_sums(partner, block_sums(x, entries).T).T
            torch.testing.assert_close(sums.sums[name], truth, rtol=1e-10, atol=1e-10)


def test_shifted_distances_and_their_gradient(walk: Callable[..., None]) -> None:
    x, y = rows(37, seed=0, weights=True), rows(53, seed=1, weights=True)
    shift = torch.full((5,), 0.1, dtype=torch.float64, requires_grad=True)
    reduction = ShiftedDistances(x, y, shift=shift.detach())
    walk(x, y, [reduction], tile_rows=10)
    weight = x.weights[:, None] * y.weights[None, :] * dense(x, y)[1]
    total = (weight * (x.values[:, None] - y.values[None] - shift).norm(dim=-1)).sum()
    assert float(reduction.sums.sum()) == pytest.approx(float(total.detach()), rel=1e-12)
    torch.testing.assert_close(reduction.gradient(), torch.autograd.grad(total, shift)[0])


@pytest.mark.parametrize(("size", "tile"), [(60, 7), (60, 1024), (400, 61)])
def test_nearest_neighbours(walk: Callable[..., None], size: int, tile: int) -> None:
    x, y = rows(size, seed=0), rows(size - 7, seed=1)
    for other in (y, None):
        near = NearestNeighbours(x, other, k=4)
        walk(x, other, [near], tile_rows=tile)
        s, others = dense(x, x if other is None else y)
        s = torch.where(others, s, -math.inf)
        truth = s.topk(4, dim=1)
        torch.testing.assert_close(near.of_rows.values, truth.values)
        assert torch.equal(near.of_rows.indices, truth.indices)
        assert torch.equal(near.of_columns.indices, s.T.topk(4, dim=1).indices)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tile", [7, 1024])
def test_ranks(walk: Callable[..., None], tile: int, dtype: torch.dtype) -> None:
    x, y = rows(40, seed=0, dtype=dtype), rows(40, seed=1, dtype=dtype)
    y.values[7] = y.values[8]  # a tie
    s = x.values.double() @ y.values.double().T
    positives = torch.arange(40)[:, None].expand(40, 2).contiguous()

    def exact(i: Tensor, j: Tensor) -> Tensor:
        return (x.values[i].double() * y.values[j].double()).sum(1)

    queries = Queries(exact(positives[:, 0], positives[:, 1]), positives)
    counts = RankCounts(queries, queries, exact=exact, doubt=4e-6)
    walk(x, y, [counts], tile_rows=tile)
    wrong = ~torch.eye(40, dtype=torch.bool)
    margin = s - s.diagonal()[:, None]
    assert torch.equal(counts.rows_above, ((margin > 1e-9) & wrong).sum(1).double())
    assert torch.equal(counts.rows_tied, ((margin.abs() <= 1e-9) & wrong).sum(1).double())
    assert counts.rows_tied[7] == 1
    margin = s.T - s.diagonal()[:, None]
    assert torch.equal(counts.columns_above, ((margin > 1e-9) & wrong).sum(1).double())


def test_expected_hits_by_enumeration() -> None:
    from itertools import permutations

    for above, tied, good in ((0, 3, 2), (2, 2, 1), (1, 0, 1), (5, 1, 1)):
        kinds = [0] * tied + [1] * good
        for k in (1, 2, 3, 5):
            orders = list(permutations(kinds))
            found = [any(order[: max(k - above, 0)]) for order in orders]
            one = [torch.tensor([float(v)], dtype=torch.float64) for v in (above, tied, good)]
            assert float(expected_hits(*one, k)) == pytest.approx(sum(found) / len(found), abs=1e-12)


def test_progress_adds_up_to_one(walk: Callable[..., None]) -> None:
    x, y = rows(60, seed=0), rows(53, seed=1)
    for other in (y, None):
        shares: list[float] = []
        walk(x, other, [], progress=shares.append, tile_rows=16)
        assert sum(shares) == pytest.approx(1.0, abs=1e-9)


def test_a_billion_terms_lose_nothing_that_matters(walk: Callable[..., None]) -> None:
    """31,700 rows in float32: 10^9 distances and kernels whose sums are known, since there are only seven places."""
    g = torch.Generator().manual_seed(0)
    places = torch.nn.functional.normalize(torch.randn(7, 3, generator=g, dtype=torch.float64), dim=1).float()
    n = 31_700
    at = torch.randint(7, (n,), generator=g)
    groups = torch.arange(n)
    x = GroupedRows(places[at], torch.ones(n, dtype=torch.float64), groups, (0, n // 2, n))
    functions = {"distance": Distance(), "narrow": Gaussian(8.0), "wide": Gaussian(0.5)}
    sums, kernels = PairSums(x, None, functions=functions), KernelSums(x, None, temperature=0.1)
    walk(x, None, [sums, kernels])
    counts = torch.bincount(at, minlength=7).double()
    unit = torch.nn.functional.normalize(places.double(), dim=1)
    s = unit @ unit.T
    pairs = torch.outer(counts, counts) - torch.diag(counts)
    for name, function in functions.items():
        truth = float((pairs * function.of_squared((2 - 2 * s).clamp_min(0))).sum())
        # coincident places: a cosine of 1 - 6e-8 gives a distance of 3e-4 instead of 0, on a seventh of the pairs
        allowed = 4e-4 / 7 if name == "distance" else 1e-6
        assert float(sums.sums[name].sum()) == pytest.approx(truth, rel=allowed), name
    own = torch.exp(s[at[:5]] / 0.1) @ counts - math.exp(10)
    torch.testing.assert_close(kernels.by_row.log_sums.logsumexp(1)[:5], own.log(), rtol=0, atol=2e-6)


def test_threads_repeat_to_the_last_bit_and_leave_torch_as_it_was() -> None:
    x, y = rows(400, seed=0, dtype=torch.float32), rows(300, seed=1, dtype=torch.float32)
    before = torch.get_num_threads()
    runs = []
    for _ in range(3):
        sums, kernels = PairSums(x, y, functions={"d": Distance()}), KernelSums(x, y, temperature=0.1)
        sweep(x, y, [sums, kernels], tile_rows=32, threads=3)
        runs.append((sums.sums["d"], kernels.by_row.log_sums, kernels.by_column.log_sums))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
    assert torch.get_num_threads() == before


def test_an_error_in_one_thread_stops_the_others() -> None:
    x, y = rows(400, seed=0), rows(300, seed=1)
    seen: list[float] = []

    def fail(share: float) -> None:
        seen.append(share)
        if len(seen) == 4:
            raise RuntimeError("the bar fell down")

    with pytest.raises(RuntimeError, match="the bar fell down"):
        sweep(x, y, [], tile_rows=8, threads=3, progress=fail)
    assert len(seen) < 400
