"""Table 2 and Fig. 6b end to end: a small COCO folder and a small model of open_clip with random weights.

They run where open_clip is (`make test-clip`) and are skipped elsewhere; draws of captions and tables run everywhere.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

import infomech as im
import infomech.cli as cli
from infomech.embedding import open_coco
from infomech.experiments.real.caption_draws import CaptionDraws
from infomech.experiments.real.clip_corruption import ClipPlan, run_clip_corruption, trained_names
from infomech.experiments.real.coco_pretrained import COLUMNS, TABLE_2, CocoPlan, latex_table, run_coco_pretrained

sys.path.insert(0, str(Path(__file__).parents[1] / "embedding"))
import small_datasets as datasets

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return datasets.coco_folder(tmp_path_factory.mktemp("data") / "coco", images=24, captions=5)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A specification of a small model with random weights."""
    pytest.importorskip("open_clip")
    file = tmp_path / "tiny-clip.json"
    file.write_text(json.dumps(SMALL))
    return f"{file}:random"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


def small_plan(coco: Path, model: str, **changes) -> ClipPlan:
    settings = {
        "folder": coco, "model": model, "swaps": (0.0, 1.0), "seeds": 2, "steps": 4, "batch_size": 8, "save_every": 1,
        "workers": 2, "learning_rate": 1e-3, "train_split": "val2017",
    }  # fmt: skip
    return ClipPlan(**(settings | changes))


def test_table_2_end_to_end(coco: Path, small: str, tmp_path: Path) -> None:
    plan = CocoPlan(folder=coco, models=(f"open_clip:{small}",), batch_size=8)
    shares: list[float] = []
    results = run_coco_pretrained(tmp_path / "out", plan=plan, progress=shares.append)
    assert sum(shares) == pytest.approx(1)
    (row,) = results["rows"]
    assert set(row["unbiased"]) == set(COLUMNS) == set(row["paper_estimators"])
    assert row["temperature"] == pytest.approx(0.07, rel=1e-3)
    assert results["settings"]["captions"] == 120
    # Random weights retrieve at chance, and a V statistic of so few rows lies above the unbiased one.
    assert row["unbiased"]["T2I"]["low"] <= 0.1
    assert row["paper_estimators"]["energy"] > row["unbiased"]["energy"]["value"]
    assert row["paper_estimators"]["gap"] > row["unbiased"]["gap"]["value"]
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"results.json", "provenance.json", "README.md", "table.tex", "coco-pretrained.png"} <= files
    again = run_coco_pretrained(tmp_path / "out", plan=plan)  # from the embeddings that are there
    assert again["rows"] == results["rows"]


def test_the_command_for_table_2(coco: Path, small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ("reproduce", "coco-pretrained", "-o", str(out))
    assert run(*command, "--folder", str(coco), "--models", f"open_clip:{small}") == 0
    assert "energy distance" in capsys.readouterr().out
    assert "| model |" in (out / "README.md").read_text()


def test_the_command_for_fig_6b(coco: Path, small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--steps", "2", "--batch-size", "8", "--seeds", "1", "--train-split", "val2017"]
    command = ["reproduce", "caption-corruption", "-o", str(out), "--folder", str(coco), "--models", small]
    assert run(*command, *options) == 0
    assert "energy distance changes by" in capsys.readouterr().out
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 5


def test_fig_6b_trains_only_what_it_says_and_scores_each(coco: Path, small: str, tmp_path: Path) -> None:
    plan = small_plan(coco, small, weights=(0.0, 0.75), evaluations=2, train="last-block")
    results = run_clip_corruption(tmp_path / "out", plan=plan)
    assert len(results["runs"]) == 2 * 2 * 2 * 2
    trained = results["settings"]["trained"]
    assert {"visual.proj", "text_projection", "visual.ln_post.weight", "ln_final.bias"} <= set(trained)
    assert all(".0." not in name for name in trained)
    assert any("resblocks.1" in name for name in trained)
    assert "logit_scale" not in trained
    # Both arms start from the same weights and meet the same images: they differ by the loss alone.
    by = {(r["divergence_weight"], r["swap"], r["seed"], r["step"]): r["energy_distance"] for r in results["runs"]}
    assert by[0.0, 0.0, 0, 4] != by[0.75, 0.0, 0, 4]
    assert by[0.0, 0.0, 0, 4] != by[0.0, 1.0, 0, 4]
    assert (tmp_path / "out" / "caption-corruption.png").exists()


def test_fig_6b_interrupted_is_fig_6b(coco: Path, small: str, tmp_path: Path) -> None:
    plan = small_plan(coco, small, swaps=(0.5,), seeds=1, steps=5, fresh=True)
    whole = run_clip_corruption(tmp_path / "whole", plan=plan)
    for stop_at in (1, 3):

        def stop(share: float, stop_at: int = stop_at) -> None:
            if share and round(share * 5) and (tmp_path / "cut" / "runs").exists():
                saved = list((tmp_path / "cut" / "runs").glob("*/checkpoint.pt"))
                if saved and torch.load(saved[0], weights_only=True)["step"] >= stop_at:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_clip_corruption(tmp_path / "cut", plan=plan, progress=stop)
    assert run_clip_corruption(tmp_path / "cut", plan=plan)["runs"] == whole["runs"]
    with pytest.raises(im.InputError, match="of another model, other data or other settings"):
        run_clip_corruption(tmp_path / "cut", plan=small_plan(coco, small, swaps=(0.5,), seeds=1, steps=6))


def test_what_open_clip_refuses(small: str, tmp_path: Path) -> None:
    from infomech.embedding.encoders.encoder import ModelChoice
    from infomech.embedding.encoders.loading import load_towers
    from infomech.embedding.encoders.open_clip import open_clip_parts

    for spec, words in (
        ("open_clip:ViT-B-23:openai", "did you mean .*ViT-B-32"),
        ("open_clip:ViT-B-32:opnai", "no pretrained tag 'opnai'; there are: .*openai"),
        ("open_clip:ViT-B-32", "no weights are named"),
    ):
        with pytest.raises(im.InputError, match=words):
            load_towers(ModelChoice(spec), ["image", "text"])
    state = open_clip_parts(ModelChoice(f"open_clip:{small}"), small).model.state_dict()
    state["visual.proj"] = torch.zeros(3, 3)
    state["visual.extra"] = state.pop("text_projection")
    torch.save(state, tmp_path / "bad.pt")
    architecture = small.removesuffix(":random")
    words = r"1 missing \(text_projection\); 1 unknown \(visual\.extra\); 1 of another shape \(visual\.proj\)"
    with pytest.raises(im.InputError, match=words):
        load_towers(ModelChoice(f"open_clip:{architecture}", tmp_path / "bad.pt"), ["image", "text"])
    (tmp_path / "no.pt").write_bytes(b"nothing")
    with pytest.raises(im.InputError, match="weights only"):
        load_towers(ModelChoice(f"open_clip:{architecture}", tmp_path / "no.pt"), ["image", "text"])


def test_a_checkpoint_of_training(small: str, tmp_path: Path) -> None:
    """What open_clip's own training writes: {"state_dict": {"module.x": ...}}; its logit scale is the temperature."""
    from infomech.embedding.encoders.encoder import ModelChoice
    from infomech.embedding.encoders.loading import load_towers
    from infomech.embedding.encoders.open_clip import open_clip_parts

    state = open_clip_parts(ModelChoice(f"open_clip:{small}"), small).model.state_dict()
    state["logit_scale"] = torch.tensor(20.0).log()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "epoch_3.pt")
    architecture = small.removesuffix(":random")
    towers = load_towers(ModelChoice(f"open_clip:{architecture}", tmp_path / "epoch_3.pt"), ["image", "text"])
    assert towers["image"].temperature == pytest.approx(0.05)
    assert towers["image"].dimension == 16
    plain = load_towers(ModelChoice(f"open_clip:{small}"), ["text"])["text"]
    assert plain.weights != towers["text"].weights
    with torch.inference_mode():
        rows = plain.encode(["a cat", "two dogs"])
    assert rows.shape == (2, 16)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    from infomech.embedding.encoders.encoder import ModelChoice
    from infomech.embedding.encoders.loading import load_towers

    def offline(*arguments, **options):
        raise OSError("Couldn't reach\nthe hub")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    with pytest.raises(im.InputError, match="could not be downloaded") as refused:
        load_towers(ModelChoice("open_clip:ViT-B-32:openai"), ["image"])
    assert "\n" not in str(refused.value)


def test_every_model_of_the_table_is_known_to_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    for row in TABLE_2:
        _, architecture, tag = row.spec.split(":")
        assert tag in open_clip.list_pretrained_tags_by_model(architecture)


def test_losses_against_the_real_ones() -> None:
    """The adapters of the losses issue, against open_clip's own."""
    open_clip = pytest.importorskip("open_clip")
    from infomech.integrations.open_clip import OpenClipLoss, OpenClipSigmoidLoss

    g = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(20, 6, generator=g), dim=1).requires_grad_() for _ in "xy")
    scale, bias = torch.tensor(14.0), torch.tensor(-10.0)
    for ours, theirs, more in (
        (OpenClipLoss(), open_clip.loss.ClipLoss(), ()),
        (OpenClipSigmoidLoss(), open_clip.loss.SigLipLoss(), (bias,)),
    ):
        found = ours(x, y, scale, *more, output_dict=True)["contrastive_loss"]
        truth = theirs(x, y, scale, *more, output_dict=True)["contrastive_loss"]
        assert torch.allclose(found, truth, rtol=1e-5)
        gradients = [torch.autograd.grad(value, x)[0] for value in (found, truth)]
        assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_pycocotools_reads_the_same_captions(coco: Path) -> None:
    tools = pytest.importorskip("pycocotools.coco")
    theirs = tools.COCO(str(coco / "annotations" / "captions_val2017.json"))
    for key, _, captions in open_coco(coco).files:
        identity = int(key.removesuffix(".jpg"))
        expected = [a["caption"] for a in theirs.loadAnns(theirs.getAnnIds([identity]))]
        assert list(captions) == expected


# ---- what runs everywhere


def test_without_coco_it_says_what_to_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("coco-pretrained", "caption-corruption"):
        assert run("reproduce", name, "-o", str(tmp_path / name)) == 2
        error = capsys.readouterr().err
        assert "zips/val2017.zip" in error
        assert "annotations_trainval2017.zip" in error
        assert "--folder" in error
        assert error.count("\n") == 1
        assert run("reproduce", name, "-o", str(tmp_path / name), "--folder", str(tmp_path / "none")) == 2
        assert "val2017" in capsys.readouterr().err


def test_draws_of_captions(coco: Path) -> None:
    source = open_coco(coco)
    own = {key: set(captions) for key, _, captions in source.files}
    owner = {caption: key for key, captions in own.items() for caption in captions}
    for p in (0.0, 0.5, 1.0):
        draws = CaptionDraws(source, p, seed=3)
        captions, foreign = draws.epoch(0)
        for (key, _, _), caption, wrong in zip(source.files, captions, foreign.tolist(), strict=True):
            assert (owner[caption] != key) == wrong
            assert source.categories[owner[caption]] & source.categories[key]
        assert {0.0: foreign.sum() == 0, 0.5: 4 <= foreign.sum() <= 20, 1.0: bool(foreign.all())}[p]
    fixed, fresh = (CaptionDraws(source, 0.5, seed=3, fresh=f) for f in (False, True))
    first, second = fixed.epoch(0), fixed.epoch(1)
    assert torch.equal(first[1], second[1])
    assert all(a == b for a, b, f in zip(first[0], second[0], first[1].tolist(), strict=True) if f)
    assert any(a != b for a, b, f in zip(first[0], second[0], first[1].tolist(), strict=True) if not f)
    assert not torch.equal(fresh.epoch(0)[1], fresh.epoch(1)[1])
    assert fresh.epoch(4)[0] == fresh.epoch(4)[0]
    low, high = (CaptionDraws(source, p, seed=3).epoch(0)[1] for p in (0.25, 0.75))
    assert bool((high | ~low).all())  # what is exchanged at p is exchanged at every higher p


def test_partners_are_uniform_over_the_others_of_a_category(tmp_path: Path) -> None:
    source = open_coco(datasets.coco_folder(tmp_path / "c", images=6, captions=1))
    alone = {key: frozenset({1}) for key, _, _ in source.files}
    one = type(source)(source.files, categories=alone)
    counts = torch.zeros(6, 6)
    place = {captions[0]: i for i, (_, _, captions) in enumerate(source.files)}
    draws = CaptionDraws(one, 1.0, seed=0, fresh=True)
    for epoch in range(600):
        for i, caption in enumerate(draws.epoch(epoch)[0]):
            counts[i, place[caption]] += 1
    assert counts.diagonal().sum() == 0
    others = counts[~torch.eye(6, dtype=torch.bool)]
    chi2 = ((others - 120).square() / 120).sum()
    assert chi2 < 24 + 4 * (2 * 24) ** 0.5  # 6 rows of 4 degrees of freedom each


@pytest.mark.usefixtures("unchecked")
def test_bad_draws(coco: Path) -> None:
    source = open_coco(coco)
    with pytest.raises(im.InputError, match="between 0 and 1"):
        CaptionDraws(source, 1.5)
    with pytest.raises(im.InputError, match="instances_"):
        CaptionDraws(type(source)(source.files), 0.5)


def test_trained_names_of_other_architectures() -> None:
    class Resnet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = torch.nn.ModuleDict(
                {
                    "layer4": torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]),
                    "attnpool": torch.nn.ModuleDict({"c_proj": torch.nn.Linear(2, 2)}),
                }
            )
            self.text_projection = torch.nn.Parameter(torch.zeros(2, 2))

    assert trained_names(Resnet(), "heads") == [
        "text_projection",
        "visual.attnpool.c_proj.bias",
        "visual.attnpool.c_proj.weight",
    ]
    last = set(trained_names(Resnet(), "last-block")) - set(trained_names(Resnet(), "heads"))
    assert last == {"visual.layer4.1.bias", "visual.layer4.1.weight"}
    with pytest.raises(im.InputError, match="projections of a Linear are not known"):
        trained_names(torch.nn.Linear(2, 2), "heads")


def test_latex() -> None:
    cell = {"value": 0.5, "stderr": 0.1, "low": 0.4, "high": 0.6}
    row = {
        "model": "a_b", "unbiased": dict.fromkeys(COLUMNS, cell), "paper_estimators": dict.fromkeys(COLUMNS, 0.7),
        "paper": None, "shuffled": {"I2T": cell, "T2I": cell},
    }  # fmt: skip
    table = latex_table([row]).splitlines()
    columns = table[0].removeprefix(r"\begin{tabular}{").removesuffix("}")
    line = next(text for text in table if text.startswith(r"a\_b"))
    assert line.count("&") + 1 == len(columns)
    assert line.endswith(r"\\")
