"""Every format round-trips; every file that cannot be used is refused in one line that names it."""

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import scipy.sparse
import torch

from infomech import InputError
from infomech.io import (
    as_labels,
    read_embeddings,
    read_labels,
    read_lines,
    read_pairs,
    read_table,
    read_text,
    write_embeddings,
)

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


def _arrow(path: Path, column: pa.Array) -> None:
    table = pa.table({"embedding": column})
    with pa.ipc.new_file(str(path), table.schema) as sink:
        sink.write_table(table, max_chunksize=3)


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
    "arrow list view": ("x.arrow", lambda p: _arrow(p, pa.array(ROWS.tolist(), type=pa.list_view(pa.float32())))),
    "arrow large list": ("x.arrow", lambda p: _arrow(p, pa.array(ROWS.tolist(), type=pa.large_list(pa.float32())))),
    "arrow tensors": ("x.arrow", lambda p: _arrow(p, pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS.numpy()))),
    "parquet tensors": (
        "x.parquet",
        lambda p: pa.parquet.write_table(
            pa.table({"e": pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS.numpy())}), p, row_group_size=2
        ),
    ),
    "wrong name": ("x.bin", lambda p: np.save(p.open("wb"), ROWS.numpy())),
}


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    file, write = FORMATS[name]
    write(tmp_path / file)
    assert torch.equal(read_embeddings(tmp_path / file), ROWS)


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors", "pt", "parquet", "arrow file", "arrow stream"])
def test_each_reader_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    """Nothing that one reader imports may be what another one needs."""
    file, write = FORMATS[name]
    write(tmp_path / file)
    code = f"from infomech.io import read_embeddings; print(read_embeddings({str(tmp_path / file)!r}).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([7, 3])\n", done.stderr


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
    "float8": ("x.pt", lambda p: torch.save(ROWS.to(torch.float8_e4m3fn), p), "which torch cannot compute with"),
    "float8, safe": (
        "x.safetensors",
        lambda p: safetensors.torch.save_file({"x": ROWS.to(torch.float8_e5m2)}, p),
        "numbers of the kind F8_E5M2; expected floating-point",
    ),
    "complex tensor": ("x.pt", lambda p: torch.save(ROWS.to(torch.complex64), p), "expected floating-point"),
    "sparse": ("x.pt", lambda p: torch.save(ROWS.to_sparse(), p), "sparse tensor"),
    "sparse rows": ("x.pt", lambda p: torch.save(_csr(), p), "sparse tensor"),
    "quantised": ("x.pt", lambda p: torch.save(_quantised(), p), "dequantize"),
    "meta": ("x.pt", lambda p: torch.save(torch.empty(2, 2, device="meta"), p), "meta device"),
    "nested": ("x.pt", lambda p: torch.save(_nested(), p), ""),
    "repeated view": ("x.pt", lambda p: torch.save(torch.zeros(1).expand(10**6, 10**4), p), "repeats its numbers"),
    "a damaged member": ("x.npz", lambda p: _flip(p, -400), "damaged"),
    "bytes": (
        "x.npy",
        lambda p: np.save(p, np.zeros((2, 2), np.uint64)),
        "uint64; expected floating",
    ),
    "fifo": ("x.npy", os.mkfifo, "no regular file"),
    "empty folder": ("folder", lambda p: p.mkdir(), "without .npy shards"),
}


def _csr() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ROWS.to_sparse_csr()


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(ROWS, 0.1, 0, torch.qint8)


def _nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([ROWS, ROWS[:2]])


def _flip(path: Path, at: int) -> None:
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=(50, 5)))
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


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


@pytest.mark.parametrize(
    ("content", "truth"),
    [
        ("\ufeff0,1\n2,3\n", [[0, 1], [2, 3]]),  # a byte-order mark does not cost the first pair
        ("\ufeffimage,caption\r\n0,1\r\n2,3\r\n", [[0, 1], [2, 3]]),
        ("0\t1\n\n2\t3", [[0, 1], [2, 3]]),
        ("0;1\n 2 ; 3 \n", [[0, 1], [2, 3]]),
        ('"0","1"\n"2","3"\n', [[0, 1], [2, 3]]),
        ("0 1\n2   3\n", [[0, 1], [2, 3]]),
    ],
)
def test_pairs_of_text(content: str, truth: list[list[int]], tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(content, encoding="utf-8")
    assert read_pairs(tmp_path / "pairs.csv").tolist() == truth


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"0.0,0\n1,1\n", "line 1 is '0.0,0'"),
        (b"0,a\n", "line 1 is '0,a'"),
        (b"nan,nan\n0,1\n", "line 1 is"),
        (b"image,caption\n0,1,2\n", "line 2 has 3 fields"),
        (b"0,,1\n", "line 1 has 3 fields"),
        (b"0,9223372036854775808\n", "line 1 is '0,9223372036854775808'"),
        ("0,²\n".encode(), "line 1 is"),
        ("٠,١\n".encode(), "line 1 is"),
        (b"0,1_0\n", "line 1 is"),
        (b"0,1\n\xff,2\n", "line 2 holds the byte 0xff, which is not UTF-8"),
        ("0,1\n".encode("utf-16"), "UTF-16"),
        (b"0,1\n\x00,2\n", "line 2 holds a NUL byte"),
    ],
)
def test_bad_pairs_of_text(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"pairs\.csv") as caught:
        read_pairs(tmp_path / "pairs.csv")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_of_other_formats(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"image": [0, 2], "caption": [1, 3], "note": ["a", "b"]}), tmp_path / "p.parquet")
    assert read_pairs(tmp_path / "p.parquet").tolist() == [[0, 1], [2, 3]]
    np.save(tmp_path / "p.npy", np.array([[0, 2**63]], dtype=np.uint64))
    with pytest.raises(InputError, match="holds the number 9223372036854775808; row numbers are below"):
        read_pairs(tmp_path / "p.npy")


def test_text_is_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffun\u2028e\r\nété\x85\rx\n".encode())
    assert read_lines(path) == ["un\u2028e", "été\x85", "x"]
    assert read_text(path).startswith("un")
    path.write_bytes(b"")
    assert read_lines(path) == []
    path.write_bytes(b"a\nb\nc\xe9\n")
    with pytest.raises(InputError, match=r"a\.txt line 3 holds the byte 0xe9, which is not UTF-8; save it as UTF-8"):
        read_lines(path)
    for name, words in (("a\0b", "no name of a file"), ("", "folder"), ("/dev/zero", "no regular file")):
        with pytest.raises(InputError, match=words):
            read_text(name)


def test_tables_of_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    long = "x" * 200_000
    for separator in ",;\t|":
        lines = [separator.join(row) for row in (["image", "caption"], ["a.png", '"a cat, ""big"""'], ["b.png", long])]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
        table = read_table(path)
        assert table.columns == ("image", "caption")
        assert [row["caption"] for row in table.rows] == ['a cat, "big"', long]
    for content, words in (
        ("image,caption\na.png,a cat, asleep\n", "line 2 has 3 fields and the header 2; put quotes around a field"),
        ('image,caption\na.png,"a cat\nb.png,a dog\n', "is damaged"),
        ("image,image\n", "has the column 'image' 2 times"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            read_table(path)
    path.with_suffix(".jsonl").write_text('{"a": 1}\n[2]\n')
    with pytest.raises(InputError, match=r"line 2 is '\[2\]'"):
        read_table(path.with_suffix(".jsonl"))


def test_labels_of_any_type() -> None:
    assert as_labels(np.array([b"a", b"\xc3\xa9"])) == ["a", "é"]
    assert as_labels(torch.tensor([0, 2])) == ["0", "2"]
    assert as_labels(pa.array(["x", "y"])) == ["x", "y"]
    assert as_labels([True, np.float32(1.5), np.int64(3), 2.0]) == ["true", "1.5", "3", "2"]
    for labels, words in (
        (["a", None], "no value at row 1"),
        ([1.0, float("nan")], "no value at row 1"),
        ([{}], "at row 0 is a dict"),
        ([b"\xff"], "bytes that are not UTF-8"),
    ):
        with pytest.raises(InputError, match=words):
            as_labels(labels)


def test_names_that_a_file_does_not_have(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS.numpy())
    torch.save(ROWS, tmp_path / "x.pt")
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "a_².npy", ROWS.numpy())
    (tmp_path / "img_emb" / "._a.npy").write_bytes(b"what macOS leaves")
    for name in ("x.npy", "x.pt", "img_emb"):
        assert torch.equal(read_embeddings(tmp_path / name), ROWS)
        with pytest.raises(InputError, match="leave key='key' away"):
            read_embeddings(tmp_path / name, key="key")


def test_a_refused_file_takes_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3000, 8000), dtype=np.uint8))
    code = (
        "import resource, sys\nfrom infomech.io import read_embeddings\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"try: read_embeddings({str(tmp_path / 'x.npy')!r})\nexcept ValueError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 12 * 2**20  # of 24 MB of bytes that would be 192 MB as whole numbers


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


NO_HEADERS = ["0x1,0x2", "\u00b2,\u00b3", "\u200b0,\u200b0", "nan,inf", "1_0,1e3", "-,-", ",", "1st,2nd"]


@pytest.mark.parametrize("line", NO_HEADERS)
def test_a_first_line_that_names_nothing_is_no_header(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.csv").write_text(f"{line}\n0,1\n")
    with pytest.raises(InputError, match="line 1"):
        read_pairs(tmp_path / "p.csv")


@pytest.mark.parametrize("line", ["image,text", "x1,x2", "# image text", "_i,\u00e9t\u00e9", "'image','text'"])
def test_headers(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.csv").write_text(f"{line}\n'0','1'\n")
    if line.startswith("# image"):
        (tmp_path / "p.csv").write_text(f"{line}\n0 1\n")
    assert read_pairs(tmp_path / "p.csv").tolist() == [[0, 1]]


@pytest.mark.parametrize("content", ["", "image,text\n", "\n\n"])
def test_no_pairs(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match="holds no pairs"):
        read_pairs(tmp_path / "p.csv")


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "longdouble"])
def test_labels_keep_their_digits(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "l.npy", np.array([0.5, 2], dtype=kind) + (kind == "float32") * np.float32(0.1))
    assert read_labels(tmp_path / "l.npy") == (["0.6", "2.1"] if kind == "float32" else ["0.5", "2"])


def test_two_arrays_in_one_npy(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.save(file, np.ones((2, 3)))
        np.save(file, np.ones((2, 3)))
    with pytest.raises(InputError, match="176 bytes after its array, a second one perhaps"):
        read_embeddings(tmp_path / "x.npy")


def test_words_of_refusals(tmp_path: Path) -> None:
    scipy.sparse.save_npz(tmp_path / "s.npz", scipy.sparse.csr_matrix(np.eye(3)))
    with pytest.raises(InputError, match="sparse matrix of SciPy; save it dense"):
        read_embeddings(tmp_path / "s.npz")
    torch.save({"a": np.eye(3)}, tmp_path / "o.pt")
    with pytest.raises(InputError, match="it holds more than tensors, which may run code") as caught:
        read_embeddings(tmp_path / "o.pt")
    assert str(caught.value).isprintable()
    safetensors.torch.save_file({}, str(tmp_path / "e.safetensors"))
    with pytest.raises(InputError, match="holds no arrays"):
        read_embeddings(tmp_path / "e.safetensors")
