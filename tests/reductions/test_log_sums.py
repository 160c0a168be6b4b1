"""The operator behind every loss against dense float64 matrices: terms, listed entries, gradients, any scores."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from infomech.reductions import shifts
from infomech.reductions.exclusion import Both, Exclusion, Listed, Nothing, Only, OwnRow, SameGroup
from infomech.reductions.log_sums import LogSums
from infomech.reductions.losses import kept, passes, sigmoid
from infomech.reductions.losses.infonce import paired_log_sums, row_log_sums, score_bound
from infomech.reductions.losses.sigmoid import softplus_sum

N, D = 23, 4
GROUPS = torch.arange(N) * 7 % 9
ENTRIES = torch.tensor([[i, (i + 2) % N] for i in range(N)] + [[(i + 2) % N, i] for i in range(N)])
ENTRY_WEIGHTS = torch.linspace(-2, 3, N, dtype=torch.float64).repeat(2)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that no size here is a multiple of, so that small matrices have many."""
    for module in (passes, kept, sigmoid):
        monkeypatch.setattr(module, "tile_shape", lambda device: (5, 7))


@pytest.fixture(params=["one shift", "running maxima"])
def any_shift(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "running maxima":
        monkeypatch.setattr(shifts, "FIXED_SHIFT_BOUND", -math.inf)


def draw(n: int = N, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Rows of x and y, and terms of both, two of which remove a row."""
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.nn.functional.normalize(torch.randn(n, D, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    u, v = (3 * torch.randn(n, generator=g, dtype=torch.float64) for _ in range(2))
    return [x.to(dtype), y.to(dtype), u, v]


def listed(entries: Tensor, values: Tensor | None, n: int) -> Tensor:
    """A matrix of log-weights with the listed ones, -inf by default."""
    out = torch.zeros(n, n, dtype=torch.float64)
    out[entries[:, 0], entries[:, 1]] = -math.inf if values is None else values
    return out


def exclusions(n: int) -> dict[str, tuple[Exclusion, Tensor]]:
    """Each exclusion with the log-weights that it stands for."""
    same = (GROUPS[:n, None] == GROUPS[None, :n]).double()
    own, group = torch.diag(torch.full((n,), -math.inf)).nan_to_num(0, neginf=-math.inf), same.clone()
    group[same == 1] = -math.inf
    inside = (n > ENTRIES).all(1)
    entries, weights = ENTRIES[inside], ENTRY_WEIGHTS[inside]
    only = torch.full((n, n), -math.inf, dtype=torch.float64)
    only[entries[:, 0], entries[:, 1]] = weights
    return {
        "nothing": (Nothing(), torch.zeros(n, n, dtype=torch.float64)),
        "own row": (OwnRow(), own.double()),
        "groups": (SameGroup(GROUPS[:n], GROUPS[:n]), group),
        "listed": (Listed(entries), listed(entries, None, n)),
        "listed with weights": (Listed(entries, weights), listed(entries, weights, n)),
        "both": (Both(OwnRow(), Listed(entries, weights)), own + listed(entries, weights, n)),
        "only": (Only(entries, weights), only),
    }


def naive(x: Tensor, y: Tensor, u: Tensor, v: Tensor, scale: Tensor, weights: Tensor) -> list[Tensor]:
    cross = scale * x @ y.mT + weights
    return [
        scale * (x * y).sum(1),
        (cross + v[None, :]).logsumexp(1),
        (cross + u[:, None]).logsumexp(0),
        (scale * x @ x.mT + weights + u[None, :]).logsumexp(1),
        (scale * y @ y.mT + weights + v[None, :]).logsumexp(1),
    ]


def compare(found: list[Tensor], truth: list[Tensor], leaves: list[Tensor], tolerance: float = 1e-11) -> None:
    """Values, and the gradients of a sum with random cotangents."""
    g = torch.Generator().manual_seed(9)
    cotangents = [torch.randn(t.shape, generator=g, dtype=torch.float64) for t in truth]
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    both = []
    for values in (found, truth):
        total = sum((c * value).sum() for c, value in zip(cotangents, values, strict=True))
        both.append(torch.autograd.grad(total, leaves, retain_graph=True))
    for a, b in zip(*both, strict=True):
        assert bool(torch.isfinite(a).all())
        assert float((a - b).norm()) <= tolerance * max(1.0, float(b.norm()))


@pytest.mark.usefixtures("any_shift")
@pytest.mark.parametrize("name", list(exclusions(N)))
@pytest.mark.parametrize("removed", [False, True])
def test_paired_sums(name: str, removed: bool) -> None:
    exclusion, weights = exclusions(N)[name]
    x, y, u, v = draw()
    if removed:
        u[3], v[11] = -math.inf, -math.inf
    scale = torch.tensor(4.0, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, scale, u, v)]
    out = paired_log_sums(x, y, scale=scale, x_terms=u, y_terms=v, score_bound=4.0, within=True, exclusion=exclusion)
    compare(list(out.one_by_one()), naive(x, y, u, v, scale, weights), leaves)


@pytest.mark.usefixtures("any_shift")
@pytest.mark.parametrize("n", [2, 3, 5, 11])
@pytest.mark.parametrize("which", [(True, False), (False, True)])
def test_terms_of_one_side_only(n: int, which: tuple[bool, bool]) -> None:
    x, y, u, v = draw(n)
    scale = torch.tensor(3.0, dtype=torch.float64)
    given = [t.requires_grad_() if there else None for t, there in zip((u, v), which, strict=True)]
    full = [torch.zeros(n, dtype=torch.float64) if t is None else t for t in given]
    leaves = [x.requires_grad_(), y.requires_grad_(), *(t for t in given if t is not None)]
    out = paired_log_sums(x, y, scale=scale, x_terms=given[0], y_terms=given[1], score_bound=3.0, within=True)
    compare(list(out.one_by_one()), naive(x, y, *full, scale, exclusions(n)["own row"][1]), leaves)


@pytest.mark.parametrize("spread", [1.0, 100.0, 3000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_terms_of_any_size(spread: float, dtype: torch.dtype) -> None:
    x, y, u, v = draw(dtype=dtype)
    u, v = u * spread, v * spread
    scale = torch.tensor(20.0, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, u, v)]
    out = paired_log_sums(x, y, scale=scale, x_terms=u, y_terms=v, score_bound=20.0, within=True)
    truth = naive(x.double(), y.double(), u, v, scale, exclusions(N)["own row"][1])
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5 + 3e-7 * spread
    compare(list(out.one_by_one()), truth, leaves, tolerance)


def test_gradcheck_of_the_terms() -> None:
    x, y, u, v = draw(7)
    scale = torch.tensor(2.0, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, scale, u, v)]

    def paired(x: Tensor, y: Tensor, scale: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        out = paired_log_sums(x, y, scale=scale, x_terms=u, y_terms=v, score_bound=2.0, within=True)
        return out.one_by_one()

    assert torch.autograd.gradcheck(paired, leaves)
    for frozen in range(4):  # one gradient at a time: others are not computed
        some = [t.detach().clone().requires_grad_(k == frozen) for k, t in enumerate(leaves)]
        assert torch.autograd.gradcheck(paired, some)


@pytest.mark.usefixtures("any_shift")
def test_one_direction() -> None:
    x, y, _, v = draw()
    x, exclusion = x[:9], Listed(torch.tensor([[0, 3], [8, 22], [4, 4]]))
    scale = torch.tensor(4.0, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, scale, v)]
    out = row_log_sums(x, y, scale=scale, y_terms=v, score_bound=4.0, exclusion=exclusion)
    weights = torch.zeros(9, N, dtype=torch.float64)
    weights[[0, 8, 4], [3, 22, 4]] = -math.inf
    compare([out], [(scale * x @ y.mT + v + weights).logsumexp(1)], leaves)


@pytest.mark.usefixtures("any_shift")
def test_an_empty_sum_has_no_gradient() -> None:
    x, y, _, v = draw(6)
    leaves = [t.requires_grad_() for t in (x, y, v)]
    everything = Listed(torch.tensor([[2, j] for j in range(6)]))
    scale = torch.tensor(4.0, dtype=torch.float64)
    out = row_log_sums(x, y, scale=scale, y_terms=v, score_bound=4.0, exclusion=everything)
    assert out[2] == -math.inf
    total = torch.logaddexp(out, torch.zeros_like(out)).sum()
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("name", list(exclusions(N)))
def test_softplus_sum(name: str) -> None:
    exclusion, weights = exclusions(N)[name]
    x, y, u, v = draw()
    scale = torch.tensor(4.0, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, scale, u, v)]
    out = softplus_sum(x, y, scale=scale, x_terms=u, y_terms=v, exclusion=exclusion)
    scores = scale * x @ y.mT + u[:, None] + v[None, :] + weights
    compare([out], [torch.nn.functional.softplus(scores[torch.isfinite(scores)]).sum()], leaves)


def test_large_log_weights_of_entries_find_room() -> None:
    x, y, _, _ = draw(dtype=torch.float32)
    weights = torch.full((len(ENTRIES),), 300.0, dtype=torch.float64)
    scale = torch.tensor(4.0, dtype=torch.float64)
    bound = score_bound(x, y, scale)
    out = row_log_sums(x, y, scale=scale, score_bound=bound, exclusion=Listed(ENTRIES, weights))
    truth = (scale * x.double() @ y.double().mT + listed(ENTRIES, weights, N)).logsumexp(1)
    torch.testing.assert_close(out, truth, rtol=1e-6, atol=0)


def test_log_sums_at_levels_far_apart() -> None:
    levels, totals = [0.0, 700.0, -700.0, 2000.0, 1999.0], [1.0, 2.0, 3.0, 0.5, 0.0]
    for order in ([0, 1, 2, 3, 4], [3, 4, 2, 1, 0]):
        parts = [LogSums(2, shift=None, device=torch.device("cpu"), with_squares=True) for _ in range(2)]
        for k, at in product(order, [0, 1]):
            total = torch.tensor([totals[k]], dtype=torch.float64)
            parts[k % 2].add(slice(at, at + 1), total, levels[k] * at, total.square())
        parts[0].merge(parts[1])
        terms = torch.tensor([[math.log(t) + s * at if t else -math.inf for t, s in zip(totals, levels, strict=True)]
                              for at in (0, 1)], dtype=torch.float64)  # fmt: skip
        torch.testing.assert_close(parts[0].value(), terms.logsumexp(1), rtol=1e-15, atol=0)
        torch.testing.assert_close(parts[0].value_of_squares(), (2 * terms).logsumexp(1), rtol=1e-15, atol=0)
