"""Do the intervals of the budget at N hold, is an unresolved limit refused, does the bracket beyond the data hold.

python benchmarks/budget_at_n.py coverage [--draws 500 --groups 400 --captions 1]
python benchmarks/budget_at_n.py mixture [--draws 200]
python benchmarks/budget_at_n.py held-out [--fresh]
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from infomech.diagnosis.batch_budget import PARTS, BatchStatistics, batch_statistics
from infomech.diagnosis.batch_tables import Batches, kernel_tables
from infomech.diagnosis.continuation import held_out
from infomech.diagnosis.resolution import growth
from infomech.measures import PairedSample

Data = tuple[Tensor, Tensor, Tensor | None]
SHOWN = tuple(name for name in PARTS if not name.startswith("log_"))


def measure(data: Data, tau: float, *, seed: int = 0) -> BatchStatistics:
    x, y, pairs = data
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=True, seed=seed)
    (tables,) = kernel_tables(Batches.of(sample, seed=seed, parts=4), [tau])
    return batch_statistics(tables)


def shared_latent(groups: int, captions: int, generator: torch.Generator, *, dim: int = 8, noise: float = 0.6) -> Data:
    """X and y share a latent vector, both are shifted; several rows of y to one of x."""
    latent = torch.randn(groups, dim, generator=generator, dtype=torch.float64)
    x = latent + noise * torch.randn(groups, dim, generator=generator, dtype=torch.float64)
    x[:, 0] += 1.0
    y = latent.repeat_interleave(captions, 0)
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    y[:, 1] += 0.5
    pairs = torch.stack([torch.arange(groups).repeat_interleave(captions), torch.arange(groups * captions)], 1)
    return x, y, pairs


class Mixture:
    """x and y around one of many centres each, drawn together: von Mises-Fisher laws of one concentration."""

    def __init__(self, *, dim: int, centres: int, concentration: float, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        normal = torch.nn.functional.normalize
        self.x = normal(torch.randn(centres, dim, generator=g), dim=1)
        self.y = normal(0.6 * self.x + 0.8 * normal(torch.randn(centres, dim, generator=g), dim=1), dim=1)
        self.concentration, self.dim = concentration, dim

    def draw(self, count: int, generator: torch.Generator) -> Data:
        """Pairs, each from a centre at random."""
        chosen = torch.randint(len(self.x), (count,), generator=generator)
        return self._around(self.x[chosen], generator), self._around(self.y[chosen], generator), None

    def _around(self, centres: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of the law around each centre: the cosine by rejection (Wood 1994), the rest uniform."""
        d, k = self.dim, self.concentration
        b = (d - 1) / (2 * k + math.sqrt(4 * k * k + (d - 1) ** 2))
        top = (1 - b) / (1 + b)
        c = k * top + (d - 1) * math.log(1 - top * top)
        cosine = torch.full((len(centres),), math.nan, dtype=torch.float64)
        while bool((open_ := cosine.isnan()).any()):
            n = int(open_.sum())
            # a Beta variable from two Gamma variables, each a sum of squares of normal ones
            one, two = (
                torch.randn(n, d - 1, generator=generator, dtype=torch.float64).square().sum(1) for _ in range(2)
            )
            beta = one / (one + two)
            w = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
            u = torch.rand(n, generator=generator, dtype=torch.float64)
            kept = k * w + (d - 1) * (1 - top * w).log() - c >= u.log()
            cosine[open_] = torch.where(kept, w, torch.full_like(w, math.nan))
        tangent = torch.randn(centres.shape, generator=generator)
        tangent -= (tangent * centres).sum(1, keepdim=True) * centres
        tangent = torch.nn.functional.normalize(tangent, dim=1)
        w = cosine.float()[:, None]
        return w * centres + (1 - w * w).sqrt() * tangent


def coverage(
    draw: Callable[[int, torch.Generator], Data],
    *,
    tau: float,
    groups: int,
    draws: int,
    sizes: list[float],
    names: tuple[str, ...],
    populations: int = 16,
) -> None:
    """Print for each part and N how many intervals hold the mean over independent samples ten times as large."""
    g = torch.Generator().manual_seed(99)
    large = [measure(draw(10 * groups, g), tau) for _ in range(populations)]
    truth = {(n, k): sum(b.at(n).value(k) for b in large) / populations for n in sizes for k in names}
    g = torch.Generator().manual_seed(1)
    found: dict[tuple[float, str], list[tuple[bool, float, float]]] = {key: [] for key in truth}
    unresolved, started = 0, time.process_time()
    for seed in range(draws):
        statistics = measure(draw(groups, g), tau, seed=seed)
        unresolved += not growth(statistics).resolved
        for (n, k), value in truth.items():
            e = statistics.at(n).estimate(k)
            found[n, k].append((e.low <= value <= e.high, e.value, e.stderr))
    seconds = (time.process_time() - started) / draws
    print(f"{draws} draws of {groups} groups, tau = {tau}: {seconds:.2f} s a draw; unresolved {unresolved} of {draws}")
    print(f"{'':26}" + "".join(f"{f'N = {n:g}':>26}" for n in sizes))
    for k in names:
        cells = []
        for n in sizes:
            hits, values, errors = (torch.tensor([f[i] for f in found[n, k]], dtype=torch.float64) for i in range(3))
            cells.append(f"{float(hits.mean()):.3f} (error {float(errors.mean() / values.std()):.2f} of sd)")
        print(f"{k:26}" + "".join(f"{c:>26}" for c in cells))


def data_sets(*, fresh: bool) -> dict[str, tuple[Data, float]]:
    """Five sets of pairs, each with a temperature; those that the rule was chosen on, or five others."""
    g = torch.Generator().manual_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float64)
    left, right = images[:, :, :4].flatten(1), images[:, :, 4:].flatten(1)
    if fresh:
        return {
            "shared latent, d = 16": (shared_latent(1500, 1, g, dim=16), 0.1),
            "shared latent, d = 32, 3 captions": (shared_latent(1200, 3, g, dim=32), 0.05),
            "mixture of 1,000, d = 128": (Mixture(dim=128, centres=1000, concentration=800.0).draw(1500, g), 0.05),
            "mixture of 20, d = 32": (Mixture(dim=32, centres=20, concentration=150.0).draw(1500, g), 0.1),
            "halves of digits, pixels as they are": ((left, right, None), 0.03),
        }
    mixture = Mixture(dim=384, centres=4000, concentration=4000.0)
    few = Mixture(dim=64, centres=100, concentration=300.0)
    return {
        "shared latent, d = 8": (shared_latent(2000, 1, g), 0.15),
        "shared latent, d = 64, 5 captions": (shared_latent(1000, 5, g, dim=64), 0.07),
        "mixture of 4,000, d = 384": (mixture.draw(2000, g), 0.05),
        "mixture of 100, d = 64": (few.draw(2000, g), 0.07),
        "halves of digits, centred": ((left - left.mean(0), right - right.mean(0), None), 0.07),
    }


def print_held_out(*, fresh: bool) -> None:
    """Predict the largest measured N from a quarter of it."""
    every = hits = 0
    for title, (data, tau) in data_sets(fresh=fresh).items():
        found = held_out(measure(data, tau))
        held = [name for name, f in found.items() if f.held]
        every, hits = every + len(found), hits + len(held)
        wide = max(f.continuation.high - f.continuation.low for f in found.values())
        print(f"{title}, tau = {tau}: {len(held)} of {len(found)} parts held; widest bracket {wide:.3f} nats")
        for name, f in found.items():
            if not f.held:
                c, m = f.continuation, f.measured
                print(f"    {name}: {m.value:.4f} +- {m.stderr:.4f} outside {c.low:.4f} to {c.high:.4f}")
    print(f"{hits} of {every} held")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "mixture", "held-out"])
    parser.add_argument("--draws", type=int)
    parser.add_argument("--groups", type=int, default=400)
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="held-out: five sets on which no rule was chosen")
    given = parser.parse_args()
    if given.what == "held-out":
        print_held_out(fresh=given.fresh)
    elif given.what == "mixture":
        law = Mixture(dim=384, centres=4000, concentration=4000.0)
        names = ("divergence_xy", "divergence_yx", "divergence_sym", "infonce_sym")
        draws = given.draws or 200
        coverage(law.draw, tau=0.05, groups=1000, draws=draws, sizes=[100.0], names=names, populations=6)
    else:
        n = given.groups
        sizes = [n / 64, n / 10, n / 4]
        law_of = lambda count, g: shared_latent(count, given.captions, g)  # noqa: E731
        coverage(law_of, tau=0.3, groups=n, draws=given.draws or 500, sizes=sizes, names=SHOWN)


if __name__ == "__main__":
    main()
