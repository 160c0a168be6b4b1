"""What float32 tiles lose: next to nothing in sums of many entries, whose roundings are independent."""

import torch

from infomech.reductions import Distance, Gaussian, GroupedRows, KernelSums, PairSums, sweep


def test_sums_of_float32_tiles() -> None:
    """9 x 10^6 entries: sums are good to 1e-8 of their value, though each entry is good to 1e-7 only."""
    generator = torch.Generator().manual_seed(0)
    single = torch.nn.functional.normalize(torch.randn(3000, 16, generator=generator), dim=1)
    functions = {"distance": Distance(), "narrow": Gaussian(4.0), "wide": Gaussian(0.5)}
    totals, logs = [], []
    for values in (single, single.double()):
        rows = GroupedRows(values, torch.ones(3000, dtype=torch.float64), torch.arange(3000), (0, 1000, 3000))
        sums, kernels = PairSums(rows, None, functions=functions), KernelSums(rows, None, temperature=0.2)
        sweep(rows, None, [sums, kernels])
        totals.append(torch.stack([sums.sums[name].sum() for name in functions]))
        logs.append(kernels.by_row.log_total())
    assert float((totals[0] / totals[1] - 1).abs().max()) < 1e-8
    # lengths that float32 rounds make the squared distances of 2 - 2 x.y differ from those of a float64 evaluation by
    # twice as much: that is a property of the rows, and the same in both
    assert float((logs[0] - logs[1]).mean().abs()) < 1e-8
    assert float((logs[0] - logs[1]).abs().max()) < 1e-7
