"""Each claim of the landscape holds, at several seeds; and each check rejects what it must not accept."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch

from infomech.experiments.claims.claim import Outcome
from infomech.experiments.claims.consistency import check_t1, check_t2, check_t6
from infomech.experiments.claims.control import check_t10, check_t11
from infomech.experiments.claims.coupling import check_t8, check_t9
from infomech.experiments.claims.equilibrium import check_t13
from infomech.experiments.claims.estimates import captioned, check_c1, check_e1
from infomech.experiments.claims.finite_world import measure_direction, multinomial_counts, random_world
from infomech.experiments.claims.landscape import check_t3, check_t4, check_t5, check_t7, order_at_zero
from infomech.experiments.claims.trained_gap import check_t12
from infomech.experiments.claims.written_out import log_sphere_integral, tied_together
from infomech.reductions import torch_threads

CHECKS = [
    check_t1,
    check_t2,
    check_t6,
    check_t3,
    check_t4,
    check_t5,
    check_t7,
    check_t8,
    check_t9,
    check_t10,
    check_t11,
    pytest.param(check_t12, marks=pytest.mark.slow, id="check_t12"),
    check_t13,
    check_c1,
    check_e1,
]
UNTRAINED = {"others": (), "trained_at": ()}  # what the statement does not need
TRAINED = {"others": (), "trained_at": (0.4,), "draws": 4}


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with torch_threads(1):
        yield


def holds(outcome: Outcome) -> bool:
    return all(evidence.holds for evidence in outcome.evidence)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_claim_holds(check: Callable[..., Outcome], seed: int) -> None:
    outcome = check(seed)
    assert [e for e in outcome.evidence if not e.holds] == []
    assert outcome.pictures


WRONG = [
    (check_t1, {"rate": -0.5, "draws": 5}),
    (check_t1, {"rate": -1.02, "draws": 5}),
    (check_t1, {"offset": math.log(2), "draws": 5}),  # another count of the terms
    (check_t1, {"offset": 1e-4, "draws": 5}),
    (check_t6, {"offset": 1e-4, "draws": 20}),
    (check_t1, {"positive_share": 0.0, "draws": 5}),  # the positive adds nothing to its own denominator
    (check_t1, {"curvature_share": -1.0, "draws": 5}),  # the logarithm raises the loss
    (check_t2, {"rate": -1.0, "draws": 20}),
    (check_t2, {"rate": -0.45, "draws": 20}),
    (check_t2, {"noise": 2.0, "draws": 20}),
    (check_t2, {"noise": 0.98, "draws": 20}),
    (check_t6, {"rate": -1.0, "draws": 20}),
    (check_t6, {"rate": -0.48, "draws": 20}),
    (check_t6, {"value_rate": -0.5, "draws": 20}),
    (check_t6, {"noise": 0.5, "draws": 20}),  # as if both directions had their negatives in common
    (check_t3, {"minimiser_exponent": 1.0}),  # another sign
    (check_t3, {"minimiser_exponent": -1.01}),  # a minimiser a little too sharp
    (check_t3, {"curvature": 0.5}),
    (check_t4, {"rate": -1.0}),  # mass would leave the minimisers
    (check_t4, {"rate": 1.01}),
    (check_t4, {"cap_exponent": -0.9}),
    (check_t5, {"bound_factor": 0.01}),
    (check_t5, {"order": 1.0}),
    (check_t5, {"leading": 1 / 8}),
    (check_t5, {"leading": -1 / 4}),
    (check_t7, {"divergence_coefficient": 1.0}),
    (check_t7, {"divergence_coefficient": 0.0}),
    (check_t7, {"order": 0.5}),
    (check_t7, {"order": 2.0}),
    (check_t8, {"curvature": 0.5}),  # convex
    (check_t8, {"barrier_sign": -1.0}),  # the other modality attracts
    (check_t8, {"strength": 1.25}),
    (check_t8, {"strength": 0.8}),
    (check_t8, {"strength": 1.001}),
    (check_t8, {"barrier_sign": 0.0}),  # the other modality does not matter
    (check_t9, {"exponent": -0.5}),
    (check_t9, {"exponent": 1.0}),
    (check_t9, {"bound_factor": 0.0}),  # some matched law is stationary all the same
    (check_t10, {"difference": 3 / 8}),
    (check_t10, {"difference": -1 / 8}),
    (check_t10, {"common": -1 / 8}),
    (check_t10, {"growth_per_coefficient": -2.0}),
    (check_t11, {"critical": 0.5}),
    (check_t11, {"critical": 1.0}),
    (check_t11, {"critical": 0.7501}),
    (check_t11, {"sharp_share": 0.0}),  # no dependence on temperature: 1/2 for ever
    (check_t11, {"sharp_share": 0.5}),
    (check_t11, {"over_modalities": 0.75}),
    (check_t11, {"reward_left": 0.0}),  # 3/4 would take the whole reward away
    (check_t11, {"growth_left": (0.0, 0.001)}),  # or all of the growth, around any law
    (check_t12, {"aligned": 1e-6, **UNTRAINED}),  # a gap without misalignment
    (check_t12, {"at_04": 0.0240, **UNTRAINED}),
    (check_t12, {"at_07": 0.0833, **UNTRAINED}),
    (check_t12, {"trained_share": 0.96, **TRAINED}),
    (check_t12, {"trained_share": 1.04, **TRAINED}),
    (check_t13, {"ratio": 1.0, "temperatures": (0.1,)}),  # the Gibbs law
    (check_t13, {"ratio": 1.662, "temperatures": (0.1,)}),
    (check_t13, {"limit": 1.0, "temperatures": (0.1,)}),
    (check_t13, {"limit": 5 / 3, "temperatures": (0.1,)}),
    (check_t13, {"limit": 1.619, "temperatures": (0.1,)}),
    (check_t13, {"collapse": 1.0, "temperatures": (0.1,)}),  # as steep as the kernel is not enough
    (check_t13, {"collapse": 2.00001, "temperatures": (0.1,)}),
    (check_t13, {"held_gap": 0.0, "temperatures": (0.1,)}),  # J would tend to F along the Gibbs laws too
    (check_t13, {"held_gap": -0.1927, "temperatures": (0.1,)}),
    (check_t13, {"steeper": (1 + math.sqrt(5)) / 2, "temperatures": (0.1,)}),  # one ratio for every potential
    (check_t13, {"atoms": 2, "temperatures": (0.1,)}),
    (check_t13, {"atoms": 4, "temperatures": (0.1,)}),
    (check_c1, {"share": 0.0}),
    (check_c1, {"share": 2.0}),
    (check_c1, {"left": 0.0}),
    (check_e1, {"divergence_sign": 1.0}),
    (check_e1, {"tolerance": 1e-18}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("check", "statement"), WRONG, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_wrong_statement_is_rejected(check: Callable[..., Outcome], statement: dict) -> None:
    assert not holds(check(0, **statement))


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _ in WRONG} == {getattr(check, "values", (check,))[0] for check in CHECKS}


def test_expectations_over_all_batches_against_drawn_ones_by_autograd() -> None:
    """Moments of value and gradient at N = 3, by listing the 27 equally ordered batches one by one."""
    world = random_world(4, modalities=1)
    exact = measure_direction(world, (3,))
    law = world.negatives_law
    value, square = torch.zeros((), dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    for batch in itertools.product(range(3), repeat=3):
        encoder = world.encoders[0].clone().requires_grad_()
        scores = world.scores(encoder, encoder)
        terms = torch.cat([scores[:, :, None], scores[:, None, list(batch)].expand(3, 3, 3)], 2)
        loss = (world.pairs * (terms.logsumexp(2) - scores)).sum()
        (gradient,) = torch.autograd.grad(loss, encoder)
        probability = law[list(batch)].prod()
        value = value + probability * (loss.detach() - math.log(3))
        square = square + probability * (gradient.flatten() - exact.gradient).square()
    assert torch.allclose(exact.losses[0], value, rtol=1e-12)
    assert torch.allclose(exact.squares[0], square, rtol=1e-10)
    encoder = world.encoders[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(world.limit(world.scores(encoder, encoder)), encoder)
    assert torch.allclose(exact.gradient, gradient.flatten(), rtol=1e-10)


def test_multinomial_counts() -> None:
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    n, weight = multinomial_counts(40, law)
    assert len(n) == 41 * 42 // 2
    assert weight.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(weight @ n, 40 * law)


def test_integrals_over_spheres() -> None:
    """The area, and a vMF normaliser in closed form: 4 pi sinh(k) / k."""
    assert log_sphere_integral(2, lambda t: 0.0) == pytest.approx(math.log(2 * math.pi), abs=1e-12)
    assert log_sphere_integral(6, lambda t: 0.0) == pytest.approx(3 * math.log(math.pi), abs=1e-12)
    found = log_sphere_integral(3, lambda t: 100 * math.cos(t))
    assert found == pytest.approx(math.log(2 * math.pi / 100) + 100, abs=1e-10)


def test_groups_are_chains_of_shared_rows() -> None:
    pairs = torch.tensor([[0, 0], [1, 1], [1, 0], [2, 2], [3, 3], [3, 4], [4, 4]])
    assert tied_together(pairs).tolist() == [0, 0, 0, 3, 4, 4, 4]
    chain = torch.tensor([[k // 2, (k + 1) // 2] for k in range(40)])  # each pair shares a row with the next
    assert set(tied_together(chain).tolist()) == {0}
    x, y, drawn = captioned(0)
    assert len(x) == 10
    assert len(y) == len(drawn)  # one caption of two images, one of none
    assert len(set(tied_together(drawn).tolist())) == 9


def test_order_at_zero_of_a_known_power() -> None:
    x = [0.1, 0.2, 0.4, 0.8]
    order, error = order_at_zero(x, [v**1.5 * (1 + 0.3 * v) for v in x])
    assert abs(order - 1.5) < error < 0.1
