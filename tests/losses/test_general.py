"""Positives, negatives, hardness, filters, smoothing and reductions against softmaxes written out in float64."""

import math
from dataclasses import dataclass, field
from itertools import product

import pytest
import torch

import infomech as im
from infomech import RBF
from infomech.losses import FalseNegatives, Guide, Hardness, infonce, symmetric_infonce


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
            weighted = [s if weight(j) is None else s + weight(j) for s, j in zip(scores, own, strict=True)]
            as_positive = torch.stack(weighted if self.weigh else scores)
            in_sum = as_positive if self.single else torch.stack(weighted)
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
                seen = (
                    self.similarity(self.x[i], self.y[j]) if self.guide is None else self.guide.x[i] @ self.guide.y[j]
                )
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
                    seen = (
                        None if guide is None else self.guide.x[i] @ (guide if guide.ndim == 3 else guide[None])[s, k]
                    )
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


PAIRS = torch.tensor(
    [[i, j] for i in range(11) for j in {(3 * i) % 17, (5 * i + 1) % 17} | ({16} if i % 4 == 0 else set())]
)
LISTS = [[int(j) for i, j in PAIRS if i == a] for a in range(11)]
ONE = torch.tensor([(3 * i) % 17 for i in range(11)])


def guides(naive, lists, k=4):
    """A guide that finds most positives the nearest."""
    x, noise = naive.rows(11, k, 7), 0.2 * naive.rows(17, k, 8)
    near = [sum((x[i] for i, own in enumerate(lists) if j in own), torch.zeros(k, dtype=x.dtype)) for j in range(17)]
    y = naive.unit(noise + torch.stack(near))
    return Guide(x, y, negatives_y=naive.rows(33, k, 9).reshape(11, 3, k))


@pytest.mark.parametrize("several", ["mean_log", "log_mean"])
@pytest.mark.parametrize("filtered", ["no", "own", "guide"])
@pytest.mark.parametrize("negatives", ["none", "shared", "sets", "everyones"])
@pytest.mark.parametrize("positives", ["one", "several"])
def test_everything_together(naive, several, filtered, negatives, positives) -> None:
    x, y, sets, tau = batch(naive)
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(11, generator=generator, dtype=torch.float64).requires_grad_()
    logs, own_logs = (
        torch.randn(17, generator=generator).double().requires_grad_(),
        torch.randn(11, 3, generator=generator).double(),
    )
    groups, of_candidates = torch.arange(11) % 6, torch.arange(17) % 9
    left_out = {(i, j) for i, j in product(range(11), range(17)) if groups[i] == of_candidates[j]}
    explicit = {"none": None, "shared": sets.detach()[0], "sets": sets, "everyones": sets}[negatives]
    own_logs = {"none": None, "shared": own_logs[0]}.get(negatives, own_logs)
    lists, guide = LISTS if positives == "several" else [[int(j)] for j in ONE], None
    if filtered == "guide":
        guide = guides(naive, lists)
        guide = guide._replace(
            negatives_y={"none": None, "shared": guide.negatives_y[0]}.get(negatives, guide.negatives_y)
        )
    options = {
        "several": several,
        "hardness": Hardness(3.0, on="all_negatives"),
        "log_weights": logs,
        "negative_log_weights": own_logs,
    }
    cut = (
        None if filtered == "no" else FalseNegatives(0.4 if filtered == "guide" else 0.05, relative=filtered == "guide")
    )
    truth = Written(
        x, y, tau, lists, explicit, shared=negatives == "everyones", left_out=left_out, cut=cut, guide=guide,
        smoothing=0.1, **options,
    )  # fmt: skip
    compare(
        [x, y, tau, weights, logs, *([sets] if negatives in ("sets", "everyones") else [])],
        lambda: infonce(
            x, y, temperature=tau, positives=PAIRS if positives == "several" else ONE, negatives=explicit,
            groups=groups, candidate_groups=of_candidates, weights=weights, false_negatives=cut, guide=guide,
            label_smoothing=0.1, share_negatives=negatives == "everyones", **options,
        ),
        lambda: naive.mean(truth.losses(), weights),
    )  # fmt: skip
    assert (truth.taken_out >= 3) == (cut is not None)


@pytest.mark.parametrize("several", ["mean_log", "log_mean"])
@pytest.mark.parametrize("positives", ["pairs", "groups", "both"])
def test_images_and_captions(naive, several, positives) -> None:
    x, y, _, tau = batch(naive)
    generator = torch.Generator().manual_seed(5)
    weights = tuple(torch.rand(n, generator=generator, dtype=torch.float64).requires_grad_() for n in (11, 17))
    pairs = torch.tensor(sorted({(i % 11, i) for i in range(17)} | {(0, 3), (4, 16)}))
    of_x, of_y = torch.arange(11) % 4, torch.arange(17) % 4
    options = {"several": several, "temperature": tau, "weights": weights}
    same = {(i, j) for i, j in product(range(11), range(17)) if of_x[i] == of_y[j]}
    if positives == "pairs":
        options["pairs"], left_out = pairs, set()
    elif positives == "groups":
        options |= {"groups": (of_x, of_y), "same_group": "positive"}
        pairs, left_out = torch.tensor(sorted(same)), set()
    else:
        options |= {"groups": (of_x, of_y), "pairs": pairs}
        left_out = same
    lists = [[int(j) for i, j in pairs if i == a] for a in range(11)]
    back = [[int(i) for i, j in pairs if j == b] for b in range(17)]
    one = Written(x, y, tau, lists, left_out=left_out, several=several)
    two = Written(y, x, tau, back, left_out={(j, i) for i, j in left_out}, several=several)
    compare(
        [x, y, tau, *weights],
        lambda: symmetric_infonce(x, y, **options),
        lambda: (naive.mean(one.losses(), weights[0]) + naive.mean(two.losses(), weights[1])) / 2,
    )


def written_joint(
    x, y, tau, directions, *, sets=None, hardness=None, cut=None, smoothing=0.0, critic=None, groups=None
):
    """One softmax for a pair, written with whole matrices."""
    critic = critic or im.Cosine()
    n = len(x)
    same = torch.eye(n, dtype=torch.bool) if groups is None else groups[:, None] == groups[None, :]
    every = y if sets is None else torch.cat([y, sets.transpose(0, 1).flatten(0, 1)])
    k = len(every) // n
    sims = {
        "xy": critic.pairwise(x, every),
        "yx": critic.pairwise(y, x),
        "xx": critic.pairwise(x, x),
        "yy": critic.pairwise(y, every),
    }
    own = sims["xy"].diagonal()
    parts = []
    for way in directions:
        sim = sims[way]
        logits = sim / tau
        mine = torch.eye(n, dtype=torch.bool).repeat(1, k if way[1] == "y" else 1)
        first = torch.arange(sim.shape[1]) < n
        positive = mine & first if way in ("xy", "yx") else torch.zeros_like(mine)
        if hardness is not None and way in hardness.directions:
            at = {"in_batch_negatives": ~mine, "hard_negatives": mine & ~first, "all_negatives": ~positive}[hardness.on]
            logits = logits + hardness.strength * torch.where(at, sim.detach(), 0.0)
        left = torch.zeros_like(mine)
        left[:, :n] = same & ~positive[:, :n]
        if way == "yy":
            left |= mine
        if cut is not None:
            left |= (sim > own[:, None] - cut.margin) & ~positive
        parts.append(logits.masked_fill(left, -math.inf))
    whole = torch.cat(parts, 1)
    there = whole > -math.inf
    total = whole.logsumexp(1)
    mean = torch.where(there, whole, 0.0).sum(1) / there.sum(1)
    return (1 - smoothing) * (total - own / tau) + smoothing * (total - mean)


@pytest.mark.parametrize("directions", [("xy",), ("xy", "xx"), ("yx", "yy"), ("xy", "yx"), ("xy", "yx", "xx", "yy")])
@pytest.mark.parametrize("kind", ["plain", "sets", "hardness", "filter", "smoothing", "critic", "groups"])
def test_one_softmax_of_several_directions(naive, directions, kind) -> None:
    x, y = naive.rows(11, 5, 1).requires_grad_(), naive.rows(11, 5, 2).requires_grad_()
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    sets = naive.rows(22, 5, 3).reshape(11, 2, 5).requires_grad_()
    weights = torch.rand(11, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    leaves, given, options, truth = [x, y, tau], {}, {}, {}
    if kind in ("sets", "hardness"):
        given = {"negatives_y": sets, "share_negatives": True}
        truth["sets"] = sets
        leaves += [sets] if {"xy", "yy"} & set(directions) else []
    if kind == "hardness":
        options["hardness"] = truth["hardness"] = Hardness(4.0, on="in_batch_negatives", directions=("xy",))
    if kind == "filter":
        options["false_negatives"] = truth["cut"] = FalseNegatives(-0.3)
    if kind == "smoothing":
        options["label_smoothing"] = truth["smoothing"] = 0.2
    if kind == "critic":
        options["critic"] = truth["critic"] = RBF(0.6)
        x, y = (torch.linspace(0.5, 1.5, 11, dtype=torch.float64)[:, None] * z.detach() for z in (x, y))
        leaves = [x.requires_grad_(), y.requires_grad_(), tau]
    if kind == "groups":
        options["groups"] = truth["groups"] = torch.arange(11) % 6
    compare(
        leaves,
        lambda: symmetric_infonce(
            x, y, temperature=tau, directions=directions, partition="joint", weights=weights, **given, **options
        ),
        lambda: naive.mean(written_joint(x, y, tau, directions, **truth), weights),
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_reductions(naive, weighted) -> None:
    """The losses of the anchors, or of the pairs over both directions, their sum and their mean."""
    x, y = naive.rows(11, 5, 1).requires_grad_(), naive.rows(11, 5, 2).requires_grad_()
    tau = torch.tensor(0.2, dtype=torch.float64)
    own = [[i] for i in range(11)]
    weights = torch.rand(11, generator=torch.Generator().manual_seed(5), dtype=torch.float64) if weighted else None
    shares = torch.ones(11) if weights is None else weights
    pull = torch.linspace(-1, 1, 11, dtype=torch.float64)
    options = {"temperature": tau, "weights": weights}
    for loss, truth in (
        (infonce, lambda: Written(x, y, tau, own).losses() * shares),
        (symmetric_infonce, lambda: (Written(x, y, tau, own).losses() + Written(y, x, tau, own).losses()) / 2 * shares),
    ):
        compare(
            [x, y],
            lambda loss=loss: pull @ loss(x, y, reduction="none", **options),
            lambda truth=truth: pull @ truth(),
        )
        compare([x, y], lambda loss=loss: loss(x, y, reduction="sum", **options), lambda truth=truth: truth().sum())


SHARED = {
    "filter": {"false_negatives": FalseNegatives(0.05)},
    "relative filter": {"false_negatives": FalseNegatives(0.2, relative=True), "label_smoothing": 0.1},
    "guide": {"false_negatives": FalseNegatives(0.2)},
    "hardness": {"hardness": Hardness(3.0), "label_smoothing": 0.2},
    "all": {"hardness": Hardness(3.0), "false_negatives": FalseNegatives(0.2), "label_smoothing": 0.2},
    "smoothing": {"label_smoothing": 0.2, "weigh_positive": True},
}


@pytest.mark.parametrize("tau", [0.2, 0.001], ids=["one shift", "running maxima"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", list(SHARED))
def test_both_directions_in_one_sweep_are_the_two(naive, monkeypatch, kind, grouped, tau) -> None:
    """`infonce` is compared with softmaxes written out above; both directions share their products, in tiles."""
    monkeypatch.setattr("infomech.reductions.losses.passes.tile_shape", lambda device: (5, 4))
    monkeypatch.setattr("infomech.reductions.losses.kept.tile_shape", lambda device: (5, 4))
    monkeypatch.setattr("infomech.reductions.losses.linear.tile_shape", lambda device: (5, 4))
    x = naive.rows(11, 5, 1).requires_grad_()
    y = naive.unit(x.detach() + 0.8 * naive.rows(11, 5, 2)).requires_grad_()
    tau = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(5)
    weights, u, v = (torch.rand(11, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3))
    seen = naive.rows(11, 4, 7)
    given = SHARED[kind] | {"temperature": tau, "weights": weights}
    if grouped:
        given["groups"] = torch.arange(11) % 6
    guide, back = {}, {}
    if kind in ("guide", "all"):
        guide["guide"] = Guide(seen, naive.unit(seen + 0.5 * naive.rows(11, 4, 8)))
        back["guide"] = Guide(guide["guide"].y, guide["guide"].x)
    compare(
        [x, y, tau, weights, u, v],
        lambda: symmetric_infonce(x, y, log_weights_x=u, log_weights_y=v, **guide, **given),
        lambda: (infonce(x, y, log_weights=v, **guide, **given) + infonce(y, x, log_weights=u, **back, **given)) / 2,
    )
    loss = symmetric_infonce(x, y, **guide, **given)
    if "false_negatives" in given and tau > 0.1:
        assert abs(loss - symmetric_infonce(x, y, **given | {"false_negatives": None})) > 1e-6


def test_groups_of_both_sides_leave_out_no_positive(naive) -> None:
    """A pair whose rows are of two groups is still not its own negative."""
    x, y = naive.rows(11, 5, 1), naive.rows(11, 5, 2)
    of_x, of_y = torch.arange(11) % 6, torch.arange(11) % 4
    own = [[i] for i in range(11)]
    left = {(i, j) for i, j in product(range(11), range(11)) if of_x[i] == of_y[j]}
    parts = [
        Written(x, y, 0.2, own, left_out=left).losses(),
        Written(y, x, 0.2, own, left_out={(j, i) for i, j in left}).losses(),
    ]
    found = symmetric_infonce(x, y, temperature=0.2, groups=(of_x, of_y), reduction="none")
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("several", ["mean_log", "log_mean"])
def test_positives_that_no_sum_counts_have_gradients(naive, several) -> None:
    """A log-weight of -inf on an anchor's only positive: the limit of a small one."""
    x, y = naive.rows(5, 3, 1).requires_grad_(), naive.rows(5, 3, 2).requires_grad_()
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 2], [3, 3], [4, 4]])
    found = []
    for least in (-math.inf, -100.0):
        weights = torch.tensor([0.0, 0.3, least, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
        losses = infonce(x, y, positives=pairs, log_weights=weights, temperature=0.2, several=several, reduction="none")
        found.append([losses, *torch.autograd.grad(losses.sum(), [x, y, weights])])
    for ours, limit in zip(*found, strict=True):
        torch.testing.assert_close(ours, limit, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plain", [True, False])
def test_own_negatives_that_all_weigh_nothing_have_no_gradient(naive, plain) -> None:
    """An anchor none of whose explicit negatives counts still has those of the batch."""
    x, y = naive.rows(4, 3, 1).requires_grad_(), naive.rows(4, 3, 2).requires_grad_()
    negatives = naive.rows(8, 3, 3).view(4, 2, 3).requires_grad_()
    found = []
    for least in (-math.inf, -100.0):
        weights = torch.tensor([[0.0, 0.3], [least, least], [0.1, least], [0.2, 0.0]], dtype=torch.float64)
        weights.requires_grad_()
        losses = infonce(
            *(x, y), negatives=negatives, negative_log_weights=weights, temperature=0.2,
            reduction="mean" if plain else "none",
        )  # fmt: skip
        found.append([losses, *torch.autograd.grad(losses.sum(), [x, y, negatives, weights])])
    for ours, limit in zip(*found, strict=True):
        torch.testing.assert_close(ours, limit, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("listed", [True, False])
def test_labels_are_not_smoothed_over_positives_that_weigh_nothing(naive, listed) -> None:
    """What a log-weight of -inf removes does not stand in the softmax, be it one of several positives."""
    x, y = naive.rows(5, 3, 1).requires_grad_(), naive.rows(5, 3, 2).requires_grad_()
    weights = torch.tensor([0.0, 0.3, -math.inf, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1, 2])
    named = groups[:, None] == groups[None, :]
    options = {"positives": named.nonzero()} if listed else {"groups": groups, "same_group": "positive"}
    bare = x @ y.T / 0.2
    there = weights.detach() > -math.inf
    logits = (bare + weights)[:, there]
    total = logits.logsumexp(1)
    true = total - torch.where(named, bare, 0.0).sum(1) / named.sum(1)
    compare(
        [x, y],
        lambda: infonce(x, y, temperature=0.2, log_weights=weights, label_smoothing=0.2, **options),
        lambda: (0.8 * true + 0.2 * (total - logits.mean(1))).mean(),
    )


@pytest.mark.parametrize("several", ["mean_log", "log_mean"])
def test_an_anchor_itself_may_be_of_another_group(naive, several) -> None:
    """What is left out as the anchor itself is then no positive of it that would have to be taken away."""
    x = naive.rows(7, 3, 1).requires_grad_()
    of_anchors, of_candidates = torch.tensor([0, 0, 1, 1, 2, 2, 0]), torch.tensor([0, 1, 1, 0, 2, 2, 0])
    named = (of_anchors[:, None] == of_candidates[None, :]) & ~torch.eye(7, dtype=torch.bool)
    options = {"temperature": 0.2, "several": several, "exclude_own": True}
    groups = {"groups": of_anchors, "candidate_groups": of_candidates, "same_group": "positive"}
    compare(
        [x],
        lambda: infonce(x, x, **groups, **options),
        lambda: infonce(x, x, positives=named.nonzero(), **options),
    )
