"""Points, laws and partners on two devices are one line; a temperature goes where the points are. A pretended card."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import infomech as im
from infomech import energies, integrations
from infomech._checks import InputError
from pretended_card import move, pretended_card

Call = Callable[[Tensor, Tensor], object]
CALLS: dict[str, Call] = {
    "energy": lambda x, y: energies.energy(x, y, temperature=0.5),
    "symmetric energy": lambda x, y: energies.symmetric_energy(x, y, temperature=0.5),
    "limit of one direction": lambda x, y: energies.directed_limit(x, y, temperature=0.5),
    "limit of the sigmoid loss": lambda x, y: energies.sigmoid_limit(x, y, temperature=0.5),
    "field": lambda x, y: energies.log_partition_field(x, y, temperature=0.5),
    "field of a law": lambda x, y: im.VonMisesFisher(x[0], 2.0).log_partition_field(y, temperature=0.5),
    "density of a law": lambda x, y: im.VonMisesFisher(x[0], 2.0).log_density(y),
    "divergence of laws": lambda x, y: im.VonMisesFisher(x[0], 2.0).kl(im.VonMisesFisher(y[0], 3.0)),
    "critic": lambda x, y: im.RBF(0.5).pairwise(x, y),
    "two views": lambda x, y: integrations.TwoViewInfoNCE()(x, y),
    "a memory": lambda x, y: integrations.LabelledInfoNCE(0.1)(
        x, torch.arange(6), ref_emb=y, ref_labels=torch.arange(6) // 2
    ),
}


def points(seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("name", list(CALLS))
def test_points_on_two_devices_are_one_line(name: str) -> None:
    x, y = points(1), points(2)
    with pretended_card():
        CALLS[name](move(x, "cuda"), move(y, "cuda"))
        for a, b in ((move(x, "cuda"), y), (x, move(y, "cuda"))):
            with pytest.raises(InputError, match=r"is on (cpu|cuda:0) and .* on (cpu|cuda:0); move them to"):
                CALLS[name](a, b)


def test_a_temperature_goes_where_the_points_are() -> None:
    x, y, tau = points(1), points(2), torch.tensor(0.5)
    law = im.VonMisesFisher(y[0], 2.0)
    of_law, of_draws = (energies.log_partition_field(x, w, temperature=tau) for w in (law, y))
    with pretended_card():
        assert energies.log_partition_field(x, law, temperature=move(tau, "cuda")).equal(of_law)
        assert energies.log_partition_field(x, y, temperature=move(tau, "cuda")).equal(of_draws)
