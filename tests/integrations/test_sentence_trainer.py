"""The adapter in sentence-transformers' own trainer, beside that library's loss, with a last batch of one row."""

import pytest
import torch

from infomech.integrations import SentenceSymmetricInfoNCE

pytest.importorskip("accelerate")
datasets = pytest.importorskip("datasets")
sentence_transformers = pytest.importorskip("sentence_transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory'"),
]

WORDS = "red green blue small large round square near far old new warm cold wet dry soft hard".split()  # noqa: SIM905


def tiny_model(folder):
    """A BERT of two layers and a vocabulary of these words, with random weights."""
    transformers = pytest.importorskip("transformers")
    from sentence_transformers.sentence_transformer import modules

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    encoder = modules.Transformer(str(folder))
    return sentence_transformers.SentenceTransformer(modules=[encoder, modules.Pooling(16)], device="cpu")


def trained(folder, make, rows: int):
    folder.mkdir()
    model = tiny_model(folder)
    columns = [[f"{WORDS[(a * k) % 17]} {WORDS[(b * k + 1) % 17]}" for k in range(rows)] for a, b in ((1, 3), (2, 5))]
    data = datasets.Dataset.from_dict(dict(zip(("anchor", "positive"), columns, strict=True)))
    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        num_train_epochs=1,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        eval_strategy="epoch",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data, loss=make(model)
    )
    trainer.train()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), trainer.evaluate()["eval_loss"]


@pytest.mark.filterwarnings("ignore:a batch holds one pair:UserWarning")
def test_trains_as_the_librarys_own_loss(tmp_path) -> None:
    from sentence_transformers.losses import MultipleNegativesSymmetricRankingLoss

    found, loss = trained(tmp_path / "ours", SentenceSymmetricInfoNCE, 13)
    truth, their_loss = trained(tmp_path / "theirs", MultipleNegativesSymmetricRankingLoss, 13)
    assert (found - truth).norm() <= 1e-3 * truth.norm()
    assert loss == pytest.approx(their_loss, rel=1e-3)
