"""Rows of past batches as negatives, and as positives where their labels say so, against softmaxes written out."""

import math

import pytest
import torch

import infomech as im
from infomech.losses import FalseNegatives, Guide, Hardness, InfoNCE, SymmetricInfoNCE, infonce

TAU = 0.2


def batches(naive, count: int = 4, n: int = 6):
    """Batches with groups, some of which come again."""
    for seed in range(count):
        groups = (torch.arange(n) * (seed + 1)) % 7
        yield naive.rows(n, 5, 2 * seed + 1), naive.rows(n, 5, 2 * seed + 2), groups


def latest(batches_seen, size: int):
    """The last rows that went in: of x, of y, and their groups."""
    return [torch.cat(parts)[-size:] for parts in zip(*batches_seen, strict=True)]


def direction(x, y, groups, past_rows, past_groups, *, labelled: bool):
    """-log softmax of each row's partner against all y and the past, same groups left out but for the partner."""
    scores = torch.cat([x @ y.mT, x @ past_rows.mT], 1) / TAU
    if labelled:
        same = groups[:, None] == torch.cat([groups, past_groups])[None, :]
        scores = scores.masked_fill(same & ~torch.eye(*scores.shape, dtype=torch.bool), -math.inf)
    return (scores.logsumexp(1) - scores.diagonal()).mean()


def compare(leaves, found, truth) -> None:
    assert abs(found - truth) < 1e-12 * abs(truth)
    for a, b in zip(
        torch.autograd.grad(found, leaves, retain_graph=True), torch.autograd.grad(truth, leaves), strict=True
    ):
        assert (a - b).norm() < 1e-11 * b.norm()


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_both_sides(naive, labelled: bool, weight: float) -> None:
    loss = SymmetricInfoNCE(TAU, weight, queue_size=15, dim=5).double()
    plain = SymmetricInfoNCE(TAU, weight)
    seen = []
    for x, y, groups in batches(naive):
        x, y = x.requires_grad_(), y.requires_grad_()
        given = {"groups": groups} if labelled else {}
        found = loss(x, y, **given)
        if not seen:
            compare([x, y], found, plain(x, y, **given))
        else:
            past_x, past_y, past = latest(seen, 15)
            truth = (
                direction(x, y, groups, past_y, past, labelled=labelled)
                + direction(y, x, groups, past_x, past, labelled=labelled)
            ) / 2
            if weight:
                truth = truth + weight * naive.symmetric_terms(x, y, TAU, **given)[1]
            compare([x, y], found, truth)
        found.backward()
        seen.append((x.detach(), y.detach(), groups))
    for rows, held in zip(latest(seen, 15), (*loss.queued(), loss.queue_x.groups), strict=False):
        if labelled or rows.ndim == 2:
            assert sorted(map(str, rows.tolist())) == sorted(map(str, held.tolist()))


def test_the_past_may_hold_positives(naive) -> None:
    """Cross-batch memory: rows of the anchor's label are positives, wherever they come from."""
    for several in ("mean_log", "log_mean"):
        loss = InfoNCE(TAU, queue_size=15, dim=5, same_group="positive", several=several).double()
        seen = []
        for x, y, groups in batches(naive):
            x, y = x.requires_grad_(), y.requires_grad_()
            found = loss(x, y, groups=groups)
            rows, labels = y, groups
            if seen:
                past_y, past = latest(seen, 15)
                rows, labels = torch.cat([y, past_y]), torch.cat([groups, past])
            truth = infonce(
                x, rows, temperature=TAU, groups=groups, candidate_groups=labels, same_group="positive", several=several
            )
            compare([x, y], found, truth)
            found.backward()
            seen.append((y.detach(), groups))


def test_with_everything_else(naive) -> None:
    """Sets of negatives, hardness, a filter and smoothing: the past is one more block of in-batch negatives."""
    settings = {"hardness": Hardness(2.0), "label_smoothing": 0.1, "false_negatives": FalseNegatives(-0.5)}
    loss = InfoNCE(TAU, queue_size=8, dim=5, **settings).double()
    (past, *_), (x, y, _) = batches(naive, 2, 8)
    loss.enqueue(past)
    x, y, sets = x.requires_grad_(), y.requires_grad_(), naive.rows(16, 5, 9).reshape(8, 2, 5).requires_grad_()
    truth = infonce(x, torch.cat([y, past]), positives=torch.arange(8), temperature=TAU, negatives=sets, **settings)
    compare([x, y, sets], loss(x, y, negatives=sets), truth)


def test_four_directions(naive) -> None:
    loss = SymmetricInfoNCE(TAU, queue_size=6, dim=5, directions=("xy", "yx", "xx", "yy"), partition="joint").double()
    (past_x, past_y, past), (x, y, groups) = batches(naive, 2)
    loss.enqueue(past_x, past_y, past)
    x, y = x.requires_grad_(), y.requires_grad_()
    eye = torch.eye(6, dtype=torch.bool)
    parts = []
    for a, b, before in ((x, y, past_y), (y, x, past_x), (x, x, past_x), (y, y, past_y)):
        scores = torch.cat([a @ b.mT, a @ before.mT], 1) / TAU
        left = groups[:, None] == torch.cat([groups, past])[None, :]
        if a is not b:
            left[:, :6] &= ~eye
        parts.append(scores.masked_fill(left, -math.inf))
    own = (x * y).sum(1) / TAU
    compare([x, y], loss(x, y, groups=groups), (torch.cat(parts, 1).logsumexp(1) - own).mean())


def test_one_direction_remembers_both_sides(naive) -> None:
    loss = SymmetricInfoNCE(TAU, queue_size=6, dim=5, directions=("xy",)).double()
    x, y, _ = next(iter(batches(naive)))
    loss(x, y)
    for held, rows in zip(loss.queued(), (x, y), strict=True):
        assert torch.equal(held, rows)


def test_rows_without_a_label_are_negatives_of_all(naive) -> None:
    loss = SymmetricInfoNCE(TAU, queue_size=6, dim=5).double()
    (past_x, past_y, past), (x, y, groups) = batches(naive, 2)
    loss.enqueue(past_x, past_y)
    strangers = torch.full_like(past, 99)
    truth = (
        direction(x, y, groups, past_y, strangers, labelled=True)
        + direction(y, x, groups, past_x, strangers, labelled=True)
    ) / 2
    assert loss(x, y, groups=groups).item() == pytest.approx(truth.item(), rel=1e-12)


def guided_batches(naive, count: int = 3):
    """Batches with groups and a guide's rows, to which some of the other pairs look as good as the true ones."""
    for seed, (x, y, groups) in enumerate(batches(naive, count)):
        seen = naive.rows(6, 4, 30 + seed)
        yield x, y, groups, Guide(seen, naive.unit(seen + 0.5 * naive.rows(6, 4, 40 + seed)))


CUT = FalseNegatives(0.3)


@pytest.mark.parametrize("same_group", ["exclude", "positive"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_guide_filters_the_past_too(naive, same_group: str, relative: bool) -> None:
    cut = FalseNegatives(0.3, relative=True) if relative else CUT
    settings = {"false_negatives": cut, "same_group": same_group}
    loss = InfoNCE(TAU, queue_size=9, dim=5, guide_dim=4, **settings).double()
    past = []
    for x, y, groups, guide in guided_batches(naive):
        x, y = x.requires_grad_(), y.requires_grad_()
        rows, labels, seen = (torch.cat([new, *old]) for new, *old in zip((y, groups, guide.y), *past, strict=True))
        given = {"positives": torch.arange(6)} if same_group == "exclude" else {}
        given |= {"temperature": TAU, "groups": groups, "candidate_groups": labels} | settings
        truth = infonce(x, rows, guide=Guide(guide.x, seen), **given)
        unfiltered = infonce(x, rows, guide=Guide(guide.x, seen), **given | {"false_negatives": FalseNegatives(-9.0)})
        assert abs(truth - unfiltered) > 1e-3
        found = loss(x, y, groups=groups, guide=guide)
        compare([x, y], found, truth)
        found.backward()
        past = [latest([*past, (y.detach(), groups, guide.y)], 9)]


def test_a_guide_filters_the_past_of_both_sides(naive) -> None:
    loss = SymmetricInfoNCE(TAU, queue_size=6, dim=5, guide_dim=4, false_negatives=CUT).double()
    (*old, past, before), (x, y, groups, guide) = guided_batches(naive, 2)
    loss.enqueue(*old, past, before)
    x, y = x.requires_grad_(), y.requires_grad_()
    call = {"temperature": TAU, "false_negatives": CUT, "positives": torch.arange(6), "groups": groups}
    call["candidate_groups"] = torch.cat([groups, past])
    truth = (
        infonce(x, torch.cat([y, old[1]]), guide=Guide(guide.x, torch.cat([guide.y, before.y])), **call)
        + infonce(y, torch.cat([x, old[0]]), guide=Guide(guide.y, torch.cat([guide.x, before.x])), **call)
    ) / 2
    found = loss(x, y, groups=groups, guide=guide)
    compare([x, y], found, truth)
    found.backward()
    assert torch.equal(loss.queue_x.guides, guide.x)
    assert torch.equal(loss.queue_y.guides, guide.y)


def test_a_guide_filters_the_past_of_several_directions(naive) -> None:
    """GIST's softmax over three directions, with rows of past batches in each of them."""
    directions = ("xy", "xx", "yy")
    loss = SymmetricInfoNCE(
        TAU, queue_size=6, dim=5, guide_dim=4, directions=directions, partition="joint", false_negatives=CUT
    ).double()
    (*old, _, before), (x, y, _, guide) = guided_batches(naive, 2)
    loss.enqueue(*old, guide=before)
    x, y = x.requires_grad_(), y.requires_grad_()
    limit = (guide.x * guide.y).sum(1, keepdim=True) - 0.3
    rows, past = {"x": (x, guide.x), "y": (y, guide.y)}, {"x": (old[0], before.x), "y": (old[1], before.y)}
    parts, eye = [], torch.eye(6, 12, dtype=torch.bool)
    for a, b in directions:
        (anchors, of_anchors), (others, of_others), (more, of_more) = rows[a], rows[b], past[b]
        scores = anchors @ torch.cat([others, more]).mT / TAU
        left = of_anchors @ torch.cat([of_others, of_more]).mT > limit
        left = left & ~eye if a != b else left | eye
        parts.append(scores.masked_fill(left, -math.inf))
    truth = (torch.cat(parts, 1).logsumexp(1) - (x * y).sum(1) / TAU).mean()
    compare([x, y], loss(x, y, guide=guide), truth)


@pytest.mark.usefixtures("unchecked")
def test_a_guide_and_a_queue_in_one_line(naive) -> None:
    x, y, groups, guide = next(guided_batches(naive))
    kept = InfoNCE(TAU, queue_size=9, dim=5, guide_dim=4, false_negatives=CUT).double()
    bare = InfoNCE(TAU, queue_size=9, dim=5, false_negatives=CUT).double()
    for call, words in (
        (lambda: InfoNCE(TAU, guide_dim=4), "guide_dim is for the guide's rows beside a queue"),
        (lambda: InfoNCE(TAU, queue_size=4, dim=5, guide_dim=0), "guide_dim is 0"),
        (lambda: kept(x, y), "keeps a guide's rows of 4 features beside its own; got none"),
        (lambda: kept(x, y, guide=Guide(guide.x[:, :3], guide.y[:, :3])), r"got shape \(6, 3\)"),
        (lambda: kept.enqueue(y), "got none"),
        (lambda: bare(x, y, guide=guide), "the queue keeps no guide's rows, so none of it would be filtered"),
    ):
        with pytest.raises(im.InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    state = kept.state_dict()
    assert state["queue.guides"].shape == (9, 4)
    assert "queue.guides" not in bare.state_dict()
    assert torch.isfinite(kept(x, y, groups=groups, guide=guide))


def test_state_and_normalised_rows(naive) -> None:
    loss = SymmetricInfoNCE(TAU, queue_size=10, dim=5, normalize=True).double()
    for x, y, groups in batches(naive, 3):
        loss(3.0 * x, y / 2, groups=groups)
    assert all(torch.allclose(rows.norm(dim=1), torch.ones(10).double()) for rows in loss.queued())
    again = SymmetricInfoNCE(TAU, queue_size=10, dim=5, normalize=True).double()
    again.load_state_dict(loss.state_dict())
    again.eval()
    loss.eval()
    assert torch.equal(loss(x, y, groups=groups), again(x, y, groups=groups))
    assert not SymmetricInfoNCE(TAU).state_dict()


def test_places_that_hold_nothing(naive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can look, on a GPU or in compiled code, all places go along, and empty ones count for nothing."""
    x, y, groups = next(iter(batches(naive)))
    for make in (
        lambda: InfoNCE(TAU, queue_size=20, dim=5).double(),
        lambda: InfoNCE(TAU, queue_size=20, dim=5, same_group="positive", several="log_mean").double(),
    ):
        loss = make().eval()
        loss.enqueue(naive.rows(6, 5, 8), groups.roll(1))
        given = {} if loss.same_group == "exclude" else {"groups": groups}
        known = loss(x, y, **given)
        with monkeypatch.context() as patch:
            patch.setattr("infomech.losses.memory.without_values", lambda *_: True)
            assert loss(x, y, **given).item() == pytest.approx(known.item(), rel=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_bad_input(naive) -> None:
    x, y, groups = next(iter(batches(naive)))
    for call, words in (
        (lambda: SymmetricInfoNCE(queue_size=4), "a queue needs a size and dim"),
        (lambda: SymmetricInfoNCE(queue_size=-1, dim=3), "a queue needs a size and dim"),
        (lambda: SymmetricInfoNCE(TAU).queued(), "this loss has no queue"),
        (lambda: InfoNCE(TAU).enqueue(x), "this loss has no queue"),
        (lambda: InfoNCE(TAU, queue_size=4, dim=3).enqueue(x), "the queue holds rows of 3 features; got 5"),
    ):
        with pytest.raises(im.InputError, match=words):
            call()
    for loss in (SymmetricInfoNCE(TAU, queue_size=4, dim=3), InfoNCE(TAU, queue_size=4, dim=3)):
        with pytest.raises(im.InputError, match=r"the queue holds rows of 3 features; got 5"):
            loss(x, y)  # before anything is computed, though the queue is empty
    loss = InfoNCE(TAU, queue_size=4, dim=5, same_group="positive", in_batch=False)
    loss.enqueue(x)
    with pytest.raises(im.InputError, match="the rows of a queue are candidates"):
        loss(x, y, groups=groups)


@pytest.mark.parametrize("make", [InfoNCE, SymmetricInfoNCE])
def test_groups_that_a_queue_would_cut_are_refused_at_the_first_call(naive, make) -> None:
    x, y, groups = naive.rows(6, 4, 1), naive.rows(6, 4, 2), torch.arange(6) / 4
    loss = make(queue_size=6, dim=4)
    words = "groups is torch.float32, and a queue keeps whole numbers: pass groups.long"
    with pytest.raises(im.InputError, match=words):
        loss(x, y, groups=groups)
    with pytest.raises(im.InputError, match=words):
        loss.enqueue(*((x,) if make is InfoNCE else (x, y)), groups=groups)
    assert make()(x, y, groups=groups).isfinite()
    assert loss(x, y, groups=groups.mul(4).long()).isfinite()
