"""What `infomech correct` writes: scores before and after as JSON and Markdown, the corrected rows, the fitted maps."""

from collections.abc import Iterator
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from .._files import Json, check_target, dump_json, plain, write_folder
from .._markdown import bullets, document, table
from .._words import GAP, measure
from ..corrections import Score, Scored
from ..corrections.saving import CORRECTION_FILE, dump_correction
from .compare import delta_text, marked
from .schema import dump_npy
from .writing import md

HELD_OUT = "held-out-pairs.npy"
FILES = ("correct.json", "correct.md", "x.npy", "y.npy", CORRECTION_FILE, HELD_OUT)


def check_corrected(folder: Path, *, overwrite: bool = False) -> None:
    """Raise InputError if `save_corrected` would refuse the folder."""
    check_target(folder, owned=FILES, what="correction", overwrite=overwrite)


def save_corrected(
    scored: Scored,
    folder: Path,
    *,
    rows: tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]] | None = None,
    names: tuple[str, str] = ("x", "y"),
    overwrite: bool = False,
) -> Json:
    """Write the scores and, for a single correction, the corrected rows and what was fitted; all of it or nothing.

    Beside the corrected rows, ``held-out-pairs.npy`` names the pairs that the correction was not fitted on.

    Args:
        scored: from `infomech.corrections.score_corrections`.
        folder: where to.
        rows: all embeddings of both modalities; None leaves them and the maps out.
        names: of the modalities.
        overwrite: replace an earlier correction.

    Returns:
        What correct.json holds.
    """
    content = corrected_dict(scored, names)

    def files() -> Iterator[tuple[str, bytes]]:
        yield "correct.json", dump_json(content)
        yield "correct.md", corrected_markdown(scored, names).encode()
        if rows is not None:
            (correction,) = scored.fitted.values()
            for name, moved in zip("xy", correction.transform(*rows), strict=True):
                yield f"{name}.npy", dump_npy(moved.cpu().numpy())
            yield HELD_OUT, dump_npy(scored.held_out_pairs.numpy())
            yield CORRECTION_FILE, dump_correction(correction)

    write_folder(folder, files(), owned=FILES, what="correction", overwrite=overwrite)
    return content


def corrected_dict(scored: Scored, names: tuple[str, str]) -> Json:
    """The scores as JSON has them."""
    return {
        "names": list(names),
        "temperature": scored.temperature,
        "fitted_groups": scored.fitted_groups,
        "held_out_groups": scored.held_out_groups,
        "before": plain(scored.before),
        "after": {name: plain(score) for name, score in scored.after.items()},
        "changes": plain(scored.changes),
    }


def corrected_table(
    scored: Scored, names: tuple[str, str], *, errors: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table before and after: every gap measure, then recalls.

    ▲ and ▼ mark what lies higher and lower than before, where the 95% interval of the difference leaves out 0. Without
    errors each number still has the digits that its error allows.
    """
    recalls = _recalls(names)
    gaps = {key: measure(GAP, key, *names).label for key in scored.before.gap}
    shared = {} if scored.before.information is None else {"information": "shared information (nats)"}
    header = ["correction", *shared.values(), *gaps.values(), *recalls.values()]

    def line(score: Score) -> list[str]:
        estimates = score.gap | score.retrieval
        estimates |= {} if score.information is None else {"information": score.information}
        changes = scored.changes.get(score.method, {})
        shown = ((estimates[key], changes.get(key)) for key in (*shared, *gaps, *recalls))
        return [score.method, *(marked(estimate, change, error=errors) for estimate, change in shown)]

    return header, [line(score) for score in (scored.before, *scored.after.values())]


def _recalls(names: tuple[str, str]) -> dict[str, str]:
    first, second = names
    sides = (("x_to_y", first, second), ("y_to_x", second, first))
    return {f"{side}_recall_at_{k}": f"R@{k} {a} → {b}" for k in (1, 10) for side, a, b in sides}


def corrected_text(scored: Scored, names: tuple[str, str]) -> list[str]:
    """What the table does not say of each correction: how many gap measures it brings nearer to no gap; a line each.

    A measure moves closer if it comes nearer to the value that it has where there is no gap. Those without such a
    value, a centroid's norm say, do not count.
    """
    return [_effect(scored, method, names) for method in scored.after]


def _effect(scored: Scored, method: str, names: tuple[str, str]) -> str:
    closer, counted = 0, 0
    further: list[str] = []
    for key, before in scored.before.gap.items():
        words = measure(GAP, key, *names)
        if words.still is None:
            continue
        counted += 1
        after, change = scored.after[method].gap[key], scored.changes[method][key]
        nearer = abs(after.value - words.still) < abs(before.value - words.still)
        if change.apart and nearer:
            closer += 1
        elif change.apart:
            further.append(words.label)
    text = f"{method}: {closer} of {counted} gap measures move towards no gap"
    text += f"; away from it: {', '.join(further)}" if further else "; none moves away"
    shared = scored.changes[method].get("information")
    return text + ("" if shared is None else f"; shared information {delta_text(shared)}") + "."


def corrected_markdown(scored: Scored, names: tuple[str, str]) -> str:
    """The sentences and the table, and what they are."""
    header, rows = corrected_table(scored, names)
    how = (
        f"Fitted on {scored.fitted_groups:,} groups at random and scored on the other {scored.held_out_groups:,}, at "
        f"temperature τ = {scored.temperature:g}; ± is one standard error, by group. ▲ and ▼ mark what lies higher and "
        "lower than before, where the 95% interval of the difference leaves out 0: a correction that closes one "
        "measure of the gap may open another."
    )
    title = f"{md(names[0])} and {md(names[1])}: corrections of the gap"
    columns = [[md(cell) for cell in row] for row in zip(header, *rows, strict=True)]
    return document(title, how, bullets(map(md, corrected_text(scored, names))), table(columns[0], columns[1:]))


LEGEND = (
    "▲ and ▼ mark what lies higher and lower than before, where the 95% interval of the difference leaves out 0. For "
    "recall and shared information higher is better; for the gap it is what comes nearer to no gap:"
)

__all__ = [
    "HELD_OUT",
    "LEGEND",
    "check_corrected",
    "corrected_dict",
    "corrected_markdown",
    "corrected_table",
    "corrected_text",
    "save_corrected",
]
