"""What fewer dimensions and bits cost: paired, held out, the smallest marked, and its map on new rows."""

import json

import numpy as np
import pytest
import torch

import infomech as im
from infomech import InputError, cli
from infomech.compression import Plan, load
from infomech.report.shrunk import NEGLIGIBLE

PLANS = [Plan("first", 8), Plan("pca", 8), Plan("pca", 2), Plan(bits="int8"), Plan(bits="signs"), Plan(bits="pq8")]


def rows(n=600, d=32, k=8, seed=0):
    """Signal in k directions, turned so that the first coordinates hold no more of it than the others."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g))[0][:k]
    z = torch.randn(n, k, generator=g) @ turn
    return z + 0.02 * torch.randn(n, d, generator=g), z + 0.6 * torch.randn(n, k, generator=g) @ turn


@pytest.fixture(scope="module")
def found():
    return im.shrink(*rows(), plans=PLANS, batch_size=64)


def test_bytes_are_of_one_number_format(found):
    x, y = (r.half() for r in rows(300))
    half = im.shrink(x, y, plans=[Plan("first", 16), Plan(mean_removal=True), Plan(bits="int8")], batch_size=16)
    sizes = {each.plan.name: each.encoding.bytes_a_row for each in half.variants}
    assert sorted(sizes.values()) == [32, 32, 64, 64]
    assert any("counted in float16" in line for line in half.remarks())
    assert half.to_dict()["number_format"] == "float16"
    assert not any("counted in" in line for line in found.remarks())


def test_costs_and_the_smallest(found):
    assert found.variants[0].plan == Plan()
    assert found["PCA 8"].lost < NEGLIGIBLE  # the signal lives there
    assert found["first 8"].lost > found["PCA 8"].lost + 0.1
    assert found["PCA 2"].lost > 0.5
    assert found["all dimensions, int8"].lost < 0.02
    assert found["PCA 8"].cost.paired
    sizes = [each.encoding.bytes_a_row for each in found.variants]
    assert sizes == sorted(sizes, reverse=True)
    within = [each for each in found.variants if each.lost <= NEGLIGIBLE]
    assert found[found.smallest].encoding.bytes_a_row == min(each.encoding.bytes_a_row for each in within)
    assert found.fitted_groups == found.scored_groups == 300


def test_costs_are_differences_of_shared_information(found):
    full, small = found.variants[0].encoding, found["PCA 2"].encoding
    value = full.information.information.value - small.information.information.value
    assert found["PCA 2"].cost.estimate.value == pytest.approx(value, abs=1e-12)


def test_shown_and_saved(found, tmp_path):
    assert len(repr(found).splitlines()) <= 10
    marked = [line[0] for line in found.lines() if line[0].startswith("▸ ")]
    assert marked == [f"▸ {found.smallest}"]
    found.save(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "shrink.json").read_text())
    assert content["smallest"] == found.smallest
    assert len(content["variants"]) == len(found.variants)
    assert "▸" in (tmp_path / "out" / "shrink.md").read_text()
    assert (tmp_path / "out" / "figures" / "shrink.pdf").stat().st_size > 1000
    made = load(tmp_path / "out")
    assert made.plan.name == found.smallest
    new = rows(40, seed=5)[0]
    assert torch.equal(made.encode(new, side="x"), found.chosen.encode(new, side="x"))


def test_what_cannot_be_tried_is_skipped_with_a_line():
    x, y = rows(220)
    found = im.shrink(x, y, plans=[Plan(bits="pq8"), Plan(bits="int8")], batch_size=32)
    reason = found.skipped["all dimensions, product codes of 8"]
    assert "needs at least 256 rows to fit, and there are 220" in reason
    assert any(line.startswith("Skipped all dimensions, product codes of 8") for line in found.remarks())


def test_nothing_shorter_is_as_good():
    x, y = rows()
    found = im.shrink(x, y, plans=[Plan("pca", 1)], batch_size=64)
    assert found.smallest == "all dimensions"
    assert found.chosen is None
    assert "No shorter rows are within 0.05 nats" in found.remarks()[0]


def test_bad_input():
    x, y = rows(180)
    with pytest.raises(InputError, match="90 of 180 groups are left to score on; it takes at least 100"):
        im.shrink(x, y)
    with pytest.raises(InputError, match=r"share is 1\.5"):
        im.shrink(x, y, share=1.5)


def test_the_command(tmp_path, capsys, monkeypatch):
    from infomech.report import shrunk

    monkeypatch.setattr(shrunk, "usual_plans", lambda dim: PLANS[:4])
    for name, each in zip("xy", rows(300), strict=True):
        np.save(tmp_path / f"{name}.npy", each.numpy())
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(list(arguments))
        return stop.value.code, capsys.readouterr()

    code, shown = run("shrink", *files, "-o", str(tmp_path / "out"), "--quiet")
    assert code == 0, shown.err
    assert "▸" in shown.out
    assert "Maps are fitted on 150 groups" in shown.out
    code, shown = run("shrink", *files, "--apply", str(tmp_path / "out"), "-o", str(tmp_path / "codes"))
    assert code == 0, shown.err
    codes = np.load(tmp_path / "codes" / "x.npy")
    made = load(tmp_path / "out")
    np.testing.assert_array_equal(codes, made.encode(np.load(files[0]), side="x").numpy())
    assert (tmp_path / "codes" / "y.npy").exists()
    code, shown = run("shrink", "--apply", str(tmp_path / "out"))
    assert code == 2
    assert "--apply needs X" in shown.err
