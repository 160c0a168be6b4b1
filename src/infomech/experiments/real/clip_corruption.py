"""Caption corruption on COCO (Fig. 6b): fine-tune an OpenCLIP model on captions of which a share p is wrong."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..._checks import InputError
from ...diagnosis import Settings, examine
from ...embedding import ExtractOptions, extract, open_coco
from ...embedding.encoders.encoder import ModelChoice, text_hash
from ...embedding.encoders.open_clip import OpenClipImages, OpenClipParts, OpenClipTexts, open_clip_parts
from ...embedding.sources import ListedImages, coco_instructions
from ...integrations import OpenClipLoss
from ..digits.control import interval
from ..runs import write_results
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

    Args:
        model: ``ARCHITECTURE:TAG`` of open_clip, or ``CONFIG.json:random``.
        checkpoint: a local file in place of the tag.
        train: "heads", the projections; "last-block", those, the last block of each tower and the norms after it.
        swaps: values of p.
        weights: divergence weights, the second axis.
        seeds: seeds, from the first.
        fresh: whether exchanged captions are drawn anew at each epoch.
        steps: of AdamW with this rate and decay; the temperature is held.
        evaluations: how often each run is scored, at equal distances; the last is the end.
        save_every: steps between checkpoints.
        train_split: of COCO.
        test_split: that the scores are on.
    """

    model: str = "ViT-B-32-quickgelu:openai"
    checkpoint: Path | None = None
    train: Literal["heads", "last-block"] = "heads"
    swaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    weights: tuple[float, ...] = (0.0,)
    seeds: int = 3
    fresh: bool = False
    steps: int = 5000
    batch_size: int = 256
    learning_rate: float = 1e-5
    weight_decay: float = 0.05
    evaluations: int = 1
    save_every: int = 250
    device: str = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    workers: int = 4
    train_split: str = "train2017"
    test_split: str = "val2017"


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
    coco: Path | None,
    plan: ClipPlan | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune and score a model for each p, divergence weight and seed; resumable at any step.

    Args:
        output: folder for results.json, provenance.json, README.md, the figure, and ``runs``, with the checkpoint and
            the scores of each run, from which an interrupted study goes on.
        coco: folder with COCO's layout: both splits, captions and instances.
        plan: what to train.
        seed: the first seed.
        progress: called with shares of the work that sum to 1.

    Returns:
        What results.json holds: "settings", "runs", "summary" (mean and 95% Student interval over seeds) and "found".

    Raises:
        InputError: with what to download and where to put it, if there is no COCO; or for a model that cannot be had.

    Source: Figure 6b of the paper; C1, T11 for the second axis.
    """
    plan = plan or ClipPlan()
    if coco is None:
        wanted = "; ".join(
            coco_instructions(Path("coco"), s) for s in dict.fromkeys((plan.train_split, plan.test_split))
        )
        raise InputError(f"no COCO folder is named; pass --folder DIR (or --data digits for the small study). {wanted}")
    train, test = (open_coco(coco, split=split) for split in (plan.train_split, plan.test_split))
    if plan.precision == "fp16":
        raise InputError("precision is fp16, which loses small gradients; train with bf16 or fp32")
    if not 2 <= plan.batch_size <= len(train.files):
        raise InputError(f"batch_size is {plan.batch_size}; {plan.train_split} has {len(train.files)} images")
    parts = open_clip_parts(ModelChoice(f"open_clip:{plan.model}", plan.checkpoint, plan.device), plan.model)
    start = {name: value.detach().cpu().clone() for name, value in parts.model.state_dict().items()}
    grid = [ClipRun(p, w, s) for s, w, p in product(range(seed, seed + plan.seeds), plan.weights, plan.swaps)]
    runs: list[dict[str, Any]] = []

    def report(steps: int) -> None:
        if progress is not None:
            progress(steps / (len(grid) * plan.steps))

    for run in grid:
        parts.model.load_state_dict(start)
        study = _Study(parts, train, test, plan, run, output / "runs" / run.slug)
        runs += study.finish(report)
    results: dict[str, Any] = {
        "settings": {
            **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(plan).items()},
            "temperature": parts.temperature,
            "weights_hash": parts.weights,
            "trained": trained_names(parts.model, plan.train),
            "train_images": train.count,
            "test_images": test.count,
        },
        "runs": runs,
        "summary": summarise(runs),
        "found": findings(runs),
    }
    write_results(output, NAME, results)
    (output / "README.md").write_text(_readme(results), encoding="utf-8")
    _draw(results["summary"], output / NAME)
    return results


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
        return {
            "energy_distance": found.gap["energy_distance"].value,
            "mmd2": found.gap["mmd2_median"].value,
            "centroid_gap": found.gap["centroid_gap"].value,
            "divergence_sym": found.budget.divergence_sym.value,
            "recall_at_1": _mean_recall(found.retrieval, 1),
            "recall_at_10": _mean_recall(found.retrieval, 10),
        }

    def _save(self, step: int, scores: list[dict[str, Any]]) -> None:
        content = {
            "identity": self.identity,
            "step": step,
            "scores": scores,
            "parameters": {name: p.detach().cpu() for name, p in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
        }
        new = self.folder / ".checkpoint.new"
        torch.save(content, new)
        os.replace(new, self.folder / "checkpoint.pt")

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
_NOT_OF_A_RUN = {"swaps", "weights", "seeds", "device", "workers", "save_every", "checkpoint", "model"}

MEASURES = {
    "energy_distance": "energy distance",
    "mmd2": "MMD², median bandwidth",
    "centroid_gap": "centroid gap",
    "divergence_sym": "Dsym (nats)",
    "recall_at_1": "R@1",
    "recall_at_10": "R@10",
}


def _mean_recall(retrieval: dict[str, Any], k: int) -> float:
    return float(sum(retrieval[f"{side}_recall_at_{k}"].value for side in ("x_to_y", "y_to_x")) / 2)


def summarise(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds for each divergence weight, step and p; with a 95% interval where there are two seeds or more."""
    cells: dict[tuple[float, int, float], list[dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault((run["divergence_weight"], run["step"], run["swap"]), []).append(run)
    rows = []
    for (weight, step, swap), members in sorted(cells.items()):
        row: dict[str, Any] = {"divergence_weight": weight, "step": step, "swap": swap}
        for name in MEASURES:
            values = [member[name] for member in members]
            alone = {"value": values[0], "stderr": None, "low": None, "high": None}
            row[name] = interval(values) if len(values) > 1 else alone
        rows.append(row)
    return rows


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
            slopes = [_slope([r for r in of_weight if r["seed"] == s], name) for s in seeds]
            text = f"lambda = {weight:g}: {MEASURES[name]} changes by {sum(slopes) / len(slopes):+.4f} per unit of p"
            if len(seeds) > 1:
                found = interval(slopes)
                text += f" (95% interval over {len(seeds)} seeds {found['low']:+.4f} to {found['high']:+.4f})"
            else:
                text += " (one seed: no interval)"
            out.append(text + ".")
    return out


def _slope(runs: Sequence[dict[str, Any]], name: str) -> float:
    p = torch.tensor([run["swap"] for run in runs], dtype=torch.float64)
    y = torch.tensor([run[name] for run in runs], dtype=torch.float64)
    centred = p - p.mean()
    return float((centred @ (y - y.mean())) / centred.square().sum())


def _readme(results: dict[str, Any]) -> str:
    settings = results["settings"]
    drawn = "drawn afresh at each epoch" if settings["fresh"] else "fixed by image and seed"
    lines = [
        f"# {TITLE}",
        "",
        f"{settings['model']}, trained: {settings['train']} ({len(settings['trained'])} tensors); tau = "
        f"{settings['temperature']:.4g}, held. {settings['train_images']:,} images of COCO {settings['train_split']}; "
        f"with probability p an image meets the caption of another image of one of its categories, {drawn}. AdamW "
        f"{settings['learning_rate']:g}, weight decay {settings['weight_decay']:g}, batch {settings['batch_size']}, "
        f"{settings['steps']:,} steps. Scores on {settings['test_images']:,} images of {settings['test_split']} with "
        "all their captions. ± is the half-width of a 95% interval over seeds.",
        "",
        *(f"- {sentence}" for sentence in results["found"]),
        "",
        "| lambda | step | p | " + " | ".join(MEASURES.values()) + " |",
        "|---|---|---|" + "---|" * len(MEASURES),
    ]
    for row in results["summary"]:
        cells = [
            f"{row[m]['value']:.4f}" + ("" if row[m]["high"] is None else f" ± {row[m]['high'] - row[m]['value']:.4f}")
            for m in MEASURES
        ]
        lines.append(f"| {row['divergence_weight']:g} | {row['step']} | {row['swap']:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![gap and retrieval against p]({NAME}.png)", ""])


def _draw(summary: Sequence[dict[str, Any]], target: Path) -> None:
    """Gap and recall at the end of training against p, a band for each divergence weight; PNG and PDF."""
    from matplotlib.figure import Figure

    from ...report.drawing import MARKERS, SERIES, bare_axes, figure_bytes

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = {"energy_distance": "energy distance", "centroid_gap": "distance of the centroids", "recall_at_1": "R@1"}
    last = max(row["step"] for row in summary)
    for axes, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for k, weight in enumerate(sorted({row["divergence_weight"] for row in summary})):
            rows = [row for row in summary if row["divergence_weight"] == weight and row["step"] == last]
            p = [row["swap"] for row in rows]
            colour = SERIES[k % len(SERIES)]
            if all(row[name]["high"] is not None for row in rows):
                low, high = ([row[name][end] for row in rows] for end in ("low", "high"))
                axes.fill_between(p, low, high, color=colour, alpha=0.18, lw=0)
            values = [row[name]["value"] for row in rows]
            axes.plot(
                p, values, marker=MARKERS[k % len(MARKERS)], ms=4.5, color=colour, label=rf"$\lambda$ = {weight:g}"
            )
        axes.set_xlabel("share p of exchanged captions")
        axes.set_ylabel(label)
        bare_axes(axes)
    handles, words_of = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, words_of, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=8.5)
    for kind in ("png", "pdf"):
        target.with_suffix(f".{kind}").write_bytes(figure_bytes(figure, kind))


__all__ = ["MEASURES", "NAME", "TITLE", "ClipPlan", "ClipRun", "run_clip_corruption", "summarise", "trained_names"]
