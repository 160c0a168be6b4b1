"""What the density ratio buys on real pairs: the table, the picture and the line that the documentation shows.

    python benchmarks/scores_on_real_pairs.py            # measure, and write docs/score.json
    python benchmarks/scores_on_real_pairs.py --shown    # docs/score.json once more as table, line and picture

Docstrings and bodies of 3,000 functions of Python's standard library under all-MiniLM-L6-v2 at its own temperature, and
the halves of 497 unseen handwritten digits under two small towers. Half of the pairs teach every score what it may
learn, the other half is scored, and the other way round; four random halvings. Three minutes on one thread, most of
them the encoder's.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infomech._files import dump_json, environment, plain
from infomech.embedding import ExtractOptions, extract
from infomech.embedding.sources import PairedTexts
from infomech.experiments.digits.halves import load_halves, train_two_tower
from infomech.experiments.real.functions import library_version, standard_library_functions
from infomech.experiments.real.sentence_encoder import load_sentence_towers
from infomech.report.drawing import INK, MUTED, Axes, Figure, bare_axes, blank_figure, figure_bytes, legend
from infomech.report.style import on_paper
from infomech.scores import DensityRatio, compare_scores, summarise

DOCS = Path(__file__).parents[1] / "docs"
RECORD, PICTURE, PAGE = DOCS / "score.json", DOCS / "score.png", DOCS / "what-score-is-a-match.md"
README = DOCS.parent / "README.md"
FUNCTIONS = 3000
HALVINGS = 4
STEPS = {"digits, 200 steps": 200, "digits, 1,500 steps": 1500}
SENTENCES = "sentence encoder"
DIRECTIONS = {
    SENTENCES: {"x_to_y": "docstring → code", "y_to_x": "code → docstring"},
    **{name: {"x_to_y": "left → right", "y_to_x": "right → left"} for name in STEPS},
}
RECALLS = ("recall_at_1", "recall_at_10")
Json = dict[str, Any]


def sentences(folder: Path | None) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Embeddings of docstrings and bodies, kept in `folder` for another time, and the encoder's temperature."""
    functions = standard_library_functions(FUNCTIONS)
    source = PairedTexts([(f.docstring, f.body) for f in functions], names=("docstring", "body"))
    with tempfile.TemporaryDirectory() as temporary:
        towers = load_sentence_towers()
        found = extract(source, towers, (folder or Path(temporary)) / "e", options=ExtractOptions(batch_size=64))
        x, y, _ = found.load()
        return torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y)), float(towers["text"].temperature or 0.05)


def digits(steps: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Halves of the digits that the towers were not trained on."""
    data = load_halves()
    model = train_two_tower(data, steps=steps, temperature=0.07)
    return model.embed_x(data.test_x), model.embed_y(data.test_y), 0.07


def measured(x: torch.Tensor, y: torch.Tensor, temperature: float) -> Json:
    """The whole table of the first halving, paired changes of the ratio in all of them, and what `summarise` says."""
    found = [
        compare_scores(x, y, temperature=temperature, seed=seed, methods=None if seed == 0 else ["density ratio"])
        for seed in range(HALVINGS)
    ]
    summary = summarise(DensityRatio(temperature).fit(x, y)).to_dict()
    kept = ("temperature", "weights", "groups", "thresholds", "ratio", "critic")
    halvings = [each.to_dict()["differences"] for each in found]
    return {
        "comparison": found[0].to_dict(),
        "halvings": [{side: part["density ratio"]["recall_at_1"] for side, part in each.items()} for each in halvings],
        "summary": {key: summary[key] for key in kept},
        "errors": [{key: r[key] for key in ("what", "calibrated", "error")} for r in summary["reliability"]],
    }


def rounded(value: Any) -> Any:
    """Numbers with six digits: a record that a person can read."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def measure(names: list[str], folder: Path | None) -> Json:
    """The record with some of its sets measured again."""
    record: Json = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"sets": {}}
    for name in names:
        x, y, temperature = sentences(folder) if name == SENTENCES else digits(STEPS[name])
        found = {"environment": environment(), **measured(x, y, temperature)}
        if name == SENTENCES:
            found |= {"functions": FUNCTIONS, "library": library_version()}
        record["sets"][name] = rounded(plain(found))
    return {"sets": {name: record["sets"][name] for name in DIRECTIONS if name in record["sets"]}}


def cell(found: Json, change: Json | None) -> str:
    """A value with half its 95% interval, and what the paired difference from the cosine says."""
    if found["value"] is None:
        return "—"
    half = (found["high"] - found["low"]) / 2
    arrow = "" if change is None or not change["apart"] else " ▲" if change["value"] > 0 else " ▼"
    return f"{found['value']:.3f} ± {half:.3f}{arrow}"


def table(record: Json, name: str) -> str:
    """Shared information, R@1 and R@10 in both directions, and true positives at a rate, of every score."""
    comparison = record["sets"][name]["comparison"]
    words = DIRECTIONS[name]
    short = {"information": "I", "recall_at_1": "R@1", "recall_at_10": "R@10"}
    columns = [(side, key) for side in words for key in short]
    heads = [f"{short[key]} {words[side]}" for side, key in columns]
    columns.append(("x_to_y", "true_positive_rate"))
    heads.append("TPR at 1e-3")
    lines = ["| score | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in comparison["estimates"]["x_to_y"]:
        cells = [
            cell(comparison["estimates"][side][method][key], comparison["differences"][side].get(method, {}).get(key))
            for side, key in columns
        ]
        bold = "**" if method.startswith("density ratio") else ""
        lines.append(f"| {bold}{method}{bold} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def digits_table(record: Json) -> str:
    """Recall of the cosine and of the ratio, and the paired change, of both trainings and directions."""
    heads = [
        "towers",
        "search",
        *(f"{key}, {what}" for key in ("R@1", "R@10") for what in ("cosine → ratio", "change")),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in STEPS:
        comparison = record["sets"][name]["comparison"]
        for side, words in DIRECTIONS[name].items():
            cells = [name.removeprefix("digits, "), words]
            for key in RECALLS:
                both = [comparison["estimates"][side][m][key]["value"] for m in ("cosine", "density ratio")]
                change = comparison["differences"][side]["density ratio"][key]
                cells.append(f"{both[0]:.3f} → {both[1]:.3f}")
                cells.append(
                    f"{change['value']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})".replace("-", "−")
                )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def errors(record: Json) -> str:
    """How far stated probabilities are off, as the ratio is and after a fitted map."""
    as_is, fitted, first = (each["error"] for each in record["sets"][SENTENCES]["errors"])
    words = [f"{e['value']:.3f} ± {(e['high'] - e['low']) / 2:.3f}" for e in (as_is, fitted, first)]
    return (
        f"by {words[0]} on the average at even odds, by {words[1]} after an isotonic map; that of the first candidate "
        f"by {words[2]}"
    )


def line(record: Json) -> str:
    """The gain in one line, for the README."""
    comparison = record["sets"][SENTENCES]["comparison"]
    estimates, changes = (comparison[key]["y_to_x"] for key in ("estimates", "differences"))
    before, after = (estimates[m]["recall_at_1"]["value"] for m in ("cosine", "density ratio"))
    change = changes["density ratio"]["recall_at_1"]
    one, other = (estimates[m]["true_positive_rate"]["value"] for m in ("cosine", "density ratio, both fields"))
    return (
        f"R@1 from code to docstring {before:.3f} → {after:.3f} (paired gain {change['value']:.3f}, 95% interval "
        f"{change['low']:.3f} to {change['high']:.3f}), and {other:.0%} of the true pairs found in place of {one:.0%} "
        "at one false alarm in 1,000"
    )


def nats(record: Json) -> str:
    """What the ratio gives back of shared information, alone and with means removed, in both directions."""
    changes = record["sets"][SENTENCES]["comparison"]["differences"]
    words = []
    for method in ("density ratio", "mean removal", "density ratio, means removed"):
        found = [changes[side][method]["information"] for side in DIRECTIONS[SENTENCES]]
        words.append(" and ".join(f"{c['value']:.2f} ± {(c['high'] - c['low']) / 2:.2f}" for c in found))
    return f"the ratio gives back {words[0]} nats of I, mean removal {words[1]}, both {words[2]}"


def picture(record: Json) -> Figure:
    """True and random pairs by cosine and by ratio, each with its threshold at one random pair in 1,000."""
    summary = record["sets"][SENTENCES]["summary"]
    figure = blank_figure(9.6, 3.0)
    panels = figure.subplots(1, 3)
    for axes, score, label in zip(panels, ("critic", "ratio"), ("cosine", "log density ratio, nats"), strict=False):
        histogram(axes, summary, score)
        axes.set_xlabel(label)
    axes = panels[2]
    bare_axes(axes)
    for score, name, colour, dash in (("ratio", "density ratio", "x", "-"), ("critic", "cosine", "y", "--")):
        look = summary[score]
        axes.plot(look["false_rates"], look["true_rates"], dash, color=on_paper(colour), linewidth=2, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true pairs found")
    axes.set_ylim(0, 1)
    legend(axes)
    return figure


def histogram(axes: Axes, summary: Json, score: str) -> None:
    """Densities of one score, and what its threshold finds."""
    bare_axes(axes)
    look = summary[score]
    for kind, name, colour in (("random", "random pairs", "cross"), ("true", "true pairs", "pair")):
        axes.stairs(look[kind], look["edges"], fill=True, color=on_paper(colour), alpha=0.25)
        axes.stairs(look[kind], look["edges"], color=on_paper(colour), linewidth=1.6, label=name)
    (cut,) = (t[score] for t in summary["thresholds"] if t["goal"].endswith(" 0.001"))
    at, share = cut["score"]["value"], cut["true_positive_rate"]["value"]
    axes.axvline(at, color=MUTED, linestyle=":", linewidth=1.4)
    text = f" {at:.2f}: one random\n pair in 1,000 is above,\n {share:.0%} of the true ones"
    axes.text(at, 0.97, text, transform=axes.get_xaxis_transform(), va="top", fontsize=8.5, color=INK)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    legend(axes)


def shown(record: Json) -> dict[tuple[Path, str], str]:
    """What stands between the marks of which page."""
    return {
        (PAGE, "score: sentences"): f"\n{table(record, SENTENCES)}\n",
        (PAGE, "score: digits"): f"\n{digits_table(record)}\n",
        (PAGE, "score: errors"): errors(record),
        (PAGE, "score: nats"): nats(record),
        (README, "score: gain"): line(record),
    }


def put(path: Path, name: str, text: str) -> None:
    """Replace what stands between a page's marks."""
    page = path.read_text(encoding="utf-8")
    pattern = rf"(<!-- {re.escape(name)} -->).*?(<!-- end -->)"
    changed, count = re.subn(pattern, lambda m: m[1] + text + m[2], page, flags=re.DOTALL)
    assert count == 1, f"{path} has {count} places for {name}"
    path.write_text(changed, encoding="utf-8")


def main() -> None:
    """Measure and record, or show the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shown", action="store_true", help="draw and write the record again, without measuring")
    parser.add_argument("--only", choices=list(DIRECTIONS), help="measure one of the sets, the others as recorded")
    parser.add_argument("--folder", type=Path, help="keep the encoder's embeddings here")
    options = parser.parse_args()
    if not options.shown:
        chosen = [options.only] if options.only else list(DIRECTIONS)
        RECORD.write_bytes(dump_json(measure(chosen, options.folder)))
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if len(record["sets"]) < len(DIRECTIONS):
        return
    for (path, name), text in shown(record).items():
        put(path, name, text)
    PICTURE.write_bytes(figure_bytes(picture(record), "png"))


if __name__ == "__main__":
    main()
