"""The command line as a person uses it: whole runs, exit codes, and one clear line for what cannot be used."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech.cli as cli


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(200, 16, generator=g)
    for name, rows in (("x", z + 0.5), ("y", z + 0.5 * torch.randn(200, 16, generator=g))):
        np.save(tmp_path / f"{name}.npy", torch.nn.functional.normalize(rows, dim=1).numpy())
    return str(tmp_path / "x.npy"), str(tmp_path / "y.npy")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


def test_report_and_compare(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("report", *files, "-t", "0.1", "-o", str(one), "--names", "image,text", "--batch-size", "64") == 0
    assert "report.html" in capsys.readouterr().out.replace("\n", "")
    written = ["figures", "pictures.npz", "report.html", "report.json", "report.md", "report.tex"]
    assert sorted(p.name for p in one.iterdir()) == written
    content = json.loads((one / "report.json").read_text())
    assert set(content) == {
        *("schema_version", "inputs", "budget", "gap", "geometry", "retrieval", "findings", "provenance")
    }
    assert content["inputs"]["name_x"] == "image"
    assert run("report", *files, "-t", "0.5", "-o", str(two), "--json", "--no-figures") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["budget"] == json.loads((two / "report.json").read_text())["budget"]
    assert run("compare", str(one), str(two), "-o", str(tmp_path / "both")) == 0
    assert (tmp_path / "both" / "compare.html").exists()


def test_a_saved_report_is_drawn_again_without_the_embeddings(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("report", *files, "-t", "0.1", "-o", str(one), "--no-figures") == 0
    for file in files:
        Path(file).unlink()
    assert run("report", "--from", str(one), "-o", str(two), "--no-figures") == 0
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}
    assert run("report", "--from", str(one), "-o", str(one), "--overwrite") == 0
    assert (one / "figures" / "map.png").exists()
    (one / "pictures.npz").unlink()
    capsys.readouterr()
    assert run("report", "--from", str(one), "-o", str(two), "--overwrite") == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_saved_report_or_two_files(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", *files, "--from", str(tmp_path), "-o", str(tmp_path / "three")) == 2
    assert "both embeddings and --from are given" in capsys.readouterr().err
    assert run("report", "-o", str(tmp_path / "three")) == 2
    assert "no files are given" in capsys.readouterr().err
    assert run("doctor", files[0]) == 2
    assert "only" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


def test_doctor(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.iterdir())
    assert run("doctor", *files, "-t", "0.1", "--strict") == 0
    shuffled = str(tmp_path / "z.npy")
    np.save(shuffled, np.load(files[1])[::-1])
    capsys.readouterr()
    assert run("doctor", files[0], shuffled, "-t", "0.1", "--json") == 0
    findings = json.loads(capsys.readouterr().out)
    assert "retrieval-at-chance" in {f["code"] for f in findings}
    assert run("doctor", files[0], shuffled, "-t", "0.1", "--strict") == 1
    assert "True pairs are found no better than shuffled ones" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted([*before, Path(shuffled)])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["-t", "0"], "temperature is 0.0"),
        (["-t", "nan"], "temperature is nan"),
        (["--names", "one"], "--names is 'one'"),
        (["--pairs", "PAIRS"], "row 999 of y"),
        (["--labels", "LABELS"], "labels has 2 entries"),
        (["--batch-size", "1"], "batch_size is 1"),
    ],
)
def test_bad_options(
    change: list[str], words: str, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "pairs.npy", np.array([[0, 0], [1, 999]]))
    (tmp_path / "labels.txt").write_text("a\nb\n")
    change = [{"PAIRS": str(tmp_path / "pairs.npy"), "LABELS": str(tmp_path / "labels.txt")}.get(c, c) for c in change]
    assert run("report", *files, "-o", str(tmp_path / "out"), *change) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_file(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", files[0], str(tmp_path / "none.npy"), "-o", str(tmp_path / "out")) == 2
    assert capsys.readouterr().err == f"infomech: {tmp_path / 'none.npy'} does not exist; check the path\n"


def test_a_folder_with_other_files_is_refused_before_the_work(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("years of work")
    assert run("report", *files, "-o", str(out)) == 2
    assert "overwrite" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["thesis.doc"]
    assert run("report", *files, "-o", str(out), "--overwrite", "--no-figures") == 0
    assert (out / "thesis.doc").read_text() == "years of work"


@pytest.mark.parametrize(
    ("failure", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2)], ids=["^C", "full"]
)
def test_the_previous_report_stays(
    failure: BaseException,
    code: int,
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run("report", *files, "-t", "0.1", "-o", str(out), "--no-figures") == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    import infomech.report.page as page

    def fail(*args: object) -> bytes:
        raise failure

    monkeypatch.setattr(page, "report_page", fail)
    capsys.readouterr()
    assert run("report", *files, "-t", "0.5", "-o", str(out), "--overwrite", "--no-figures") == code
    assert capsys.readouterr().err.count("\n") == 1
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "x.npy", "y.npy"]


def test_usage_errors_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "only-one.npy") == 2
    assert run("nonsense") == 2
    assert "nonsense" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, infomech.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'plotly', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("report", "doctor", "compare", "demo", "reproduce", "verify"):
        assert command in done.stdout


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole demo with few steps: the files, the table, the paths."""
    assert run("demo", "-o", str(tmp_path / "demo"), "--steps", "30") == 0
    printed = capsys.readouterr().out.replace("\n", "")
    assert "Held-out digits" in printed
    assert "compare.html" in printed
    for name in ("clip", "closed"):
        assert np.load(tmp_path / "demo" / "embeddings" / name / "left.npy").shape == (497, 32)
        assert (tmp_path / "demo" / f"report-{name}" / "report.html").exists()
    assert (tmp_path / "demo" / "comparison" / "compare.html").exists()
    assert run("demo", "-o", str(tmp_path / "demo"), "--steps", "30") == 2  # refused before any work


def test_reproduce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reproduce", "--list") == 0
    assert "control" in capsys.readouterr().out
    assert run("reproduce", "nothing") == 2
    assert "'nothing' is no experiment; there are: gradient-consistency, gibbs" in capsys.readouterr().err
    (tmp_path / "mine").write_text("x")
    assert run("reproduce", "control", "-o", str(tmp_path)) == 2
    assert "is not empty" in capsys.readouterr().err


def test_verify(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "--only", "T3", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["holds"] is True
    assert [claim["tag"] for claim in printed["claims"]] == ["T3"]
    assert run("verify", "--only", "T99") == 2
    assert "T99" in capsys.readouterr().err
