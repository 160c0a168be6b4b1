"""The front door is true: its Python runs, its commands exist, its links lead somewhere."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_python_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    assert len(blocks[0].strip().splitlines()) <= 11
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
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


def test_the_walk_from_a_model_to_a_comparison(tmp_path: Path) -> None:
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
    for command in walk.strip().splitlines():
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert (tmp_path / "comparison" / "compare.html").exists()
    scores = json.loads((tmp_path / "corrected" / "correct.json").read_text(encoding="utf-8"))
    assert scores["held_out_groups"] == 60


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
