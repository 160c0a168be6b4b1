"""What else a loss is given may lie on the CPU while its rows are on a card; rows may not. On a pretended card."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from infomech import losses
from infomech._checks import InputError
from pretended_card import pretended_card

N = 8
NUMBERS, GROUPS = torch.linspace(0.1, 1, N), torch.arange(N) // 2
TAU = {"temperature": 0.1}
CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weights": lambda x, y: losses.symmetric_infonce(x, y, weights=NUMBERS, **TAU),
    "groups": lambda x, y: losses.symmetric_infonce(x, y, groups=GROUPS, **TAU),
    "log-weights": lambda x, y: losses.symmetric_infonce(x, y, log_weights_x=NUMBERS, log_weights_y=NUMBERS, **TAU),
    "temperature": lambda x, y: losses.symmetric_infonce(
        x, y, temperature=torch.tensor(0.1), divergence_weight=torch.tensor(0.5)
    ),
    "one direction, weights": lambda x, y: losses.infonce(x, y, weights=NUMBERS, **TAU),
    "positives": lambda x, y: losses.infonce(x, y, positives=torch.arange(N).flip(0), **TAU),
    "bias": lambda x, y: losses.sigmoid_loss(x, y, bias=torch.tensor(-1.0), log_weights_x=NUMBERS, **TAU),
    "questions by group": lambda x, y: losses.sigmoid_loss(x, y, bias=-1.0, groups=GROUPS, **TAU),
    "several modalities": lambda x, y: losses.pairwise_infonce([x, y, x], weights=NUMBERS, **TAU),
}


def rows() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(N, 4, generator=g), dim=1) for _ in range(2))
    return x, y


@pytest.mark.parametrize("name", list(CASES))
def test_what_goes_with_rows_is_moved_to_them(name: str) -> None:
    x, y = rows()
    there = CASES[name](x, y)
    with pretended_card():
        here = CASES[name](x.to("cuda"), y.to("cuda"))
        assert here.device.type == "cuda"
        assert float(here) == pytest.approx(float(there), rel=1e-5)


def test_rows_on_two_devices_are_one_line() -> None:
    x, y = rows()
    with pretended_card():
        with pytest.raises(InputError, match="anchors is on cuda:0 and candidates on cpu; move them to one device"):
            losses.infonce(x.to("cuda"), y, **TAU)
        with pytest.raises(InputError, match="negatives is on cpu and anchors on cuda:0; move them to one device"):
            losses.infonce(x.to("cuda"), y.to("cuda"), negatives=y, **TAU)


@pytest.mark.parametrize("part", range(4))
def test_a_guide_on_another_device_is_one_line(part: int) -> None:
    x, y = rows()
    wanted = losses.FalseNegatives(-0.4)
    with pretended_card():
        there = [x.to("cuda") for _ in range(4)]
        there[part] = x
        with pytest.raises(InputError, match=r"^the guide is on cpu and the rows on cuda:0; move it to them$"):
            losses.symmetric_infonce(
                *(z.to("cuda") for z in (x, y)),
                negatives_x=x.to("cuda"),
                negatives_y=y.to("cuda"),
                guide=losses.Guide(*there),
                false_negatives=wanted,
                **TAU,
            )


@pytest.mark.parametrize("kind", [losses.InfoNCE, losses.SymmetricInfoNCE])
def test_a_queue_on_another_device_is_one_line_at_once(kind: type[losses.InfoNCE | losses.SymmetricInfoNCE]) -> None:
    """Not at the second call, when the first has filled it."""
    x, y = rows()
    loss = kind(0.1, queue_size=20, dim=4)
    with (
        pretended_card(),
        pytest.raises(InputError, match=r"^the queue is on cpu and the rows on cuda:0; move the loss to them$"),
    ):
        loss(x.to("cuda"), y.to("cuda"))
