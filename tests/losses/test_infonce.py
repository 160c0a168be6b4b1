"""One direction: in-batch, explicit and queued negatives; one positive and several."""

import math

import pytest
import torch

import infomech as im
from infomech.losses import InfoNCE, infonce


def definition(x, y, tau, *, positives, negatives=None, in_batch=True, exclude_own=False, weights=None):
    """Loop over anchors, straight from the formula; `positives` is a list of lists."""
    losses = []
    for i in range(len(x)):
        scores = y @ x[i] / tau
        kept = [j for j in range(len(y)) if not (exclude_own and j == i)]
        extra = [] if negatives is None else [(negatives if negatives.ndim == 2 else negatives[i]) @ x[i] / tau]
        terms = []
        for p in positives[i]:
            pool = scores[kept] if in_batch else scores[[p]]
            terms.append(torch.cat([pool, *extra]).logsumexp(0) - scores[p])
        losses.append(torch.stack(terms).mean())
    losses = torch.stack(losses)
    return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()


def compare(leaves, found, truth) -> None:
    results = []
    for loss in (found, truth):
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.backward()
        results.append((value.detach(), [leaf.grad for leaf in leaves]))
    assert abs(results[0][0] - results[1][0]) < 1e-12 * max(1.0, abs(results[1][0]))
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert (a - b).norm() < 1e-11 * max(b.norm(), 1e-3)


@pytest.fixture
def leaves(naive):
    x, y, more = naive.rows(9, 4, 1), naive.rows(14, 4, 2), naive.rows(5, 4, 3)
    tau = torch.tensor(0.3, dtype=torch.float64)
    return [t.requires_grad_() for t in (x, y, more, tau)]


def test_explicit_positives(leaves) -> None:
    x, y, _, tau = leaves
    index = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 13])  # two anchors share a candidate
    lists = [[int(p)] for p in index]
    compare(
        [x, y, tau],
        lambda: infonce(x, y, temperature=tau, positives=index),
        lambda: definition(x, y, tau, positives=lists),
    )


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("own_sets", [True, False])
def test_further_negatives(leaves, naive, in_batch: bool, own_sets: bool) -> None:
    x, y, more, tau = leaves
    if own_sets:
        more = naive.rows(9 * 3, 4, 5).reshape(9, 3, 4).requires_grad_()
    index = torch.arange(9)
    compare(
        [x, y, more, tau],
        lambda: infonce(x, y, temperature=tau, positives=index, negatives=more, in_batch=in_batch),
        lambda: definition(x, y, tau, positives=[[i] for i in range(9)], negatives=more, in_batch=in_batch),
    )


def test_supervised_contrastive(naive) -> None:
    z = naive.rows(12, 4, 1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3] * 3)
    pairs = torch.nonzero((labels[:, None] == labels[None, :]) & ~torch.eye(12, dtype=torch.bool))
    lists = [[j for j in range(12) if j != i and labels[j] == labels[i]] for i in range(12)]
    weights = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    compare(
        [z, weights],
        lambda: infonce(z, z, temperature=0.2, positives=pairs, exclude_own=True, weights=weights),
        lambda: definition(z, z, 0.2, positives=lists, exclude_own=True, weights=weights),
    )


def test_simclr(naive) -> None:
    z = naive.rows(10, 4, 1).requires_grad_()
    other = torch.arange(10).roll(5)
    compare(
        [z],
        lambda: infonce(z, z, temperature=0.2, positives=other, exclude_own=True),
        lambda: definition(z, z, 0.2, positives=[[int(p)] for p in other], exclude_own=True),
    )


def test_many_tiles(naive) -> None:
    x, y = naive.rows(1030, 3, 1).requires_grad_(), naive.rows(2051, 3, 2).requires_grad_()
    index = torch.randint(0, 2051, (1030,), generator=torch.Generator().manual_seed(0))
    scores = lambda: x @ y.mT / 0.1  # noqa: E731
    compare(
        [x, y],
        lambda: infonce(x, y, temperature=0.1, positives=index),
        lambda: torch.nn.functional.cross_entropy(scores(), index),
    )


def test_two_directions_make_the_symmetric_loss(naive) -> None:
    x, y = naive.rows(40, 4, 1), naive.rows(40, 4, 2)
    both = (infonce(x, y, temperature=0.1) + infonce(y, x, temperature=0.1)) / 2
    assert abs(both - im.losses.symmetric_infonce(x, y, temperature=0.1)) < 1e-12


def test_gradcheck(naive) -> None:
    x, y, more = (naive.rows(n, 3, n).requires_grad_() for n in (4, 5, 6))
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([1, 0, 3, 4])
    torch.autograd.gradcheck(
        lambda a, b, c, t: infonce(a, b, temperature=t, positives=index, negatives=c), (x, y, more, tau)
    )


def test_queue_holds_the_latest_rows(naive) -> None:
    loss = InfoNCE(temperature=0.2, queue_size=7, dim=3, in_batch=False)
    batches = [naive.rows(4, 3, seed).float() for seed in range(5)]
    loss.enqueue(batches[0])
    seen = batches[0]
    for batch in batches[1:]:
        keys = batch.clone().requires_grad_()
        queries = naive.rows(4, 3, 9).float().requires_grad_()
        value = loss(queries, keys)
        value.backward()
        expected = definition(
            queries, keys, 0.2, positives=[[i] for i in range(4)], negatives=seen[-7:], in_batch=False
        )
        assert abs(value - expected) < 1e-5
        seen = torch.cat([seen, batch])
        held = {tuple(row.tolist()) for row in loss.queued()}
        assert held == {tuple(row.tolist()) for row in seen[-7:]}
    loss.eval()
    before = loss.queue.rows.clone()
    loss(batches[0], batches[1])
    assert torch.equal(loss.queue.rows, before)
    again = InfoNCE(temperature=0.2, queue_size=7, dim=3, in_batch=False)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.queued(), loss.queued())


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "name each anchor's positive"),
        ({"positives": torch.tensor([0, 1, 9])}, "points outside"),
        ({"positives": torch.tensor([0, 1])}, r"positives has shape \(2,\)"),
        ({"positives": torch.tensor([[0, 1], [1, 1]])}, "anchor 2 has no positive"),
        ({"positives": torch.tensor([0, 1, 2]), "in_batch": False}, "no negatives"),
        ({"positives": torch.tensor([[0, 1], [0, 2], [1, 1], [2, 0]]), "in_batch": False}, "need in_batch=True"),
        ({"positives": torch.tensor([0, 1, 2]), "negatives": torch.ones(3, 5)}, "negatives is"),
        ({"positives": torch.tensor([0, 1, 2]), "negatives": torch.ones(2, 4, 2)}, "2 sets for 3 anchors"),
        ({"positives": torch.tensor([0, 1, 2]), "negatives": torch.full((2, 2), math.nan)}, "negatives has NaN"),
        ({"positives": torch.tensor([0, 1, 2]), "exclude_own": True}, "one set against itself"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(kwargs, words: str) -> None:
    with pytest.raises(im.InputError, match=words):
        infonce(torch.ones(3, 2), torch.ones(4, 2), temperature=0.1, **kwargs)


def test_own_row_cannot_be_positive_and_excluded() -> None:
    with pytest.raises(im.InputError, match="mend positives"):
        infonce(torch.ones(3, 2), torch.ones(3, 2), temperature=0.1, exclude_own=True)


def test_a_queue_needs_a_width() -> None:
    with pytest.raises(im.InputError, match="a queue needs"):
        InfoNCE(queue_size=4)
