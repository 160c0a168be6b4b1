"""What the commands say of files and options that cannot be used, and the tables that they print."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech as im
import infomech.cli as cli
from infomech.cli.show import print_table
from infomech.compression import Plan
from infomech.io import read_embeddings, read_table
from infomech.report.schema import read_report_json

G = torch.Generator().manual_seed(0)
X = torch.nn.functional.normalize(torch.randn(220, 6, generator=G), dim=1)
Y = torch.nn.functional.normalize(X + torch.randn(220, 6, generator=G), dim=1)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, rows in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", rows.numpy())
    return str(tmp_path / "x.npy"), str(tmp_path / "y.npy")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


UNREADABLE = "is a damaged .npy file (its header cannot be read); write it again"
DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "key": (lambda b: b.replace(b"'descr'", b"'desc\xff'"), UNREADABLE),
    "type": (lambda b: b.replace(b"<f4", b"<q9"), UNREADABLE),
    "order": (lambda b: b.replace(b"False", b"Maybe"), UNREADABLE),
    "brackets": (lambda b: b.replace(b"{'descr'", b"{{descr'"), UNREADABLE),
    "list": (lambda b: b.replace(b"(220, 6)", b"[220, 6]"), UNREADABLE),
    "float": (lambda b: b.replace(b"(220, 6)", b"(2e2, 6)"), UNREADABLE),
    "length": (lambda b: b[:8] + b"\xff\xff" + b[10:], UNREADABLE),
    "version": (lambda b: b[:6] + b"\x09" + b[7:], UNREADABLE),
    "cut": (lambda b: b[:60], UNREADABLE),
    "negative": (
        lambda b: b.replace(b"(220, 6)", b"(-20, 6)"),
        "its header promises float32 of shape (-20, 6), and 5,280",
    ),
    "more": (lambda b: b.replace(b"(220, 6)", b"(220, 7)"), "its header promises float32 of shape (220, 7), and 5,280"),
    "objects": (lambda b: b.replace(b"<f4", b"|O8"), "holds Python objects (a pickle)"),
    "empty": (lambda b: b"", "is an empty file"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_header_of_npy(kind: str, files: tuple[str, str]) -> None:
    change, words = DAMAGED[kind]
    path = Path(files[0])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(im.InputError, match=re.escape(words)) as caught:
        read_embeddings(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_an_empty_table(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("", "\n\n", "\ufeff"):
        (tmp_path / f"t.{suffix}").write_text(content, encoding="utf-8")
        with pytest.raises(im.InputError, match=rf"t\.{suffix} is empty; expected"):
            read_table(tmp_path / f"t.{suffix}")
    assert run("embed", str(tmp_path / f"t.{suffix}"), "-m", "m:f", "-o", str(tmp_path / "o")) == 2
    assert f"t.{suffix} is empty; expected" in capsys.readouterr().err


@pytest.mark.parametrize("side", ["image", "caption"])
@pytest.mark.parametrize("door", ["texts", "folder"])
def test_a_column_that_is_not_there(door: str, side: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("image,caption\na,b\n")
    data = tmp_path / "t.csv" if door == "texts" else tmp_path
    assert run("embed", str(data), "-m", "m:f", "-o", str(tmp_path / "o"), f"--{side}-column", "zz") == 2
    said = capsys.readouterr().err
    assert f"t.csv has no column 'zz' for --{side}-column NAME; it has image, caption" in said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.json", '{"a": 1}', "or two columns of row numbers in a .csv, .tsv or .txt"),
        ("p.csv", "0,0\na2,b2\n", "ids are not looked up: write the place of each in its file"),
        ("p.csv", "0,0\n0.5,1\n", "expected two row numbers, whole and from 0\n"),
        ("p.csv", "0,0\n1,500\n", "y has rows 0 to 219; rows are counted from 0\n"),
    ],
)
def test_pairs_that_cannot_be_used(
    name: str, content: str, words: str, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert run("doctor", *files, "-t", "0.1", "--pairs", str(tmp_path / name)) == 2
    assert words in capsys.readouterr().err


def test_files_in_the_wrong_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    np.save(tmp_path / "y.npy", Y[:110].numpy())
    np.save(tmp_path / "p.npy", np.stack([np.arange(110), np.arange(110, 220)], 1))
    both = [str(tmp_path / name) for name in ("x.npy", "y.npy")]
    assert run("doctor", *both, "-t", "0.1", "--pairs", str(tmp_path / "p.npy")) == 2
    assert "with x and y exchanged all pairs fit: are they in the wrong order?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report", "doctor", "correct", "score"])
def test_examples_name_the_temperature_that_they_need(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"Example: infomech {name} image\.npy text\.npy .*-t 0\.01", said)


def test_what_is_no_report(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (files[0], str(tmp_path / "t.csv")):
        Path(name).touch()
        with pytest.raises(im.InputError, match="is no infomech report; name"):
            read_report_json(name)
        assert run("compare", name, "-o", str(tmp_path / "c")) == 2
        assert f"infomech: {name} is no infomech report; name a folder of a saved report" in capsys.readouterr().err


def test_a_report_is_compared_with_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.symlink_to(one)
    for twice in (one, other):
        assert run("compare", str(one), str(twice), "-o", str(tmp_path / "c")) == 2
        assert f"{one} and {twice} are the same report; name each once" in capsys.readouterr().err


def test_quotes_after_a_space(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a, b\nx, "y, z"\n')
    assert read_table(tmp_path / "t.csv").rows == [{"a": "x", "b": "y, z"}]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "a", torch.tensor(0.0)])
def test_a_logit_scale_is_told_what_scales_are(value: object) -> None:
    with pytest.raises(im.InputError, match=r"^logit_scale is .*CLIP's starts at 14 and ends at 100\)$"):
        im.losses.SymmetricInfoNCE(logit_scale=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        (["-t", "0.1"], "--temperature"),
        (["--pairs", "p"], "--pairs"),
        (["--names", "a,b"], "--names"),
        (["--weights", "1,0"], "--weights"),
        (["-m", "whitening"], "--method"),
        (["--calibrate", "isotonic"], "--calibrate"),
        (["--seed", "3"], "--seed"),
    ],
)
def test_what_was_settled_when_it_was_fitted(given: list[str], flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", "x", "y", "--apply", "DIR", "-o", "q.parquet", *given) == 2
    assert capsys.readouterr().err == f"infomech: {flag} was settled when DIR was fitted; leave it away with --apply\n"


@pytest.mark.parametrize(
    ("given", "flag"), [(["--top", "3"], "--top"), (["--index"], "--index"), (["--prior", "0.1"], "--prior")]
)
def test_what_needs_an_earlier_fit(given: list[str], flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", "x", "y", "-t", "0.1", "-o", "q", *given) == 2
    assert capsys.readouterr().err.startswith(f"infomech: {flag} needs --apply DIR")


LONG = "a name of an encoding that goes on and on " * 3


def cells_are_apart(lines: list[str]) -> bool:
    """Whether columns end at the same place, and at least two spaces stand between cells."""
    columns = {len(re.split(r" {2,}", line)) for line in lines}
    return len(columns) == 1 and len({len(line) for line in lines}) == 1


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        [LONG.strip(), "−0.1331 (interval withheld)", "12,345,678.9 ± 0.1"],
        ["x", "n/a (interval withheld)", "1e+300 ▼"],
    ]
    print_table(["of", "first", "second"], rows)
    lines = capsys.readouterr().out.splitlines()
    assert cells_are_apart(lines)
    assert all(cell in line for line, row in zip(lines[1:], rows, strict=True) for cell in row)
    print_table(["字", "n"], [["漢字", "1"], ["a\nb\x1b", "2"]])
    assert capsys.readouterr().out.splitlines() == ["字       n", "漢字     1", "a b\\x1b  2"]


def test_tables_of_commands(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    x, y = files
    third = tmp_path / "z.npy"
    np.save(third, Y.roll(1, 0).numpy())
    assert run("rank", f"{x},{y}", f"{x},{third}", "--names", f"{LONG.strip()},b", "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(LONG.strip()))
    assert "best" in lines[at]
    assert "…" not in "".join(lines)
    names = f"{'image' * 12},{'text' * 12}"
    assert run("correct", x, y, "-m", "all", "-t", "0.2", "-o", str(tmp_path / "c"), "--names", names, "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("▲ and ▼ mark what lies higher and lower than before") for line in lines)
    start = next(i for i, line in enumerate(lines) if line.startswith("correction"))
    table = lines[start : lines.index("", start)]
    assert cells_are_apart([line.replace(" ▲", "_▲").replace(" ▼", "_▼") for line in table])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the map of an earlier run."""
    found = im.shrink(X, Y, plans=[Plan(bits="int8")], batch_size=16)
    assert found.chosen is not None
    folder = tmp_path_factory.mktemp("small")
    found.chosen.save(folder / "map.safetensors")
    return folder


@pytest.mark.parametrize("linked", ["itself", "symbolic link", "hard link", "another name"])
def test_codes_of_rows_do_not_replace_the_rows(
    linked: str, files: tuple[str, str], tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    given = Path(files[0])
    place = out / "x.npy"
    if linked == "itself":
        place.write_bytes(given.read_bytes())
        given = place
    elif linked == "symbolic link":
        place.symlink_to(given)
    elif linked == "hard link":
        place.hardlink_to(given)
    else:
        place.write_bytes(given.read_bytes())
        given = tmp_path / "other"
        given.symlink_to(place)
    before = given.read_bytes()
    capsys.readouterr()
    assert run("shrink", str(given), files[1], "--apply", str(small), "-o", str(out), "--overwrite") == 2
    assert "is where the input" in capsys.readouterr().err
    assert given.read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["x.npy"]
