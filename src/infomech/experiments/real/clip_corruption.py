"""Caption corruption on COCO (Fig. 6b): fine-tune an OpenCLIP model on captions of which a share p is wrong."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..._checks import InputError
from ..._files import replacing
from ..._markdown import bullets, document
from ..._typing import Progress
from ...diagnosis import Settings, examine
from ...embedding import ExtractOptions, extract, open_coco, resolve_device
from ...embedding.encoders.encoder import ModelChoice, text_hash
from ...embedding.encoders.open_clip import OpenClipImages, OpenClipParts, OpenClipTexts, open_clip_parts
from ...embedding.opening import coco_instructions
from ...embedding.sources import ListedImages
from ...integrations import OpenClipLoss
from ..digits import corruption as digits_corruption
from ..experiment import Experiment, Form, option
from ..runs import silent, write_results
from ..scores import MEASURES, measures_figure, measures_table, scores_of
from ..statistics import interval, slopes_by_seed, summarise
from .caption_draws import CaptionDraws

NAME = "caption-corruption"
TITLE = "Caption corruption: the gap against the share of wrong captions (Fig. 6b)"

_HEADS = (
    r"visual\.(proj|head\.|attnpool\.|trunk\.(head|attn_pool|norm|fc_norm)\.)|(text\.)?text_projection|text\.proj\."
)
_NORMS = r"visual\.ln_post\.|(text\.)?ln_final\."
_BLOCKS = r"(visual\..*?(?:resblocks|blocks)\.|visual\.layer4\.|(?:text\.)?transformer\.resblocks\.)(\d+)\."


@dataclass(frozen=True)
class ClipPlan:
    """What to train: every p with every divergence weight and every seed, each from the same pretrained weights.

    AdamW with the temperature held; a run is scored `evaluations` times, at equal distances, the last at the end.
    """

    folder: Path | None = option(None, "Where COCO is.", shared=True)
    model: str = option(
        "ViT-B-32-quickgelu:openai", "ARCHITECTURE:TAG of open_clip, or CONFIG.json:random.", flag="--models"
    )
    checkpoint: Path | None = option(None, "A local file of weights in place of the tag.")
    train: Literal["heads", "last-block"] = option(
        "heads", "The projections, or those, the last block of each tower and the norms after it."
    )
    swaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    weights: tuple[float, ...] = option((0.0,), "Divergence weights, the second axis.")
    seeds: int = option(3, "Runs of each.", at_least=1)
    fresh: bool = option(False, "Draw exchanged captions at each epoch, or once.", flag="--fresh/--fixed")
    steps: int = option(5000, "Training steps.", at_least=1)
    batch_size: int = option(256, "Images a batch.", at_least=2)
    learning_rate: float = 1e-5
    weight_decay: float = 0.05
    evaluations: int = 1
    save_every: int = 250  # steps between checkpoints
    device: str = option("auto", "cpu, cuda, cuda:1, mps or auto.")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "Precision of the forward pass.")
    workers: int = 4
    train_split: str = option("train2017", "Split of COCO to train on.")
    test_split: str = option("val2017", "Split of COCO to score on.")


FULL = ClipPlan()
FAST = ClipPlan(swaps=(0.0, 1.0), seeds=1, steps=200)


@dataclass(frozen=True)
class ClipRun:
    """One training run of the grid."""

    swap: float
    divergence_weight: float
    seed: int

    @property
    def slug(self) -> str:
        """For folder names."""
        return f"p{self.swap:g}-weight{self.divergence_weight:g}-seed{self.seed}"


def run_clip_corruption(
    output: Path,
    *,
    plan: ClipPlan = FULL,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fine-tune and score a model for each p, divergence weight and seed; resumable at any step.

    ``runs`` in the folder holds the checkpoint and the scores of each run, from which an interrupted study goes on.

    Source: Figure 6b of the paper; C1, T11 for the second axis.
    """
    train, test = _open(plan)
    plan = replace(plan, device=resolve_device(plan.device), model=plan.model.removeprefix("open_clip:"))
    parts = open_clip_parts(ModelChoice(f"open_clip:{plan.model}", plan.checkpoint, plan.device), plan.model)
    start = {name: value.detach().cpu().clone() for name, value in parts.model.state_dict().items()}
    grid = [ClipRun(p, w, s) for s, w, p in product(range(seed, seed + plan.seeds), plan.weights, plan.swaps)]
    runs: list[dict[str, Any]] = []

    def report(steps: int) -> None:
        progress(steps / (len(grid) * plan.steps))

    for run in grid:
        parts.model.load_state_dict(start)
        study = _Study(parts, train, test, plan, run, output / "runs" / run.slug)
        runs += study.finish(report)
    ordered = sorted(runs, key=lambda r: (r["divergence_weight"], r["step"], r["swap"]))
    results: dict[str, Any] = {
        "settings": {
            **{k: v for k, v in asdict(plan).items() if k != "folder"},
            "temperature": parts.temperature,
            "weights_hash": parts.weights,
            "trained": trained_names(parts.model, plan.train),
            "train_images": train.count,
            "test_images": test.count,
        },
        "runs": runs,
        "summary": summarise(ordered, SHOWN, by=["divergence_weight", "step"], along="swap"),
        "found": findings(runs),
    }
    last = max(row["step"] for row in results["summary"])
    figure = measures_figure(
        [row for row in results["summary"] if row["step"] == last],
        panels={name: MEASURES[name] for name in ("energy_distance", "centroid_gap", "recall_at_1")},
        along="swap",
        by="divergence_weight",
        axis="share p of exchanged captions",
        words=r"$\lambda$ = {}",
    )
    write_results(output, NAME, results, readme=_readme(results), figures={NAME: figure})
    return results


def _open(plan: ClipPlan) -> tuple[ListedImages, ListedImages]:
    """Both splits of COCO, once the plan is known to be one that can run."""
    if "," in plan.model:
        raise InputError(f"--models names {plan.model.count(',') + 1} models; caption-corruption trains one")
    if plan.folder is None:
        splits = dict.fromkeys((plan.train_split, plan.test_split))
        wanted = "; ".join(coco_instructions(Path("coco"), s) for s in splits)
        raise InputError(f"no COCO folder is named; pass --folder DIR (or --data digits for the small study). {wanted}")
    train, test = (open_coco(plan.folder, split=split) for split in (plan.train_split, plan.test_split))
    if plan.precision == "fp16":
        raise InputError("precision is fp16, which loses small gradients; train with bf16 or fp32")
    if not 2 <= plan.batch_size <= len(train.files):
        raise InputError(f"batch_size is {plan.batch_size}; {plan.train_split} has {len(train.files)} images")
    return train, test


def trained_names(model: nn.Module, what: str) -> list[str]:
    """Names of the parameters that are trained.

    Raises:
        InputError: for an architecture whose projections are not known here.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen = [name for name in names if re.match(_HEADS, name)]
    if not chosen:
        raise InputError(
            f"the projections of a {type(model).__name__} are not known here ({', '.join(names[:4])}, ...)"
        )
    if what == "last-block":
        last: dict[str, int] = {}
        for name in names:
            if found := re.match(_BLOCKS, name):
                last[found[1]] = max(last.get(found[1], 0), int(found[2]))
        for name in names:
            found = re.match(_BLOCKS, name)
            if re.match(_NORMS, name) or (found and int(found[2]) == last[found[1]]):
                chosen.append(name)
    return sorted(set(chosen))


class _Study:
    """One run: training with checkpoints, and scores at its evaluations."""

    def __init__(
        self,
        parts: OpenClipParts,
        train: ListedImages,
        test: ListedImages,
        plan: ClipPlan,
        run: ClipRun,
        folder: Path,
    ) -> None:
        self.parts, self.train, self.test, self.plan, self.run, self.folder = parts, train, test, plan, run, folder
        self.draws = CaptionDraws(train, run.swap, seed=run.seed, fresh=plan.fresh)
        names = set(trained_names(parts.model, plan.train))
        self.trained = {n: p for n, p in parts.model.named_parameters() if n in names}
        for name, parameter in parts.model.named_parameters():
            parameter.requires_grad_(name in names)
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
        self.loss = OpenClipLoss(divergence_weight=run.divergence_weight)
        # What a run depends on; a checkpoint of anything else is not taken up.
        kept = {k: v for k, v in asdict(plan).items() if k not in _NOT_OF_A_RUN}
        self.identity = json.dumps(
            {**kept, **asdict(run), "weights": parts.weights, "data": text_hash("\x1d".join(train.listing()))},
            default=str,
        )

    def finish(self, progress: Callable[[int], None]) -> list[dict[str, Any]]:
        """Train from the last checkpoint to the end, and return the scores of every evaluation."""
        self.folder.mkdir(parents=True, exist_ok=True)
        step, scores = self._resume()
        progress(step)
        plan = self.plan
        stops = {round(plan.steps * k / plan.evaluations) for k in range(1, plan.evaluations + 1)}
        with ThreadPoolExecutor(plan.workers) as pool:
            for done, images, captions in self._batches(step, pool):
                self._one_step(images, captions)
                step = done
                if step in stops:
                    scores.append({**asdict(self.run), "step": step, **self._score()})
                if step in stops or step % plan.save_every == 0:
                    self._save(step, scores)
                progress(1)
        return scores

    def _one_step(self, images: Tensor, captions: list[str]) -> None:
        model: Any = self.parts.model
        tokens = self.parts.tokenizer(captions).to(self.parts.device)
        with self._autocast():
            x = nn.functional.normalize(model.encode_image(images.to(self.parts.device)).float(), dim=1)
            y = nn.functional.normalize(model.encode_text(tokens).float(), dim=1)
        loss = self.loss(x, y, 1.0 / self.parts.temperature)
        assert isinstance(loss, Tensor)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def _batches(self, step: int, pool: ThreadPoolExecutor) -> Iterator[tuple[int, Tensor, list[str]]]:
        """Batches from a step on: a function of seed and step, so that a resumed run sees what it would have seen."""
        from PIL import Image

        def pixels(index: int) -> Tensor:
            with Image.open(self.train.files[index][1]) as image:
                prepared: Tensor = self.parts.preprocess(image.convert("RGB"))
            return prepared

        size = self.plan.batch_size
        per_epoch = len(self.train.files) // size
        for epoch in range(step // per_epoch, -(-self.plan.steps // per_epoch)):
            generator = torch.Generator().manual_seed(1_000_003 * self.run.seed + epoch)
            order = torch.randperm(len(self.train.files), generator=generator)
            captions, _ = self.draws.epoch(epoch)
            first = step - epoch * per_epoch
            for k in range(first, min(per_epoch, self.plan.steps - epoch * per_epoch)):
                rows = order[k * size : (k + 1) * size].tolist()
                step += 1
                yield step, torch.stack(list(pool.map(pixels, rows))), [captions[i] for i in rows]

    def _score(self) -> dict[str, float]:
        """Gap and retrieval on the test split, as `infomech report` has them."""
        towers: Any = {"image": OpenClipImages(self.parts), "text": OpenClipTexts(self.parts)}
        options = ExtractOptions(
            batch_size=64, precision=self.plan.precision, device=self.plan.device, workers=self.plan.workers
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            x, y, pairs = extract(self.test, towers, Path(folder) / "embeddings", options=options).load()
        found = examine(x, y, Settings(temperature=self.parts.temperature, pairs=pairs, seed=self.run.seed))
        scores = scores_of(found, found.budget.divergence_sym)
        return {name: scores[name] for name in SHOWN}

    def _save(self, step: int, scores: list[dict[str, Any]]) -> None:
        content = {
            "identity": self.identity,
            "step": step,
            "scores": scores,
            "parameters": {name: p.detach().cpu() for name, p in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.folder / "checkpoint.pt") as file:
            torch.save(content, file)

    def _resume(self) -> tuple[int, list[dict[str, Any]]]:
        file = self.folder / "checkpoint.pt"
        if not file.exists():
            return 0, []
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises several kinds
            raise InputError(f"{file} cannot be read ({' '.join(str(error).split())[:80]}); remove it") from None
        if content["identity"] != self.identity:
            raise InputError(
                f"{file} is of another model, other data or other settings; choose another folder, or pass --overwrite"
            )
        with torch.no_grad():
            for name, value in content["parameters"].items():
                self.trained[name].copy_(value)
        self.optimizer.load_state_dict(content["optimizer"])
        return int(content["step"]), list(content["scores"])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.plan.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.plan.precision == "bf16" else torch.float16
        return torch.autocast(self.plan.device.partition(":")[0], dtype=dtype)


# Where and how fast, not what: a study may move to another machine between two sittings.
_NOT_OF_A_RUN = {"swaps", "weights", "seeds", "device", "workers", "save_every", "checkpoint", "model", "folder"}

SHOWN = {name: label for name, label in MEASURES.items() if name not in ("alignment", "recall_at_5")}


def findings(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The slope in p at the end of training, paired by seed, for each divergence weight."""
    out = []
    last = max(run["step"] for run in runs)
    for weight in sorted({run["divergence_weight"] for run in runs}):
        of_weight = [run for run in runs if run["divergence_weight"] == weight and run["step"] == last]
        seeds, swaps = (sorted({run[key] for run in of_weight}) for key in ("seed", "swap"))
        if len(swaps) < 2:
            continue
        for name in ("energy_distance", "recall_at_1"):
            found = interval(slopes_by_seed(of_weight, name, "swap"))
            text = f"lambda = {weight:g}: {MEASURES[name]} changes by {found['value']:+.4f} per unit of p"
            if len(seeds) > 1:
                text += f" (95% interval over {len(seeds)} seeds {found['low']:+.4f} to {found['high']:+.4f})"
            else:
                text += " (one seed: no interval)"
            out.append(text + ".")
    return out


def _readme(results: dict[str, Any]) -> str:
    settings = results["settings"]
    drawn = "drawn afresh at each epoch" if settings["fresh"] else "fixed by image and seed"
    return document(
        TITLE,
        f"{settings['model']}, trained: {settings['train']} ({len(settings['trained'])} tensors); tau = "
        f"{settings['temperature']:.4g}, held. {settings['train_images']:,} images of COCO {settings['train_split']}; "
        f"with probability p an image meets the caption of another image of one of its categories, {drawn}. AdamW "
        f"{settings['learning_rate']:g}, weight decay {settings['weight_decay']:g}, batch {settings['batch_size']}, "
        f"{settings['steps']:,} steps. Scores on {settings['test_images']:,} images of {settings['test_split']} with "
        "all their captions. ± is the half-width of a 95% interval over seeds.",
        bullets(results["found"]),
        measures_table(results["summary"], {"lambda": "divergence_weight", "step": "step", "p": "swap"}, SHOWN),
        f"![gap and retrieval against p]({NAME}.png)",
    )


_FORM = Form(FULL, FAST, run_clip_corruption, data="coco")
EXPERIMENT = Experiment(NAME, TITLE, (_FORM, digits_corruption.FORM))

__all__ = ["EXPERIMENT", "NAME", "TITLE", "ClipPlan", "ClipRun", "run_clip_corruption", "trained_names"]
