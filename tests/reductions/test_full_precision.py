"""Statistics have float32's digits whatever a training script has set for its products, and leave that as it was."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import infomech as im
from infomech.corrections import score_corrections
from infomech.losses import sigmoid_loss, symmetric_infonce
from infomech.reductions import full_precision, torch_threads
from infomech.reductions.losses import sigmoid
from infomech.reductions.tiling import _by_backend, _Setting, float32_precision, multiplied_in
from infomech.scores import DensityRatio, best_bias, compare_scores

G = torch.Generator().manual_seed(0)
X = torch.nn.functional.normalize(torch.randn(104, 96, generator=G), dim=1)
Y = torch.nn.functional.normalize(X + torch.randn(104, 96, generator=G) / 8, dim=1)


def state() -> list[str]:
    """All that torch says of it."""
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:  # the backends' own settings say otherwise
        overall = "contradicted"
    return [overall, *(each.fp32_precision for each in _by_backend())]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    assert state()[0] == "highest"


@pytest.mark.parametrize("given", ["highest", "high", "medium", "by backend"])
def test_within_it_is_the_highest_and_after_as_before(given: str) -> None:
    if given == "by backend":
        if not _by_backend():
            pytest.skip("this version of torch has one setting")
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision(given)
    before = state()
    with full_precision():
        assert set(state()) <= {"highest", "ieee"}
        with full_precision():
            assert set(state()) <= {"highest", "ieee"}
        assert set(state()) <= {"highest", "ieee"}
    assert state() == before
    with pytest.raises(ZeroDivisionError), full_precision():
        _ = 1 / 0
    assert state() == before


def test_threads_that_leave_in_any_order_leave_it_as_it_was() -> None:
    torch.set_float32_matmul_precision("high")
    before = state()
    one, other = full_precision(), full_precision()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert state()[0] == "highest"
    other.__exit__(None, None, None)
    assert state() == before


def test_a_loss_and_a_report_in_two_threads_have_the_more_precise_of_both() -> None:
    torch.set_float32_matmul_precision("high")
    before = state()
    report, loss = full_precision(), multiplied_in("medium")
    for first, other, left in ((report, loss, "medium"), (multiplied_in("medium"), full_precision(), "highest")):
        first.__enter__()
        other.__enter__()
        assert state()[0] == "highest"
        first.__exit__(None, None, None)
        assert state()[0] == left
        other.__exit__(None, None, None)
        assert state() == before


def test_a_setting_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_Setting, "change", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), full_precision():
            pass
    torch.set_float32_matmul_precision("high")
    with full_precision():
        assert state()[0] == "highest"
    assert state()[0] == "high"


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
@pytest.mark.skipif(not _by_backend(), reason="this version of torch has one setting")
def test_losses_where_backends_are_set_one_by_one() -> None:
    """Then torch refuses to say what is set for all."""
    pytest.importorskip("triton")
    loss = partial(im.losses.symmetric_infonce, X[:20], Y[:20], temperature=0.1)
    expected = {precision: loss(backend="triton", precision=precision) for precision in ("highest", "float32", "high")}
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    before = state()
    assert before[0] == "contradicted"
    assert [float32_precision(torch.device(kind)) for kind in ("cpu", "cuda")] == ["highest", "high"]
    for precision, there in (("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")):
        with multiplied_in(precision):
            assert torch.backends.cuda.matmul.fp32_precision == there
        assert state() == before
    assert loss(backend="triton").equal(expected["highest"])  # of rows on a CPU
    for precision, value in expected.items():
        assert loss(backend="triton", precision=precision).equal(value)
        assert loss(backend="tiles", precision=precision).isfinite()
    assert state() == before


def test_the_precision_of_the_sigmoid_loss_is_that_of_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = sigmoid.accumulate

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(state()[0])
        return whole(*args, **options)

    monkeypatch.setattr(sigmoid, "accumulate", watched)
    torch.set_float32_matmul_precision("high")
    for precision in (None, "float32", "medium"):
        im.losses.sigmoid_loss(X, Y, temperature=0.1, bias=-1.0, precision=precision, backend="tiles")  # type: ignore[arg-type]
    assert seen == ["high", "highest", "medium"]
    assert state()[0] == "high"


@pytest.fixture
def _by_backend_alone() -> Iterator[None]:
    """As newer versions of torch want it; their other setting is an error to ask for then."""
    if len(_by_backend()) < 2:
        pytest.skip("this version of torch has one setting")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert state()[0] == "contradicted"
    yield
    for each in _by_backend():
        each.fp32_precision = "ieee"


@pytest.mark.usefixtures("_by_backend_alone")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
@pytest.mark.parametrize("backend", ["tiles", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_take_a_precision_that_is_set_by_backend(backend: Any, dtype: torch.dtype) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    assert [float32_precision(torch.device(kind)) for kind in ("cuda", "cpu")] == ["high", "highest"]
    before, x = state(), X[:20, :6].to(dtype).requires_grad_()
    found = []
    for precision in (None, "float32", "high", "medium"):
        options: dict[str, Any] = {"temperature": 0.1, "backend": backend, "precision": precision}
        value = symmetric_infonce(x, -x, **options) + sigmoid_loss(x, -x, bias=-1.0, **options)
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.isfinite().all()
        found.append(value.item())
        assert state() == before
    assert found == pytest.approx([found[0]] * 4, rel=1e-2)


class Products(TorchDispatchMode):
    """Notes what torch is set to at every product of float32."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        product = func._schema.name.removeprefix("aten::") in {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}
        if product and args[0].dtype is torch.float32:
            self.seen.append(state()[0])
        return func(*args, **(kwargs or {}))


RATIO = DensityRatio(0.1).fit(X, Y)
DOORS: dict[str, Callable[[], object]] = {
    "decompose": lambda: im.decompose(X, Y, temperature=0.1),
    "gap": lambda: im.gap(X, Y),
    "diagnose": lambda: im.diagnose(X, Y, temperature=0.1, scores=True, seen=(X[1:], Y[1:])),
    "shared_information": lambda: im.shared_information(X, Y, batch_size=8, anchors=8),
    "rank": lambda: im.rank({"a": (X, Y), "b": (X[:, :8], Y[:, :8])}, batch_size=8, normalize=True),
    "score_corrections": lambda: score_corrections(X, Y, methods=["whitening"], temperature=0.1),
    "log_ratios": lambda: RATIO.log_ratios(X, Y),
    "log_field_y": lambda: RATIO.log_field_y(X),
    "best_matches": lambda: RATIO.best_matches(X, Y, k=3),
    "compare_scores": lambda: compare_scores(X, Y, temperature=0.1),
    "best_bias": lambda: best_bias(X, Y, temperature=0.1, batch_size=8),
}


@pytest.mark.parametrize("name", DOORS)
def test_no_product_follows_a_training_script(name: str) -> None:
    torch.set_float32_matmul_precision("medium")
    with torch_threads(1), Products() as products:
        DOORS[name]()
    assert products.seen
    assert set(products.seen) == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_gap_is_the_same_to_the_last_bit() -> None:
    """A CPU with bfloat16 units has other last digits with "medium"."""
    expected = im.gap(X, Y).to_dict()
    torch.set_float32_matmul_precision("medium")
    assert im.gap(X, Y).to_dict() == expected
