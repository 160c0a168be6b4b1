"""What a person sees who prints a result: ten lines at most, in a terminal and in a notebook; and all of it as data."""

import html
import json
from typing import Any

import pytest
import torch

import infomech as im
from infomech import energies, equilibria, geometry
from infomech._files import dump_json
from infomech._shown import Brief
from infomech._words import with_error
from infomech.corrections import score_corrections
from infomech.measures import Density, PairedSample
from infomech.scores import DensityRatio, summarise

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


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """What results are made of, and what smaller functions return."""
    twins = [rows.index_copy(0, torch.tensor([1]), rows[:1]) for rows in (X, Y)]
    budget = im.decompose(*twins, temperature=0.3, batch_size=4096, normalize=True)
    report = im.diagnose(*(torch.cat([rows, rows.roll(1, 1)]) for rows in (X, Y)), temperature=0.3)
    ratio = DensityRatio(0.3).fit(X, Y).calibrate()
    grid = geometry.quadrature_rule(im.Sphere(2), 16)
    law = Density.from_log(grid.nodes[:, 0], grid)
    assert budget.beyond is not None
    assert report.diagnosis.information is not None
    return {
        "growth": budget.growth,
        "limit": budget.limit,
        "without duplicates": budget.without_duplicates,
        "beyond": budget.beyond,
        "continuation": budget.beyond.parts["infonce_sym"],
        "gradient": budget.gradient,
        "contributions": budget.contributions,
        "findings": report.findings,
        "finding": report.findings[0],
        "inputs": report.diagnosis.inputs,
        "pictures": report.diagnosis.pictures,
        "information": report.diagnosis.information,
        "over negatives": report.diagnosis.information.over_negatives,
        "matches": ratio.best_matches(X, Y, k=3),
        "few matches": ratio.best_matches(X[:2], Y, k=30),
        "cut": ratio.threshold(best_f1=True, prior=0.1).ratio,
        "look": summarise(ratio).ratio,
        "search": summarise(ratio).searches["y"],
        "calibration": ratio.calibration_,
        "reference": ratio.reference_,
        "pair table": ratio.pair_table(),
        "sample": PairedSample.from_embeddings(X, Y),
        "law": im.VonMisesFisher(torch.eye(512)[0], 2.0),
        "density": law,
        "quadrature": grid,
        "energies": energies.symmetric_energy(X, Y, temperature=0.3),
        "equilibrium": equilibria.vmf_equilibrium(3, temperature=0.1),
        "flow": equilibria.fokker_planck(law, lambda z: z[:, 0], temperature=0.5, max_time=0.1),
        "stability": equilibria.matched_stability(law),
    }


PARTS = (
    "growth", "limit", "without duplicates", "beyond", "continuation", "gradient", "contributions", "findings",
    "finding", "inputs", "pictures", "information", "over negatives", "matches", "few matches", "cut", "look",
    "search", "calibration", "reference", "pair table", "sample", "law", "density", "quadrature", "energies",
    "equilibrium", "flow", "stability",
)  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_parts_print_on_ten_lines(parts: dict[str, Any], name: str) -> None:
    shown = parts[name]
    assert shown is not None
    lines = str(shown).splitlines()
    assert repr(shown) == str(shown)
    assert 3 <= len(lines) <= 10
    assert max(map(len, lines)) < 140
    assert "tensor(" not in str(shown)
    assert shown._repr_html_().startswith("<table>")
    json.dumps(dump_json(shown.to_dict()).decode())
    if hasattr(shown, "to_pandas"):
        frame = pytest.importorskip("pandas").DataFrame
        assert isinstance(shown.to_pandas(), frame)


def test_what_parts_say(parts: dict[str, Any]) -> None:
    limit, matches = parts["limit"], parts["matches"]
    assert str(limit).splitlines()[2].split()[1] == with_error(limit.alignment).split()[0]
    first = ", ".join(map(str, matches.rows[0].tolist()))
    assert str(matches).splitlines()[0] == "The 3 best candidates of each of 80 queries, best first"
    assert first in str(matches).splitlines()[2]
    assert str(matches).endswith("... and 73 more")
    assert str(parts["findings"]).splitlines()[2].startswith(parts["findings"][0].title)
    assert parts["findings"].to_dict()[parts["findings"][0].code] == parts["findings"][0].to_dict()
    assert str(parts["finding"]).splitlines()[0].endswith(parts["findings"][0].title)
    pytest.importorskip("pandas")
    assert matches.to_pandas().loc[(0, 2), "row"] == matches.rows[0, 1].item()
    assert limit.to_pandas().loc["energy_sym", "value"] == limit.energy_sym.value


def test_a_curve_shows_the_absolute_dispersion(results: dict[str, Any]) -> None:
    curve = results["curve"]
    header, first = str(curve).splitlines()[1:3]
    assert header.split("  ")[:2] == ["negatives", "dispersion of x"]
    assert first.split()[1] == with_error(curve.parts["dispersion_x"][0]).split()[0]


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
