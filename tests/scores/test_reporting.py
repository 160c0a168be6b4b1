"""What people get: the command's files and lines, and the section of a report."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

import infomech as im
from infomech import cli
from infomech.scores import DensityRatio


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    generator = torch.Generator().manual_seed(0)
    z, a, b = torch.randn(3, 360, 24, generator=generator)
    y = z + 0.6 * b
    y[::7] = 0.5 * y[::7] + 0.6
    for name, rows in (("x", z + 0.6 * a + 0.5), ("y", y)):
        np.save(folder / f"{name}.npy", rows[:300].numpy())
        np.save(folder / f"new_{name}.npy", rows[300:].numpy())
    assert (
        run("score", folder / "x.npy", folder / "y.npy", "-t", 0.1, "-o", folder / "out", "--calibrate", "logistic")
        == 0
    )
    return folder


def test_score_writes_the_ratio_the_page_and_the_table(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "out"
    assert {p.name for p in out.iterdir()} == {"score.html", "score.json", "score.md", "ratio.safetensors"}
    content = json.loads((out / "score.json").read_text())
    assert list(content["comparison"]["estimates"]["x_to_y"])[:2] == ["cosine", "density ratio"]
    page = (out / "score.html").read_text()
    assert "chart-roc" in page
    assert "inverted softmax" in page
    text = (out / "score.md").read_text()
    assert "QB-Norm" in text
    assert "no common scale" in text
    assert "n/a (no common scale)" in page
    assert (
        content["comparison"]["estimates"]["x_to_y"]["QB-Norm"]["true_positive_rate"]["withheld"] == "no common scale"
    )
    assert "| A match at |" in text
    assert DensityRatio.load(out / "ratio.safetensors").calibration_ is not None
    assert run("score", files / "x.npy", files / "y.npy", "-t", 0.1, "-o", out) == 2
    assert "holds a score already" in capsys.readouterr().err


def test_apply_scores_matching_rows_and_the_best(files: Path) -> None:
    ratio = DensityRatio.load(files / "out" / "ratio.safetensors")
    x, y = (torch.from_numpy(np.load(files / f"new_{side}.npy")) for side in "xy")
    new = (files / "new_x.npy", files / "new_y.npy")
    assert run("score", "--apply", files / "out", *new, "-o", files / "s.parquet", "--prior", 0.1, "--quiet") == 0
    table = pyarrow.parquet.read_table(files / "s.parquet")
    np.testing.assert_allclose(table["log_ratio"], ratio.log_ratio(x, y))
    np.testing.assert_allclose(table["stderr"], ratio.log_ratio_stderr(x, y))
    np.testing.assert_allclose(table["probability"], ratio.match_probability(x, y, prior=0.1))
    assert run("score", "--apply", files / "out", *new, "-o", files / "t.parquet", "--top", 3, "--quiet") == 0
    table = pyarrow.parquet.read_table(files / "t.parquet")
    assert table["y"].to_numpy().reshape(60, 3).tolist() == ratio.best_matches(x, y, k=3).rows.tolist()
    assert table["rank"].to_pylist()[:4] == [1, 2, 3, 1]


@pytest.mark.parametrize("side", ["x", "y"])
def test_index_vectors_rank_as_the_ratio_does(files: Path, side: str) -> None:
    new = (files / "new_x.npy", files / "new_y.npy")
    out = files / f"vectors_{side}"
    assert run("score", "--apply", files / "out", "--index", *new, "-o", out, "--side", side, "--quiet") == 0
    queries, index = (np.load(out / f"{name}.npy") for name in ("queries", "index"))
    ratio = DensityRatio.load(files / "out" / "ratio.safetensors")
    x, y = (torch.from_numpy(np.load(file)) for file in new)
    table = ratio.log_ratios(x, y, ranking=True, side=side)
    expected = (table if side == "y" else table.T).argsort(1, descending=True)
    assert (np.argsort(-(queries @ index.T), 1) == expected.numpy()).all()


def test_the_references_own_files_are_recognised(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, ratio = (files / "x.npy", files / "y.npy"), DensityRatio.load(files / "out" / "ratio.safetensors")
    x, y = (torch.from_numpy(np.load(file)) for file in own)
    assert run("score", "--apply", files / "out", *own, "-o", files / "own.parquet", "--quiet") == 0
    line = "300 rows of X and 300 rows of Y are the reference's own; their groups are left out, as if they were new."
    assert line in capsys.readouterr().out
    table = pyarrow.parquet.read_table(files / "own.parquet")
    thresholds = ratio.pair_table().values.diagonal().sort().values  # what thresholds are made of
    np.testing.assert_allclose(np.sort(table["log_ratio"]), thresholds, atol=1e-4)
    assert run("score", "--apply", files / "out", "--index", *own, "-o", files / "own", "--quiet") == 0
    said = capsys.readouterr().out
    assert "300 rows of Y are the reference's own; their groups are left out of their fields." in said
    assert "300 rows of X are the reference's own; no index can take them out of other fields" in said
    expected = ratio.index_vectors(y, groups=ratio.groups_y_)
    np.testing.assert_allclose(np.load(files / "own" / "index.npy"), expected, atol=1e-6)
    top = files / "own_top.parquet"
    assert run("score", "--apply", files / "out", "--top", 1, *own, "-o", top, "--quiet") == 0
    found = pyarrow.parquet.read_table(top)["y"].to_numpy() == np.arange(300)
    held_out = ratio.log_ratios(x, y, ranking=True, groups_x=ratio.groups_x_, groups_y=ratio.groups_y_).argmax(1)
    assert found.mean() == (held_out.numpy() == np.arange(300)).mean()
    new = files / "new_x.npy", files / "new_y.npy"
    capsys.readouterr()
    assert run("score", "--apply", files / "out", *new, "-o", files / "fresh.parquet", "--quiet") == 0
    assert "the reference's own" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--top", "3"], "--top needs --apply DIR, the folder of an earlier infomech score"),
        (["--weights", "1;0"], "--weights is '1;0'; give two numbers with a comma between, or held-out"),
        (["--weights", "nan,1"], "--weights is (nan, 1); give two finite numbers"),
        (["--calibrate", "beta"], "--calibrate is 'beta'; it is one of isotonic, logistic"),
        (["--method", "magic"], "'magic' is no correction"),
        (["--apply", "nowhere"], "--temperature was settled when nowhere was fitted"),
    ],
)
def test_bad_words_get_one_line(files: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    code = run("score", files / "x.npy", files / "y.npy", "-t", 0.1, "-o", files / "bad", "--quiet", *words)
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith(f"infomech: {line}")
    assert error.count("\n") == 1
    assert not (files / "bad").exists()


def test_apply_refuses_what_it_cannot_use(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = (files / "new_x.npy", files / "new_y.npy")
    assert run("score", "--apply", files / "nothing", *new, "-o", files / "u.parquet") == 2
    assert "fit it first: infomech score X Y -t T" in capsys.readouterr().err
    assert run("score", "--apply", files / "out", *new, "-o", files / "u.csv") == 2
    assert "name a .parquet file" in capsys.readouterr().err
    np.save(files / "narrow.npy", np.ones((4, 3), dtype=np.float32))
    assert run("score", "--apply", files / "out", files / "narrow.npy", new[1], "-o", files / "u.parquet") == 2
    assert "x has 4 rows and y has 60" in capsys.readouterr().err
    assert (
        run("score", "--apply", files / "out", "--top", 2, files / "narrow.npy", new[1], "-o", files / "u.parquet") == 2
    )
    assert "x has 3 features and the reference has 24" in capsys.readouterr().err
    assert run("score", "--apply", files / "out", "--top", 0, *new, "-o", files / "u.parquet") == 2
    assert "--top is 0; ask for one candidate at least" in capsys.readouterr().err


def test_apply_says_which_rows_are_far_from_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cone = np.eye(8, dtype=np.float32)[0] + 0.05 * np.random.default_rng(0).normal(size=(62, 8)).astype(np.float32)
    DensityRatio(0.0005).fit(cone[:60], cone[:60] + np.float32(0.001)).save(tmp_path / "ratio.safetensors")
    cone[60:] *= -1  # kernels of exp(-2000) with all of the reference
    np.save(tmp_path / "x.npy", cone[60:])
    np.save(tmp_path / "y.npy", cone[60:])
    words = ("score", "--apply", tmp_path, tmp_path / "x.npy", tmp_path / "y.npy", "-o", tmp_path / "s.parquet")
    assert run(*words, "--quiet") == 0
    assert "2 scores are rough: a row is far from everything" in capsys.readouterr().out
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet")
    assert np.isfinite(table["log_ratio"]).all()
    assert max(table["effective"].to_pylist()) < 10


def test_a_report_says_what_score_means_a_match_where_it_is_asked(files: Path, tmp_path: Path) -> None:
    x, y = (torch.from_numpy(np.load(files / f"{side}.npy")) for side in "xy")
    report = im.diagnose(x, y, temperature=0.1, names=("image", "text"), scores=True)
    assert any(f.code == "match-score" for f in report.findings)
    page = report.save(tmp_path / "report", figures=False).read_text()
    assert "What score means a match" in page
    assert "chart-reliability" in page
    assert "## What score means a match" in (tmp_path / "report" / "report.md").read_text()
    assert im.Report.load(tmp_path / "report") == report
    plain = im.diagnose(x, y, temperature=0.1)
    assert "attached" not in plain.to_dict()
    assert not any(f.code == "match-score" for f in plain.findings)
