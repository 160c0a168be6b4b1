import copy
import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from infomech import InputError
from infomech._files import dump_json, plain
from infomech.diagnosis import Estimate
from infomech.report import SCHEMA_VERSION, Report, read_report_json
from infomech.report.schema import report_from
from infomech.report.sections.budget import terms

KEYS = ["schema_version", "inputs", "budget", "gap", "geometry", "retrieval", "findings", "provenance", "information"]


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_dictionary_has_exactly_the_keys_of_the_contract(diagnosis):
    assert list(Report(diagnosis).to_dict()) == KEYS


def test_an_estimate_has_exactly_the_four_keys(diagnosis):
    content = Report(diagnosis).to_dict()
    for estimate in (
        content["budget"]["alignment"],
        content["gap"]["energy_distance"],
        content["geometry"]["x"]["hubness"],
    ):
        assert list(estimate) == ["value", "stderr", "low", "high"]
    assert list(content["budget"]["curve"]["parts"]["divergence_sym"][0]) == ["value", "stderr", "low", "high"]


def test_report_json_reads_back_to_the_same_numbers(diagnosis, tmp_path):
    report = Report(diagnosis)
    report.save(tmp_path / "r", figures=False)
    content = strict((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    assert content == report.to_dict()
    assert read_report_json(tmp_path / "r") == content
    assert read_report_json(tmp_path / "r" / "report.json") == content
    read = report_from(content, "report")
    assert read.gap == diagnosis.gap
    assert read.retrieval == diagnosis.retrieval
    assert read.budget.divergence_sym == diagnosis.budget.divergence_sym


def test_every_field_of_the_budget_is_written(diagnosis):
    written = Report(diagnosis).to_dict()["budget"]
    fields = {field.name for field in dataclasses.fields(diagnosis.budget)} - {"contributions"}  # they are arrays
    assert fields | {"log_kernel_mean"} == set(written)


def test_what_is_not_finite_becomes_null_and_comes_back_as_nan(diagnosis, tmp_path):
    broken = Estimate(float("nan"), float("inf"), float("-inf"), 1.0)
    report = Report(dataclasses.replace(diagnosis, gap=diagnosis.gap | {"energy_distance": broken}))
    page = report.save(tmp_path / "r", figures=False)
    content = strict((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    assert content["gap"]["energy_distance"] == {"value": None, "stderr": None, "low": None, "high": 1.0}
    assert content["findings"][2]["value"] is None
    assert math.isnan(report_from(content, "report").gap["energy_distance"].value)
    assert "n/a" in page.read_text(encoding="utf-8")


def test_numpy_values_become_plain_numbers():
    content = plain({"a": np.float32(0.5), "b": np.arange(2), "c": (np.bool_(True), None), "d": np.float64("nan")})
    assert content == {"a": 0.5, "b": [0, 1], "c": [True, None], "d": None}
    assert strict(dump_json(content)) == content


def test_the_terms_of_the_budget_add_up_to_the_loss(diagnosis):
    *parts, total = terms(diagnosis)
    assert total.total
    assert not any(line.total for line in parts)
    shares = [line.cells[0] for line in parts]
    assert math.fsum(share.value for share in shares) == pytest.approx(diagnosis.budget.infonce_sym.value, abs=1e-12)
    for share in shares:
        assert share.low <= share.value <= share.high


def test_a_term_with_a_minus_sign_turns_its_interval_around(diagnosis):
    shares = {line.key: line.cells[0] for line in terms(diagnosis)}
    divergence, dispersion = diagnosis.budget.divergence_sym, diagnosis.budget.dispersion_x_relative
    assert (shares["divergence_sym"].low, shares["divergence_sym"].high) == (-divergence.high, -divergence.low)
    assert shares["dispersion_x_relative"].high == -0.5 * dispersion.low
    assert shares["dispersion_x_relative"].stderr == 0.5 * dispersion.stderr


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"report\.json does not exist; name a folder of a saved report"):
        read_report_json(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_reading_what_is_no_json(tmp_path, text):
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(InputError, match=r"is not JSON|is text in UTF-16"):
        read_report_json(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"budget": 1}, 3, None])
def test_reading_json_that_is_no_report(tmp_path, content):
    (tmp_path / "report.json").write_bytes(dump_json(content))
    with pytest.raises(InputError, match="is no infomech report: it has no schema_version"):
        read_report_json(tmp_path)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, str(SCHEMA_VERSION), None])
def test_reading_another_schema(tmp_path, version, diagnosis):
    (tmp_path / "report.json").write_bytes(dump_json(Report(diagnosis).to_dict() | {"schema_version": version}))
    with pytest.raises(InputError, match=f"reads {SCHEMA_VERSION}; make the report again"):
        read_report_json(tmp_path)


# shared information is there where the groups are enough for it
@pytest.mark.parametrize("key", KEYS[1:-1])
def test_reading_a_report_that_lacks_a_part(tmp_path, key, diagnosis):
    content = Report(diagnosis).to_dict()
    del content[key]
    (tmp_path / "report.json").write_bytes(dump_json(content))
    with pytest.raises(InputError, match=f"it lacks {key}"):
        read_report_json(tmp_path)


@pytest.mark.parametrize(("part", "key"), [("budget", "alignment"), ("inputs", "name_x"), ("geometry", "x")])
def test_a_report_without_a_needed_number_is_refused(part, key, diagnosis):
    content = copy.deepcopy(Report(diagnosis).to_dict())
    del content[part][key]
    with pytest.raises(InputError, match=f"the report is no complete infomech report.*{key}"):
        report_from(content, "the report")


def test_a_curve_without_its_parts_is_refused(diagnosis):
    whole = Report(diagnosis).to_dict()
    report_from(copy.deepcopy(whole), "the report")
    none, short, unknown = (copy.deepcopy(whole) for _ in range(3))
    none["budget"]["curve"]["parts"] = {}
    short["budget"]["curve"]["parts"]["alignment"].pop()
    unknown["budget"]["curve"]["parts"]["zz"] = unknown["budget"]["curve"]["parts"]["alignment"]
    for content, words in (
        (none, r"budget\.curve\.parts lacks alignment"),
        (short, r"budget\.curve\.parts\.alignment does not fit its negatives"),
        (unknown, r"budget\.curve\.parts has zz"),
    ):
        with pytest.raises(InputError, match=f"the report is no complete infomech report \\({words}"):
            report_from(content, "the report")


def test_drawing_libraries_wait_until_a_report_is_saved():
    heavy = "{'plotly', 'matplotlib', 'jinja2'}"
    code = f"import sys, infomech.report; print({heavy} & {{m.split('.')[0] for m in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_a_report_is_frozen_and_hands_out_its_parts(diagnosis):
    report = Report(diagnosis)
    assert (report.budget, report.gap) == (diagnosis.budget, diagnosis.gap)
    assert (report.geometry, report.retrieval) == (diagnosis.geometry, diagnosis.retrieval)
    assert report.findings == diagnosis.findings
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.diagnosis = None
