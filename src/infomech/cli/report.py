"""Commands on two files of embeddings: report, doctor, compare, correct."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import (
    AsJson,
    BatchSize,
    First,
    Labels,
    Names,
    Normalize,
    Overwrite,
    Pairs,
    Second,
    Seed,
    Temperature,
    command,
)
from .show import print_findings, print_json, progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from ..diagnosis import Settings
    from ..report import Report


@command("infomech report image.npy text.npy -t 0.01 -o report --names image,text --batch-size 4096")
def report(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the report is written to.")],
    x: First = None,
    y: Second = None,
    saved: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Draw a saved report again, without the embeddings."),
    ] = None,
    temperature: Temperature = 0.07,
    pairs: Pairs = None,
    labels: Labels = None,
    names: Names = "x,y",
    batch_size: BatchSize = None,
    normalize: Normalize = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    figures: Annotated[bool, typer.Option(help="Write the figures as PNG and PDF, too.")] = True,
    curves: Annotated[
        bool,
        typer.Option("--curves", help="Also measure budget and consistency over temperature and batch size (slower)."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Diagnose two files of paired embeddings and write a report.

    Writes report.html (open it in any browser; it needs no network), report.json, report.md, report.tex and figures/:
    what the loss is made of, how large the gap is, whether the batch suits the temperature, retrieval, and findings in
    plain words. Every number has a standard error and a 95% interval.
    """
    from .._checks import InputError
    from ..report import Report

    Report.check_folder(out, overwrite=overwrite)
    if saved is not None:
        if x is not None:
            raise InputError("both embeddings and --from are given; a saved report is drawn again without embeddings")
        result = Report.load(saved)
    else:
        settings = read_settings(
            temperature=temperature,
            pairs=pairs,
            labels=labels,
            names=names,
            batch_size=batch_size,
            normalize=normalize,
            seed=seed,
            curves=curves,
        )
        result = diagnose_files(*two_files(x, y), settings)
    page = result.save(out, overwrite=overwrite, figures=figures)
    if as_json:
        print_json(result.to_dict())
        return
    print_findings(result.findings)
    typer.echo(f"\nReport: {page}")


@command("infomech doctor image.npy text.npy -t 0.01 --strict")
def doctor(
    x: First = None,
    y: Second = None,
    temperature: Temperature = 0.07,
    pairs: Pairs = None,
    names: Names = "x,y",
    batch_size: BatchSize = None,
    normalize: Normalize = None,
    seed: Seed = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a finding is serious.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the findings on two files of paired embeddings, and write nothing.

    Exit code 0; with --strict, 1 if a finding is serious, so that a training pipeline can stop on it.
    """
    settings = read_settings(
        temperature=temperature, pairs=pairs, names=names, batch_size=batch_size, normalize=normalize, seed=seed
    )
    result = diagnose_files(*two_files(x, y), settings)
    if as_json:
        print_json(result.to_dict()["findings"])
    else:
        print_findings(result.findings)
    if strict and any(f.severity == "serious" for f in result.findings):
        raise typer.Exit(1)


@command("infomech compare before/ after/ -o comparison")
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that 'infomech report' wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the comparison is written to.")],
    names: Annotated[
        str | None, typer.Option(help="Names of the reports, with commas between; the folders' names by default.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put several reports side by side: one table, and retrieval against the gap.

    Writes compare.html, compare.json, compare.md and figures/.
    """
    from ..report import Comparison
    from ..report import compare as compare_reports

    Comparison.check_folder(out, overwrite=overwrite)
    chosen = names.split(",") if names is not None else None
    result = compare_reports(folders, names=chosen)
    page = result.save(out, overwrite=overwrite)
    if as_json:
        print_json(result.to_dict())
    else:
        typer.echo(f"Comparison: {page}")


@command("infomech correct image.npy text.npy --method mean-removal -o corrected")
def correct(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="centroid-shift, mean-removal, mean-and-scale, whitening, gaussian-transport or procrustes; "
            "all compares them and writes no embeddings.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that everything is written to.")],
    x: First = None,
    y: Second = None,
    temperature: Temperature = 0.07,
    pairs: Pairs = None,
    names: Names = "x,y",
    share: Annotated[float, typer.Option(help="Share of the groups to fit on; the others are for scoring.")] = 0.5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Correct the gap after training, and say what that does to gap and retrieval on groups it was not fitted on.

    Writes the corrected embeddings of all rows, the fitted maps, and the scores before and after.
    """
    from ..corrections import METHODS, score_corrections
    from ..io import read_pairs
    from ..report.corrected import check_corrected, corrected_table, save_corrected

    check_corrected(out, overwrite=overwrite)
    both = _two_names(names)
    embeddings = [_read(file) for file in two_files(x, y)]
    with progress_bar("Correcting and scoring") as step:
        scored = score_corrections(
            *embeddings,
            methods=tuple(METHODS) if method == "all" else (method,),
            pairs=None if pairs is None else read_pairs(pairs),
            temperature=temperature,
            share=share,
            seed=seed,
            progress=step,
        )
    rows = None if method == "all" else (embeddings[0], embeddings[1])
    content = save_corrected(scored, out, rows=rows, names=both, overwrite=overwrite)
    if as_json:
        print_json(content)
        return
    header, lines = corrected_table(scored, both)
    for label, *cells in zip(header, *lines, strict=True):  # a column for each correction reads better on a screen
        typer.echo(f"{label:24}" + "".join(f"{cell:>20}" for cell in cells))
    typer.echo(f"\nScored on {scored.held_out_groups:,} groups that were not fitted on. Written to {out}")


def read_settings(
    *,
    temperature: float,
    pairs: str | None = None,
    labels: str | None = None,
    names: str = "x,y",
    batch_size: int | None = None,
    normalize: bool | None = None,
    seed: int = 0,
    curves: bool = False,
) -> "Settings":
    """What the options of a command line ask for; files of pairs and labels are read here."""
    from ..diagnosis import Settings
    from ..io import read_labels, read_pairs

    return Settings(
        temperature=temperature,
        pairs=None if pairs is None else read_pairs(pairs),
        labels=None if labels is None else read_labels(labels),
        names=_two_names(names),
        batch_size=batch_size,
        normalize=normalize,
        seed=seed,
        curves=curves,
    )


def two_files(x: str | None, y: str | None) -> tuple[str, str]:
    """Both files, or one line that says what is missing."""
    from .._checks import InputError

    if x is None or y is None:
        given = "no files are given" if x is None else f"only {x} is given"
        raise InputError(f"{given}; name the embeddings of both modalities")
    return x, y


def diagnose_files(x: str, y: str, settings: "Settings") -> "Report":
    """Read, diagnose, and show how far it is."""
    from ..diagnosis import examine
    from ..report import Report

    embeddings = _read(x), _read(y)
    with progress_bar("Walking the Gram matrices") as step:
        return Report(examine(*embeddings, settings, progress=step))


def _two_names(names: str) -> tuple[str, str]:
    from .._checks import InputError

    both = [name.strip() for name in names.split(",")]
    if len(both) != 2 or not all(both):
        raise InputError(f"--names is {names!r}; give two names with a comma between: --names image,text")
    return both[0], both[1]


def _read(file: str) -> "Tensor":
    from ..io import read_embeddings

    name, separator, key = file.rpartition("::")
    return read_embeddings(name, key=key) if separator and name else read_embeddings(file)
