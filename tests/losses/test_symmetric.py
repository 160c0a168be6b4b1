"""The symmetric loss against naive double precision, closed forms, and its own invariances."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import infomech as im
from infomech.losses import SymmetricInfoNCE, symmetric_infonce, symmetric_terms
from infomech.reductions import shifts
from infomech.reductions.losses import kept


def fresh(*tensors, dtype=torch.float64):
    return [t.detach().to(dtype, copy=True).requires_grad_() for t in tensors]


def value_and_gradients(loss, leaves):
    for leaf in leaves:
        leaf.grad = None
    value = loss()
    value.backward()
    return value.detach().double(), [leaf.grad.double() for leaf in leaves]


def norm_error(found, truth):
    return ((found - truth).norm() / truth.norm()).item()


def test_closed_forms() -> None:
    n, tau = 700, 0.5
    one = torch.zeros(n, 3, dtype=torch.float64)
    one[:, 0] = 1.0
    # Collapse: every candidate is alike, and the marginals are equal.
    terms = symmetric_terms(one, one, temperature=tau)
    assert abs(terms.infonce.item() - math.log(n)) < 1e-14 * n
    assert abs(terms.divergence.item()) < 1e-12
    # Opposite collapse: the gap is as wide as it can be, and InfoNCE does not see it.
    terms = symmetric_terms(one, -one, temperature=tau)
    assert abs(terms.infonce.item() - math.log(n)) < 1e-14 * n
    assert abs(terms.divergence.item() - 2 / tau) < 1e-12
    # Orthogonal pairs.
    eye = torch.eye(n, dtype=torch.float64)
    terms = symmetric_terms(eye, eye, temperature=tau)
    assert abs(terms.infonce.item() - math.log1p((n - 1) * math.exp(-1 / tau))) < 1e-13
    assert abs(terms.divergence.item()) < 1e-12


@pytest.mark.parametrize("n", [2, 3, 511, 513, 1025, 1337])
@pytest.mark.parametrize("weight", [0.0, 0.75])
def test_float64_parity_at_sizes_that_no_tile_divides(naive, n: int, weight: float) -> None:
    x, y = naive.rows(n, 7, 1), naive.rows(n, 7, 2)
    tau = torch.tensor(0.1, dtype=torch.float64)
    leaves = fresh(x, y, tau)
    expected = value_and_gradients(lambda: naive.symmetric(*leaves, weight), leaves)
    found = value_and_gradients(
        lambda: symmetric_infonce(leaves[0], leaves[1], temperature=leaves[2], divergence_weight=weight), leaves
    )
    assert abs(found[0] - expected[0]) <= 1e-12 * abs(expected[0])
    for a, b in zip(found[1], expected[1], strict=True):
        assert norm_error(a, b) < 1e-11


def hard_inputs(naive, name: str):
    n, d = 700, 48
    x, y = naive.rows(n, d, 1), naive.rows(n, d, 2)
    duplicates = torch.arange(n) % 100
    return {
        "random": (x, y),
        "close": (x, naive.unit(x + 0.05 * naive.rows(n, d, 3) * d**0.5)),
        "aligned": (x, x),
        "duplicates": (x[duplicates], y[duplicates]),
        "duplicates aligned": (x[duplicates], x[duplicates]),
        "collapse": (x[:1].expand(n, d), x[:1].expand(n, d)),
        "opposite collapse": (x[:1].expand(n, d), -x[:1].expand(n, d)),
        "any norm": (5 * x, 3 * y),
    }[name]


NAMES = [
    "random", "close", "aligned", "duplicates", "duplicates aligned", "collapse", "opposite collapse", "any norm",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tau", [1.0, 0.07, 0.01])
@pytest.mark.parametrize("weight", [0.0, 0.75])
def test_float32_accuracy(naive, name: str, tau: float, weight: float) -> None:
    """1e-6 in the loss and 1e-5 in the gradients, of the size of the parts that they are the difference of.

    A score of size S = max|s|/tau cannot be known in float32 to better than about S 2^-24, and an exponential's
    relative error is its score's absolute one. A loss far below 1 nat is a sum of exponentials: it inherits that.
    """
    x, y = (t.float() for t in hard_inputs(naive, name))
    temperature = torch.tensor(tau, dtype=torch.float64)
    leaves = fresh(x, y, temperature)
    truth = value_and_gradients(lambda: naive.symmetric(*leaves, weight), leaves)
    leaves32 = [*fresh(x, y, dtype=torch.float32), *fresh(temperature)]
    found = value_and_gradients(
        lambda: symmetric_infonce(leaves32[0], leaves32[1], temperature=leaves32[2], divergence_weight=weight),
        leaves32,
    )
    largest = [z.norm(dim=1).max().item() for z in (x, y)]
    largest_score = (max(largest) ** 2 if weight else math.prod(largest)) / tau
    scale = abs(truth[0].item()) if weight == 0.0 else max(abs(truth[0].item()), 1.0)  # Dsym: a difference of sums
    allowed = 1e-6 if abs(truth[0]) > 1e-2 else max(1e-6, 2**-24 * largest_score)
    assert abs(found[0] - truth[0]) <= allowed * scale
    # The gradient is a mean of rows of size 1/tau that may cancel to nothing (collapse): then the parts give the scale.
    n = len(x)
    parts = [y.norm().item() / (tau * n), x.norm().item() / (tau * n), largest_score / tau]
    shrink = min(1.0, max(abs(truth[0].item()), weight))  # the softmax weights of an easy batch are all this small
    for a, b, part in zip(found[1], truth[1], parts, strict=True):
        assert (a - b).norm().item() <= max(1e-5, 2**-24 * largest_score) * max(b.norm().item(), part * shrink)


def test_kept_and_recomputed_tiles_agree(naive, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = naive.rows(1500, 9, 1), naive.rows(1500, 9, 2)
    results = []
    for whole, budget in ((0, 0), (0, 3_000_000), (2**30, 0)):  # none, some and all of the tiles
        monkeypatch.setattr(kept, "WHOLE_BYTES", whole)
        monkeypatch.setattr(kept, "KEPT_BYTES", budget)
        leaves = fresh(x, y)
        results.append(
            value_and_gradients(lambda v=leaves: symmetric_infonce(*v, temperature=0.05, divergence_weight=0.5), leaves)
        )
    for value, gradients in results[1:]:
        assert value == results[0][0]
        for a, b in zip(gradients, results[0][1], strict=True):
            assert norm_error(a, b) < 1e-13


def test_running_maxima_agree_with_the_fixed_shift(naive, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = naive.rows(1100, 9, 1), naive.rows(1100, 9, 2)
    groups = torch.arange(1100) // 3
    results = []
    for limit in (shifts.FIXED_SHIFT_BOUND, -math.inf):
        monkeypatch.setattr(shifts, "FIXED_SHIFT_BOUND", limit)
        leaves = fresh(x, y)
        results.append(
            value_and_gradients(
                lambda v=leaves: symmetric_infonce(*v, temperature=0.05, divergence_weight=0.5, groups=groups), leaves
            )
        )
    assert abs(results[0][0] - results[1][0]) < 1e-12
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert norm_error(a, b) < 1e-12


def test_fixed_shift_falls_back_when_it_underflows(naive) -> None:
    # All cross scores are near -bound: their exponentials vanish under a shift chosen for +bound.
    x = naive.unit(naive.rows(300, 16, 1) * 0.05 + naive.rows(1, 16, 2)).float()
    leaves = fresh(x, -x, dtype=torch.float32)
    found = value_and_gradients(
        lambda: symmetric_infonce(leaves[0], leaves[1], temperature=0.0075, divergence_weight=1.0), leaves
    )
    doubles = fresh(x, -x)
    truth = value_and_gradients(lambda: naive.symmetric(*doubles, 0.0075, 1.0), doubles)
    assert shifts.fixed_shift(1 / 0.0075, torch.float32) is not None
    assert abs(found[0] - truth[0]) <= 1e-6 * truth[0]
    for a, b in zip(found[1], truth[1], strict=True):
        assert norm_error(a, b) < 1e-5


@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_weights_groups_and_lambda_have_exact_gradients(naive, weight: float) -> None:
    n = 600
    x, y = naive.rows(n, 5, 1), naive.rows(n, 5, 2)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights[5] = 0.0
    groups = torch.randint(0, 200, (n,), generator=torch.Generator().manual_seed(4))
    lam = torch.tensor(weight, dtype=torch.float64)
    leaves = fresh(x, y, weights, lam)
    truth = value_and_gradients(
        lambda: naive.symmetric(leaves[0], leaves[1], 0.1, leaves[3], weights=leaves[2], groups=groups), leaves
    )
    found = value_and_gradients(
        lambda: symmetric_infonce(
            leaves[0], leaves[1], temperature=0.1, divergence_weight=leaves[3], weights=leaves[2], groups=groups
        ),
        leaves,
    )
    assert abs(found[0] - truth[0]) < 1e-12
    for a, b in zip(found[1], truth[1], strict=True):
        assert norm_error(a, b) < 1e-11


def test_gradcheck(naive) -> None:
    x, y = naive.rows(6, 3, 1).requires_grad_(), naive.rows(6, 3, 2).requires_grad_()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.5, 3.0], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda a, b, t, k, w: symmetric_infonce(a, b, temperature=t, divergence_weight=k, weights=w),
        (x, y, tau, lam, weights),
    )


def test_one_frozen_side_and_frozen_temperature(naive) -> None:
    x, y = naive.rows(50, 4, 1), naive.rows(50, 4, 2)
    both = fresh(x, y)
    _, (gx, gy) = value_and_gradients(lambda: symmetric_infonce(*both, temperature=0.1, divergence_weight=1.0), both)
    (only_x,) = fresh(x)
    value_and_gradients(lambda: symmetric_infonce(only_x, y, temperature=0.1, divergence_weight=1.0), [only_x])
    (only_y,) = fresh(y)
    value_and_gradients(lambda: symmetric_infonce(x, only_y, temperature=0.1, divergence_weight=1.0), [only_y])
    assert torch.equal(only_x.grad, gx)
    assert torch.equal(only_y.grad, gy)
    tau, free = fresh(torch.tensor(0.1))[0], fresh(torch.tensor(0.1), x, y)
    value_and_gradients(lambda: symmetric_infonce(x, y, temperature=tau, divergence_weight=1.0), [tau])
    value_and_gradients(lambda: symmetric_infonce(free[1], free[2], temperature=free[0], divergence_weight=1.0), free)
    assert abs(tau.grad - free[0].grad) < 1e-12 * abs(tau.grad)


def test_backward_twice_with_a_retained_graph(naive) -> None:
    x, y = fresh(naive.rows(40, 4, 1), naive.rows(40, 4, 2))
    loss = symmetric_infonce(x, y, temperature=0.1, divergence_weight=1.0)
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, 2 * first)


def test_second_derivatives_are_refused(naive) -> None:
    (x,) = fresh(naive.rows(10, 4, 1))
    loss = symmetric_infonce(x, x.detach(), temperature=0.1)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("upstream", [2.0**16, 2.0**-16])
def test_scaled_losses_keep_their_gradients(naive, upstream: float) -> None:
    x = naive.unit(naive.rows(300, 16, 1) * 0.05 + naive.rows(1, 16, 2)).float()
    a, b = fresh(x, -x, dtype=torch.float32), fresh(x, -x, dtype=torch.float32)
    symmetric_infonce(*a, temperature=0.02).backward()
    (upstream * symmetric_infonce(*b, temperature=0.02)).backward()
    assert norm_error(b[0].grad / upstream, a[0].grad) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_have_float32_logits(naive, dtype: torch.dtype) -> None:
    x, y = naive.rows(700, 32, 1).to(dtype), naive.rows(700, 32, 2).to(dtype)
    leaves, doubles = fresh(x, y, dtype=dtype), fresh(x, y)
    found = symmetric_infonce(*leaves, temperature=0.02, divergence_weight=0.5)
    found.backward()
    truth = value_and_gradients(lambda: naive.symmetric(*doubles, 0.02, 0.5), doubles)
    assert found.dtype == torch.float32
    assert abs(found.double() - truth[0]) <= 1e-6 * truth[0]
    assert leaves[0].grad.dtype == dtype
    # Gradients are rounded once, at the end. float16 has 11 bits down to 6e-5, and fixed steps of 6e-8 below.
    step = 2**-8 if dtype == torch.bfloat16 else 2**-10
    assert norm_error(leaves[0].grad.double(), truth[1][0]) < step


def test_autocast_changes_nothing(naive) -> None:
    x, y = naive.rows(300, 16, 1).float(), naive.rows(300, 16, 2).float()
    plain, cast = fresh(x, y, dtype=torch.float32), fresh(x, y, dtype=torch.float32)
    expected = value_and_gradients(lambda: symmetric_infonce(*plain, temperature=0.05, divergence_weight=1.0), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(lambda: symmetric_infonce(*cast, temperature=0.05, divergence_weight=1.0), cast)
    assert found[0] == expected[0]
    assert torch.equal(found[1][0], expected[1][0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 40), log_tau=st.floats(-4.0, 1.0), lam=st.floats(-0.5, 2.0))
def test_invariances(seed: int, n: int, log_tau: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    tau = math.exp(log_tau)
    loss = symmetric_infonce(x, y, temperature=tau, divergence_weight=lam).item()
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(n, generator=generator)
    size = 1.0 + (x.norm(dim=1).max() * y.norm(dim=1).max() / tau + x.norm(dim=1).max() ** 2 / tau).item()
    for a, b, t in (
        (x @ rotation, y @ rotation, tau),
        (x[order], y[order], tau),
        (y, x, tau),
        (3 * x, 3 * y, 9 * tau),
    ):
        assert abs(symmetric_infonce(a, b, temperature=t, divergence_weight=lam).item() - loss) < 1e-12 * size


def test_splitting_a_weight_changes_nothing(naive) -> None:
    x, y = naive.rows(30, 4, 1), naive.rows(30, 4, 2)
    weights = torch.ones(30, dtype=torch.float64)
    weights[3] = 2.0
    plain = symmetric_infonce(x, y, temperature=0.1).item()
    weighted = symmetric_infonce(x, y, temperature=0.1, weights=weights).item()
    only = symmetric_infonce(x, y, temperature=0.1, weights=torch.eye(30, dtype=torch.float64)[3]).item()
    assert abs(weighted - (30 * plain + only) / 31) < 1e-12


def test_memory_grows_with_n_and_not_with_its_square() -> None:
    """Peak of the process over the inputs, measured in a process of its own."""
    code = """
import resource, torch
from infomech.losses import symmetric_infonce
torch.set_num_threads(1)
n, d = {n}, 8
x, y = (torch.nn.functional.normalize(torch.randn(n, d), dim=1).requires_grad_() for _ in range(2))
symmetric_infonce(x[:600], y[:600], temperature=0.1, divergence_weight=1.0).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
symmetric_infonce(x, y, temperature=0.1, divergence_weight=1.0).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code.format(n=12000)], capture_output=True, text=True, check=True)
    # One 12,000 x 12,000 matrix is 576 MB, and there are three; their kept tiles (201 MB) are nearly all there is.
    assert int(done.stdout) / 1e3 < 240


def test_module_is_the_function(naive) -> None:
    x, y = naive.rows(20, 4, 1), naive.rows(20, 4, 2)
    loss = SymmetricInfoNCE(temperature=0.1, divergence_weight=0.5)
    assert loss(x, y) == symmetric_infonce(x, y, temperature=0.1, divergence_weight=0.5)
    assert im.losses.SymmetricInfoNCE is SymmetricInfoNCE
    assert not list(loss.parameters())
    assert "temperature=0.1" in repr(loss)


def test_learned_temperature_is_clamped_as_clip_clamps_it(naive) -> None:
    x = naive.rows(64, 16, 1).float()
    loss = SymmetricInfoNCE(temperature=0.0101, learn_temperature=True)
    optimizer = torch.optim.SGD(loss.parameters(), lr=10.0)
    y = naive.unit(x + 0.3 * naive.rows(64, 16, 2).float() * 4)
    moved = []
    for a, b in ((x, x), (x, y), (x, y)):  # a perfect batch drives tau down, a noisy one up again
        optimizer.zero_grad()
        loss(a, b).backward()
        assert loss.log_scale.grad.abs() > 0 or torch.equal(a, b)
        optimizer.step()
        moved.append(loss.temperature.item())
    assert all(0.01 * (1 - 1e-6) <= tau <= 1.0 + 1e-6 for tau in moved)
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    assert loss.temperature.item() == pytest.approx(0.01, rel=1e-6)
    loss(x, y).backward()
    optimizer.step()
    assert loss.temperature.item() > 0.0100001  # at the clamp it still has a gradient, and leaves
    assert list(loss.state_dict()) == ["log_scale"]


@pytest.mark.parametrize(
    ("x", "y", "kwargs", "words"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), {}, "3 rows and y has 4"),
        (torch.ones(1, 2), torch.ones(1, 2), {}, "one pair only"),
        (torch.ones(3, 2), torch.ones(3, 3), {}, "2 features and y has 3"),
        (torch.ones(3, 2), torch.ones(3, 2, dtype=torch.int64), {}, "y holds torch.int64"),
        (torch.ones(3), torch.ones(3), {}, "1 dimensions"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), torch.ones(2, 2), {}, "NaN or infinity in 1 of 2 rows"),
        (torch.ones(2, 2), torch.tensor([[1.0, 0.0], [0.0, math.inf]]), {}, "y has NaN or infinity"),
        (torch.ones(3, 2), torch.ones(3, 2), {"temperature": 0.0}, "temperature is 0.0"),
        (torch.ones(3, 2), torch.ones(3, 2), {"temperature": torch.tensor(-1.0)}, "temperature is -1.0"),
        (torch.ones(3, 2), torch.ones(3, 2), {"temperature": torch.ones(3)}, r"shape \(3,\)"),
        (torch.ones(3, 2), torch.ones(3, 2), {"divergence_weight": math.nan}, "divergence_weight is nan"),
        (torch.ones(3, 2), torch.ones(3, 2), {"weights": torch.ones(2)}, "weights has shape"),
        (torch.ones(3, 2), torch.ones(3, 2), {"weights": torch.zeros(3)}, "weights must be finite"),
        (torch.ones(3, 2), torch.ones(3, 2), {"groups": torch.zeros(3, dtype=torch.int64)}, "has no negative"),
        (torch.ones(3, 2), torch.ones(3, 2), {"groups": torch.zeros(2, dtype=torch.int64)}, "groups has shape"),
        (torch.ones(3, 2), torch.ones(3, 2, device="meta"), {}, "y is on the meta device"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_in_one_line(x, y, kwargs, words: str) -> None:
    with pytest.raises(im.InputError, match=words) as caught:
        symmetric_infonce(x, y, **{"temperature": 0.1, **kwargs})
    assert "\n" not in str(caught.value)


def test_two_devices_are_refused() -> None:
    with FakeTensorMode(), pytest.raises(im.InputError, match=r"x is on cpu and y on cuda:0; move them to one device"):
        im.losses.symmetric_infonce(torch.ones(3, 2), torch.ones(3, 2, device="cuda"), temperature=0.1)


def test_a_learned_temperature_must_start_within_its_limits() -> None:
    with pytest.raises(im.InputError, match=r"within \[0.01, 1.0\]"):
        SymmetricInfoNCE(temperature=0.001, learn_temperature=True)
