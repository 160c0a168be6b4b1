"""What a report does on an accelerator, seen on a pretended one: the CPU's numbers, few launches, few host reads."""

import pytest
import torch
from torch import Tensor

import infomech as im
from infomech.diagnosis.estimate import Estimate
from pretended_card import OnCard, launches, pretended_card, reads

Sample = tuple[Tensor, Tensor, Tensor]


def drawn(dtype: torch.dtype = torch.float32) -> Sample:
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(300, 32, generator=g, dtype=dtype), dim=1)
    own = torch.arange(300).repeat_interleave(2)
    y = x[own] + 0.2 * torch.randn(600, 32, generator=g, dtype=dtype) + 0.05
    return x, torch.nn.functional.normalize(y, dim=1), torch.stack([own, torch.arange(600)], 1)


def check_equal(here: Estimate, there: Estimate, name: str, dtype: torch.dtype) -> None:
    close = 1e-10 if dtype == torch.float64 else 2e-5  # sums in another order; of float32, its rounding
    for field in ("value", "stderr", "low", "high"):
        a, b = (float(getattr(e, field)) for e in (here, there))
        assert a == pytest.approx(b, rel=50 * close, abs=5 * close, nan_ok=True), (name, field)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_budget_is_the_cpus(dtype: torch.dtype) -> None:
    x, y, pairs = drawn(dtype)
    there = im.decompose(x, y, temperature=0.1, pairs=pairs)
    with pretended_card() as seen:
        here = im.decompose(x.to("cuda"), y.to("cuda"), temperature=0.1, pairs=pairs)
    for name, value in vars(there).items():
        if isinstance(value, Estimate):
            check_equal(getattr(here, name), value, name, x.dtype)
    assert launches(seen) < 1700
    assert reads(seen) < 200


def test_the_gap_is_the_cpus() -> None:
    x, y, pairs = drawn()
    there = im.gap(x, y, pairs=pairs)
    with pretended_card() as seen:
        here = im.gap(x.to("cuda"), y.to("cuda"), pairs=pairs)
    for name, value in there.items():
        check_equal(here[name], value, name, x.dtype)
    assert launches(seen) < 3200
    assert reads(seen) < 400


def test_a_diagnosis_is_the_cpus() -> None:
    x, y, pairs = drawn()
    there = im.diagnose(x, y, temperature=0.1, pairs=pairs)
    with pretended_card() as seen:
        here = im.diagnose(x.to("cuda"), y.to("cuda"), temperature=0.1, pairs=pairs)
    for name, value in {**there.gap, **there.retrieval}.items():
        check_equal({**here.gap, **here.retrieval}[name], value, name, x.dtype)
    assert [f.title for f in here.findings] == [f.title for f in there.findings]
    assert launches(seen) < 6000
    assert reads(seen) < 600


def test_shared_information_of_partners_that_score_highest_by_far_takes_no_more_launches() -> None:
    """Kernels at the coldest temperatures need a level of their own in every block."""
    x, y, pairs = drawn()
    y = torch.nn.functional.normalize(x[pairs[:, 0]] + 0.02 * y, dim=1)
    there = im.shared_information(x, y, pairs=pairs)
    with pretended_card() as seen:
        here = im.shared_information(x.to("cuda"), y.to("cuda"), pairs=pairs)
    check_equal(here.information, there.information, "information", x.dtype)
    check_equal(here.temperature, there.temperature, "temperature", x.dtype)
    assert launches(seen) < 2500
    assert reads(seen) < 250


def test_the_card_refuses_what_a_card_refuses() -> None:
    with pretended_card():
        x = torch.eye(3).to("cuda")
        assert isinstance(x, OnCard)
        with pytest.raises(RuntimeError, match="same device"):
            x @ torch.eye(3)
        with pytest.raises((TypeError, RuntimeError)):
            x.numpy()
