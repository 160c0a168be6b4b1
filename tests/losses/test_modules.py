"""The modules are their functions, with every option, and hold nothing more than before."""

import copy
import pickle

import pytest
import torch

import infomech as im
from infomech.losses import (
    FalseNegatives,
    Guide,
    Hardness,
    InfoNCE,
    PairwiseInfoNCE,
    SymmetricInfoNCE,
    infonce,
    pairwise_infonce,
    symmetric_infonce,
)

PAIRS = torch.tensor([[0, 0], [0, 3], [1, 1], [2, 2], [3, 4], [4, 5], [5, 6], [5, 0], [6, 6], [7, 7], [8, 8], [8, 1]])
GROUPS = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 2])
SETTINGS_OF_SYMMETRIC = {
    "plain": ({}, ()),
    "groups": ({"same_group": "positive", "several": "log_mean"}, ("groups",)),
    "excluded": ({"divergence_weight": 0.5}, ("groups", "weights", "log_weights_x")),
    "pairs": ({"several": "log_mean", "label_smoothing": 0.1}, ("pairs", "two weights")),
    "four directions": (
        {"directions": ("xy", "yx", "xx", "yy"), "partition": "joint", "share_negatives": True},
        ("negatives_y",),
    ),
    "one direction": ({"directions": ("yx",)}, ("negatives_x",)),
    "hard and filtered": (
        {"hardness": Hardness(2.0), "false_negatives": FalseNegatives(-0.4)},
        ("negatives_y", "guide"),
    ),
    "shared only where there are some": ({"share_negatives": True}, ()),
    "controlled": ({"divergence_weight": 0.5, "label_smoothing": 0.1}, ()),
    "each": ({"reduction": "none", "weigh_positive": True}, ("weights", "log_weights_x")),
    "sum": ({"reduction": "sum", "normalize": True}, ()),
}
SETTINGS_OF_ONE = {
    "plain": ({}, ("weights",)),
    "groups": ({"same_group": "positive", "several": "log_mean"}, ("groups",)),
    "labelled candidates": ({"same_group": "positive"}, ("groups", "candidate_groups")),
    "excluded": ({}, ("groups", "log_weights")),
    "several": ({"several": "log_mean", "label_smoothing": 0.2}, ("positives",)),
    "sets": ({"share_negatives": True, "hardness": Hardness(2.0, on="hard_negatives")}, ("negatives",)),
    "labelled negatives": ({"share_negatives": True}, ("groups", "few", "negative_groups")),
    "guided": ({"false_negatives": FalseNegatives(-0.4)}, ("guide",)),
    "each": ({"reduction": "none", "in_batch": False}, ("few", "negative_log_weights")),
}


def batch(naive) -> dict[str, object]:
    sets = naive.rows(18, 5, 3).reshape(9, 2, 5).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    logs = torch.randn(9, generator=generator, dtype=torch.float64).requires_grad_()
    return {
        "x": naive.rows(9, 5, 1).requires_grad_(),
        "y": naive.rows(9, 5, 2).requires_grad_(),
        "pairs": PAIRS,
        "positives": PAIRS,
        "groups": GROUPS,
        "candidate_groups": GROUPS.roll(1),
        "weights": torch.rand(9, generator=generator, dtype=torch.float64),
        "two weights": tuple(torch.rand(9, generator=generator, dtype=torch.float64) for _ in "xy"),
        "log_weights": logs,
        "log_weights_x": logs,
        "negative_log_weights": torch.tensor([0.3, -0.2, 0.1]),
        "negative_groups": torch.tensor([0, 9, 4]),
        "negatives": sets,
        "negatives_x": sets,
        "negatives_y": sets,
        "few": naive.rows(3, 5, 6),
        "guide": Guide(naive.rows(9, 4, 7), naive.rows(9, 4, 8)),
    }


NAMES = {"two weights": "weights", "few": "negatives"}


def chosen(b: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {NAMES.get(name, name): b[name] for name in names}


def same(b: dict[str, object], module, function) -> None:
    """Values and gradients of rows, explicit negatives and log-weights, to the last digit."""
    leaves = [t for t in b.values() if isinstance(t, torch.Tensor) and t.requires_grad]
    found = []
    for loss in (module, function):
        value = loss()
        found.append((value, torch.autograd.grad(value.sum(), leaves, allow_unused=True)))
    assert torch.equal(found[0][0], found[1][0])
    for one, two in zip(*(gradients for _, gradients in found), strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
    assert any(g is not None and g.any() for g in found[0][1])


@pytest.mark.parametrize("kind", SETTINGS_OF_SYMMETRIC)
@pytest.mark.parametrize("how", [lambda loss: loss, copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_symmetric(naive, kind: str, how) -> None:
    settings, names = SETTINGS_OF_SYMMETRIC[kind]
    b = batch(naive)
    given = chosen(b, names)
    loss = how(SymmetricInfoNCE(0.2, **settings))
    if kind == "shared only where there are some":
        settings = {}  # a function is told so in each call
    same(
        b,
        lambda: loss(b["x"], b["y"], **given),
        lambda: symmetric_infonce(b["x"], b["y"], temperature=0.2, **settings, **given),
    )


@pytest.mark.parametrize("kind", SETTINGS_OF_ONE)
@pytest.mark.parametrize("how", [lambda loss: loss, copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_one_direction(naive, kind: str, how) -> None:
    settings, names = SETTINGS_OF_ONE[kind]
    b = batch(naive)
    given = chosen(b, names)
    loss = how(InfoNCE(0.2, **settings))
    if kind == "labelled negatives":
        settings = {}  # shared rows are not shared again
    same(
        b, lambda: loss(b["x"], b["y"], **given), lambda: infonce(b["x"], b["y"], temperature=0.2, **settings, **given)
    )


def test_pairwise(naive) -> None:
    b = batch(naive)
    rows = [b["x"], b["y"], b["x"].roll(1, 0)]
    loss = PairwiseInfoNCE(0.2, 0.5)
    same(b, lambda: loss(rows), lambda: pairwise_infonce(rows, temperature=0.2, divergence_weight=0.5))


def test_a_learned_temperature_gets_its_gradient(naive) -> None:
    b = batch(naive)
    loss = SymmetricInfoNCE(0.2, learn_temperature=True, same_group="positive").double()
    loss(b["x"], b["y"], groups=GROUPS).backward()
    tau = torch.tensor(loss.temperature.item(), dtype=torch.float64, requires_grad=True)
    symmetric_infonce(b["x"], b["y"], groups=GROUPS, same_group="positive", temperature=tau).backward()
    assert loss.log_scale.grad.item() == pytest.approx(-tau.grad.item() * tau.item(), rel=1e-12)


def test_settings_leave_no_trace_in_state_or_words() -> None:
    hard = {"hardness": Hardness(2.0), "false_negatives": FalseNegatives(0.1), "label_smoothing": 0.1}
    for plain, full in (
        (SymmetricInfoNCE(0.2), SymmetricInfoNCE(0.2, same_group="positive", several="log_mean", **hard)),
        (InfoNCE(0.2), InfoNCE(0.2, same_group="positive", several="log_mean", reduction="sum", **hard)),
    ):
        assert plain.state_dict().keys() == full.state_dict().keys()
        assert repr(plain) == repr(full)
        full.load_state_dict(plain.state_dict())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"several": "mean"}, "several is 'mean'"),
        ({"reduction": "avg"}, "reduction is 'avg'"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1"),
        ({"same_group": "drop"}, "same_group is 'drop'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_are_checked_when_a_loss_is_made(settings, words: str) -> None:
    for make in (SymmetricInfoNCE, InfoNCE):
        with pytest.raises(im.InputError, match=words) as caught:
            make(0.1, **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(im.InputError, match="partition='joint'"):
        SymmetricInfoNCE(0.1, directions=("xy", "yx", "xx"))


def test_a_loss_for_each_pair_that_is_not_finite_is_looked_into(naive) -> None:
    x, y = naive.rows(9, 5, 1), naive.rows(9, 5, 2)
    loss = SymmetricInfoNCE(0.2, reduction="none")
    loss(x, y)
    x[4, 2] = torch.nan
    with pytest.raises(im.InputError, match="row 4"):
        loss(x, y)
