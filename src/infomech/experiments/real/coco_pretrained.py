"""Frozen models on COCO (Table 2, Fig. 6a): retrieval and gap with intervals, beside the paper's values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import normalize

from ..._checks import InputError
from ..._files import plain
from ..._markdown import bullets, document, table
from ..._typing import Progress
from ...diagnosis import Diagnosis, Estimate, Settings, examine, gap
from ...embedding import ExtractOptions, extract, open_coco, resolve_device
from ...embedding.encoders.encoder import ModelChoice
from ...embedding.encoders.loading import load_towers
from ...embedding.opening import coco_instructions
from ...embedding.sources import ListedImages
from ..experiment import Experiment, Form, option
from ..runs import scaled, silent, write_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "coco-pretrained"
TITLE = "Frozen image-text models on COCO val2017: retrieval and gap (Table 2, Fig. 6a)"
COLUMNS = ("I2T", "T2I", "energy", "MMD2", "gap", "cos")


@dataclass(frozen=True)
class PaperRow:
    """A model of Table 2: how to load it here, and the paper's six numbers in the order of `COLUMNS`."""

    name: str
    spec: str
    values: tuple[float, ...]


# The paper names architectures. Where several weights exist, those are taken whose known COCO retrieval is nearest to
# the paper's: OpenAI's for the four that they trained, LAION-2B's for ViT-H and ViT-bigG, Meta's for PE-Core.
TABLE_2 = (
    PaperRow("PE-Core-L-14", "open_clip:PE-Core-L-14-336:meta", (0.741, 0.559, 0.599, 0.255, 0.854, 0.097)),
    PaperRow("PE-Core-B-16", "open_clip:PE-Core-B-16:meta", (0.703, 0.499, 0.545, 0.237, 0.808, 0.189)),
    PaperRow("ViT-bigG-14", "open_clip:ViT-bigG-14:laion2b_s39b_b160k", (0.670, 0.506, 0.288, 0.129, 0.598, 0.384)),
    PaperRow("ViT-H-14", "open_clip:ViT-H-14:laion2b_s32b_b79k", (0.662, 0.485, 0.375, 0.159, 0.697, 0.048)),
    PaperRow("ViT-L-14", "open_clip:ViT-L-14-quickgelu:openai", (0.569, 0.357, 0.697, 0.303, 0.898, 0.184)),
    PaperRow("RN50x16", "open_clip:RN50x16-quickgelu:openai", (0.559, 0.354, 0.502, 0.230, 0.761, 0.349)),
    PaperRow("RN101", "open_clip:RN101-quickgelu:openai", (0.498, 0.299, 0.443, 0.228, 0.670, 0.604)),
    PaperRow("ViT-B-16", "open_clip:ViT-B-16-quickgelu:openai", (0.492, 0.302, 0.688, 0.313, 0.871, 0.309)),
    PaperRow("RN50", "open_clip:RN50-quickgelu:openai", (0.480, 0.289, 0.627, 0.276, 0.849, 0.237)),
)


@dataclass(frozen=True)
class CocoPlan:
    """Which models, and how to run them."""

    folder: Path | None = option(None, "Where COCO is.", shared=True)
    models: tuple[str, ...] = option(
        tuple(row.name for row in TABLE_2), "Names in Table 2, or specifications as in embed."
    )
    split: str = option("val2017", "Split of COCO to score on.", flag="--test-split")
    device: str = option("auto", "cpu, cuda, cuda:1, mps or auto.")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "Precision of the models.")
    batch_size: int = option(64, "Images a batch.", at_least=1)
    workers: int = 4  # threads that read images


FULL = CocoPlan()
FAST = CocoPlan(models=("ViT-B-16", "RN50"))


def run_coco_pretrained(
    output: Path,
    *,
    plan: CocoPlan = FULL,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Embed COCO with each model and write the table, beside the paper's values, and retrieval against the gap.

    All captions of an image count, weighted by pair. Intervals are by image. The paper's estimators stand beside the
    unbiased ones: V statistics, which keep each row's zero distance to itself and take an image and its captions, or
    two captions of an image, for independent; and the distance and the cosine of plain means.

    Source: E3, E5; Table 2 and Figure 6a of the paper.
    """
    if plan.folder is None:
        raise InputError(f"no COCO folder is named; pass --folder DIR. {coco_instructions(Path('coco'), plan.split)}")
    source = open_coco(plan.folder, split=plan.split)
    plan = replace(plan, device=resolve_device(plan.device))
    rows = [
        _one_model(source, name, output, plan=plan, seed=seed, progress=scaled(progress, 1 / len(plan.models)))
        for name in plan.models
    ]
    results: dict[str, Any] = {
        "settings": {
            **{k: v for k, v in asdict(plan).items() if k != "folder"},
            "images": source.count,
            "captions": sum(len(c) for _, _, c in source.files),
        },
        "rows": rows,
        "found": findings(rows),
    }
    write_results(
        output,
        NAME,
        results,
        readme=_readme(results),
        figures={NAME: _figure(rows)},
        texts={"table.tex": latex_table(rows)},
    )
    return results


def _one_model(
    source: ListedImages,
    name: str,
    output: Path,
    *,
    plan: CocoPlan,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    paper = next((row for row in TABLE_2 if row.name == name), None)
    towers = load_towers(ModelChoice(name if paper is None else paper.spec, device=plan.device), ["image", "text"])
    options = ExtractOptions(
        batch_size=plan.batch_size,
        precision=plan.precision,
        device=plan.device,
        workers=plan.workers,
    )
    total = len(source.files)
    extraction = extract(
        source,
        towers,
        output / "embeddings" / _folder_name(name),
        options=options,
        progress=lambda done, _: progress(0.8 * done / total),
    )
    x, y, pairs = extraction.load()
    tau = extraction.temperature or 0.01
    found = examine(x, y, Settings(temperature=tau, pairs=pairs, names=("image", "text"), seed=seed))
    progress(0.1)
    plain_statistics = gap(x, y, pairs=pairs, temperature=tau, statistic="V", seed=seed)
    progress(0.1)
    return {
        "model": name,
        "spec": towers["image"].name,
        "weights": towers["image"].weights,
        "dimension": extraction.dimension,
        "temperature": tau,
        "skipped": len(extraction.skipped),
        "unbiased": plain(_six(found)),
        "paper_estimators": _paper_estimators(found, plain_statistics, (x, y, pairs)),
        "paper": None if paper is None else dict(zip(COLUMNS, paper.values, strict=True)),
        "shuffled": plain({c: found.retrieval[f"shuffled_{k}_recall_at_1"] for c, k in _RECALLS.items()}),
        "diagnosis": {"gap": plain(found.gap), "retrieval": plain(found.retrieval)},
    }


_RECALLS = {"I2T": "x_to_y", "T2I": "y_to_x"}
_GAPS = {"energy": "energy_distance", "MMD2": "mmd2_median", "gap": "centroid_gap", "cos": "centroid_cosine"}


def _six(found: Diagnosis) -> dict[str, Estimate]:
    """The six columns, unbiased and with intervals by image."""
    recalls = {column: found.retrieval[f"{key}_recall_at_1"] for column, key in _RECALLS.items()}
    return recalls | {column: found.gap[key] for column, key in _GAPS.items()}


def _paper_estimators(
    found: Diagnosis, v: dict[str, Estimate], rows: tuple[Tensor, Tensor, Tensor]
) -> dict[str, float]:
    """The paper's: V statistics, and the distance and the cosine of plain means over pairs."""
    x, y, pairs = rows
    means = [normalize(z.double(), dim=1)[pairs[:, k]].mean(0) for k, z in enumerate((x, y))]
    return {
        **{column: found.retrieval[f"{key}_recall_at_1"].value for column, key in _RECALLS.items()},
        "energy": v["energy_distance"].value,
        "MMD2": v["mmd2_median"].value,
        "gap": float((means[0] - means[1]).norm()),
        "cos": float(normalize(means[0], dim=0) @ normalize(means[1], dim=0)),
    }


def _folder_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the table says, in sentences made of its numbers."""
    out = []
    for row in rows:
        own = row["unbiased"]
        text = (
            f"{row['model']}: R@1 {own['I2T']['value']:.3f} and {own['T2I']['value']:.3f}, energy distance "
            f"{own['energy']['value']:.4f} (95% interval {own['energy']['low']:.4f} to {own['energy']['high']:.4f}); "
            f"shuffled pairs give R@1 {row['shuffled']['I2T']['value']:.4f}"
        )
        if row["paper"] is not None:
            off = {c: row["paper_estimators"][c] - row["paper"][c] for c in COLUMNS}
            worst = max(off, key=lambda c: abs(off[c]))
            text += f"; farthest from the paper: {worst}, by {off[worst]:+.3f}"
        out.append(text + ".")
    if len(rows) > 2:
        energy = [row["unbiased"]["energy"]["value"] for row in rows]
        recall = [(row["unbiased"]["I2T"]["value"] + row["unbiased"]["T2I"]["value"]) / 2 for row in rows]
        rank = spearmanr(energy, recall)
        out.append(
            f"Over {len(rows)} models the rank correlation of energy distance and mean R@1 is {rank.statistic:+.2f} "
            f"(p = {rank.pvalue:.2f}): with so few models that says little about cause."
        )
    return out


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Unbiased values with the half-width of their 95% interval, the paper's estimators, and the paper's values."""
    header = ["model"]
    for column in COLUMNS:
        header += [column, *([f"{column}, plain"] if column not in _RECALLS else []), f"{column}, paper"]
    return table([*header, "R@1, shuffled"], [_cells(row, "±") for row in rows])


def latex_table(rows: Sequence[dict[str, Any]]) -> str:
    """The same as a LaTeX tabular (booktabs)."""
    heads = {"MMD2": r"MMD$^2$"}
    spans = [(heads.get(c, c), 2 if c in _RECALLS else 3) for c in COLUMNS]
    first = " & ".join(rf"\multicolumn{{{n}}}{{c}}{{{c}}}" for c, n in spans)
    second = " & ".join("ours & paper" if n == 2 else "ours & plain & paper" for _, n in spans)
    body = [" & ".join(cell.replace("_", r"\_") for cell in _cells(row, r"$\pm$")) + r" \\" for row in rows]
    columns = "l" + "r" * (sum(n for _, n in spans) + 1)
    return "\n".join(
        [
            r"\begin{tabular}{" + columns + "}",
            r"\toprule",
            rf"model & {first} & shuffled \\",
            rf" & {second} & R@1 \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _cells(row: dict[str, Any], sign: str) -> list[str]:
    cells = [str(row["model"])]
    for column in COLUMNS:
        own = row["unbiased"][column]
        half = None if own["high"] is None or own["low"] is None else (own["high"] - own["low"]) / 2
        cells.append(f"{own['value']:.3f}" + ("" if half is None else f" {sign} {half:.3f}"))
        if column not in _RECALLS:
            cells.append(f"{row['paper_estimators'][column]:.3f}")
        cells.append("" if row["paper"] is None else f"{row['paper'][column]:.3f}")
    return [*cells, f"{row['shuffled']['I2T']['value']:.4f}"]


def _readme(results: dict[str, Any]) -> str:
    settings = results["settings"]
    return document(
        TITLE,
        f"{settings['images']:,} images and {settings['captions']:,} captions of COCO {settings['split']}; all "
        "captions count, weighted by pair. First stands the unbiased value with the half-width of its 95% "
        "interval, by image; then the paper's estimator on the same embeddings (V statistics that keep zero "
        "distances and an image's own captions; distance and cosine of plain means); then the paper's own value. "
        "R@1 of shuffled pairs is the control.",
        bullets(results["found"]),
        markdown_table(results["rows"]),
        "The same table in LaTeX: [table.tex](table.tex).",
        f"![retrieval against the gap]({NAME}.png)",
    )


def _figure(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Mean R@1 against energy distance and centroid gap: ours with intervals, the paper's as hollow marks."""
    from matplotlib.figure import Figure

    from ...report.drawing import MUTED, X, Y, bare_axes, label

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = {"energy": "energy distance", "gap": "distance of the centroids"}
    for axes, (column, title) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        for row in rows:
            own, recalls = row["unbiased"], [row["unbiased"][c] for c in _RECALLS]
            at = own[column]["value"], sum(r["value"] for r in recalls) / 2
            reach = [[at[0] - own[column]["low"]], [own[column]["high"] - at[0]]]
            # The two recalls are of the same images: the mean of the half-widths bounds that of their mean.
            tall = sum(r["high"] - r["low"] for r in recalls) / 4
            axes.errorbar(*at, xerr=reach, yerr=tall, fmt="o", ms=5, color=X, capsize=2, lw=1)
            axes.annotate(
                label(row["model"]), at, xytext=(7, -11), textcoords="offset points", fontsize=7.5, color=MUTED
            )
            if row["paper"] is not None:
                there = row["paper"][column], (row["paper"]["I2T"] + row["paper"]["T2I"]) / 2
                axes.plot(*there, "s", ms=5, mfc="none", color=Y)
                axes.plot([at[0], there[0]], [at[1], there[1]], color=MUTED, lw=0.6, alpha=0.6)
        axes.set_xlabel(title)
        bare_axes(axes)
    first = figure.axes[0]
    first.plot([], [], "o", color=X, label="here: unbiased, 95% intervals by image")
    first.plot([], [], "s", mfc="none", color=Y, label="Table 2 of the paper")
    first.legend(frameon=False, fontsize=8)
    first.set_ylabel("mean of both R@1")
    return figure


EXPERIMENT = Experiment(NAME, TITLE, (Form(FULL, FAST, run_coco_pretrained),))

__all__ = [
    "COLUMNS",
    "EXPERIMENT",
    "NAME",
    "TABLE_2",
    "TITLE",
    "CocoPlan",
    "PaperRow",
    "findings",
    "latex_table",
    "markdown_table",
    "run_coco_pretrained",
]
