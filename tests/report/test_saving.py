"""What a report shows is saved whole and loaded whole: no number, picture or word is lost."""

import copy
import dataclasses
import io
import zipfile

import numpy as np
import pytest

from infomech import InputError
from infomech._files import dump_json
from infomech.report import Report, compare
from infomech.report.schema import dump_arrays, read_report, report_arrays, report_dict, report_from

NAMES = ("diagnosis", "awkward", "curved")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, diagnosis, awkward, curved):
    base = tmp_path_factory.mktemp("saved")
    reports = dict(zip(NAMES, (diagnosis, awkward, curved), strict=True))
    for name, each in reports.items():
        Report(each).save(base / name, figures=False)
    return {name: (base / name, Report(each)) for name, each in reports.items()}


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_report_is_equal_and_is_drawn_to_the_same_bytes(folders, tmp_path, name):
    folder, report = folders[name]
    loaded = Report.load(folder)
    assert loaded == report
    assert loaded.diagnosis.pictures.map_labels_x == report.diagnosis.pictures.map_labels_x
    np.testing.assert_array_equal(loaded.diagnosis.pictures.map_y, report.diagnosis.pictures.map_y)
    assert loaded.gap == report.gap
    assert loaded.budget == report.budget
    assert [type(v) for v in loaded.diagnosis.provenance.values()] == [
        type(v) for v in report.diagnosis.provenance.values()
    ]
    loaded.save(tmp_path / "again", figures=False)
    assert contents(tmp_path / "again") == contents(folder)


def test_figures_of_a_loaded_report_are_those_of_the_new_one(folders, tmp_path):
    folder, report = folders["curved"]
    Report.load(folder).save(tmp_path / "loaded")
    report.save(tmp_path / "new")
    assert contents(tmp_path / "loaded") == contents(tmp_path / "new")
    assert "figures/curves.png" in contents(tmp_path / "new")


def test_equality_sees_every_number_and_every_picture(folders):
    _, report = folders["curved"]
    d = report.diagnosis
    assert report == Report(copy.deepcopy(d))
    assert report != "report"
    moved = d.gap | {"energy_distance": dataclasses.replace(d.gap["energy_distance"], value=np.nextafter(0.5, 1))}
    assert report != Report(dataclasses.replace(d, gap=moved))
    assert report != Report(dataclasses.replace(d, curves=None))
    for change in (
        {"spectrum_x": d.pictures.spectrum_x * (1 + 1e-15)},
        {"map_labels_x": None},
        {"map_gap_axis": not d.pictures.map_gap_axis},
        {"similarity_counts": {k: v for k, v in d.pictures.similarity_counts.items() if k != "xy"}},
    ):
        assert report != Report(dataclasses.replace(d, pictures=dataclasses.replace(d.pictures, **change)))


def test_the_file_of_a_report_stands_for_its_folder(folders):
    folder, report = folders["diagnosis"]
    assert Report.load(str(folder / "report.json")) == report


def damaged(folder, tmp_path, content):
    """A copy of the folder whose pictures hold that."""
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "report.json").write_bytes((folder / "report.json").read_bytes())
    if content is not None:
        (copied / "pictures.npz").write_bytes(content)
    return copied


def one_line(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        Report.load(folder)
    assert "\n" not in str(caught.value)
    assert "make the report again" in str(caught.value)


def test_missing_pictures_are_said_in_a_line(folders, tmp_path):
    copied = damaged(folders["diagnosis"][0], tmp_path, None)
    one_line(copied, r"pictures\.npz does not exist; a report is drawn from it and from report\.json")
    with pytest.raises(InputError, match=r"pictures\.npz does not exist"):
        compare([copied])
    assert compare([copied / "report.json"]).names == ("copy",)  # a comparison of the numbers alone


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_pictures_that_are_no_npz(folders, tmp_path, content):
    one_line(damaged(folders["diagnosis"][0], tmp_path, content), r"pictures\.npz cannot be read")


def test_a_bare_array_is_no_npz(folders, tmp_path):
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    one_line(damaged(folders["diagnosis"][0], tmp_path, out.getvalue()), r"pictures\.npz cannot be read")


def test_pickles_are_refused_and_never_written(folders, tmp_path):
    folder, report = folders["diagnosis"]
    out = io.BytesIO()
    np.savez(out, **report_arrays(report.diagnosis) | {"pictures/map_x": np.array([{}], dtype=object)})
    one_line(damaged(folder, tmp_path, out.getvalue()), r"pictures\.npz cannot be read \(ValueError\)")
    with pytest.raises(TypeError, match="cannot be saved without pickle"):
        dump_arrays({"a": np.array([{}], dtype=object)})


def test_no_damage_brings_anything_but_one_line(folders, tmp_path):
    """Cut anywhere, or with a byte turned: it is refused in a line, or the byte said nothing."""
    folder, report = folders["awkward"]
    whole = (folder / "pictures.npz").read_bytes()
    copied = damaged(folder, tmp_path, whole)
    rng = np.random.default_rng(0)
    refused, read = 0, 0
    for at in rng.integers(len(whole), size=300).tolist():
        turned = bytearray(whole)
        turned[at] ^= int(rng.integers(1, 256))
        for content in (whole[:at], bytes(turned)):
            (copied / "pictures.npz").write_bytes(content)
            try:
                loaded = Report.load(copied)
            except InputError as error:
                refused += "\n" not in str(error)
            else:
                read += loaded == report
    assert refused + read == 600
    assert refused > 500


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"map_x": None}, "it lacks pictures/map_x"),
        ({"map_explained": None}, "it lacks pictures/map_explained"),
        ({"map_x": np.zeros(4)}, "pictures/map_x is 1-dimensional float64, not 2-dimensional float64"),
        ({"map_y": np.zeros((4, 3))}, "the sizes of map_y do not fit"),
        ({"spectrum_x": np.zeros(4, np.int64)}, "pictures/spectrum_x is 1-dimensional int64"),
        ({"similarity_edges": np.zeros(3)}, "the sizes of pairs, xy, xx, yy do not fit"),
        ({"similarity_edges": np.zeros(0)}, "do not fit"),
        ({"map_labels_x": np.frombuffer(b'["one"]', np.uint8)}, "the sizes of map_labels_x do not fit"),
        ({"map_labels_x": np.frombuffer(b"[3]", np.uint8)}, r"map_labels_x\[0\] is a int"),
        ({"map_labels_x": np.frombuffer(b"[", np.uint8)}, "pictures/map_labels_x is not JSON"),
        ({"map_gap_axis": np.frombuffer(b"1", np.uint8)}, "pictures/map_gap_axis is a int"),
    ],
)
def test_pictures_that_do_not_fit_are_named(folders, tmp_path, change, match):
    folder, report = folders["diagnosis"]
    arrays = report_arrays(report.diagnosis) | {f"pictures/{key}": array for key, array in change.items()}
    content = dump_arrays({key: array for key, array in arrays.items() if array is not None})
    one_line(damaged(folder, tmp_path, content), match)


def test_arrays_of_other_parts_are_passed_over(folders, tmp_path):
    folder, report = folders["diagnosis"]
    more = {"replicates/budget/alignment": np.zeros((50, 2)), "blocks": np.arange(5)}
    copied = damaged(folder, tmp_path, dump_arrays(report_arrays(report.diagnosis) | more))
    assert Report.load(copied) == report


def test_the_arrays_are_named_by_where_they_stand(folders):
    with zipfile.ZipFile(folders["diagnosis"][0] / "pictures.npz") as saved:
        names = {name.removesuffix(".npy") for name in saved.namelist()}
    assert {"pictures/map_x", "pictures/similarity_counts/xy", "contributions/by_pair/infonce_xy"} < names
    assert all(name.startswith(("pictures/", "contributions/", "groups/", "information/")) for name in names)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"contributions/lent": None}, "it lacks contributions/lent"),
        ({"groups/block_groups": None}, "it lacks groups/block_groups"),
        ({"groups/hits/x_to_y_recall_at_1": np.zeros(3)}, "the sizes of groups do not fit"),
        ({"contributions/pairs": np.zeros((4, 2), np.int64)}, "the sizes of blocks, weights, .* do not fit"),
        ({"contributions/blocks": np.zeros(4)}, "contributions/blocks is 1-dimensional float64, not .* int64"),
        ({"contributions/groups": np.zeros(1, np.uint8)}, "contributions/groups is not JSON"),
    ],
)
def test_contributions_that_do_not_fit_are_named(folders, tmp_path, change, match):
    folder, _ = folders["diagnosis"]
    with np.load(folder / "pictures.npz") as saved:
        arrays = {key: saved[key] for key in saved.files} | change
    arrays = {key: array for key, array in arrays.items() if array is not None}
    one_line(damaged(folder, tmp_path, dump_arrays(arrays)), match)


def test_pairs_rows_and_blocks_come_back(folders):
    folder, report = folders["diagnosis"]
    saved, loaded = report.budget.contributions, Report.load(folder).budget.contributions
    assert saved.digest == loaded.digest
    assert saved.negatives == loaded.negatives
    for name, replicates in saved.curve_replicates.items():
        np.testing.assert_array_equal(loaded.curve_replicates[name], replicates)
    mean = sum(saved.weights @ loaded.by_pair[f"infonce_{side}"] for side in ("xy", "yx")) / 2
    assert mean == pytest.approx(report.budget.infonce_sym.value, abs=1e-10)
    error = loaded.stderr(loaded.replicates["infonce_sym"], loaded.interactions["infonce_sym"])
    assert error == pytest.approx(report.budget.infonce_sym.stderr, rel=1e-9)


def test_a_report_of_an_older_schema_is_refused_in_a_line(folders, tmp_path):
    folder, report = folders["diagnosis"]
    copied = damaged(folder, tmp_path, (folder / "pictures.npz").read_bytes())
    (copied / "report.json").write_bytes(dump_json(report.to_dict() | {"schema_version": 1}))
    one_line(copied, "has schema_version 1, this version of infomech reads 4")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("gap", "frechet"), 3.0, r"gap\.frechet is a float"),
        (("gap", "frechet", "value"), "high", r"gap\.frechet\.value is a str"),
        (("gap", "frechet", "low"), True, r"gap\.frechet\.low is a bool"),
        (("budget", "resolved"), 1, r"budget\.resolved is a int"),
        (("budget", "effective_negatives_quantiles"), [], r"budget\.effective_negatives_quantiles is a list"),
        (("inputs", "pairs"), None, r"inputs\.pairs is missing"),
        (("inputs", "norm_range_x"), [1.0], r"inputs\.norm_range_x has 1 entries for 2"),
        (("inputs", "batch_size"), 2.5, r"inputs\.batch_size is a float"),
        (("findings",), [{"code": "a"}], r"findings\[0\] lacks severity"),
        (("provenance", "seed"), [], r"provenance\.seed is a list"),
        (("curves",), {}, "curves lacks temperatures"),
    ],
)
def test_numbers_that_do_not_fit_are_named(diagnosis, path, value, match):
    content = copy.deepcopy(report_dict(diagnosis))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=f"is no complete infomech report .*{match}") as caught:
        report_from(content, "it")
    assert "\n" not in str(caught.value)


def test_a_severity_that_does_not_exist_is_refused(diagnosis):
    content = copy.deepcopy(report_dict(diagnosis))
    content["findings"][0]["severity"] = "fatal"
    with pytest.raises(InputError, match=r"findings\[0\]\.severity is 'fatal'"):
        report_from(content, "it")


def test_what_a_later_version_adds_is_passed_over(diagnosis):
    content = copy.deepcopy(report_dict(diagnosis)) | {"scores": {}}
    content["inputs"]["encoder"] = "new"
    assert report_from(content, "it").gap == diagnosis.gap


def test_a_comparison_reads_whole_folders(folders, several):
    saved = compare([folders["diagnosis"][0], folders["awkward"][0]])
    assert [each.gap["frechet"] for each in saved.reports] == [
        folders[k][1].gap["frechet"] for k in ("diagnosis", "awkward")
    ]
    assert {each.budget.negatives for each in saved.reports} == {saved.negatives}
    assert read_report(folders["diagnosis"][0]).pictures.map_x.shape == (700, 2)
