"""What energies cannot use is refused in one line, whichever function it meets."""

from collections.abc import Callable

import pytest
import torch

import infomech as im
from infomech import energies as e
from infomech.equilibria import LatentAngles, encoded_divergence
from infomech.geometry import Sphere, quadrature_rule
from infomech.measures import Density

X = torch.nn.functional.normalize(torch.arange(12, dtype=torch.float64).reshape(4, 3).sin(), dim=1)
LAW = Density.uniform(quadrature_rule(Sphere(2), 16))
U = LAW.quadrature.nodes[:, 0]
EYE = torch.eye(2, dtype=torch.float64)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: e.energy(X, X[:3], temperature=1.0), "4 rows and 3 partners"),
        (lambda: e.energy(X, X[:, :2], temperature=1.0), "share one embedding space"),
        (lambda: e.energy(X, X, temperature=-1.0), "temperature is -1"),
        (lambda: e.symmetric_energy(X, X[:3], temperature=1.0), "4 rows and 3 partners"),
        (lambda: e.directed_limit(X, X[:3], temperature=1.0), "4 rows and 3 partners"),
        (lambda: e.sigmoid_limit(X, X[:3], temperature=1.0), "4 rows and 3 partners"),
        (lambda: e.alignment_potential(X, X), r"positives have shape \(4, 3\)"),
        (lambda: e.alignment_potential(X, X[:3, None]), r"for 4 points give \(n, k, 3\)"),
        (lambda: e.fisher_information(LAW, U[:3]), r"direction has \(3,\) values for 16 nodes"),
        (lambda: e.intrinsic_variation(LAW, U[:3], temperature=1.0), r"potential has \(3,\) values"),
        (lambda: e.intrinsic_variation(LAW, U, temperature=-1.0), "temperature is -1"),
        (lambda: e.intrinsic_variation_sym(LAW, LAW, (U, U), temperature=0.0), "temperature is 0"),
        (lambda: e.intrinsic_second_variation(LAW, U[:3]), "direction has"),
        (lambda: e.intrinsic_second_variation_sym(LAW, LAW, (U, U[:3])), "direction 2 has"),
        (lambda: encoded_divergence(LatentAngles(), EYE), "encoders have shape"),
        (lambda: encoded_divergence(LatentAngles(), torch.stack([EYE, 0 * EYE])), "encoder is singular"),
    ],
)
def test_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(im.InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
