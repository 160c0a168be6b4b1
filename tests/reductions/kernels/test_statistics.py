"""Sums by block and counts of a report's tiles on kernels, in Triton's interpreter, against float64 and the tiles."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from infomech.reductions import GroupedRows, KernelSums, Queries, RankCounts, RowTerms, sweep
from infomech.reductions.kernels import block_sums, counts

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
TEMPERATURES = (10.0, 0.005)


def rows(n: int, *, seed: int, edges: tuple[int, ...], drawn: bool = False, group: int = 2) -> GroupedRows:
    """Random float32 rows in groups, cut into blocks of unequal size; of which about half count as negatives."""
    g = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.normalize(torch.randn(n, 5, generator=g, dtype=torch.float64), dim=1)
    weights = torch.randint(1, 4, (n,), generator=g).double()
    negatives = torch.randint(0, 2, (n,), generator=g).double() if drawn else None
    return GroupedRows(values.float(), weights, torch.arange(n) // group, (0, *edges, n), negatives)


def by_block(logs: Tensor, of: GroupedRows) -> Tensor:
    parts = [logs[:, a:b].logsumexp(1) for a, b in zip(of.edges[:-1], of.edges[1:], strict=True)]
    return torch.stack(parts, 1)


CASES: dict[str, tuple[GroupedRows, GroupedRows | None, dict[str, Any]]] = {
    "odd": (rows(27, seed=0, edges=(4, 22)), rows(59, seed=1, edges=(3, 5, 50)), {}),
    "symmetric": (rows(41, seed=0, edges=(4, 39)), None, {}),
    "two": (rows(2, seed=0, edges=(1,), group=1), rows(2, seed=1, edges=(1,), group=1), {}),
    "drawn, with terms": (
        rows(37, seed=0, edges=(4, 30), drawn=True),
        rows(53, seed=1, edges=(20,), drawn=True),
        {"terms": RowTerms(0.7, torch.linspace(-1, 1, 37).double(), torch.linspace(1, -2, 53).double())},
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_sums_by_block_at_several_temperatures(name: str) -> None:
    """Of scores up to s the exponents round by 2^-24 s / tau; sums of float32 by 2^-24 of themselves each."""
    x, other, options = CASES[name]
    y = x if other is None else other
    found, tiles = (
        KernelSums(x, other, temperature=TEMPERATURES, each_block=True, backend=backend, **options)
        for backend in ("triton", "tiles")
    )
    for sums in (found, tiles):
        sweep(x, other, [sums], tile_rows=30, threads=1)
    terms = options.get("terms", RowTerms())
    s = terms.slope * (x.values.double() @ y.values.double().T)
    if terms.x is not None:
        s = s + terms.x[:, None] + terms.y[None, :]
    others = x.groups[:, None] != y.groups[None, :]
    for ours, theirs in zip(found.at, tiles.at, strict=True):
        tau = ours.temperature
        tolerance = 2e-6 + 2 * 2.0**-22 * float(s.abs().max()) / tau
        sides = ((ours.by_row, theirs.by_row, s, others, y), (ours.by_column, theirs.by_column, s.T, others.T, x))
        for table, tiled, scores, there, of in sides:
            weights = of.weights if of.negatives is None else of.negatives
            logs = torch.where(there, scores / tau, -math.inf) + weights.log()
            for sums, other_sums, true in (
                (table.log_sums, tiled.log_sums, by_block(logs, of)),
                (table.log_squares, tiled.log_squares, by_block(2 * logs, of)),
            ):
                torch.testing.assert_close(sums, true, rtol=0, atol=2 * tolerance)
                torch.testing.assert_close(sums, other_sums, rtol=0, atol=2 * tolerance)


def test_sums_on_kernels_repeat_to_the_bit_and_add_up_over_forks() -> None:
    x, y = rows(20, seed=0, edges=(4, 15)), rows(31, seed=1, edges=(5,))
    runs = [KernelSums(x, y, temperature=0.05, squares=False, backend="triton") for _ in range(2)]
    runs.append(runs[0].fork())
    for sums in runs:
        sweep(x, y, [sums], tile_rows=24, threads=1)
    once = [sums.by_row.log_sums.clone() for sums in runs]
    assert torch.equal(once[0], once[1])
    runs[0].merge(runs[2])
    torch.testing.assert_close(runs[0].by_row.log_sums, once[0] + math.log(2), rtol=0, atol=1e-12)


def test_eight_temperatures_take_one_launch_for_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """And two where sums run along the columns, too; tiles take some ten for each temperature."""
    x, y, _ = CASES["odd"]
    assert y is not None
    seen: list[int] = []
    monkeypatch.setattr(block_sums, "launched", lambda device, work: seen.append(1))
    for columns, launches in ((False, 1), (True, 2)):
        temperatures = [0.01 * 2 ** (k / 2) for k in range(8)]
        sums = KernelSums(x, y, temperature=temperatures, squares=False, columns=columns, backend="triton")
        seen.clear()
        sweep(x, y, [sums], tile_rows=70, threads=1)
        assert len(seen) == launches


@pytest.mark.parametrize("duplicates", [False, True])
def test_ranks(duplicates: bool) -> None:
    """Doubtful entries are computed again in float64, and equal rows are tied, as tiles have them."""
    x, y = rows(45, seed=0, edges=(20,), group=1), rows(90, seed=1, edges=(50,), group=2)
    if duplicates:
        y.values[10:40] = y.values[40:70]
        x.values[:10] = x.values[20:30]
    pairs = torch.stack([torch.arange(90) // 2, torch.arange(90)], 1)
    exact = x.values.double() @ y.values.double().T
    best = torch.stack([exact[pairs[:, 0], pairs[:, 1]][0::2], exact[pairs[:, 0], pairs[:, 1]][1::2]]).amax(0)
    rows_, columns = Queries(best, pairs), Queries(exact[pairs[:, 0], pairs[:, 1]], pairs.flip(1))
    found = []
    for backend in ("triton", "tiles"):
        counts = RankCounts(
            rows_, columns, exact=lambda i, j: (x.values[i].double() * y.values[j].double()).sum(1), doubt=4e-6,
            backend=backend,  # type: ignore[arg-type]
        )  # fmt: skip
        sweep(x, y, [counts], tile_rows=32, threads=1)
        found.append((counts.rows_above, counts.rows_tied, counts.columns_above, counts.columns_tied))
    wrong = torch.ones_like(exact, dtype=torch.bool)
    wrong[pairs[:, 0], pairs[:, 1]] = False
    margins = (exact - best[:, None], exact - columns.best[None, :])
    true = [f(wrong & g(m)) for m, d in zip(margins, (1, 0), strict=True)
            for g, f in ((lambda m: m > 1e-9, lambda b, d=d: b.sum(d).double()),
                         (lambda m: m.abs() <= 1e-9, lambda b, d=d: b.sum(d).double()))]  # fmt: skip
    for ours, tiled, right in zip(*found, true, strict=True):
        assert torch.equal(ours, right)
        assert torch.equal(ours, tiled)
    assert duplicates == all(bool(found[0][k].any()) for k in (1, 3))


def test_threads_of_a_sweep_go_on_with_the_backend_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, which has one place for what runs: they take turns."""
    x = rows(48, seed=0, edges=(20,))
    best = torch.zeros(48, dtype=torch.float64)
    none = torch.zeros(0, 2, dtype=torch.int64)
    counted: list[str] = []
    plain = counts.counts_above
    monkeypatch.setattr(counts, "counts_above", lambda *a, **o: counted.append("") or plain(*a, **o))
    found = []
    for backend in ("tiles", "triton"):
        counted.clear()
        sums = KernelSums(x, x, temperature=0.5, squares=False, columns=False, backend=backend)
        queries = Queries(best, none)
        ranks = RankCounts(queries, queries, exact=None, doubt=1e-6, backend=backend)
        tiles: list[float] = []
        sweep(x, x, [sums, ranks], tile_rows=16, threads=2, progress=tiles.append)
        assert len(tiles) >= 8
        assert len(counted) == (2 * len(tiles) if backend == "triton" else 0)  # along rows and along columns
        found.append((sums.by_row.log_sums, ranks.rows_above, ranks.columns_above))
    torch.testing.assert_close(*(sums for sums, *_ in found), rtol=0, atol=2e-6)
    assert all(map(torch.equal, found[0][1:], found[1][1:]))
