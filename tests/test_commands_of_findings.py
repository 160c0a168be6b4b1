"""Commands of findings on the command line: with the files and options of the run, wherever they are shown."""

import json
import re
import shlex
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech.cli as cli
from infomech.cli.given import filled
from infomech.diagnosis import Finding

RUN = [
    "my x.npy",
    "both.npz::text",
    "--pairs",
    "pairs.csv",
    "-t",
    "0.02",
    "--names",
    "image,text",
    "--batch-size",
    "16",
]
CARRIED = ["--pairs", "pairs.csv", "--names", "image,text"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


def read_page(path: str) -> str:
    """What a page shows: without its tags."""
    return unescape(re.sub(r"<[^>]+>", "", Path(path).read_text()))


def commands(text: str) -> list[str]:
    return re.findall(r"`(infomech [^`]+)`", text)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "2000")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(160, 12, generator=generator)
    order = torch.randperm(160, generator=generator)
    np.save("my x.npy", z.numpy())
    np.savez("both.npz", text=(z + 0.4 * torch.randn(160, 12, generator=generator))[order].numpy(), image=z.numpy())
    Path("pairs.csv").write_text("\n".join(f"{row},{at}" for row, at in enumerate(order.argsort().tolist())))


@pytest.mark.usefixtures("files")
def test_a_report_shows_the_same_filled_commands_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", *RUN, "-o", "out", "--no-figures", "--quiet") == 0
    printed = capsys.readouterr().out
    saved = json.loads(Path("out/report.json").read_text())["findings"]
    texts = [one["text"] for one in saved]
    found = {command for text in texts for command in commands(text)}
    assert found
    page, markdown = read_page("out/report.html"), Path("out/report.md").read_text()
    for command in found:
        assert command in printed
        assert command in markdown
        assert command in page
        words = shlex.split(command)
        if words[1] != "compare":
            assert words[2:4] == RUN[:2]
            assert " ".join(CARRIED) in " ".join(words)
            takes_batch = words[1] in ("report", "doctor")
            assert words.count("--batch-size") == int(takes_batch)
            assert words.count("-t") == 1
    assert any("--batch-size 16" in command for command in found)  # the run's own
    assert any("--batch-size 32" in command for command in found)  # that the finding asks for
    # drawn again without the files
    assert run("report", "--from", "out", "-o", "again", "--no-figures") == 0
    assert [f["text"] for f in json.loads(Path("again/report.json").read_text())["findings"]] == texts
    # and one of them runs as it stands
    doctor = next(command for command in sorted(found) if command.startswith("infomech doctor"))
    capsys.readouterr()
    assert run(*shlex.split(doctor)[1:], "--json") == 0
    assert json.loads(capsys.readouterr().out)["inputs"]["batch_size"] == int(
        doctor.split("--batch-size ")[1].split()[0]
    )


@pytest.mark.usefixtures("files")
def test_scores_know_the_folder_that_they_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", *RUN[:-2], "--weights", "1,0", "-o", "my scores", "--quiet") == 0
    printed = capsys.readouterr().out
    page, markdown = read_page("my scores/score.html"), Path("my scores/score.md").read_text()
    texts = [one["text"] for one in json.loads(Path("my scores/score.json").read_text())["findings"]]
    found = [command for text in texts for command in commands(text)]
    assert "infomech score --apply 'my scores' X Y -o scores.parquet" in found  # on other files
    again = next(command for command in found if "--apply" not in command)
    assert shlex.split(again)[2:4] == RUN[:2]
    assert " ".join([*CARRIED, "--weights", "1,0"]) in again
    assert "-t 0.02 " not in again  # not the command that was run
    for command in found:
        assert command in printed
        assert command in markdown
        assert command in page


def test_twins_of_unseen_pairs_are_tied_by_the_rows_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x, noise = torch.randn(2, 300, 12, generator=torch.Generator().manual_seed(0))
    y = x + 0.4 * noise
    seen = torch.arange(300) % 3 == 0
    twins = torch.nonzero(~seen).flatten()[:40].reshape(20, 2)
    x[twins[:, 1]], y[twins[:, 1]] = x[twins[:, 0]], y[twins[:, 0]]
    np.save("x.npy", x.numpy())
    np.save("y.npy", y.numpy())
    Path("split.txt").write_text("\n".join("train" if each else "test" for each in seen))
    assert run("report", "x.npy", "y.npy", "-t", "0.1", "--split", "split.txt", "-o", "DIR", "--no-figures") == 0
    tied = torch.from_numpy(np.load("DIR/pairs-tied.npy"))
    assert not seen[tied].any()
    assert {tuple(sorted(pair)) for pair in tied.tolist() if pair[0] != pair[1]} == {
        tuple(each) for each in twins.tolist()
    }
    texts = " ".join(f["text"] for f in json.loads(Path("DIR/report.json").read_text())["findings"])
    (doctor,) = {command for command in commands(texts) if "pairs-tied" in command}
    capsys.readouterr()
    assert run(*shlex.split(doctor)[1:], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"]["groups"] == 180
    assert "duplicates-x" not in {f["code"] for f in found["findings"]}


def test_what_is_carried_and_what_is_left() -> None:
    def of(text: str, *given: str | None, **options: object) -> str:
        (one,) = filled([Finding("code", "note", "title", text, 1.0)], given, options)
        return one.text

    doctor = "See `infomech doctor X Y -t 0.1`."
    assert of(doctor, "embeddings", None) == "See `infomech doctor embeddings -t 0.1`."
    assert of(doctor, "a.npy", "b.npy", pairs=None, labels="l.txt") == "See `infomech doctor a.npy b.npy -t 0.1`."
    assert of(doctor, "a", "b", normalize=False) == "See `infomech doctor a b -t 0.1 --no-normalize`."
    assert of(doctor, "a", "b", seen=("s x", "sy")) == "See `infomech doctor a b -t 0.1 --seen 's x' sy`."
    assert (
        of(doctor, "a", "b", bias=-5.0, loss="sigmoid") == "See `infomech doctor a b -t 0.1 --bias -5 --loss sigmoid`."
    )
    strict = "See `infomech doctor X Y -t 0.1 --no-normalize`."
    assert of(strict, "a", "b", normalize=True) == "See `infomech doctor a b -t 0.1 --no-normalize`."
    correct = "See `infomech correct X Y -t 0.1 --method all -o DIR`."  # takes no batch size
    assert of(correct, "a", "b", batch_size=8) == "See `infomech correct a b -t 0.1 --method all -o DIR`."
    index = "See `infomech score --apply DIR --index X Y -o FOLDER`."
    assert of(index, "a", "b", pairs="p") == "See `infomech score --apply DIR --index a b -o FOLDER`."
    for kept in ("See `infomech compare EARLIER NOW -o DIR`.", "See `bias=-3.00`.", "X Y"):
        assert of(kept, "a", "b", pairs="p") == kept
    for odd in ("a`b", "a\nb", "a  b"):  # would not survive as code on a page
        assert of(doctor, odd, "b") == doctor
