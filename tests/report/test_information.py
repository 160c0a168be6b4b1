"""Shared information in reports and comparisons: the first line, the finding, the order, files and back."""

import dataclasses
import json
import re

import pytest
import torch

import infomech as im
from infomech import cli
from infomech._checks import InputError
from infomech.diagnosis import Settings
from infomech.diagnosis.findings import Evidence, find
from infomech.diagnosis.information.words import first_line
from infomech.report import Report, compare
from infomech.report.seen import apart
from infomech.report.writing import report_markdown
from information_laws import von_mises_fisher_pairs


@pytest.fixture(scope="module")
def report():
    x, y = von_mises_fisher_pairs(400, 64, 20.0, 0)
    return im.diagnose(x, y, temperature=0.02, batch_size=64)


def test_the_report_has_it_at_the_budgets_negatives(report):
    found = report.information
    alone = im.shared_information(*von_mises_fisher_pairs(400, 64, 20.0, 0), temperature=0.02, batch_size=64)
    assert found.information.value == pytest.approx(alone.information.value, abs=2e-3)
    assert found.negatives == report.budget.negatives == 63
    loss = report.budget.infonce_sym.value
    assert found.calibration.infonce.value == pytest.approx(loss, abs=5e-3)


def test_first_line_everywhere(report, tmp_path, capsys):
    line = first_line(report.diagnosis.information)
    assert line.startswith("these embeddings share ")
    assert line.endswith("of 4.16 nats (N = 63)")
    assert f"T{line[1:]}".replace("(", r"\(").replace(")", r"\)") in report_markdown(report.diagnosis, figures=False)
    page = report.save(tmp_path / "report").read_text()
    assert f"T{line[1:]}" in page
    for name, rows in zip("xy", von_mises_fisher_pairs(400, 64, 20.0, 0), strict=True):
        torch.save(rows, tmp_path / f"{name}.pt")
    with pytest.raises(SystemExit):
        cli.main(["doctor", str(tmp_path / "x.pt"), str(tmp_path / "y.pt"), "-t", "0.02", "--quiet"])
    assert "These embeddings share" in capsys.readouterr().out


def test_finding_on_the_temperature(report):
    (finding,) = (f for f in report.findings if f.code == "temperature-does-not-fit")
    assert "Your temperature is 0.02, these pairs ask for 0.049" in finding.text
    assert "overconfident" in finding.text
    assert finding.severity == "warning"
    assert finding.value == report.information.calibration.cost.value
    d = report.diagnosis
    x, y = von_mises_fisher_pairs(400, 64, 20.0, 0)
    high = im.shared_information(x, y, temperature=0.1, batch_size=64).found
    right = im.shared_information(x, y, temperature=0.05, batch_size=64).found
    texts = {}
    for name, found in (("high", high), ("right", right), ("none", None)):
        evidence = Evidence(d.inputs, d.budget, d.gap, d.geometry, d.retrieval, found)
        texts[name] = [f.text for f in find(evidence) if f.code == "temperature-does-not-fit"]
    assert "underconfident" in texts["high"][0]
    assert texts["right"] == texts["none"] == []


def test_finding_near_the_ceiling():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=g)
    near = im.diagnose(x, x + 0.8 * torch.randn(300, 64, generator=g), temperature=0.05, batch_size=16)
    (finding,) = (f for f in near.findings if f.code == "information-near-ceiling")
    assert "where differences between models are understated" in finding.text
    assert "infomech doctor X Y" in finding.text


def test_saved_and_loaded(report, tmp_path):
    report.save(tmp_path / "report", figures=False)
    loaded = Report.load(tmp_path / "report")
    assert loaded == report
    assert loaded.diagnosis.information.shares.digest == report.diagnosis.information.shares.digest
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["information"]["negatives"] == 63
    assert set(content["information"]["information"]) == {"value", "stderr", "low", "high"}
    few = im.diagnose(torch.randn(60, 8), torch.randn(60, 8), temperature=0.5)
    assert few.information is None
    assert "information" not in few.to_dict()


def test_comparison_ranks_by_it_paired(tmp_path):
    g = torch.Generator().manual_seed(0)
    z, noise, other = (torch.randn(400, 32, generator=g) for _ in range(3))
    made = {
        "poor": z + 4 * noise,
        "good": z + 2 * noise,
        "alike": z + 2 * noise + 0.6 * other,
    }
    reports = []
    for at, y in enumerate(made.values()):
        one = im.diagnose(z, y, temperature=0.05 + 0.02 * at, batch_size=64)
        one.save(tmp_path / str(at), figures=False)
        reports.append(tmp_path / str(at))
    both = compare(reports, names=list(made), same_rows=True)
    lines = both.decision().splitlines()
    assert lines[0].startswith("By shared information (nats, N = 63): ")
    assert lines[0].index("good") < lines[0].index("poor")
    assert "good is better than poor by shared information at N = 63" in lines[1]
    assert "paired" in lines[1]
    row = next(r for r in both.rows("information") if r.key == "information")
    alone = [im.shared_information(z, y, batch_size=64, normalize=True).found for y in (made["poor"], made["good"])]
    paired = row.differences[1].estimate
    assert paired.value == pytest.approx(alone[1].information.value - alone[0].information.value, abs=5e-3)
    near = compare(reports[1:], names=["good", "alike"], same_rows=True)
    change = next(r for r in near.rows("information") if r.key == "information").differences[1]
    assert change.paired
    unpaired = compare(reports[1:], names=["good", "alike"])
    apart = next(r for r in unpaired.rows("information") if r.key == "information").differences[1]
    assert not apart.paired
    assert change.estimate.stderr < 0.3 * apart.estimate.stderr
    assert "at 80% power" in unpaired.decision()


def test_comparison_at_the_largest_common_negatives(report):
    x, y = von_mises_fisher_pairs(400, 64, 20.0, 1)
    larger = im.diagnose(x, y, temperature=0.02, batch_size=128)
    both = compare([report, larger])
    row = next(r for r in both.rows("information") if r.key == "information")
    change = row.differences[1].estimate
    common = max(set(report.information.over_negatives.negatives) & set(larger.information.over_negatives.negatives))
    values = [
        r.information.over_negatives.information[r.information.over_negatives.negatives.index(common)].value
        for r in (report, larger)
    ]
    assert change.value == pytest.approx(values[1] - values[0], abs=1e-12)


def test_without_arrays_it_is_unpaired(report):
    numbers = dataclasses.replace(
        report.diagnosis, information=dataclasses.replace(report.diagnosis.information, shares=None)
    )
    both = compare([Report(numbers), Report(numbers)], names=["a", "b"])
    row = next(r for r in both.rows("information") if r.key == "information")
    assert not row.differences[1].paired


@pytest.fixture(scope="module")
def halves():
    """Unseen pairs with much noise, seen ones with little: what memorising does."""
    g = torch.Generator().manual_seed(0)
    z, noise, other, seen = (torch.randn(400, 32, generator=g) for _ in range(4))
    return (z, z + 3 * noise), (other, other + 1.2 * seen)


def test_seen_and_unseen(halves, tmp_path):
    unseen, seen = halves
    with_seen = im.diagnose(*unseen, temperature=0.05, batch_size=64, seen=seen)
    (finding,) = (f for f in with_seen.findings if f.code == "memorised")
    alone = [im.shared_information(*rows, batch_size=64, normalize=True).information for rows in halves]
    assert finding.value == pytest.approx(alone[1].value - alone[0].value, abs=5e-3)
    assert "Stop earlier" in finding.text
    with_seen.save(tmp_path / "report", figures=False)
    assert Report.load(tmp_path / "report") == with_seen
    text = report_markdown(with_seen.diagnosis, figures=False)
    assert "Memorised" in text
    assert "whether it was trained on these cannot be told" not in text
    without = im.diagnose(*unseen, temperature=0.05, batch_size=64)
    assert "whether it was trained on these cannot be told" in report_markdown(without.diagnosis, figures=False)
    same = im.diagnose(*unseen, temperature=0.05, batch_size=64, seen=tuple(r[:150].flip(0) for r in unseen))
    assert [f.code for f in same.findings if "memorised" in f.code] == ["little-memorised"]


def test_seen_on_the_command_line(halves, tmp_path, capsys):
    names = []
    for kind, rows in zip(("unseen", "seen"), halves, strict=True):
        for side, each in zip("xy", rows, strict=True):
            torch.save(each, tmp_path / f"{kind}-{side}.pt")
            names.append(str(tmp_path / f"{kind}-{side}.pt"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", *names[:2], "-t", "0.05", "--seen", *names[2:], "--quiet"])
    assert stop.value.code == 0
    assert "The model has memorised its pairs" in capsys.readouterr().out
    few = str(tmp_path / "few.pt")
    torch.save(halves[1][0][:50], few)
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", *names[:2], "-t", "0.05", "--seen", few, few, "--quiet"])
    assert stop.value.code == 2


@pytest.fixture
def mixed(halves, tmp_path):
    """Seen and unseen pairs in one folder of `embed`'s making, in mixed order, two captions to some images."""
    (ux, uy), (sx, sy) = halves
    order = torch.randperm(800, generator=torch.Generator().manual_seed(1))
    x, y = torch.cat([ux, sx])[order], torch.cat([uy, sy])[order]
    y = torch.cat([y, y[:40] + 0.1])
    pairs = torch.cat([torch.arange(800).repeat(2, 1).T, torch.stack([torch.arange(40), torch.arange(800, 840)], 1)])
    words = ["test" if i < 400 else "train" for i in order.tolist()]
    return x, y, pairs, words


def test_a_split_tells_seen_from_unseen(mixed):
    """The same rows, pairs, labels and ids as if each kind had been picked out by hand."""
    x, y, pairs, words = mixed
    settings = Settings(temperature=0.05, pairs=pairs, batch_size=64, labels=words, ids=list(range(800)))
    unseen, of_unseen, seen = apart(x, y, settings, words)
    for part, word in ((unseen, "test"), (seen, "train")):
        expected = [(int(a), int(b)) for a, b in pairs if words[int(a)] == word]
        for (a, b), (c, d) in zip(expected, part.pairs.tolist(), strict=True):
            assert torch.equal(x[a], part.x[c])
            assert torch.equal(y[b], part.y[d])
    assert of_unseen.ids == [i for i, word in enumerate(words) if word == "test"]
    assert of_unseen.labels == ["test"] * 400
    assert torch.equal(of_unseen.pairs, unseen.pairs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda words: words[:-1], "split has 799 entries and x has 800 rows"),
        (lambda words: ["maybe", *words[1:]], "split says 'maybe' at row 0"),
        (lambda words: ["train"] * 800, "split leaves no unseen pairs"),
        (lambda words: ["Val "] * 800, "split leaves no seen pairs"),
    ],
)
def test_a_split_that_cannot_be_used(mixed, change, said):
    x, y, pairs, words = mixed
    with pytest.raises(InputError, match=said):
        apart(x, y, Settings(temperature=0.05, pairs=pairs), change(words))


def test_a_caption_of_seen_and_unseen_images(mixed):
    x, y, pairs, words = mixed
    one, other = words.index("test"), words.index("train")
    with pytest.raises(InputError, match=f"row {other} of y is paired with seen and with unseen rows of x"):
        apart(x, y, Settings(temperature=0.05, pairs=torch.cat([pairs, torch.tensor([[one, other]])])), words)
    with pytest.raises(InputError, match="no pairs are given"):
        apart(x, y, Settings(temperature=0.05), words)
    with pytest.raises(InputError, match="pairs names row 900 of x"):
        apart(x, y, Settings(temperature=0.05, pairs=torch.tensor([[900, 0]])), words)
    with pytest.raises(InputError, match="labels has 1 entries and x has 800 rows"):
        apart(x, y, Settings(temperature=0.05, pairs=pairs, labels=["one"]), words)


def test_a_split_on_the_command_line(mixed, tmp_path, capsys):
    x, y, pairs, words = mixed
    torch.save(x, tmp_path / "x.pt")
    torch.save(y, tmp_path / "y.pt")
    torch.save(pairs, tmp_path / "pairs.pt")
    (tmp_path / "split.txt").write_text("\n".join(words) + "\n")
    files = [str(tmp_path / name) for name in ("x.pt", "y.pt", "pairs.pt", "split.txt")]
    asked = ["doctor", *files[:2], "-t", "0.05", "--pairs", files[2], "--split", files[3], "--quiet"]
    with pytest.raises(SystemExit) as stop:
        cli.main(asked)
    assert stop.value.code == 0
    assert "The model has memorised its pairs" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main([*asked, "--seen", *files[:2]])
    assert stop.value.code == 2
    assert "both --seen and --split are given" in capsys.readouterr().err


def test_wrong_pairs_are_named_beside_the_temperature():
    """A fifth of the partners exchanged: that share loses more than guessing; at chance no temperature is advised."""
    x, y = von_mises_fisher_pairs(400, 64, 60.0, 0)
    texts = {}
    for wrong in (0, 80, 400):
        order = torch.arange(400)
        order[:wrong] = order[:wrong].roll(1)
        d = im.diagnose(x, y[order], temperature=0.005, batch_size=64)
        texts[wrong] = "".join(f.text for f in d.findings if f.code == "temperature-does-not-fit")
    (share,) = re.findall(r"(\d+)% of the pairs lose more than guessing", texts[80])
    assert abs(int(share) - 20) <= 4
    assert "guessing" not in texts[0]
    assert texts[400] == ""


def test_recall_at_1_decides_where_that_at_10_has_no_room_left():
    g = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(400, 32, generator=g) for _ in range(2))
    reports = [im.diagnose(z, z + size * noise, temperature=0.05, batch_size=64) for size in (1.2, 0.9, 4.0)]
    for same_rows, where in ((True, "R@1 (mean of both directions; "), (False, "R@1 x → y (")):
        text = compare(reports[:2], names=["far", "near"], same_rows=same_rows).decision()
        assert f"near is better than far by {where}R@10 is above 0.95 in both)" in text
        assert "Both are within 0.5 nats of the ceiling" in text
    assert "R@10 (mean of both directions)" in compare(reports[1:], names=["near", "poor"], same_rows=True).decision()
