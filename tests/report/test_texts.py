import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from infomech._words import GAP, interval_text, measure, number, value_text, with_error
from infomech.diagnosis import Estimate
from infomech.report import Report
from infomech.report.sections import SECTIONS
from infomech.report.sections.budget import seen_text
from infomech.report.style import track
from infomech.report.writing import md, provenance, report_markdown, report_tex, tex, tex_interval, tex_value


def render(markdown):
    return MarkdownIt("commonmark").enable("table").render(markdown)


def visible(html):
    text = re.sub(r"<[^>]*>", "", html)
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, letter)
    return text


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs", "Cf")), min_size=1))
def test_markdown_shows_any_name_as_it_is(name):
    cell = render(f"| a | b |\n| --- | --- |\n| {md(name)} | 1 |")
    assert cell.count("<td") == 2
    assert visible(cell).split("\n")[-4:-2] != []
    assert re.search(r"<td>(.*)</td>", cell).group(1) is not None
    assert visible(re.search(r"<td>(.*)</td>", cell).group(1)) == name


def test_markdown_tables_of_a_report_are_whole(awkward):
    html = render(report_markdown(awkward, figures=True))
    assert html.count("<table>") == sum(len(s.tables(awkward)) for s in SECTIONS if s.present(awkward))
    assert "<script" not in html
    for table in re.findall(r"<table>.*?</table>", html, re.S):
        widths = {row.count("<t") - 1 for row in re.findall(r"<tr>.*?</tr>", table, re.S)}
        assert len(widths) == 1
    assert awkward.inputs.name_x in visible(html)
    assert awkward.inputs.name_y in visible(html)
    assert html.count("<img") == len(Report(awkward).drawings())


def test_markdown_without_figures_links_none(diagnosis):
    assert "figures/" not in report_markdown(diagnosis, figures=False)
    linked = re.findall(r"\]\(figures/(\w+)\.png\)", report_markdown(diagnosis, figures=True))
    assert linked == list(Report(diagnosis).drawings())


def tex_problems(text):
    """What a LaTeX run would stumble over, by the rules of its special letters."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    problems = []
    plain = re.sub(r"\\[&%$#_{}]|\\[a-zA-Z]+|\\\\|\\,", " ", body)
    depth = 0
    for letter in plain:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            problems.append("a brace closes what is not open")
            break
    if depth:
        problems.append(f"{depth} braces stay open")
    if plain.count("$") % 2:
        problems.append("mathematics stays open")
    outside = re.sub(r"\$[^$]*\$", "", plain)
    problems += [f"{letter} outside of mathematics" for letter in '^_#%~"<>|' if letter in outside]
    for table in re.findall(r"\\begin\{tabular\}\{(l[r]*)\}(.*?)\\end\{tabular\}", body, re.S):
        for row in table[1].split(r"\\")[:-1]:
            cells = len(re.findall(r"(?<!\\)&", row)) + 1
            if cells != len(table[0]):
                problems.append(f"{cells} cells in {len(table[0])} columns: {row.strip()}")
    return problems


def test_the_checker_of_latex_can_fail():
    assert tex_problems("{") == ["1 braces stay open"]
    assert tex_problems("a_b") == ["_ outside of mathematics"]
    assert tex_problems(r"\begin{tabular}{lr} a & b & c \\ \end{tabular}")


def test_latex_tables_are_well_formed(awkward, diagnosis):
    for each in (awkward, diagnosis):
        count = sum(bool(t.caption) for s in SECTIONS if s.present(each) for t in s.tables(each))
        text = report_tex(each)
        assert tex_problems(text) == []
        assert text.count(r"\begin{table}") == text.count(r"\end{table}") == count
        for rule in ("toprule", "midrule", "bottomrule"):
            assert text.count(rf"\{rule}") >= 4
    assert r"a\&b\textless{}script\textgreater{}" in report_tex(awkward)
    assert text.startswith("%")
    assert r"\usepackage{booktabs}" in text.split("\n\n")[0]


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\xa0")))
def test_latex_escapes_any_text(name):
    assert tex_problems(tex(name)) == []


@pytest.mark.parametrize(
    ("estimate", "value", "interval"),
    [
        (Estimate(0.12345, 0.0021, 0.1193, 0.1276), r"$0.1235 \pm 0.0021$", r"$[0.1193,\, 0.1276]$"),
        (Estimate(-2.0, 0.5, -3.0, -1.0), r"$-2.00 \pm 0.50$", r"$[-3.00,\, -1.00]$"),
        (Estimate(12345.6, 30.0, 12286.8, 12404.4), r"$12{,}346 \pm 30$", r"$[12{,}287,\, 12{,}404]$"),
        (Estimate.exact(6.5497), "$6.550$", "exact"),
        (Estimate(float("nan"), float("nan"), float("nan"), float("nan")), "n/a", "n/a"),
        (Estimate(2.5e8, 1e6, 2.48e8, 2.52e8), r"$2.50\times 10^{8} \pm 1,000,000$", None),
        (None, "--", "--"),
    ],
)
def test_numbers_in_latex(estimate, value, interval):
    assert tex_value(estimate).replace("{,}", ",") == value.replace("{,}", ",")
    if interval is not None:
        assert tex_interval(estimate) == interval


@pytest.mark.parametrize(
    ("estimate", "text", "interval"),
    [
        (Estimate(0.0, 0.0, 0.0, 0.0055), "0.0000", "0.0000 to 0.0055"),
        (Estimate(1.0, 0.0, 0.9968, 1.0), "1.0000", "0.9968 to 1.0000"),
        (Estimate.exact(3.0), "3", "exact"),
        (Estimate(1.0, 0.0, 0.9945, 1.0), "1.0000", "0.9945 to 1.0000"),
        (Estimate(0.99996, 0.012, 0.97, 1.0), "1.000 ± 0.012", "0.970 to 1.000"),
        (Estimate(-0.00001, 0.01, -0.02, 0.02), "0.000 ± 0.010", "−0.020 to 0.020"),
        (Estimate.exact(0.0), "0", "exact"),
        (Estimate(5.0, float("nan"), float("nan"), float("nan")), "5.000", "n/a"),
        (Estimate(6.907755, 1e-8, 6.907755, 6.907755), "6.908", "within rounding"),
        (Estimate(0.0000789, 2e-9, 0.0000789, 0.0000789), "0.000079", "within rounding"),
        (Estimate(3e-8, 1e-8, 1e-8, 5e-8), "3.00e−08 ± 1.00e−08", "1.00e−08 to 5.00e−08"),
    ],
)
def test_numbers_show_the_digits_that_their_error_allows(estimate, text, interval):
    assert with_error(estimate) == text
    assert interval_text(estimate) == interval


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e3))
def test_a_shown_value_is_within_a_twentieth_of_its_error(value, error):
    shown = value_text(Estimate(value, error, value - 2 * error, value + 2 * error))
    back = float(shown.replace("\N{MINUS SIGN}", "-").replace(",", ""))
    assert abs(back - value) <= 0.051 * error + 1e-9 * abs(value)


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 6))
def test_any_number_has_a_text_without_a_hyphen_or_a_minus_zero(value, places):
    text = number(value, places)
    assert "-" not in text
    assert not re.fullmatch(r"−0(\.0*)?", text)


def test_names_do_not_become_placeholders():
    assert measure(GAP, "centroid_norm_x", "{y}", "text").label == "Centroid norm, {y}"
    assert measure(GAP, "separability", "{y}", "{x}").meaning.count("{y} from {x}") == 1


@example([-1.0, 0.0, 5e-324], "centroid_gap")
@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.sampled_from(sorted(GAP)))
def test_a_track_holds_all_of_its_estimates_and_the_tick(values, name):
    low, value, high = sorted(values)
    bottom, top = track(GAP[name], [Estimate(value, 1.0, low, high)])
    still = GAP[name].still
    assert bottom < top
    assert bottom <= low
    assert high <= top
    assert still is None or bottom <= still <= top


def test_provenance_writes_counts_with_commas_and_equal_norms_once(diagnosis):
    inputs = replace(diagnosis.inputs, pairs=3000, norm_range_x=(1.0, 1.00000001), norm_range_y=(0.5, 1.0))
    told = dict(provenance(replace(diagnosis, inputs=inputs, provenance={"seed": 20261, "blocks": 1024})))
    assert told["pairs"] == "3,000"
    assert (told["seed"], told["blocks"]) == ("20261", "1,024")
    assert told[inputs.name_x].endswith("; all norms 1")
    assert told[inputs.name_y].endswith("; norms from 0.5 to 1")


@pytest.mark.parametrize(
    ("excess", "words"), [(0.75, "lies 0.750 ± 0.010 nats above"), (-0.25, "lies 0.250 ± 0.010 nats below")]
)
def test_the_page_says_what_lies_above_what(diagnosis, excess, words):
    above = Estimate(excess, 0.01, excess - 0.02, excess + 0.02)
    budget = replace(diagnosis.budget, negatives=diagnosis.budget.groups // 2, beyond=None, above_largest=above)
    assert f"the loss less log N {words} that with all" in seen_text(replace(diagnosis, budget=budget))
