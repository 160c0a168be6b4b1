"""The front door is true: its Python runs, its commands exist, its links lead somewhere."""

import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import infomech.cli as cli
from infomech.experiments.glyphs.data import split_glyphs
from infomech.experiments.glyphs.demo import BATCH, STEPS, TEMPERATURES
from infomech.experiments.glyphs.picture import demo_figure, read_numbers
from infomech.experiments.glyphs.towers import GlyphTraining
from infomech.report.drawing import figure_bytes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_python_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    assert len(blocks[0].strip().splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[0]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report" / "report.html").exists()


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(targets) == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_report_command_parses() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^\.venv/bin/infomech (report .*)$", text, flags=re.MULTILINE)
    assert command is not None
    done = subprocess.run(
        [sys.executable, "-m", "infomech", *command[1].split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "image.npy does not exist" in done.stderr  # every option was understood


def test_the_walk_from_a_model_to_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The module and the commands of the page, run as they stand on texts made here."""
    text = (ROOT / "docs" / "embed-and-correct.md").read_text(encoding="utf-8")
    module = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    walk = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)[1]
    assert module is not None
    (tmp_path / "my_model.py").write_text(module[1], encoding="utf-8")
    pick = random.Random(0)
    words = ["".join(pick.choice("abcdefgh") for _ in range(5)) for _ in range(200)]
    lines = [[pick.choice(words) for _ in range(9)] for _ in range(120)]
    (tmp_path / "left.txt").write_text("".join(f"a {' '.join(w[:6])}\n" for w in lines), encoding="utf-8")
    (tmp_path / "right.txt").write_text("".join(f"the {' '.join(w[3:])}\n" for w in lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for command in walk.strip().splitlines():
        program, *arguments = command.split()
        assert program == "infomech"
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert not ended.value.code, f"{command}: {capsys.readouterr().err}"
    assert (tmp_path / "comparison" / "compare.html").exists()
    scores = json.loads((tmp_path / "corrected" / "correct.json").read_text(encoding="utf-8"))
    assert scores["held_out_groups"] == 60
    assert np.load(tmp_path / "corrected" / "held-out-pairs.npy").shape == (60, 2)
    shown = capsys.readouterr().out
    assert "infomech report corrected/x.npy corrected/y.npy --pairs corrected/held-out-pairs.npy -t 0.1" in shown
    assert "paired" in (tmp_path / "comparison" / "compare.md").read_text(encoding="utf-8")
    assert "unpaired" not in shown
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "before", "-o", "alone"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("There is one report, and nothing to compare it with")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


PICTURE = ROOT / "docs" / "demo.png"


def test_the_picture_is_that_of_the_demo() -> None:
    """Its numbers are of the demo as it stands, and it shows these numbers: `infomech demo --picture docs/demo.png`."""
    numbers = read_numbers(PICTURE)
    plans = [GlyphTraining(temperature=tau, batch_size=BATCH, steps=STEPS) for tau in TEMPERATURES]
    assert [GlyphTraining(**plan) for plan in numbers["plans"]] == plans
    figure = demo_figure(numbers, [f"τ = {tau:g}" for tau in TEMPERATURES], split_glyphs(0)[1])
    drawn = np.asarray(Image.open(io.BytesIO(figure_bytes(figure, "png"))).convert("L"), dtype=float)
    kept = np.asarray(Image.open(PICTURE).convert("L"), dtype=float)
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.5  # of 255: another version's letters may differ by a shade


def test_the_readme_says_what_the_demo_found() -> None:
    change = read_numbers(PICTURE)["measures"]["x_to_y_recall_at_10"]["difference"]
    stated = f"{change['value']:.3f} (95% interval {change['low']:.3f} to {change['high']:.3f})"
    assert f"<!-- demo: recall -->{stated}<!-- end -->" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert change["low"] > 0  # the decision excludes no difference


@pytest.mark.slow
def test_the_demo_finds_it_again(tmp_path: Path) -> None:
    """The whole demo has the numbers of the picture, up to what another machine's arithmetic does to training."""
    torch.set_num_threads(2)
    picture = tmp_path / "demo.png"
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "-o", str(tmp_path / "demo"), "--picture", str(picture), "--quiet"])
    assert ended.value.code == 0
    kept, found = read_numbers(PICTURE)["measures"], read_numbers(picture)["measures"]
    assert found["x_to_y_recall_at_10"]["difference"]["low"] > 0
    for name, both in kept.items():
        for old, new in zip(both["models"], found[name]["models"], strict=True):
            assert abs(old["value"] - new["value"]) <= 3 * old["stderr"], name
