"""What sums the kernels and counts the ranks of a report: tiles or Triton, asked for by argument, all the way down."""

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.main import get_command
from typer.testing import CliRunner

import infomech as im
from infomech.cli import app
from infomech.corrections import score_corrections
from infomech.diagnosis import Settings
from infomech.reductions.kernels import support
from infomech.reductions.statistics import kernel_sums, ranks

TAU = {"temperature": 0.2}
INTERPRETED = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


def rows(n: int, *, seed: int = 0, d: int = 4) -> tuple[Tensor, Tensor]:
    """Pairs; the last two are near-duplicates."""
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(n, d, generator=g), dim=1)
    x[-1] = x[-2]
    y = torch.nn.functional.normalize(x + 0.3 * torch.randn(n, d, generator=g), dim=1)
    y[-1] = y[-2]
    return x, y


SMALL, MANY = rows(14), rows(104)
PLANS = [im.compression.Plan(bits="int8")]

# Every function whose sums may run on kernels, on as few rows as it takes.
DOORS: dict[str, Callable[..., Any]] = {
    "decompose": lambda **options: im.decompose(*SMALL, **TAU, **options),
    "gap": lambda **options: im.gap(*SMALL, **options),
    "diagnose": lambda **options: im.diagnose(*SMALL, **TAU, **options),
    "shared_information": lambda **options: im.shared_information(*MANY, batch_size=8, **options),
    "rank": lambda **options: im.rank({"a": MANY, "b": rows(104, seed=1)}, batch_size=8, **options),
    "shrink": lambda **options: im.shrink(*rows(201), plans=PLANS, batch_size=8, **options),
    "score_corrections": lambda **options: score_corrections(*SMALL, methods=["mean-removal"], **TAU, **options),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backends that reductions were asked for; tiles do it all."""
    seen: set[str] = set()
    for module in (kernel_sums, ranks):
        monkeypatch.setattr(module, "takes_kernels", lambda backend, *_: bool(seen.add(backend)))
    return seen


@pytest.mark.parametrize("name", DOORS)
def test_every_sum_is_by_the_backend_that_was_asked_for(name: str, asked: set[str]) -> None:
    DOORS[name](backend="tiles")
    assert asked == {"tiles"}
    asked.clear()
    if name in ("decompose", "gap"):
        DOORS[name]()
        assert asked == {"auto"}


def test_curves_and_seen_pairs_are_by_that_backend_too(asked: set[str]) -> None:
    found = im.diagnose(*SMALL, **TAU, curves=True, backend="tiles")
    assert found.budget.without_duplicates is not None
    assert not found.budget.resolved
    im.diagnose(*MANY, **TAU, seen=rows(104, seed=2), backend="tiles")
    assert asked == {"tiles"}


def numbers(content: object) -> dict[str, float]:
    """The numbers of nested dictionaries and lists, by place; without time and versions."""
    if isinstance(content, dict):
        parts = [(str(key), each) for key, each in content.items() if key != "provenance"]
    elif isinstance(content, list):
        parts = [(str(place), each) for place, each in enumerate(content)]
    else:
        return {"": float(content)} if isinstance(content, int | float) else {}
    return {f"{key}.{rest}": value for key, each in parts for rest, value in numbers(each).items()}


@pytest.fixture(scope="module")
def on_both() -> Iterator[dict[str, tuple[dict[str, float], dict[str, float], int]]]:
    """Numbers by tiles and by kernels, and how often kernels were called."""
    pytest.importorskip("triton")
    from infomech.reductions.kernels import block_sums, counts

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        calls: list[str] = []
        for module, name in ((block_sums, "add_block_sums"), (counts, "counts_above")):
            kernel = getattr(module, name)
            patch.setattr(
                module, name, lambda *args, kernel=kernel, **options: calls.append("") or kernel(*args, **options)
            )
        for name in ("decompose", "gap", "diagnose"):
            sides = []
            for backend in ("tiles", "triton"):
                calls.clear()
                sides.append(numbers(DOORS[name](backend=backend).to_dict()))
                assert bool(calls) == (backend == "triton")
            found[name] = (*sides, len(calls))
        yield found


@INTERPRETED
@pytest.mark.parametrize("name", ["decompose", "gap", "diagnose"])
def test_kernels_give_the_numbers_of_tiles(name: str, on_both: dict[str, Any]) -> None:
    tiles, kernels, launches = on_both[name]
    assert launches == {"decompose": 8, "gap": 4, "diagnose": 12}[name]
    assert tiles.keys() == kernels.keys()
    for place, value in tiles.items():
        assert kernels[place] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), place  # 3e-7 of an exponent


@INTERPRETED
@pytest.mark.slow
def test_kernels_share_the_information_of_tiles() -> None:
    pytest.importorskip("triton")
    options = {"batch_size": 8, "anchors": 4, "direction": "x_to_y"}
    tiles, kernels = (
        numbers(im.shared_information(*MANY, backend=backend, **options).to_dict())  # type: ignore[arg-type]
        for backend in ("tiles", "triton")
    )
    assert tiles.keys() == kernels.keys()
    for place, value in tiles.items():
        assert kernels[place] == pytest.approx(value, rel=3e-6, abs=3e-6, nan_ok=True), place


def test_rows_in_double_precision_fall_to_the_tiles_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton")
    support.say_once.cache_clear()
    x, y = (side.double() for side in SMALL)
    with caplog.at_level(logging.INFO, logger="infomech"):
        found = [im.decompose(x, y, **TAU, backend=backend) for backend in ("triton", "tiles")]  # type: ignore[arg-type]
        im.gap(x, y, backend="triton")
    assert found[0].to_dict() == found[1].to_dict()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "the Triton kernels take no float64 rows; falling back to tiles")
    ]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", DOORS)
def test_a_backend_that_cannot_be_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("cuda", "tiles/high", "", None, 3, ["tiles"]):
        with pytest.raises(im.InputError, match=r"^backend is .+; it is one of auto, tiles, triton$"):
            DOORS[name](backend=backend)
    monkeypatch.delenv("TRITON_INTERPRET")
    cannot = "^backend is 'triton', but it cannot be used: rows on cpu: the Triton kernels need a CUDA device; or pass"
    with pytest.raises(im.InputError, match=f"{cannot} backend='auto'$"):
        DOORS[name](backend="triton")


def test_without_triton_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_missing", lambda: f"Triton is not installed: {support._INSTALL}")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(im.InputError, match=r"cannot be used: Triton is not installed: pip install 'triton>=3\.6'; or"):
        im.gap(*SMALL, backend="triton")


def test_settings_know_backends() -> None:
    with pytest.raises(im.InputError, match=r"^backend is 'cpu'; it is one of auto, tiles, triton$"):
        Settings(0.2, backend="cpu")  # type: ignore[arg-type]


def test_whatever_takes_a_device_takes_a_backend() -> None:
    public = [getattr(im, name) for name in im.__all__]
    signatures = [inspect.signature(each).parameters for each in public if inspect.isfunction(each)]
    both = [each for each in signatures if "device" in each]
    assert len(both) >= 3
    assert all(each["backend"].default == "auto" for each in both)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    options = {name: {each.name for each in command.params} for name, command in commands.items()}
    assert {name for name, own in options.items() if "device" in own} - {"embed"} == {
        name for name, own in options.items() if "backend" in own
    }


@pytest.mark.parametrize("command", ["report", "doctor", "correct"])
def test_commands_take_a_backend(
    command: str, tmp_path: Path, asked: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, side in zip("xy", SMALL, strict=True):
        np.save(tmp_path / f"{name}.npy", side.numpy())
    out = ["-o", str(tmp_path / "out")]
    rest = {"report": ["--no-figures", *out], "doctor": [], "correct": ["-m", "mean-removal", *out]}[command]
    line = [command, str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "-t", "0.2", "--quiet", *rest]
    monkeypatch.delenv("TRITON_INTERPRET")
    cannot = "--backend is 'triton', but it cannot be used: rows on cpu: the Triton kernels need a CUDA device"
    for backend, complaint in (
        ("gpu", "--backend is 'gpu'; it is one of auto, tiles, triton"),
        ("triton", f"{cannot}; or pass --backend auto"),
    ):
        bad = CliRunner().invoke(app, [*line, "--backend", backend, "--device", "cpu"])
        assert bad.exit_code == 2
        assert bad.stderr == f"infomech: {complaint}\n"
        assert not asked
        assert not (tmp_path / "out").exists()
    good = CliRunner().invoke(app, [*line, "--backend", "tiles"])
    assert good.exit_code == 0, good.output
    assert asked == {"tiles"}


def test_a_saved_report_is_drawn_without_a_backend(tmp_path: Path) -> None:
    drawn = CliRunner().invoke(
        app, ["report", "--from", str(tmp_path), "-o", str(tmp_path / "new"), "--backend", "tiles"]
    )
    assert drawn.exit_code == 2
    assert "both --backend and --from are given" in drawn.stderr
