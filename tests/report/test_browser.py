"""The pages in a real browser: no error, no request, every plot drawn, nothing wider than a phone."""

import shutil
from dataclasses import replace

import pytest

from infomech import Estimate
from infomech.report import Report, compare
from infomech.report.section import SideBySide
from infomech.report.sections import SECTIONS

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = """() => [...document.querySelectorAll('.chart')].map(place => ({
    id: place.id,
    plot: place.classList.contains('js-plotly-plot'),
    traces: place.querySelectorAll('.main-svg .trace').length,
    wanted: JSON.parse(document.getElementById('charts').textContent)[place.id].data.length,
    width: place.getBoundingClientRect().width,
}))"""

# What is wrong with the tables of a page: a number that leaves its cell, cells that meet, a number without the name of
# its column, a part of a table that is hidden without a sign.
FAULTS = """() => {
    document.querySelectorAll('details').forEach(place => { place.open = true; });
    const faults = [];
    const inside = (part, whole) => part.left >= whole.left - 1 && part.right <= whole.right + 1
        && part.top >= whole.top - 1 && part.bottom <= whole.bottom + 1;
    for (const table of document.querySelectorAll('table')) {
        const box = table.closest('.scroll');
        const wide = box.scrollWidth > box.clientWidth + 1;
        if (wide !== (getComputedStyle(box, '::before').content !== 'none'))
            faults.push(`${wide ? 'columns hidden without a sign' : 'a sign, and nothing hidden'}: ${box.innerText}`);
        if (wide && getComputedStyle(table).display === 'block')
            faults.push(`stacked, and wider than its box: ${box.innerText}`);
        if (!wide && !inside(table.getBoundingClientRect(), box.closest('section').getBoundingClientRect()))
            faults.push('a table leaves its section');
        for (const cell of table.querySelectorAll('th, td')) {
            const frame = cell.getBoundingClientRect();
            const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
            while (frame.width && walker.nextNode()) {
                const range = document.createRange();
                range.selectNodeContents(walker.currentNode);
                for (const line of range.getClientRects())
                    if (!inside(line, frame)) faults.push(`leaves its cell: ${walker.currentNode.data}`);
            }
        }
        for (const row of table.rows) {
            const frames = [...row.cells].map(cell => cell.getBoundingClientRect()).filter(frame => frame.width);
            for (const [at, one] of frames.entries())
                for (const two of frames.slice(at + 1))
                    if (Math.min(one.right, two.right) > Math.max(one.left, two.left) + 1
                        && Math.min(one.bottom, two.bottom) > Math.max(one.top, two.top) + 1)
                        faults.push(`cells meet: ${row.innerText}`);
        }
        const heads = [...table.tHead.rows[0].cells];
        for (const cell of table.querySelectorAll('tbody td.n')) {
            const head = heads[cell.cellIndex];
            const above = head.getBoundingClientRect().width > 0;
            const beside = getComputedStyle(cell, '::before').content;
            if (cell.innerText.trim() && !above && (beside === 'none' || beside === '""'))
                faults.push(`no name: ${cell.innerText}`);
        }
    }
    return faults;
}"""


def large(diagnosis):
    """The same report with the numbers of a small temperature and a wide gap, and a recall at its end."""
    scaled = {
        name: Estimate(factor * e.value - 11.0, 0.034, factor * e.low - 11.0, factor * e.high - 11.0)
        for name, factor in (("alignment", 3.0), ("dispersion_x_relative", 40.0), ("dispersion_y_relative", 40.0))
        for e in (getattr(diagnosis.budget, name),)
    }
    near_all = Estimate(0.99867, 0.00047, 0.99657, 0.99948)
    retrieval = {name: e if name.endswith("rank") else near_all for name, e in diagnosis.retrieval.items()}
    gap = diagnosis.gap | {"separability": Estimate(1.0, 0.0, 0.9987, 1.0)}
    return replace(diagnosis, budget=replace(diagnosis.budget, **scaled), retrieval=retrieval, gap=gap)


def until(page, condition, argument=None):
    """Waits; playwright's own waiting evaluates strings in the page, which the page's policy rightly forbids."""
    for _ in range(200):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}; the page said {page.complaints}")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need the playwright package")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: install Debian's chromium to run the browser tests")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, diagnosis, awkward, several):
    base = tmp_path_factory.mktemp("pages")
    return {
        "report": Report(diagnosis).save(base / "report", figures=False),
        "awkward": Report(awkward).save(base / "awkward", figures=False),
        "large": Report(large(diagnosis)).save(base / "large", figures=False),
        "compare": compare([Report(d) for d in [*several, awkward]]).save(base / "compare", figures=False),
    }


@pytest.fixture(scope="module")
def charts(diagnosis, several):
    """The charts that each page must draw."""
    sides = SideBySide(("a", "b", "c"), tuple(several))
    parts = [part for s in SECTIONS if (part := s.compared) and part.present(sides)]
    own = {place for s in SECTIONS if s.present(diagnosis) for place in s.charts(diagnosis)}
    return {"report": own, "awkward": own, "compare": {place for part in parts for place in part.charts(sides)}}


@pytest.fixture
def opened(browser, saved):
    """Opens a page and keeps what it complains about and asks for."""
    contexts = []

    def open_page(name, *, width=1400, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: page.complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(saved[name].as_uri())
        until(page, "() => document.querySelectorAll('.chart .main-svg').length > 0")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", ["report", "awkward", "compare"])
def test_a_page_opens_and_draws_every_plot(opened, saved, charts, name, width):
    page = opened(name, width=width)
    assert page.complaints == []
    assert page.requests == [saved[name].as_uri()]
    plots = page.evaluate(DRAWN)
    assert {plot["id"] for plot in plots} == charts[name]
    for plot in plots:
        assert plot["plot"], plot
        assert plot["traces"] >= plot["wanted"], plot
        assert 0 < plot["width"] <= width, plot
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(full_page=True)
    for other in (width, 820, 600) if width == 1400 else (width, 320):
        page.set_viewport_size({"width": other, "height": 900})
        until(page, "other => document.documentElement.clientWidth === other", other)
        page.wait_for_timeout(100)  # signs follow the size of their box
        assert page.evaluate(FAULTS) == [], other
        assert page.evaluate("document.documentElement.scrollWidth") <= other
    assert page.complaints == []


def test_plots_fit_the_paper_and_return_to_the_screen(opened):
    page = opened("compare")
    width = "() => document.querySelector('#chart-budget .main-svg').getBoundingClientRect().width"
    wide = page.evaluate(width)
    page.evaluate("() => { window.dispatchEvent(new Event('beforeprint')); }")
    assert page.evaluate(width) == 700
    page.evaluate("() => { window.dispatchEvent(new Event('afterprint')); }")
    until(page, f"wide => ({width})() === wide", wide)
    assert page.complaints == []


# Width of the waterfall, and how far its numbers reach beyond it.
BEYOND = """() => {
    const place = document.getElementById('chart-budget');
    const frame = place.querySelector('.main-svg').getBoundingClientRect();
    const numbers = [...place.querySelectorAll('.textpoint text')].map(text => text.getBoundingClientRect());
    const out = numbers.map(text => Math.max(frame.left - text.left, text.right - frame.right));
    return { count: numbers.length, width: frame.width, most: Math.max(...out) };
}"""


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_large_numbers_have_room_on_screen_and_paper(opened, width):
    page = opened("large", width=width)
    assert page.evaluate(FAULTS) == []
    on_screen = page.evaluate(BEYOND)
    page.evaluate("() => { window.dispatchEvent(new Event('beforeprint')); }")
    on_paper = page.evaluate(BEYOND)
    assert on_paper["width"] == 340
    for shown in (on_screen, on_paper):
        assert shown["count"] == 8
        assert shown["most"] <= 0, shown
    if width == 1400:
        assert page.evaluate("() => document.querySelector('#retrieval .scroll').className") == "scroll"


def test_a_script_in_the_page_that_is_not_ours_may_not_run(opened):
    page = opened("report")
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.intruder = 1';"
        "document.body.append(s); }"
    )
    assert page.evaluate("window.intruder === undefined")
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_the_charts_take_the_colours_of_the_theme(opened):
    shade = "() => getComputedStyle(document.querySelector('#chart-budget .ytick text')).fill"
    page = opened("report")
    light = page.evaluate(shade)
    page.emulate_media(color_scheme="dark")
    until(page, f"light => ({shade})() !== light", light)
    assert page.complaints == []


def test_the_reader_chooses_the_gap_measure(opened):
    page = opened("compare")
    title = "() => document.querySelector('#chart-tradeoff .xtitle').textContent"
    assert page.evaluate(title) == "Energy distance"
    page.select_option("#choose-gap", "centroid_gap")
    until(page, f"() => ({title})() === 'Centroid gap'")
    assert page.complaints == []


def test_charts_follow_the_width_of_the_window(opened):
    page = opened("report")
    page.set_viewport_size({"width": 390, "height": 900})
    until(page, "() => document.querySelector('#chart-map .main-svg').getBoundingClientRect().width < 390")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
