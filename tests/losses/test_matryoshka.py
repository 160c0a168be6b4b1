"""The loss of several lengths in one sweep against the plain sum of the losses of cut rows."""

import math

import pytest
import torch

import infomech as im
from infomech.losses import MatryoshkaInfoNCE, infonce, matryoshka_infonce, symmetric_infonce
from infomech.reductions.losses import nested
from infomech.testing import check_loss


def near_one(rows):
    """Cosines do not change by it, and their squares stay in double precision."""
    return rows.detach().double().abs().amax(1, keepdim=True)


def by_definition(x, y, dims, dim_weights, tau, *, directions=("xy", "yx"), groups=None, hard=None, weights=None):
    """Whole matrices of cosines of cut rows, in double precision."""
    n = len(x)
    same = torch.eye(n, dtype=torch.bool) if groups is None else groups[:, None] == groups[None, :]
    total = 0.0
    for d, w in zip(dims, dim_weights, strict=True):
        u, v = (torch.nn.functional.normalize(z[:, :d].double() / near_one(z), dim=1) for z in (x, y))
        own = (u * v).sum(1) / tau
        for way in directions:
            scores = (u @ v.mT if way == "xy" else v @ u.mT) / tau
            scores = scores.masked_fill(same, -math.inf)
            if way == "xy" and hard is not None:
                more = torch.nn.functional.normalize(hard[:, :d].double(), dim=1)
                scores = torch.cat([scores, u @ more.mT / tau], 1)
            losses = torch.logaddexp(scores.logsumexp(1) - own, torch.zeros_like(own))
            total = total + w * losses / len(directions)
    return total.mean() if weights is None else (weights * total).sum() / weights.sum()


def batch(naive, n: int = 11, d: int = 7, dtype: torch.dtype = torch.float64):
    sizes = torch.linspace(0.5, 3.0, n, dtype=torch.float64)[:, None]
    rows = [sizes * naive.rows(n, d, 1), sizes.flip(0) * naive.rows(n, d, 2), 2 * naive.rows(5, d, 3)]
    return [z.to(dtype).requires_grad_() for z in rows]


def compare(leaves, found, truth, *, value: float = 1e-12, gradient: float = 1e-10) -> None:
    assert abs(found - truth) <= value * abs(truth)
    for a, b in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(truth, leaves), strict=True):
        assert (a - b).norm() <= gradient * max(float(b.norm()), 1e-3)  # of one number a unit prefix has no gradient


@pytest.mark.parametrize("dims", [(7,), (1,), (2, 7), (6, 1, 3), (3, 5)])
@pytest.mark.parametrize("directions", [("xy", "yx"), ("xy",), ("yx",)])
@pytest.mark.parametrize("tiles", [(512, 1024), (5, 4)], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("tau", [0.2, 0.001], ids=["one shift", "running maxima"])
def test_the_plain_sum(naive, monkeypatch, dims, directions, tiles, tau) -> None:
    monkeypatch.setattr(nested, "tile_shape", lambda device: tiles)
    x, y, _ = batch(naive)
    tau = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    shares = [0.3 + k for k in range(len(dims))]
    found = matryoshka_infonce(x, y, dims=dims, dim_weights=shares, temperature=tau, directions=directions)
    compare([x, y, tau], found, by_definition(x, y, dims, shares, tau, directions=directions))


@pytest.mark.parametrize("directions", [("xy", "yx"), ("xy",)])
def test_everything_together(naive, monkeypatch, directions) -> None:
    monkeypatch.setattr(nested, "tile_shape", lambda device: (5, 6))
    x, y, hard = batch(naive)
    weights = torch.rand(11, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    given = {"groups": torch.arange(11) % 6, "weights": weights, "directions": directions}
    found = matryoshka_infonce(x, y, dims=(5, 2), logit_scale=scale, negatives_y=hard, **given)
    compare([x, y, hard, weights, scale], found, by_definition(x, y, (5, 2), (1, 1), 1 / scale, hard=hard, **given))


def test_one_length_is_the_losses_there_are(naive) -> None:
    x, y, hard = (z.detach() for z in batch(naive))
    call = {"temperature": 0.1, "normalize": True}
    assert matryoshka_infonce(x, y, dims=[7], temperature=0.1) == pytest.approx(
        symmetric_infonce(x, y, **call).item(), rel=1e-13
    )
    one_way = matryoshka_infonce(x, y, dims=[3], temperature=0.1, directions=("xy",), negatives_y=hard)
    truth = infonce(x[:, :3], y[:, :3], negatives=hard[:, :3], **call)
    assert one_way == pytest.approx(truth.item(), rel=1e-13)


@pytest.mark.parametrize(("dtype", "value", "gradient"), [(torch.float32, 1e-6, 1e-5), (torch.bfloat16, 1e-6, 5e-3)])
def test_single_and_half_precision(naive, dtype, value, gradient) -> None:
    x, y, _ = batch(naive, 600, 24, dtype)
    leaves = [z.detach().double().requires_grad_() for z in (x, y)]
    found = matryoshka_infonce(x, y, dims=(24, 12, 4), temperature=0.05)
    truth = by_definition(*leaves, (24, 12, 4), (1, 1, 1), 0.05)
    assert found.dtype == torch.float32
    assert abs(found.item() - truth.item()) <= value * truth.item()
    for a, b in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(truth, leaves), strict=True):
        assert a.dtype == dtype
        assert (a - b).norm() <= gradient * b.norm()


def test_duplicates_and_empty_prefixes(naive) -> None:
    """Copies of a pair, a prefix of zeros, rows near the ends of the dtype: finite, and the same as by definition."""
    x, y, _ = (z.detach().clone() for z in batch(naive))
    x[1], y[1] = x[0], y[0]
    x[4, :2] = 0.0
    x[5] *= 1e-150
    y[6] *= 1e150
    x.requires_grad_()
    y.requires_grad_()
    found = matryoshka_infonce(x, y, dims=(2, 7), temperature=0.05)
    truth = by_definition(x, y, (2, 7), (1, 1), 0.05)
    assert found.item() == pytest.approx(truth.item(), rel=1e-12)
    kept = [k for k in range(11) if k not in (4, 5, 6)]  # their gradients are of size 1e12, 1e150 and 1e-150
    for a, b in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(truth, (x, y)), strict=True):
        assert torch.isfinite(a).all()
        assert (a[kept] - b[kept]).norm() <= 1e-10 * b[kept].norm()


def test_reductions(naive) -> None:
    x, y, _ = batch(naive)
    call = {"dims": (2, 7), "temperature": 0.2}
    each = matryoshka_infonce(x, y, reduction="none", **call)
    assert each.shape == (11,)
    assert each.mean().item() == pytest.approx(matryoshka_infonce(x, y, **call).item(), rel=1e-13)
    assert each.sum().item() == pytest.approx(matryoshka_infonce(x, y, reduction="sum", **call).item(), rel=1e-13)


def test_products_do_not_grow_with_the_lengths(naive, monkeypatch) -> None:
    """Counted: multiplications of one sweep forward and one backward, whatever the number of lengths."""
    made = []
    for name in ("mm", "addmm_"):
        owner = torch if name == "mm" else torch.Tensor
        original = getattr(owner, name)

        def counted(*args, original=original, first=0 if name == "mm" else 1, **kwargs):
            made.append(args[first].shape[0] * args[first].shape[1] * args[first + 1].shape[1])
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    found = {}
    for dims in ((64,), (64, 32, 16), tuple(range(8, 65, 8))):
        made.clear()
        x, y = (naive.rows(40, 64, k).requires_grad_() for k in (1, 2))
        matryoshka_infonce(x, y, dims=dims, temperature=0.1).backward()
        thin = 2 * 40 * 40 * len(dims)  # the factors of a tile, an outer product of two vectors for each side
        found[dims] = (sum(made) - thin) / (40 * 40 * 64)
    assert set(found.values()) == {4.0}


def test_the_contract() -> None:
    check_loss(lambda x, y: matryoshka_infonce(x, y, dims=[x.shape[1]], temperature=0.3))


def test_a_module_learns_its_temperature(naive) -> None:
    x, y, hard = batch(naive)
    loss = MatryoshkaInfoNCE((7, 2), 0.2, dim_weights=(1.0, 0.5), learn_temperature=True).double()
    value = loss(x, y, groups=torch.arange(11) % 6, negatives_y=hard)
    truth = matryoshka_infonce(
        x, y, dims=(7, 2), dim_weights=(1.0, 0.5), temperature=0.2, groups=torch.arange(11) % 6, negatives_y=hard
    )
    assert value.item() == pytest.approx(truth.item(), rel=1e-6)
    value.backward()
    assert loss.log_scale.grad.abs() > 0
    assert "dims=(7, 2)" in repr(loss)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_line(naive) -> None:
    x, y, hard = (z.detach() for z in batch(naive))
    attempts = [
        ({"dims": ()}, "dims is empty; name one length or more"),
        ({"dims": (0, 3)}, "dims holds 0; expected whole numbers of features"),
        ({"dims": (2.5,)}, r"dims holds 2.5; expected whole numbers"),
        ({"dims": (3, 8)}, "dims holds 8, and the rows have 7 features"),
        ({"dims": (3, 7, 3)}, "dims names 3 twice"),
        ({"dims": (3, 7), "dim_weights": (1.0,)}, "dim_weights has 1 numbers for 2 dims"),
        ({"dims": (3, 7), "dim_weights": (1.0, math.nan)}, "dim_weights must be finite"),
        ({"dims": (3, 7), "dim_weights": (0.0, 0.0)}, "some of them above 0"),
        ({"dims": (3, 7), "dim_weights": ("half", 1.0)}, "expected one number for each of dims"),
        ({"dims": "37"}, "dims holds '3'; expected whole numbers"),
        ({"directions": ("xx",)}, "expected 'xy', 'yx' or both"),
        ({"directions": ("yx",), "negatives_y": hard}, "they need the direction 'xy'"),
        ({"negatives_y": hard[None]}, "1 sets for 11 anchors"),
        ({"negatives_y": hard[:, :5]}, "expected floating-point rows"),
        ({"groups": torch.zeros(11, dtype=torch.int64)}, "pair 0 has no negative left"),
        ({"groups": torch.arange(3)}, r"groups has shape \(3,\)"),
        ({"weights": -torch.ones(11)}, "weights must be finite and not negative"),
        ({"reduction": "max"}, "reduction is 'max'"),
        ({"temperature": -1.0}, "temperature is -1"),
    ]
    for settings, words in attempts:
        with pytest.raises(im.InputError, match=words) as caught:
            matryoshka_infonce(x, y, **({"dims": (2, 7), "temperature": 0.1} | settings))
        assert "\n" not in str(caught.value)
    with pytest.raises(im.InputError, match="one pair only"):
        matryoshka_infonce(x[:1], y[:1], dims=(2,), temperature=0.1)
    with pytest.raises(im.InputError, match="dims names 3 twice"):
        MatryoshkaInfoNCE((3, 3))
    x[2, 1] = math.nan
    with pytest.raises(im.InputError, match="NaN or infinity in 1 of 11 rows, the first at row 2"):
        matryoshka_infonce(x, y, dims=(2, 7), temperature=0.1)


def test_second_derivatives_are_refused(naive) -> None:
    x, y, _ = batch(naive)
    (gradient,) = torch.autograd.grad(matryoshka_infonce(x, y, dims=(2, 7), temperature=0.2), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()
