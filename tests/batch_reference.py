"""The budget over random batches (E8), written down as it stands: dense float64 loops, one batch at a time. Oracles."""

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from infomech.diagnosis.batch_tables import Batches
from infomech.diagnosis.batch_windows import BlockLayout

ANCHORED = ("xx", "xy", "yy", "yx")


class Naive:
    """Rows, pairs and groups of a sample, and the parts of the budget for given batches."""

    def __init__(self, batches: Batches, tau: float, log_volume: float) -> None:
        s = batches.sample
        self.x, self.y, self.pairs = s.x.values.double(), s.y.values.double(), s.pairs
        self.group_of = s.pair_groups.tolist()
        self.members = [[p for p, g in enumerate(self.group_of) if g == k] for k in range(s.groups)]
        self.lent, self.layout, self.tau, self.log_volume = batches.lent.tolist(), batches.layout, tau, log_volume
        rows = {"x": self.x[self.pairs[:, 0]], "y": self.y[self.pairs[:, 1]]}
        self.logits = {side: rows[side[0]] @ rows[side[1]].T / tau for side in ANCHORED}  # pair against pair

    def losses(self, anchor: int, batches: Tensor) -> dict[str, Tensor]:
        """The parts of one anchor (a pair) in each of some batches (pairs of other groups), (k, N) -> (k,)."""
        size, own = batches.shape[1], self.logits["xy"][anchor, anchor]
        logits = {side: v[anchor][batches] for side, v in self.logits.items()}
        logs = {side: v.logsumexp(1) for side, v in logits.items()}
        g = {side: v - math.log(size) for side, v in logs.items()}
        a = -own.expand(len(batches))
        out = {
            "alignment": a,
            "dispersion_x": self.log_volume - g["xx"],
            "dispersion_y": self.log_volume - g["yy"],
            "divergence_xy": g["xx"] - g["xy"],
            "divergence_yx": g["yy"] - g["yx"],
            "infonce_xy": a + torch.cat([own.expand(len(batches), 1), logits["xy"]], 1).logsumexp(1),
            "infonce_yx": a + torch.cat([own.expand(len(batches), 1), logits["yx"]], 1).logsumexp(1),
            "effective_negatives_xy": torch.exp(2 * logs["xy"] - (2 * logits["xy"]).logsumexp(1)),
            "effective_negatives_yx": torch.exp(2 * logs["yx"] - (2 * logits["yx"]).logsumexp(1)),
            "energy_sym": a + (g["xy"] + g["yx"]) / 2 - self.log_volume,  # D6 as it stands, not the identity
            "log_negatives": torch.full_like(a, math.log(size)),
        }
        out["infonce_sym"] = (out["infonce_xy"] + out["infonce_yx"]) / 2
        out["divergence_sym"] = (out["divergence_xy"] + out["divergence_yx"]) / 2
        out["effective_negatives"] = (out["effective_negatives_xy"] + out["effective_negatives_yx"]) / 2
        out["remainder"] = out["infonce_sym"] - out["energy_sym"] - math.log(size) - self.log_volume
        return out

    def average(self, batches_of: dict[int, list[list[int]]]) -> dict[str, float]:
        """Mean over anchors (a uniform group, a uniform pair in it) of the mean over each anchor's batches."""
        groups = [[p for p in members if p in batches_of] for members in self.members]
        groups = [members for members in groups if members]
        total: dict[str, float] = {}
        for members in groups:
            for anchor in members:
                for name, value in self.losses(anchor, torch.tensor(batches_of[anchor])).items():
                    total[name] = total.get(name, 0.0) + float(value.mean()) / (len(groups) * len(members))
        return total

    def windows(self, negatives: int, *, without: int | None = None) -> dict[int, list[list[int]]]:
        """Each anchor's batches of lent pairs: the layout's windows, formed again where a block is left out."""
        layout = self.layout
        out: dict[int, list[list[int]]] = {}
        for anchor, group in enumerate(self.group_of):
            own = group // layout.size if group < layout.size * layout.blocks else None
            if own is not None and own == without:
                continue
            if negatives == layout.groups - 1:
                kept = [g for g in range(layout.groups) if g != group and g // layout.size != without]
                sets = [kept]
            else:
                first = 0 if own is None else own + 1
                ring = [(first + k) % layout.blocks for k in range(layout.blocks)]
                ring = [b for b in ring if b not in (own, without)]
                sets = window_sets(layout, ring, negatives)
            out[anchor] = [[self.lent[g] for g in chosen] for chosen in sets]
        return out

    def every_batch(self, negatives: int) -> dict[int, list[list[int]]]:
        """All batches there are: other groups, and one pair from each, repeated so that all groups weigh the same."""
        least = math.lcm(*(len(m) for m in self.members))
        lend = [m * (least // len(m)) for m in self.members]
        out = {}
        for anchor, group in enumerate(self.group_of):
            others = [g for g in range(len(self.members)) if g != group]
            out[anchor] = [
                list(batch)
                for chosen in itertools.combinations(others, negatives)
                for batch in itertools.product(*(lend[g] for g in chosen))
            ]
        return out


def window_sets(layout: BlockLayout, ring: Sequence[int], negatives: int) -> list[list[int]]:
    """Groups of each window over a ring of blocks."""
    size = layout.size
    if negatives >= size:
        width = negatives // size
        return [
            list(itertools.chain(*(block_groups(layout, ring[(at + k) % len(ring)]) for k in range(width))))
            for at in range(len(ring))
        ]
    return [[block * size + k for k in part] for block in ring for part in sub_blocks(layout.widths, negatives)]


def block_groups(layout: BlockLayout, block: int) -> Iterable[int]:
    return range(block * layout.size, (block + 1) * layout.size)


def sub_blocks(widths: Sequence[int], negatives: int) -> list[list[int]]:
    """Places within a block of its sub-blocks of a size: its segments of that size, and pairs of smaller sub-blocks."""
    own, at = [], 0
    for width in widths:
        if width == negatives:
            own.append(list(range(at, at + width)))
        at += width
    if negatives == 1:
        return own
    smaller = sub_blocks(widths, negatives // 2)
    return [a + b for a, b in zip(smaller[0::2], smaller[1::2], strict=True)] + own


def random_batches(
    x: Tensor, y: Tensor, groups: Sequence[Sequence[int]], pairs: Tensor, *, tau: float, negatives: int, draws: int
) -> dict[str, tuple[float, float]]:
    """Mean and standard error of the parts over random anchors in random batches, the law drawn from anew each time."""
    g = torch.Generator().manual_seed(negatives)
    first, second = x[pairs[:, 0]].double(), y[pairs[:, 1]].double()
    sizes = torch.tensor([len(m) for m in groups])
    starts = sizes.cumsum(0) - sizes
    flat = torch.tensor(list(itertools.chain(*groups)))
    found: dict[str, list[Tensor]] = {}
    for _ in range(draws // 100):
        order = torch.rand(100, len(groups), generator=g, dtype=torch.float64).argsort(1)[:, : negatives + 1]
        pick = (torch.rand(order.shape, generator=g, dtype=torch.float64) * sizes[order]).long()
        drawn = flat[starts[order] + pick]
        anchor, batch = drawn[:, 0], drawn[:, 1:]
        rows = {"x": first, "y": second}
        own = (first[anchor] * second[anchor]).sum(1) / tau
        logits = {s: torch.einsum("ad,and->an", rows[s[0]][anchor], rows[s[1]][batch]) / tau for s in ANCHORED}
        logs = {s: v.logsumexp(1) for s, v in logits.items()}
        one = {
            "alignment": -own,
            "mean_xx": logs["xx"] - math.log(negatives),
            "mean_yy": logs["yy"] - math.log(negatives),
            "divergence_xy": logs["xx"] - logs["xy"],
            "divergence_yx": logs["yy"] - logs["yx"],
            "infonce_xy": torch.logaddexp(own, logs["xy"]) - own,
            "infonce_yx": torch.logaddexp(own, logs["yx"]) - own,
        }
        for s in ("xy", "yx"):
            one[f"effective_negatives_{s}"] = (2 * logs[s] - (2 * logits[s]).logsumexp(1)).exp()
        one["divergence_sym"] = (one["divergence_xy"] + one["divergence_yx"]) / 2
        one["infonce_sym"] = (one["infonce_xy"] + one["infonce_yx"]) / 2
        one["energy_sym"] = -own + (logs["xy"] + logs["yx"]) / 2 - math.log(negatives)
        one["remainder_and_volume"] = one["infonce_sym"] - one["energy_sym"] - math.log(negatives)
        for name, values in one.items():
            found.setdefault(name, []).append(values)
    joined = {name: torch.cat(values) for name, values in found.items()}
    return {name: (float(v.mean()), float(v.std() / math.sqrt(len(v)))) for name, v in joined.items()}
