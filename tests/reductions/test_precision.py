"""What float32 tiles lose: next to nothing in sums of many entries, whose roundings are independent."""

import torch

from infomech.reductions import Distance, Gaussian, GroupedRows, KernelSums, PairSums, sweep


def test_sums_of_float32_tiles() -> None:
    """9 x 10^6 entries, each good to 1e-7 or so: a sum of distances is good to 1e-8.

    What does not average out is a constant that float32 rounds: an exponent's factor, by up to 2^-24 of the exponent.
    """
    generator = torch.Generator().manual_seed(0)
    single = torch.nn.functional.normalize(torch.randn(3000, 16, generator=generator), dim=1)
    functions = {"distance": Distance(), "narrow": Gaussian(4.0), "wide": Gaussian(0.5)}
    totals, logs = [], []
    for values in (single, single.double()):
        rows = GroupedRows(values, torch.ones(3000, dtype=torch.float64), torch.arange(3000), (0, 1000, 3000))
        sums, kernels = PairSums(rows, None, functions=functions), KernelSums(rows, None, temperature=0.2)
        sweep(rows, None, [sums, kernels])
        totals.append(torch.stack([sums.sums[name].sum() for name in functions]))
        logs.append(kernels.by_row.log_sums.logsumexp(1))
    off = dict(zip(functions, (totals[0] / totals[1] - 1).abs().tolist(), strict=True))
    assert off["distance"] < 1e-8
    for name, gamma in (("narrow", 4.0), ("wide", 0.5)):  # the exponents that count are below gamma times 2
        assert off[name] < 2**-24 * 2 * gamma, name
    assert float((logs[0] - logs[1]).mean().abs()) < 2**-24 * 5  # exponents of up to 1 / tau
    assert float((logs[0] - logs[1]).abs().max()) < 2**-24 * 5
