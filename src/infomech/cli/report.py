"""Commands on two files of embeddings: report, doctor, compare, correct."""

import shlex
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from .app import (
    AsJson,
    BackendName,
    BatchSize,
    Device,
    First,
    Labels,
    Names,
    Normalize,
    Overwrite,
    Pairs,
    Quiet,
    Second,
    Seed,
    Temperature,
    command,
)
from .given import filled
from .inputs import Files, check_apart, find_files, read_rows, same_place
from .show import print_findings, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ..diagnosis import Settings
    from ..report import Report


_WITH_ERRORS = 2  # corrections whose errors a screen has the width for

Seen = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--seen",
        metavar="XS YS",
        help="Embeddings of pairs that the model was trained on, row i with row i: what it has memorised.",
        rich_help_panel="What the rows mean",
    ),
]

Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="FILE",
        help="In place of --seen: for each row of X whether the model was trained on it: train or test, a line each.",
        rich_help_panel="What the rows mean",
    ),
]


@command("infomech report image.npy text.npy -t 0.01 -o report --names image,text --batch-size 4096")
def report(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the report is written to.")],
    x: First = None,
    y: Second = None,
    saved: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Draw a saved report again, without the embeddings."),
    ] = None,
    temperature: Temperature = None,
    pairs: Pairs = None,
    labels: Labels = None,
    names: Names = None,
    batch_size: BatchSize = None,
    normalize: Normalize = None,
    device: Device = "auto",
    backend: BackendName = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    figures: Annotated[bool, typer.Option(help="Write the figures as PNG and PDF, too.")] = True,
    curves: Annotated[
        bool,
        typer.Option("--curves", help="Also measure what a batch sees at other temperatures (slower)."),
    ] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Also say what score means a match: thresholds, curves (slower).")
    ] = False,
    seen: Seen = None,
    split: Split = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Diagnose two files of paired embeddings and write a report.

    Writes report.html (open it in any browser; it needs no network), report.json, report.md, report.tex and figures/:
    what the loss is made of, how large the gap is, whether the batch suits the temperature, retrieval, and findings in
    plain words. Every number has a standard error and a 95% interval. Where rows have near-duplicates in other groups,
    pairs-tied.npy makes one group of them: for --pairs.
    """
    from .._checks import InputError
    from .._files import reserved
    from ..report import Report
    from ..report.report import FILES

    Report.check_folder(out, overwrite=overwrite)

    of_embeddings = {
        "embeddings": x, "--temperature": temperature, "--pairs": pairs, "--labels": labels, "--names": names,
        "--batch-size": batch_size, "--normalize": normalize, "--seed": seed or None, "--curves": curves or None,
        "--seen": seen, "--split": split, "--device": None if device == "auto" else device,
        "--backend": None if backend == "auto" else backend,
    }  # fmt: skip
    given = [name for name, value in of_embeddings.items() if value is not None]
    if saved is not None and given:
        raise InputError(f"both {given[0]} and --from are given; a saved report is drawn again as it was measured")
    with reserved(out, "report"):
        if saved is not None:
            result = Report.load(saved)
            stated = f"τ = {result.diagnosis.inputs.temperature:g}"
        else:
            files = find_files(x, y, temperature=temperature, pairs=pairs, names=names)
            check_apart(out, FILES, [*files.paths, *([labels] if labels else []), *([split] if split else [])])
            settings = files.settings(
                labels=labels, batch_size=batch_size, normalize=normalize, backend=backend, seed=seed, curves=curves
            )
            result = _diagnosed(files, settings, device=device, scores=scores, seen=seen, split=split, quiet=quiet)
            meant = {
                "pairs": pairs, "labels": labels, "names": names, "batch_size": batch_size, "normalize": normalize,
                "seen": seen, "split": split,
            }  # fmt: skip
            result = _in_words_of_the_run(result, (x, y), meant)
            stated = files.stated()
        with progress_bar("Writing the report", quiet=quiet):
            page = result.save(out, overwrite=overwrite, figures=figures)
    if as_json:
        print_json(result.to_dict())
        return
    typer.echo(stated)
    _print_shared(result)
    print_findings(result.findings)
    typer.echo(f"\nReport: {page}")


@command("infomech doctor image.npy text.npy -t 0.01 --fail-on serious")
def doctor(
    x: First = None,
    y: Second = None,
    temperature: Temperature = None,
    pairs: Pairs = None,
    names: Names = None,
    batch_size: BatchSize = None,
    normalize: Normalize = None,
    device: Device = "auto",
    backend: BackendName = "auto",
    seed: Seed = 0,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", metavar="SEVERITY", help="Exit with 1 at a finding as bad: serious or warning."),
    ] = None,
    loss: Annotated[
        str, typer.Option("--loss", help="infonce, or sigmoid (SigLIP) for findings on its bias.")
    ] = "infonce",
    bias: Annotated[
        float | None, typer.Option("--bias", metavar="B", help="Bias of the sigmoid loss; with --loss sigmoid.")
    ] = None,
    seen: Seen = None,
    split: Split = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Print the findings on two files of paired embeddings, and write nothing.

    Exit code 0; with --fail-on serious, 1 if a finding is serious, so that a training pipeline can stop on it.
    """
    from .._checks import InputError

    fatal = {None: (), "serious": ("serious",), "warning": ("serious", "warning")}
    if fail_on not in fatal:
        raise InputError(f"--fail-on is {fail_on!r}; it is serious or warning")
    _check_loss(loss, bias, batch_size)
    files = find_files(x, y, temperature=temperature, pairs=pairs, names=names)
    settings = files.settings(batch_size=batch_size, normalize=normalize, backend=backend, seed=seed)
    result = _diagnosed(files, settings, device=device, quiet=quiet, bias=bias, seen=seen, split=split)
    meant = {
        "pairs": pairs, "names": names, "batch_size": batch_size, "normalize": normalize, "seen": seen, "split": split,
        "loss": None if bias is None else loss, "bias": bias,
    }  # fmt: skip
    result = _in_words_of_the_run(result, (x, y), meant)
    if as_json:
        content = result.to_dict()
        print_json({key: content[key] for key in ("schema_version", "inputs", "findings")})
    else:
        typer.echo(files.stated())
        _print_shared(result)
        print_findings(result.findings)
    if any(f.severity in fatal[fail_on] for f in result.findings):
        raise typer.Exit(1)


@command("infomech compare before/ after/ -o comparison")
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that 'infomech report' wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the comparison is written to.")],
    names: Annotated[
        str | None, typer.Option(help="Names of the reports, with commas between; the folders' names by default.")
    ] = None,
    same_rows: Annotated[
        bool,
        typer.Option("--same-rows", help="Row i is the same item in all of them: compare paired, without ids."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put several reports side by side: one table, and retrieval against the gap.

    Writes compare.html, compare.json, compare.md and figures/.
    """
    from .._checks import InputError
    from ..report import Comparison
    from ..report import compare as compare_reports

    Comparison.check_folder(out, overwrite=overwrite)
    check_apart(out, (), [str(folder) for folder in folders])
    for one, other in combinations(folders, 2):
        if same_place(one, str(other)):
            raise InputError(f"{one} and {other} are the same report; name each once")
    chosen = names.split(",") if names is not None else None
    result = compare_reports(folders, names=chosen, same_rows=same_rows)
    page = result.save(out, overwrite=overwrite)
    if as_json:
        print_json(result.to_dict())
    else:
        if len(folders) == 1:
            typer.echo("There is one report, and nothing to compare it with; name the folder of another, too.")
        for line in (*result.decision().splitlines(), *result.notes()):
            if line:
                typer.echo(line)
        typer.echo(f"\nComparison: {page}")


class _NamesMethods(TyperCommand):
    """Names the corrections when its help is asked for: they bring torch with them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from ..corrections import METHODS

        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.name == "method":
                parameter.help = f"{', '.join(METHODS)}; {parameter.help}"
        super().format_help(ctx, formatter)


@command("infomech correct image.npy text.npy -t 0.01 --method mean-removal -o corrected", cls=_NamesMethods)
def correct(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="all compares them and writes no embeddings.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that everything is written to.")],
    x: First = None,
    y: Second = None,
    temperature: Temperature = None,
    pairs: Pairs = None,
    names: Names = None,
    share: Annotated[float, typer.Option(help="Share of the groups to fit on; the others are for scoring.")] = 0.5,
    device: Device = "auto",
    backend: BackendName = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Correct the gap after training, and say what that does to gap and retrieval on groups it was not fitted on.

    Writes the corrected embeddings of all rows, the fitted maps, the scores before and after, and
    held-out-pairs.npy: for --pairs of 'infomech report', since a report on rows that were fitted on flatters the
    correction.
    """
    from .._files import reserved
    from ..corrections import METHODS, score_corrections
    from ..report.corrected import (
        FILES,
        HELD_OUT,
        LEGEND,
        check_corrected,
        corrected_table,
        corrected_text,
        save_corrected,
    )

    check_corrected(out, overwrite=overwrite)
    files = find_files(x, y, temperature=temperature, pairs=pairs, names=names)
    check_apart(out, FILES, files.paths)
    settings = files.settings(backend=backend, seed=seed)
    with reserved(out, "correction"):
        embeddings = files.read(device)
        with progress_bar("Correcting and scoring", quiet=quiet) as step:
            scored = score_corrections(
                *embeddings,
                methods=tuple(METHODS) if method == "all" else (method,),
                pairs=settings.pairs,
                temperature=settings.temperature,
                share=share,
                backend=settings.backend,
                seed=seed,
                progress=step,
            )
        rows = None if method == "all" else embeddings
        content = save_corrected(scored, out, rows=rows, names=settings.names, overwrite=overwrite)
    if as_json:
        print_json(content)
        return
    typer.echo(files.stated())
    many = len(scored.after) > _WITH_ERRORS
    header, lines = corrected_table(scored, settings.names, errors=not many)
    turned = list(zip(header, *lines, strict=True))  # a column for each correction reads better on a screen
    heads = [name.rpartition("-") for name in turned[0]] if many else []  # in two lines, as wide as their numbers
    first = [["".join(head[:2]) for head in heads], [head[2] for head in heads]] if many else [turned[0]]
    print_table(first[0], [*first[1:], *turned[1:]])
    typer.echo(f"\n{LEGEND}\n")
    for text in corrected_text(scored, settings.names):
        typer.echo(text)
    if many:
        typer.echo(f"\nEach number has the digits that its error allows; the errors stand in {out / 'correct.md'}.")
    typer.echo(f"\nScored on {scored.held_out_groups:,} groups that were not fitted on. Written to {out}")
    if rows is not None:
        words = [
            str(out / "x.npy"),
            str(out / "y.npy"),
            "--pairs",
            str(out / HELD_OUT),
            "-t",
            f"{settings.temperature:g}",
        ]
        again = shlex.join([*words, "-o", "DIR", *(["--names", names] if names is not None else [])])
        typer.echo(f"Of all rows, those fitted on flatter it; a report on the others: infomech report {again}")


def _in_words_of_the_run(result: "Report", given: tuple[str | None, str | None], meant: dict[str, Any]) -> "Report":
    """The report with findings whose commands name its files, and say what their rows mean."""
    from ..report import Report

    found = result.diagnosis
    return Report(replace(found, findings=filled(found.findings, given, meant)))


def _print_shared(result: "Report") -> None:
    """The line that a person can repeat."""
    from ..report.writing import shared_text

    for line in shared_text(result.diagnosis):
        typer.echo(line)


def diagnose_files(x: str, y: str, settings: "Settings", *, meant: dict[str, Any], quiet: bool = False) -> "Report":
    """Read, diagnose, and show how far it is; `meant` says for the findings' commands what the settings are made of."""
    files = Files(x, y, None, settings.names, settings.temperature)
    return _in_words_of_the_run(_diagnosed(files, settings, device="cpu", quiet=quiet), (x, y), meant)


def _check_loss(loss: str, bias: float | None, batch_size: int | None) -> None:
    from .._checks import InputError

    if loss not in ("infonce", "sigmoid"):
        raise InputError(f"--loss is {loss!r}; it is infonce or sigmoid")
    if (loss == "sigmoid") != (bias is not None):
        raise InputError("--loss sigmoid and --bias B belong together; give both, or neither")
    if bias is not None and batch_size is None:
        raise InputError("the bias that fits depends on the batch; give --batch-size, of all devices together")


def _diagnosed(
    files: Files,
    settings: "Settings",
    *,
    quiet: bool,
    device: str,
    scores: bool = False,
    bias: float | None = None,
    seen: tuple[str, str] | None = None,
    split: str | None = None,
) -> "Report":
    from .._checks import InputError
    from ..diagnosis import examine
    from ..io import read_labels
    from ..report import Report
    from ..report.attach import with_scores, with_sigmoid
    from ..report.seen import apart, checked_seen, in_given_rows, with_seen

    if seen is not None and split is not None:
        raise InputError("both --seen and --split are given; give the seen pairs in one way")
    embeddings, trained = files.read(device), None
    if seen is not None:
        rows = checked_seen(tuple(map(read_rows, seen)), *embeddings, device=device)
    if split is not None:
        unseen, settings, trained = apart(*embeddings, settings, read_labels(split))
        embeddings = unseen.x, unseen.y
    with progress_bar("Computing pairwise statistics", quiet=quiet) as step:
        found = examine(*embeddings, settings, progress=step)
        if scores:
            found = with_scores(found, *embeddings, settings)
        if seen is not None:
            found = with_seen(found, *rows, settings)
        if trained is not None:
            found = in_given_rows(found, unseen)
            found = with_seen(found, trained.x, trained.y, settings, pairs=trained.pairs)
        if bias is not None:
            found = with_sigmoid(found, *embeddings, settings, bias=bias)
    read = {"file of x": files.x, "file of y": files.y, "file of pairs": files.pairs, "model": files.model}
    found = replace(found, provenance=found.provenance | {key: name for key, name in read.items() if name is not None})
    return Report(found)
