import json
import math

import numpy as np
import pytest

from infomech import InputError
from infomech.diagnosis import Estimate
from infomech.report import SCHEMA_VERSION, Report, compare, read_report_json
from infomech.report.compare import FILES, difference
from infomech.report.schema import report_dict
from infomech.report.sections.gap import shared
from infomech.report.sections.retrieval import label_places


def wilson(hits, n, z=1.959963984540054):
    p = hits / n
    centre, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate(p, math.sqrt(p * (1 - p) / n), (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))


@pytest.mark.parametrize(
    ("a", "m", "b", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table II, method 10
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (10, 10, 0, 20, 0.6791, 1.0000),
    ],
)
def test_differences_of_shares_against_the_published_intervals(a, m, b, n, low, high):
    got = difference(wilson(b, n), wilson(a, m))
    assert got.estimate.low == pytest.approx(low, abs=5e-5)
    assert got.estimate.high == pytest.approx(high, abs=5e-5)
    assert got.apart


def test_differences_of_symmetric_intervals_add_their_variances():
    z = 1.959963984540054
    got = difference(Estimate(1.0, 3.0, 1 - 3 * z, 1 + 3 * z), Estimate(2.0, 4.0, 2 - 4 * z, 2 + 4 * z)).estimate
    assert (got.value, got.stderr) == (1.0, 5.0)
    assert got.low == pytest.approx(1 - 5 * z)
    assert got.high == pytest.approx(1 + 5 * z)


def test_differences_of_independent_reports_cover_the_truth():
    """95% of 20,000 intervals, within four standard errors of a share of 20,000: 0.95 +- 0.0062."""
    rng = np.random.default_rng(1)
    z, covered, draws = 1.959963984540054, 0, 20_000
    for u, v in rng.normal(size=(draws, 2)) * [0.3, 1.1]:
        first = Estimate(u, 0.3, u - 0.3 * z, u + 0.3 * z)
        second = Estimate(v, 1.1, v - 1.1 * z, v + 1.1 * z)
        covered += not difference(first, second).apart
    assert abs(covered / draws - 0.95) < 4 * math.sqrt(0.95 * 0.05 / draws)


def test_a_difference_with_a_missing_number_is_not_marked():
    assert not difference(Estimate(0.0, 0.1, float("nan"), 0.1), Estimate(9.0, 0.1, 8.0, 10.0)).apart


def test_a_report_against_itself_differs_nowhere(diagnosis):
    rows = compare([Report(diagnosis)] * 2).rows()
    assert rows
    for row in rows:
        change = row.differences[1]
        assert change.estimate.value == 0
        assert not change.apart
        assert row.differences[0] is None


def test_every_number_of_the_reports_is_in_the_table(several):
    rows = {(row.section, row.key): row for row in compare([Report(d) for d in several]).rows()}
    for key in several[0].gap:
        assert rows["gap", key].estimates == tuple(d.gap[key] for d in several)
    assert rows["retrieval", "x_to_y_recall_at_1"].estimates[2] == several[2].retrieval["x_to_y_recall_at_1"]
    assert rows["geometry", "y_hubness"].estimates[1] == several[1].geometry["y"]["hubness"]
    assert rows["budget", "infonce_sym"].estimates[0] == several[0].budget.infonce_sym
    assert rows["gap", "energy_distance"].differences[2].apart


def test_a_measure_that_one_report_lacks_stays_empty(diagnosis):
    content = Report(diagnosis).to_dict()
    del content["gap"]["frechet"]
    comparison = compare([Report(diagnosis), content])
    row = next(row for row in comparison.rows("gap") if row.key == "frechet")
    assert row.estimates[1] is None
    assert row.differences == (None, None)
    assert "frechet" not in shared(comparison.reports)


def test_folders_files_dictionaries_and_reports_say_the_same(tmp_path, diagnosis):
    report = Report(diagnosis)
    page = report.save(tmp_path / "model one", figures=False)
    sources = [page.parent, str(page.parent / "report.json"), report.to_dict(), report]
    comparison = compare(sources)
    assert comparison.names == ("model one", "model one (2)", "image ↔ text", "image ↔ text (2)")
    assert len({json.dumps(report_dict(each), sort_keys=True) for each in comparison.reports}) == 1


def test_names_are_taken_as_given_and_made_distinct(diagnosis):
    report = Report(diagnosis)
    assert compare([report, report], names=["a", "b"]).names == ("a", "b")
    assert compare([report, report, report], names=["a", "a", "a"]).names == ("a", "a (2)", "a (3)")


@pytest.mark.parametrize(
    ("reports", "names", "message"),
    [
        ([], None, "there is nothing to compare"),
        ("folder", None, "compare needs a list"),
        ([{}, {}], ["a"], "1 names for 2 reports"),
        (["/nowhere/at/all"], None, "does not exist; name a folder of a saved report"),
        ([{"schema_version": 99}], None, "report 1 has schema_version 99"),
    ],
)
def test_what_cannot_be_compared(reports, names, message):
    with pytest.raises(InputError, match=message):
        compare(reports, names=names)


def test_what_speaks_against_a_comparison_is_said(diagnosis, awkward):
    assert compare([Report(diagnosis)] * 2, same_rows=True).notes() == []
    notes = compare([Report(diagnosis), Report(awkward)]).notes()
    assert notes[0].startswith("Dimensions differ (64, 8)")
    assert notes[1].startswith("Numbers of groups differ (700, 104)")


def test_a_comparison_is_saved_whole(tmp_path, several):
    comparison = compare([Report(d) for d in several], names=["a", "b|c", "<i>"])
    page = comparison.save(tmp_path / "out")
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == set(FILES)
    content = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert content["names"] == ["a", "b|c", "<i>"]
    assert content == comparison.to_dict()
    text = page.read_text(encoding="utf-8")
    assert "<i>" not in text.split("<script")[0].replace('<i class="', "")
    assert r"b\|c" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="holds a comparison already"):
        comparison.save(tmp_path / "out")
    comparison.save(tmp_path / "out", overwrite=True, figures=False)


def test_a_comparison_of_one(tmp_path, diagnosis):
    Report(diagnosis).save(tmp_path / "r", figures=False)
    assert read_report_json(tmp_path / "r")["schema_version"] == SCHEMA_VERSION
    compare([tmp_path / "r"]).save(tmp_path / "c")


def test_names_of_points_stay_inside_and_apart():
    xs, ys, names = [0.0, 0.0, 1.0, 1.0], [1.0, 0.99, 1.0, 0.0], ["a long name", "another name", "third", "fourth"]
    places = label_places(xs, ys, names)
    assert [place.split()[1] for place in places] == ["right", "right", "left", "left"]
    assert [place.split()[0] for place in places] == ["top", "bottom", "top", "top"]


def test_the_usual_gap_measure_comes_first(several):
    assert next(iter(shared(several))) == "energy_distance"
