"""Every format round-trips; every file that cannot be used is refused in one line that names it."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch

from infomech import InputError
from infomech.io import read_embeddings, read_labels, read_pairs, write_embeddings

ROWS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def _table(kind: str, fixed: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        flat = pa.array(ROWS.flatten().numpy())
        lists = (
            pa.FixedSizeListArray.from_arrays(flat, 3) if fixed else pa.ListArray.from_arrays(np.arange(0, 22, 3), flat)
        )
        table = pa.table({"id": list(range(7)), "embedding": lists})
        if kind == "parquet":
            pa.parquet.write_table(table, path)
        else:
            opened = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
            with opened(str(path), table.schema) as sink:
                sink.write_table(table)

    return write


FORMATS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "npy": ("x.npy", lambda p: np.save(p, ROWS.numpy())),
    "npy fortran": ("x.npy", lambda p: np.save(p, np.asfortranarray(ROWS.numpy()))),
    "npy big endian": ("x.npy", lambda p: np.save(p, ROWS.numpy().astype(">f4"))),
    "npz": ("x.npz", lambda p: np.savez(p, emb=ROWS.numpy())),
    "safetensors": ("x.safetensors", lambda p: safetensors.torch.save_file({"emb": ROWS}, p)),
    "pt": ("x.pt", lambda p: torch.save(ROWS, p)),
    "pt dictionary": ("x.pt", lambda p: torch.save({"emb": ROWS, "step": 3}, p)),
    "parquet": ("x.parquet", _table("parquet", False)),
    "parquet fixed": ("x.parquet", _table("parquet", True)),
    "arrow file": ("x.arrow", _table("file", True)),
    "arrow stream": ("x.arrow", _table("stream", False)),
    "wrong name": ("x.bin", lambda p: np.save(p.open("wb"), ROWS.numpy())),
}


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    file, write = FORMATS[name]
    write(tmp_path / file)
    assert torch.equal(read_embeddings(tmp_path / file), ROWS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": ROWS.to(dtype)}, tmp_path / "x.safetensors")
    assert read_embeddings(tmp_path / "x.safetensors").dtype is dtype


def test_an_array_among_several_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=ROWS.numpy(), text=2 * ROWS.numpy())
    assert torch.equal(read_embeddings(tmp_path / "x.npz", key="text"), 2 * ROWS)
    with pytest.raises(InputError, match=r"2 arrays \(image, text\)"):
        read_embeddings(tmp_path / "x.npz")
    with pytest.raises(InputError, match="no array 'audio'; it has image, text"):
        read_embeddings(tmp_path / "x.npz", key="audio")


def test_shards_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "img_emb"
    folder.mkdir()
    for k in (10, 2, 0):
        np.save(folder / f"img_emb_{k}.npy", np.full((2, 3), float(k), dtype=np.float32))
    assert read_embeddings(folder)[:, 0].tolist() == [0, 0, 2, 2, 10, 10]
    with pytest.raises(InputError, match="holds the folders img_emb; name the one to read"):
        read_embeddings(tmp_path)
    np.save(folder / "img_emb_11.npy", np.zeros((2, 4), dtype=np.float32))
    with pytest.raises(InputError, match=r"img_emb_11\.npy holds float32 of shape \(2, 4\)"):
        read_embeddings(folder)


def test_large_files_are_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1000, 10), dtype=np.float32))
    array = read_embeddings(tmp_path / "x.npy")
    array[0, 0] = 1.0  # a private copy of the page: the file does not change
    assert float(np.load(tmp_path / "x.npy")[0, 0]) == 0.0


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def _ragged(path: Path) -> None:
    pa.parquet.write_table(pa.table({"e": [[1.0, 2.0], [1.0]]}), path)


def _text_table(path: Path) -> None:
    pa.parquet.write_table(pa.table({"caption": ["a", "b"]}), path)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("x.npy", lambda p: None, "does not exist"),
    "empty file": ("x.npy", lambda p: p.write_bytes(b""), "is an empty file"),
    "a picture": ("x.npy", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 60), "unknown kind"),
    "a text": ("x.npy", lambda p: p.write_text("a,b,c\n1,2,3\n"), "unknown kind"),
    "a pickle": ("x.pkl", lambda p: p.write_bytes(pickle.dumps(Evil())), "is a pickle"),
    "a pickle by another name": ("x.npy", lambda p: p.write_bytes(pickle.dumps(Evil())), "is a pickle"),
    "object array": ("x.npy", lambda p: np.save(p, np.array([{}, 1], dtype=object)), "Python objects"),
    "object array in npz": ("x.npz", lambda p: np.savez(p, a=np.array([{}], dtype=object)), "Python objects"),
    "code in pt": ("x.pt", lambda p: torch.save(Evil(), p), "weights only"),
    "no tensor in pt": ("x.pt", lambda p: torch.save({"a": 1}, p), "without tensors"),
    "truncated npy": ("x.npy", lambda p: _cut(p, lambda q: np.save(q, ROWS.numpy())), "damaged .npy"),
    "truncated zip": ("x.npz", lambda p: _cut(p, lambda q: np.savez(q, a=ROWS.numpy())), "damaged archive"),
    "truncated parquet": ("x.parquet", lambda p: _cut(p, _table("parquet", True)), "damaged parquet"),
    "no lists": ("x.parquet", _text_table, "no column of lists; it has caption"),
    "ragged lists": ("x.parquet", _ragged, "of 2 numbers and, at row 1, of 1"),
    "nan": ("x.npy", lambda p: np.save(p, _spoilt(np.nan)), "NaN or infinity in 2 of 7 rows, the first at row 3"),
    "infinity": ("x.npy", lambda p: np.save(p, _spoilt(np.inf)), "NaN or infinity in 2 of 7 rows, the first at row 3"),
    "three dimensions": ("x.npy", lambda p: np.save(p, np.zeros((2, 3, 4))), "3 dimensions, shape (2, 3, 4)"),
    "one dimension": ("x.npy", lambda p: np.save(p, np.zeros(4)), "1 dimension"),
    "no rows": ("x.npy", lambda p: np.save(p, np.zeros((0, 4))), "is empty, shape (0, 4)"),
    "integers": ("x.npy", lambda p: np.save(p, np.zeros((3, 4), dtype=np.int64)), "int64; expected floating-point"),
    "strings": ("x.npy", lambda p: np.save(p, np.array([["a"]])), "expected numbers"),
    "complex": ("x.npy", lambda p: np.save(p, np.zeros((2, 2), dtype=complex)), "expected numbers"),
    "empty folder": ("folder", lambda p: p.mkdir(), "without .npy shards"),
}


def _cut(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-30])


def _spoilt(value: float) -> np.ndarray:
    rows = ROWS.numpy().copy()
    rows[3, 1] = rows[5, 0] = value
    return rows


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BAD)
def test_bad_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, write, words = BAD[name]
    write(tmp_path / file)
    with pytest.raises(InputError) as caught:
        read_embeddings(tmp_path / file)
    message = str(caught.value)
    assert words in message
    assert file in message
    assert "\n" not in message
    assert capsys.readouterr().out == ""  # no code of the file has run


def test_pairs(tmp_path: Path) -> None:
    truth = torch.tensor([[0, 1], [2, 3]])
    np.save(tmp_path / "pairs.npy", truth.numpy().astype(np.uint32))
    (tmp_path / "pairs.csv").write_text("image,caption\n0,1\n2,3\n")
    assert torch.equal(read_pairs(tmp_path / "pairs.npy"), truth)
    assert torch.equal(read_pairs(tmp_path / "pairs.csv"), truth)
    (tmp_path / "bad.csv").write_text("0,1\n2,x\n")
    with pytest.raises(InputError, match="line 2 is '2,x'"):
        read_pairs(tmp_path / "bad.csv")
    np.save(tmp_path / "float.npy", truth.numpy().astype(float))
    with pytest.raises(InputError, match="whole numbers"):
        read_pairs(tmp_path / "float.npy")


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    np.save(tmp_path / "labels.npy", np.array([3, 1]))
    assert read_labels(tmp_path / "labels.txt") == ["cat", "dog"]
    assert read_labels(tmp_path / "labels.npy") == ["3", "1"]
    with pytest.raises(InputError, match="does not exist"):
        read_labels(tmp_path / "none.txt")


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npy"
    write_embeddings(path, ROWS)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"cannot write .*x\.npy: No space left on device; free some space"):
        write_embeddings(path, 2 * ROWS)
    monkeypatch.undo()
    assert torch.equal(read_embeddings(path), ROWS)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
