"""The page on comparing models: its code runs as it stands, and prints what the page shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compare-models.md"


def test_the_page_decides_between_three_encodings(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "compare-models.png").stat().st_size > 10_000
    names = [line.split("  ")[0] for line in done.stdout.splitlines() if line.startswith("τ = ")][:3]
    assert names == ["τ = 0.07", "τ = 0.25", "τ = 0.02"]  # the order that the page prints
    shown = re.search(r"```\nShared.*?```", text, flags=re.DOTALL)
    assert shown is not None
    assert [line.split("  ")[0] for line in shown[0].splitlines() if line.startswith("τ = ")][:3] == names
    assert "more pairs at 80% power" in done.stdout
    lines = [re.sub(r"[\d.,]+", "#", text).split() for text in (shown[0].strip("`\n"), done.stdout)]
    assert lines[0] == lines[1]  # in all words, and up to digits, which another machine's training may move


def test_every_command_of_the_page_is_one() -> None:
    from typer.testing import CliRunner

    from infomech.cli import app

    commands = set(re.findall(r"^infomech ([a-z]+)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert commands >= {"rank", "report", "compare", "shrink"}
    for name in commands:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_the_readme_s_first_sentence_names_the_number() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")[1].split(";")[0]
    assert "nats the two sides share" in " ".join(first.split())
