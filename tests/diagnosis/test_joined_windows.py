"""Averages of several tables at once, as an accelerator has them, against those of one table after another."""

import pytest
import torch

from infomech.diagnosis import joined_windows
from infomech.diagnosis.batch_windows import AnchorSums, BlockLayout, Statistic, window_averages
from infomech.diagnosis.joined_windows import all_averages, averages_at_once


def drawn(layout: BlockLayout, statistic: Statistic, spread: float, g: torch.Generator) -> list[AnchorSums]:
    """Three tables, the second and third with an extra term, the third with anchors that others stand for."""
    segments, tables = len(layout.edges) - 1, []
    for k in range(3):
        n = 50 + k
        logs = spread * torch.randn(segments, n, generator=g, dtype=torch.float64).T
        squares = 2 * logs - torch.rand(n, segments, generator=g, dtype=torch.float64)
        blocks = layout.block_of(torch.randint(layout.groups, (n,), generator=g))
        weights = torch.rand(n, generator=g, dtype=torch.float64)
        extra = torch.randn(n, generator=g, dtype=torch.float64) if k and statistic == "log" else None
        stands_for = weights * (torch.rand(n, generator=g) < 0.5) if k == 2 else None
        counted = squares if statistic == "count" else None
        tables.append(AnchorSums(logs, counted, blocks, weights, extra, stands_for))
    return tables


@pytest.mark.parametrize("statistic", ["log", "count"])
@pytest.mark.parametrize(("groups", "parts", "spread"), [(41, 1, 1.0), (700, 4, 1.0), (200, 2, 900.0), (5, 4, 1.0)])
def test_several_tables_at_once(groups: int, parts: int, spread: float, statistic: Statistic) -> None:
    """With blocks left over, one window only, and sums too far apart for anything but their logarithms."""
    layout = BlockLayout.of(groups, parts=parts, fewest=16)
    tables = drawn(layout, statistic, spread, torch.Generator().manual_seed(0))
    for found, table in zip(averages_at_once(tables, layout, statistic), tables, strict=True):
        alone = window_averages(table, layout, statistic)
        torch.testing.assert_close(found.by_anchor, alone.by_anchor, rtol=1e-12, atol=1e-12)
        for part in ("sums", "falls", "weights"):
            ours, theirs = (getattr(averages.blocks, part) for averages in (found, alone))
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("joined", [1, 10**9])
def test_tables_that_do_not_fit_together_come_one_after_another(joined: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_windows, "few_launches", lambda device: True)
    monkeypatch.setattr(joined_windows, "_JOINED", joined)
    layout = BlockLayout.of(41, parts=1, fewest=16)
    g = torch.Generator().manual_seed(0)
    logs, counts = drawn(layout, "log", 1.0, g), drawn(layout, "count", 1.0, g)
    tables: list[tuple[Statistic, list[joined_windows.Making]]] = [
        (statistic, [lambda table=table: table for table in several])
        for statistic, several in (("log", logs), ("count", counts))
    ]
    found = all_averages(tables, layout, torch.device("cpu"))
    alone = [window_averages(t, layout, "log") for t in logs] + [window_averages(t, layout, "count") for t in counts]
    for ours, theirs in zip(found, alone, strict=True):
        torch.testing.assert_close(ours.blocks.falls, theirs.blocks.falls, rtol=1e-10, atol=1e-11)
