"""The losses on kernels, as on tiles; what falls to the tiles, and what is said of it."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import no_type_check

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources

from infomech import losses
from infomech._checks import InputError
from infomech.reductions.kernels import configs, log_sums, merging, softplus, support, weights
from infomech.reductions.kernels import rows as rows_module
from infomech.reductions.kernels.tile import far
from infomech.reductions.losses import backends, fused

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
N = 22
NUMBERS = torch.linspace(-1, 1, N)
LOSSES: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "infonce": lambda x, y, b: losses.infonce(x, y, temperature=0.05, backend=b),
    "symmetric": lambda x, y, b: losses.symmetric_infonce(x, y, temperature=0.05, backend=b),
    "control": lambda x, y, b: losses.symmetric_infonce(x, y, temperature=0.05, divergence_weight=0.7, backend=b),
    "cold": lambda x, y, b: losses.symmetric_infonce(x, y, temperature=0.005, divergence_weight=0.7, backend=b),
    "groups": lambda x, y, b: losses.symmetric_infonce(x, y, temperature=0.1, groups=torch.arange(N) // 3, backend=b),
    "log-weights": lambda x, y, b: losses.symmetric_infonce(
        x, y, temperature=0.1, log_weights_x=NUMBERS, log_weights_y=-NUMBERS, backend=b
    ),
    "sigmoid": lambda x, y, b: losses.sigmoid_loss(x, y, temperature=0.1, bias=-5.0, backend=b),
}


def rows(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    z = torch.randn(N, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(z, dim=1).to(dtype).requires_grad_()


def step(loss: Callable[[Tensor, Tensor, str], Tensor], backend: str) -> tuple[Tensor, Tensor, Tensor]:
    x, y = rows(1), rows(2)
    value = loss(x, y, backend)
    value.backward()
    assert x.grad is not None
    assert y.grad is not None
    return value.detach(), x.grad, y.grad


def same(found: tuple[Tensor, ...], true: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(found, true, strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("name", list(LOSSES))
def test_kernels_give_what_tiles_give(name: str) -> None:
    same(step(LOSSES[name], "triton"), step(LOSSES[name], "tiles"), 3e-3 if name == "cold" else 3e-4)


@pytest.mark.parametrize("name", ["infonce", "control", "cold", "groups", "log-weights"])
def test_a_backward_that_does_not_fit_falls_to_the_tiles(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OutOfResources(311_320, 232_448, "shared memory")

    backends._say_once.cache_clear()
    monkeypatch.setattr(fused, "paired_gradients", full)
    monkeypatch.setattr(fused, "row_gradients", full)
    with caplog.at_level(logging.INFO, logger="infomech"):
        found = [step(LOSSES[name], "triton") for _ in range(2)]
    same(found[0], step(LOSSES[name], "tiles"), 3e-3 if name == "cold" else 3e-4)
    assert [r.getMessage() for r in caplog.records] == [
        "a Triton kernel needs 311320 of shared memory, of 232448: the tiles go on"
    ]


def test_rows_in_double_precision_fall_to_the_tiles_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    backends._say_once.cache_clear()
    x, y = rows(1, torch.float64), rows(2, torch.float64)
    with caplog.at_level(logging.INFO, logger="infomech"):
        found = losses.infonce(x, y, temperature=0.1, backend="triton")
    assert torch.equal(found, losses.infonce(x, y, temperature=0.1, backend="tiles"))
    assert caplog.messages == ["float64 rows: the tiles take them"]


def test_a_backend_that_is_none(unchecked: None) -> None:
    with pytest.raises(InputError, match="backend is 'cuda'; expected 'auto', 'tiles' or 'triton'"):
        losses.infonce(rows(1), rows(2), temperature=0.1, backend="cuda")  # type: ignore[arg-type]


def test_triton_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_missing", lambda: "Triton is not installed: pip install 'triton>=3.6'")
    with pytest.raises(InputError, match="Triton is not installed: pip install"):
        losses.infonce(rows(1), rows(2), temperature=0.1, backend="triton")
    assert losses.infonce(rows(1), rows(2), temperature=0.1).isfinite()


@triton.jit
@no_type_check
def _offsets(OUT, first, stride, COUNT: tl.constexpr):
    k = tl.arange(0, COUNT)
    tl.store(OUT + k, far(first + k, stride))


def test_offsets_go_beyond_31_bits() -> None:
    out = torch.empty(4, dtype=torch.int64)
    _offsets[(1,)](out, 3_000_000, 1024, COUNT=4)
    assert out.tolist() == [1024 * k for k in range(3_000_000, 3_000_004)]


@pytest.mark.parametrize("module", [rows_module, merging, log_sums, weights, softplus])
def test_every_offset_of_rows_and_partial_sums_takes_64_bits(module: ModuleType) -> None:
    """A product of a tile's or a row's number with a stride, without `far`, would wrap around at 2^31."""
    text = Path(str(module.__file__)).read_text()
    kernels = "\n".join(part for part in re.split(r"\n(?=\S)", text) if "tl." in part)
    assert re.findall(r"\w+ \* (?:across|down|width|stride|x_stride|y_stride|d)\b", kernels) == []


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
