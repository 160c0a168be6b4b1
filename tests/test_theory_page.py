"""What docs/theory.md prints is what the library computes, and its tags are complete."""

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "theory.md"


@pytest.mark.usefixtures("unchecked")
def test_the_page_s_code_gives_what_it_shows() -> None:
    blocks = re.findall(r"```pycon\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) > 10
    page = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "theory.md", str(PAGE), 0)
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(page, out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted > 30


def test_every_definition_and_claim_has_its_place() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tags = [f"D{k}" for k in range(1, 11)] + [f"T{k}" for k in range(1, 14)] + ["C1"]
    assert [tag for tag in tags if not re.search(rf"\b{tag}\b", text)] == []


def test_pictures_are_small() -> None:
    for picture in PAGE.parent.rglob("*.png"):
        assert picture.stat().st_size < 200_000, picture
    for movie in PAGE.parent.rglob("*.gif"):
        assert movie.stat().st_size < 1_500_000, movie
