"""What `infomech score` writes: the fitted ratio, a page with its curves, and the table beside other scores."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from .._files import Json, check_target, dump_json, environment, plain, write_folder
from .._markdown import bullets, document, table
from .._words import interval_text, value_text
from ..diagnosis import Estimate, Finding
from ..scores import DensityRatio, ScoreComparison, ScoreSummary
from ..scores.comparison import DIRECTIONS, MEASURES
from ..scores.saving import RATIO_FILE, dump_ratio
from .compare import marked
from .page import GENERAL, render
from .score_charts import critic_name, score_charts, score_notes, score_tables
from .writing import MARKS, md, md_code

LEGEND = (
    "▲ and ▼ mark what lies higher and lower than the cosine's, where the 95% interval of the paired difference leaves "
    "out 0. Higher is better but for hubness."
)
FILES = ("score.html", "score.json", "score.md", RATIO_FILE)
_WORDS = {
    "information": "I (nats)",
    "recall_at_1": "R@1",
    "recall_at_10": "R@10",
    "mean_reciprocal_rank": "MRR",
    "true_positive_rate": "TPR at 1e-3",
    "hubness": "hubness",
}
TERMS = (
    *GENERAL,
    ("density ratio", "How much likelier two rows are a pair than two random rows, as a logarithm in nats."),
    ("field", "The log of a row's mean kernel with the reference: the part of a score that belongs to the row."),
    (
        "I",
        "Shared information in this direction: log(N + 1) less the lowest InfoNCE of the score over the temperature, "
        "in nats; the table is sorted by the mean of both directions.",
    ),
    ("hubness", "Skewness of how often a candidate is among the first ten; 0 without hubs."),
    (
        "TPR at 1e-3",
        "Share of true pairs above the threshold that one random pair in 1,000 is above; none where a score has no "
        "common scale, so that scores of different queries cannot be held against one threshold.",
    ),
)


def check_scored(folder: Path, *, overwrite: bool = False) -> None:
    """Raise InputError if `save_scored` would refuse the folder."""
    check_target(folder, owned=FILES, what="score", overwrite=overwrite)


def scored_dict(
    summary: ScoreSummary, comparison: ScoreComparison, names: tuple[str, str], findings: Sequence[Finding]
) -> Json:
    """The content of score.json."""
    return {
        "names": list(names),
        "summary": plain(summary.to_dict()),
        "comparison": plain(comparison.to_dict()),
        "findings": plain(list(findings)),
        "provenance": environment(),
    }


def save_scored(
    ratio: DensityRatio,
    summary: ScoreSummary,
    comparison: ScoreComparison,
    folder: Path,
    *,
    findings: Sequence[Finding],
    names: tuple[str, str] = ("x", "y"),
    overwrite: bool = False,
) -> Json:
    """Write the fitted ratio, score.html, score.json and score.md; all of it or nothing.

    Args:
        ratio: that was fitted.
        summary: of its own pairs.
        comparison: of it with other scores.
        folder: where to.
        findings: of `score_findings`.
        names: of the two modalities.
        overwrite: replace what an earlier run wrote.

    Returns:
        What score.json holds.
    """
    content = scored_dict(summary, comparison, names, findings)

    def files() -> Iterator[tuple[str, bytes]]:
        yield RATIO_FILE, dump_ratio(ratio)
        yield "score.json", dump_json(content)
        yield "score.md", _markdown(content, comparison, names, findings).encode("utf-8", errors="replace")
        yield "score.html", _page(content, comparison, names)

    write_folder(folder, files(), owned=FILES, what="score", overwrite=overwrite)
    return content


def comparison_table(comparison: ScoreComparison, side: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one direction: each measure, ▲ and ▼ where it differs from the cosine's."""
    header = ["score", *(_WORDS[key] for key in MEASURES)]
    rows = []
    for method in comparison.methods:
        changes = comparison.differences[side].get(method, {})
        cells = [marked(comparison.estimates[side][method][key], changes.get(key)) for key in MEASURES]
        rows.append([method, *cells])
    return header, rows


def direction_words(side: str, names: tuple[str, str]) -> str:
    """The direction of a search in words."""
    first, second = names if side == "x_to_y" else names[::-1]
    return f"{first} → {second}"


def _about(comparison: ScoreComparison) -> str:
    return (
        f"{comparison.groups:,} groups, about {comparison.candidates:,} candidates; each half of the groups is scored "
        f"by what was learned on the other half. ± is one standard error, by group. {LEGEND}"
    )


def _markdown(content: Json, comparison: ScoreComparison, names: tuple[str, str], findings: Sequence[Finding]) -> str:
    saved = content["summary"]
    found = [f"**{md(f.title)}**. {md_code(f.text)}" for f in findings]
    blocks = [bullets(found), *map(md, score_notes(saved, names))]
    for each in score_tables(saved):
        rows = [
            [line.measure.label, *(f"{value_text(c)} ({interval_text(c)})" if isinstance(c, Estimate) else "n/a"
                                   for c in line.cells)]
            for line in each.lines
        ]  # fmt: skip
        blocks += [md(each.note), table([each.head, *(column.name for column in each.columns)], rows)]
    blocks += ["## Beside other scores", md(_about(comparison))]
    for side in DIRECTIONS:
        header, lines = comparison_table(comparison, side)
        blocks += [f"### {md(direction_words(side, names))}", table(header, [[md(c) for c in row] for row in lines])]
    return document(f"{md(names[0])} and {md(names[1])}: what score means a match", *blocks)


def _page(content: Json, comparison: ScoreComparison, names: tuple[str, str]) -> bytes:
    saved = content["summary"]
    tables = {each.key: each for each in score_tables(saved)}
    directions = [(direction_words(side, names), *comparison_table(comparison, side)) for side in DIRECTIONS]
    return render(
        "score.html",
        charts=score_charts(saved),
        names=names,
        findings=[f | {"mark": MARKS[f["severity"]]} for f in content["findings"]],
        section={
            "title": "Thresholds and curves",
            "sentences": score_notes(saved, names),
            "tables": tables,
            "critic": critic_name(saved),
        },
        about=_about(comparison),
        directions=directions,
        terms=TERMS,
        provenance=[(key.replace("_", " "), str(value)) for key, value in content["provenance"].items()],
    )


__all__ = [
    "FILES",
    "LEGEND",
    "check_scored",
    "comparison_table",
    "direction_words",
    "save_scored",
    "scored_dict",
]
