"""The table beside other scores: against loops, against hubs that are known, and with intervals that hold."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import infomech as im
from infomech.diagnosis.thresholds import STRONG_HUBS
from infomech.scores import DensityRatio, compare_scores, score_findings, summarise
from infomech.scores.baselines import (
    BASELINES,
    Fold,
    InvertedSoftmax,
    LocalScaling,
    NearestNeighbourNorm,
    QueryBankNorm,
)


def with_hubs(count: int, seed: int, *, every: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, a, b = torch.randn(3, count, 32, generator=generator)
    y = z + 0.7 * b
    y[::every] = 0.5 * y[::every] + 0.6
    return z + 0.7 * a + 0.5, y


def unit_fold(seed: int = 0) -> Fold:
    generator = torch.Generator().manual_seed(seed)
    rows = normalize(torch.randn(4, 25, 6, generator=generator, dtype=torch.float64), dim=2)
    return Fold(*rows, 0.1)


def test_baselines_are_their_formulas_written_out() -> None:
    fold = unit_fold()
    cosine = fold.x @ fold.y.T
    to_bank = (fold.bank_x @ fold.y.T).numpy()
    inverted, local, queries = (b().scores(fold) for b in (InvertedSoftmax, LocalScaling, QueryBankNorm))
    weight, k = NearestNeighbourNorm().tuned(fold)
    neighbours = NearestNeighbourNorm().scores(fold)
    hubs = set(to_bank.argmax(1).tolist())
    for i in (0, 7, 24):
        back = np.sort((fold.x @ fold.bank_y.T)[i].numpy())[-10:].mean()
        for j in (1, 12):
            softmax = math.exp(20 * cosine[i, j]) / sum(math.exp(20 * s) for s in to_bank[:, j])
            assert float(inverted[i, j]) == pytest.approx(math.log(softmax))
            near = np.sort(to_bank[:, j])
            assert float(local[i, j]) == pytest.approx(2 * float(cosine[i, j]) - back - near[-10:].mean())
            assert float(neighbours[i, j]) == pytest.approx(float(cosine[i, j]) - weight * near[-k:].mean())
            known = int(cosine[i].argmax()) in hubs
            expected = float(inverted[i, j]) if known else 20 * float(cosine[i, j])
            assert float(queries[i, j]) == pytest.approx(expected)


def test_the_ratio_gives_back_what_hubs_cost() -> None:
    found = compare_scores(*with_hubs(700, 0), temperature=0.1, methods=["density ratio", "inverted softmax"])
    change = found.differences["x_to_y"]["density ratio"]
    assert change["recall_at_1"].apart
    assert change["recall_at_1"].estimate.low > 0.05
    assert change["hubness"].estimate.high < 0
    assert change["true_positive_rate"].estimate.low > 0
    # the weight was chosen on other groups: where there are no hubs nothing is lost
    other = found.differences["y_to_x"]["density ratio"]["recall_at_1"].estimate
    assert other.high > -0.01
    assert set(found.methods) == {"cosine", "density ratio", "inverted softmax"}
    assert found.methods[-1] == "cosine"
    assert "about 350 candidates" in repr(found)
    assert found.to_dict()["estimates"]["x_to_y"]["cosine"]["recall_at_1"]["value"] > 0


def test_every_method_stands_in_the_table_and_uses_other_groups_only() -> None:
    x, y = with_hubs(120, 1)
    found = compare_scores(x, y, temperature=0.1)
    assert found.methods == list(BASELINES)
    cosine = found.estimates["x_to_y"]["cosine"]
    assert cosine["recall_at_1"].low <= cosine["recall_at_1"].value <= cosine["recall_at_1"].high
    # wrong partners throughout: nobody may find them
    shuffled = compare_scores(x, y.roll(1, 0), temperature=0.1, methods=["density ratio", "NNN"])
    for method in shuffled.methods:
        assert shuffled.estimates["x_to_y"][method]["recall_at_1"].value < 0.1


def test_several_captions_count_as_one_search() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 16, generator=generator)
    texts = images.repeat_interleave(3, 0) + 0.1 * torch.randn(180, 16, generator=generator)
    pairs = torch.tensor([[i // 3, i] for i in range(180)])
    found = compare_scores(images, texts, temperature=0.1, pairs=pairs, methods=["density ratio"])
    for side in ("x_to_y", "y_to_x"):
        assert found.estimates[side]["density ratio"]["recall_at_1"].value > 0.97


def test_what_cannot_be_compared() -> None:
    x, y = with_hubs(60, 0)
    with pytest.raises(im.InputError, match="'magic' is no score to compare with"):
        compare_scores(x, y, temperature=0.1, methods=["magic"])
    with pytest.raises(im.InputError, match="there are 20 groups; at least 40 are needed"):
        compare_scores(x[:20], y[:20], temperature=0.1)


def test_findings_say_what_a_match_is_and_what_hubs_cost() -> None:
    ratio = DensityRatio(0.1).fit(*with_hubs(600, 0, every=60))
    summary = summarise(ratio)
    found = {f.code: f for f in score_findings(summary, ("image", "text"))}
    assert re.fullmatch(r"A cosine of 0\.\d+ is a match at 1 in 1,000", found["match-score"].title)
    assert "from image to text" in found["hubs-cost-recall-y"].title
    assert "hubs-cost-recall-x" not in found
    assert "uncalibrated" in found  # the temperature is not that of these data
    assert all("`infomech score" in f.text for f in found.values())
    assert "`infomech score X Y -t 0.1 -o DIR`, then `infomech score --apply DIR" in found["match-score"].text
    (fitted,) = (f.text for f in score_findings(summary, fitted=True) if f.code == "match-score")
    assert re.findall("`(.*?)`", fitted) == ["infomech score --apply DIR X Y -o scores.parquet"]
    assert summary.critic.edges[0] >= -1.001
    assert summary.critic.edges[-1] <= 1.001
    assert repr(summary).startswith("What score means a match: 600 groups")


def test_hubs_are_said_only_where_the_table_shows_them() -> None:
    """Many rows that are each a little nearer to all: the ratio ranks better, and the skewness is no hub's."""
    x, y = with_hubs(600, 0)
    summary = summarise(DensityRatio(0.1).fit(x, y))
    (cosine, ratio), gain = summary.searches["y"].hubness, summary.searches["y"].change.estimate
    assert ratio < 1 < cosine < STRONG_HUBS
    assert gain.low > 0.02
    found = {f.code: f for f in score_findings(summary, ("image", "text"))}
    assert found["ratio-ranks-better-y"].severity == "note"
    assert found["ratio-ranks-better-y"].title == "From image to text the ratio ranks better than the cosine alone"
    assert not any("hub" in f.title.lower() or "hub" in f.text.lower() for f in found.values())
    # hubs of the cosine that the ratio does not take away are not given back
    search = replace(summary.searches["y"], hubness=(STRONG_HUBS + 1, STRONG_HUBS + 2))
    kept = score_findings(replace(summary, searches={"y": search}))
    assert "hubs-cost-recall-y" not in {f.code for f in kept}


def test_a_method_that_finds_more_than_the_ratio_is_named() -> None:
    generator = torch.Generator().manual_seed(0)
    z, a, b = torch.randn(3, 300, 16, generator=generator)
    x, y = z + 0.4 * a + 4 * torch.rand(300, 1, generator=generator), z + 0.4 * b  # each x as far from 0 as it likes
    summary = summarise(DensityRatio(0.05).fit(x, y))
    table = compare_scores(x, y, temperature=0.05, methods=["density ratio", "mean removal"])
    gain = table.above_ratio["x_to_y"]["mean removal"].estimate
    recalls = {name: found["recall_at_1"].value for name, found in table.estimates["x_to_y"].items()}
    assert gain.value == pytest.approx(recalls["mean removal"] - recalls["density ratio"])
    assert gain.low > 0
    better = {f.code: f.text for f in score_findings(summary, comparison=table)}
    assert "In the table mean removal finds more than the ratio" in better["ratio-ranks-better-y"]
    assert "`infomech correct X Y -t 0.05 --method mean-removal -o DIR`" in better["ratio-ranks-better-y"]
    assert not any("In the table" in f.text for f in score_findings(summary))


def test_sparse_fields_ask_for_what_helps() -> None:
    """Not for the command that was run: a temperature at which fields rest on enough rows, or times as many pairs."""
    x, y = with_hubs(300, 0)
    summary = summarise(DensityRatio(0.02).fit(x, y))
    assert summary.sparse > 0.9
    assert summary.denser_from is not None
    assert summarise(DensityRatio(summary.denser_from).fit(x, y)).sparse < 0.12  # of all rows, not of some
    (text,) = (f.text for f in score_findings(summary) if f.code == "sparse-fields")
    assert f"`infomech score X Y -t {summary.denser_from:g} -o DIR`" in text
    effective = torch.cat([DensityRatio(0.02).fit(x, y).field_of_reference(side).at_least() for side in "xy"])
    assert summary.more_pairs == pytest.approx(10 / float(effective.quantile(0.1, interpolation="higher")))
    assert f"at least {math.ceil(summary.more_pairs)} times as many pairs" in text


def test_the_best_candidates_are_those_of_the_whole_table() -> None:
    x, y = with_hubs(400, 2)
    ratio = DensityRatio(0.1).fit(x[:200], y[:200])
    table = ratio.log_ratios(x[200:], y[200:], ranking=True)
    found = ratio.best_matches(x[200:], y[200:], k=5)
    assert torch.equal(found.rows, table.topk(5, dim=1).indices)
    back = ratio.best_matches(y[200:], x[200:], k=3, side="x")
    assert torch.equal(back.rows, ratio.log_ratios(x[200:], y[200:], ranking=True, side="x").T.topk(3, dim=1).indices)
    scored = ratio.scored_pairs(x[200:], y[200:], rows=(torch.arange(200), found.rows[:, 0]), prior=0.1)
    torch.testing.assert_close(scored["log_ratio"], ratio.log_ratio(x[200:], y[200:][found.rows[:, 0]]))
    with pytest.raises(im.InputError, match="k is 0"):
        ratio.best_matches(x, y, k=0)


def test_shared_information_of_every_score() -> None:
    """The cosine's is that of one direction on the same pairs; what takes hubs away shares more, and comes first."""
    x, y = with_hubs(700, 0)
    found = compare_scores(x, y, temperature=0.1, methods=["density ratio", "mean removal"])
    alone = im.shared_information(x, y, batch_size=64, direction="x_to_y", normalize=True).information
    mine = found.estimates["x_to_y"]["cosine"]["information"]
    assert abs(mine.value - alone.value) < 3 * math.hypot(mine.stderr, alone.stderr)
    change = found.differences["x_to_y"]["density ratio"]["information"]
    both = [found.estimates["x_to_y"][name]["information"] for name in ("cosine", "density ratio")]
    assert change.estimate.value == pytest.approx(both[1].value - both[0].value, abs=1e-12)
    assert change.estimate.low > 0
    assert change.estimate.stderr < both[0].stderr
    means = [
        sum(found.estimates[side][name]["information"].value for side in ("x_to_y", "y_to_x")) for name in found.methods
    ]
    assert means == sorted(means, reverse=True)
