"""Commands that choose between encodings of the same pairs: rank, shrink."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import AsJson, First, Normalize, Overwrite, Pairs, Quiet, Second, Seed, command
from .inputs import check_apart, find_encoding, path_and_key
from .show import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..report import Ranking
    from ..report.shrunk import Shrunk

OptionalOut = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Also write everything to this folder.")
]
Negatives = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        help="N + 1 of the comparison; by default 1,024, or the largest power of two up to a quarter of the groups.",
    ),
]


@command("infomech rank clip/ siglip/ image.npy,text.npy -o ranking")
def rank(
    encodings: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODING...", help="Folders of 'infomech embed', or both files with a comma between: X,Y."
        ),
    ],
    out: OptionalOut = None,
    pairs: Pairs = None,
    names: Annotated[
        str | None, typer.Option(help="Names of the encodings, with commas between; the folders' names by default.")
    ] = None,
    batch_size: Negatives = None,
    normalize: Normalize = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Rank encodings of the same pairs by how many nats they share, a line each.

    Shared information is log(N + 1) less the lowest InfoNCE over the temperature: comparable between models whatever
    they were trained with, on pairs that none of them has seen. Beside it stand the paired difference to the best,
    recall at 1 and 10, and the size of a row. With -o it writes rank.json, rank.md and a figure.
    """
    from .._checks import InputError
    from ..report import Ranking
    from ..report import rank as rank_encodings

    if out is not None:
        Ranking.check_folder(out, overwrite=overwrite)
    files = [find_encoding(name, pairs) for name in encodings]
    if out is not None:
        check_apart(out, (), [path for each in files for path in each.paths])
    chosen = _names(names, encodings)
    index = _common_pairs([each.pairs for each in files], chosen)
    known = {name: each.known_ids() for name, each in zip(chosen, files, strict=True)}
    ids = {name: each for name, each in known.items() if each is not None}
    if len(encodings) < 2:
        raise InputError(f"there is {len(encodings)} encoding to rank; name at least two")
    rows = {name: each.read() for name, each in zip(chosen, files, strict=True)}
    with progress_bar("Ranking", quiet=quiet) as step:
        found = rank_encodings(
            rows, pairs=index, batch_size=batch_size, normalize=normalize, seed=seed, ids=ids, progress=step
        )
    if out is not None:
        found.save(out, overwrite=overwrite)
    written = None if out is None else f"Ranking: {out / 'rank.md'}"
    _show(found, written, as_json=as_json)


@command("infomech shrink image.npy text.npy -o small")
def shrink(
    x: First = None,
    y: Second = None,
    out: OptionalOut = None,
    apply: Annotated[
        Path | None,
        typer.Option("--apply", metavar="DIR", help="Write the codes of new rows by the map of an earlier run."),
    ] = None,
    pairs: Pairs = None,
    batch_size: Negatives = None,
    share: Annotated[float, typer.Option(help="Share of the groups to fit on; the others are for scoring.")] = 0.5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say what fewer dimensions and fewer bits cost, in nats and in recall, and write the smallest map that is as good.

    Tried are the first k dimensions (Matryoshka) and the k main ones (PCA), int8, int4, signs and product codes (with
    faiss), each with and without removing each modality's mean; fitted on one part of the groups, scored on the other.
    The smallest rows within 0.05 nats of the full ones are marked. With -o it writes shrink.json, shrink.md, a figure
    and map.safetensors; with --apply DIR the codes of new rows, x.npy and y.npy.
    """
    from .._checks import InputError
    from ..report.shrunk import FILES, Shrunk
    from ..report.shrunk import shrink as shrink_rows

    if apply is not None:
        _apply(apply, x, y, out, overwrite=overwrite)
        return
    if x is None:
        raise InputError("no files are given; name the embeddings of both modalities, or a folder of infomech embed")
    files = find_encoding(x if y is None else f"{x},{y}", pairs)
    if out is not None:
        Shrunk.check_folder(out, overwrite=overwrite)
        check_apart(out, FILES, files.paths)
    index = _common_pairs([files.pairs], ["the embeddings"])
    with progress_bar("Shrinking and scoring", quiet=quiet) as step:
        found = shrink_rows(*files.read(), pairs=index, batch_size=batch_size, share=share, seed=seed, progress=step)
    if out is not None:
        found.save(out, overwrite=overwrite)
    written = None
    if out is not None:
        written = f"Written to {out}" + ("" if found.chosen is None else f"; the map: {out / 'map.safetensors'}")
    _show(found, written, as_json=as_json)


def _apply(folder: Path, x: str | None, y: str | None, out: Path | None, *, overwrite: bool) -> None:
    """Codes of new rows, by the map that was chosen."""
    import io

    import numpy as np

    from .._checks import InputError
    from .._files import write_folder
    from ..compression import load
    from .inputs import read_rows

    if out is None or x is None:
        raise InputError("--apply needs X (and Y) and -o DIR, the folder that their codes are written to")
    made = load(folder)
    files = {"x": x} | ({} if y is None else {"y": y})
    check_apart(out, ("x.npy", "y.npy"), list(files.values()))
    written = []
    for side, file in files.items():
        buffer = io.BytesIO()
        np.save(buffer, made.encode(read_rows(file), side="x" if side == "x" else "y").numpy(), allow_pickle=False)
        written.append((f"{side}.npy", buffer.getvalue()))
    write_folder(out, iter(written), owned=("x.npy", "y.npy"), what="codes", overwrite=overwrite)
    typer.echo(f"{made.plan.name}, {made.bytes_a_row:,} bytes a row: {', '.join(str(out / n) for n, _ in written)}")


def _show(found: "Ranking | Shrunk", written: str | None, *, as_json: bool) -> None:
    """The result on the standard output: as JSON, or as a table with remarks and where it was written."""
    if as_json:
        print_json(found.to_dict())
        return
    typer.echo(f"{found.title()}\n")
    print_table(found.header, found.lines())
    typer.echo("")
    for line in found.remarks():
        typer.echo(line)
    if written is not None:
        typer.echo(f"\n{written}")


def _names(names: str | None, encodings: "Sequence[str]") -> list[str]:
    from .._checks import InputError

    if names is None:
        given = [Path(name.partition(",")[0]) for name in encodings]
        stems = [path.stem if path.suffix else path.name for path in given]
        chosen = [_folder(name) or stem for name, stem in zip(encodings, stems, strict=True)]
        if len(set(chosen)) < len(chosen):
            chosen = stems
        if len(set(chosen)) < len(chosen):
            chosen = [str(path.with_suffix("")) for path in given]
    else:
        chosen = [name.strip() for name in names.split(",")]
    if len(chosen) != len(encodings) or not all(chosen):
        raise InputError(f"{len(chosen)} names for {len(encodings)} encodings; give one name for each, or none")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"names are not distinct ({', '.join(chosen)}); give each encoding its own with --names")
    return chosen


def _folder(encoding: str) -> str:
    """The name of the folder that two files of an encoding lie in, where it was named with them; or empty."""
    files = {path_and_key(file)[0] for file in encoding.split(",")}
    folders = {Path(file).parent for file in files}
    name = folders.pop().name if len(files) == 2 and len(folders) == 1 else ""
    return name.strip(".")


def _common_pairs(files: "Sequence[str | None]", names: "Sequence[str]") -> Any:
    """The pairs of all encodings; None where row i belongs to row i."""
    import torch

    from .._checks import InputError
    from ..io import as_pairs, read_pairs

    read = [None if file is None else torch.as_tensor(as_pairs(read_pairs(file))) for file in files]
    known = [(name, index) for name, index in zip(names, read, strict=True) if index is not None]
    for name, index in known[1:]:
        if not index.equal(known[0][1]):
            raise InputError(
                f"{name} and {known[0][0]} have other pairs, or another order of them; encodings are ranked on the "
                "same rows in the same order"
            )
    return known[0][1] if known else None


__all__ = ["rank", "shrink"]
