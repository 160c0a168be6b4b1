"""Anchors left without a positive or a negative, and pairs outside of the batch: one line says which and why."""

import pytest
import torch

import infomech as im
from infomech.losses import (
    FalseNegatives,
    Guide,
    InfoNCE,
    SigmoidLoss,
    SymmetricInfoNCE,
    infonce,
    sigmoid_loss,
    symmetric_infonce,
)

pytestmark = pytest.mark.usefixtures("unchecked")
TAU = {"temperature": 0.2}
OWN = torch.arange(6)[:, None].expand(6, 2)
ONE_GROUP = torch.zeros(6, dtype=torch.int64)
NEVER = torch.full((6,), -torch.inf)
ALONE = torch.tensor([0, 1, 2, 3, 4, 9])
CASES = {
    "a filter that leaves nothing": (
        lambda x, y: infonce(x, y, false_negatives=FalseNegatives(9.0), **TAU),
        "anchor 0 has no negative left: pass more candidates or negatives, a smaller margin",
    ),
    "a guide that leaves nothing": (
        lambda x, y: symmetric_infonce(
            x, y, false_negatives=FalseNegatives(9.0), guide=Guide(x.detach(), y.detach()), **TAU
        ),
        "row 0 of x has no negative left",
    ),
    "a filter in a module": (
        lambda x, y: SymmetricInfoNCE(0.2, false_negatives=FalseNegatives(9.0))(x, y),
        "row 0 of x has no negative left",
    ),
    "one group": (lambda x, y: infonce(x, y, groups=ONE_GROUP, **TAU), "anchor 0 has no negative left"),
    "one group, both ways": (
        lambda x, y: symmetric_infonce(x, y, groups=ONE_GROUP, **TAU),
        "pair 0 has no negative: its group is the whole batch",
    ),
    "one group of positives": (
        lambda x, y: InfoNCE(0.2, same_group="positive")(x, y, groups=ONE_GROUP),
        "anchor 0 has no negative left",
    ),
    "log-weights that remove all": (
        lambda x, y: infonce(x, y, log_weights=NEVER, groups=torch.arange(6), **TAU),
        "anchor 0 has no negative left",
    ),
    "all that is named is positive": (
        lambda x, y: symmetric_infonce(x[:1], y, pairs=torch.stack([ONE_GROUP, torch.arange(6)], 1), **TAU),
        "row 0 of x has no negative left",
    ),
    "one pair": (lambda x, y: sigmoid_loss(x[:1], y[:1], bias=0.0, **TAU), "the batch holds one pair only"),
    "no row of the group": (
        lambda x, y: infonce(x, y, groups=torch.arange(6), candidate_groups=ALONE, same_group="positive", **TAU),
        "anchor 5 has no positive; drop it or name one",
    ),
    "no row of the group, the other way": (
        lambda x, y: symmetric_infonce(
            x[:5], y, groups=(torch.arange(5), torch.arange(6)), same_group="positive", **TAU
        ),
        "row 5 of y has no positive",
    ),
    "a row of x that nothing names": (
        lambda x, y: symmetric_infonce(x, y, pairs=OWN[1:], **TAU),
        "row 0 of x has no positive",
    ),
    "a row of y that nothing names": (
        lambda x, y: SymmetricInfoNCE(0.2)(x, y, pairs=torch.tensor([[i, max(i, 1)] for i in range(6)])),
        "row 0 of y has no positive",
    ),
    "positives outside": (
        lambda x, y: infonce(x, y, positives=torch.arange(6) + 1, **TAU),
        "positives points outside the 6 anchors and 6 candidates",
    ),
    "pairs outside": (
        lambda x, y: symmetric_infonce(x, y, pairs=OWN - 1, **TAU),
        "pairs points outside the 6 rows of x and 6 rows of y",
    ),
    "true pairs outside": (
        lambda x, y: SigmoidLoss()(x.float(), y.float(), pairs=OWN + 1),
        "pairs points outside the 6 rows of x and 6 rows of y",
    ),
    "a loss for each, of two numbers of rows": (
        lambda x, y: symmetric_infonce(
            x[:5], y, groups=(torch.arange(5), torch.arange(6) % 5), same_group="positive", reduction="none", **TAU
        ),
        "reduction='none' needs row i paired with row i, or one direction",
    ),
    "a log-weight that is no number": (
        lambda x, y: symmetric_infonce(x, y, log_weights_x=NEVER * 0, label_smoothing=0.1, **TAU),
        "log_weights_x has NaN",
    ),
    "groups of one side": (
        lambda x, y: symmetric_infonce(x, y[:5], groups=torch.arange(6), same_group="positive", **TAU),
        "x has 6 rows and y has 5",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_missing(naive, case: str) -> None:
    call, words = CASES[case]
    with pytest.raises(im.InputError) as caught:
        call(naive.rows(6, 5, 1).requires_grad_(), naive.rows(6, 5, 2).requires_grad_())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
