"""The losses on kernels, as on tiles; what falls to the tiles, and what is said of it."""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, no_type_check

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources

from infomech import losses
from infomech._checks import InputError
from infomech.reductions.kernels import (
    block_sums,
    configs,
    counts,
    gradients,
    log_sums,
    merging,
    softplus,
    support,
    weights,
)
from infomech.reductions.kernels import rows as rows_module
from infomech.reductions.kernels.scores import scores
from infomech.reductions.kernels.tile import far
from infomech.reductions.losses import backends, directed, fused, paired, sigmoid

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
N = 22
NUMBERS = torch.linspace(-1, 1, N)
TILES = configs.Tiles(128, 256, 64, 8, 3)
SETTINGS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "infonce": (losses.infonce, {"temperature": 0.05}),
    "symmetric": (losses.symmetric_infonce, {"temperature": 0.05}),
    "control": (losses.symmetric_infonce, {"temperature": 0.05, "divergence_weight": 0.7}),
    "cold": (losses.symmetric_infonce, {"temperature": 0.005, "divergence_weight": 0.7}),
    "groups": (losses.symmetric_infonce, {"temperature": 0.1, "groups": torch.arange(N) // 3}),
    "log-weights": (
        losses.symmetric_infonce,
        {"temperature": 0.1, "log_weights_x": NUMBERS, "log_weights_y": -NUMBERS},
    ),
    "sigmoid": (losses.sigmoid_loss, {"temperature": 0.1, "bias": -5.0}),
}
LOSSES: dict[str, Callable[..., Tensor]] = {name: partial(loss, **given) for name, (loss, given) in SETTINGS.items()}
# Scores are off by 1e-5 of the largest (three products), and so are log-sums: weights by twice that.
LARGEST = dict.fromkeys(LOSSES, 10.0) | {"infonce": 20.0, "symmetric": 20.0, "control": 20.0, "cold": 200.0}


def rows(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    z = torch.randn(N, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(z, dim=1).to(dtype).requires_grad_()


def step(loss: Callable[..., Tensor], backend: str) -> tuple[Tensor, Tensor, Tensor]:
    x, y = rows(1), rows(2)
    value = loss(x, y, backend=backend)
    value.backward()
    assert x.grad is not None
    assert y.grad is not None
    return value.detach(), x.grad, y.grad


def same(found: tuple[Tensor, ...], true: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(found, true, strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("name", list(LOSSES))
def test_kernels_give_what_tiles_give(name: str) -> None:
    same(step(LOSSES[name], "triton"), step(LOSSES[name], "tiles"), 2e-5 * LARGEST[name])


@pytest.mark.parametrize("name", ["control", "sigmoid"])
def test_bare_float32_is_what_float64_gives(name: str) -> None:
    """To 1e-6 of the largest score, thirty times as close as three products."""
    loss, settings = SETTINGS[name]
    bare = step(partial(loss, precision="float32", **settings), "triton")
    x, y = (rows(k).detach().double().requires_grad_() for k in (1, 2))
    value = loss(x, y, **settings)
    value.backward()
    assert x.grad is not None
    assert y.grad is not None
    same(bare, (value.detach(), x.grad, y.grad), 1e-6 * LARGEST[name])


ALL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "control": partial(losses.symmetric_infonce, divergence_weight=0.7),
    "sigmoid": partial(losses.sigmoid_loss, bias=-5.0),
    "sigmoid, by row": lambda x, y, **given: losses.sigmoid_loss(x, y, bias=-5.0, reduction="none", **given).sum(),
    "smoothed labels of pairs": lambda x, y, **given: losses.symmetric_infonce(
        x, y, pairs=SEVERAL, label_smoothing=0.1, **given
    ),
    "negatives of each anchor's own": lambda x, y, **given: losses.infonce(
        x, y, negatives=torch.stack([x, y.flip(0)], 1), **given
    ),
    "the same, smoothed": lambda x, y, **given: losses.infonce(
        x, y, negatives=torch.stack([x, y.flip(0)], 1), label_smoothing=0.1, **given
    ),
    "several lengths": partial(losses.matryoshka_infonce, dims=[10, 3]),
}


@pytest.mark.parametrize("name", list(ALL_LOSSES))
def test_the_precision_of_a_loss_is_that_of_all_its_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, whatever torch's own setting is."""
    seen: set[str] = set()

    def watched(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watching(*args: Any, **kwargs: Any) -> Tensor:
            seen.add(torch.get_float32_matmul_precision())
            return product(*args, **kwargs)

        return watching

    for owner, names in ((torch, ("mm", "einsum", "addmm")), (Tensor, ("addmm_", "__matmul__"))):
        for product in names:
            monkeypatch.setattr(owner, product, watched(getattr(owner, product)))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for precision, wanted in ((None, "high"), ("float32", "highest"), ("medium", "medium")):
            seen.clear()
            ALL_LOSSES[name](rows(1), rows(2), temperature=0.1, precision=precision, backend="tiles").backward()
            assert seen == {wanted}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_precision_that_is_none(unchecked: None) -> None:
    said = "precision is 'fp32'; expected None, 'float32', 'highest', 'high' or 'medium'"
    for wrong in (
        lambda: losses.infonce(rows(1), rows(2), temperature=0.1, precision="fp32"),  # type: ignore[arg-type]
        lambda: losses.SigmoidLoss(precision="fp32"),  # type: ignore[arg-type]
        lambda: losses.pairwise_infonce([rows(1), rows(2)], temperature=0.1, precision="fp32"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            wrong()


@pytest.mark.parametrize("name", ["infonce", "control", "cold", "groups", "log-weights"])
def test_a_backward_that_does_not_fit_falls_to_the_tiles(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OutOfResources(311_320, 232_448, "shared memory")

    support.say_once.cache_clear()
    monkeypatch.setattr(fused, "paired_gradients", full)
    monkeypatch.setattr(fused, "row_gradients", full)
    with caplog.at_level(logging.INFO, logger="infomech"):
        found = [step(LOSSES[name], "triton") for _ in range(2)]
    same(found[0], step(LOSSES[name], "tiles"), 2e-5 * LARGEST[name])
    assert [r.getMessage() for r in caplog.records] == [
        "a Triton kernel needs 311320 of shared memory, of 232448; falling back to tiles"
    ]


def test_rows_in_double_precision_fall_to_the_tiles_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    support.say_once.cache_clear()
    x, y = rows(1, torch.float64), rows(2, torch.float64)
    with caplog.at_level(logging.INFO, logger="infomech"):
        found = losses.infonce(x, y, temperature=0.1, backend="triton")
    assert torch.equal(found, losses.infonce(x, y, temperature=0.1, backend="tiles"))
    assert caplog.messages == ["the Triton kernels take no float64 rows; falling back to tiles"]


@pytest.mark.parametrize("name", ["infonce", "cold", "groups", "sigmoid", "listed"])
def test_neither_forward_nor_backward_reads_a_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the package asks for, not the interpreter."""
    seen: list[str] = []

    def watched(read: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def watching(tensor: Tensor) -> Any:
            caller = sys._getframe(1).f_code.co_filename
            if "infomech" in Path(caller).parts:
                seen.append(f"{Path(caller).name}: {read.__name__}")
            return read(tensor)

        return watching

    for read in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(Tensor, read, watched(getattr(Tensor, read)))
    loss = {"listed": partial(losses.symmetric_infonce, temperature=0.1, pairs=SEVERAL)}.get(name) or LOSSES[name]
    step(partial(loss, check="never"), "triton")
    assert seen == []
    step(loss, "triton")
    assert seen  # a look at the rows


@pytest.mark.parametrize("wrong", ["cuda", None, 3, "auto/float32", "triton/fp32", "tiles/", ""])
def test_a_backend_that_is_none(wrong: Any, unchecked: None) -> None:
    said = re.escape(f"backend is {wrong!r}; expected 'auto', 'tiles' or 'triton'")
    for loss in (losses.infonce, losses.symmetric_infonce, partial(losses.sigmoid_loss, bias=0.0)):
        with pytest.raises(InputError, match=said):
            loss(rows(1), rows(2), temperature=0.1, backend=wrong)
    with pytest.raises(InputError, match=said):
        losses.pairwise_infonce([rows(1), rows(2)], temperature=0.1, backend=wrong)
    with pytest.raises(InputError, match=said):
        losses.InfoNCE(0.1, backend=wrong)


@pytest.mark.parametrize("given", [{"backend": "cuda"}, {"precision": "fp32"}])
def test_compiled_code_refuses_a_backend_that_is_none(given: dict[str, Any], unchecked: None) -> None:
    step = torch.compile(partial(losses.infonce, temperature=0.1, **given), backend="eager")
    with pytest.raises(InputError, match=r" is '(cuda|fp32)'; expected "):
        step(rows(1), rows(2))


@pytest.fixture
def unknown_triton() -> Iterator[None]:
    """What is known of the installed Triton is forgotten before and after."""
    support._missing.cache_clear()
    yield
    support._missing.cache_clear()


@pytest.mark.parametrize(
    ("installed", "complaint"),
    [
        (None, "Triton is not installed: pip install 'triton>=3.6'"),
        (
            SimpleNamespace(__version__="3.5.1"),
            "Triton 3.5.1 is too old: update torch, which brings its own, or pip install 'triton>=3.6'",
        ),
        (
            SimpleNamespace(__version__="main"),
            "Triton main is too old: update torch, which brings its own, or pip install 'triton>=3.6'",
        ),
        (
            SimpleNamespace(),
            "Triton of no version is too old: update torch, which brings its own, or pip install 'triton>=3.6'",
        ),
    ],
)
def test_triton_that_is_missing_or_too_old(
    installed: SimpleNamespace | None,
    complaint: str,
    unknown_triton: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", installed)
    with pytest.raises(InputError, match=re.escape(complaint)):
        losses.infonce(rows(1), rows(2), temperature=0.1, backend="triton")
    assert losses.infonce(rows(1), rows(2), temperature=0.1).isfinite()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    support.say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="infomech"):
        assert not backends.takes_kernels("auto", "", torch.empty(2, 2, device="meta").as_subclass(OnCuda))
    assert caplog.messages == [f"{complaint}; falling back to tiles"]


@pytest.mark.parametrize("error", [ImportError("libtriton.so: undefined symbol\n"), RuntimeError("no driver")])
def test_triton_that_is_broken(error: Exception, unknown_triton: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and to install it once more would do nothing; the tiles go on."""

    def broken(name: str) -> None:
        raise error

    monkeypatch.setattr(support.importlib, "import_module", broken)
    said = f"Triton cannot be imported ({type(error).__name__}: {str(error).strip()}): pip install --force-reinstall "
    with pytest.raises(InputError, match=re.escape(said)):
        losses.infonce(rows(1), rows(2), temperature=0.1, backend="triton")
    assert losses.infonce(rows(1), rows(2), temperature=0.1).isfinite()


class OnCuda(Tensor):
    """A tensor that says that it is on a card."""

    device = torch.device("cuda", 0)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("capability", "compiler", "complaint"),
    [
        ((7, 5), True, "a card of compute capability 7.5: the Triton kernels need 8.0 or later"),
        ((8, 6), False, "Triton needs a C compiler: install gcc, or set CC"),
        ((8, 6), True, None),
    ],
)
def test_a_card_or_a_machine_that_kernels_cannot_use(
    capability: tuple[int, int], compiler: bool, complaint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(support.shutil, "which", lambda name: name if compiler else None)
    monkeypatch.setattr(support.sys, "platform", "linux")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET")
    support._no_compiler.cache_clear()
    assert support.usable(torch.device("cuda", 0), torch.bfloat16) == complaint
    support._no_compiler.cache_clear()


SEVERAL = torch.stack([torch.arange(2 * N) % N, torch.arange(2 * N) // 2], 1)
POSITIVES: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "one listed": (losses.infonce, {"positives": torch.arange(N).roll(1)}),
    "several": (losses.infonce, {"positives": SEVERAL}),
    "several of both sides": (losses.symmetric_infonce, {"pairs": SEVERAL, "several": "log_mean"}),
    "by group": (losses.infonce, {"groups": torch.arange(N) // 2, "same_group": "positive", "several": "log_mean"}),
    "sigmoid, listed": (losses.sigmoid_loss, {"pairs": SEVERAL, "bias": -1.0}),
    "sigmoid, by group": (
        losses.sigmoid_loss,
        {"groups": torch.arange(N) // 2, "same_group": "positive", "bias": -1.0},
    ),
    "sigmoid, none": (
        lambda x, y, **given: losses.sigmoid_loss(x, y, **given) @ NUMBERS.double().to(x.dtype),
        {"groups": torch.arange(N) // 2, "same_group": "positive", "bias": -1.0, "reduction": "none"},
    ),
}


@pytest.mark.parametrize("name", list(POSITIVES))
def test_several_positives_run_on_kernels(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loss, settings = POSITIVES[name]
    ours = partial(loss, temperature=0.1, check="never", **settings)
    want = step(ours, "tiles")

    def no_tiles(*args: object, **kwargs: object) -> None:
        raise AssertionError("a sweep on tiles")

    for module in (paired, directed, sigmoid):
        for sweep in ("gather", "scatter", "accumulate"):
            monkeypatch.setattr(module, sweep, no_tiles, raising=False)
    support.say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="infomech"):
        same(step(ours, "triton"), want, 2e-4)
    assert caplog.messages == []


def test_what_kernels_cannot_leave_out_falls_to_the_tiles(caplog: pytest.LogCaptureFixture) -> None:
    support.say_once.cache_clear()

    def loss(x: Tensor, y: Tensor, backend: str) -> Tensor:
        few = losses.FalseNegatives(-0.4)
        return losses.infonce(x, y, temperature=0.1, backend=backend, false_negatives=few)  # type: ignore[arg-type]

    with caplog.at_level(logging.INFO, logger="infomech"):
        found = [step(loss, "triton") for _ in range(2)]
    same(found[0], step(loss, "tiles"), 2e-4)
    assert caplog.messages == [
        "the Triton kernels have no 'above' among what is left out of a sum or weighed in it; falling back to tiles"
    ]


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (partial(losses.matryoshka_infonce, dims=[4]), "sums of several lengths at once"),
        (
            lambda x, y, **given: losses.infonce(x, y, positives=SEVERAL, label_smoothing=0.1, **given),
            "sums of scores by such entries, which smoothed labels take",
        ),
    ],
)
def test_what_only_tiles_do_is_said_once(
    loss: Callable[..., Tensor], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    support.say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="infomech"):
        found = [loss(rows(1), rows(2), temperature=0.1, backend="triton") for _ in range(2)]
        tiles = loss(rows(1), rows(2), temperature=0.1, backend="tiles")
    torch.testing.assert_close(found[0], tiles, rtol=2e-4, atol=0)
    assert caplog.messages == [f"the Triton kernels have no {what}; falling back to tiles"]


def test_the_module_of_several_lengths_has_the_switch(unchecked: None) -> None:
    loss = losses.MatryoshkaInfoNCE([4], 0.1, backend="tiles", precision="float32")
    assert loss(rows(1), rows(2)).isfinite()
    for wrong in ({"backend": "cuda"}, {"precision": "fp32"}):
        with pytest.raises(InputError, match=r" is '(cuda|fp32)'; expected "):
            losses.MatryoshkaInfoNCE([4], 0.1, **wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r" is '(cuda|fp32)'; expected "):
            losses.matryoshka_infonce(rows(1), rows(2), dims=[4], temperature=0.1, **wrong)  # type: ignore[arg-type]


def test_hard_negatives_and_explicit_ones_run_on_kernels() -> None:
    far_rows = rows(3).detach()

    settings: dict[str, Any] = {"negatives_y": far_rows, "hardness": losses.Hardness(0.5), "label_smoothing": 0.1}

    def loss(x: Tensor, y: Tensor, backend: str) -> Tensor:
        return losses.symmetric_infonce(x, y, temperature=0.1, backend=backend, **settings)  # type: ignore[arg-type]

    same(step(loss, "triton"), step(loss, "tiles"), 3e-4)


@pytest.mark.parametrize("name", ["infonce", "symmetric", "sigmoid"])
def test_groups_that_are_no_whole_numbers_are_told_apart(name: str) -> None:
    loss, settings = SETTINGS[name]
    with_groups = partial(loss, **settings, groups=torch.arange(N) / 4 - 1.5)
    same(step(with_groups, "triton"), step(with_groups, "tiles"), 4e-4)


@pytest.mark.parametrize("dtypes", [(torch.int64, torch.float32), (torch.float64, torch.int32)])
def test_groups_of_two_dtypes_are_equal_where_their_numbers_are(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    groups, candidate_groups = (torch.arange(N).div(3, rounding_mode="floor").to(dtype) for dtype in dtypes)
    loss = partial(losses.infonce, temperature=0.05, groups=groups, candidate_groups=candidate_groups)
    same(step(loss, "triton"), step(loss, "tiles"), 4e-4)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float16, torch.bfloat16)])
def test_rows_of_two_dtypes_are_multiplied_as_float32(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    found = []
    for backend in ("triton", "tiles"):
        x, y = (rows(k, dtype) for k, dtype in enumerate(dtypes))
        value = losses.symmetric_infonce(x, y, temperature=0.1, divergence_weight=0.5, backend=backend)  # type: ignore[arg-type]
        value.backward()
        assert x.grad is not None
        assert y.grad is not None
        assert (x.grad.dtype, y.grad.dtype) == dtypes
        found.append((value.detach(), x.grad.float(), y.grad.float()))
    same(found[0][:1], found[1][:1], 1e-5)
    same(found[0][1:], found[1][1:], 2.0**-7 + 2e-4)  # the interpreter cuts off what bfloat16 does not hold


@pytest.mark.parametrize("layout", ["every second row", "every second feature", "not aligned", "transposed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_that_are_not_contiguous_or_not_aligned(layout: str, dtype: torch.dtype) -> None:
    z = torch.randn(24, 42, generator=torch.Generator().manual_seed(4)).to(dtype)
    cut = {"every second row": z[::2, :21], "every second feature": z[:12, ::2],
           "not aligned": z.flatten()[1:253].view(12, 21), "transposed": z[:21, :12].T}[layout]  # fmt: skip
    assert cut.shape == (12, 21)
    y = cut.contiguous().flip(0)
    found = losses.infonce(cut, y, temperature=10.0, backend="triton")
    assert torch.equal(found, losses.infonce(cut.clone(memory_format=torch.contiguous_format), y, temperature=10.0,
                                             backend="triton"))  # fmt: skip


def test_weights_for_which_memory_is_short_come_in_smaller_chunks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        """A card with room for 700 rows of weights."""

        @staticmethod
        def new_empty(rows: int, width: int, dtype: torch.dtype) -> Tensor:
            if rows > 700:
                raise torch.OutOfMemoryError("full")
            return torch.empty(rows, width, dtype=dtype)

    made, _ = scores(torch.ones(4, 8), torch.ones(4, 8), torch.tensor(1.0, dtype=torch.float64))
    support.say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="infomech"):
        found = [gradients.room_for(made._replace(scale=Full()), 3000, 20, None, TILES, store=True) for _ in range(2)]
    assert [rows_ for _, rows_ in found] == [375, 375]
    assert caplog.messages == ["too little memory for the weights of 3000 rows at once: 375 rows, slower"]
    listed, _ = scores(torch.ones(4, 8), torch.ones(4, 8), made.scale, listed=torch.tensor([[0, 1]]))
    _, whole = gradients.room_for(listed._replace(scale=Full()), 3000, 20, None, TILES, store=True)
    assert whole % TILES.rows == whole % TILES.cols == 0
    assert gradients.room_for(listed, 3000, 20, 7, TILES, store=True)[1] == max(TILES.rows, TILES.cols)


@pytest.mark.parametrize("name", ["control", "cold"])
def test_partial_sums_for_which_memory_is_short_come_in_smaller_stripes(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    want = step(LOSSES[name], "triton")
    monkeypatch.setattr(configs, "_INTERPRETED", configs.Plan(*[configs.Tiles(16, 16, 64, 4, 1, 2)] * 3))
    tried: list[int] = []
    whole = log_sums._stripe

    def short(scores_: Any, *args: Any, **kwargs: Any) -> None:
        tried.append(len(scores_.x))
        if len(scores_.x) > 16:
            raise torch.OutOfMemoryError("full")
        whole(scores_, *args, **kwargs)

    monkeypatch.setattr(log_sums, "_stripe", short)
    support.say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="infomech"):
        same(step(LOSSES[name], "triton"), want, 2e-5 * LARGEST[name])
    assert max(tried) > 16
    assert caplog.messages == ["too little memory for the partial sums of 32 rows at once: 16 rows, slower"]
    monkeypatch.setattr(log_sums, "_stripe", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        step(LOSSES[name], "triton")


class Recorder:
    """Stands for a kernel: notes how many scores it is to compute, and computes none."""

    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self.note

    def note(self, **arguments: Any) -> None:
        tall, wide = -(-arguments["M"] // arguments["BM"]), -(-arguments["N"] // arguments["BN"])
        share = 1.0
        if arguments.get("HALF"):
            step = arguments["BM"] // arguments["BN"]
            share = sum(wide - step * row for row in range(tall)) / (tall * wide)
        self.seen.append(share * arguments["M"] * arguments["N"])


@pytest.mark.parametrize(
    ("n", "products", "launches"), [(4096, 2.2, 4), (8192, 2.1, 6), (16384, 2.1, 5), (32768, 2.1, 7)]
)
def test_what_control_takes_of_the_loss(
    n: int, products: float, launches: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of n x n, forward and backward, and kernels that are started: few where a card is done with them soon.

    Without its kernel for the diagonal, which is a few tiles, and what goes by rows.
    """
    entries: list[float] = []
    kernels = Recorder(entries)
    monkeypatch.setattr(log_sums, "_sums_by_tile", kernels)
    monkeypatch.setattr(gradients, "_weights", kernels)
    for module, name in ((log_sums, "_sums_again"), (gradients, "_weights_again")):
        monkeypatch.setattr(module, name, Recorder([]))
    monkeypatch.setattr(log_sums, "merge", lambda *_: None)
    monkeypatch.setattr(log_sums, "merge_within", lambda *_: None)
    monkeypatch.setattr(rows_module, "launched", lambda device, work: None)

    def multiplied(out: Tensor, g: gradients.Weights, by: Any, *, fresh: bool) -> None:
        entries.append(g.high.numel())

    monkeypatch.setattr(gradients, "multiply", multiplied)
    x, y = (torch.zeros(n, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    taken = []
    for weight in (0.0, 0.75):
        entries.clear()
        losses.symmetric_infonce(
            x, y, temperature=0.1, divergence_weight=weight, check="never", backend="triton"
        ).backward()
        taken.append((sum(entries) / n**2, len(entries)))
    (loss, started), (control, also) = taken
    assert loss == pytest.approx(4.0)
    assert control < products * loss
    assert also <= launches * started


@triton.jit
@no_type_check
def _offsets(OUT, first, stride, COUNT: tl.constexpr):
    k = tl.arange(0, COUNT)
    tl.store(OUT + k, far(first + k, stride))


def test_offsets_go_beyond_31_bits() -> None:
    out = torch.empty(4, dtype=torch.int64)
    _offsets[(1,)](out, 3_000_000, 1024, COUNT=4)
    assert out.tolist() == [1024 * k for k in range(3_000_000, 3_000_004)]


@pytest.mark.parametrize("module", [rows_module, merging, log_sums, weights, softplus, block_sums, counts])
def test_every_offset_of_rows_and_partial_sums_takes_64_bits(module: ModuleType) -> None:
    """A product of a tile's or a row's number with a stride, without `far`, would wrap around at 2^31."""
    text = Path(str(module.__file__)).read_text()
    kernels = "\n".join(part for part in re.split(r"\n(?=\S)", text) if "tl." in part)
    strides = "across|down|width|(?:x_|y_|kept_|summed_|counted_|)stride|tables|table|d"
    assert re.findall(rf"\w+ \* (?:{strides})\b", kernels) == []


@pytest.mark.parametrize("rows_", [1000, 3_000_000, 2**26])
def test_partial_sums_and_chunks_keep_to_their_room(rows_: int) -> None:
    """Then no index of theirs reaches 2^31."""
    tiles = configs.nearest((9, 0), "half").sums
    stripe = configs.stripe_rows(rows_, rows_, tiles)
    partial = 2 * (stripe * -(-rows_ // tiles.cols) + -(-stripe // tiles.rows) * rows_)
    assert 4 * partial <= max(
        1.1 * configs.STRIPE_BYTES, 8 * tiles.rows * 2 * (rows_ / tiles.cols + rows_ / tiles.rows)
    )
    assert configs.chunk_rows(rows_, rows_, 2) >= configs.LEAST_CHUNK
    assert partial < 2**31
