"""The command line as a person uses it: whole runs, exit codes, and one clear line for what cannot be used."""

import itertools
import json
import os
import random
import re
import shlex
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

import infomech as im
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
        *("schema_version", "inputs", "budget", "gap", "geometry", "retrieval", "findings", "provenance", "information")
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
    one = tmp_path / "one"
    assert run("report", *files, "-t", "0.1", "-o", str(one)) == 0
    capsys.readouterr()
    assert run("report", *files, "--from", str(one), "-o", str(tmp_path / "three")) == 2
    assert "both embeddings and --from are given" in capsys.readouterr().err
    assert run("report", "--from", str(one), "-t", "0.2", "-o", str(tmp_path / "three")) == 2
    assert "both --temperature and --from are given" in capsys.readouterr().err
    assert run("report", "-o", str(tmp_path / "three")) == 2
    assert "no files are given" in capsys.readouterr().err
    assert run("report", "--from", str(tmp_path / "none"), "-o", str(tmp_path / "three")) == 2
    assert not (tmp_path / "three").exists()


def test_doctor(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.iterdir())
    assert run("doctor", *files, "-t", "0.1", "--fail-on", "serious") == 0
    assert capsys.readouterr().out.startswith("τ = 0.1 (logit scale 10)\n")
    shuffled = str(tmp_path / "z.npy")
    np.save(shuffled, np.load(files[1])[::-1])
    capsys.readouterr()
    assert run("doctor", files[0], shuffled, "-t", "0.1", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"schema_version", "inputs", "findings"}
    assert printed["inputs"]["temperature"] == 0.1
    assert "retrieval-at-chance" in {f["code"] for f in printed["findings"]}
    assert run("doctor", files[0], shuffled, "-t", "0.1", "--fail-on", "serious") == 1
    assert "True pairs are found no better than shuffled ones" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted([*before, Path(shuffled)])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["-t", "0"], "temperature is 0.0"),
        (["-t", "-0"], "infomech: --temperature is 0.0"),
        (["-t", "100"], "temperature is 100: is that a logit scale? 0.01 is its temperature"),
        (["-t", "14.2857"], "0.07 is its temperature"),
        (["--names", "a\x1b[31m,b"], "without control characters"),
        (["-t", "nan"], "temperature is nan"),
        (["--names", "one"], "--names is 'one'"),
        (["--pairs", "PAIRS"], "row 999 of y"),
        (["--labels", "LABELS"], "labels has 2 entries"),
        (["--batch-size", "1"], "--batch-size is 1"),
    ],
)
def test_bad_options(
    change: list[str], words: str, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "pairs.npy", np.array([[0, 0], [1, 999]]))
    (tmp_path / "labels.txt").write_text("a\nb\n")
    change = [{"PAIRS": str(tmp_path / "pairs.npy"), "LABELS": str(tmp_path / "labels.txt")}.get(c, c) for c in change]
    temperature = [] if "-t" in change else ["-t", "0.1"]
    assert run("report", *files, *temperature, "-o", str(tmp_path / "out"), *change) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_file(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", files[0], str(tmp_path / "none.npy"), "-t", "0.1", "-o", str(tmp_path / "out")) == 2
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
    assert run("report", *files, "-t", "0.1", "-o", str(out), "--overwrite", "--no-figures") == 0
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


def test_the_temperature_is_asked_for(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for command in (["report", *files, "-o", out], ["doctor", *files], ["correct", *files, "-m", "all", "-o", out]):
        assert run(*command) == 2
        assert capsys.readouterr().err == (
            "infomech: no temperature is given; pass -t, the temperature of the loss: 1 / logit scale (CLIP ends at "
            "0.01)\n"
        )
    assert not Path(out).exists()


def test_the_same_file_twice(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.load(files[0])
    rows[:, 0] = 0.0
    np.save(tmp_path / "zero.npy", rows)
    rows[:, 0] = -0.0  # minus zero is zero
    np.save(tmp_path / "minus.npy", rows)
    for other in ((files[0], files[0]), (str(tmp_path / "zero.npy"), str(tmp_path / "minus.npy"))):
        assert run("doctor", *other, "-t", "0.1") == 2
        assert "the two files are the same" in capsys.readouterr().err
    with pytest.raises(im.InputError, match="x and y hold the same rows"):
        im.diagnose(rows, rows, temperature=0.1)


def test_an_output_that_is_an_input(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By any name: the folder itself, a link to the file, a folder of shards."""
    before = {name: Path(name).read_bytes() for name in files}
    linked, shards = tmp_path / "linked", tmp_path / "shards"
    linked.mkdir()
    (linked / "x.npy").symlink_to(files[0])
    shards.mkdir()
    np.save(shards / "0.npy", np.load(files[0]))
    options = ("-t", "0.1", "-m", "mean-removal", "--overwrite", "-o")
    for first, out in ((files[0], tmp_path), (files[0], linked), (str(shards), shards)):
        assert run("correct", first, files[1], *options, str(out)) == 2
        error = capsys.readouterr().err
        assert "is where the input" in error
        assert error.count("\n") == 1
    assert {name: Path(name).read_bytes() for name in files} == before
    assert [p.name for p in shards.iterdir()] == ["0.npy"]
    assert run("correct", *files, *options, str(tmp_path / "out")) == 0
    assert json.loads((tmp_path / "out" / "correct.json").read_text())["temperature"] == 0.1


def test_a_crash_is_no_finding(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import infomech.diagnosis

    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("in\nthe middle")

    monkeypatch.setattr(infomech.diagnosis, "examine", fail)
    assert run("doctor", *files, "-t", "0.1") == 70
    error = capsys.readouterr().err
    assert error.startswith("infomech: a fault of infomech itself (ZeroDivisionError: in the middle); the trace is in ")
    assert error.count("\n") == 1
    log = Path(error.split("the trace is in ")[1].split(",")[0])
    assert "in fail" in log.read_text()
    log.unlink()


def test_an_interrupt_outside_of_a_command_exits_with_130(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    (doctor,) = [c for c in cli.app.registered_commands if c.callback.__name__ == "doctor"]
    monkeypatch.setattr(doctor, "callback", wraps(doctor.callback)(interrupted))
    assert run("doctor", *files) == 130


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


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole demo with few steps: the files, the table, the decision, the picture and its numbers."""
    out, picture = tmp_path / "demo", tmp_path / "demo.png"
    assert run("demo", "-o", str(out), "--steps", "3", "--picture", str(picture)) == 0
    shown = capsys.readouterr().out
    assert "R@10" in shown
    for model, report in (("tau-0.02", "report-a"), ("tau-0.1", "report-b")):
        pictures, names = (np.load(out / "embeddings" / model / f"{side}.npy") for side in ("picture", "name"))
        assert len(names) == 1500
        assert len(pictures) == len((out / "embeddings" / model / "labels.txt").read_text().splitlines())
        assert (out / report / "report.html").exists()
    assert (out / "comparison" / "compare.html").exists()
    numbers = json.loads(picture.with_suffix(".json").read_text())
    assert [plan["temperature"] for plan in numbers["plans"]] == [0.02, 0.1]
    assert numbers["decision"] in shown.replace("\n", " ") or numbers["decision"].split(". ")[0] in shown
    assert run("demo", "-o", str(out), "--steps", "3") == 2  # refused before any work


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


def test_progress_without_a_terminal(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line every ten seconds (here: fifty a second) with phase, share and time left, unless it is to be quiet."""
    import infomech.cli.show as show

    monkeypatch.setattr(show, "EVERY", 0.02)
    with show.progress_bar("Doing") as step:
        step(0.25)
        step(0.5)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 11
    assert all(re.fullmatch(r"Doing: 75%, about 0 s left", line) for line in lines)
    with show.rate_bar("Counting", 8) as count:
        count(2, None)
        time.sleep(0.1)
    assert "Counting: 2 of 8, 25%, about 0 s left\n" in capsys.readouterr().err
    with show.rate_bar("Counting", None) as count:
        count(2000, None)
        time.sleep(0.1)
    assert "Counting: 2,000 so far, 0 s\n" in capsys.readouterr().err
    for quiet in (False, True):
        out = str(tmp_path / f"{quiet}")
        assert run("report", *files, "-t", "0.1", "-o", out, "--no-figures", *["--quiet"] * quiet) == 0
        error = capsys.readouterr().err
        assert ("Computing pairwise statistics: " in error) is not quiet
        assert not (quiet and error)


@pytest.mark.parametrize("command", ["report", "doctor", "correct", "embed", "demo", "verify", "reproduce control"])
def test_every_long_command_can_be_quiet(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--help") == 0
    assert "--quiet" in capsys.readouterr().out


def test_messages_speak_the_language_of_the_door(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options on the command line, arguments in Python: never one in place of the other."""
    x, y = (np.load(file) for file in files)
    np.save(tmp_path / "long.npy", 2 * x)
    np.save(tmp_path / "short.npy", x[:50])
    np.savez(tmp_path / "two.npz", a=x, b=y)
    common = ("-t", "0.1")
    report = ("report", "-o", str(tmp_path / "out"))
    cases = [
        (("doctor", str(tmp_path / "long.npy"), files[1], *common, "--no-normalize"), "or pass --normalize"),
        (("doctor", str(tmp_path / "short.npy"), files[1], *common), "no pairs are given; pass --pairs,"),
        (("doctor", str(tmp_path / "two.npz"), files[1], *common), f"name one: {tmp_path / 'two.npz'}::a"),
        (("doctor", f"{files[0]}::a", files[1], *common), "leave ::a away"),
        (("doctor", *files, *common, "--batch-size", "1"), "--batch-size is 1"),
        (("correct", *files, *common, "-m", "all", "--share", "2", "-o", str(tmp_path / "c")), "--share is 2.0"),
        ((*report, *files, *common, "--names", "a,a\tb"), "--names is"),
    ]
    for arguments, words in cases:
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert "=" not in error.replace("shape=", "")
        assert error.count("\n") == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert run("report", *files, *common, "-o", str(tmp_path / "full")) == 2
    assert "or pass --overwrite\n" in capsys.readouterr().err
    for call, words in (
        (lambda: im.diagnose(2 * x, y, temperature=0.1, normalize=False), "or pass normalize=True"),
        (lambda: im.diagnose(x[:50], y, temperature=0.1), "pass pairs, a"),
        (lambda: im.io.read_embeddings(tmp_path / "two.npz"), "name one with key='a'"),
        (lambda: im.diagnose(x, y, temperature=0.1, batch_size=1), "batch_size is 1"),
        (lambda: im.diagnose(x, y, temperature=0.1).save(tmp_path / "full"), "or pass overwrite=True"),
    ):
        with pytest.raises(im.InputError) as caught:
            call()
        assert words in str(caught.value)
        assert "--" not in str(caught.value)


def test_an_interrupt_at_the_very_end_exits_with_130() -> None:
    code = (
        "import atexit, os, signal, sys\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['infomech', '--version']\n"
        "from infomech.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == ""


def test_a_folder_of_embed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows, pairs, names and model; the temperature only where its manifest knows it."""
    words = ["".join(pick) for pick in itertools.product("abcdefgh", repeat=2)]
    for name, lines in (("a", words), ("b", [w * 2 + "x" for w in words])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    out, model = tmp_path / "emb", "infomech.embedding.encoders.loading:letter_counts"
    embed = ("embed", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "-m", model, "-o", str(out))
    assert run(*embed, "--names", "short,long") == 0
    assert f"infomech report {out} -t TAU" in " ".join(capsys.readouterr().out.split())
    assert run("doctor", str(out)) == 2
    assert "no temperature is given" in capsys.readouterr().err
    (out / "short_emb" / "short_emb_00000.npy.part").write_bytes(b"half")
    assert run("report", str(out), "-t", "0.5", "-o", str(tmp_path / "r"), "--no-figures") == 0
    told = capsys.readouterr()
    assert told.out.startswith("τ = 0.5 (logit scale 2)\n")
    assert "ignored: 1 hidden or unfinished files and check sums (short_emb_00000.npy.part)" in told.err
    saved = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (saved["inputs"]["name_x"], saved["inputs"]["name_y"]) == ("short", "long")
    assert saved["provenance"]["model"] == model
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"temperature": 0.25}))
    for arguments in ([str(out)], [str(out / "short_emb"), str(out / "long_emb")]):
        assert run("doctor", *arguments) == 0
        assert f"τ = 0.25 (logit scale 4), from the manifest of {out}" in capsys.readouterr().out.replace("\n", " ")
    assert run(*embed, "--names", "one") == 2
    assert "--names is 'one'" in capsys.readouterr().err


def test_a_second_run_into_the_same_folder_is_refused(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from infomech._files import reserved

    out = tmp_path / "out"
    (tmp_path / "link").symlink_to(tmp_path)
    with reserved(out, "report"):
        for command in (
            ["report", *files, "-t", "0.1"],
            ["correct", *files, "-t", "0.1", "-m", "all"],
            ["reproduce", "control", "--fast"],
            ["demo"],
        ):
            for place in (out, tmp_path / "link" / "out"):
                assert run(*command, "-o", str(place)) == 2
                assert "another process is writing a" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "x.npy", "y.npy"]


def test_special_files_as_inputs(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    (tmp_path / "saved").mkdir()
    os.mkfifo(tmp_path / "saved" / "report.json")
    out = ("-o", str(tmp_path / "out"))
    for special in ("/dev/zero", pipe):
        for command in (
            ["doctor", special, files[1], "-t", "0.1"],
            ["doctor", *files, "-t", "0.1", "--pairs", special],
            ["report", *files, "-t", "0.1", "--labels", special, *out],
            ["embed", special, special, "-m", "infomech.embedding.encoders.loading:letter_counts", *out],
        ):
            assert run(*command) == 2
            assert "is no regular file (a device or a pipe)" in capsys.readouterr().err
    for command in (["compare", str(tmp_path / "saved")], ["report", "--from", str(tmp_path / "saved")]):
        assert run(*command, *out) == 2
        assert "is no regular file" in capsys.readouterr().err
    assert run("report", *files, "-t", "0.1", "-o", "/dev/null") == 2
    assert run("doctor", "a\0b", files[1], "-t", "0.1") == 2
    assert "is no name of a file" in capsys.readouterr().err


HARD = ["$\\frac{$", "_hidden", "a|b <i>*c*", "\\$", "%s{y}{x}", "日本語", "x" * 300, "# 1. a"]


def test_a_name_with_control_characters_is_refused(files: tuple[str, str]) -> None:
    x, y = (np.load(file)[:40] for file in files)
    with pytest.raises(im.InputError, match="without control characters"):
        im.diagnose(x, y, temperature=0.5, names=("e\u0301\u200b", "text"))


@pytest.mark.parametrize("names", list(zip(HARD[::2], HARD[1::2], strict=True)))
def test_names_that_are_hard_to_draw(names: tuple[str, str], files: tuple[str, str], tmp_path: Path) -> None:
    x, y = (np.load(file)[:40] for file in files)
    report = im.diagnose(x, y, temperature=0.5, names=names, labels=[HARD[i % len(HARD)] for i in range(40)])
    page = report.save(tmp_path / "one")
    assert (tmp_path / "one" / "figures" / "map.png").stat().st_size > 1000
    saved = im.compare([report, report], names=names).save(tmp_path / "both")
    for file in (page, saved, tmp_path / "one" / "report.md"):
        assert "<i>" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("closed", [False, True])
def test_a_reader_that_goes_away_is_no_finding(files: tuple[str, str], closed: bool) -> None:
    """`infomech doctor X Y | head -c 1`, and an output that the shell closed."""
    end = ">&-" if closed else "| (head -c 1 >/dev/null; exec <&-; sleep 0.1)"
    code = "import sys; sys.argv[0] = 'infomech'; from infomech.cli import main; main()"
    words = [sys.executable, "-c", code, "rank", ",".join(files), ",".join(files[::-1])]
    line = f"set -o pipefail; {shlex.join(words)} {end}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_output_that_is_an_input_is_refused(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = tmp_path / "fitted"
    assert run("score", *files, "-t", "0.1", "-o", str(fitted), "--quiet") == 0
    tables = [tmp_path / "x.parquet", tmp_path / "y.parquet"]
    for file, table in zip(files, tables, strict=True):
        pyarrow.parquet.write_table(pyarrow.table({"embedding": list(np.load(file))}), table)
    (tmp_path / "link.parquet").symlink_to(tables[0])
    before = [table.read_bytes() for table in tables]
    for out in (tables[0], tmp_path / "link.parquet"):
        assert run("score", "--apply", str(fitted), *map(str, tables), "-o", str(out), "--overwrite") == 2
        assert "is the input" in capsys.readouterr().err
    assert [table.read_bytes() for table in tables] == before
    folder = tmp_path / "vectors"
    folder.mkdir()
    with (folder / "index.npy").open("wb") as file:
        np.savez(file, a=np.load(files[0]), b=np.load(files[1]))
    whole = (folder / "index.npy").read_bytes()
    named = [f"{folder / 'index.npy'}::{key}" for key in "ab"]
    assert run("score", "--apply", str(fitted), *named, "--index", "-o", str(folder), "--overwrite") == 2
    assert (folder / "index.npy").read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "1,0"], "--weights was settled when"),
        (["--names", "a,b"], "--names was settled when"),
        (["--json"], "leave --json away"),
        (["--index", "--top", "3"], "leave --top away"),
        (["--side", "x"], "--side needs --index"),
    ],
)
def test_options_that_would_do_nothing(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    out = tmp_path / "out.parquet"
    assert run("score", "--apply", str(tmp_path / "fitted"), *files, "-o", str(out), *options) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_rows_known_by_a_number_are_the_same_only_in_the_same_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tenth line of two texts is no pair of a comparison; under two models of one text it is."""
    draw = random.Random(0)
    model = "infomech.embedding.encoders.loading:letter_counts"
    for name in ("one", "two"):
        for side in "ab":
            lines = ["".join(draw.choices("abcdefghij ", k=30)).strip() + "k" for _ in range(60)]
            (tmp_path / f"{name}-{side}.txt").write_text("\n".join(lines) + "\n")
    for out, name, size in (("one", "one", "8"), ("again", "one", "16"), ("two", "two", "8")):
        texts = [str(tmp_path / f"{name}-{side}.txt") for side in "ab"]
        assert run("embed", *texts, "-m", model, "--batch-size", size, "-o", str(tmp_path / out), "--quiet") == 0
    folders = {name: str(tmp_path / name) for name in ("one", "again", "two")}
    for name, folder in folders.items():
        assert run("report", folder, "-t", "0.3", "--no-figures", "-o", str(tmp_path / f"r-{name}"), "--quiet") == 0
    digests = {
        name: json.loads((tmp_path / f"r-{name}" / "report.json").read_text())["inputs"]["ids"] for name in folders
    }
    assert digests["one"] == digests["again"] != digests["two"]
    capsys.readouterr()
    assert run("rank", folders["one"], folders["two"]) == 2
    assert "encodings are ranked on the same rows" in capsys.readouterr().err
