"""What a person sees who prints a result: ten lines at most, in a terminal and in a notebook; and all of it as data."""

import html
from typing import Any

import pytest
import torch

import infomech as im
from infomech._shown import Brief
from infomech.corrections import score_corrections

G = torch.Generator().manual_seed(0)
X = torch.randn(80, 6, generator=G)
Y = X + torch.randn(80, 6, generator=G)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    report = im.diagnose(X, Y, temperature=0.25, names=("<image>", "text"))
    scored = score_corrections(X, Y, temperature=0.25)
    return {
        "report": report,
        "budget": im.decompose(X, Y, temperature=0.25, normalize=True),
        "no limit": im.decompose(X, Y, temperature=0.05, normalize=True),
        "curve": report.budget.curve,
        "gap": im.gap(X, Y),
        "part of a report": report.retrieval,
        "comparison": im.compare([report, report], names=["a", "b"]),
        "corrections": scored,
        "score": scored.before,
    }


NAMES = ("report", "budget", "no limit", "curve", "gap", "part of a report", "comparison", "corrections", "score")


@pytest.mark.parametrize("name", NAMES)
def test_ten_lines(results: dict[str, Any], name: str) -> None:
    shown = results[name]
    lines = str(shown).splitlines()
    assert repr(shown) == str(shown)
    assert 3 <= len(lines) <= 10
    assert max(map(len, lines)) < 140
    page = shown._repr_html_()
    assert page.startswith("<table>")
    assert "<image>" not in page
    assert all(html.escape(word) in page for word in lines[2].split()[:1])


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_as_data(results: dict[str, Any], name: str) -> None:
    assert isinstance(results[name].to_dict(), dict)


def test_what_stands_there(results: dict[str, Any]) -> None:
    budget = results["budget"]
    assert budget.to_dict()["infonce_sym"] == budget.infonce_sym.to_dict()
    assert "contributions" not in budget.to_dict()
    assert str(budget).splitlines()[2].split()[1] == f"{budget.alignment.value:.3f}".replace("-", "\u2212")[:5]
    assert "; limit of large batches: energy" in str(budget)
    assert "; no limit" in str(results["no limit"])
    assert "dispersion of x, relative, at most" in str(results["no limit"])
    gap = results["gap"]
    assert str(gap).startswith(f"{len(gap)} measures\n")
    assert str(gap).endswith(f"... and {len(gap) - 7} more: to_dict(), to_pandas()")
    assert gap.to_dict()["energy_distance"] == gap["energy_distance"].to_dict()
    assert "temperature τ\u00a0=\u00a00.25" in str(results["report"]) or "τ = 0.25" in str(results["report"])
    assert "τ = 0.25" in str(results["corrections"])
    assert results["corrections"].to_dict()["temperature"] == 0.25
    assert [line.split()[0] for line in str(results["corrections"]).splitlines()[2:4]] == ["none", "centroid-shift"]


def test_pandas(results: dict[str, Any]) -> None:
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(im.InputError, match="pandas is not installed"):
            results["gap"].to_pandas()
        return
    gap = results["gap"]
    assert gap.to_pandas().loc["energy_distance", "value"] == gap["energy_distance"].value
    assert results["budget"].to_pandas().loc["alignment", "value"] == results["budget"].alignment.value
    curve = results["curve"]
    assert curve.to_pandas().loc[("remainder", 2), "value"] == curve.parts["remainder"][curve.negatives.index(2)].value
    frame = results["report"].to_pandas()
    assert frame.loc[("gap", "frechet"), "high"] == results["report"].gap["frechet"].high
    assert set(results["comparison"].to_pandas().reset_index()["report"]) == {"a", "b"}
    assert results["corrections"].to_pandas().loc[("procrustes", "frechet"), "value"] > 0


def test_a_short_table_is_whole() -> None:
    rows = [[f"row {i}", str(i)] for i in range(8)]
    assert len(Brief("t", ["a", "b"], rows).text().splitlines()) == 10
    assert Brief("t", ["a", "b"], [*rows, ["x", "9"]]).text().splitlines()[-1] == "... and 2 more: to_dict()"
