"""Where work is done: names of devices, rows on their way there, too little memory, and the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import infomech as im
from infomech._checks import InputError
from infomech.cli import app
from infomech.io import devices
from infomech.io.devices import moved, rows_on
from pretended_card import OnCard, launches, move, pretended_card

CPU = torch.device("cpu")


def rows(n: int = 120, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [0, 1, 7, 64, 65, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rows_through_buffers_are_the_rows(n: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "BUFFER", 16 * dtype.itemsize * 9)  # nine rows
    given = rows(n).to(dtype)
    with pretended_card() as seen:
        there = moved(given, torch.device("cuda", 0))
        assert isinstance(there, OnCard)
        assert move(there, "cpu").equal(given)
    assert seen["copy_"] == (-(-n // 9) if n > 9 else 0)


def test_a_row_larger_than_a_buffer_travels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "BUFFER", 20)
    given = rows(3, 50)
    with pretended_card():
        assert move(moved(given, torch.device("cuda", 0)), "cpu").equal(given)


def test_memory_mapped_rows_give_the_numbers_of_rows_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "BUFFER", 1000)
    x, y = rows(), rows() + rows(seed=1)
    im.io.write_embeddings(tmp_path / "x.npy", x)
    im.io.write_embeddings(tmp_path / "y.npy", y)
    there = im.decompose(x, y, temperature=0.5, normalize=True)
    with pretended_card() as seen:
        mapped = [im.io.read_embeddings(tmp_path / f"{name}.npy") for name in "xy"]
        here = im.decompose(*mapped, temperature=0.5, normalize=True, device="cuda")
    assert seen["copy_"] >= 2 * 8  # of 15 rows each
    assert here.infonce_sym.value == pytest.approx(there.infonce_sym.value, abs=1e-5)
    assert here.infonce_sym.stderr == pytest.approx(there.infonce_sym.stderr, rel=1e-4)


def test_every_function_goes_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    x, y = rows(), rows() + rows(seed=1)
    with pretended_card() as seen:
        im.decompose(x, y, temperature=0.5, normalize=True)
        im.gap(x, y, normalize=True, device="auto")  # no card
        assert not seen
        report = im.diagnose(x, y, temperature=0.5, device="cuda", seen=(rows(seed=2), rows(seed=2) + rows(seed=3)))
        assert report.diagnosis.provenance["device"].startswith("cuda")
        assert seen
        seen.clear()
        im.gap(x, y, normalize=True, device="cuda")
        assert seen
        on_card = move(x, "cuda")
        seen.clear()
        assert (
            im.diagnose(on_card, move(y, "cuda"), temperature=0.5, device="cpu").diagnosis.provenance["device"] == "cpu"
        )
        assert [r.device.type for r in rows_on("auto", x, on_card)] == ["cuda", "cuda"]


def on_any(x: torch.Tensor, y: torch.Tensor, where: str) -> tuple[torch.Tensor, torch.Tensor]:
    return (move(x, "cuda") if "x" in where else x), (move(y, "cuda") if "y" in where else y)


@pytest.mark.parametrize("where", ["x", "y", "xy"])
@pytest.mark.parametrize("method", list(im.corrections.METHODS))
def test_corrections_take_rows_from_anywhere(method: str, where: str) -> None:
    x, y = rows(), rows() + rows(seed=1)
    pairs = torch.arange(120)[:, None].expand(120, 2)
    there = im.corrections.METHODS[method]().fit(x, y, pairs=pairs).transform(x, y)
    with pretended_card():
        found = im.corrections.METHODS[method]().fit(*on_any(x, y, where), pairs=pairs).transform(*on_any(x, y, where))
        assert [z.device.type == "cuda" for z in found] == ["x" in where, "y" in where]
        for made, true in zip(found, there, strict=True):
            torch.testing.assert_close(move(made, "cpu"), true)


@pytest.mark.parametrize("where", ["x", "y", "xy"])
def test_what_runs_on_the_cpu_takes_rows_from_anywhere(where: str) -> None:
    x, y = rows(), rows() + rows(seed=1)
    plan = im.compression.Plan(dimensions="pca", width=8, bits="int8")
    codes = im.compression.Compression(plan).fit(x, y).encode(x, side="x")
    scores = im.scores.compare_scores(x, y, temperature=0.5, methods=["cosine"])
    with pretended_card():
        made = im.compression.Compression(plan).fit(*on_any(x, y, where))
        assert made.encode(on_any(x, y, where)[0], side="x").equal(codes)
        assert made.decode(move(codes, "cuda")).equal(made.decode(codes))
        again = im.scores.compare_scores(*on_any(x, y, where), temperature=0.5, methods=["cosine"])
    assert again.to_dict() == scores.to_dict()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", torch.device("cuda", 99)])
def test_an_unusable_device_is_one_line(device: str | torch.device) -> None:
    for call in (
        lambda: im.decompose(rows(), rows(seed=1), temperature=0.5, device=device),
        lambda: im.gap(rows(), rows(seed=1), device=device),
        lambda: im.diagnose(rows(), rows(seed=1), temperature=0.5, device=device),
    ):
        with pytest.raises(InputError, match=f"^device is '{device}', which torch cannot use here; pass cpu") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_device_is_one_line() -> None:
    with pytest.raises(InputError, match="device is a int; pass a name"):
        im.gap(rows(), rows(seed=1), device=0)  # type: ignore[arg-type]


def test_a_device_without_double_precision_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.zeros

    def refuses(*size: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
        if dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return plain(*size)

    monkeypatch.setattr(torch, "zeros", refuses)
    with pytest.raises(InputError, match=r"^device is 'mps', which has no double precision; pass cpu or cuda$"):
        rows_on("mps", rows(), rows(seed=1))


def test_too_little_memory_is_one_line_and_auto_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = 2 * rows().numel() * 4
    monkeypatch.setattr(devices, "_chosen", lambda *_: torch.device("cuda", 0))
    with pretended_card() as seen:
        for free, fits in ((devices.WORKSPACE + 2 * size, True), (devices.WORKSPACE + 2 * size - 1, False)):
            monkeypatch.setattr(devices, "_free_memory", lambda _, free=free: free)
            if fits:
                assert all(isinstance(r, OnCard) for r in rows_on("cuda", rows(), rows(seed=1)))
                continue
            with pytest.raises(InputError, match=r"^the rows need about 2.0 GiB on cuda:0, and 2.0 GiB are free; pass"):
                rows_on("cuda", rows(), rows(seed=1))
            seen.clear()
            assert all(r.device == CPU for r in rows_on("auto", rows(), rows(seed=1)))
            assert not seen
    assert [r.message for r in caplog.records] == [
        "the rows need about 2.0 GiB on cuda:0, and 2.0 GiB are free: the work is done on the CPU"
    ]


def test_a_card_that_fills_up_on_the_way_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(devices, "_through_buffers", full)
    monkeypatch.setattr(devices, "BUFFER", 10)
    with pytest.raises(
        InputError, match=r"^cuda:0 has no memory left for rows of 0.0 GiB; pass device='cpu', or fewer"
    ):
        moved(rows(), torch.device("cuda", 0))


@pytest.mark.parametrize("command", ["report", "doctor", "correct"])
def test_commands_take_a_device(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (np.asarray(r) for r in (rows(), rows() + rows(seed=1)))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    rest = {"report": ["--no-figures", "-o"], "doctor": [], "correct": ["-m", "mean-removal", "-o"]}[command]
    out = [str(tmp_path / "out")] if rest else []
    line = [command, str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "-t", "0.5", "--quiet", *rest, *out]
    run = CliRunner()
    bad = run.invoke(app, [*line, "--device", "gpu"])
    assert bad.exit_code == 2
    assert bad.stderr == "infomech: --device is 'gpu', which torch cannot use here; pass cpu, cuda, mps or auto\n"
    assert not (tmp_path / "out").exists()
    with pretended_card() as seen:
        good = run.invoke(app, [*line, "--device", "cuda"])
        assert good.exit_code == 0, good.output
        assert launches(seen) > 1000
    if command == "correct":
        corrected = [im.io.read_embeddings(tmp_path / "out" / f"{name}.npy") for name in "xy"]
        saved = im.corrections.Correction.load(tmp_path / "out" / "correction.safetensors")
        for made, again in zip(corrected, saved.transform(x, y), strict=True):
            torch.testing.assert_close(made, again)


def test_a_full_card_is_no_fault_of_infomech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.asarray(rows()))
    np.save(tmp_path / "y.npy", np.asarray(rows(seed=1)))

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("infomech.diagnosis.examine", full)
    done = CliRunner().invoke(app, ["doctor", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "-t", "0.5"])
    assert done.exit_code == 2
    assert done.stderr == "infomech: the device ran out of memory; pass --device cpu, or fewer rows\n"
