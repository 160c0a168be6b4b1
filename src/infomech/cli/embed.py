"""The command that embeds data with a model: embed."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import AsJson, Names, Quiet, command, printable
from .inputs import check_apart, two_names
from .show import print_json, rate_bar

if TYPE_CHECKING:
    from ..embedding import Extraction


@command("infomech embed coco -m open_clip:ViT-B-32:laion2b_s34b_b79k -o embeddings --device cuda --precision bf16")
def embed(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="A COCO folder; a folder of images, and its table of captions (CSV, JSONL, Parquet); webdataset tar "
            "files or a folder of them; two text files, line by line, or a table with two columns of texts.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The model, in one of the forms above.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the embeddings are written to.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights for an open_clip architecture, in place of a tag."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="coco, folder, webdataset or texts, where it cannot be told from DATA.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of COCO.")] = "val2017",
    image_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that names the image (or first text).")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that holds the caption.")
    ] = None,
    names: Names = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Samples a batch.")] = 64,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or fp16 of the model; what is written is float32.")
    ] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes the first GPU, if any.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Threads that read and prepare items.")] = 4,
    normalize: Annotated[bool, typer.Option(help="Bring rows to unit length.")] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first damaged item; default: name and skip.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove embeddings that the folder holds.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Embed paired data with a model of your choice, for `infomech report`.

    MODEL is one of

    - open_clip:ARCHITECTURE:TAG, with a pretrained tag, or open_clip:ARCHITECTURE with --checkpoint
    - hf:NAME, CLIP or SigLIP from Hugging Face
    - sentence-transformers:NAME
    - module:function of your own, which returns an encoder

    Writes shards of both modalities, the pair index and the keys. Interrupt it whenever you like: the same command goes
    on where it stopped, and refuses a folder with embeddings of another model, checkpoint, preprocessing or data.
    """
    from .._checks import InputError
    from ..embedding import Columns, ExtractOptions, extract, open_source, resolve_device
    from ..embedding.cache import OWNED
    from ..embedding.encoders.encoder import ModelChoice
    from ..embedding.encoders.loading import load_towers

    for name, value, choices in (
        ("kind", kind, ("coco", "folder", "webdataset", "texts")),
        ("precision", precision, ("fp32", "bf16", "fp16")),
    ):
        if value is not None and value not in choices:
            raise InputError(f"--{name} is {value!r}; it is one of {', '.join(choices)}")
    both = None if names is None else two_names(names)
    source = open_source(data, kind=kind, columns=Columns(image_column, caption_column), split=split)  # type: ignore[arg-type]
    chosen = resolve_device(device)
    towers = load_towers(ModelChoice(model, checkpoint, chosen), [source.first, "text"])
    check_apart(out, OWNED, [str(path) for path in data])
    options = ExtractOptions(
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]
        device=chosen,
        normalize=normalize,
        workers=workers,
        strict=strict,
    )
    with rate_bar("Embedding", source.count, quiet=quiet) as step:
        result = extract(source, towers, out, options=options, names=both, overwrite=overwrite, progress=step)
    if source.ignored and not as_json:
        shown = ", ".join(source.ignored[:3])
        typer.echo(f"ignored: {len(source.ignored):,} hidden or unfinished files and check sums ({shown})", err=True)
    _print_extraction(result, as_json=as_json)


def _print_extraction(result: "Extraction", *, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict())
        return
    for key, reason in result.skipped[:5]:
        typer.echo(printable(f"skipped: {key} {reason}"), err=True)
    if len(result.skipped) > 5:
        typer.echo(
            f"skipped: {len(result.skipped) - 5:,} more; all are named in {result.folder}/manifest.json", err=True
        )
    rate = f", {result.computed / result.seconds:,.0f} samples a second" if result.computed else ", all there before"
    typer.echo(
        f"{result.rows[0]:,} + {result.rows[1]:,} rows of {result.dimension} in {result.folder}; "
        f"{len(result.skipped)} skipped; {result.seconds:.1f} s{rate}"
    )
    tau = " -t TAU" if result.temperature is None else ""
    typer.echo(f"\nNow: infomech report {shlex.quote(str(result.folder))}{tau} -o report")
