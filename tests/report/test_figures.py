import dataclasses
import itertools
import struct

import matplotlib as mpl
import numpy as np
import pytest

from infomech.diagnosis import Estimate
from infomech.report import Report, compare
from infomech.report.drawing import FONTS, figure_bytes, figure_files
from infomech.report.report import FIGURES
from infomech.report.sections.spread import ecdf, spectrum_shown


@pytest.fixture(autouse=True)
def users_fonts(font_type_of_users, monkeypatch):
    monkeypatch.setitem(FONTS, "pdf.fonttype", font_type_of_users)


def drawings(diagnosis):
    return Report(diagnosis).drawings()


def test_every_figure_is_written_as_png_and_pdf(diagnosis):
    files = dict(figure_files(drawings(diagnosis)))
    assert set(files) == {f"figures/{name}.{kind}" for name in set(FIGURES) - {"curves"} for kind in ("png", "pdf")}
    for name, content in files.items():
        if name.endswith("png"):
            assert content[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack(">II", content[16:24])
            assert width >= 1000
            assert height >= 600
        else:
            assert content.startswith(b"%PDF")
            assert b"/Type3" not in content  # journals refuse these fonts
            assert b"CreationDate" not in content


def test_drawing_leaves_the_settings_of_matplotlib_alone(diagnosis):
    before = dict(mpl.rcParams)
    figure_bytes(drawings(diagnosis)["budget"](), "pdf")
    assert dict(mpl.rcParams) == before


def test_the_same_report_gives_the_same_bytes(diagnosis):
    for kind in ("png", "pdf"):
        first, second = (figure_bytes(drawings(diagnosis)["spectra"](), kind) for _ in range(2))
        assert first == second


def test_awkward_names_are_drawn_without_a_warning(awkward):
    other = dataclasses.replace(awkward, inputs=dataclasses.replace(awkward.inputs, name_x="图像 $\\frac{", name_y=""))
    for each in (awkward, other):
        for draw in drawings(each).values():
            figure_bytes(draw(), "png")


def test_figures_of_a_comparison(several, awkward):
    files = dict(figure_files(compare([Report(d) for d in [*several, awkward]]).drawings()))
    assert len(files) == 6
    assert all(len(content) > 5000 for content in files.values())


def test_the_bars_of_the_waterfall_end_at_the_loss(diagnosis):
    axes = drawings(diagnosis)["budget"]().axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends[-1] == pytest.approx(diagnosis.budget.infonce_sym.value)
    assert ends[-2] == pytest.approx(diagnosis.budget.infonce_sym.value, abs=1e-12)


def test_the_distribution_function_is_the_distribution_function():
    values = np.random.default_rng(0).lognormal(size=5000)
    at, share = ecdf(np.append(values, np.nan))
    assert len(at) <= 400
    assert share[-1] == 1.0
    np.testing.assert_allclose(share, [(values <= a).mean() for a in at], atol=1e-12)


def test_a_spectrum_shows_what_is_above_rounding():
    assert spectrum_shown(np.array([1.0, 0.1, 1e-18, 0.0, -1e-17])).tolist() == [1.0, 0.1]
    assert spectrum_shown(np.zeros(3)).tolist() == []


def test_axis_ends_and_numbers_of_the_gap_do_not_meet(diagnosis):
    tiny = Estimate(0.0000423, 0.0000061, 0.0000301, 0.0000545)
    figure = drawings(dataclasses.replace(diagnosis, gap=diagnosis.gap | {"energy_distance": tiny}))["gap"]()
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_the_curve_of_infonce_reaches_the_temperature_of_the_model(diagnosis):
    curve = drawings(diagnosis)["information"]().axes[0].lines[0]
    assert diagnosis.inputs.temperature in curve.get_xdata()
