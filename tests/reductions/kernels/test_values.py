"""What the kernels give in Triton's interpreter, against formulas written out in float64."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from infomech.reductions.exclusion import Both, Exclusion, Listed, Nothing, OtherGroups, OwnRow, SameGroup
from infomech.reductions.kernels import configs, gradients
from infomech.reductions.kernels.gradients import Side, gain, gradients_within
from infomech.reductions.kernels.log_sums import log_sums, log_sums_within
from infomech.reductions.kernels.rows import levels
from infomech.reductions.kernels.scores import Scores, scores
from infomech.reductions.losses.infonce import paired_log_sums, row_log_sums, row_scores
from infomech.reductions.losses.sigmoid import softplus_sum

# The interpreter's numpy says what a card does not: log 0, inf - inf in lanes that are masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# Of the largest score: halves are multiplied exactly, three products leave what two bfloat16 halves cannot hold. Sums
# of 16 exponentials in float32, then merged in float64, are off by 16 * 2^-24 = 1e-6 whatever the scores' size.
OF_SCORES = {torch.bfloat16: 1e-6, torch.float16: 1e-6, torch.float32: 1e-5}
# Weights: to bfloat16 the interpreter cuts off what follows 2^-7 (a card rounds: 2^-8), to float16 it rounds. Of three
# products: two halves of the weights leave 2^-14 of them, two of the rows 2^-16, and low times low, 2^-15, is left out.
OF_WEIGHTS = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11, torch.float32: 2.0**-14 + 2.0**-15 + 2.0**-16}
OF_RESULTS = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
LEAST = {torch.bfloat16: 1e-30, torch.float16: 2.0**-25, torch.float32: 1e-30}  # half of the smallest number
UNIT = 2.0**-24  # of float32, in which products and sums accumulate
ONE_SIDE = {("nothing", torch.float32), ("own row", torch.float32), ("groups", torch.bfloat16), ("cold", torch.float16),
            ("listed", torch.float32), ("other groups", torch.bfloat16)}  # fmt: skip
one_side = pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(k, d, id=f"{k}-{str(d)[6:]}", marks=[] if (k, d) in ONE_SIDE else pytest.mark.slow)
        for k in ("nothing", "own row", "groups", "cold", "listed", "other groups")
        for d in DTYPES
    ],
)
any_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small matrices in several steps, as large ones are; of float32 rows three products."""
    monkeypatch.setattr(configs, "STEP_ENTRIES", 256)
    monkeypatch.setattr(configs, "CHUNK_ROWS", 24)
    monkeypatch.setattr(gradients, "LEAST_CHUNK", 4)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(n: int, d: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.nn.functional.normalize(draw(n, d, seed=seed), dim=1).to(dtype).requires_grad_()


def close(found: Tensor | None, true: Tensor | None, bound: Tensor | float) -> None:
    """Every entry within its bound."""
    assert found is not None
    assert true is not None
    assert found.isfinite().all()
    assert (((found.double() - true).abs() - bound).max()) <= 0


def of_scores(dtype: torch.dtype, largest: float) -> float:
    """How far a log-sum may be off, by the largest score."""
    return OF_SCORES[dtype] * max(1.0, largest)


def of_rows(sizes: Tensor, true: Tensor | None, dtype: torch.dtype, largest: float, terms: int) -> Tensor:
    """How far gradients of rows may be off, whose parts have these sizes in sum.

    A weight exp(score - log-sum) is off by the errors of both, and by its rounding; then sums of so many terms are.
    """
    assert true is not None
    relative = OF_WEIGHTS[dtype] + of_sums(dtype, largest, terms)
    return sizes * relative * (1 + OF_RESULTS[dtype]) + OF_RESULTS[dtype] * true.abs() + LEAST[dtype]


def of_sums(dtype: torch.dtype, largest: float, terms: int) -> float:
    """How far sums of weights that are not rounded may be off, of the sum of the weights' sizes."""
    return 2 * of_scores(dtype, largest) + terms * UNIT


@dataclass(frozen=True)
class Case:
    """A matrix: its rows, temperature, and what its negatives have and lack."""

    n: int = 37
    d: int = 20
    tau: float = 0.05
    terms: bool = False
    groups: int = 0
    norms: float = 0.0
    listed: int = 0

    def rows(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x, y = unit(self.n, self.d, dtype, 1), unit(self.n, self.d, dtype, 2)
        if self.norms:
            size = torch.linspace(0, self.norms, self.n)[:, None].to(dtype)
            x, y = (x * size).detach().requires_grad_(), (y * size.flip(0)).detach().requires_grad_()
        return x, y

    def exclusion(self) -> Exclusion:
        left_out: Exclusion = OwnRow()
        if self.groups:
            numbers = torch.arange(self.n) % self.groups
            left_out = Both(left_out, SameGroup(numbers, numbers))
        return Both(left_out, Listed(self.pairs())) if self.listed else left_out

    def pairs(self) -> Tensor:
        """Entries of a symmetric matrix in no order: some rows with many, many with none, a corner and its opposite."""
        drawn = torch.randint(self.n, (self.listed, 2), generator=torch.Generator().manual_seed(9))
        drawn[: self.n // 2, 0] = 1
        drawn[-1] = torch.tensor([0, self.n - 1])
        return torch.cat([drawn, drawn.flip(1)]).unique(dim=0).flip(0)

    def removed(self) -> Tensor:
        numbers = torch.arange(self.n) % self.groups if self.groups else torch.arange(self.n)
        out = numbers[:, None] == numbers[None, :]
        if self.listed:
            out[tuple(self.pairs().T)] = True
        return out

    def numbers(self) -> tuple[Tensor | None, Tensor | None]:
        if not self.terms:
            return None, None
        u, v = draw(self.n, seed=3), draw(self.n, seed=4)
        u[1] = v[self.n // 2] = float("-inf")
        return u.requires_grad_(), v.requires_grad_()


CASES = {
    "plain": Case(),
    "two pairs": Case(n=2, d=3),
    "one block": Case(n=15, d=64),
    "some blocks": Case(n=50, d=70),
    "hot": Case(tau=10.0),
    "cold": Case(tau=0.005),
    "cold terms": Case(n=35, tau=0.005, terms=True),
    "terms": Case(n=33, d=17, terms=True),
    "groups": Case(n=34, groups=9),
    "cold groups and terms": Case(n=34, tau=0.005, groups=9, terms=True),
    "norms to 100": Case(n=33, tau=10.0, norms=100.0),
    "listed": Case(n=70, listed=90),
    "cold, listed, groups and terms": Case(n=34, tau=0.005, groups=9, terms=True, listed=30),
}
SOON = {torch.float32: set(CASES) - {"hot", "cold terms", "groups", "cold, listed, groups and terms"},
        torch.bfloat16: {"two pairs", "one block", "cold", "norms to 100"},
        torch.float16: {"two pairs", "cold terms", "cold, listed, groups and terms"}}  # fmt: skip
GRID = [
    pytest.param(name, dtype, id=f"{name}-{str(dtype)[6:]}", marks=[] if name in SOON[dtype] else pytest.mark.slow)
    for name in CASES
    for dtype in DTYPES
]


def removed_to(s: Tensor, removed: Tensor) -> Tensor:
    return s.masked_fill(removed, float("-inf"))


def doubles(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


def plus(s: Tensor, u: Tensor | None, v: Tensor | None) -> Tensor:
    s = s if u is None else s + u[:, None]
    return s if v is None else s + v[None, :]


@pytest.mark.parametrize(("name", "dtype"), GRID)
def test_sums_of_pairs_and_all_their_gradients(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    x, y = case.rows(dtype)
    u, v = case.numbers()
    scale = torch.tensor(1 / case.tau, dtype=torch.float64, requires_grad=True)
    sums = paired_log_sums(
        x, y, scale=scale, x_terms=u, y_terms=v, within=True, exclusion=case.exclusion(), backend="triton"
    )
    found = sums.one_by_one()
    a, b, factor, s, t = doubles(x, y, scale, u, v)
    assert a is not None
    assert b is not None
    assert factor is not None
    across, removed = factor * a @ b.mT, case.removed()
    scores_ = [  # of the rows against what their sums run over
        removed_to(plus(across, None, t), removed),
        removed_to(plus(across, s, None), removed).mT,
        removed_to(plus(factor * a @ a.mT, None, s), removed),
        removed_to(plus(factor * b @ b.mT, None, t), removed),
    ]
    true = (across.diagonal(), *(z.logsumexp(1) for z in scores_))
    largest = max(float((z * factor).detach().abs().max()) for z in (a @ a.mT, b @ b.mT, a @ b.mT))
    for ours, theirs in zip(found, true, strict=True):
        close(ours, theirs.detach(), of_scores(dtype, largest))
    cotangents = [draw(case.n, seed=5 + k) for k in range(5)]
    for values in (found, true):
        torch.autograd.backward(list(values), cotangents)
    a_, b_ = a.detach().abs(), b.detach().abs()
    own = cotangents[0].abs()[:, None]
    xy, yx, xx, yy = (z.detach().softmax(1) * c.abs()[:, None] for z, c in zip(scores_, cotangents[1:], strict=True))
    of_x = (xy + yx.mT) @ b_ + (xx + xx.mT) @ a_  # what is rounded; the pairs' own parts are not
    of_y = (yx + xy.mT) @ a_ + (yy + yy.mT) @ b_
    for ours, theirs, sizes, partner in ((x, a, of_x, b_), (y, b, of_y, a_)):
        bound = of_rows(sizes * float(factor.detach()), theirs.grad, dtype, largest, 2 * case.n)
        close(ours.grad, theirs.grad, bound + 2 * UNIT * float(factor.detach()) * own * partner)
    inner = ((a_ * (of_x + own * b_)).sum() + (b_ * (of_y + own * a_)).sum()) / 2
    relative = OF_WEIGHTS[dtype] + of_sums(dtype, largest, 2 * case.n)
    close(scale.grad, factor.grad, inner * relative)
    for ours, theirs, weights in ((u, s, yx.sum(0) + xx.sum(0)), (v, t, xy.sum(0) + yy.sum(0))):
        if ours is not None and theirs is not None:
            close(ours.grad, theirs.grad, weights * of_sums(dtype, largest, 2 * case.n))


def left_out(kind: str, g: Tensor, h: Tensor) -> tuple[Exclusion, Tensor | None]:
    """An exclusion of a matrix, and the entries that it leaves out."""
    n, m = len(g), len(h)
    pairs = torch.stack([torch.arange(n * m) // m, torch.arange(n * m) % m], 1)[3::7]
    listed = torch.zeros(n, m, dtype=torch.bool)
    listed[tuple(pairs.T)] = True
    same = g[:, None] == h[None, :]
    kinds: dict[str, tuple[Exclusion, Tensor]] = {
        "own row": (OwnRow(), torch.eye(n, m, dtype=torch.bool)),
        "groups": (SameGroup(g, h), same),
        "other groups": (OtherGroups(g, h), ~same),
        "listed": (Listed(pairs.flip(0)), listed),
    }
    return kinds.get(kind, (Nothing(), None))


@one_side
def test_sums_of_one_side(kind: str, dtype: torch.dtype) -> None:
    n, m, d = (21, 50, 19) if kind != "own row" else (50, 35, 8)
    x, y = unit(n, d, dtype, 1), unit(m, d, dtype, 2)
    terms = draw(m, seed=3)
    terms[3] = float("-inf")
    terms.requires_grad_()
    scale = torch.tensor(200.0 if kind == "cold" else 12.0, dtype=torch.float64, requires_grad=True)
    g, h = torch.arange(n) % 7, torch.arange(m) % 7
    exclusion, removed = left_out(kind, g, h)
    found = row_log_sums(x, y, scale=scale, y_terms=terms, exclusion=exclusion, backend="triton")
    a, b, factor, t = doubles(x, y, scale, terms)
    assert a is not None
    assert b is not None
    assert factor is not None
    assert t is not None
    s = plus(factor * a @ b.mT, None, t)
    s = s if removed is None else removed_to(s, removed)
    true = s.logsumexp(1)
    largest = float((factor * a @ b.mT).detach().abs().max())
    close(found, true.detach(), of_scores(dtype, largest))
    cotangent = draw(n, seed=4)
    for values in (found, true):
        values.backward(cotangent)
    weights = s.detach().softmax(1) * cotangent.abs()[:, None]
    of_x, of_y = weights @ b.detach().abs(), weights.mT @ a.detach().abs()
    for ours, theirs, sizes in ((x, a, of_x), (y, b, of_y)):
        close(ours.grad, theirs.grad, of_rows(sizes * float(factor.detach()), theirs.grad, dtype, largest, m + n))
    inner = (a.detach().abs() * of_x).sum()
    close(scale.grad, factor.grad, inner * (OF_WEIGHTS[dtype] + of_sums(dtype, largest, m + n)))
    close(terms.grad, t.grad, weights.sum(0) * of_sums(dtype, largest, n))


@any_dtype
@pytest.mark.parametrize("kind", ["all", "own row", "groups", "cold", "listed", "other groups"])
def test_softplus_and_its_gradients(kind: str, dtype: torch.dtype) -> None:
    n, m, d = 41, 41, 19
    x, y = unit(n, d, dtype, 1), unit(m, d, dtype, 2)
    u, t = draw(n, seed=3).requires_grad_(), draw(m, seed=4).requires_grad_()
    scale = torch.tensor(200.0 if kind == "cold" else 10.0, dtype=torch.float64, requires_grad=True)
    g = torch.arange(n) % 11
    exclusion, removed = left_out(kind, g, g)
    w = torch.linspace(0, 3, n, dtype=torch.float64) if kind == "other groups" else None
    found = softplus_sum(
        x, y, scale=scale, x_terms=u, y_terms=t, exclusion=exclusion, row_weights=w, backend="triton"
    )  # fmt: skip
    a, b, factor, p, q = doubles(x, y, scale, u, t)
    assert a is not None
    assert b is not None
    assert factor is not None
    assert p is not None
    assert q is not None
    s = plus(factor * a @ b.mT, p, q)
    s = s if removed is None else removed_to(s, removed)
    each = torch.ones(n, 1, dtype=torch.float64) if w is None else w[:, None]
    true = (each * torch.nn.functional.softplus(s)).sum()
    largest = float(s.detach()[s > -torch.inf].abs().max())  # with its terms, which float32 rounds, too
    weights = each * s.detach().sigmoid()
    close(found, true.detach(), of_scores(dtype, largest) * float(weights.sum()) + 64 * UNIT * float(true.detach()))
    found.backward()
    true.backward()
    of_x, of_y = weights @ b.detach().abs(), weights.mT @ a.detach().abs()
    for ours, theirs, sizes in ((x, a, of_x), (y, b, of_y)):
        close(ours.grad, theirs.grad, of_rows(sizes * float(factor.detach()), theirs.grad, dtype, largest, n))
    inner = (a.detach().abs() * of_x).sum()
    close(scale.grad, factor.grad, inner * (OF_WEIGHTS[dtype] + of_sums(dtype, largest, n)))
    for ours, theirs, dim in ((u, p, 1), (t, q, 0)):
        close(ours.grad, theirs.grad, weights.sum(dim) * of_sums(dtype, largest, n))


@any_dtype
def test_scores_of_pairs(dtype: torch.dtype) -> None:
    x, y = unit(23, 130, dtype, 1), unit(23, 130, dtype, 2)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    found = row_scores(x, y, scale, "triton")
    a, b, factor = (z.detach().double().requires_grad_() for z in (x, y, scale))
    true = factor * (a * b).sum(1)
    torch.testing.assert_close(found, true, rtol=0, atol=1e-12)
    for values in (found, true):
        values.backward(draw(23, seed=3))
    for ours, theirs, relative in ((x, a, OF_RESULTS[dtype] + 2 * UNIT), (y, b, OF_RESULTS[dtype] + 2 * UNIT)):
        assert theirs.grad is not None
        close(ours.grad, theirs.grad, relative * theirs.grad.abs() + LEAST[dtype])
    torch.testing.assert_close(scale.grad, factor.grad, rtol=1e-12, atol=1e-12)


def test_rows_with_no_negative_have_no_sum_and_no_gradient() -> None:
    x, y = unit(12, 8, torch.float32, 1), unit(12, 8, torch.float32, 2)
    numbers = torch.arange(12).clamp(max=1)  # row 0, and eleven of one group whose one negative it is
    terms = torch.zeros(12, dtype=torch.float64)
    terms[0] = float("-inf")
    found = row_log_sums(
        x, y, scale=torch.tensor(5.0, dtype=torch.float64), y_terms=terms,
        exclusion=SameGroup(numbers, numbers), backend="triton",
    )  # fmt: skip
    assert (found[1:] == float("-inf")).all()
    assert found[0].isfinite()
    found.backward(torch.ones(12, dtype=torch.float64))
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad[1:] == 0).all()
    assert (y.grad[0] == 0).all()
    assert y.grad.isfinite().all()


def matrix(n: int, m: int, tau: float, dtype: torch.dtype, precision: str | None) -> tuple[Scores, Tensor]:
    x, y = unit(n, 24, dtype, 1).detach(), unit(m, 24, dtype, 2).detach()
    made, _ = scores(x, y, torch.tensor(1 / tau, dtype=torch.float64), own=True, precision=precision)
    return made, x.double() @ y.double().mT / tau


@pytest.mark.parametrize("tau", [0.005, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "precision", "of_score"),
    [(torch.bfloat16, None, 1e-6), (torch.float16, None, 1e-6), (torch.float32, None, 1e-5),
     (torch.float32, "float32", 1e-6), (torch.float32, "medium", 2.0**-8)],
    ids=["bfloat16", "float16", "three products", "bare", "medium"],
)  # fmt: skip
def test_stripes_of_partial_sums_give_the_sums(
    tau: float, dtype: torch.dtype, precision: str | None, of_score: float
) -> None:
    """Some rows at a time, the columns' sums merged across them; the last stripe is not whole."""
    made, s = matrix(70, 35, tau, dtype, precision)
    s = s.masked_fill(torch.eye(70, 35, dtype=torch.bool), float("-inf"))
    rows, cols, own = log_sums(made, keep_own=True, stripe_bytes=1)
    assert rows is not None
    assert cols is not None
    assert own is not None
    tolerance = of_score / tau  # of unit rows; two that are rounded to bfloat16 are off by 2^-9 each
    torch.testing.assert_close(rows.value, s.logsumexp(1), rtol=0, atol=tolerance)
    torch.testing.assert_close(cols.value, s.logsumexp(0), rtol=0, atol=tolerance)
    assert own.shape == (35,)


@pytest.mark.parametrize("chunk", [None, pytest.param(7, marks=pytest.mark.slow), 32])
def test_chunks_of_a_symmetric_matrix_give_its_gradient(chunk: int | None) -> None:
    x = unit(45, 24, torch.float32, 1).detach()
    made, _ = scores(x, x, torch.tensor(20.0, dtype=torch.float64), own=True)
    sums = log_sums_within(made, stripe_bytes=1)
    cotangent = draw(45, seed=2)
    level, factor, size = levels(cotangent[None], sums.peak[None], sums.total[None], gain(made))
    found = gradients_within(made, Side(level[0], factor[0]), chunk=chunk)
    a = x.double().requires_grad_()
    s = (20.0 * a @ a.mT).masked_fill(torch.eye(45, dtype=torch.bool), float("-inf"))
    s.logsumexp(1).backward(cotangent)
    assert found.x is not None
    assert a.grad is not None
    weights = s.detach().softmax(1) * cotangent.abs()[:, None]
    sizes = 20.0 * (weights + weights.mT) @ x.double().abs()
    close(found.x * float(size) * 20.0, a.grad, of_rows(sizes, a.grad, torch.float32, 20.0, 2 * 45))


@pytest.mark.parametrize(("tau", "dtype"), [(0.005, torch.bfloat16), (0.05, torch.float32)])
def test_two_runs_have_the_same_bits(tau: float, dtype: torch.dtype) -> None:
    runs = []
    for _ in range(2):
        x, y = unit(21, 12, dtype, 1), unit(21, 12, dtype, 2)
        sums = paired_log_sums(x, y, scale=torch.tensor(1 / tau, dtype=torch.float64), within=True, backend="triton")
        found = sums.one_by_one()
        torch.autograd.backward(found, [draw(21, seed=k) for k in range(5)])
        runs.append((*found, x.grad, y.grad))
    for one, two in zip(*runs, strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)
