"""Positives, negatives, hardness, filters, smoothing and reductions against softmaxes written out in float64."""

import math
from dataclasses import dataclass, field
from itertools import product

import pytest
import torch

import infomech as im
from infomech import RBF
from infomech.losses import FalseNegatives, Guide, Hardness, infonce


@dataclass
class Written:
    """One direction, written out: a softmax for every anchor, over a list of logits."""

    x: torch.Tensor
    y: torch.Tensor
    tau: torch.Tensor
    positives: list  # lists of candidates
    negatives: torch.Tensor | None = None
    shared: bool = False
    left_out: set = field(default_factory=set)  # (anchor, candidate)
    several: str = "mean_log"
    hardness: Hardness | None = None
    cut: FalseNegatives | None = None
    guide: Guide | None = None
    smoothing: float = 0.0
    critic: object = None
    log_weights: torch.Tensor | None = None
    negative_log_weights: torch.Tensor | None = None
    weigh: bool = False
    in_batch: bool = True
    taken_out: int = 0  # by the filter, counted

    def similarity(self, a, b):
        return (self.critic or im.Cosine()).pointwise(a, b)

    def logit(self, a, b, weight, *, explicit):
        s = self.similarity(a, b)
        strength = 0.0 if self.hardness is None else self.hardness.strength_of(explicit=explicit)
        return s / self.tau + strength * s.detach() + (0.0 if weight is None else weight)

    def losses(self):
        found = []
        for i in range(len(self.x)):
            own = self.positives[i]
            weight = lambda j: None if self.log_weights is None else self.log_weights[j]  # noqa: E731
            scores = [self.similarity(self.x[i], self.y[j]) / self.tau for j in own]
            as_positive = torch.stack([s + (weight(j) if self.weigh and weight(j) is not None else 0) for s, j in zip(scores, own)])
            in_sum = as_positive if len(own) == 1 and self.single else torch.stack(
                [s + (weight(j) if weight(j) is not None else 0) for s, j in zip(scores, own)]
            )
            threshold = math.inf
            if self.cut is not None:
                if self.guide is None:
                    near = [float(self.similarity(self.x[i], self.y[j]).detach()) for j in own]
                else:
                    near = [float(self.guide.x[i] @ self.guide.y[j]) for j in own]
                near = sum(near) / len(near)
                threshold = near - (abs(near) * self.cut.margin if self.cut.relative else self.cut.margin)
            rest = []
            for j in range(len(self.y)) if self.in_batch else ():
                if j in own or (i, j) in self.left_out:
                    continue
                seen = self.similarity(self.x[i], self.y[j]) if self.guide is None else self.guide.x[i] @ self.guide.y[j]
                if self.cut is not None and seen > threshold:
                    self.taken_out += 1
                    continue
                rest.append(self.logit(self.x[i], self.y[j], weight(j), explicit=False))
            for row, w, explicit, seen in self.explicit(i):
                if self.cut is not None and seen is not None and seen > threshold:
                    self.taken_out += 1
                    continue
                rest.append(self.logit(self.x[i], row, w, explicit=explicit))
            everything = torch.cat([in_sum, torch.stack(rest)])
            total = everything.logsumexp(0)
            if self.several == "mean_log" or self.single:
                loss = total - as_positive.mean()
            else:
                loss = total - (as_positive.logsumexp(0) - math.log(len(own)))
            found.append((1 - self.smoothing) * loss + self.smoothing * (total - everything.mean()))
        return torch.stack(found)

    @property
    def single(self):
        return all(len(own) == 1 for own in self.positives)

    def explicit(self, i):
        if self.negatives is None:
            return
        w, guide = self.negative_log_weights, None if self.guide is None else self.guide.negatives_y
        sets = self.negatives if self.negatives.ndim == 3 else self.negatives[None]
        for s in range(len(sets)):
            mine = self.negatives.ndim == 2 or s == i
            if not (mine or self.shared):
                continue
            for k in range(sets.shape[1]):
                row = sets[s, k]
                weight = None if w is None else (w if w.ndim == 2 else w[None])[s, k]
                if self.guide is None:
                    seen = self.similarity(self.x[i], row)
                else:
                    seen = None if guide is None else self.guide.x[i] @ (guide if guide.ndim == 3 else guide[None])[s, k]
                yield row, weight, mine, seen


def compare(leaves, found, truth, *, tolerance=1e-11):
    results = []
    for loss in (found, truth):
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.backward()
        results.append((value.detach(), [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves]))
    assert abs(results[0][0] - results[1][0]) < tolerance * max(1.0, abs(results[1][0]))
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert (a - b).norm() < 10 * tolerance * max(b.norm(), 1e-3)


def batch(naive, n=11, m=17, d=5, k=3):
    x, y = naive.rows(n, d, 1), naive.rows(m, d, 2)
    tau = torch.tensor(0.2, dtype=torch.float64)
    return [t.requires_grad_() for t in (x, y, naive.rows(n * k, d, 3).reshape(n, k, d), tau)]


PAIRS = torch.tensor([[i, j] for i in range(11) for j in {(3 * i) % 17, (5 * i + 1) % 17} | ({16} if i % 4 == 0 else set())])
LISTS = [[int(j) for i, j in PAIRS if i == a] for a in range(11)]
ONE = torch.tensor([(3 * i) % 17 for i in range(11)])


def guides(naive, k=4):
    return Guide(naive.rows(11, k, 7), naive.rows(17, k, 8), negatives_y=naive.rows(33, k, 9).reshape(11, 3, k))


@pytest.mark.parametrize("several", ["mean_log", "log_mean"])
@pytest.mark.parametrize("filtered", ["no", "own", "guide"])
@pytest.mark.parametrize("negatives", ["none", "shared", "sets", "everyones"])
@pytest.mark.parametrize("positives", ["one", "several"])
def test_everything_together(naive, several, filtered, negatives, positives) -> None:
    x, y, sets, tau = batch(naive)
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(11, generator=generator, dtype=torch.float64).requires_grad_()
    logs, own_logs = torch.randn(17, generator=generator).double().requires_grad_(), torch.randn(11, 3, generator=generator).double()
    groups, of_candidates = torch.arange(11) % 6, torch.arange(17) % 9
    left_out = {(i, j) for i, j in product(range(11), range(17)) if groups[i] == of_candidates[j]}
    explicit = {"none": None, "shared": sets.detach()[0], "sets": sets, "everyones": sets}[negatives]
    own_logs = {"none": None, "shared": own_logs[0]}.get(negatives, own_logs)
    guide = None
    if filtered == "guide":
        guide = guides(naive)
        guide = guide._replace(negatives_y={"none": None, "shared": guide.negatives_y[0]}.get(negatives, guide.negatives_y))
    options = {
        "several": several,
        "hardness": Hardness(3.0, on="all_negatives"),
        "log_weights": logs,
        "negative_log_weights": own_logs,
    }
    cut = None if filtered == "no" else FalseNegatives(0.05, relative=filtered == "guide")
    lists = LISTS if positives == "several" else [[int(j)] for j in ONE]
    truth = Written(
        x, y, tau, lists, explicit, shared=negatives == "everyones", left_out=left_out, cut=cut, guide=guide,
        smoothing=0.1, **options,
    )  # fmt: skip
    compare(
        [x, y, tau, weights, logs, *([sets] if negatives in ("sets", "everyones") else [])],
        lambda: infonce(
            x, y, temperature=tau, positives=PAIRS if positives == "several" else ONE, negatives=explicit, groups=groups,
            candidate_groups=of_candidates, weights=weights, false_negatives=cut, guide=guide, label_smoothing=0.1,
            share_negatives=negatives == "everyones", **options,
        ),
        lambda: naive.mean(truth.losses(), weights),
    )  # fmt: skip
    assert (truth.taken_out > 10) == (cut is not None)
