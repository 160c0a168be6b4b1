"""What ranks models, on the pages: the tables and the picture of a run of `infomech reproduce ranking`.

python benchmarks/ranking_shown.py FOLDER    # the record docs/ranking.json of that run, then the pages
python benchmarks/ranking_shown.py           # the record once more
"""

import argparse
import json
import re
import runpy
from pathlib import Path
from typing import Any

from infomech._files import dump_json

DOCS = Path(__file__).parents[1] / "docs"
RECORD, PICTURE = DOCS / "ranking.json", DOCS / "gallery" / "ranking.png"
PAGE, GALLERY = DOCS / "compare-models.md", DOCS / "gallery.md"
Json = dict[str, Any]
MEASURES = {
    "information": "shared information",
    "mrr": "MRR",
    "recall_at_1": "R@1",
    "loss": "held-out loss at its own τ",
    "rankme": "RankMe",
    "lidar": "LiDAR",
    "alignment_uniformity": "alignment + uniformity",
    "knn": "kNN of the partners",
}
SIGNS = {"information": "shared information", "mrr": "MRR", "recall_at_10": "R@10", "recall_at_1": "R@1"}
WHAT = {
    "digits": "random trainings on the halves of digits (τ, batch, steps, λ, d, learning rate)",
    "glyphs": "trainings on pictures of characters and their names (τ, batch, steps, λ, seed)",
    "sentence encoder": "variants of a real sentence encoder on docstrings and code (first k, PCA, signs, 4 bits, "
    "noise, mean removal)",
}


def taken(results: Json) -> Json:
    """What the pages show of a run."""
    parts = ("pairs", "negatives", "spearman", "mean_square_z", "signs")
    sets = {
        name: {"models": len(found["models"]), **{part: found[part] for part in parts}}
        for name, found in results["sets"].items()
    }
    settings = {key: value for key, value in results["settings"].items() if key != "embeddings"}
    return {"settings": settings, "sets": sets, "stopped": results["stopped"]}


def interval(found: Json) -> str:
    return f"{found['value']:.3f} ({found['low']:.2f} to {found['high']:.2f})".replace("-", "−")


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |" for line in lines)


def found(record: Json) -> str:
    """The table of correlations, that of signs, and the paired z."""
    sets = record["sets"]
    sizes = [f"{name}: {one['models']} models, {one['pairs']:,} pairs" for name, one in sets.items()]
    correlations = []
    for key, words in MEASURES.items():
        cells = [interval(one["spearman"][key]) for one in sets.values()]
        correlations.append([words, *(f"**{cell}**" if key == "information" else cell for cell in cells)])
    signs = []
    for name, one in sets.items():
        for at, size in enumerate(one["signs"]["sizes"]):
            cells = [f"{one['signs'][key][at]:.2f}" for key in SIGNS]
            signs.append([name, str(size), f"**{cells[0]}**", *cells[1:]])
    z = [
        f"{name}: "
        + ", ".join(f"{'I' if k == 'information' else w} {one['mean_square_z'][k]:.1f}" for k, w in SIGNS.items())
        for name, one in sets.items()
    ]
    what = "; ".join(WHAT[name] for name in sets)
    options = " ".join(f"--{key} {value}" for key, value in record["settings"].items())
    return "\n\n".join(
        [
            f"{what[0].upper()}{what[1:]}. Intervals over the models. From `{options}`.",
            table(["Spearman with R@10", *sizes], correlations),
            "How often n pairs, drawn at random, give the sign that all pairs give, between neighbours in the order by "
            "shared information:",
            table(["", "pairs", *SIGNS.values()], signs),
            "![R@10 against shared information and against the loss, and the curve of signs](gallery/ranking.png)",
            "Mean square of the paired z between neighbours, on all pairs (1 is no difference at all): "
            f"{'; '.join(z)}.",
        ]
    )


def gallery(record: Json) -> str:
    """Correlations in a line, and two controls each at its best."""
    told = []
    for name, one in record["sets"].items():
        loss, rankme = (one["spearman"][key]["value"] for key in ("loss", "rankme"))
        own = interval(one["spearman"]["information"])
        told.append(f"{name}, {one['models']} models: {own}, the loss at its own τ {loss:.3f}, RankMe {rankme:.3f}")
    stopped = []
    for tau in dict.fromkeys(row["temperature"] for row in record["stopped"]):
        plain, control = (row for row in record["stopped"] if row["temperature"] == tau)
        at_best, last = ([row[f"recall_at_10_{when}"] for row in (plain, control)] for when in ("stopped", "last"))
        stopped.append(
            f"at τ = {tau:g} R@10 on the other half is {at_best[0]:.3f} without control and {at_best[1]:.3f} with "
            f"λ = 3/4 (at the last step {last[0]:.3f} and {last[1]:.3f})"
        )
    return (
        f"Spearman's correlation of shared information with recall at 10: {'; '.join(told)}.\n"
        "Two controls compared each at its best, stopped where shared information on one half of the unseen pairs is "
        f"highest: {'; '.join(stopped)}."
    ).replace("-", "−")


def shown(record: Json) -> dict[tuple[Path, str], str]:
    """What stands between the marks of each page."""
    return {(PAGE, "ranking: found"): f"\n{found(record)}\n", (GALLERY, "ranking: gallery"): f"\n{gallery(record)}\n"}


def main() -> None:
    """Take a run over, if one is named, and write the pages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", help="that infomech reproduce ranking wrote")
    folder = parser.parse_args().folder
    if folder is not None:
        RECORD.write_bytes(dump_json(taken(json.loads((folder / "results.json").read_text(encoding="utf-8")))))
        runpy.run_path(str(DOCS / "shrink_figures.py"))["shrink"](folder / "ranking.png", PICTURE)
    for (path, name), text in shown(json.loads(RECORD.read_text(encoding="utf-8"))).items():
        pattern = rf"(<!-- {re.escape(name)} -->).*?(<!-- end -->)"
        page, count = re.subn(
            pattern, lambda m, text=text: m[1] + text + m[2], path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        assert count == 1, f"{path} has {count} places for {name}"
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
