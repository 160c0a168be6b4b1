import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from infomech._words import GAP, interval_text, number, with_error
from infomech.diagnosis import Estimate
from infomech.report import Report, compare
from infomech.report.charts import glyph
from infomech.report.page import comparison_page, report_page
from infomech.report.sections import SECTIONS
from infomech.report.sections.budget import tables

LOADS = {"src", "srcset", "href", "xlink:href", "action", "formaction", "poster", "data", "background"}


class Page(HTMLParser):
    """Elements, text, scripts and what a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.scripts, self.words, self.policy, self.handlers = [], [], [], [], None, []
        self._script = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in LOADS]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag == "script":
            self._script = [named.get("type"), ""]

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append(tuple(self._script))
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self._script[1] += data
        else:
            self.words.append(data)


def report_charts(diagnosis):
    shown = [section for section in SECTIONS if section.present(diagnosis)]
    return {place: chart for section in shown for place, chart in section.charts(diagnosis).items()}


@pytest.fixture(scope="module")
def pages(awkward, diagnosis, several):
    made = {}
    for name, each in (("awkward", awkward), ("plain", diagnosis)):
        made[name] = report_page(each).decode()
    made["compare"] = comparison_page(compare([Report(d) for d in [*several, awkward]])).decode()
    return made


@pytest.mark.parametrize("name", ["awkward", "plain", "compare"])
def test_a_page_is_complete_and_loads_nothing(pages, name):
    page = Page(pages[name])
    assert {load for load in page.loads if not load.startswith("#")} == {"data:,"}
    css = re.search(r"<style>(.*?)</style>", pages[name], re.S).group(1)
    assert "url(" not in css
    assert "@import" not in css
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in page.policy


@pytest.mark.parametrize("name", ["awkward", "plain", "compare"])
def test_only_our_own_scripts_may_run(pages, name):
    page = Page(pages[name])
    kinds = [kind for kind, _ in page.scripts]
    assert kinds == ["application/json", None, None]
    allowed = re.findall(r"'sha256-([^']+)'", page.policy)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for _, text in page.scripts[1:]]
    assert allowed == digests
    assert "unsafe-eval" not in page.policy
    assert page.handlers == []


@pytest.mark.parametrize("name", ["awkward", "compare"])
def test_names_are_shown_and_never_obeyed(pages, name, awkward):
    page = Page(pages[name])
    assert page.tags.count("script") == 3
    assert awkward.inputs.name_x in "".join(page.words)
    assert "<script>alert" not in pages[name]
    charts = json.loads(page.scripts[0][1])
    assert "<script" not in json.dumps(charts)  # plotly reads tags: names reach it with their letters as entities


def test_the_data_of_the_charts_is_strict_json(pages):
    def refuse(token):
        raise AssertionError(token)

    for text in pages.values():
        charts = json.loads(Page(text).scripts[0][1], parse_constant=refuse)
        for place in charts:
            assert f'id="{place}"' in text


def test_the_page_tells_the_findings_first_and_the_serious_ones_before_all(pages, diagnosis):
    text = "".join(Page(pages["plain"]).words)
    places = [text.index(f.title) for f in diagnosis.findings]
    assert places == sorted(places)
    assert places[-1] < text.index("± is one standard error") < text.index("the terms add up to the loss")
    for finding in diagnosis.findings:
        assert " ".join(finding.text.replace("`", "").split()) in " ".join(text.split())


def test_findings_are_put_in_order_of_weight(diagnosis):
    turned = dataclasses.replace(diagnosis, findings=diagnosis.findings[::-1])
    page = report_page(turned).decode()
    grades = re.findall(r'class="finding (\w+)"', page)
    assert grades == ["serious", "warning", "note", "good"]


def test_no_findings_is_said(diagnosis):
    silent = dataclasses.replace(diagnosis, findings=[])
    assert "Nothing stands out." in report_page(silent).decode()


def test_an_unresolved_density_is_said(make):
    cold = make(n=200, tau=0.03)
    text = "".join(Page(report_page(cold).decode()).words)
    budget = cold.budget
    assert not budget.resolved
    assert "The limit of large batches: not resolved" in text
    assert f"at most {with_error(budget.curve.parts['dispersion_x_relative'][-1])}" in text
    assert text.count("no number") == 3  # in words, of the divergence, of the energy
    assert f"From a temperature of about {budget.resolves_from:.2g} on" in text


def test_a_limit_that_is_resolved_is_a_number(make):
    warm = make(n=200, d=6, tau=1.0, batch=64)
    assert warm.budget.limit is not None
    text = "".join(Page(report_page(warm).decode()).words)
    assert "not resolved" not in text
    assert "which no estimate can see" in text
    assert interval_text(warm.budget.limit.energy_sym) in text


def test_a_batch_larger_than_the_data_is_an_extrapolation_by_name(make):
    small = make(n=100, d=6, tau=0.2, batch=400)
    text = "".join(Page(report_page(small).decode()).words)
    part = small.budget.beyond.parts["infonce_sym"]
    assert "An extrapolation, not a measurement." in text
    assert f"{number(part.low, 2)} to {number(part.high, 2)}" in text
    assert "Gradient error" not in "".join(line.key for line in tables(small)[1].lines)
    assert "these data cannot say" in text
    assert "Beyond the data" not in "".join(Page(report_page(make(n=100, d=6, batch=64)).decode()).words)


def test_the_waterfall_ends_at_the_loss(diagnosis):
    chart = report_charts(diagnosis)["chart-budget"]
    bars, whiskers, amounts = chart["data"]
    assert bars["measure"] == ["relative"] * 7 + ["total"]
    loss = diagnosis.budget.infonce_sym
    assert sum(bars["x"][:-1]) == pytest.approx(loss.value, abs=1e-12)
    assert whiskers["x"][-1] == loss.value
    assert whiskers["x"][-2] == pytest.approx(loss.value, abs=1e-12)
    assert whiskers["error_x"]["array"][4] is None  # log N is exact
    assert whiskers["error_x"]["array"][-1] == pytest.approx(loss.high - loss.value)
    assert all(place >= end - 1e-12 for place, end in zip(amounts["x"], whiskers["x"], strict=True))
    low, high = chart["layout"]["xaxis"]["range"]
    assert low < min(whiskers["x"])
    assert high > max(amounts["x"])


def test_charts_survive_numbers_that_are_not_there(diagnosis):
    nan = float("nan")
    empty = Estimate(nan, nan, nan, nan)
    parts = {key: empty for key, part in vars(diagnosis.budget).items() if isinstance(part, Estimate)}
    hollow = dataclasses.replace(
        diagnosis,
        budget=dataclasses.replace(diagnosis.budget, **parts, effective_negatives_quantiles={}),
        gap={k: empty for k in diagnosis.gap},
        retrieval={},
    )
    json.dumps(report_charts(hollow), allow_nan=False)
    assert b"n/a" in report_page(hollow)


@pytest.mark.parametrize(
    ("name", "estimate", "at", "low", "width", "still"),
    [
        ("centroid_cosine", Estimate(0.0, 0.1, -0.2, 0.2), 50.0, 40.0, 20.0, 100.0),
        ("separability", Estimate(0.75, 0.1, 0.5, 1.0), 75.0, 50.0, 50.0, 50.0),
        ("centroid_gap", Estimate(0.5, 0.1, 0.3, float("nan")), 25.0, None, None, 0.0),
    ],
)
def test_a_glyph_stands_where_its_number_is(name, estimate, at, low, width, still):
    drawn = glyph(GAP[name], estimate)
    assert (drawn["at"], drawn["low"], drawn["width"], drawn["still"]) == (at, low, width, still)
