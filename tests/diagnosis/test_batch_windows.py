"""Averages over windows of blocks against the same windows walked through one at a time, in long double precision."""

import numpy as np
import pytest
import torch
from torch import Tensor

from infomech.diagnosis import batch_windows
from infomech.diagnosis.batch_windows import AnchorSums, BlockLayout, window_averages


def one_by_one(kernels: np.ndarray, own: int, extra: float, width: int, without: int | None) -> np.longdouble:
    """Mean over cyclic windows of the logarithm of what an anchor sums, its own block and one more left out."""
    blocks = len(kernels)
    ring = [(own + 1 + k) % blocks for k in range(blocks - 1)] if own < blocks else list(range(blocks))
    ring = [b for b in ring if b != without]
    sums = [sum(kernels[ring[(at + k) % len(ring)]] for k in range(width)) + extra for at in range(len(ring))]
    return np.mean(np.log(np.array(sums, dtype=np.longdouble)))


@pytest.mark.parametrize("spread", [1.0, 6.0, 60.0])
@pytest.mark.parametrize("with_extra", [True, False])
def test_blocks_that_hold_nearly_all(spread: float, *, with_extra: bool) -> None:
    """Values and falls, for anchors one of whose blocks outweighs all others by up to e^60, among others."""
    g = torch.Generator().manual_seed(int(spread))
    layout = BlockLayout.of(41, fewest=16, parts=1, doubling=True)
    n, b = 30, layout.blocks
    logs = torch.randn(n, b + layout.left_over, generator=g, dtype=torch.float64)
    logs[::3, 5] += spread
    logs[1, 0] += spread
    blocks = torch.arange(n) % (b + (layout.left_over > 0))
    extra = torch.randn(n, generator=g, dtype=torch.float64) - 8 if with_extra else None
    weights = torch.rand(n, generator=g, dtype=torch.float64)
    found = window_averages(AnchorSums(logs, None, blocks, weights, extra), layout, "log")
    kernels = logs.numpy().astype(np.longdouble)
    for k, w in enumerate(layout.windows):
        falls = np.zeros((b + 1, b), dtype=np.longdouble)
        for i in range(n):
            own, anchor = int(blocks[i]), np.exp(kernels[i, :b])
            more = 0.0 if extra is None else np.exp(np.longdouble(float(extra[i])))
            value = one_by_one(anchor, own, more, w, None)
            assert float(found.by_anchor[i, k]) == pytest.approx(float(value), rel=1e-12, abs=1e-12)
            for q in range(b):
                if q != own:
                    falls[own, q] += float(weights[i]) * (value - one_by_one(anchor, own, more, w, q))
        np.testing.assert_allclose(found.blocks.falls[:, :, k].numpy(), falls.astype(float), rtol=1e-12, atol=2e-12)


def test_both_ways_to_close_a_gap_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer window less the block is what the two sides add up to, and it is the way that is taken."""
    g = torch.Generator().manual_seed(0)
    layout = BlockLayout.of(700, parts=1)
    logs = torch.randn(layout.blocks + 1, 700, generator=g, dtype=torch.float64).T
    blocks = layout.block_of(torch.arange(700))
    weights, extra = torch.ones(700, dtype=torch.float64) / 700, torch.randn(700, generator=g, dtype=torch.float64)
    sums, added = AnchorSums(logs, None, blocks, weights, extra), 0
    by_sums = batch_windows._closing_by_sums

    def counted(ring: Tensor, *rest: object) -> list[Tensor]:
        nonlocal added
        added += ring.shape[2]
        return by_sums(ring, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_windows, "_closing_by_sums", counted)
    short = window_averages(sums, layout, "log")
    assert added == 0
    monkeypatch.setattr(batch_windows, "_MOST_CANCELLED", 0.0)
    long = window_averages(sums, layout, "log")
    assert added == 700
    torch.testing.assert_close(short.blocks.falls, long.blocks.falls, rtol=0, atol=1e-15)
    torch.testing.assert_close(short.by_anchor, long.by_anchor, rtol=1e-14, atol=1e-14)
