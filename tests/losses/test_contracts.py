"""The contract of paired losses, for every loss of the package, and for one that breaks it."""

import pytest

from infomech.losses import InfoNCE, SigmoidLoss, SymmetricInfoNCE
from infomech.testing import check_loss


@pytest.mark.parametrize(
    "loss",
    [
        SymmetricInfoNCE(0.2),
        SymmetricInfoNCE(0.2, 0.75),
        SymmetricInfoNCE(0.2, 0.75, learn_temperature=True).double(),
        InfoNCE(0.2),
        SigmoidLoss(0.3, bias=-1.0).double(),
        SymmetricInfoNCE(0.2, label_smoothing=0.1),
        SymmetricInfoNCE(0.2, directions=("xy", "yx", "xx", "yy"), partition="joint"),
    ],
    ids=["symmetric", "controlled", "learned", "directed", "sigmoid", "smoothed", "four directions"],
)
def test_losses_keep_the_contract(loss) -> None:
    check_loss(loss)


@pytest.mark.usefixtures("unchecked")
def test_the_contract_can_fail() -> None:
    with pytest.raises(AssertionError, match="order of the pairs"):
        check_loss(lambda x, y: (x * y).sum(1)[0] ** 2)
    with pytest.raises(AssertionError, match="NaN are not refused"):
        check_loss(lambda x, y: (x * y).sum(1).mean())
