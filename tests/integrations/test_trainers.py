"""Small real models in other people's training loops: Hugging Face's Trainer, accelerate, open_clip under DDP."""

import copy
import math

import pytest
import torch

from infomech.integrations import OpenClipLoss, OpenClipSigmoidLoss, TrainerLoss
from infomech.losses import SymmetricInfoNCE, cached_step, symmetric_infonce

QUIET = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory'"),
]
pytestmark = QUIET


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_clip_in_hugging_faces_trainer(tmp_path, accumulation: int) -> None:
    """A CLIP of two small transformers: the Trainer's weights are those of a loop by hand."""
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 20, "max_position_embeddings": 6, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    twin = copy.deepcopy(model)
    rows = [{"input_ids": torch.randint(2, 20, (5,)), "pixel_values": torch.randn(3, 8, 8)} for _ in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, gradient_accumulation_steps=accumulation,
        num_train_epochs=1, learning_rate=0.01, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False,
    )  # fmt: skip
    loss = TrainerLoss(symmetric_infonce, log_scale=model.logit_scale, accumulation_steps=accumulation)

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(rows)

    InOrder(model=model, args=arguments, train_dataset=rows, compute_loss_func=loss).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01)
    twin.train()
    for k in (0, 4):
        part = rows[k : k + 4]
        out = twin(**{name: torch.stack([row[name] for row in part]) for name in part[0]})
        logits = out.text_embeds @ out.image_embeds.T * twin.logit_scale.exp()
        target = torch.arange(4)
        value = sum(torch.nn.functional.cross_entropy(s, target) for s in (logits, logits.T)) / 2
        (value / accumulation).backward()
        if accumulation == 1 or k == 4:
            optimizer.step()
            optimizer.zero_grad()
    assert (weights(model) - weights(twin)).norm() <= 1e-5
    assert model.logit_scale != twin.config.logit_scale_init_value


def test_accelerate() -> None:
    """Prepared models, plain and cached steps."""
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    found = []
    x, y = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(1)).unbind()
    for cached in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 4))
        loss = SymmetricInfoNCE(0.1, normalize=True, learn_temperature=True)
        optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
        model, loss, optimizer = accelerator.prepare(model, loss, optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            if cached:
                cached_step(loss, model, [x, y], chunk=5, scaler=accelerator.scaler)
            else:
                accelerator.backward(loss(model(x), model(y)))
            optimizer.step()
        found.append(torch.cat([weights(model), weights(loss)]))
    assert (found[0] - found[1]).norm() <= 1e-5 * found[0].norm()


def tiny_clip(bias: bool):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    return open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"layers": 1, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 8},
        text_cfg={"layers": 1, "width": 16, "heads": 2, "vocab_size": 20, "context_length": 6},
        init_logit_bias=-10.0 if bias else None,
        output_dict=True,
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_open_clip_trains_as_with_its_own_loss(kind: str) -> None:
    losses = pytest.importorskip("open_clip.loss")
    pairs = {"clip": (OpenClipLoss(), losses.ClipLoss()), "siglip": (OpenClipSigmoidLoss(), losses.SigLipLoss())}
    images, texts = torch.randn(6, 3, 8, 8), torch.randint(1, 20, (6, 6))
    found = []
    for loss in pairs[kind]:
        model = tiny_clip(kind == "siglip")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            sum(loss(**model(images, texts), output_dict=True).values()).backward()
            optimizer.step()
        found.append(weights(model))
    assert (found[0] - found[1]).norm() <= 1e-4 * found[1].norm()
    assert not torch.equal(found[0], weights(tiny_clip(kind == "siglip")))


def test_a_siglip_model_under_ddp_with_the_softmax_loss(tmp_path) -> None:
    """It aborts where the bias is not in the graph: at the second step."""
    import torch.distributed as dist

    model = tiny_clip(True)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(3):
            out = wrapped(torch.randn(4, 3, 8, 8), torch.randint(1, 20, (4, 6)))
            assert "logit_bias" in out
            OpenClipLoss()(**out, output_dict=True)["contrastive_loss"].backward()
        assert model.logit_bias.grad == 0
        assert math.isfinite(model.logit_scale.grad)
    finally:
        dist.destroy_process_group()
