"""What `infomech correct` writes: scores before and after as JSON and Markdown, the corrected rows, the fitted maps."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from .._files import Json, check_target, dump_json, plain, write_folder
from .._markdown import document, table
from .._words import with_error
from ..corrections import Score, Scored
from .writing import md

FILES = ("correct.json", "correct.md", "x.npy", "y.npy", "correction.safetensors")
SHOWN = {
    "energy_distance": "energy distance",
    "mmd2_median": "MMD², median bandwidth",
    "centroid_gap": "centroid gap",
    "smoothed_divergence": "Dsym (nats)",
    "separability": "separability",
}


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
                buffer = io.BytesIO()
                np.save(buffer, moved.cpu().numpy(), allow_pickle=False)
                yield f"{name}.npy", buffer.getvalue()
            parameters = {key: tensor.cpu().clone() for key, tensor in correction.parameters.items()}
            yield "correction.safetensors", save(parameters, metadata={"method": correction.name})

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
    }


def corrected_table(scored: Scored, names: tuple[str, str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table before and after."""
    first, second = names
    recalls = {
        f"{side}_recall_at_{k}": f"R@{k} {a} → {b}"
        for k in (1, 10)
        for side, a, b in (("x_to_y", first, second), ("y_to_x", second, first))
    }
    header = ["correction", *SHOWN.values(), *recalls.values()]

    def line(score: Score) -> list[str]:
        gaps = [with_error(score.gap[key]) for key in SHOWN]
        return [score.method, *gaps, *(with_error(score.retrieval[key]) for key in recalls)]

    return header, [line(score) for score in (scored.before, *scored.after.values())]


def corrected_markdown(scored: Scored, names: tuple[str, str]) -> str:
    """The table, and what it is."""
    header, rows = corrected_table(scored, names)
    how = (
        f"Fitted on {scored.fitted_groups:,} groups at random and scored on the other {scored.held_out_groups:,}, "
        f"at temperature τ = {scored.temperature:g}; ± is one standard error, by group."
    )
    title = f"{md(names[0])} and {md(names[1])}: corrections of the gap"
    return document(title, how, table([md(cell) for cell in header], rows))


__all__ = ["check_corrected", "corrected_dict", "corrected_markdown", "corrected_table", "save_corrected"]
