"""Every section keeps the contract by which page, texts, figures and comparison are loops over them."""

import json
import re
from importlib.resources import files

import pytest

from infomech import InputError
from infomech.diagnosis import Estimate
from infomech.report import Report, compare
from infomech.report.compare import FIGURES as COMPARED_FIGURES
from infomech.report.report import FIGURES
from infomech.report.section import SideBySide
from infomech.report.sections import SECTIONS
from infomech.report.style import PALETTE, SERIES, SIDES, css_palette, heat, whiskers
from infomech.report.writing import report_markdown, report_tex

TEMPLATES = files("infomech.report") / "templates"


def template(name):
    return (TEMPLATES / name).read_text(encoding="utf-8")


# All that is shown, in its order: tables, those of LaTeX marked with a star, charts, figures; and of several reports.
SHOWN = {
    "information": ("information*", "information negatives", "information", "", ""),
    "budget": ("budget* seen* limit growth parts", "budget parts", "budget", "budget", "budget"),
    "gap": ("gap*", "", "gap", "", "gap"),
    "similarity": ("", "similarity map", "similarity map", "", ""),
    "spread": ("", "spectra effective", "spectra effective_negatives", "", ""),
    "curves": ("curves", "gradient above seen taus", "curves", "", ""),
    "retrieval": ("retrieval*", "retrieval", "retrieval", "tradeoff", "tradeoff"),
    "score": ("thresholds*", "ratio critic roc reliability", "", "", ""),
    "geometry": ("geometry*", "", "", "", ""),
}


def test_everything_is_shown_in_its_order(curved, several):
    sides = SideBySide(("a", "b", "c"), tuple(several))
    found = {}
    for section in SECTIONS:
        tables = [table.key + "*" * bool(table.caption) for table in section.tables(curved)]
        part = section.compared
        columns = [tables, section.charts(curved), section.figures]
        columns += [part.charts(sides), part.figures] if part else [[], []]
        found[section.name] = tuple(" ".join(column).replace("chart-", "") for column in columns)
    assert found == SHOWN
    assert list(found) == list(SHOWN)


def test_names_are_unique():
    for names in ([s.name for s in SECTIONS], FIGURES, COMPARED_FIGURES):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_a_section_keeps_the_contract(section, curved):
    page = template(f"sections/{section.name}.html")
    assert f'<section id="{section.name}"' in page
    charts = section.charts(curved)
    assert set(re.findall(r'id="(chart-[a-z]+)"', page)) == set(charts)
    json.dumps(charts, allow_nan=False)
    text = report_markdown(curved, figures=False)
    for table in section.tables(curved):
        assert f"| {' | '.join([table.head, *map(str, table.columns)])} |" in text.replace(" 95% interval |", "")
        for line in table.lines:
            assert len(line.cells) == len(table.columns)
            assert not table.intervals or isinstance(line.cells[0], Estimate)
    for name, value in section.fill(curved).items():
        assert value
        assert f"section.{name}" in page
    for picture in section.figures.values():
        assert picture.draw(curved).axes
    assert section.present(curved)


@pytest.mark.parametrize("section", [s for s in SECTIONS if s.compared], ids=lambda s: s.name)
def test_a_section_compares_reports(section, several, awkward):
    sides = SideBySide(("a", "b", "c", "d"), (*several, awkward))
    part = section.compared
    lines = part.lines(sides.reports)
    assert lines
    assert all(len(line.cells) == 4 for line in lines)
    assert len({line.key for line in lines}) == len(lines)
    if part.link:
        page = template(f"compare/{section.name}.html")
        assert set(re.findall(r'id="(chart-[a-z]+)"', page)) == set(part.charts(sides))
        assert all(f"section.{name}" in page for name in part.fill(sides))
    for picture in part.figures.values():
        assert picture.draw(sides).axes


def test_a_section_that_is_absent_shows_nothing(diagnosis, curved):
    assert "Batch and temperature" not in report_markdown(diagnosis, figures=True)
    assert "Batch and temperature" in report_markdown(curved, figures=True)
    assert "curves" not in Report(diagnosis).drawings()
    with pytest.raises(InputError, match="there is no figure 'curves'; choose one of information, budget, gap"):
        Report(diagnosis).plot("curves")


def test_the_curves_say_what_the_batch_sees_at_each_temperature(curved):
    text = report_markdown(curved, figures=False)
    assert "| 0.02 | 2.260 (" in text
    assert "0.200, not resolved |" in text
    assert "| 0.004 |" in text
    (section,) = (s for s in SECTIONS if s.name == "curves")
    answer = section.fill(curved)["answer"]
    assert "at τ = 0.07 it sees 5.4 of 63 negatives and its gradient is off by 48%" in answer
    assert "at τ = 0.1 it sees 7.3 of 63" in answer
    assert "From τ = 0.1 on the last doubling" in answer
    lost = section.charts(curved)["chart-above"]["data"][-1]
    assert lost["y"][-1] is None
    assert lost["y"][0] is not None


def test_plot_draws_one_figure(curved, several):
    report = Report(curved)
    assert report.plot().axes[0].get_xlabel() == report.plot("budget").axes[0].get_xlabel()
    assert report.plot("map").axes[0].get_xlabel() == "direction of the gap"
    comparison = compare([Report(d) for d in several])
    assert comparison.plot().axes[0].get_ylabel() == "recall at 1"
    assert len(comparison.plot("gap").axes) >= len(several[0].gap)
    with pytest.raises(InputError, match="choose one of tradeoff, gap, budget"):
        comparison.plot("map")


def test_every_colour_of_the_page_is_in_the_palette(curved, several):
    """CSS, templates and charts name colours; the palette alone gives them values, light and dark."""
    charts = [s.charts(curved) for s in SECTIONS]
    charts += [s.compared.charts(SideBySide(("a", "b", "c"), tuple(several))) for s in SECTIONS if s.compared]
    css = template("page.css")
    used = set(re.findall(r"var\(--([a-z0-9-]+)", css + json.dumps(charts)))
    light, dark = css_palette().split("@media")[:2]
    for part in (light, dark):
        defined = set(re.findall(r"--([a-z0-9-]+):", part))
        assert used - {"tone"} <= defined
        assert set(PALETTE) <= defined
    assert not re.search(r"#[0-9a-f]{6}", css)


def contrast(one, other):
    """The ratio of the Web Content Accessibility Guidelines."""

    def light(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    return max(light(one), light(other)) / min(light(one), light(other))


@pytest.mark.parametrize("theme", [0, 1])
def test_words_and_lines_stand_out_from_the_card(theme):
    card = PALETTE["card"][theme]
    assert contrast(PALETTE["ink"][theme], card) > 7
    for name in ("muted", "serious", "warning", "note", "good"):
        assert contrast(PALETTE[name][theme], card) > 4.5, name
    lines = [PALETTE[name][theme] for name in ("x", "y", "pair", "cross", "up", "total", *SERIES)]
    for colour in [*lines, *(heat(k / 10) for k in range(11))]:
        assert contrast(colour, card) > 2.8, colour


def test_the_sides_differ_in_more_than_colour():
    (x, *how_x), (y, *how_y) = SIDES
    assert (x, y) == ("x", "y")
    assert all(a != b for a, b in zip(how_x, how_y, strict=True))


def test_whiskers_are_never_negative_nor_missing():
    nan = float("nan")
    found = whiskers([Estimate(1.0, 0.1, 0.8, 1.3), Estimate(1.0, nan, nan, nan), Estimate(1.0, 0.0, 1.0, 0.9)])
    assert found == [[pytest.approx(0.2), 0.0, 0.0], [pytest.approx(0.3), 0.0, 0.0]]


def test_latex_holds_the_tables_with_a_caption(curved):
    captions = [t.key for s in SECTIONS for t in s.tables(curved) if t.caption]
    assert re.findall(r"tab:infomech-(\w+)", report_tex(curved)) == captions
