"""Many encodings of the same pairs: their order, paired differences, what would tell, and bad input."""

import json

import numpy as np
import pytest
import torch

import infomech as im
from infomech import InputError, cli
from infomech.diagnosis.information.pairing import groups_for_power


def encodings(n=320, d=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g)
    noise = torch.randn(n, d, generator=g)
    other = torch.randn(n, d, generator=g)
    return {
        "poor": (z, z + 4 * noise),
        "good": (z, z + 2.2 * noise),
        "alike": (z, z + 2.2 * noise + 0.05 * other),
    }


@pytest.fixture(scope="module")
def found():
    return im.rank(encodings(), batch_size=64, normalize=True)


def test_order_and_paired_differences(found):
    names = [each.name for each in found.encodings]
    assert names[2] == "poor"
    assert set(names[:2]) == {"good", "alike"}
    assert found.encodings[0].difference is None
    poor = found["poor"].difference
    assert poor.paired
    assert poor.apart
    alone = [each.information.information for each in found.encodings]
    assert poor.estimate.value == pytest.approx(alone[2].value - alone[0].value, abs=1e-9)
    near = found.encodings[1].difference.estimate
    unpaired = (alone[0].stderr ** 2 + alone[1].stderr ** 2) ** 0.5
    assert near.stderr < 0.2 * unpaired  # of the same pairs: errors go together
    assert found["good"].information.information.value == pytest.approx(
        im.shared_information(*encodings()["good"], batch_size=64, normalize=True).information.value, abs=1e-9
    )


def test_bytes_are_of_one_number_format(found):
    made = encodings()
    x, y = made["poor"]
    both = im.rank({"half": (x.half(), y.half()), "good": made["good"]}, batch_size=64, normalize=True)
    assert {each.bytes_a_row for each in both.encodings} == {96}
    assert "Bytes a row are counted in float32 for all encodings; some are given in float16." in both.remarks()
    assert not any("Bytes a row" in line for line in found.remarks())


def test_what_would_tell(found):
    second = found.encodings[1]
    if not second.difference.apart:
        e = second.difference.estimate
        expected = 320 * ((1.959964 + 0.841621) * e.stderr / e.value) ** 2 - 320
        assert second.more_groups == pytest.approx(expected, abs=2)
        assert any("more pairs at 80% power" in line for line in found.remarks())
    assert groups_for_power(0.1, 500, 0.1 * 2.8016) == 500


def test_recalls_are_those_of_a_report(found):
    report = im.diagnose(*encodings()["good"], temperature=0.1, normalize=True)
    for k, got in ((1, found["good"].recall_at_1), (10, found["good"].recall_at_10)):
        expected = [report.retrieval[f"{side}_recall_at_{k}"].value for side in ("x_to_y", "y_to_x")]
        assert got.value == pytest.approx(sum(expected) / 2, abs=1e-12)
        assert got.low < got.value < got.high


def test_shown_and_saved(found, tmp_path):
    assert len(repr(found).splitlines()) <= 10
    page = found.save(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "rank.json").read_text())
    assert [each["name"] for each in content["encodings"]] == [each.name for each in found.encodings]
    assert content["encodings"][0]["bytes_a_row"] == 96
    assert "| poor |" in page.read_text()
    assert (tmp_path / "out" / "figures" / "rank.png").stat().st_size > 1000
    with pytest.raises(InputError, match="choose another folder"):
        found.save(tmp_path / "out")


def test_bad_input():
    rows = encodings(n=120)
    with pytest.raises(InputError, match="there is 1 encoding to rank"):
        im.rank({"one": rows["good"]})
    short = {"good": rows["good"], "short": tuple(r[:110] for r in rows["good"])}
    with pytest.raises(InputError, match="short has 110 and 110 rows, good has 120 and 120"):
        im.rank(short, normalize=True)
    two = {name: rows[name] for name in ("good", "poor")}
    ids = {"good": [str(k) for k in range(120)], "poor": [str(k) for k in reversed(range(120))]}
    with pytest.raises(InputError, match="poor and good have the same ids in another order"):
        im.rank(two, ids=ids, normalize=True)
    ids["poor"] = [f"p{k}" for k in range(120)]
    with pytest.raises(InputError, match="poor and good have other ids"):
        im.rank(two, ids=ids, normalize=True)


def test_the_command(tmp_path, capsys):
    for name, (x, y) in encodings(n=200).items():
        np.save(tmp_path / f"{name}-x.npy", x.numpy())
        np.save(tmp_path / f"{name}-y.npy", y.numpy())
    given = [f"{tmp_path}/{name}-x.npy,{tmp_path}/{name}-y.npy" for name in ("poor", "good")]
    arguments = ["rank", *given, "--names", "poor,good", "--batch-size", "32", "-o", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown.index("good") < shown.index("poor")
    assert (tmp_path / "out" / "rank.json").exists()
    with pytest.raises(SystemExit) as stop:
        cli.main(["rank", given[0], str(tmp_path / "nothing.npy")])
    assert stop.value.code == 2
    assert "is no encoding" in capsys.readouterr().err
